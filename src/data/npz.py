"""NPZ archives, read and written as streams: a zip of `.npy` members that need not fit into memory.

Different threads may read different members of one archive at once. Pickled objects are never loaded. What is wrong
with a file is an InputError that names the file and the member.

Other people's tools write the same values as other dtypes: float64 for float32, 0 and 1 for booleans, ids as text.
These are read as what is expected if every value is the same afterwards, which one logged line says, else refused.
"""

import logging
import math
import re
import sys
import threading
import warnings
import zipfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

try:
    from isal import isal_zlib  # zlib's interface and results, more than twice as fast
except ImportError:
    import zlib as isal_zlib  # type: ignore[no-redef]

from src.common.files import InputError, atomic_path, require_file

BLOCK_BYTES = 1 << 20  # of rows handed out at a time
RANKS = ("one number", "1 dimension", "2 dimensions")
SURROGATE = re.compile("[\ud800-\udfff]")
_PARSER = threading.Lock()  # NumPy parses headers by ast, which in Python 3.11 may fail when threads switch in it


class Kind(NamedTuple):
    """What a member is read as: its name in messages, the dtype, and the kinds of dtype that may hold such values."""

    name: str
    dtype: np.dtype
    kinds: str


KINDS = {
    "b": Kind("bool", np.dtype(np.bool_), "biuf"),
    "i": Kind("int64", np.dtype(np.int64), "iufSU"),
    "f": Kind("float32", np.dtype(np.float32), "fiub"),
    "U": Kind("unicode text", np.dtype(np.str_), "SU"),
}


class Header(NamedTuple):
    """What a member says of its array."""

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype


def open_npz(path: str | Path, hint: str = "") -> "NpzReader":
    """Open an archive for reading. Raises InputError: no such file (then with `hint`), not an NPZ, or damaged."""
    try:
        return NpzReader(require_file(path, hint))
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not an NPZ file, or a truncated or damaged one ({error})") from None


