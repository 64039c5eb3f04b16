"""Names of images: the file that is meant however it is written, never one outside the folder, several of one file."""

import os
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from src.common.files import InputError
from src.filters.pictures import ImageFolder, shorten


def nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


def save(*paths: Path) -> None:
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (number + 1, 1)).save(path, "JPEG")


@pytest.mark.parametrize(
    ("on_disk", "name"),
    [
        (nfc("é.jpg"), nfd("é.jpg")),
        (nfd("ガ/ü.jpg"), nfc("ガ/ü.jpg")),
        ("UPPER.JPG", "upper.jpg"),
        ("Folder/a.jpg", "folder/A.jpg"),
        (nfd("É.jpg"), nfc("é.JPG")),
        ("folder/a.jpg", "folder\\a.jpg"),
        ("Folder/é.jpg", nfd("folder\\É.jpg")),
        ("folder/a.jpg", "folder/../folder/./a.jpg"),
    ],
)
def test_a_file_is_found_by_another_spelling_of_its_name(tmp_path, on_disk, name):
    save(tmp_path / on_disk, tmp_path / "other.jpg")
    folder, odd = ImageFolder(tmp_path), []
    assert folder.find(name) == tmp_path / on_disk
    folder.read(name, odd)
    assert odd == ([] if "/../" in name else [f"found as {on_disk}"])


def test_the_exact_name_comes_first_then_its_unicode_form_then_its_case(tmp_path):
    names = ["é.jpg", nfd("é.jpg"), "É.jpg", "a\\b.jpg", "a/b.jpg"]
    save(*(tmp_path / name for name in names))
    folder = ImageFolder(tmp_path)
    for name in names:
        assert folder.find(name) == tmp_path / name
    assert folder.find(nfd("É.jpg")) == tmp_path / "É.jpg"


def test_of_several_files_that_are_near_none_is_guessed(tmp_path):
    save(*(tmp_path / name for name in ("a.jpg", "A.JPG", "x/b.jpg", "X/b.jpg")))
    for name, several in (("A.jpg", ("A.JPG", "a.jpg")), ("X/B.jpg", ("X/b.jpg", "x/b.jpg"))):
        with pytest.raises(InputError, match="no such file, and several that are near it") as error:
            ImageFolder(tmp_path).read(name)
        assert all(near in str(error.value) for near in several)


def test_no_name_leads_out_of_the_folder(tmp_path):
    save(tmp_path / "secret.jpg", tmp_path / "Images/a.jpg", tmp_path / "Images2/a.jpg")
    folder = ImageFolder(tmp_path / "Images")
    outside = (
        "../secret.jpg",
        "..\\secret.jpg",
        "b/../../secret.jpg",
        "../Images2/a.jpg",
        str(tmp_path / "secret.jpg"),
    )
    for name in outside:
        with pytest.raises(InputError, match="leads out of the folder"):
            folder.read(name)
    for name in ("../Images/a.jpg", str(tmp_path / "Images/a.jpg")):
        assert folder.read(name).size == (2, 1)
    assert folder.distinct(["a.jpg", *outside])[1].tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("name", ["", ".", "a\0b", "n" * 300, "\ud83d.jpg", "gone/", "a.jpg/b.jpg", "C:\\a.jpg"])
def test_what_no_file_can_be_called_is_a_file_that_cannot_be_read(tmp_path, name):
    save(tmp_path / "a.jpg")
    folder = ImageFolder(tmp_path)
    names, file_of_name = folder.distinct([name, name])
    assert (names, file_of_name.tolist()) == ([name], [0, 0])
    with pytest.raises(InputError):
        folder.read(name)


def test_a_name_of_bytes_that_are_no_unicode_is_found(tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")
    save(tmp_path / name, tmp_path / "a.jpg")
    assert ImageFolder(tmp_path).read(name).size == (1, 1)
    assert ImageFolder(tmp_path).read("A.jpg").size == (2, 1)


def test_names_of_the_same_file_are_one_file(tmp_path):
    save(tmp_path / "a.jpg", tmp_path / "b.jpg")
    (tmp_path / "soft.jpg").symlink_to("a.jpg")
    (tmp_path / "hard.jpg").hardlink_to(tmp_path / "b.jpg")
    names = ["a.jpg", "soft.jpg", "gone.jpg", "b.jpg", "hard.jpg", "B.jpg", "lost.jpg"]
    files, file_of_name = ImageFolder(tmp_path).distinct(names)
    assert files == ["a.jpg", "gone.jpg", "b.jpg", "lost.jpg"]
    assert file_of_name.tolist() == [0, 0, 1, 2, 2, 2, 3]


def test_folders_are_listed_once_and_only_for_names_that_are_not_exact(tmp_path, monkeypatch):
    save(*(tmp_path / f"{number}.jpg" for number in range(5)))
    listed, listing = [], Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: listed.append(self) or listing(self))
    folder = ImageFolder(tmp_path)
    folder.distinct(f"{number}.jpg" for number in range(5))
    assert listed == []
    folder.distinct(f"{number}.JPG" for number in range(9))
    assert listed == [tmp_path, tmp_path], "once for Unicode forms, once for upper and lower case"


def test_texts_are_shortened_to_what_a_font_can_draw():
    assert shorten("half \ud83d of an\nemoji, and more", 20) == "half ? of an …"
