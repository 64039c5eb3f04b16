"""The challenge's caption-image pairs: open, select and save `train.npz`; open `test.clean.npz`.

Shapes: N captions, M images, T text width, V image width.

The file labels each caption with a boolean row of length M: 3.1 GB at the challenge's size. That matrix is
never held: its rows are streamed from the archive, each becoming one int32 image index, and streamed out again
on saving.
"""

import hashlib
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np

from src.files import InputError, atomic_path, require_file

LABEL_BLOCK_BYTES = 8 << 20
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


def open_pairs(path: str | Path) -> Pairs:
    """Open a `train.npz` (or a filtered one). Raises InputError that names the file and what is wrong in it."""
    path = require_file(path, "run `bash setup.sh` to prepare data/")
    with _open_archive(path) as archive:
        ids, texts, text_embeddings = _read_captions(archive, path)
        names = _read_array(archive, path, "images/names", rank=1, kind="U")
        image_embeddings = _read_embeddings(archive, path, "images/embeddings")
        _check_length(path, "images/names", len(names), "images/embeddings", len(image_embeddings))
        _check_unique(path, "images/names", names)
        _check_metadata(archive, path, "metadata/num_images", len(names))
        _check_metadata(archive, path, "metadata/embedding_dim_image", image_embeddings.shape[1])
        image_of_caption = _read_labels(archive, path, (len(ids), len(names)))
    return Pairs(
        caption_ids=ids,
        caption_texts=texts,
        text_embeddings=text_embeddings,
        image_of_caption=image_of_caption,
        image_names=names.astype(object),
        image_embeddings=image_embeddings,
        source=path,
    )


def open_test_captions(path: str | Path) -> TestCaptions:
    """Open a `test.clean.npz`. Raises InputError that names the file and what is wrong in it."""
    path = require_file(path, "run `bash setup.sh` to prepare data/")
    with _open_archive(path) as archive:
        ids, texts, embeddings = _read_captions(archive, path)
    return TestCaptions(caption_ids=ids, caption_texts=texts, text_embeddings=embeddings, source=path)


def embedding_dims(path: str | Path) -> dict[str, int]:
    """The widths of a data file's embeddings, {"text": T, "image": V}, read from the headers alone.

    A `test.clean.npz` has no "image". Raises InputError as `open_pairs` does.
    """
    path, dims = require_file(path), {}
    with _open_archive(path) as archive:
        for name, key in (("text", "captions/embeddings"), ("image", "images/embeddings")):
            if f"{key}.npy" in archive.namelist():
                with _open_member(archive, path, key) as member:
                    dims[name] = int(_read_header(member, path, key, rank=2)[0][1])
    return dims


def fingerprint(path: str | Path) -> str:
    """16 hex digits that identify an archive's contents, from the CRC-32 and size that it keeps of each member.

    Costs microseconds whatever the file's size. Opening the file checks those CRCs against the bytes.
    """
    with _open_archive(require_file(path)) as archive:
        members = sorted((item.filename, item.file_size, item.CRC) for item in archive.infolist())
    return hashlib.sha256(repr(members).encode()).hexdigest()[:16]


def save_pairs(pairs: Pairs, path: str | Path) -> None:
    """Save in the challenge's layout, the (N, M) label matrix streamed row by row; whole or not at all."""
    sizes = {
        "num_captions": len(pairs),
        "num_images": pairs.num_images,
        "embedding_dim_text": pairs.text_embeddings.shape[1],
        "embedding_dim_image": pairs.image_embeddings.shape[1],
    }
    with _create_archive(path, sizes) as archive:
        _write_captions(archive, pairs)
        _write_labels(archive, pairs.image_of_caption, pairs.num_images)
        _write_array(archive, "images/names", pairs.image_names.astype(str))
        _write_array(archive, "images/embeddings", pairs.image_embeddings)


def save_test_captions(captions: TestCaptions, path: str | Path) -> None:
    """Save captions without images in the layout of `test.clean.npz`, whole or not at all."""
    sizes = {"num_captions": len(captions), "embedding_dim_text": captions.text_embeddings.shape[1]}
    with _create_archive(path, sizes) as archive:
        _write_captions(archive, captions)


