"""Image files: any mode, depth and metadata, any damage, and all of it told rather than printed."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from src.common.files import InputError
from src.filters.decoding import read_image

RAMP = np.arange(240, dtype=np.uint8).reshape(12, 20)  # greys of 8 bits


def grey(path: Path) -> np.ndarray:
    """What is read of a grey picture, which is the same in all channels."""
    pixels = np.asarray(read_image(path))
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


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


# -------------------------------------------------------------------------------------------- more than eight bits


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_greys_of_16_bits_are_scaled_by_their_depth(tmp_path, suffix, dtype):
    dark = RAMP // 4  # whose range tells nothing of its depth
    for name, values in (("full", RAMP), ("dark", dark)):
        path = tmp_path / f"{name}.{suffix}"
        Image.fromarray((values.astype("u2") * 257).astype(dtype)).save(path)
        np.testing.assert_array_equal(grey(path), values)


@pytest.mark.parametrize(("dtype", "white"), [("i4", 255), ("i4", 65535), ("f4", 1), ("f4", 255), ("f4", 65535)])
def test_greys_of_32_bits_are_scaled_by_what_their_range_tells(tmp_path, dtype, white):
    Image.fromarray((RAMP * (white / 255)).astype(dtype)).save(tmp_path / "a.tif")
    np.testing.assert_allclose(grey(tmp_path / "a.tif"), RAMP, atol=white == 1)


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [
        (-100, 155, "i4"),
        (-1, 1, "f4"),
        (0, 1e6, "f4"),
        (-3e38, 3e38, "f4"),
        (-32768, 32767, "<i2"),
        (0, 2**32 - 1, "<u4"),
    ],
)
def test_greys_of_any_other_range_are_scaled_by_it(tmp_path, low, high, dtype):
    values = (low + (np.float64(high) - low) * np.linspace(0, 1, 240).reshape(12, 20)).astype(dtype)
    save_tiff(tmp_path / "a.tif", values)
    np.testing.assert_allclose(grey(tmp_path / "a.tif"), np.linspace(0, 255, 240).reshape(12, 20), atol=1)


def test_greys_of_12_bits_are_scaled_by_what_the_file_says(tmp_path):
    save_tiff(tmp_path / "a.tif", np.array([[0x00, 0x0F, 0xFF], [0x80, 0x08, 0x00]], np.uint8), bits=12, width=2)
    np.testing.assert_array_equal(grey(tmp_path / "a.tif"), [[0, 255], [128, 128]])  # 0x000 0xFFF 0x800 0x800


@pytest.mark.parametrize(("kind", "channels"), [(2, 3), (4, 2), (6, 4)], ids=["RGB", "LA", "RGBA"])
def test_colours_of_16_bits_are_scaled_too(tmp_path, kind, channels):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, kind, 0, 0, 0))
    pixels = np.array([[0x8000] * channels, [0xFFFF] * channels], ">u2").tobytes()
    parts = header, chunk(b"IDAT", zlib.compress(b"\0" + pixels)), chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    assert grey(tmp_path / "a.png").tolist() == [[128, 255]]


def test_numbers_that_are_none_are_black_or_white(tmp_path):
    values = (RAMP / 255).astype("f4")
    values[0, :3] = np.nan, np.inf, -np.inf
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert grey(tmp_path / "a.tif")[0, :3].tolist() == [0, 255, 0]
    np.testing.assert_array_equal(grey(tmp_path / "a.tif")[1:], RAMP[1:])
    for name, value in (("nan", np.nan), ("low", -5)):
        Image.fromarray(np.full((4, 4), value, "f4")).save(tmp_path / f"{name}.tif")
        assert (grey(tmp_path / f"{name}.tif") == 0).all()


def save_tiff(path: Path, values: np.ndarray, bits: int = 0, width: int = 0) -> None:
    """A bare grey TIFF of numbers that Pillow reads but does not write: rows of little-endian integers or floats."""
    height, width, bits = values.shape[0], width or values.shape[1], bits or 8 * values.itemsize
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    tags = {
        256: width,
        257: height,
        258: bits,
        259: 1,
        262: 1,
        273: 8,
        277: 1,
        278: height,
        279: values.nbytes,
        339: kind,
    }
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    head = struct.pack("<2sHI", b"II", 42, 8 + values.nbytes)
    path.write_bytes(head + values.tobytes() + struct.pack("<H", len(tags)) + entries + bytes(4))


# ------------------------------------------------------------------------------------- good pixels, odd metadata


def save_png(path: Path, *, width: int = 20, chunks: tuple[bytes, ...] = (), **options) -> None:
    """The ramp as a PNG, with chunks of one's own before its pixels."""
    Image.fromarray(RAMP[:, :width]).save(path, **options)
    whole = path.read_bytes()
    path.write_bytes(whole[:33] + b"".join(chunks) + whole[33:])


