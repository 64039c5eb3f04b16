"""Image files: read one, whatever is wrong with it, draw it, and find which names mean the same file."""

import warnings
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from PIL import Image, ImageOps

from src.common.files import InputError

BARE: dict[str, Any] = {"xticks": [], "yticks": [], "frame_on": False}  # axes that show a picture and no more


def read_image(path: Path) -> Image.Image:
    """Read an image of any mode upright and as RGB. Raises InputError with the reason, whatever that is."""
    Image.init()
    formats = [name for name in Image.ID if name != "EPS"]  # which Pillow draws by running Ghostscript
    try:
        if path.exists() and not path.is_file():  # a pipe or a device might have no end
            raise InputError("is not a file")
        with warnings.catch_warnings(), Image.open(path, formats=formats) as image:
            warnings.simplefilter("ignore")  # of oddities in metadata
            return ImageOps.exif_transpose(image).convert("RGB")
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError("no such file") from None
    except Exception as error:  # a damaged file makes decoders raise nearly anything
        raise InputError(f"{type(error).__name__}: {error}") from None


def draw_picture(axes: Axes, path: Path, pixels: int) -> None:
    """Draw an image, its longer side of so many pixels at most; nothing where it cannot be read."""
    with suppress(InputError):
        picture = read_image(path)
        picture.thumbnail((pixels, pixels))
        axes.imshow(picture)


def distinct_files(names: Iterable[str], folder: Path) -> tuple[list[Path], np.ndarray]:
    """The files behind M names, each once even if it has several names, and the file of each name, (M,) int64."""
    keys: list[object] = []
    files: dict[object, Path] = {}
    for path in (folder / name for name in names):
        try:
            status = path.stat()
            keys.append((status.st_dev, status.st_ino))
        except (OSError, ValueError):  # ValueError: what no file can be called
            keys.append(path)
        files.setdefault(keys[-1], path)
    index = {key: place for place, key in enumerate(files)}
    return list(files.values()), np.array([index[key] for key in keys], np.int64)
