"""Captions files of every kind, and what is wrong with them."""

import json
import sys

import pytest

from src.common.files import InputError
from src.encoding.captions import read_captions

DOG, CAT = ("dog.jpg", "A dog, brown."), ("cat.jpg", "A cat")


def read(tmp_path, text, name="captions.txt", **columns):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_captions(path, **columns)


def places(told):
    """Without the folders."""
    return {place.rpartition("/")[2]: what for place, what in told.items()}


def pairs(captions):
    return list(zip(captions.images, captions.texts, strict=True))


@pytest.mark.parametrize(
    "text",
    [
        'image,caption\ndog.jpg,"A dog, brown."\ncat.jpg,A cat\n',
        "dog.jpg#0\tA dog, brown.\ncat.jpg#12\tA cat\n",
        'caption\timage\n"A dog, brown."\tdog.jpg\nA cat\tcat.jpg',
        "image_name| comment_number| comment\r\ndog.jpg| 0| A dog, brown.\r\n\r\ncat.jpg| 1| A cat\r\n",
        "id;File_Name;TEXT\n1;dog.jpg;A dog, brown.\n2;cat.jpg;A cat\n",
        b'\xef\xbb\xbfimage,caption\ndog.jpg,"A dog, brown."\ncat.jpg,A cat\n',
        'image,caption\ndog.jpg,"A dog, brown."\ncat.jpg,A cat\n'.encode("utf-16"),
    ],
    ids=["Flickr's", "Flickr's of old", "TSV", "Flickr30k's", "semicolons", "BOM", "UTF-16"],
)
def test_a_table_of_any_kind(tmp_path, text):
    captions = read(tmp_path, text)
    assert pairs(captions) == [DOG, CAT]
    assert not captions.broken
    assert not captions.odd


def test_columns_are_given_by_name_or_found_by_their_usual_ones(tmp_path):
    text = "image,caption,title\nwrong,wrong,A dog\n"
    assert pairs(read(tmp_path, text, image_column="caption", caption_column="Title")) == [("wrong", "A dog")]
    with pytest.raises(InputError, match=r"captions\.txt: no columns .*--image-column .*it has photo,what"):
        read(tmp_path, "photo,what\n1.jpg,A dog\n")
    with pytest.raises(InputError, match="no columns"):
        read(tmp_path, text, image_column="picture")
    assert read(tmp_path, "caption\nA dog\n", with_images=False).texts == ["A dog"]


def test_broken_lines_are_left_out_and_told_by_their_place(tmp_path):
    text = b"image,caption\ndog.jpg\ncat.jpg,A cat\ndog.jpg,  \n,A dog\ncat.jpg,A \xff cat\n"
    captions = read(tmp_path, text)
    assert pairs(captions) == [CAT]
    assert places(captions.broken) == {
        "captions.txt line 2": "1 columns; the header has 2",
        "captions.txt line 4": "no caption",
        "captions.txt line 5": "no image",
        "captions.txt line 6": "not UTF-8",
    }
    captions = read(tmp_path, "dog.jpg#0\tA dog, brown.\ndog.jpg#1 A dog\ncat.jpg#0\tA cat")
    assert pairs(captions) == [DOG, CAT]
    assert list(places(captions.broken)) == ["captions.txt line 2"]


@pytest.mark.parametrize(
    ("line", "caption"),
    [
        ("dog.jpg,A dog, brown.", "A dog, brown."),
        ('dog.jpg,"A dog', '"A dog'),
        ('dog.jpg,"Sit" says a man, twice', '"Sit" says a man, twice'),
    ],
    ids=["unquoted comma", "stray quote", "quoted word"],
)
def test_quotes_that_a_csv_would_not_have_swallow_nothing(tmp_path, line, caption):
    captions = read(tmp_path, f'image,caption\n{line}\ncat.jpg,A cat\nbird.jpg,"A bird, red"\n')
    assert pairs(captions) == [("dog.jpg", caption), CAT, ("bird.jpg", "A bird, red")]
    assert list(places(captions.odd)) == ["captions.txt line 2"]


def test_a_quoted_caption_may_have_several_lines(tmp_path):
    captions = read(tmp_path, 'image,caption\ndog.jpg,"A dog,\nand ""more"" of it"\ncat.jpg,A cat\n')
    assert pairs(captions) == [("dog.jpg", 'A dog,\nand "more" of it'), CAT]
    assert not captions.odd


def test_coco(tmp_path):
    content = {
        "images": [{"id": 7, "file_name": "dog.jpg"}, {"id": 3, "file_name": "cat.jpg"}],
        "annotations": [
            {"image_id": 7, "id": 1, "caption": "A dog, brown.\n"},
            {"image_id": 9, "id": 2, "caption": "of no image"},
            {"image_id": 3, "id": 5},
            {"image_id": 3, "id": 4, "caption": "A cat"},
            {"image_id": 3, "id": 6, "caption": "half a \ud83d"},
        ],
    }
    captions = read(tmp_path, json.dumps(content), "captions.json")
    assert pairs(captions) == [DOG, CAT]
    assert [place.split()[-1] for place in captions.broken] == ["1", "2", "4"]


@pytest.mark.parametrize("text", ["[]", '{"images": []}', '{"images": 1, "annotations": []}', "{"])
def test_what_is_not_coco_is_refused(tmp_path, text):
    with pytest.raises(InputError, match=r"captions\.json: not"):
        read(tmp_path, text, "captions.json")


@pytest.mark.parametrize("text", ["", "\n\n", "image,caption\n", "image,caption\ndog.jpg,\n"])
def test_a_file_without_captions_is_refused(tmp_path, text):
    with pytest.raises(InputError, match=r"captions\.txt: (is empty|has no captions)"):
        read(tmp_path, text)


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "pairs.parquet"
    table = {
        "id": [1, 2, 3],
        "file_name": ["dog.jpg", "cat.jpg", None],
        "caption": [["A dog, brown.", "It"], ["A cat"], ["-"]],
    }
    parquet.write_table(pyarrow.table(table), path)
    captions = read_captions(path)
    assert pairs(captions) == [DOG, ("dog.jpg", "It"), CAT]
    assert places(captions.broken) == {"pairs.parquet row 2": "no image"}
    with pytest.raises(InputError, match=r"no columns.*it has id, file_name, caption"):
        read_captions(path, caption_column="title")
    path.write_bytes(b"PAR1 it is not")
    with pytest.raises(InputError, match="not a Parquet file that can be read"):
        read_captions(path)


def test_parquet_needs_a_package_that_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(InputError, match=r"pairs\.parquet needs pyarrow.*: pip install pyarrow"):
        read(tmp_path, b"PAR1", "pairs.parquet")
