"""The submission CSV: exact to the float32, read in any order, and its faults named before Kaggle finds them."""

import ast
import csv
import json

import numpy as np
import pandas as pd
import pytest

from src.common.files import InputError
from src.data.pairs import TestCaptions
from src.data.submissions import check_submission, read_submission, write_submission


def bits(values):
    return np.asarray(values, np.float32).view(np.uint32)


@pytest.fixture
def csv_file(tmp_path):
    """Write a CSV with the given lines, `\\n` after each, and return its path."""

    def write(*lines, encoding="utf-8"):
        path = tmp_path / "some.csv"
        path.write_bytes("".join(line + "\n" for line in lines).encode(encoding))
        return path

    return write


def test_the_file_is_what_kaggle_expects(tmp_path):
    embeddings = np.array([[0.1, -0.0, 1], [1e38, 1e-45, 16777216]], np.float32)
    write_submission(tmp_path / "some.csv", np.array([30, 7]), embeddings)
    text = (tmp_path / "some.csv").read_text()
    assert text == 'id,embedding\n30,"[0.1,-0.0,1.0]"\n7,"[1e+38,1e-45,16777216.0]"\n'


def test_every_kind_of_float32_comes_back_bit_by_bit(tmp_path):
    """All 2^32 were tried once: the first of these is the only one whose shortest form does not survive float64."""
    special = np.array([0x15AE43FD, 0x95AE43FD, 0, 0x80000000, 1, 0x007FFFFF, 0x00800000, 0x7F7FFFFF], np.uint32)
    random = np.random.default_rng(0).integers(0, 2**32, 20_000, dtype=np.uint32)
    patterns = np.concatenate([special, random])
    patterns = patterns[np.isfinite(patterns.view(np.float32))]
    embeddings = patterns[: len(patterns) // 100 * 100].reshape(100, -1).view(np.float32)
    write_submission(tmp_path / "some.csv", np.arange(100), embeddings)
    assert (bits(read_submission(tmp_path / "some.csv").embeddings) == bits(embeddings)).all()

    with (tmp_path / "some.csv").open(newline="") as file:  # and through the usual readers, which give float64
        rows = [row["embedding"] for row in csv.DictReader(file)]
    assert (bits([json.loads(row) for row in rows]) == bits(embeddings)).all()
    assert (bits([ast.literal_eval(row) for row in rows[:5]]) == bits(embeddings[:5])).all()


def test_a_full_size_file_takes_25_mb(tmp_path):
    embeddings = np.random.default_rng(0).standard_normal((1500, 1536)).astype(np.float32)
    write_submission(tmp_path / "some.csv", np.arange(1500), embeddings)
    assert (tmp_path / "some.csv").stat().st_size < 26e6
    assert (read_submission(tmp_path / "some.csv").embeddings == embeddings).all()


def test_it_reads_what_pandas_writes(tmp_path):
    embeddings = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    table = pd.DataFrame({"id": np.arange(5), "embedding": [str(row.tolist()) for row in embeddings]})
    table.to_csv(tmp_path / "some.csv", index=False, encoding="utf-8-sig", lineterminator="\r\n")
    assert (read_submission(tmp_path / "some.csv").embeddings == embeddings).all()


@pytest.mark.parametrize(
    "options",
    [
        {"quoting": csv.QUOTE_ALL},
        {"quoting": csv.QUOTE_ALL, "lineterminator": "\r\n", "encoding": "utf-8-sig"},
        {"quoting": csv.QUOTE_NONNUMERIC, "lineterminator": "\r"},
        {"columns": ["embedding", "id"]},
    ],
)
def test_any_valid_csv_is_read(tmp_path, options):
    embeddings = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    table = pd.DataFrame({"id": np.arange(5), "embedding": [str(row.tolist()) for row in embeddings]})
    table.to_csv(tmp_path / "some.csv", index=False, **options)
    submission = read_submission(tmp_path / "some.csv")
    assert submission.caption_ids.tolist() == [0, 1, 2, 3, 4]
    assert (submission.embeddings == embeddings).all()


def test_spaces_and_lines_within_a_list_are_read(csv_file):
    submission = read_submission(csv_file("id, embedding", '"1 " , "[0.5,', ' 1.5]"', ' +2,"[2,3]"'))
    assert submission.caption_ids.tolist() == [1, 2]
    assert submission.embeddings.tolist() == [[0.5, 1.5], [2, 3]]


def test_rows_stand_in_any_order(csv_file):
    submission = read_submission(csv_file("id,embedding", '5,"[1, 2]"', "", '-3,"[ 0.5 ,1e2]"', '4,"[7,8.0]"'))
    assert submission.caption_ids.tolist() == [5, -3, 4]
    assert submission.embeddings.dtype == np.float32
    assert submission.aligned(np.array([-3, 4, 5])).tolist() == [[0.5, 100], [7, 8], [1, 2]]
    with pytest.raises(InputError, match=r"some.csv: lacks 1 of the 3 expected ids \[9\] and has 1 unknown ones \[4\]"):
        submission.aligned(np.array([-3, 9, 5]))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_not_written(tmp_path, value):
    with pytest.raises(InputError, match="NaN or infinite"):
        write_submission(tmp_path / "some.csv", np.arange(2), np.array([[0, 1], [2, value]], np.float32))
    assert not list(tmp_path.iterdir())


ROW = '1,"[0.5,1.5]"'


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "not a CSV of id,.*No columns"),
        (["id,vector", ROW], "its columns are 'id, vector'; expected 'id,embedding'"),
        (["id;embedding", ROW], "its columns are 'id;embedding'"),
        (["id,embedding,score", ROW + ",1"], "its columns are 'id, embedding, score'"),
        (["id,embedding"], "has a header but no rows"),
        (["id,embedding", ROW, '2,"[0.5]"'], "line 3: 1 numbers; the lines before have 2"),
        (["id,embedding", ROW, "", '1,"[0.5,2]"'], "line 4: id 1 stands in line 2 already"),
        (["id,embedding", "1,[0.5,1.5]"], "line 2: .*double quotes"),
        (["id,embedding", ROW, "2,[0.5,1.5]"], "not a CSV of .*double quotes .*2 fields in line 3, saw 3"),
        (["id,embedding", "1;[0.5]"], r'line 2: expected id,"\[numbers\]".*; found .1;'),
        (["id,embedding", '1.0,"[0.5]"'], "line 2: expected id,.*; found '1.0'"),
        (["id,embedding", ',"[0.5]"'], "line 2: expected id,.*; found ''"),
        (["id,embedding", '99999999999999999999,"[0.5]"'], "line 2: expected id,.*; found '9999"),
        (["id,embedding", '1,"[0.5,NaN,1.5]"'], r"line 2: .* 'NaN,1.5\]'"),
        (["id,embedding", '1,"[0.5,Infinity]"'], "line 2: .* 'Infinity"),
        (["id,embedding", '1,"[0.5,null]"'], r"line 2: .*\[0.5,null\]"),
        (["id,embedding", '1,"[true,0.5]"'], "line 2: .*finite numbers"),
        (["id,embedding", '1,"["0.5"]"'], "line 2: .*finite numbers"),
        (["id,embedding", '1,"[[0.5]]"'], "line 2: .*finite numbers"),
        (["id,embedding", '1,"[]"'], "line 2: .*finite numbers"),
        (["id,embedding", '1,"0.5"'], "line 2: .*finite numbers"),
        (["id,embedding", '1,"[0.5 1.5]"'], r"line 2: .* '1.5\]'"),
        (["id,embedding", '1,"[0.5'], "not a CSV of .*double quotes .*EOF inside string"),
        (["id,embedding", '1,"[0.5,1e39]"'], r"line 2: 1e\+39 is too large for float32"),
        (["id,embedding", '1,"[0.5,1e999]"'], "line 2: .*1e999"),
    ],
)
def test_faults_are_named_with_their_line(csv_file, lines, message):
    with pytest.raises(InputError, match=f"some.csv: {message}"):
        read_submission(csv_file(*lines))


