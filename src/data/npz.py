"""NPZ archives, read and written as streams: a zip of `.npy` members that need not fit into memory.

Reading asks one thing at a time: a member's header, its blocks of rows, or the whole array. Different threads may
read different members of one archive at once. Pickled objects are never loaded. What is wrong with a file is an
InputError that names the file and the member.
"""

import hashlib
import io
import math
import struct
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import IO, NamedTuple

import numpy as np

try:
    from isal import isal_zlib as zlib  # the same interface and results, about twice as fast
except ImportError:
    import zlib

from src.common.files import InputError, atomic_path, require_file

BLOCK_BYTES = 1 << 20  # of rows handed out at a time
CHUNK_BYTES = 1 << 18  # inflated at a time: stays in the processor's cache
WANTED = {"iu": "integers", "f": "float32", "U": "unicode text", "b": "bool"}


class Header(NamedTuple):
    """What a member says of its array. `stored_shape` is the order of its bytes: reversed if in Fortran order."""

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype

    @property
    def stored_shape(self) -> tuple[int, ...]:
        return self.shape[::-1] if self.fortran_order else self.shape


@contextmanager
def open_npz(path: str | Path, hint: str = "") -> Iterator["NpzReader"]:
    """Open an archive for reading. Raises InputError: no such file (then with `hint`), not an NPZ, or damaged."""
    path = require_file(path, hint)
    try:
        with zipfile.ZipFile(path) as archive:
            yield NpzReader(path, archive)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not an NPZ file, or a truncated or damaged one ({error})") from None


