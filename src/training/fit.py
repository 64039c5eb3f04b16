"""Fit one translator: the loop, its validation after every epoch, checkpoints, early stopping, resuming.

Shapes: B captions and G images of a batch, N captions and M images in all, T text width, V image width.

The data live on the device and a batch is one indexing operation. Inside an epoch nothing waits for the device.
Random numbers start anew in every epoch from (seed, epoch), so a resumed run continues exactly as if it had
never stopped.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from src.common.files import InputError, atomic_path
from src.data.pairs import Pairs
from src.training.batching import ImageGroups
from src.training.inputs import Split
from src.training.loss import multi_positive_infonce
from src.training.malloc import keep_freed_memory
from src.training.metrics import NonFiniteError, evaluate
from src.training.model import Translator, save_translator, translate
from src.training.recipe import Recipe
from src.training.runs import BEST_LOSS, BEST_MRR, LAST, write_history

SECONDS_BETWEEN_CHECKPOINTS = 60
ROWS_MULTIPLE = 16  # captions whose predictions are thrown away fill up a batch: bfloat16 products are 3% faster

Weights = dict[str, Tensor]


@dataclass
class Best:
    """The best epoch by one measure so far, and its weights."""

    value: float
    epoch: int = 0
    weights: Weights | None = None

    def offer(self, value: float, epoch: int, translator: Translator) -> None:
        self.value, self.epoch = value, epoch
        self.weights = {name: tensor.detach().clone() for name, tensor in translator.state_dict().items()}


@dataclass(frozen=True)
class FitResult:
    """history: one row of measures an epoch; best: the row of the epoch with the best validation MRR; translator:
    with that epoch's weights; stopped: why the training ended."""

    history: list[dict[str, float]]
    best: dict[str, float]
    best_loss_epoch: int
    translator: Translator
    stopped: str


class OnDevice:
    """Captions (N, T), their images (M, V) and which is whose (N,), as tensors on the device."""

    def __init__(self, pairs: Pairs, device: torch.device) -> None:
        self.text_NT = torch.from_numpy(pairs.text_embeddings).to(device)
        self.image_MV = torch.from_numpy(pairs.image_embeddings).to(device)
        self.target_N = torch.from_numpy(pairs.image_of_caption).to(device).long()

    def measure(self, translator: Translator) -> dict[str, float]:
        """Both measures of DESIGN.md, each caption against all of these images. Raises NonFiniteError."""
        return evaluate(translate(translator, self.text_NT), self.image_MV, self.target_N)


class Trainer:
    """The state of one fit, and how it moves by an epoch."""

    def __init__(self, recipe: Recipe, train: Pairs, device: torch.device, precision: str) -> None:
        if device.type == "cpu":
            keep_freed_memory()
        self.recipe, self.device, self.precision = recipe, device, precision
        self.data = OnDevice(train, device)
        self.groups = ImageGroups(train.image_of_caption, recipe.batch_size)
        if recipe.negatives == "all":
            counts = np.bincount(train.image_of_caption, minlength=train.num_images)
            self.count_M = torch.from_numpy(np.maximum(counts, 1)).to(device)
        self.noise_T = self.data.text_NT.std(dim=0) * recipe.input_noise
        torch.manual_seed(recipe.seed)
        text_dim, image_dim = self.data.text_NT.shape[1], self.data.image_MV.shape[1]
        self.translator = Translator(text_dim, image_dim, recipe.hidden_dim, recipe.dropout).to(device)
        optimizer = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer]
        self.optimizer = optimizer(
            self.translator.parameters(),
            lr=recipe.lr,
            weight_decay=recipe.weight_decay,
            fused=device.type in ("cpu", "cuda"),
        )

    def train_epoch(self, epoch: int, tick: Callable[[], Any]) -> dict[str, float]:
        """Train one epoch, `tick` after every step. Returns its mean loss, last learning rate and speed."""
        started = time.perf_counter()
        torch.manual_seed(int(np.random.SeedSequence((self.recipe.seed, epoch)).generate_state(1)[0]))
        self.translator.train()
        steps = self.groups.num_batches
        loss_sum = torch.zeros((), device=self.device)
        for step, (captions_B, images_G, target_B, count_G) in enumerate(self._batches(epoch)):
            progress = epoch - 1 + step / steps  # in epochs
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self.recipe, progress + 1 / steps)
            loss = self._loss(captions_B, images_G, target_B, count_G, progress + 1 / steps)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            loss_sum += loss.detach() * len(captions_B)
            tick()
        captions = len(self.data.text_NT)
        train_loss = loss_sum.item() / captions
        seconds = time.perf_counter() - started
        rate = self.optimizer.param_groups[0]["lr"]
        return {"train_loss": train_loss, "lr": rate, "seconds": seconds, "captions_per_second": captions / seconds}

    def _batches(self, epoch: int) -> Iterator[tuple[Tensor, ...]]:
        """The epoch's batches as tensors, moved to the device in one go."""
        batches = list(self.groups.epoch(self.recipe.seed, epoch))
        columns = []
        for name in ("captions", "images", "target", "counts"):
            parts = [getattr(batch, name) for batch in batches]
            moved = torch.from_numpy(np.concatenate(parts)).to(self.device, non_blocking=True)
            columns.append(moved.split([len(part) for part in parts]))
        return zip(*columns, strict=True)

    def _loss(self, captions_B: Tensor, images_G: Tensor, target_B: Tensor, count_G: Tensor, progress: float) -> Tensor:
        recipe = self.recipe
        text_BT = self.data.text_NT[F.pad(captions_B, (0, -len(captions_B) % ROWS_MULTIPLE))]
        if recipe.input_noise:
            text_BT = text_BT + torch.randn_like(text_BT) * self.noise_T
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            prediction_BV = self.translator(text_BT)
        prediction_BV = prediction_BV[: len(captions_B)].float()
        image_GV = self.data.image_MV[images_G]
        loss = prediction_BV.new_zeros(())
        if recipe.infonce_weight:
            weight = recipe.infonce_weight * ramp(progress, recipe.infonce_warmup_epochs)
            if recipe.negatives == "all":
                columns = self.data.image_MV, images_G[target_B], self.count_M
            else:
                columns = image_GV, target_B, count_G
            loss = loss + weight * multi_positive_infonce(prediction_BV, *columns, recipe.tau)
        if recipe.regression_weight:
            weight = recipe.regression_weight * ramp(progress, recipe.regression_warmup_epochs)
            loss = loss + weight * F.smooth_l1_loss(prediction_BV, image_GV[target_B])
        return loss


