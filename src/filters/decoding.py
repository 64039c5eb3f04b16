"""Read an image file as it looks, in 8-bit RGB, whatever its format, depth and metadata."""

import io
import os
import struct
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO

import numpy as np
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import BITSPERSAMPLE, SAMPLEFORMAT

from src.common.files import InputError

UPRIGHT = {  # by EXIF's orientation; 1 is upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_PIXELS = b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf"  # all that pixels and their orientation need
PNG_BYTES = 2**30  # of a PNG that is read without its metadata


def read_image(path: Path, odd: list[str] | None = None) -> Image.Image:
    """Read an image upright and as RGB. Raises InputError with the reason why it cannot be, whatever that is.

    Of its metadata only the orientation counts; if that is damaged, or too much, the pixels are read all the same, and
    `odd` gets a line, as it does for all that a decoder warns of. Transparency is left out, as in CLIP's own
    preprocessing. Pillow refuses what has over 179 million pixels.
    """
    complaints: list[str] = []
    try:
        if path.exists() and not path.is_file():  # a pipe or a device might have no end
            raise InputError("is not a file")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            image = _read(path, complaints)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError("no such file") from None
    except Exception as error:  # a damaged file makes decoders raise nearly anything
        raise InputError(getattr(error, "strerror", None) or f"{type(error).__name__}: {error}") from None
    if odd is not None:
        odd += dict.fromkeys([*complaints, *(str(warning.message) for warning in caught)])
    return image


def _read(path: Path, complaints: list[str]) -> Image.Image:
    """Decode a file; a PNG that cannot be is tried again without its metadata."""
    try:
        return _decode(path, complaints)
    except Exception as error:
        with suppress(Exception):
            image = _decode(_without_metadata(path), complaints)
            complaints.append(f"its metadata are left out ({error})")
            return image
        raise


def _without_metadata(path: Path) -> IO[bytes]:
    """A PNG without its texts, profiles and the like, of which Pillow decompresses no more than a MB each."""
    with path.open("rb") as file:
        if file.read(len(PNG_SIGNATURE)) != PNG_SIGNATURE:
            raise ValueError("not a PNG")
        pixels = io.BytesIO()
        pixels.write(PNG_SIGNATURE)
        while len(header := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", header)
            if kind not in PNG_PIXELS:
                file.seek(length + 4, os.SEEK_CUR)
            elif pixels.tell() + length > PNG_BYTES:
                raise ValueError("too large")
            else:
                pixels.write(header + file.read(length + 4))
    pixels.seek(0)
    return pixels


def _decode(source: Path | IO[bytes], complaints: list[str]) -> Image.Image:
    Image.init()
    formats = [name for name in Image.ID if name != "EPS"]  # which Pillow draws by running Ghostscript
    with Image.open(source, formats=formats) as image:
        with _stderr_into(complaints) if image.format == "TIFF" else nullcontext():
            image.load()
        rgb = _in_8_bits(image).convert("RGB")
        turn = UPRIGHT.get(_orientation(image))
        return rgb if turn is None else rgb.transpose(turn)


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation; 1 if EXIF is damaged."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception as error:  # as decoders do
        warnings.warn(f"its EXIF cannot be read ({type(error).__name__}: {error})", stacklevel=1)
        return 1
    return orientation if isinstance(orientation, int) else 1


def _in_8_bits(image: Image.Image) -> Image.Image:
    """An image as it is, or greys of more than 8 bits, which Pillow would clip, scaled to 8.

    The white of 16-bit integers is 65535 (4095 if the file says 12 bits). That of wider integers and of floating-point
    numbers is not known, and the first of 1, 255 and 65535 that no pixel exceeds; where numbers are negative or
    beyond, the lowest is black and the highest white. NaN is black.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    values = np.array(image)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        black, white = 0.0, 2.0 ** tags.get(BITSPERSAMPLE, (16,))[0] - 1
    else:
        if image.mode == "I" and image.format == "TIFF" and tags.get(SAMPLEFORMAT, (1,)) == (1,):
            values = values.view(np.uint32)  # which Pillow has no mode for
        black, white = _range(values)
    with np.errstate(all="ignore"):  # numbers of any size
        values = values.astype(np.float32)
        values *= 255 / (white - black)
        values -= black * 255 / (white - black)
    np.nan_to_num(values, copy=False, nan=0, posinf=255, neginf=0)
    return Image.fromarray(values.round(out=values).clip(0, 255, out=values).astype(np.uint8))


def _range(values: np.ndarray) -> tuple[float, float]:
    """What is black and what is white in greys of unknown depth."""
    finite = np.isfinite(values)
    if not finite.any():
        return 0, 1
    low, high = (float(of(values[finite])) for of in (np.min, np.max))
    if low >= 0:
        for white in (1, 255, 65535):
            if high <= white:
                return 0, white
    return (low, high) if low < high else (low, low + 1)


@contextmanager
def _stderr_into(lines: list[str]) -> Iterator[None]:
    """Append what C libraries, as libtiff, write to standard error: the first line and how many there are."""
    with tempfile.TemporaryFile() as file:
        saved = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            file.seek(0)
            told = file.read().decode(errors="replace").splitlines()
            if told:
                lines.append(told[0] + (f" (and {len(told) - 1:,} lines more)" if told[1:] else ""))