class NpzReader:
    """The members of an open archive, by key: the member's name without `.npy`."""

    def __init__(self, path: Path, archive: zipfile.ZipFile):
        self.path = path
        self._archive = archive

    def __contains__(self, key: str) -> bool:
        return f"{key}.npy" in self._archive.NameToInfo

    def fingerprint(self) -> str:
        """16 hex digits that identify the contents, from the CRC-32 and size that the archive keeps of each member."""
        members = sorted((item.filename, item.file_size, item.CRC) for item in self._archive.infolist())
        return hashlib.sha256(repr(members).encode()).hexdigest()[:16]

    def header(self, key: str, *, rank: int | None, kind: str) -> Header:
        """A member's shape and dtype. Raises InputError unless it has `rank` dimensions and a dtype of `kind`.

        rank None: one number, of shape () or (1,). kind: "iu" any integer, "f" float32, "U" unicode text, "b" bool.
        """
        with self._open(key) as (_, header):
            shape, _, dtype = header
        if dtype.hasobject:
            raise self._error(key, "holds Python objects, which are never loaded; save it as plain numbers or text")
        if dtype.kind not in kind or (kind == "f" and dtype.itemsize != 4) or not dtype.itemsize:
            raise self._error(key, f"has dtype {dtype}; expected {WANTED[kind]}")
        if rank is None and shape not in ((), (1,)):
            raise self._error(key, f"has shape {shape}; expected one number")
        if rank is not None and len(shape) != rank:
            raise self._error(key, f"has shape {shape}; expected {rank} dimension{'s' * (rank > 1)}")
        return header

    def array(self, key: str, *, rank: int | None, kind: str) -> np.ndarray:
        """A whole member, contiguous and in the machine's byte order. Raises InputError as `header` does."""
        header = self.header(key, rank=rank, kind=kind)
        array = np.empty(header.stored_shape, header.dtype)
        with self._open(key) as (member, _):
            member.readinto(array.reshape(-1).view(np.uint8))
        array = np.ascontiguousarray(array.T if header.fortran_order else array)
        return array.astype(array.dtype.newbyteorder("="), copy=False)

    def blocks(self, key: str, *, rank: int, kind: str) -> Iterator[np.ndarray]:
        """A member's rows, in the order of its bytes (see Header), some BLOCK_BYTES at a time.

        Each block is overwritten by the next one. Raises InputError as `header` does.
        """
        header = self.header(key, rank=rank, kind=kind)
        length, *row_shape = header.stored_shape
        rows = max(1, BLOCK_BYTES // max(1, math.prod(row_shape) * header.dtype.itemsize))
        buffer = np.empty((min(rows, length), *row_shape), header.dtype)
        with self._open(key) as (member, _):
            for start in range(0, length, rows):
                block = buffer[: length - start]
                member.readinto(block.reshape(-1).view(np.uint8))
                yield block

    @contextmanager
    def _open(self, key: str) -> Iterator[tuple[IO[bytes], Header]]:
        """A member's bytes from its data on, and its header."""
        if key not in self:
            raise InputError(f"{self.path}: has no key {key!r}")
        info = self._archive.getinfo(f"{key}.npy")
        try:
            self._archive.open(info).close()  # holds the member's own header against the archive's directory
        except (RuntimeError, OSError) as error:  # encrypted, or said to lie outside the file
            raise self._error(key, f"cannot be read ({error})") from None
        with self.path.open("rb") as file, io.BufferedReader(_Inflated(file, info)) as member:
            try:
                version = np.lib.format.read_magic(member)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                header = Header(*read(member))
            except (ValueError, TypeError, SyntaxError, TokenError, RecursionError, MemoryError) as error:
                raise self._error(key, f"is not a NumPy array ({error})") from None
            size = info.file_size - member.tell()
            fits = min(header.shape, default=0) >= 0 and math.prod(header.shape) * header.dtype.itemsize == size
            if not header.dtype.hasobject and not fits:
                raise self._error(key, f"has shape {header.shape} and dtype {header.dtype} but holds {size} bytes")
            yield member, header

    def _error(self, key: str, what: str) -> InputError:
        return InputError(f"{self.path}: {key} {what}")


class _Inflated(io.RawIOBase):
    """A member's bytes, inflated and held against its CRC-32: zipfile's own reader, with our choice of zlib."""

    def __init__(self, file: IO[bytes], info: zipfile.ZipInfo):
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise NotImplementedError(f"{info.filename} is neither stored nor deflated")
        file.seek(info.header_offset)
        name_and_extra = struct.unpack("<26xHH", file.read(30))
        file.seek(sum(name_and_extra), io.SEEK_CUR)
        self._file, self._info = file, info
        self._inflater = zlib.decompressobj(-15) if info.compress_type == zipfile.ZIP_DEFLATED else None
        self._compressed_left, self._left, self._crc = info.compress_size, info.file_size, 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._info.file_size - self._left

    def readinto(self, buffer: memoryview) -> int:
        size = min(len(buffer), self._left, CHUNK_BYTES)
        if size == 0:
            return 0
        data = self._inflate(size) if self._inflater else self._read(size)
        if not data:
            raise EOFError(f"{self._info.filename} ends early")
        self._left -= len(data)
        self._crc = zlib.crc32(data, self._crc)
        if self._left == 0 and self._crc != self._info.CRC:
            raise zipfile.BadZipFile(f"bad CRC-32 for {self._info.filename}")
        buffer[: len(data)] = data
        return len(data)

    def _read(self, size: int) -> bytes:
        data = self._file.read(min(size, self._compressed_left))
        self._compressed_left -= len(data)
        return data

    def _inflate(self, size: int) -> bytes:
        data = b""
        while not data and not self._inflater.eof:
            compressed = self._inflater.unconsumed_tail or self._read(CHUNK_BYTES)
            data = self._inflater.decompress(compressed, size)
            if not compressed:
                break
        return data


@contextmanager
def create_npz(path: str | Path) -> Iterator["NpzWriter"]:
    """Write an archive, whole or not at all; equal contents give equal files."""
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        yield NpzWriter(archive)


class NpzWriter:
    """Adds members to a new archive. Floats are stored: deflating embeddings saves 7% and takes 30 times as long."""

    def __init__(self, archive: zipfile.ZipFile):
        self._archive = archive

    def array(self, key: str, array: np.ndarray) -> None:
        """Add a whole array."""
        array = np.ascontiguousarray(array)
        with self._create(key, deflate=array.dtype.kind != "f") as member:
            np.lib.format.write_array(member, array, allow_pickle=False)

    def blocks(self, key: str, shape: tuple[int, ...], dtype: type, blocks: Iterable[np.ndarray]) -> None:
        """Add an array of `shape` that comes as contiguous blocks of rows."""
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
        with self._create(key, deflate=True) as member:
            np.lib.format.write_array_header_1_0(member, header)
            for block in blocks:
                member.write(block.data)

    @contextmanager
    def _create(self, key: str, *, deflate: bool) -> Iterator[IO[bytes]]:
        info = zipfile.ZipInfo(f"{key}.npy")  # carries a fixed date
        info.compress_type = zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED
        info._compresslevel = 1
        with self._archive.open(info, "w", force_zip64=True) as member:
            yield member
