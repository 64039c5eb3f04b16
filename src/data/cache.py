"""Arrays kept beside the file that they were read from, so that opening it again is a memory map.

`train.npz` gets `train.npz.cache`: one file in the safetensors layout, which holds what it was made of (the source's
size, time and fingerprint) and the arrays. It is safe to delete at any time. A cache of another source, of another
version or a damaged one counts as none; a folder that cannot be written to gets none.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from src.common.files import atomic_path
from src.data.npz import open_npz

VERSION = 1  # of what is kept and how
DTYPES = {"I64": np.dtype("<i8"), "I32": np.dtype("<i4"), "F32": np.dtype("<f4"), "U8": np.dtype("u1")}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
ALIGNMENT = 64


def cache_path(source: Path) -> Path:
    return source.with_name(source.name + ".cache")


def source_stamp(source: Path) -> dict[str, str]:
    """What a cache of the archive `source` must have been made of. Raises InputError if it is not an archive."""
    stat = source.stat()
    with open_npz(source) as archive:
        contents = archive.fingerprint()
    return {"version": str(VERSION), "size": str(stat.st_size), "time": str(stat.st_mtime_ns), "contents": contents}


def read_cache(source: Path, stamp: Mapping[str, str]) -> dict[str, np.ndarray] | None:
    """The arrays that were kept of `source` under the same `stamp`, or None.

    They are mapped copy-on-write: read when used, shared between processes, and a change stays in this process.
    """
    try:
        with cache_path(source).open("rb") as file:
            header_size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(header_size))
        if header.pop("__metadata__") != stamp:
            return None
        data = np.memmap(cache_path(source), mode="c", offset=8 + header_size).view(np.ndarray)
        arrays = {}
        for name, entry in header.items():
            start, end = entry["data_offsets"]
            arrays[name] = data[start:end].view(DTYPES[entry["dtype"]]).reshape(entry["shape"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, MemoryError):
        return None
    return arrays


def write_cache(source: Path, stamp: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> None:
    """Keep `arrays` (contiguous) of `source`, in place of what was kept before; do nothing where that is impossible."""
    header, offset = {"__metadata__": dict(stamp)}, 0
    arrays = dict(
        sorted(arrays.items(), key=lambda item: -item[1].itemsize)
    )  # keeps each at a multiple of its itemsize
    for name, array in arrays.items():
        offsets = [offset, offset := offset + array.nbytes]
        header[name] = {"dtype": NAMES[array.dtype], "shape": array.shape, "data_offsets": offsets}
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    try:
        with atomic_path(cache_path(source)) as temporary, temporary.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for array in arrays.values():
                file.write(array.data)
    except OSError:
        return
