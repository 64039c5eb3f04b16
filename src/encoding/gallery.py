"""Which picture each caption is of, and which pictures no caption is of.

Shapes: N captions, M images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from src.common.files import InputError, require_file
from src.data.pairs import Pairs
from src.filters.pictures import ImageFolder

NO_IMAGE = -1


@dataclass(frozen=True, eq=False)
class Gallery:
    """M images by name, each of another file; the image of each caption, (N,) int64, NO_IMAGE where it is missing;
    why, {name: reason}; and the names of pictures that no caption is of."""

    names: list[str]
    image_of_caption: np.ndarray
    missing: dict[str, str]
    unused: list[str]


def find_pictures(folder: ImageFolder, images: Sequence[str]) -> Gallery:
    """Look up the images of N captions, "" for none, in a folder. Names of one file are one image, called by the first;
    images ascend by name."""
    there, missing = [], {}
    for name in sorted({*images} - {""}):
        try:
            reason = "" if folder.find(name).exists() else "no such file"
        except (OSError, ValueError) as error:  # ValueError: what no file can be called; an InputError is one
            reason = str(error)
        if reason:
            missing[name] = reason
        else:
            there.append(name)
    names, image_of_name = folder.distinct(there)
    found = dict(zip(there, image_of_name.tolist(), strict=True))
    used = {folder.find(name).resolve() for name in names}
    unused = [name for name in list_pictures(folder.root) if (folder.root / name).resolve() not in used]
    return Gallery(names, np.array([found.get(name, NO_IMAGE) for name in images], np.int64), missing, unused)


def find_names(names: list[str], images: Sequence[str]) -> Gallery:
    """Look up the images of N captions, "" for none, among M names."""
    index, of_captions = {name: place for place, name in enumerate(names)}, {*images} - {""}
    missing = {name: "not among the names of the images" for name in sorted(of_captions - index.keys())}
    unused = [name for name in names if name not in of_captions]
    return Gallery(names, np.array([index.get(name, NO_IMAGE) for name in images], np.int64), missing, unused)


def list_pictures(root: Path) -> list[str]:
    """The names of the files in a folder, and in those below it, that are called as pictures are, ascending."""
    suffixes = Image.registered_extensions()
    files = (path for path in root.rglob("*") if path.suffix.lower() in suffixes and not path.name.startswith("."))
    return sorted(path.relative_to(root).as_posix() for path in files if path.is_file())


def read_names(path: Path) -> list[str]:
    """Names of images, a line each. Raises InputError if they are not that, or one is there twice."""
    try:
        lines = require_file(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error})") from None
    names = [line.strip() for line in lines]
    while names and not names[-1]:
        names.pop()
    if "" in names:
        raise InputError(f"{path}: line {names.index('') + 1} is empty; expected the name of an image in each")
    if len(set(names)) < len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise InputError(f"{path}: has {twice} more than once")
    return names


def make_pairs(
    captions: np.ndarray, texts: list[str], text_embeddings: np.ndarray, gallery: Gallery, image_embeddings: np.ndarray
) -> Pairs:
    """The pairs of some captions, (n,) places among all, which are their ids; and of their images alone."""
    images, image_of_caption = np.unique(gallery.image_of_caption[captions], return_inverse=True)
    return Pairs(
        caption_ids=captions.astype(np.int64),
        caption_texts=np.array(texts, object)[captions],
        text_embeddings=text_embeddings[captions],
        image_of_caption=image_of_caption.astype(np.int32),
        image_names=np.array(gallery.names, object)[images],
        image_embeddings=image_embeddings[images],
    )
