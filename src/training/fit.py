"""Fit one translator: epoch after epoch, validated after each; checkpoints, early stopping, resuming. Or at once, in
closed form.

A resumed run continues exactly as if it had never stopped.
"""

import math
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from src.common.files import InputError, atomic_path
from src.training.closed_form import best_strength, fit_ridge
from src.training.history import plot_curves, plot_strengths, write_history
from src.training.inputs import Part, Split
from src.training.machine import Machine
from src.training.metrics import NonFiniteError
from src.training.model import Translator, save_translator
from src.training.recipe import Recipe, recorded_recipe
from src.training.runs import BEST_LOSS, BEST_MRR, CURVES, LAST
from src.training.trainer import Trainer

SECONDS_BETWEEN_CHECKPOINTS = 60

EpochRow = dict[str, float]  # a row of the history: the epoch, what training says of it, the measures


@dataclass
class Best:
    """The best epoch by one measure so far, and its weights."""

    value: float
    epoch: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)

    def offer(self, value: float, epoch: int, translator: Translator) -> None:
        self.value, self.epoch = value, epoch
        self.weights = {name: tensor.detach().clone() for name, tensor in translator.state_dict().items()}


@dataclass(frozen=True)
class FitResult:
    """history: one row of measures an epoch; best: the row of the epoch with the best validation MRR; translator:
    with that epoch's weights; stopped: why the training ended."""

    history: list[EpochRow]
    best: EpochRow
    best_loss_epoch: int
    translator: Translator
    stopped: str


def fit(
    recipe: Recipe,
    split: Split,
    run_dir: Path,
    *,
    machine: Machine,
    data_identity: Mapping[str, str] | None = None,
    resume: bool = False,
    on_epoch: Callable[[EpochRow], None] | None = None,
    bar: dict[str, Any] | None = None,
) -> FitResult:
    """Train by `recipe` until the epochs are done or patience is at its end; write weights and history to `run_dir`.
    The checkpoint stays there, for the caller to remove once all is recorded.

    A checkpoint of another recipe or another `data_identity` is not resumed. `on_epoch` sees each row of the history
    and may raise to end the run; `bar` is passed to tqdm. Raises InputError if the loss or the predictions are no
    longer finite, or if there is nothing to resume.
    """
    if recipe.model != "mlp":
        return _solve(recipe, split, run_dir, on_epoch)
    trainer = Trainer(recipe, split.train, machine)
    translator, history = trainer.translator, []
    best_mrr, best_loss = Best(-math.inf), Best(math.inf)
    checkpoint, identity = run_dir / LAST, {"recipe": asdict(recipe), "data": dict(data_identity or {})}
    if resume:
        history = _restore(checkpoint, identity, trainer, best_mrr, best_loss)
    else:
        checkpoint.unlink(missing_ok=True)  # of an earlier run

    def save() -> None:
        with atomic_path(checkpoint) as temporary:
            state = {"translator": translator.state_dict(), "optimizer": trainer.optimizer.state_dict()}
            bests = {"best_mrr": asdict(best_mrr), "best_loss": asdict(best_loss)}
            torch.save({"identity": identity, "history": history, **state, **bests}, temporary)
        write_history(history, run_dir / "history.csv")

    steps = trainer.groups.num_batches
    stopped = f"all {recipe.epochs} epochs are done"
    next_save = time.monotonic()
    with tqdm(total=recipe.epochs * steps, initial=len(history) * steps, unit="step", **(bar or {})) as progress:
        for epoch in range(len(history) + 1, recipe.epochs + 1):
            if recipe.patience and history and epoch - 1 - best_mrr.epoch >= recipe.patience:
                stopped = f"no better validation MRR for {recipe.patience} epochs"
                break
            row = {"epoch": epoch, **_one_epoch(trainer, split.validation, epoch, progress.update)}
            if row["mrr"] > best_mrr.value:
                best_mrr.offer(row["mrr"], epoch, translator)
            if row["regression_loss"] < best_loss.value:
                best_loss.offer(row["regression_loss"], epoch, translator)
            history.append(row)
            shown = {"loss": row["train_loss"], "mrr": row["mrr"], "best": best_mrr.value}
            shown |= {f"R@{k}": row[f"recall_at_{k}"] for k in (1, 5, 10)}
            progress.set_postfix({"epoch": epoch} | {name: f"{value:.3f}" for name, value in shown.items()})
            if on_epoch:  # before the epoch is saved: a resumed run does not show it again
                try:
                    on_epoch(row)
                except Exception:
                    write_history(history, run_dir / "history.csv")
                    raise
            if time.monotonic() > next_save:
                started = time.monotonic()
                save()
                # Never more than a twentieth of the time for writing, however slow the disk.
                next_save = time.monotonic() + max(SECONDS_BETWEEN_CHECKPOINTS, 20 * (time.monotonic() - started))
    write_history(history, run_dir / "history.csv")
    save_translator(best_loss.weights, translator.dims, run_dir / BEST_LOSS)
    save_translator(best_mrr.weights, translator.dims, run_dir / BEST_MRR)
    plot_curves(history, _title(run_dir, split), run_dir / CURVES)
    translator.load_state_dict(best_mrr.weights)
    return FitResult(history, history[best_mrr.epoch - 1], best_loss.epoch, translator.eval(), stopped)