class NpzReader(zipfile.ZipFile):
    """The members of an archive, by key: the member's name without `.npy`.

    `rank` and `kind` say what the caller expects, else InputError. rank: 0 (one number, of shape () or (1,)), 1 or 2;
    kind: a key of KINDS.
    """

    def __contains__(self, key: str) -> bool:
        return f"{key}.npy" in self.NameToInfo

    def error(self, key: str, what: str) -> InputError:
        return InputError(f"{self.filename}: {key} {what}")

    def note(self, key: str, what: str) -> None:
        """Tell the user what is read otherwise than it stands there."""
        logging.getLogger(__name__).warning("%s: %s %s", self.filename, key, what)

    def header(self, key: str, *, rank: int | Collection[int], kind: str) -> Header:
        ranks = (rank,) if isinstance(rank, int) else rank
        with self._open_member(key) as member:
            version = np.lib.format.read_magic(member)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            with _PARSER, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what Python 2 wrote
                header = Header(*read(member))
            shape, dtype = header.shape, header.dtype
            if dtype.hasobject:
                raise self.error(key, "holds Python objects, which are never loaded; save it as plain numbers or text")
            size = self.getinfo(f"{key}.npy").file_size - member.tell()
            if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != size:
                raise self.error(key, f"has shape {shape} and dtype {dtype} but holds {size} bytes")
            if dtype.kind not in KINDS[kind].kinds:
                raise self.error(key, f"has dtype {dtype}; expected {KINDS[kind].name}")
            if len(shape) not in ranks and not (rank == 0 and shape == (1,)):
                raise self.error(key, f"has shape {shape}; expected {' or '.join(RANKS[rank] for rank in ranks)}")
        return header

    def array(self, key: str, *, rank: int, kind: str, out: np.ndarray | None = None) -> np.ndarray:
        """A whole member of numbers, contiguous, as the dtype of its kind; `out`, filled, if that is given."""
        shape, fortran_order, _ = self.header(key, rank=rank, kind=kind)
        array, start = np.empty(shape or (1,), KINDS[kind].dtype) if out is None else out, 0
        rows = array.T if fortran_order else array
        for block in self.blocks(key, rank=rank, kind=kind):
            rows[start : start + len(block)] = block
            start += len(block)
        return array

    def blocks(self, key: str, *, rank: int, kind: str) -> Iterator[np.ndarray]:
        """A member's rows, read-only, as the dtype of their kind, some BLOCK_BYTES at a time; its columns, as rows, if
        it is in Fortran order."""
        shape, fortran_order, dtype = self.header(key, rank=rank, kind=kind)
        length, *row_shape = (shape[::-1] if fortran_order else shape) or (1,)
        row_bytes = math.prod(row_shape) * dtype.itemsize
        rows = max(1, BLOCK_BYTES // max(1, row_bytes))
        with self._open_member(key) as member:
            member.read(self.getinfo(f"{key}.npy").file_size - length * row_bytes)  # the header
            for start in range(0, length, rows):
                count = min(rows, length - start)
                block = np.frombuffer(member.read(count * row_bytes), dtype).reshape(count, *row_shape)
                if dtype.kind == "b" and block.view(np.uint8).max(initial=0) > 1:
                    raise self.error(key, "has bytes other than 0 and 1, which are no booleans")
                try:
                    converted = _convert(block, kind)
                except (ValueError, OverflowError) as error:
                    what = f"has dtype {dtype}; expected {KINDS[kind].name}, which cannot hold all of its values"
                    raise self.error(key, f"{what} ({error})") from None
                yield converted
        if rank and (dtype.kind != KINDS[kind].dtype.kind or (kind == "f" and dtype.itemsize != 4)):
            self.note(key, f"has dtype {dtype}; read as {KINDS[kind].name} without loss")

    def texts(self, key: str, *, rank: int, errors: str = "strict") -> list[str]:
        """A member's texts as Python strings: the file spends 4 bytes a character on the longest one's length each.

        What UTF-8 cannot hold, half of a surrogate pair, is an InputError or, with `errors` "replace", becomes U+FFFD.
        """
        texts: list[str] = []
        for block in self.blocks(key, rank=rank, kind="U"):
            texts += block.tolist()
        halves = [row for row, text in enumerate(texts) if not text.isascii() and SURROGATE.search(text)]
        if halves and errors == "strict":
            what = f"holds half a character, which no file can, in row {halves[0]}: {texts[halves[0]]!r}"
            raise self.error(key, what)
        for row in halves:  # this makes one character of two halves that belong together
            texts[row] = texts[row].encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        if halves:
            self.note(key, f"holds half characters in {len(halves)} rows; read as U+FFFD")
        return texts

    @contextmanager
    def _open_member(self, key: str) -> Iterator[IO[bytes]]:
        if key not in self:
            keys = ", ".join(name.removesuffix(".npy") for name in self.namelist()[:12]) or "none"
            raise InputError(f"{self.filename}: has no key {key!r}; it has {keys}")
        info, crc = self.getinfo(f"{key}.npy"), 0

        def update_crc(data: bytes) -> None:
            nonlocal crc
            crc = isal_zlib.crc32(data, crc)
            if member._eof and crc != info.CRC:  # type: ignore[attr-defined]
                raise zipfile.BadZipFile("bad CRC-32")

        try:
            with self.open(info) as member:
                # zipfile offers no choice of its inflater and checksum. Should it rename these, its own do the work.
                if info.compress_type == zipfile.ZIP_DEFLATED:
                    member._decompressor = isal_zlib.decompressobj(-15)  # type: ignore[attr-defined]
                member._update_crc = update_crc  # type: ignore[attr-defined]
                yield member
        except InputError:
            raise
        except Exception as error:  # zipfile, the inflater and NumPy's parser raise a dozen kinds for damaged bytes
            reason = str(error) or "it ends early"
            raise self.error(key, f"is damaged, encrypted or no NumPy array ({reason})") from error


def _convert(block: np.ndarray, kind: str) -> np.ndarray:
    """A block as the dtype of its kind. Raises ValueError or OverflowError if a value would be another one then."""
    target = KINDS[kind].dtype
    if block.dtype.kind == "U" and block.view(f"{block.dtype.byteorder}u4").max(initial=0) > sys.maxunicode:
        raise ValueError("there are no such characters")
    if kind == "U":
        return np.char.decode(block, "utf-8") if block.dtype.kind == "S" else block
    if np.can_cast(block.dtype, target):
        return block.astype(target, copy=False)
    with np.errstate(all="ignore"):
        converted = block.astype(target)
        same = converted.astype(block.dtype) == block
    if block.dtype.kind == "u":
        same &= converted >= 0
    if kind == "f" and block.dtype.kind == "f":
        same |= np.isnan(block)
    if not same.all():
        raise ValueError(f"such as {block[~same][0].item()!r}")
    return converted


@contextmanager
def create_npz(path: str | Path) -> Iterator["NpzWriter"]:
    """Write an archive, whole or not at all; equal contents give equal files."""
    with atomic_path(path) as temporary, NpzWriter(temporary, "w") as archive:
        yield archive


class NpzWriter(zipfile.ZipFile):
    """Adds members to a new archive. Floats are stored: deflating embeddings saves 7% and takes 30 times as long."""

    def array(self, key: str, array: np.ndarray) -> None:
        self.blocks(key, array.shape, array.dtype, [array])

    def blocks(self, key: str, shape: tuple[int, ...], dtype: np.dtype, blocks: Iterable[np.ndarray]) -> None:
        """Add an array of `shape` and `dtype`, numbers or text, that comes as blocks of rows."""
        assert not dtype.hasobject, f"{key}: Python objects are never written"
        info = zipfile.ZipInfo(f"{key}.npy")  # carries a fixed date
        info.compress_type = zipfile.ZIP_STORED if dtype.kind == "f" else zipfile.ZIP_DEFLATED
        info._compresslevel = 1  # type: ignore[attr-defined]
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        with self.open(info, "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, header)
            for block in blocks:
                member.write(np.ascontiguousarray(block).data)
