"""Arrays kept beside the file that they were read from, so that opening it again is a memory map.

`train.npz` gets `train.npz.cache`, a safetensors file that is safe to delete. A cache of other contents, of another
version or a damaged one counts as none; a folder that cannot be written to gets none.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from src.common.files import atomic_path

CACHE_VERSION = 2  # of what is kept and how
DTYPES = {"I64": "<i8", "I32": "<i4", "F32": "<f4", "U8": "u1"}


def cache_path(source: Path) -> Path:
    return source.with_name(source.name + ".cache")


def read_cache(source: Path, contents: str) -> dict[str, np.ndarray] | None:
    """The arrays that were kept of `source` when `contents` was its fingerprint, or None. Numbers are mapped
    copy-on-write: read when used, shared between processes, and a change stays in this process."""
    arrays = {}
    try:
        with safe_open(cache_path(source), framework="numpy") as checked:  # that header and length of the file agree
            if checked.metadata() != _metadata(contents):
                return None
        # The arrays that safe_open itself gives to NumPy are copies.
        with cache_path(source).open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(header_bytes))
            data = np.memmap(file, mode="c", offset=8 + header_bytes).view(np.ndarray)
        del header["__metadata__"]
        for name, entry in header.items():
            array = data[slice(*entry["data_offsets"])].view(DTYPES[entry["dtype"]]).reshape(entry["shape"])
            arrays[name] = np.array(json.loads(array.tobytes()), object) if array.dtype == np.uint8 else array
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    return arrays


def write_cache(source: Path, contents: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Keep contiguous arrays of int64, int32, float32 or, as objects, str (a JSON list) in place of what was kept of
    `source` before; do nothing where that is impossible."""
    numbers = {
        name: np.frombuffer(json.dumps(array.tolist()).encode(), np.uint8) if array.dtype == object else array
        for name, array in arrays.items()
    }
    with suppress(OSError, SafetensorError), atomic_path(cache_path(source)) as temporary:
        save_file(numbers, temporary, metadata=_metadata(contents))


def _metadata(contents: str) -> dict[str, str]:
    return {"version": str(CACHE_VERSION), "contents": contents}
