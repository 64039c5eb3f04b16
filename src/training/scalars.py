"""The history of a training where people look at such curves: in TensorBoard or at Weights & Biases, epoch by epoch.

Each column of a row is a scalar under its own name, each epoch a step. Both libraries are the user's to install.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from src.common.files import InputError
from src.training.checkpoint import EpochRow
from src.training.runs import RunRecord

TENSORBOARD = "tensorboard"  # the folder in a run's, too
LIBRARIES = {TENSORBOARD: "torch.utils.tensorboard", "wandb": "wandb"}
LONGEST_TITLE = 128  # of a run at Weights & Biases

OnEpoch = Callable[[EpochRow], None]


def require_log(log: str) -> None:
    """Raises InputError, before anything is trained, if the library of a `log` is not installed."""
    try:
        _library(log)
    except ImportError as error:
        raise InputError(f"--log {log}: needs the package {log} ({error}); pip install {log}") from None


def _library(log: str) -> Any:
    return import_module(LIBRARIES[log]) if log in LIBRARIES else None


@contextmanager
def logged(log: str, run_dir: Path, record: RunRecord, on_epoch: OnEpoch | None) -> Iterator[OnEpoch | None]:
    """Yield what `fit` is to call after each epoch: `on_epoch`, after it has written the row to a `log`, if that is one
    of LIBRARIES. Raises InputError if Weights & Biases cannot be reached or does not know the user."""
    if log not in LIBRARIES:
        yield on_epoch
        return
    with (_tensorboard if log == TENSORBOARD else _wandb)(_library(log), run_dir, record) as write:

        def write_row(row: EpochRow) -> None:
            write(int(row["epoch"]), {name: value for name, value in row.items() if name != "epoch"})
            if on_epoch:
                on_epoch(row)

        yield write_row


_Write = Callable[[int, dict[str, float]], None]


@contextmanager
def _tensorboard(library: Any, run_dir: Path, record: RunRecord) -> Iterator[_Write]:
    """Into the run's folder. From the first epoch on that is written, what an earlier training or one that was killed
    wrote after its checkpoint is void, and no longer shown (`purge_step`)."""
    writers: list[Any] = []

    def write(epoch: int, scalars: dict[str, float]) -> None:
        if not writers:
            writers.append(library.SummaryWriter(str(run_dir / TENSORBOARD), purge_step=epoch))
        for name, value in scalars.items():
            writers[0].add_scalar(name, value, epoch)
        writers[0].flush()

    try:
        yield write
    finally:
        for writer in writers:
            writer.close()


@contextmanager
def _wandb(library: Any, run_dir: Path, record: RunRecord) -> Iterator[_Write]:
    """To the project that WANDB_PROJECT names. A resumed run is known by when it was begun, and is told no epoch
    again: steps there only ascend."""
    begun = f"{record.run_name} {record.provenance.started}"
    try:
        run = library.init(
            id=hashlib.sha256(begun.encode()).hexdigest()[:16],
            resume="allow",
            name=record.run_name[:LONGEST_TITLE],
            group=record.recipe.name,
            config=asdict(record.recipe) | record.data.identity | {"run": record.run_name},
            dir=str(run_dir),
        )
    except library.Error as error:
        raise InputError(f"--log wandb: {error}") from None
    next_step = run.step
    with run:

        def write(epoch: int, scalars: dict[str, float]) -> None:
            if epoch >= next_step:
                run.log(scalars, step=epoch, commit=True)

        yield write
