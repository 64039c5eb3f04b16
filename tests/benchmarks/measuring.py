"""What the measurements share: clocks, rates of the machine, peaks of memory, the rows of the table."""

import json
import math
import os
import platform
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

REPO = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much of everything; the defaults are the challenge's."""

    captions: int = 125_000
    images: int = 25_000
    text_dim: int = 1024
    image_dim: int = 1536
    hidden_dim: int = 3072
    batch_size: int = 4096
    ranked_captions: int = 12_500
    ranked_images: int = 2_500
    csv_files: int = 23
    csv_files_reference: int = 2  # timed, and scaled to all
    csv_rows: int = 1_500
    repeats: int = 3


@dataclass(frozen=True)
class Cost:
    """Seconds of one piece of work, the peak of the memory that it needed, in bytes, and of the part of it that is no
    mapped file's; None: not measured."""

    seconds: float | None = None
    peak: int | None = None
    own_peak: int | None = None

    def __str__(self) -> str:
        seconds = "" if self.seconds is None else format_seconds(self.seconds)
        peak = "" if self.peak is None else f"{self.peak / 1e9:.2f} GB"
        return ", ".join(filter(None, (seconds, peak))) or "–"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table. floor: seconds that the work cannot go below; note: what a reader has to know."""

    work: str
    size: str = "–"
    reference: Cost = Cost()
    ours: Cost = Cost()
    floor: float | None = None
    note: str = ""

    def cells(self) -> list[str]:
        against_floor = _ratio(self.ours.seconds, self.floor)
        floor = "–" if self.floor is None else f"{format_seconds(self.floor)} ({against_floor})"
        times = [_ratio(self.reference.seconds, self.ours.seconds)]
        if self.ours.seconds is None:
            times = [_ratio(self.reference.peak, self.ours.peak)]
        return [self.work, self.size, str(self.reference), str(self.ours), *times, floor]


def _ratio(larger: float | None, smaller: float | None) -> str:
    return "–" if larger is None or smaller is None else f"{_digits(larger / smaller)}×"


def format_seconds(seconds: float) -> str:
    return f"{_digits(seconds)} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def _digits(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def best_seconds(repeats: int, **works: Callable[[], Any]) -> dict[str, float]:
    """The least seconds of each of `works`, run in turns, so that whatever slows the machine slows them alike."""
    seconds = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - started)
    return {name: min(values) for name, values in seconds.items()}


def peak_memory() -> int:
    """The most memory that this process has held, in bytes.

    Linux's VmHWM where there is one: ru_maxrss of a process begins with what its parent held.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@contextmanager
def sampled_own_memory() -> Iterator[list[int]]:
    """The most memory besides mapped files that this process holds meanwhile, in bytes, sampled every 20 ms; nothing
    where the system, which is not Linux, does not say."""
    status, peak, done = Path("/proc/self/status"), [], threading.Event()

    def sample() -> None:
        last = False
        while status.exists() and not last:
            last = done.wait(0.02)
            peak[:] = [max([*peak, int(status.read_text().split("RssAnon:")[1].split()[0]) * 1024])]

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def available_memory() -> float:
    """Bytes that may be asked for without swapping; infinite where the system does not say."""
    meminfo = Path("/proc/meminfo")
    return int(meminfo.read_text().split("MemAvailable:")[1].split()[0]) * 1024 if meminfo.exists() else float("inf")


def in_own_process(function: str, *args: Any, **options: Any) -> Cost:
    """Call "module:function" in a fresh interpreter: the seconds of the call, and the peak of the whole process.

    A function that returns a number has measured its seconds itself.
    """
    command = [sys.executable, "-m", "tests.benchmarks.own_process", function, json.dumps([args, options])]
    result = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"{function} ended with status {result.returncode}: {result.stderr.strip()[-2000:]}")
    return Cost(**json.loads(result.stdout.splitlines()[-1]))


def describe_cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB of memory"


def markdown(table: list[list[str]]) -> str:
    """A table in Markdown, the first row its header."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [table[0], ["-" * width for width in widths], *table[1:]]
    padded = [[cell.ljust(width) for cell, width in zip(cells, widths, strict=True)] for cells in lines]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in padded)


SPREAD = ("MRR", "difference")  # the columns of `spread_of`


def spread_of(mrrs: Sequence[float], reference: Sequence[float]) -> tuple[str, str]:
    """Mean ± s.d. of MRRs by several seeds, and the mean difference, ± its standard error, to others by the same."""
    gain = np.subtract(mrrs, reference)
    error = gain.std(ddof=1) / len(gain) ** 0.5 if len(gain) > 1 else math.nan
    return f"{np.mean(mrrs):.4f} ± {np.std(mrrs):.4f}", f"{gain.mean():+.4f} ± {error:.4f}"
