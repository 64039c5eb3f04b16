"""The challenge's caption-image pairs: open, select and save `train.npz`; open and save `test.clean.npz`.

The file labels each caption with a boolean row, 3.1 GB at the challenge's size. That matrix is never held: its rows
are streamed, each becoming one int32 image index, and streamed out again on saving.

A filtered file also records the file that it was filtered from, which its fingerprint leaves out:

    source/paths (n,) text, any of which may lead to it    source/fingerprint (1,) text

Shapes: N captions, M images, T text width, V image width.
"""

import hashlib
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from src.common.files import InputError, require_file
from src.data.cache import Allocate, cache_path, read_cache, write_cache
from src.data.npz import BLOCK_BYTES, KINDS, NpzReader, NpzWriter, create_npz, open_npz

HINT = "run `bash setup.sh` to prepare data/"
SHORTEST = 1e-12  # length of an embedding that is not all zeros; torch scales shorter ones to less than unit length
CACHE_FROM_BYTES = 100_000_000  # smaller files open in about half a second without a cache
TEST_ARRAYS: dict[str, tuple[str, ...]] = {  # by field: key, kind and the metadata that state its shape
    "caption_ids": ("captions/ids", "i", "metadata/num_captions"),
    "caption_texts": ("captions/text", "U", "metadata/num_captions"),
    "text_embeddings": ("captions/embeddings", "f", "metadata/num_captions", "metadata/embedding_dim_text"),
}
ARRAYS = TEST_ARRAYS | {
    "image_of_caption": ("captions/label", "b", "metadata/num_captions", "metadata/num_images"),
    "image_names": ("images/names", "U", "metadata/num_images"),
    "image_embeddings": ("images/embeddings", "f", "metadata/num_images", "metadata/embedding_dim_image"),
}


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
    """Captions and the image of each; an image may have none. image_of_caption (N,) int32, an index into the images;
    image_names (M,) object array of str; image_embeddings (M, V) float32."""

    image_of_caption: np.ndarray
    image_names: np.ndarray
    image_embeddings: np.ndarray

    @property
    def num_images(self) -> int:
        return len(self.image_names)

    def select(self, captions: np.ndarray) -> "Pairs":
        """Keep the captions of a boolean mask (N,) or of an index array, in its order; all images stay."""
        of_captions = (*TEST_ARRAYS, "image_of_caption")
        return replace(self, **{field: getattr(self, field)[captions] for field in of_captions})


@dataclass(frozen=True)
class Source:
    """The unfiltered file that pairs come from: where it may lie, and the fingerprint by which it is known."""

    paths: tuple[str, ...]
    fingerprint: str

    @classmethod
    def at(cls, path: str | Path, contents: str) -> "Source":
        """A file by its path as it is given and, for other working directories, its absolute one."""
        return cls(tuple(dict.fromkeys((str(path), str(Path(path).resolve())))), contents)

    def find(self) -> Path | None:
        """Where the file lies; None if it is gone or has changed."""
        return next((Path(path) for path in self.paths if self._lies_at(path)), None)

    def _lies_at(self, path: str) -> bool:
        try:
            return fingerprint(path) == self.fingerprint
        except (InputError, OSError):
            return False


def open_pairs(path: str | Path, *, cache: bool | None = None, cache_dir: Path | None = None) -> Pairs:
    """Open a `train.npz` (or a filtered one). Raises InputError that names the file and what is wrong in it.

    With `cache`, or without a choice if the file is larger than CACHE_FROM_BYTES, the arrays are kept in
    `train.npz.cache`, or in `cache_dir`, about as large, and mapped from there, this time and the next, as long as the
    file is the same. Embeddings go there as they are read: they need not fit into memory, and processes share them.
    """
    path = require_file(path, HINT)
    if cache is None:
        cache = path.stat().st_size > CACHE_FROM_BYTES
    return Pairs(
        **(_read_cached(path, cache_path(path, cache_dir)) if cache else None) or _read_arrays(path, ARRAYS),
        source=path,
    )


def _read_cached(path: Path, cache: Path) -> dict[str, np.ndarray] | None:
    """The arrays of a file as its cache has them, which is written first unless it is right; None where it cannot be.
    Raises InputError as `open_pairs`."""
    contents = fingerprint(path)
    arrays = read_cache(cache, contents, ARRAYS.keys())
    if arrays is None:
        write_cache(cache, contents, lambda allocate: _read_arrays(path, ARRAYS, allocate))
        arrays = read_cache(cache, contents, ARRAYS.keys())
    return arrays