def test_a_missing_file_is_no_damaged_one(tmp_path):
    with pytest.raises(InputError, match=r"absent\.csv: no such file$"):
        read_submission(tmp_path / "absent.csv")


def test_other_encodings_are_refused(csv_file):
    with pytest.raises(InputError, match=r"not a CSV of .*utf-8"):
        read_submission(csv_file("id,embedding", ROW, encoding="utf-16"))


TEST = TestCaptions(
    caption_ids=np.array([30, 7, 5]), caption_texts=np.array(list("abc"), object), text_embeddings=np.zeros((3, 2))
)
EMBEDDINGS = np.array([[0.5, 1.5], [2, 3], [4, 5]], np.float32)


@pytest.fixture
def check(tmp_path):
    """Write a CSV and check it; return the notes."""

    def start(caption_ids, embeddings, image_dim=2):
        write_submission(tmp_path / "some.csv", caption_ids, embeddings)
        return check_submission(tmp_path / "some.csv", TEST, image_dim)

    return start


def test_nothing_is_noted_of_a_file_without_fault(check):
    assert check(TEST.caption_ids, EMBEDDINGS) == []


@pytest.mark.parametrize(
    ("caption_ids", "embeddings", "message"),
    [
        ([7, 5], EMBEDDINGS[1:], r"lacks 1 of the 3 expected ids \[30\] and has 0 unknown ones"),
        ([30, 7, 5, 9], EMBEDDINGS[[0, 1, 2, 2]], r"lacks 0 .* and has 1 unknown ones \[9\]"),
        ([30, 7, 7], EMBEDDINGS, "line 4: id 7 stands in line 3 already"),
        ([30, 7, 5], EMBEDDINGS[:, :1], "its embeddings have 1 numbers; those of the images have 2"),
    ],
)
def test_what_kaggle_would_refuse_is_an_error(check, caption_ids, embeddings, message):
    with pytest.raises(InputError, match=rf"some\.csv: {message}"):
        check(caption_ids, embeddings)


def test_what_is_odd_is_noted(check):
    assert check(TEST.caption_ids[::-1], EMBEDDINGS) == ["the rows are in another order than the test captions"]
    constant = ["all embeddings are the same", "3 embeddings are all zeros"]
    assert check(TEST.caption_ids, np.zeros((3, 2))) == constant
    unknown = ["the embeddings have 2 numbers; the width of the images is not known"]
    assert check(TEST.caption_ids, EMBEDDINGS, None) == unknown