def chunk(kind: bytes, content: bytes, checksum: int | None = None) -> bytes:
    checksum = zlib.crc32(kind + content) if checksum is None else checksum
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


MUCH = zlib.compress(bytes(3_000_000))
TEXTS = PngImagePlugin.PngInfo()
for _ in range(70):  # each of them small, together over Pillow's limit
    TEXTS.add_text("note", "x" * 1_000_000, zip=True)


@pytest.mark.parametrize(
    "options",
    [
        {"chunks": (chunk(b"zTXt", b"workflow\0\0" + MUCH),)},
        {"chunks": (chunk(b"iTXt", b"workflow\0\1\0\0\0" + MUCH),)},
        {"chunks": (chunk(b"iCCP", b"profile\0\0" + MUCH),)},
        {"chunks": (chunk(b"zTXt", b"damaged\0\0" + MUCH[:50]), chunk(b"tEXt", b"a\0b", checksum=7))},
        {"pnginfo": TEXTS},
    ],
    ids=["zTXt", "iTXt", "profile", "damaged", "many"],
)
def test_a_png_with_more_metadata_than_pillow_takes_is_read_and_told(tmp_path, options):
    save_png(tmp_path / "a.png", **options)
    odd: list[str] = []
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "a.png", odd))[..., 0], RAMP)
    assert len(odd) == 1
    assert "metadata" in odd[0]


def test_without_its_metadata_a_png_keeps_its_palette_and_its_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    save_png(tmp_path / "a.png", exif=exif, chunks=(chunk(b"zTXt", b"a\0\0" + MUCH),))
    assert read_image(tmp_path / "a.png").size == (12, 20)
    image = Image.fromarray(RAMP).convert("RGB").quantize(8)
    image.save(tmp_path / "palette.png")
    whole = (tmp_path / "palette.png").read_bytes()
    (tmp_path / "much.png").write_bytes(whole[:33] + chunk(b"zTXt", b"a\0\0" + MUCH) + whole[33:])
    assert read_image(tmp_path / "much.png").tobytes() == read_image(tmp_path / "palette.png").tobytes()


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0no exif at all", b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12", b"Exif\0\0II*\0\xff\xff\xff\xff"]
)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_a_broken_exif_means_no_rotation(tmp_path, suffix, exif):
    Image.fromarray(RAMP).convert("RGB").save(tmp_path / f"a.{suffix}", exif=exif, dpi=(72, 72))
    assert read_image(tmp_path / f"a.{suffix}").size == (20, 12)


@pytest.mark.parametrize(
    ("orientation", "corner"), [(1, 0), (2, 19), (3, 239), (4, 220), (5, 0), (6, 220), (7, 239), (8, 19)]
)
def test_every_orientation_is_turned_upright(tmp_path, orientation, corner):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RAMP).save(tmp_path / "a.png", exif=exif)
    assert grey(tmp_path / "a.png")[0, 0] == RAMP.flat[corner]


def test_a_large_photograph_is_read_and_a_bomb_is_not(tmp_path):
    def save(path: Path, side: int) -> None:
        header, row = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0), bytes(side // 8 + 1)
        parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(row * side, 1)), chunk(b"IEND", b"")
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))

    save(tmp_path / "large.png", 10_000)
    save(tmp_path / "bomb.png", 20_000)
    assert read_image(tmp_path / "large.png").size == (10_000, 10_000)
    with pytest.raises(InputError, match="DecompressionBombError"):
        read_image(tmp_path / "bomb.png")


def test_hidden_colours_of_transparent_pictures_stay_as_clip_takes_them(tmp_path):
    image = Image.new("RGBA", (8, 8), (200, 100, 50, 0))
    image.save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").getpixel((0, 0)) == image.convert("RGB").getpixel((0, 0)) == (200, 100, 50)


# -------------------------------------------------------------------------------------------- told, never printed


def test_what_decoders_complain_of_is_told_and_not_printed(tmp_path, capfd):
    Image.fromarray(RAMP).convert("RGB").quantize(8).save(tmp_path / "palette.png", transparency=bytes(range(8)))
    Image.fromarray(RAMP > 100).save(tmp_path / "fax.tif", compression="group4")
    whole = bytearray((tmp_path / "fax.tif").read_bytes())
    whole[9] = 0  # in the pixels, of which libtiff writes to standard error itself
    (tmp_path / "fax.tif").write_bytes(whole)
    Image.fromarray(RAMP).convert("RGB").save(tmp_path / "a.jpg", exif=b"Exif\0\0no exif", dpi=(72, 72))
    for name, complaint in (("palette.png", "Transparency"), ("fax.tif", "Fax4Decode"), ("a.jpg", "EXIF")):
        odd: list[str] = []
        read_image(tmp_path / name, odd)
        assert len(odd) == 1, name
        assert complaint in odd[0]
        read_image(tmp_path / name)
    assert capfd.readouterr() == ("", "")