def open_test_captions(path: str | Path) -> TestCaptions:
    """Open a `test.clean.npz`. Raises InputError that names the file and what is wrong in it."""
    return TestCaptions(**_read_arrays(path, TEST_ARRAYS), source=Path(path))


def open_image_names(path: str | Path) -> np.ndarray:
    """The names of a file's images, (M,) object array of str, and nothing else of it. Raises InputError."""
    with open_npz(path, HINT) as archive:
        return read_image_names(archive)


def open_gallery(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """The names of a file's images, (M,) object array of str, and their embeddings, (M, V) float32, and nothing else of
    it. Raises InputError."""
    arrays = _read_arrays(path, ("image_names", "image_embeddings"))
    return arrays["image_names"], arrays["image_embeddings"]


def open_text_embeddings(path: str | Path) -> np.ndarray:
    """The embeddings of a file's captions, (N, T) float32, and nothing else of it. Raises InputError."""
    return _read_arrays(path, ("text_embeddings",))["text_embeddings"]


def embedding_dims(path: str | Path) -> dict[str, int]:
    """The widths of a file's embeddings, {"text": T, "image": V}, by its headers; a `test.clean.npz` has no "image"."""
    keys = {"text": "captions/embeddings", "image": "images/embeddings"}
    with open_npz(path) as archive:
        return {name: archive.header(key, rank=2, kind="f").shape[1] for name, key in keys.items() if key in archive}


def fingerprint(path: str | Path) -> str:
    """16 hex digits that identify a file's contents, by the size and CRC-32 that the archive lists for each member.
    Where it came from is left out: the same pairs are the same from wherever they were filtered."""
    with open_npz(path) as archive:
        items = (item for item in archive.infolist() if not item.filename.startswith("source/"))
        members = sorted((item.filename, item.file_size, item.CRC) for item in items)
    return hashlib.sha256(repr(members).encode()).hexdigest()[:16]


def read_source(path: str | Path) -> Source | None:
    """What a file records as its source. Raises InputError as `open_pairs` does."""
    with open_npz(path) as archive:
        if not any(name.startswith("source/") for name in archive.namelist()):
            return None
        (contents,) = archive.texts("source/fingerprint", rank=0)
        return Source(tuple(archive.texts("source/paths", rank=1)), contents)


def save_pairs(pairs: Pairs, path: str | Path, *, source: Source | None = None) -> None:
    """Save in the challenge's layout, the (N, M) label matrix streamed row by row, and the source if there is one;
    whole or not at all."""
    with create_npz(path) as archive:
        _write_captions(archive, pairs)
        archive.array("metadata/num_images", np.array([pairs.num_images]))
        archive.array("metadata/embedding_dim_image", np.array([pairs.image_embeddings.shape[1]]))
        archive.blocks("captions/label", (len(pairs), pairs.num_images), np.dtype(bool), _label_blocks(pairs))
        archive.array("images/names", pairs.image_names.astype(str))
        archive.array("images/embeddings", pairs.image_embeddings)
        if source:
            archive.array("source/paths", np.array(source.paths))
            archive.array("source/fingerprint", np.array([source.fingerprint]))


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


def _label_blocks(pairs: Pairs) -> Iterator[np.ndarray]:
    """The rows of the label matrix, some BLOCK_BYTES at a time."""
    rows = max(1, BLOCK_BYTES // pairs.num_images)
    for start in range(0, len(pairs), rows):
        images = pairs.image_of_caption[start : start + rows]
        labels = np.zeros((len(images), pairs.num_images), np.bool_)
        labels[np.arange(len(images)), images] = True
        yield labels


def _read_arrays(
    path: str | Path, fields: Collection[str], allocate: Allocate = lambda _, shape, dtype: np.empty(shape, dtype)
) -> dict[str, np.ndarray]:
    """Read arrays by field, after holding the headers of all against the metadata, where these are there, and against
    each other. Embeddings are read into what `allocate` makes."""
    with open_npz(path, HINT) as archive, ThreadPoolExecutor(4) as pool:
        sizes: dict[str, int] = {}
        embeddings: dict[str, np.ndarray] = {}
        for field in fields:
            key, kind, *metadata = ARRAYS[field]
            # Labels may be one index a caption, too.
            shape = archive.header(key, rank=(1, 2) if kind == "b" else len(metadata), kind=kind).shape
            for name, length in zip(metadata, shape, strict=False):
                if name not in sizes:
                    sizes[name] = archive.array(name, rank=0, kind="i").item() if name in archive else length
            expected = tuple(sizes[name] for name in metadata[: len(shape)])
            if shape != expected:
                raise archive.error(key, f"has shape {shape}; expected {expected}, by {', '.join(metadata)}")
            if 0 in shape:
                raise archive.error(key, f"is empty, shape {shape}")
            if kind == "f":
                embeddings[field] = allocate(field, shape, KINDS[kind].dtype)

        def read(field: str) -> np.ndarray:
            key = ARRAYS[field][0]
            if field in embeddings:
                return _read_embeddings(archive, key, embeddings[field])
            return _READERS[field](archive, key)

        # What takes long, inflating and checking, leaves Python's lock: the large arrays are read side by side.
        arrays = dict(zip(fields, pool.map(read, fields), strict=True))
    for field in ("caption_ids", "image_names"):
        values, counts = np.unique(arrays.get(field, []), return_counts=True)
        if (counts > 1).any():
            repeated, repeats = values[counts.argmax()], (counts - 1).sum()
            raise archive.error(ARRAYS[field][0], f"repeats {repeated} ({repeats} repeats in all)")
    return arrays


def _read_ids(archive: NpzReader, key: str) -> np.ndarray:
    """Read (N,) int64."""
    return archive.array(key, rank=1, kind="i")


def read_image_names(archive: NpzReader, key: str = "images/names") -> np.ndarray:
    """Read the (M,) names of the image files, an object array of str."""
    names = archive.texts(key, rank=1)
    for row, name in enumerate(names):
        if "\0" in name:
            raise archive.error(key, f"holds a NUL, which no file's name can, in row {row}: {name!r}")
    return np.array(names, object)


def _read_texts(archive: NpzReader, key: str) -> np.ndarray:
    return np.array(archive.texts(key, rank=1, errors="replace"), object)


def _read_embeddings(archive: NpzReader, key: str, embeddings: np.ndarray) -> np.ndarray:
    """Fill a (rows, width) float32 array and insist that the length of each row can be computed in float32."""
    archive.array(key, rank=2, kind="f", out=embeddings)
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.einsum("ij,ij->i", embeddings, embeddings)  # no mask as large as the data
    bad = np.flatnonzero(~np.isfinite(squares) | (squares < SHORTEST**2))
    bad = bad[embeddings[bad].any(axis=1)]  # all zeros are a length, too
    infinite = bad[~np.isfinite(embeddings[bad]).all(axis=1)]
    for rows, what in (
        (infinite, "NaN or infinite numbers"),
        (bad, "numbers so large or small that float32 cannot tell a vector's length,"),
    ):
        if len(rows):
            raise archive.error(key, f"has {what} in {len(rows)} rows, the first is row {rows[0]}")
    return embeddings


def _read_labels(archive: NpzReader, key: str) -> np.ndarray:
    """The image of each caption, (N,) int32: the column of the one True of each row of boolean labels (N, M), which
    are streamed, or labels (N,) that are these indices."""
    shape, fortran_order, _ = archive.header(key, rank=(1, 2), kind="b")
    if len(shape) == 1:
        index, (num_images,) = (
            archive.array(key, rank=1, kind="i"),
            archive.header("images/names", rank=1, kind="U").shape,
        )
        bad = np.flatnonzero((index < 0) | (index >= num_images))
        if len(bad):
            what = f"gives caption {bad[0]} image {index[bad[0]]}; there are {num_images}, counted from 0"
            raise archive.error(key, what)
        archive.note(key, "has one image's index a caption, not a matrix")
        return index.astype(np.int32)
    image_of_caption, counts = np.zeros(shape[0], np.int32), np.zeros(shape[0], np.int64)
    start = 0
    for block in archive.blocks(key, rank=2, kind="b"):
        true_at = np.flatnonzero(block) + start
        captions, images = np.unravel_index(true_at, shape, "F" if fortran_order else "C")
        image_of_caption[captions] = images
        np.add.at(counts, captions, 1)
        start += block.size
    bad = np.flatnonzero(counts != 1)
    if len(bad):
        raise archive.error(key, f"gives caption {bad[0]} {counts[bad[0]]} images; expected one")
    return image_of_caption


_READERS = {
    "caption_ids": _read_ids,
    "caption_texts": _read_texts,
    "image_of_caption": _read_labels,
    "image_names": read_image_names,
}
