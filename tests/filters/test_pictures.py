"""Image files: any mode, any damage, and several names of one file."""

import os
from pathlib import Path

import pytest
from PIL import Image

from src.common.files import InputError
from src.filters.pictures import distinct_files, read_image


def save_image(path: Path, mode: str, **options) -> Image.Image:
    image = Image.effect_noise((20, 12), 80).convert("RGB").quantize(8) if mode == "P" else Image.new(mode, (20, 12))
    image.save(path, **options)
    return image


@pytest.mark.parametrize(
    ("mode", "suffix"), [("RGB", "jpg"), ("L", "jpg"), ("CMYK", "jpg"), ("P", "gif"), ("1", "png"), ("RGBA", "png")]
)
def test_images_of_any_mode_are_read_as_rgb(tmp_path, mode, suffix):
    path = tmp_path / f"image.{suffix}"
    save_image(path, mode)
    image = read_image(path)
    assert (image.mode, image.size) == ("RGB", (20, 12))


def test_a_photograph_taken_sideways_is_turned_upright(tmp_path):
    image = Image.new("RGB", (20, 12))
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").size == (12, 20)


def test_images_that_cannot_be_read_say_why(tmp_path):
    save_image(tmp_path / "whole.png", "P")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:-40])
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "folder.jpg").mkdir()
    for name, reason in (
        ("cut.png", "truncated"),
        ("text.jpg", "UnidentifiedImageError"),
        ("folder.jpg", "is not a file"),
        ("absent.jpg", "no such file"),
    ):
        with pytest.raises(InputError, match=reason):
            read_image(tmp_path / name)


def test_a_picture_that_only_ghostscript_draws_runs_nothing(tmp_path, monkeypatch):
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/executed\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.jpg", "EPS")
    with pytest.raises(InputError, match="UnidentifiedImageError"):
        read_image(tmp_path / "a.jpg")
    assert not (tmp_path / "executed").exists()


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(InputError, match="is not a file"):
        read_image(tmp_path / "a.jpg")


def test_names_that_no_file_can_have_are_files_that_cannot_be_read(tmp_path):
    files, file_of_name = distinct_files(["a\0b", "a\0b", "n" * 300], tmp_path)
    assert file_of_name.tolist() == [0, 0, 1]
    for file in files:
        with pytest.raises(InputError):
            read_image(file)


def test_names_of_the_same_file_are_one_file(tmp_path):
    (tmp_path / "a.jpg").touch()
    (tmp_path / "b.jpg").touch()
    (tmp_path / "soft.jpg").symlink_to("a.jpg")
    (tmp_path / "hard.jpg").hardlink_to(tmp_path / "b.jpg")
    files, file_of_name = distinct_files(["a.jpg", "soft.jpg", "gone.jpg", "b.jpg", "hard.jpg", "lost.jpg"], tmp_path)
    assert [path.name for path in files] == ["a.jpg", "gone.jpg", "b.jpg", "lost.jpg"]
    assert file_of_name.tolist() == [0, 0, 1, 2, 2, 3]
