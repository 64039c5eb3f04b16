"""The folder of a run, models/<run name>/, and its record run.json: what was trained, from what, how well.

run.json                  recipe, data and their fingerprints, versions, commit, results
history.csv, curves.png   every epoch
best_mrr.safetensors      the weights of the epoch with the best validation MRR
best_loss.safetensors     … with the best validation regression loss
last.pt                   what resuming needs; gone once the run is finished
submission.csv            the test captions' predictions, where a script puts no copy elsewhere
"""

import hashlib
import platform
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure

from src.common.files import InputError, atomic_path, read_json, write_json

RUN_JSON = "run.json"
BEST_MRR = "best_mrr.safetensors"
BEST_LOSS = "best_loss.safetensors"
LAST = "last.pt"
PACKAGES = ("torch", "numpy", "pandas", "safetensors", "orjson", "scipy", "optuna", "open_clip_torch")


def read_run(run_dir: Path) -> dict[str, Any] | None:
    """A run's record, or None if `run_dir` holds none. Raises InputError for a damaged one."""
    path = run_dir / RUN_JSON
    if not path.exists():
        return None
    record = read_json(path)
    if not isinstance(record, dict) or not {"recipe", "data", "status"} <= record.keys():
        raise InputError(f"{path}: not a run's record; move the folder away")
    return record


def recorded_runs(models_dir: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The runs below `models_dir` with their records, by name."""
    for path in sorted(models_dir.rglob(RUN_JSON)):
        yield path.parent, read_run(path.parent)


def write_run(run_dir: Path, record: dict[str, Any]) -> None:
    write_json(run_dir / RUN_JSON, record)


def provenance(device: torch.device, precision: str) -> dict[str, Any]:
    """What a result depends on besides recipe and data."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "command": " ".join(sys.argv),
        "started": now(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "precision": precision,
        "threads": torch.get_num_threads(),
        "versions": versions,
        "git_commit": git_commit(),
    }


def now() -> str:
    """UTC, to the second, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def git_commit() -> str | None:
    """The commit of this code, with "+changes" where the tree differs from it; None outside a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty=+changes"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_history(history: list[dict[str, float]], path: Path) -> None:
    """One row an epoch; numbers in the shortest form that reads back the same."""
    with atomic_path(path) as temporary:
        pd.DataFrame(history).to_csv(temporary, index=False)


def plot_curves(history: list[dict[str, float]], title: str, path: Path) -> None:
    """The picture of a training: losses, retrieval measures and learning rate by epoch, as PNG."""
    table = pd.DataFrame(history)
    figure = Figure(figsize=(13, 4), layout="constrained")
    losses, measures, rate = figure.subplots(1, 3)
    losses.plot(table.epoch, table.train_loss, label="training loss")
    losses.plot(table.epoch, table.regression_loss, label="validation smooth-L1")
    losses.set(title="losses", yscale="log")
    for column in ("mrr", "recall_at_1", "recall_at_5", "recall_at_10", "challenge_mrr"):
        measures.plot(table.epoch, table[column], label=column.replace("_", " "), lw=2 if column == "mrr" else 1)
    best = table.loc[table.mrr.idxmax()]
    measures.axvline(best.epoch, color="grey", lw=0.8, ls=":")
    measures.set(title=f"validation: best MRR {best.mrr:.4f} in epoch {best.epoch:.0f}", ylim=(0, 1))
    rate.plot(table.epoch, table.lr, label="learning rate")
    rate.set(title="learning rate", ylim=(0, None))
    for axes in (losses, measures, rate):
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(title)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
