"""The images by their names: which file is meant, which names mean the same file, and the picture drawn."""

import os
import textwrap
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from PIL import Image

from src.common.files import InputError
from src.common.spelling import caseless, composed
from src.filters.decoding import read_image

BARE: dict[str, Any] = {"xticks": [], "yticks": [], "frame_on": False}  # axes that show a picture and no more
FOUND_AS = "found as "  # how the line begins that tells of another spelling


def shorten(text: str, width: int) -> str:
    """A text in one line of so many characters at most, and of such as fonts can draw: no halves of surrogate pairs."""
    return textwrap.shorten(text.encode(errors="replace").decode(), width, placeholder=" …")


class ImageFolder:
    """The folder that names of images are looked up in; they come from files that anyone may have written.

    A name is that of the file that has exactly this name, else of the only file whose name differs from it but in its
    Unicode form (NFC or NFD), else but in upper and lower case; a backslash is a separator where nothing else fits.
    Folders are listed once each, and only for names that are not exact: open a new one to see what has changed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._listings: dict[tuple[Path, Callable], dict[str, list[Path]]] = {}

    def find(self, name: str) -> Path:
        """The file of a name; where there is none, the path that it would have. Raises InputError if the name leads
        out of the folder, or if several files are near it and none is exact."""
        exact = self._path(name)
        for path in (exact, self._path(name.replace("\\", "/"))):
            with suppress(OSError):  # as of a name that is too long
                if path.exists():
                    return path
            for same in (composed, caseless):
                found = self._near(path, same)
                if len(found) > 1:
                    several = ", ".join(str(path.relative_to(self.root)) for path in found)
                    raise InputError(f"no such file, and several that are near it: {several}")
                if found:
                    return found[0]
        return exact

    def read(self, name: str, odd: list[str] | None = None) -> Image.Image:
        """As `read_image`, by a name; another spelling is `odd`, too."""
        path = self.find(name)
        image = read_image(path, odd)
        if odd is not None and path != self._path(name):
            odd.append(f"{FOUND_AS}{path.relative_to(self.root)}")
        return image

    def draw(self, axes: Axes, name: str, pixels: int) -> None:
        """Draw an image, its longer side of so many pixels at most; nothing where it cannot be read."""
        with suppress(InputError):
            picture = self.read(name)
            picture.thumbnail((pixels, pixels))
            axes.imshow(picture)

    def distinct(self, names: Iterable[str]) -> tuple[list[str], np.ndarray]:
        """Of M names the first of each file, and the place of each name's file among these, (M,) int64."""
        keys: list[object] = []
        firsts: dict[object, str] = {}
        for name in names:
            try:
                status = self.find(name).stat()
                keys.append((status.st_dev, status.st_ino))
            except (OSError, ValueError):  # ValueError: what no file can be called; an InputError is one
                keys.append(name)
            firsts.setdefault(keys[-1], name)
        index = {key: place for place, key in enumerate(firsts)}
        return list(firsts.values()), np.array([index[key] for key in keys], np.int64)

    def _path(self, name: str) -> Path:
        path = Path(os.path.normpath(self.root / name))
        if not path.is_relative_to(self.root):
            raise InputError("its name leads out of the folder of the images")
        return path

    def _near(self, path: Path, same: Callable[[str], str]) -> list[Path]:
        """The files whose paths are the `same`; each folder on the way may be one of several."""
        found = [self.root]
        for part in path.relative_to(self.root).parts:
            found = [entry for folder in found for entry in self._listing(folder, same).get(same(part), ())]
        return found

    def _listing(self, folder: Path, same: Callable[[str], str]) -> dict[str, list[Path]]:
        if (folder, same) not in self._listings:
            entries = self._listings[folder, same] = {}
            with suppress(OSError):  # a file, or what may not be listed
                for entry in folder.iterdir():
                    entries.setdefault(same(entry.name), []).append(entry)
        return self._listings[folder, same]