@contextmanager
def _open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open the NPZ; what zipfile and zlib say of a damaged file becomes an InputError."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise InputError(f"{path}: not an NPZ file, or a truncated or damaged one ({error})") from None


@contextmanager
def _open_member(archive: zipfile.ZipFile, path: Path, key: str) -> Iterator[IO[bytes]]:
    try:
        member = archive.open(f"{key}.npy")
    except KeyError:
        raise InputError(f"{path}: has no key {key!r}") from None
    with member:
        yield member


def _read_header(member: IO[bytes], path: Path, key: str, *, rank: int) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Read an NPY header: shape, whether in Fortran order, dtype."""
    try:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read(member)
    except ValueError as error:
        raise InputError(f"{path}: {key} is not a NumPy array ({error})") from None
    if dtype.hasobject:
        raise InputError(
            f"{path}: {key} holds Python objects, which are never loaded; save it as plain numbers or text"
        )
    if len(shape) != rank:
        raise InputError(f"{path}: {key} has shape {shape}; expected {rank} dimension{'s' * (rank > 1)}")
    return shape, fortran_order, dtype


def _read_array(archive: zipfile.ZipFile, path: Path, key: str, *, rank: int, kind: str) -> np.ndarray:
    """Read one member whose dtype kind is in `kind`: "i" any integer, "f" float32, "U" unicode."""
    with _open_member(archive, path, key) as member:
        _, _, dtype = _read_header(member, path, key, rank=rank)
    wanted = {"iu": "integers", "f": "float32", "U": "unicode text"}[kind]
    if dtype.kind not in kind or (kind == "f" and dtype.itemsize != 4):
        raise InputError(f"{path}: {key} has dtype {dtype}; expected {wanted}")
    with _open_member(archive, path, key) as member:
        try:
            return np.lib.format.read_array(member, allow_pickle=False)
        except ValueError as error:
            raise InputError(f"{path}: {key} cannot be read ({error})") from None


def _read_embeddings(archive: zipfile.ZipFile, path: Path, key: str) -> np.ndarray:
    """Read a (rows, width) float32 array and insist that it is finite."""
    embeddings = np.ascontiguousarray(_read_array(archive, path, key, rank=2, kind="f"))
    if embeddings.size == 0:
        raise InputError(f"{path}: {key} is empty, shape {embeddings.shape}")
    blocks = range(0, len(embeddings), CHECK_BLOCK_ROWS)
    # A sum is finite exactly when its row is (float64 cannot overflow here): one pass, no mask as large as the data.
    sums = np.concatenate([embeddings[i : i + CHECK_BLOCK_ROWS].sum(axis=1, dtype=np.float64) for i in blocks])
    bad = np.flatnonzero(~np.isfinite(sums))
    if len(bad):
        raise InputError(f"{path}: {key} has NaN or infinite numbers in {len(bad)} rows, the first is row {bad[0]}")
    return embeddings


def _read_captions(archive: zipfile.ZipFile, path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ids = _read_array(archive, path, "captions/ids", rank=1, kind="iu").astype(np.int64)
    # Unicode arrays spend 4 bytes a character on the longest caption's length: keep Python strings instead.
    texts = _read_array(archive, path, "captions/text", rank=1, kind="U").astype(object)
    embeddings = _read_embeddings(archive, path, "captions/embeddings")
    _check_length(path, "captions/ids", len(ids), "captions/embeddings", len(embeddings))
    _check_length(path, "captions/text", len(texts), "captions/embeddings", len(embeddings))
    _check_unique(path, "captions/ids", ids)
    _check_metadata(archive, path, "metadata/num_captions", len(ids))
    _check_metadata(archive, path, "metadata/embedding_dim_text", embeddings.shape[1])
    return ids, texts, embeddings


def _read_labels(archive: zipfile.ZipFile, path: Path, expected: tuple[int, int]) -> np.ndarray:
    """Stream the (N, M) boolean labels; return the index of the one True of each row, (N,) int32."""
    key = "captions/label"
    with _open_member(archive, path, key) as member:
        shape, fortran_order, dtype = _read_header(member, path, key, rank=2)
        if dtype != np.bool_:
            raise InputError(f"{path}: {key} has dtype {dtype}; expected bool")
        if fortran_order:
            raise InputError(f"{path}: {key} is stored column by column; save np.ascontiguousarray of it")
        if shape != expected:
            raise InputError(f"{path}: {key} has shape {shape}; expected {expected}, (captions, images)")
        num_captions, num_images = expected
        image_of_caption = np.empty(num_captions, np.int32)
        rows_a_block = max(1, LABEL_BLOCK_BYTES // num_images)
        for start in range(0, num_captions, rows_a_block):
            rows = min(rows_a_block, num_captions - start)
            block = member.read(rows * num_images)
            if len(block) != rows * num_images:
                raise InputError(f"{path}: {key} ends early, in row {start + len(block) // num_images}")
            where = np.flatnonzero(np.frombuffer(block, np.bool_))
            counts = np.bincount(where // num_images, minlength=rows)
            if (counts != 1).any():
                row = int(np.flatnonzero(counts != 1)[0])
                raise InputError(f"{path}: {key} gives caption {start + row} {counts[row]} images; expected one")
            image_of_caption[start : start + rows] = where % num_images
    return image_of_caption


def _check_length(path: Path, key: str, length: int, other_key: str, other_length: int) -> None:
    if length != other_length:
        raise InputError(f"{path}: {key} has {length} rows but {other_key} has {other_length}")


def _check_unique(path: Path, key: str, values: np.ndarray) -> None:
    unique, counts = np.unique(values, return_counts=True)
    if len(unique) != len(values):
        raise InputError(
            f"{path}: {key} repeats {unique[counts > 1][0]!s} ({len(values) - len(unique)} repeats in all)"
        )


def _check_metadata(archive: zipfile.ZipFile, path: Path, key: str, actual: int) -> None:
    value = _read_array(archive, path, key, rank=1, kind="iu")
    if value.tolist() != [actual]:
        raise InputError(f"{path}: {key} says {value.tolist()} but the arrays say {actual}")


@contextmanager
def _create_archive(path: str | Path, metadata: dict[str, int]) -> Iterator[zipfile.ZipFile]:
    with (
        atomic_path(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        for name, value in metadata.items():
            _write_array(archive, f"metadata/{name}", np.array([value], np.int64))
        yield archive


@contextmanager
def _create_member(archive: zipfile.ZipFile, key: str) -> Iterator[IO[bytes]]:
    """Open a member for writing under a fixed date, so that equal contents give equal files."""
    info = zipfile.ZipInfo(f"{key}.npy")
    info.compress_type = zipfile.ZIP_DEFLATED
    with archive.open(info, "w", force_zip64=True) as member:
        yield member


def _write_array(archive: zipfile.ZipFile, key: str, array: np.ndarray) -> None:
    with _create_member(archive, key) as member:
        np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)


def _write_captions(archive: zipfile.ZipFile, captions: Pairs | TestCaptions) -> None:
    _write_array(archive, "captions/ids", captions.caption_ids)
    _write_array(archive, "captions/text", captions.caption_texts.astype(str))
    _write_array(archive, "captions/embeddings", captions.text_embeddings)


def _write_labels(archive: zipfile.ZipFile, image_of_caption: np.ndarray, num_images: int) -> None:
    header = {"descr": "|b1", "fortran_order": False, "shape": (len(image_of_caption), num_images)}
    rows_a_block = max(1, LABEL_BLOCK_BYTES // num_images)
    with _create_member(archive, "captions/label") as member:
        np.lib.format.write_array_header_1_0(member, header)
        for start in range(0, len(image_of_caption), rows_a_block):
            images = image_of_caption[start : start + rows_a_block]
            block = np.zeros((len(images), num_images), np.bool_)
            block[np.arange(len(images)), images] = True
            member.write(block.tobytes())
