"""The challenge's caption-image pairs: open, select and save `train.npz`; open `test.clean.npz`.

Shapes: N captions, M images, T text width, V image width.

The file labels each caption with a boolean row of length M: 3.1 GB at the challenge's size. That matrix is
never held: its rows are streamed from the archive, each becoming one int32 image index, and streamed out again
on saving.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from src.common.files import InputError, require_file
from src.data.cache import read_cache, source_stamp, write_cache
from src.data.npz import BLOCK_BYTES, NpzReader, NpzWriter, create_npz, open_npz

HINT = "run `bash setup.sh` to prepare data/"
CACHE_FROM_BYTES = 100_000_000  # smaller files open in about half a second without a cache
CHECK_BLOCK_ROWS = 4096


@dataclass(frozen=True, kw_only=True, eq=False)
class TestCaptions:
    """Captions without images. ids (N,) int64, texts (N,) object array of str, embeddings (N, T) float32."""

    __test__ = False  # a name that pytest would take for a test class

    caption_ids: np.ndarray
    caption_texts: np.ndarray
    text_embeddings: np.ndarray
    source: Path | None = None

    def __len__(self) -> int:
        return len(self.caption_ids)


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairs:
    """Captions and the image of each.

    caption_ids (N,) int64; caption_texts (N,) object array of str; text_embeddings (N, T) float32;
    image_of_caption (N,) int32, an index into the images; image_names (M,) object array of str;
    image_embeddings (M, V) float32. An image may have no caption.
    """

    caption_ids: np.ndarray
    caption_texts: np.ndarray
    text_embeddings: np.ndarray
    image_of_caption: np.ndarray
    image_names: np.ndarray
    image_embeddings: np.ndarray
    source: Path | None = None

    def __len__(self) -> int:
        return len(self.caption_ids)

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
    stamp = source_stamp(path)
    kept = read_cache(path, stamp)
    if kept is not None:
        with suppress(ValueError, TypeError):  # damaged where read_cache does not look
            return _unpack(kept, path)
    pairs = _read_pairs(path)
    write_cache(path, stamp, _pack(pairs))
    return pairs


def open_test_captions(path: str | Path) -> TestCaptions:
    """Open a `test.clean.npz`. Raises InputError that names the file and what is wrong in it."""
    with open_npz(path, HINT) as archive:
        ids, texts = _read_ids_and_texts(archive)
        embeddings = _read_embeddings(archive, "captions/embeddings")
        _check_captions(archive, ids, texts, embeddings)
    return TestCaptions(caption_ids=ids, caption_texts=texts, text_embeddings=embeddings, source=Path(path))


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
        archive.array("metadata/num_captions", np.array([len(pairs)]))
        archive.array("metadata/num_images", np.array([pairs.num_images]))
        archive.array("metadata/embedding_dim_text", np.array([pairs.text_embeddings.shape[1]]))
        archive.array("metadata/embedding_dim_image", np.array([pairs.image_embeddings.shape[1]]))
        _write_captions(archive, pairs)
        archive.blocks("captions/label", shape, bool, _label_blocks(pairs.image_of_caption, pairs.num_images))
        archive.array("images/names", pairs.image_names.astype(str))
        archive.array("images/embeddings", pairs.image_embeddings)


def save_test_captions(captions: TestCaptions, path: str | Path) -> None:
    """Save captions without images in the layout of `test.clean.npz`, whole or not at all."""
    with create_npz(path) as archive:
        archive.array("metadata/num_captions", np.array([len(captions)]))
        archive.array("metadata/embedding_dim_text", np.array([captions.text_embeddings.shape[1]]))
        _write_captions(archive, captions)


def _read_pairs(path: Path) -> Pairs:
    # What takes long, inflating and checking, leaves Python's lock: the three large members are read side by side.
    with open_npz(path) as archive, ThreadPoolExecutor(3) as pool:
        text_reader = pool.submit(_read_embeddings, archive, "captions/embeddings")
        label_reader = pool.submit(_read_labels, archive)
        image_reader = pool.submit(_read_embeddings, archive, "images/embeddings")
        ids, texts = _read_ids_and_texts(archive)
        names = _read_texts(archive, "images/names")
        _check_unique(archive, "images/names", names)
        text_embeddings, image_embeddings = text_reader.result(), image_reader.result()
        _check_captions(archive, ids, texts, text_embeddings)
        _check_length(archive, "images/names", len(names), "images/embeddings", len(image_embeddings))
        _check_metadata(archive, "metadata/num_images", len(names))
        _check_metadata(archive, "metadata/embedding_dim_image", image_embeddings.shape[1])
        label_shape, image_of_caption = label_reader.result()
        if label_shape != (len(ids), len(names)):
            wanted = f"{(len(ids), len(names))}, (captions, images)"
            raise InputError(f"{path}: captions/label has shape {label_shape}; expected {wanted}")
    return Pairs(
        caption_ids=ids,
        caption_texts=texts,
        text_embeddings=text_embeddings,
        image_of_caption=image_of_caption,
        image_names=names,
        image_embeddings=image_embeddings,
        source=path,
    )


def _read_ids_and_texts(archive: NpzReader) -> tuple[np.ndarray, np.ndarray]:
    ids = archive.array("captions/ids", rank=1, kind="iu").astype(np.int64)
    _check_unique(archive, "captions/ids", ids)
    return ids, _read_texts(archive, "captions/text")


def _read_texts(archive: NpzReader, key: str) -> np.ndarray:
    """Read text as Python strings: the file spends 4 bytes a character on the longest one's length for each."""
    texts = [text for block in archive.blocks(key, rank=1, kind="U") for text in block.tolist()]
    return np.array(texts, object)


