"""Arrays kept beside the file that they were read from, so that opening it again is a memory map.

`train.npz` gets `train.npz.cache`, a safetensors file that is safe to delete; where there is a folder for caches, as
for data that lie where nothing can be written, it goes there. A cache of other contents, of another version or a
damaged one counts as none; a folder that cannot be written to gets none.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Set
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np
from safetensors import SafetensorError, safe_open

from src.common.files import atomic_path

CACHE_VERSION = 2  # of what is kept and how
DTYPES = {"I64": "<i8", "I32": "<i4", "F32": "<f4", "U8": "u1"}
CODES = {np.dtype(dtype): code for code, dtype in DTYPES.items()}
DATA_FROM = 4096  # bytes: the header before them is known last, and filled up with blanks

# Makes an array of this name, shape and dtype, for the caller to fill.
Allocate = Callable[[str, tuple[int, ...], np.dtype], np.ndarray]


FOLDER = "T2I_CACHE_DIR"  # the environment variable that names a folder for caches


def cache_path(source: Path, folder: Path | None = None) -> Path:
    """Where what is kept of a file lies: in the folder for caches if one is given or the environment names one."""
    if folder is None and os.environ.get(FOLDER):
        folder = Path(os.environ[FOLDER])
    if folder is None:
        return source.with_name(source.name + ".cache")
    of_source = hashlib.sha256(str(source.resolve()).encode()).hexdigest()[:12]
    return folder.expanduser() / f"{source.name}-{of_source}.cache"


def read_cache(cache: Path, contents: str, names: Set[str]) -> dict[str, np.ndarray] | None:
    """The arrays of these names that were kept in `cache` when `contents` was the file's fingerprint, or None. Numbers
    are mapped copy-on-write: read when used, shared between processes, and a change stays in this process."""
    arrays = {}
    try:
        with safe_open(cache, framework="numpy") as checked:  # that header and length of the file agree
            if checked.metadata() != _metadata(contents):
                return None
        # The arrays that safe_open itself gives to NumPy are copies.
        with cache.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(header_bytes))
            data = np.memmap(file, mode="c", offset=8 + header_bytes).view(np.ndarray)
        del header["__metadata__"]
        if header.keys() != names:
            return None
        for name, entry in header.items():
            array = data[slice(*entry["data_offsets"])].view(DTYPES[entry["dtype"]]).reshape(entry["shape"])
            arrays[name] = np.array(json.loads(array.tobytes()), object) if array.dtype == np.uint8 else array
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    return arrays


def write_cache(cache: Path, contents: str, read: Callable[[Allocate], Mapping[str, np.ndarray]]) -> None:
    """Keep what `read` returns in place of what was there before: arrays of int64, int32, float32 or, as
    objects, str (a JSON list). Those that it has allocated are the file itself, so that they need not fit into memory.
    Do nothing where that is impossible."""
    header: dict[str, dict] = {"__metadata__": _metadata(contents)}

    with suppress(OSError), atomic_path(cache) as temporary, temporary.open("r+b") as file:

        def allocate(name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
            start, size = file.seek(0, os.SEEK_END), math.prod(shape) * dtype.itemsize
            _lengthen(file, size)
            offsets = [start - DATA_FROM, start - DATA_FROM + size]
            header[name] = {"dtype": CODES[dtype], "shape": shape, "data_offsets": offsets}
            return np.memmap(file, dtype, "r+", start, shape).view(np.ndarray)

        file.truncate(DATA_FROM)
        for name, array in read(allocate).items():
            if name not in header:
                if array.dtype == object:
                    array = np.frombuffer(json.dumps(array.tolist()).encode(), np.uint8)
                allocate(name, array.shape, array.dtype)[:] = array
        file.seek(0)
        file.write((DATA_FROM - 8).to_bytes(8, "little") + json.dumps(header).encode().ljust(DATA_FROM - 8))


def _lengthen(file: IO[bytes], size: int) -> None:
    """Add bytes at the end that the disk has room for: where it is full, writing to a memory map kills the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), file.tell(), size)
    else:  # macOS
        for start in range(0, size, DATA_FROM):
            file.write(bytes(min(DATA_FROM, size - start)))
        file.flush()


def _metadata(contents: str) -> dict[str, str]:
    return {"version": str(CACHE_VERSION), "contents": contents}
