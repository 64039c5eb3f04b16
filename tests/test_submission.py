"""The submission CSV: exact to the float32, read in any order, and its faults named before Kaggle finds them."""

import ast
import csv
import json

import numpy as np
import pandas as pd
import pytest

from src.common.files import InputError
from src.data.pairs import embedding_dims, open_test_captions
from src.submission import main, read_submission, write_submission
from tests.conftest import assert_input_error


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
    random = np.random.default_rng(0).integers(0, 2**32, 100_000, dtype=np.uint32)
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
        ([], "it is empty"),
        (["id,vector", ROW], "its first line is 'id,vector'"),
        (["id,embedding"], "has a header but no rows"),
        (["id,embedding", ROW, '2,"[0.5]"'], "line 3: 1 numbers; the lines before have 2"),
        (["id,embedding", ROW, "", '1,"[0.5,2]"'], "line 4: id 1 stands in line 2 already"),
        (["id,embedding", "1,[0.5,1.5]"], "line 2: .*double quotes"),
        (["id,embedding", "1;[0.5]"], "line 2: '1;.*' is not the id"),
        (["id,embedding", '1, "[0.5]"'], "line 2: .*double quotes"),
        (["id,embedding", '1.0,"[0.5]"'], "line 2: '1.0' is not the id"),
        (["id,embedding", '99999999999999999999,"[0.5]"'], "line 2: .* is not the id"),
        (["id,embedding", '1,"[0.5,NaN,1.5]"'], r"line 2: .* 'NaN,1.5\]'"),
        (["id,embedding", '1,"[0.5,Infinity]"'], "line 2: .* 'Infinity"),
        (["id,embedding", '1,"[0.5,null]"'], r"line 2: .*\[0.5,null\]"),
        (["id,embedding", '1,"[true,0.5]"'], "line 2: .*finite numbers"),
        (["id,embedding", '1,"["0.5"]"'], "line 2: .*finite numbers"),
        (["id,embedding", '1,"[[0.5]]"'], "line 2: .*finite numbers"),
        (["id,embedding", '1,"[]"'], "line 2: .*finite numbers"),
        (["id,embedding", '1,"0.5"'], "line 2: .*finite numbers"),
        (["id,embedding", '1,"[0.5 1.5]"'], r"line 2: .* '1.5\]'"),
        (["id,embedding", '1,"[0.5'], "line 2: .*double quotes"),
        (["id,embedding", '1,"[0.5,1e39]"'], r"line 2: 1e\+39 is too large for float32"),
        (["id,embedding", '1,"[0.5,1e999]"'], "line 2: .*1e999"),
    ],
)
def test_faults_are_named_with_their_line(csv_file, lines, message):
    with pytest.raises(InputError, match=f"some.csv: {message}"):
        read_submission(csv_file(*lines))


def test_other_encodings_are_refused(csv_file):
    with pytest.raises(InputError, match="first line"):
        read_submission(csv_file("id,embedding", ROW, encoding="utf-16"))


@pytest.fixture(scope="session")
def valid(sample):
    """Ids and embeddings of a submission for the sample that has no fault."""
    ids = open_test_captions(sample / "test/test.clean.npz").caption_ids
    width = embedding_dims(sample / "train/train.npz")["image"]
    return ids, np.random.default_rng(0).standard_normal((len(ids), width)).astype(np.float32)


@pytest.fixture
def check(sample, tmp_path, capsys):
    """Write a CSV, check it as `python -m src.submission check` does, and return what that prints."""

    def start(caption_ids, embeddings, train_npz=sample / "train/train.npz"):
        write_submission(tmp_path / "some.csv", caption_ids, embeddings)
        data = ("--test-npz", sample / "test/test.clean.npz", "--train-npz", train_npz)
        main(["check", *map(str, (tmp_path / "some.csv", *data))])
        return capsys.readouterr().out

    return start


def test_check_says_ok(check, valid):
    output = check(*valid)
    assert output.startswith("ok: ")
    assert f"all {len(valid[0])} test captions" in output
    assert "note" not in output


def test_check_names_wrong_ids_and_widths(check, valid):
    ids, embeddings = valid
    with pytest.raises(InputError, match=rf"some.csv: lacks 1 of the {len(ids)} expected ids \[{ids[0]}\]"):
        check(ids[1:], embeddings[1:])
    with pytest.raises(InputError, match=r"has 1 unknown ones \[987654\]"):
        check(np.append(ids, 987654), np.append(embeddings, embeddings[:1], axis=0))
    with pytest.raises(InputError, match=f"have 7 numbers; .* have {embeddings.shape[1]}"):
        check(ids, embeddings[:, :7])
    with pytest.raises(InputError, match=f"id {ids[1]} stands in line 2 already"):
        check(np.append(ids[1:], ids[1]), embeddings)


def test_check_notes_what_is_odd(check, valid, tmp_path):
    ids, embeddings = valid
    assert "another order" in check(ids[::-1], embeddings[::-1])
    constant = check(ids, np.zeros_like(embeddings))
    assert "all embeddings are the same" in constant
    assert f"{len(ids)} embeddings are all zeros" in constant
    without_images = check(ids, embeddings[:, :7], tmp_path / "absent.npz")
    assert "have 7 numbers; the width of the images is not known" in without_images


def test_as_a_user_starts_it(run_script, sample, valid, tmp_path):
    data = ("--test-npz", sample / "test/test.clean.npz", "--train-npz", sample / "train/train.npz")
    check = ("-m", "src.submission", "check", tmp_path / "some.csv", *data)
    assert_input_error(run_script(*check), "some.csv", "no such file")
    write_submission(tmp_path / "some.csv", *valid)
    result = run_script(*check)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("ok: ")
