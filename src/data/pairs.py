"""The challenge's caption-image pairs: open, select and save `train.npz`; open and save `test.clean.npz`.

Shapes: N captions, M images, T text width, V image width.

The file labels each caption with a boolean row of length M: 3.1 GB at the challenge's size. That matrix is
never held: its rows are streamed from the archive, each becoming one int32 image index, and streamed out again
on saving.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from src.common.files import InputError, require_file
from src.data.cache import read_cache, write_cache
from src.data.npz import BLOCK_BYTES, NpzReader, NpzWriter, create_npz, open_npz

HINT = "run `bash setup.sh` to prepare data/"
CACHE_FROM_BYTES = 100_000_000  # smaller files open in about half a second without a cache
ARRAYS: dict[str, tuple[str, ...]] = {  # by key: its kind, and the metadata that state its shape
    "captions/ids": ("iu", "num_captions"),
    "captions/text": ("U", "num_captions"),
    "captions/embeddings": ("f", "num_captions", "embedding_dim_text"),
    "captions/label": ("b", "num_captions", "num_images"),
    "images/names": ("U", "num_images"),
    "images/embeddings": ("f", "num_images", "embedding_dim_image"),
}
TEST_ARRAYS = ("captions/ids", "captions/text", "captions/embeddings")


@dataclass(frozen=True, kw_only=True, eq=False)
class TestCaptions:
    """Captions. caption_ids (N,) int64; caption_texts (N,) object array of str; text_embeddings (N, T) float32."""

    __test__ = False  # a name that pytest would take for a test class

    caption_ids: np.ndarray
    caption_texts: np.ndarray
    text_embeddings: np.ndarray
    source: Path | None = None

    def __len__(self) -> int:
        return len(self.caption_ids)


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairs(TestCaptions):
    """Captions and the image of each.

    image_of_caption (N,) int32, an index into the images; image_names (M,) object array of str; image_embeddings (M, V)
    float32. An image may have no caption.
    """

    image_of_caption: np.ndarray
    image_names: np.ndarray
    image_embeddings: np.ndarray

    @property
    def num_images(self) -> int:
        return len(self.image_names)

    def select(self, captions: np.ndarray) -> "Pairs":
        """Keep the captions of a boolean mask (N,) or of an index array, in its order; all images stay."""
        return replace(
            self,
            caption_ids=self.caption_ids[captions],
            caption_texts=self.caption_texts[captions],
            text_embeddings=self.text_embeddings[captions],
            image_of_caption=self.image_of_caption[captions],
        )

    def select_images(self, images: np.ndarray) -> "Pairs":
        """Keep the images of a boolean mask (M,), and their captions."""
        new_index = np.cumsum(images, dtype=np.int32) - 1
        kept = self.select(images[self.image_of_caption])
        return replace(
            kept,
            image_of_caption=new_index[kept.image_of_caption],
            image_names=self.image_names[images],
            image_embeddings=self.image_embeddings[images],
        )


def open_pairs(path: str | Path, *, cache: bool | None = None) -> Pairs:
    """Open a `train.npz` (or a filtered one). Raises InputError that names the file and what is wrong in it.

    With `cache`, the arrays are kept in `train.npz.cache`, about as large as the file: the next time they are mapped
    from there, as long as the file is the same. None: where the file is larger than CACHE_FROM_BYTES.
    """
    path = require_file(path, HINT)
    if cache is None:
        cache = path.stat().st_size > CACHE_FROM_BYTES
    if not cache:
        return _read_pairs(path)
    contents = fingerprint(path)
    if (kept := read_cache(path, contents)) is not None:
        with suppress(TypeError):  # a damaged name
            return Pairs(**kept, source=path)
    pairs = _read_pairs(path)
    write_cache(path, contents, {name: array for name, array in vars(pairs).items() if name != "source"})
    return pairs


def open_test_captions(path: str | Path) -> TestCaptions:
    """Open a `test.clean.npz`. Raises InputError that names the file and what is wrong in it."""
    with open_npz(path, HINT) as archive:
        _check_shapes(archive, TEST_ARRAYS)
        return TestCaptions(
            caption_ids=_read_ids(archive),
            caption_texts=_read_texts(archive, "captions/text"),
            text_embeddings=_read_embeddings(archive, "captions/embeddings"),
            source=archive.path,
        )


def embedding_dims(path: str | Path) -> dict[str, int]:
    """The widths of a data file's embeddings, {"text": T, "image": V}, read from the headers alone.

    A `test.clean.npz` has no "image". Raises InputError as `open_pairs` does.
    """
    keys = {"text": "captions/embeddings", "image": "images/embeddings"}
    with open_npz(path) as archive:
        return {name: archive.header(key, rank=2, kind="f").shape[1] for name, key in keys.items() if key in archive}


def fingerprint(path: str | Path) -> str:
    """16 hex digits that identify a data file's contents. Costs about a millisecond whatever its size."""
    with open_npz(path) as archive:
        return archive.fingerprint()


def save_pairs(pairs: Pairs, path: str | Path) -> None:
    """Save in the challenge's layout, the (N, M) label matrix streamed row by row; whole or not at all."""
    shape = (len(pairs), pairs.num_images)
    with create_npz(path) as archive:
        _write_captions(archive, pairs)
        archive.array("metadata/num_images", np.array([pairs.num_images]))
        archive.array("metadata/embedding_dim_image", np.array([pairs.image_embeddings.shape[1]]))
        archive.blocks("captions/label", shape, np.dtype(bool), _label_blocks(pairs.image_of_caption, pairs.num_images))
        archive.array("images/names", pairs.image_names.astype(str))
        archive.array("images/embeddings", pairs.image_embeddings)


