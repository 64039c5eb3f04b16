"""Fit one translator: epoch after epoch, validated after each; checkpoints, early stopping, resuming. Or at once, in
closed form. And fit it again, to all images, for the captions that are to be predicted.

A resumed run continues exactly as if it had never stopped.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from src.common.files import InputError
from src.common.progress import Progress, about
from src.training.checkpoint import Best, Checkpoint, EpochRow
from src.training.closed_form import best_strength, fit_ridge
from src.training.history import plot_curves, plot_strengths, write_history
from src.training.inputs import Part, Split
from src.training.machine import Machine
from src.training.metrics import NonFiniteError, mrr, retrieval_ranks
from src.training.model import RidgeMap, Translator, save_translator
from src.training.recipe import Recipe
from src.training.runs import BEST_LOSS, BEST_MRR, CURVES, HISTORY, LAST, REFIT, REFIT_LAST
from src.training.trainer import Trainer
from src.training.world import ALONE, World

MOST_SEEN = 1000  # captions that train whose MRR is measured beside that of those that validate


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
    world: World = ALONE,
    data_identity: Mapping[str, str] | None = None,
    resume: bool = False,
    on_epoch: Callable[[EpochRow], None] | None = None,
    bar: dict[str, Any] | None = None,
) -> FitResult:
    """Train by `recipe` until the epochs are done or patience is at its end; write weights and history to `run_dir`.
    The checkpoint stays there, for the caller to remove once all is recorded.

    A checkpoint of another recipe or another `data_identity` is not resumed. `on_epoch` sees each row of the history
    and may raise to end the run; `bar` is passed to Progress. Several processes train one translator, of which the
    first validates and writes; a closed form it fits alone. Raises InputError if the loss or the predictions are no
    longer finite, or if there is nothing to resume.
    """
    if recipe.model != "mlp":
        return _solve(recipe, split, run_dir, on_epoch)
    trainer = Trainer(recipe, split.train, machine, world)
    translator, best_mrr, best_loss = trainer.translator, Best(-math.inf), Best(math.inf)
    checkpoint = Checkpoint(
        path=run_dir / LAST,
        identity={"recipe": asdict(recipe), "data": dict(data_identity or {})},
        trainer=trainer,
        columns=("train_loss", "regression_loss", "mrr"),
        bests={"best_mrr": best_mrr, "best_loss": best_loss},
    )
    checkpoint.begin(resume=resume)
    history, steps = checkpoint.history, trainer.groups.num_batches
    seen = split.train.sample(MOST_SEEN, len(split.validation.images))

    def measure() -> EpochRow:
        seen_ranks = retrieval_ranks(seen.translate(translator), seen.gallery_mV, seen.target_n)
        return split.validation.measure(translator) | {"train_mrr": mrr(seen_ranks)}

    stopped, clock = f"all {recipe.epochs} epochs are done", _Clock()
    bar = bar or {}
    with Progress(told=True, total=recipe.epochs * steps, initial=len(history) * steps, unit="step", **bar) as progress:
        for epoch in range(len(history) + 1, recipe.epochs + 1):
            if recipe.patience and history and epoch - 1 - best_mrr.epoch >= recipe.patience:
                stopped = f"no better validation MRR for {recipe.patience} epochs"
                break
            row = _one_epoch(trainer, measure, epoch, progress.update)
            if row["mrr"] > best_mrr.value:
                best_mrr.offer(row["mrr"], epoch, translator)
            if row["regression_loss"] < best_loss.value:
                best_loss.offer(row["regression_loss"], epoch, translator)
            history.append(row)
            shown = {"loss": row["train_loss"], "mrr": row["mrr"], "best": best_mrr.value}
            shown |= {f"R@{k}": row[f"recall_at_{k}"] for k in (1, 5, 10)}
            progress.set_postfix({"epoch": epoch} | {name: f"{value:.3f}" for name, value in shown.items()})
            left = recipe.epochs - epoch
            patient = min(left, recipe.patience - (epoch - best_mrr.epoch)) if recipe.patience else left
            ends = clock.tick(patient) + " unless the MRR rises" * (0 < patient < left)
            best = f"MRR {row['mrr']:.3f}, best {best_mrr.value:.3f} in epoch {best_mrr.epoch}"
            progress.tell(f"epoch {epoch} of {recipe.epochs}: loss {row['train_loss']:.3f}, {best}, {ends}")
            if on_epoch:  # before the epoch is saved: a resumed run does not show it again
                try:
                    on_epoch(row)
                except Exception:
                    write_history(history, run_dir / HISTORY)
                    raise
            if checkpoint.save_if_due():
                write_history(history, run_dir / HISTORY)
    if world.first:
        write_history(history, run_dir / HISTORY)
        save_translator(best_loss.weights, translator.dims, run_dir / BEST_LOSS)
        save_translator(best_mrr.weights, translator.dims, run_dir / BEST_MRR)
        plot_curves(history, _title(run_dir, split), run_dir / CURVES)
    translator.load_state_dict(best_mrr.weights)
    return FitResult(history, history[best_mrr.epoch - 1], best_loss.epoch, translator.eval(), stopped)


def refit(
    recipe: Recipe,
    train: Part,
    epochs: int,
    run_dir: Path,
    *,
    machine: Machine,
    world: World = ALONE,
    data_identity: Mapping[str, str] | None = None,
    resume: bool = False,
    bar: dict[str, Any] | None = None,
) -> Translator:
    """Train anew by `recipe` on images that nothing validates, for so many `epochs`, and write the weights. With
    `resume` a checkpoint is taken up if there is one. Raises InputError as `fit`."""
    if recipe.model != "mlp":
        translator: Translator = _ridge(recipe, train)[0]
    else:
        recipe = replace(recipe, epochs=epochs)
        trainer = Trainer(recipe, train, machine, world)
        checkpoint = Checkpoint(
            path=run_dir / REFIT_LAST,
            identity={"recipe": asdict(recipe), "data": dict(data_identity or {})},
            trainer=trainer,
            columns=("train_loss",),
        )
        checkpoint.begin(resume=resume and checkpoint.path.exists())
        history, steps = checkpoint.history, trainer.groups.num_batches
        bar, clock = {"desc": "on all images", "unit": "step"} | (bar or {}), _Clock()
        with Progress(told=True, total=epochs * steps, initial=len(history) * steps, **bar) as progress:
            for epoch in range(len(history) + 1, epochs + 1):
                history.append(_one_epoch(trainer, None, epoch, progress.update))
                progress.set_postfix(epoch=epoch, loss=f"{history[-1]['train_loss']:.3f}")
                told = f"epoch {epoch} of {epochs}: loss {history[-1]['train_loss']:.3f}"
                progress.tell(f"{told}, {clock.tick(epochs - epoch)}")
                checkpoint.save_if_due()
        translator = trainer.translator.eval()
    if world.first:
        save_translator(translator.state_dict(), translator.dims, run_dir / REFIT)
    return translator


def _title(run_dir: Path, split: Split) -> str:
    return f"{run_dir.name} ({len(split.train):,} captions)"


def _ridge(recipe: Recipe, train: Part) -> tuple[RidgeMap, dict[float, float]]:
    return fit_ridge(train, recipe.hidden_dim if recipe.model == "kernel" else 0, recipe.seed)


def _solve(recipe: Recipe, split: Split, run_dir: Path, on_epoch: Callable[[EpochRow], None] | None) -> FitResult:
    """A translator in closed form: its history has one row. Raises InputError as `fit`."""
    started = time.perf_counter()
    translator, gcv = _ridge(recipe, split.train)
    seconds = time.perf_counter() - started
    strength = best_strength(gcv)
    row = {"epoch": 1, "train_loss": gcv[strength], "strength": strength, "seconds": seconds}
    row |= {"captions_per_second": len(split.train) / seconds}
    try:
        row |= split.validation.measure(translator)
    except NonFiniteError as error:
        raise InputError(f"the ridge regression failed: {error}") from None
    write_history([row], run_dir / HISTORY)
    if on_epoch:
        on_epoch(row)
    for name in (BEST_LOSS, BEST_MRR):
        save_translator(translator.state_dict(), translator.dims, run_dir / name)
    plot_strengths(gcv, strength, _title(run_dir, split), run_dir / CURVES)
    return FitResult([row], row, 1, translator, f"in closed form, ridge strength {strength:.3g} by cross-validation")


class _Clock:
    """How long epochs take, from when it is made."""

    def __init__(self) -> None:
        self.ends = [time.monotonic()]

    def tick(self, left: int) -> str:
        """An epoch is over: how long it took, and when so many more will be, if they take as long as those from the
        second on."""
        self.ends.append(time.monotonic())
        usual = self.ends[1:] if len(self.ends) > 2 else self.ends
        seconds = (usual[-1] - usual[0]) / (len(usual) - 1) * left
        return about(self.ends[-1] - self.ends[-2]) + f", ends in about {about(seconds)}" * (left > 0)


def _one_epoch(
    trainer: Trainer, measure: Callable[[], EpochRow] | None, epoch: int, tick: Callable[[], Any]
) -> EpochRow:
    """A row of the history, with what `measure` gives. Raises InputError if the training diverged."""
    row = {"epoch": epoch, **trainer.train_epoch(epoch, tick)}

    def measured() -> EpochRow:
        if not math.isfinite(row["train_loss"]):
            raise NonFiniteError(f"the training loss is {row['train_loss']}")
        return row | measure() if measure else row

    try:
        return trainer.world.of_first(measured)  # so that all decide alike
    except NonFiniteError as error:
        raise InputError(f"training diverged in epoch {epoch}: {error}; try a lower --lr") from None