def _read_embeddings(archive: NpzReader, key: str) -> np.ndarray:
    """Read a (rows, width) float32 array and insist that it is finite."""
    embeddings = archive.array(key, rank=2, kind="f")
    if embeddings.size == 0:
        raise InputError(f"{archive.path}: {key} is empty, shape {embeddings.shape}")
    blocks = range(0, len(embeddings), CHECK_BLOCK_ROWS)
    # A sum is finite exactly when its row is (float64 cannot overflow here): one pass, no mask as large as the data.
    sums = np.concatenate([embeddings[i : i + CHECK_BLOCK_ROWS].sum(axis=1, dtype=np.float64) for i in blocks])
    bad = np.flatnonzero(~np.isfinite(sums))
    if len(bad):
        raise InputError(
            f"{archive.path}: {key} has NaN or infinite numbers in {len(bad)} rows, the first is row {bad[0]}"
        )
    return embeddings


def _read_labels(archive: NpzReader) -> tuple[tuple[int, ...], np.ndarray]:
    """Stream the boolean labels: their shape (N, M), and the column of the one True of each row, (N,) int32."""
    key = "captions/label"
    header = archive.header(key, rank=2, kind="b")
    num_captions = header.shape[0]
    true_at, found, start = [], 0, 0
    for block in archive.blocks(key, rank=2, kind="b"):
        flat = block.reshape(-1)
        if flat.view(np.uint8).max(initial=0) > 1:
            raise InputError(f"{archive.path}: {key} has bytes other than 0 and 1, which are no booleans")
        true_at.append(np.flatnonzero(flat) + start)
        found += len(true_at[-1])
        start += flat.size
        if found > num_captions:
            break
    outer, inner = np.divmod(np.concatenate([*true_at, np.empty(0, np.int64)]), header.stored_shape[1])
    captions, images = (inner, outer) if header.fortran_order else (outer, inner)
    counts = np.bincount(captions, minlength=num_captions)
    for faulty, what in ((counts > 1, "several images"), (counts == 0, "no image")):
        if faulty.any():
            raise InputError(f"{archive.path}: {key} gives caption {faulty.argmax()} {what}; expected one")
    image_of_caption = np.empty(num_captions, np.int32)
    image_of_caption[captions] = images
    return header.shape, image_of_caption


def _check_captions(archive: NpzReader, ids: np.ndarray, texts: np.ndarray, embeddings: np.ndarray) -> None:
    _check_length(archive, "captions/ids", len(ids), "captions/embeddings", len(embeddings))
    _check_length(archive, "captions/text", len(texts), "captions/embeddings", len(embeddings))
    _check_metadata(archive, "metadata/num_captions", len(ids))
    _check_metadata(archive, "metadata/embedding_dim_text", embeddings.shape[1])


def _check_length(archive: NpzReader, key: str, length: int, other_key: str, other_length: int) -> None:
    if length != other_length:
        raise InputError(f"{archive.path}: {key} has {length} rows but {other_key} has {other_length}")


def _check_unique(archive: NpzReader, key: str, values: np.ndarray) -> None:
    unique, counts = np.unique(values, return_counts=True)
    if len(unique) != len(values):
        repeated, repeats = unique[counts > 1][0], len(values) - len(unique)
        raise InputError(f"{archive.path}: {key} repeats {repeated!s} ({repeats} repeats in all)")


def _check_metadata(archive: NpzReader, key: str, actual: int) -> None:
    value = archive.array(key, rank=None, kind="iu").item()
    if value != actual:
        raise InputError(f"{archive.path}: {key} says {value} but the arrays say {actual}")


def _write_captions(archive: NpzWriter, captions: Pairs | TestCaptions) -> None:
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


def _pack(pairs: Pairs) -> dict[str, np.ndarray]:
    """The arrays of `pairs` as plain numbers: texts become the bytes of a JSON list."""
    arrays = {field.name: getattr(pairs, field.name) for field in fields(pairs) if field.name != "source"}
    texts = {
        name: np.frombuffer(json.dumps(array.tolist()).encode(), np.uint8)
        for name, array in arrays.items()
        if array.dtype == object
    }
    return arrays | texts


def _unpack(arrays: dict[str, np.ndarray], source: Path) -> Pairs:
    texts = {
        name: np.array(json.loads(array.tobytes()), object) for name, array in arrays.items() if array.dtype == np.uint8
    }
    return Pairs(**(arrays | texts), source=source)