def ramp(progress: float, warmup_epochs: float) -> float:
    """From 0 to 1 over the warm-up; `progress` in epochs."""
    return min(1.0, progress / warmup_epochs) if warmup_epochs else 1.0


def learning_rate(recipe: Recipe, progress: float) -> float:
    """Linear warm-up, then constant or a cosine to 0 at the last epoch; `progress` in epochs."""
    rate = recipe.lr * ramp(progress, recipe.lr_warmup_epochs)
    if recipe.lr_schedule == "cosine" and progress > recipe.lr_warmup_epochs:
        done = (progress - recipe.lr_warmup_epochs) / max(recipe.epochs - recipe.lr_warmup_epochs, 1e-9)
        rate *= (1 + math.cos(math.pi * min(done, 1.0))) / 2
    return rate


def fit(
    recipe: Recipe,
    split: Split,
    run_dir: Path,
    *,
    device: torch.device,
    precision: str,
    identity: dict[str, Any],
    resume: bool = False,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    bar: dict[str, Any] | None = None,
) -> FitResult:
    """Train by `recipe` until the epochs are done or patience is at its end; write weights and history to `run_dir`.

    precision is "float32" or "bfloat16". `identity` says what is trained on what: a checkpoint of something else is
    not resumed. `on_epoch` sees each row of the history and may raise to end the run; `bar` is passed to tqdm.
    Raises InputError if the loss or the predictions are no longer finite, or if there is nothing to resume.
    """
    trainer = Trainer(recipe, split.train, device, precision)
    validation = OnDevice(split.validation, device)
    translator, history = trainer.translator, []
    best_mrr, best_loss = Best(-math.inf), Best(math.inf)
    checkpoint = run_dir / LAST
    if resume:
        history = _restore(checkpoint, identity, trainer, best_mrr, best_loss)

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
            row = {"epoch": epoch, **_one_epoch(trainer, validation, epoch, progress.update)}
            if row["mrr"] > best_mrr.value:
                best_mrr.offer(row["mrr"], epoch, translator)
            if row["regression_loss"] < best_loss.value:
                best_loss.offer(row["regression_loss"], epoch, translator)
            history.append(row)
            shown = {"loss": row["train_loss"], "mrr": row["mrr"], "best": best_mrr.value}
            shown |= {f"R@{k}": row[f"recall_at_{k}"] for k in (1, 5, 10)}
            progress.set_postfix({"epoch": epoch} | {name: f"{value:.3f}" for name, value in shown.items()})
            if time.monotonic() > next_save:
                started = time.monotonic()
                save()
                # Never more than a twentieth of the time for writing, however slow the disk.
                next_save = time.monotonic() + max(SECONDS_BETWEEN_CHECKPOINTS, 20 * (time.monotonic() - started))
            if on_epoch:
                on_epoch(row)
    write_history(history, run_dir / "history.csv")
    save_translator(best_loss.weights, translator.dims, run_dir / BEST_LOSS)
    save_translator(best_mrr.weights, translator.dims, run_dir / BEST_MRR)
    checkpoint.unlink(missing_ok=True)
    translator.load_state_dict(best_mrr.weights)
    return FitResult(history, history[best_mrr.epoch - 1], best_loss.epoch, translator.eval(), stopped)


def _one_epoch(trainer: Trainer, validation: OnDevice, epoch: int, tick: Callable[[], Any]) -> dict[str, float]:
    row = trainer.train_epoch(epoch, tick)
    try:
        if not math.isfinite(row["train_loss"]):
            raise NonFiniteError(f"the training loss is {row['train_loss']}")
        return row | validation.measure(trainer.translator)
    except NonFiniteError as error:
        raise InputError(f"training diverged in epoch {epoch}: {error}; try a lower --lr") from None


def _restore(
    path: Path, identity: dict[str, Any], trainer: Trainer, best_mrr: Best, best_loss: Best
) -> list[dict[str, float]]:
    """Put a checkpoint's state into the trainer and the bests; return its history. Raises InputError."""
    if not path.exists():
        raise InputError(f"{path}: no such file, so there is nothing to resume; start without --resume")
    try:
        state = torch.load(path, map_location=trainer.device, weights_only=True)
        differing = [key for key in identity if state["identity"].get(key) != identity[key]]
        if differing:
            raise InputError(f"{path}: is of a run with another {', '.join(differing)}; start without --resume")
        trainer.translator.load_state_dict(state["translator"])
        trainer.optimizer.load_state_dict(state["optimizer"])
        vars(best_mrr).update(state["best_mrr"])
        vars(best_loss).update(state["best_loss"])
        return state["history"]
    except InputError:
        raise
    except Exception as error:  # torch.load raises what it likes for a damaged file
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: not a checkpoint of this project ({reason}); start without --resume") from None
