"""What a training runs on: device and precision as one value, and the record of it."""

import ctypes
import platform
import shlex
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from src.common.files import InputError, now
from src.common.processes import local_rank, world_size
from src.training.runs import Provenance

PACKAGES = ("torch", "numpy", "pandas", "safetensors", "orjson", "scipy", "optuna", "open_clip_torch")
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


@dataclass(frozen=True)
class Machine:
    """A device, and the precision of matrix products on it: "float32" or "bfloat16"."""

    device: torch.device
    precision: str = "float32"

    def __str__(self) -> str:
        return f"{self.device}, {self.precision}"

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.precision == "bfloat16" else torch.float32

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")

    def provenance(self, processes: int = 1) -> Provenance:
        """What a result of now, by so many processes, depends on besides recipe and data."""
        versions = {"python": platform.python_version()}
        for package in PACKAGES:
            try:
                versions[package] = version(package)
            except PackageNotFoundError:
                continue
        return Provenance(
            command=shlex.join(sys.argv),
            started=now(),
            device=torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type,
            precision=self.precision,
            threads=torch.get_num_threads(),
            processes=processes,
            versions=versions,
            git_commit=_git_commit(),
        )


def choose_machine(device: str = "auto", precision: str = "auto") -> Machine:
    """The machine of `--device` and `--precision`. Raises InputError if there is no such device here."""
    found = find_device(device)
    return Machine(found, _best_precision(found) if precision == "auto" else precision)


def find_device(name: str = "auto") -> torch.device:
    """Turn `--device` into a torch device; of several processes each has a GPU of its own, unless one is named. Raises
    InputError if there is no such device here."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and world_size() > 1:
        name = f"cuda:{local_rank()}"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # "meta" has no numbers to give
    except (RuntimeError, AssertionError, ImportError) as error:
        raise InputError(f"--device {name}: not available here ({str(error).splitlines()[0]})") from None
    return device


def _best_precision(device: torch.device) -> str:
    """bfloat16 where the hardware has it."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device.type == "cpu":
        probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")  # no public probe up to torch 2.11
        return "bfloat16" if any(getattr(torch.cpu, probe, bool)() for probe in probes) else "float32"
    return "float32"


def _git_commit() -> str | None:
    """The commit of this code, with "+changes" where the tree differs from it; None outside a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty=+changes"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def keep_freed_memory() -> None:
    """Let this process reuse up to 2 GiB of freed memory instead of giving it back to the system.

    By default glibc gets every tensor over 32 MB anew, as pages that the kernel has to fill with zeros first: a tenth
    of a training step in float32 on CPU. Other C libraries are left as they are.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "gnu_get_libc_version"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
