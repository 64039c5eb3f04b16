"""Arrays kept beside the file that they were read from, so that opening it again is a memory map.

`train.npz` gets `train.npz.cache`: a safetensors file of the arrays, whose metadata say what it was made of (the
source's size, time and fingerprint). It is safe to delete at any time. A cache of another source, of another version
or a damaged one counts as none; a folder that cannot be written to gets none.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from src.common.files import atomic_path
from src.data.npz import open_npz

VERSION = 1  # of what is kept and how
DTYPES = {"I64": "<i8", "I32": "<i4", "F32": "<f4", "U8": "u1"}


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
        with safe_open(cache_path(source), framework="numpy") as checked:  # that header and length of the file agree
            if checked.metadata() != stamp:
                return None
        # The arrays that safe_open itself gives to NumPy are copies.
        with cache_path(source).open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(header_bytes))
            data = np.memmap(file, mode="c", offset=8 + header_bytes).view(np.ndarray)
        del header["__metadata__"]
        return {
            name: data[slice(*entry["data_offsets"])].view(DTYPES[entry["dtype"]]).reshape(entry["shape"])
            for name, entry in header.items()
        }
    except (OSError, SafetensorError, KeyError):
        return None


def write_cache(source: Path, stamp: dict[str, str], arrays: dict[str, np.ndarray]) -> None:
    """Keep `arrays` (contiguous) of `source`, in place of what was kept before; do nothing where that is impossible."""
    try:
        with atomic_path(cache_path(source)) as temporary:
            save_file(arrays, temporary, metadata=stamp)
    except (OSError, SafetensorError):
        return
