"""Pictures found by their names: of one set alone, whatever the folders are called and however names are spelled."""

import unicodedata
from pathlib import Path, PurePath

import pytest

from src.sample.matching import match_pictures

TRAIN, TEST = "t/train.npz", "u/test.clean.npz"


@pytest.fixture
def match(tmp_path):
    """Match names to files, each with its path as its contents unless told otherwise; by name, the paths found."""

    def start(names, files, train=TRAIN, test=TEST, same=()):
        for path in files:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text("same" if path in same else path)
        npz = [PurePath(path) if path else None for path in (train, test)]
        matches = match_pictures(names, tmp_path, sorted(map(PurePath, files)), *npz)
        return {name: str(path) for name, path in matches.files.items()}, [str(path) for path in matches.rivals]

    return start


def test_the_folder_that_covers_most_is_taken_and_no_other_picture_of_the_same_names(match):
    found, rivals = match(["0", "1", "2"], ["a/0", "a/1", "b/0", "b/1", "b/2", "c/2"])
    assert found == {"0": "b/0", "1": "b/1", "2": "b/2"}
    assert rivals == ["a", "c"]


def test_what_is_missing_is_not_made_up_from_a_rival(match):
    found, rivals = match(["0", "1", "2", "3"], ["a/0", "a/1", "b/1", "b/2", "c/3"])
    assert found == {"0": "a/0", "1": "a/1", "3": "c/3"}, "c is a part of the same set, for all that can be told"
    assert rivals == ["b"]


def test_train_npzs_own_folder_comes_first_if_it_covers_half(match):
    others = [f"o/{i}" for i in range(4)]
    assert match("0123", [*others, "t/x/0", "t/x/1"]) == ({"0": "t/x/0", "1": "t/x/1"}, ["o"])
    assert match("0123", [*others, "t/thumbnails/0"]) == (dict(zip("0123", others, strict=True)), ["t/thumbnails"])


def test_of_as_many_the_nearest_to_train_npz_then_the_one_called_images(match):
    assert match("0", ["a/0", "d/x/0"], train="d/t/train.npz")[0] == {"0": "d/x/0"}
    assert match("0", ["a/0", "Images/0", "b/0"], train=None)[0] == {"0": "Images/0"}


def test_the_same_picture_twice_is_no_rival(match):
    files = ["a/0", "a/1", "b/1", "b/2"]
    assert match("012", files, same=("a/1", "b/1")) == ({"0": "a/0", "1": "a/1", "2": "b/2"}, [])


@pytest.mark.parametrize("folder", ["u", "u/Images", "test", "TEST_images/a", "x/testing"])
def test_none_is_of_the_test(match, folder):
    assert match("01", [f"{folder}/0", f"{folder}/1"]) == ({}, [])


def test_a_folder_called_after_the_test_may_hold_it_all(match):
    found, _ = match("01", ["test/a/0", "test/a/1"], train="test/train.npz", test="test/test.clean.npz")
    assert found == {"0": "test/a/0", "1": "test/a/1"}


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("é.jpg", unicodedata.normalize("NFD", "é.jpg")),
        (unicodedata.normalize("NFD", "é.jpg"), "é.jpg"),
        ("A.jpg", "a.JPG"),
        ("É.jpg", unicodedata.normalize("NFD", "é.JPG")),
        ("straße.jpg", "STRASSE.JPG"),
        ("Images/0.jpg", "images/0.JPG"),
        ("Images\\0.jpg", "Images/0.jpg"),
        ("train/Images/0.jpg", "pictures/0.jpg"),
        ("a/Images/0.jpg", "b/Images/0.jpg"),
    ],
)
def test_names_are_the_same_in_another_spelling(match, name, file):
    assert match([name, "other.jpg"], [f"x/{file}"])[0] == {name: f"x/{file}"}


def test_the_very_same_name_comes_first(match):
    both = ["e/é.jpg", f"e/{unicodedata.normalize('NFD', 'é.jpg')}", "e/a.jpg", "e/A.jpg"]
    names = [Path(path).name for path in both]
    assert match(names, both)[0] == dict(zip(names, both, strict=True))


def test_of_two_that_might_be_meant_none_is(match):
    assert match(["a.JPG"], ["x/a.jpg", "x/A.jpg"])[0] == {}
    assert match(["a.JPG", "A.jpg"], ["x/a.jpg"])[0] == {}


def test_names_with_folders_are_found_by_the_paths_end(match):
    names, files = ["a/0", "b/0", "1"], ["x/a/0", "x/b/0", "x/1"]
    assert match(names, files)[0] == dict(zip(names, files, strict=True))
    assert match(["a/0", "b/0"], ["x/0"])[0] == {}, "which of the two it is cannot be told"


@pytest.mark.parametrize("name", ["../0", "/0", "", ".", "a/../../0", "0\0"])
def test_no_file_has_a_name_that_leads_elsewhere(match, name):
    assert match([name], ["x/0"])[0] == {}


def test_each_picture_may_have_a_folder_of_its_own(tmp_path):
    """A minute, were each folder compared with all names."""
    names = [f"{i}.jpg" for i in range(5_000)]
    files = [PurePath(f"x/{i}/{i}.jpg") for i in range(5_000)]
    assert len(match_pictures(names, tmp_path, files, None, None).files) == 5_000
