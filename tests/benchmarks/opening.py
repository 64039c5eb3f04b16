"""Opening `train.npz`: cold, and again with the cache beside it. No torch in the processes that are measured."""

import os
import struct
import time
import zipfile
from pathlib import Path

import numpy as np

from src.data.cache import cache_path
from src.data.npz import BLOCK_BYTES as CHUNK_BYTES
from src.data.npz import isal_zlib as zlib
from tests.benchmarks.measuring import Cost, Row, Sizes, available_memory, in_own_process

WORDS = ["a", "the", "two", "brown", "white", "dog", "child", "woman", "runs", "plays", "jumps", "on", "with", "grass"]


def make_train_npz(path: Path, sizes: Sizes) -> Path:
    """Random data in the challenge's layout, deflated as `np.savez_compressed` does and the challenge's file is."""
    rng = np.random.default_rng(0)
    captions, images = sizes.captions, sizes.images
    texts = [" ".join(rng.choice(WORDS, length)) for length in rng.integers(4, 30, captions)]
    dense = path.with_suffix(".labels")
    labels = np.memmap(dense, bool, "w+", shape=(captions, images))  # a file with holes: never in memory as a whole
    labels[np.arange(captions), np.arange(captions) * images // captions] = True
    np.savez_compressed(
        path,
        **{
            "metadata/num_captions": np.array([captions]),
            "metadata/num_images": np.array([images]),
            "metadata/embedding_dim_text": np.array([sizes.text_dim]),
            "metadata/embedding_dim_image": np.array([sizes.image_dim]),
            "captions/ids": np.arange(captions),
            "captions/text": np.array(texts),
            "captions/embeddings": rng.standard_normal((captions, sizes.text_dim), np.float32),
            "captions/label": labels,
            "images/names": np.array([f"{image:08}.jpg" for image in range(images)]),
            "images/embeddings": rng.standard_normal((images, sizes.image_dim), np.float32),
        },
    )
    del labels
    dense.unlink()
    return path


def inflating_seconds(path: Path) -> float:
    """The floor: all members inflated and thrown away, as well spread over the cores as they can be.

    One member cannot be shared by cores.
    """
    seconds = []
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for info in archive.infolist():
            file.seek(info.header_offset)
            file.seek(sum(struct.unpack("<26xHH", file.read(30))), os.SEEK_CUR)
            started, inflater, left = time.perf_counter(), zlib.decompressobj(-15), info.file_size
            while left:
                left -= len(inflater.decompress(inflater.unconsumed_tail or file.read(CHUNK_BYTES), CHUNK_BYTES))
            seconds.append(time.perf_counter() - started)
    return max(max(seconds), sum(seconds) / (os.cpu_count() or 1))


def measure_opening(path: Path, sizes: Sizes) -> list[Row]:
    inflating_seconds(path)  # brings the file into the page cache: the disk is not what is measured
    floors = []
    lacking = {dtype: lack_of_memory(sizes, dtype) for dtype in ("float32", "bool")}
    costs = {name: [] for name in ("cold", "writing", "again", *lacking)}
    for _ in range(sizes.repeats):
        floors.append(inflating_seconds(path))
        cache_path(path).unlink(missing_ok=True)
        for name, cache in (("cold", False), ("writing", True), ("again", True)):
            costs[name].append(in_own_process("src.data.pairs:open_pairs", str(path), cache=cache))
        for dtype, reason in lacking.items():
            if not reason:
                function = "tests.benchmarks.reference_files:open_train"
                costs[dtype].append(in_own_process(function, str(path), label_dtype=dtype))
    cache_path(path).unlink(missing_ok=True)
    best = {name: min(values, key=lambda cost: cost.seconds, default=Cost()) for name, values in costs.items()}
    cold = {
        "size": f"{sizes.captions:,} × {sizes.images:,}, {path.stat().st_size / 1e6:.0f} MB",
        "ours": best["cold"],
        "floor": min(floors),
    }
    library = zlib.__name__
    return [
        Row(
            work="open train.npz, cold",
            reference=best["float32"],
            note=f"reference: labels as float32{lacking['float32']}; floor: {library} inflating, nothing else, on all "
            "cores but one member on one core; the file is in memory",
            **cold,
        ),
        Row(
            work="the same, bool",
            reference=best["bool"],
            note=f"reference: labels left boolean{lacking['bool']}",
            **cold,
        ),
        Row(
            work="open it again",
            reference=best["float32"],
            note="reference: labels as float32; ours: arrays mapped, to be read when used; the opening that writes the "
            f"cache takes {best['writing']}",
            **(cold | {"ours": best["again"], "floor": None}),
        ),
    ]


def lack_of_memory(sizes: Sizes, label_dtype: str) -> str:
    """Why the reference cannot be run now, to stand in a note; empty if it can."""
    needed = {"bool": 1, "float32": 1 + 4}[label_dtype] * sizes.captions * sizes.images + 2e9
    available = available_memory()
    if available > needed:
        return ""
    return f" (not run: needs {needed / 1e9:.0f} GB of memory, {available / 1e9:.0f} GB are free)"
