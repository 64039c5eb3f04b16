"""Every long script on small data, in a folder of its own, and what such a folder holds in the end."""

import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from src.data.keep_lists import open_keep_list
from src.data.pairs import open_test_captions
from src.data.submissions import write_submission
from tests.conftest import REPO
from tests.tiny_clip import make_tiny_clip

TRAINING = ("--device", "cpu", "--precision", "float32")
QUICK = (*TRAINING, "--hidden-dim", "32", "--epochs", "5")
SPACE = (
    "--kernel-share",
    "0",
    "--lr",
    "1e-3",
    "3e-3",
    "--hidden-dim",
    "16",
    "32",
    "--batch-size",
    "64",
    "--epochs",
    "3",
    "--pruner",
    "none",
)
SCRIPTS: dict[str, tuple[str, ...]] = {
    "train": ("train_mrr.py", *QUICK, "--predict-with", "refit"),
    "ensemble": ("train_mrr_Ensemble_old_dataset.py", *QUICK, "--seeds", "42", "7"),
    "search": ("train_mrr_hpp_tunning_RandSearch.py", "--trials", "3", *TRAINING, *SPACE),
    "topk": ("-m", "src.topk_filter_pairs", "--folds", "2", *QUICK),
    "clip": (
        *(
            "-m",
            "src.clip_filter_pairs",
            "--model",
            "clip/tiny_clip.json",
            "--pretrained",
            "clip/tiny_clip.safetensors",
        ),
        *(*TRAINING, "--workers", "1", "--image-batch-size", "4"),
    ),
    "combine": ("-m", "src.ensemble", "combine", *(f"{i}.csv" for i in range(9)), "--output", "mean.csv"),
    "sample": ("-m", "src.sample.prepare", "--data-dir", "made", "--scale", "0.1"),
    "unpack": ("-m", "src.sample.prepare", "--data-dir", "unpacked", "--zip", "data.zip"),
}
TIMES = {"started", "finished", "ended", "training_seconds", "refit_seconds", "seconds", "captions_per_second"}
# They are of the processes that worked on it: Optuna's journal names them, with the time of everything.
OF_PROCESSES = {"journal.log"}


@pytest.fixture(scope="session")
def inputs(sample, tmp_path_factory) -> Path:
    """What the scripts read: data/, the same in an archive, a CLIP that has learnt nothing, nine submissions."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "data").mkdir()
    for part in ("train", "test"):
        (folder / "data" / part).symlink_to(sample / part)
    with zipfile.ZipFile(folder / "data.zip", "w") as archive:
        for path in (*sorted((sample / "train").rglob("*.*")), *sorted((sample / "test").iterdir())):
            archive.write(path, path.relative_to(sample))
    make_tiny_clip(folder / "clip", steps=0)
    ids = open_test_captions(sample / "test/test.clean.npz").caption_ids
    for seed in range(9):
        rows = np.repeat(ids, 40) * 100 + np.tile(np.arange(40), len(ids))
        write_submission(folder / f"{seed}.csv", rows, np.random.default_rng(seed).random((len(rows), 256), np.float32))
    return folder


def fill(folder: Path, inputs: Path) -> Path:
    """Lay the inputs into an empty folder. Returns it."""
    (folder / "data").mkdir(parents=True)
    for part in ("train", "test"):
        (folder / "data" / part).symlink_to((inputs / "data" / part).resolve())
    for path in (inputs / "clip", inputs / "data.zip", *inputs.glob("*.csv")):
        (folder / path.name).symlink_to(path)
    return folder


@contextmanager
def started(name: str, folder: Path, errors: Path, **options: Any) -> Iterator[subprocess.Popen]:
    """A script as a user starts it in a folder, in a process group of its own; its stderr goes to `errors`."""
    first, *rest = SCRIPTS[name]
    resume = ["--resume"] if name == "train" and list(folder.glob("models/*/last.pt")) else []
    command = [sys.executable, str(REPO / first) if first != "-m" else first, *rest, *resume]
    environment = os.environ | {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    with errors.open("wb") as stderr:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
            **options,
        )
        with process:
            yield process


def run_whole(name: str, folder: Path, **options: Any) -> None:
    """Run a script to its end, which must be a good one."""
    errors = folder.parent / f"{folder.name}.stderr"
    with started(name, folder, errors, **options) as process:
        assert process.wait() == 0, errors.read_text()[-2000:]


def contents(folder: Path, wanted: Callable[[Path], bool] = lambda path: True) -> dict[str, Any]:
    """What lies in a folder, by path: contents without the times and the processes that they took."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink() and wanted(path))
    return {str(path.relative_to(folder)): _content(path) for path in files}


def is_written_at_once(path: Path) -> bool:
    """Whether a file is at no moment anything but what it is in the end."""
    finished = path.suffix in (".safetensors", ".npz", ".npy", ".png") or path.name.startswith("submission")
    return finished and not path.name.startswith(".")


def _content(path: Path) -> Any:
    if path.name in OF_PROCESSES:
        return None
    if path.name.endswith(".keep.npz"):
        keep_list = asdict(open_keep_list(path))
        arrays = {name: value.tobytes() for name, value in keep_list.items() if isinstance(value, np.ndarray)}
        return arrays | {"provenance": _timeless(keep_list["provenance"])}
    data = path.read_bytes()
    if path.suffix == ".json":
        return _timeless(json.loads(data))
    if path.name in ("history.csv", "hpsearch_results.csv"):
        return pd.read_csv(io.BytesIO(data)).drop(columns=TIMES, errors="ignore").to_csv()
    return data


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _timeless(each) for name, each in value.items() if name not in TIMES | {"command"}}
    return [_timeless(each) for each in value] if isinstance(value, list) else value