def save_test_captions(captions: TestCaptions, path: str | Path) -> None:
    """Save captions without images in the layout of `test.clean.npz`, whole or not at all."""
    with create_npz(path) as archive:
        _write_captions(archive, captions)


def _write_captions(archive: NpzWriter, captions: TestCaptions) -> None:
    archive.array("metadata/num_captions", np.array([len(captions)]))
    archive.array("metadata/embedding_dim_text", np.array([captions.text_embeddings.shape[1]]))
    archive.array("captions/ids", captions.caption_ids)
    archive.array("captions/text", captions.caption_texts.astype(str))
    archive.array("captions/embeddings", captions.text_embeddings)


def _label_blocks(image_of_caption: np.ndarray, num_images: int) -> Iterator[np.ndarray]:
    """The rows of the label matrix, some BLOCK_BYTES at a time; each block is overwritten by the next one."""
    rows = max(1, BLOCK_BYTES // num_images)
    labels = np.zeros((rows, num_images), np.bool_)
    for start in range(0, len(image_of_caption), rows):
        images = image_of_caption[start : start + rows]
        labels[np.arange(len(images)), images] = True
        yield labels[: len(images)]
        labels[np.arange(len(images)), images] = False


def _read_pairs(path: Path) -> Pairs:
    with open_npz(path) as archive, ThreadPoolExecutor(3) as pool:
        _check_shapes(archive, ARRAYS)
        # What takes long, inflating and checking, leaves Python's lock: the three large arrays are read side by side.
        text_embeddings = pool.submit(_read_embeddings, archive, "captions/embeddings")
        image_of_caption = pool.submit(_read_labels, archive)
        image_embeddings = pool.submit(_read_embeddings, archive, "images/embeddings")
        return Pairs(
            caption_ids=_read_ids(archive),
            caption_texts=_read_texts(archive, "captions/text"),
            text_embeddings=text_embeddings.result(),
            image_of_caption=image_of_caption.result(),
            image_names=_check_unique(archive, "images/names", _read_texts(archive, "images/names")),
            image_embeddings=image_embeddings.result(),
            source=path,
        )


def _check_shapes(archive: NpzReader, keys: Iterable[str]) -> None:
    """Hold the headers of arrays against the file's metadata, before anything large is read."""
    for key in keys:
        kind, *names = ARRAYS[key]
        shape = archive.header(key, rank=len(names), kind=kind).shape
        stated = tuple(archive.array(f"metadata/{name}", rank=None, kind="iu").item() for name in names)
        if shape != stated:
            meaning = ", ".join(f"metadata/{name}" for name in names)
            raise InputError(f"{archive.path}: {key} has shape {shape}; expected {stated}, by {meaning}")
        if 0 in shape:
            raise InputError(f"{archive.path}: {key} is empty, shape {shape}")


def _check_unique(archive: NpzReader, key: str, values: np.ndarray) -> np.ndarray:
    unique, counts = np.unique(values, return_counts=True)
    if len(unique) != len(values):
        repeated, repeats = unique[counts > 1][0], len(values) - len(unique)
        raise InputError(f"{archive.path}: {key} repeats {repeated!s} ({repeats} repeats in all)")
    return values


def _read_ids(archive: NpzReader) -> np.ndarray:
    ids = archive.array("captions/ids", rank=1, kind="iu").astype(np.int64)
    return _check_unique(archive, "captions/ids", ids)


def _read_texts(archive: NpzReader, key: str) -> np.ndarray:
    """Read text as Python strings: the file spends 4 bytes a character on the longest one's length for each."""
    texts = [text for block in archive.blocks(key, rank=1, kind="U") for text in block.tolist()]
    return np.array(texts, object)


def _read_embeddings(archive: NpzReader, key: str) -> np.ndarray:
    """Read a (rows, width) float32 array and insist that it is finite."""
    embeddings = archive.array(key, rank=2, kind="f")
    with np.errstate(invalid="ignore"):  # inf - inf
        sums = embeddings.sum(axis=1, dtype=np.float64)  # finite exactly when the row is: no mask as large as the data
    bad = np.flatnonzero(~np.isfinite(sums))
    if len(bad):
        raise InputError(
            f"{archive.path}: {key} has NaN or infinite numbers in {len(bad)} rows, the first is row {bad[0]}"
        )
    return embeddings


def _read_labels(archive: NpzReader) -> np.ndarray:
    """Stream the boolean labels (N, M): the column of the one True of each row, (N,) int32."""
    key = "captions/label"
    header = archive.header(key, rank=2, kind="b")
    num_captions = header.shape[0]
    true_at: list[np.ndarray] = []
    num_true = start = 0
    for block in archive.blocks(key, rank=2, kind="b"):
        if block.view(np.uint8).max() > 1:
            raise InputError(f"{archive.path}: {key} has bytes other than 0 and 1, which are no booleans")
        true_at.append(np.flatnonzero(block) + start)
        num_true += len(true_at[-1])
        start += block.size
        if num_true > num_captions:  # refused below; their places could take more memory than there is
            break
    order = "F" if header.fortran_order else "C"
    captions, images = np.unravel_index(np.concatenate(true_at), header.shape, order)
    counts = np.bincount(captions, minlength=num_captions)
    for faulty, what in ((counts > 1, "several images"), (counts == 0, "no image")):
        if faulty.any():
            raise InputError(f"{archive.path}: {key} gives caption {faulty.argmax()} {what}; expected one")
    image_of_caption = np.empty(num_captions, np.int32)
    image_of_caption[captions] = images
    return image_of_caption