def _title(run_dir: Path, split: Split) -> str:
    return f"{run_dir.name} ({len(split.train):,} captions)"


def _solve(recipe: Recipe, split: Split, run_dir: Path, on_epoch: Callable[[EpochRow], None] | None) -> FitResult:
    """A translator in closed form: its history has one row. Raises InputError as `fit`."""
    started = time.perf_counter()
    translator, gcv = fit_ridge(split.train, recipe.hidden_dim if recipe.model == "kernel" else 0, recipe.seed)
    seconds = time.perf_counter() - started
    strength = best_strength(gcv)
    row = {"epoch": 1, "train_loss": gcv[strength], "strength": strength, "seconds": seconds}
    row |= {"captions_per_second": len(split.train) / seconds}
    try:
        row |= split.validation.measure(translator)
    except NonFiniteError as error:
        raise InputError(f"the ridge regression failed: {error}") from None
    write_history([row], run_dir / "history.csv")
    if on_epoch:
        on_epoch(row)
    for name in (BEST_LOSS, BEST_MRR):
        save_translator(translator.state_dict(), translator.dims, run_dir / name)
    plot_strengths(gcv, strength, _title(run_dir, split), run_dir / CURVES)
    return FitResult([row], row, 1, translator, f"in closed form, ridge strength {strength:.3g} by cross-validation")


def _one_epoch(trainer: Trainer, validation: Part, epoch: int, tick: Callable[[], Any]) -> dict[str, float]:
    row = trainer.train_epoch(epoch, tick)
    try:
        if not math.isfinite(row["train_loss"]):
            raise NonFiniteError(f"the training loss is {row['train_loss']}")
        return row | validation.measure(trainer.translator)
    except NonFiniteError as error:
        raise InputError(f"training diverged in epoch {epoch}: {error}; try a lower --lr") from None


def _restore(path: Path, identity: dict[str, Any], trainer: Trainer, best_mrr: Best, best_loss: Best) -> list[EpochRow]:
    """Put a checkpoint's state into the trainer and the bests; return its history. Raises InputError."""
    if not path.exists():
        raise InputError(f"{path}: no such file, so there is nothing to resume; start without --resume")
    try:
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():  # torch.load itself compares no checksums
                raise ValueError(f"{damaged} is damaged")
        state = torch.load(path, map_location=trainer.machine.device, weights_only=True)
        theirs = {**state["identity"], "recipe": asdict(recorded_recipe(state["identity"]["recipe"]))}
        differing = [name for name in identity if theirs.get(name) != identity[name]]
        if not differing:
            _check_form(state, trainer)
            trainer.translator.load_state_dict(state["translator"])
            # The groups are this trainer's own, whose learning rate is set before each step.
            trainer.optimizer.load_state_dict(trainer.optimizer.state_dict() | {"state": state["optimizer"]["state"]})
            vars(best_mrr).update(state["best_mrr"])
            vars(best_loss).update(state["best_loss"])
    except Exception as error:  # torch.load raises what it likes for a damaged file
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: not a checkpoint of this project ({reason}); start without --resume") from None
    if differing:
        raise InputError(f"{path}: is of a run with another {', '.join(differing)}; start without --resume")
    return state["history"]


def _check_form(state: dict[str, Any], trainer: Trainer) -> None:
    """Raises an error unless a checkpoint has all that one of this trainer has: its optimizer writes to tensors of
    any shape as if they had the right one."""
    weights, history = trainer.translator.state_dict(), state["history"]
    moments = [{"step": torch.zeros(()), "exp_avg": p, "exp_avg_sq": p} for p in trainer.translator.parameters()]
    best = {"value": 0.0, "epoch": 0, "weights": weights}
    form = {"translator": weights, "optimizer": dict(enumerate(moments)), "best_mrr": best, "best_loss": best}
    whole = _has_form(state | {"optimizer": state["optimizer"]["state"]}, form)
    for epoch, row in enumerate(history, 1):
        whole &= row["epoch"] == epoch and row.keys() == history[0].keys() >= {"train_loss", "regression_loss", "mrr"}
        whole &= all(type(value) in (int, float) for value in row.values())
    if not whole or not all(1 <= state[name]["epoch"] <= len(history) for name in ("best_mrr", "best_loss")):
        raise ValueError("something in it is missing or of another shape")


def _has_form(value: Any, form: Any) -> bool:
    """Whether a value has the type, or the shape and dtype, of another; and each of a dictionary's values has."""
    if isinstance(form, dict):
        return isinstance(value, dict) and all(name in value and _has_form(value[name], form[name]) for name in form)
    if isinstance(form, Tensor):
        return isinstance(value, Tensor) and (value.shape, value.dtype) == (form.shape, form.dtype)
    return type(value) is type(form)
