"""One epoch of training: batches, losses, optimizer, schedule.

Shapes: B captions and G images of a batch, m training images, T text width, V image width.

The data live on the device and a batch is one indexing operation. Inside an epoch nothing waits for the device. Random
numbers start anew in every epoch from (seed, epoch), whatever ran before.

Several processes share each batch out by whole images. Their losses add up to the batch's own, and so do the gradients:
apart from what dropout and noise draw, it is the training of one process.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from src.common.files import InputError
from src.training.batching import ImageGroups
from src.training.closed_form import fit_ridge
from src.training.inputs import Part
from src.training.loss import multi_positive_infonce, weighted_mean
from src.training.machine import Machine, keep_freed_memory
from src.training.model import Committee, ResidualMLP, Translator
from src.training.recipe import KERNEL, Recipe
from src.training.world import ALONE, World

ROWS_MULTIPLE = 16  # captions whose predictions are thrown away fill up a batch: bfloat16 products are 3% faster


class Trainer:
    """The state of one fit, and how it moves by an epoch."""

    def __init__(self, recipe: Recipe, train: Part, machine: Machine, world: World = ALONE) -> None:
        """Raises InputError if there are more processes than images in a batch."""
        if machine.device.type == "cpu":
            keep_freed_memory()
        self.recipe, self.train, self.machine, self.world = recipe, train, machine, world
        image_of_caption = train.target_n
        self.groups = ImageGroups(image_of_caption.cpu().numpy(), recipe.batch_size)
        if (fewest := len(self.groups.images) // self.groups.num_batches) < world.size:
            raise InputError(
                f"--batch-size {recipe.batch_size}: makes batches of {fewest} images for {world.size} processes"
            )
        self.common_draws = torch.Generator(machine.device) if world.size > 1 else None  # else all draws are
        if recipe.negatives == "all":
            self.unit_mV = F.normalize(train.gallery_mV, dim=1).to(machine.dtype)
            self.count_m = torch.bincount(image_of_caption, minlength=len(train.images)).clamp(min=1)
        self.weight_n = np.ones(len(train)) if train.weight_n is None else train.weight_n.double().cpu().numpy()
        torch.manual_seed(recipe.seed)
        text_dim, image_dim = train.of.text_NT.shape[1], train.of.image_MV.shape[1]
        shape = (text_dim, image_dim, recipe.hidden_dim, recipe.dropout, recipe.depth, recipe.norm == "layer")
        if recipe.copies == 1 and not recipe.kernel_share:
            mlp: ResidualMLP | Committee = ResidualMLP(*shape)
        else:
            landmarks = min(KERNEL.hidden_dim, len(train)) if recipe.kernel_share else 0
            mlp = Committee(recipe.copies, *shape, landmarks=landmarks)
            mlp.ridge_share.fill_(recipe.kernel_share)
        self.translator: Translator = mlp.to(machine.device)
        self.members = mlp.members if isinstance(mlp, Committee) else [mlp]
        noise_T = (
            train.of_features(lambda text_nT: text_nT.std(dim=0)) * recipe.input_noise if recipe.input_noise else None
        )
        self.predict: nn.Module = _SideBySide(self.members, noise_T)
        if world.size > 1:
            self.predict = DistributedDataParallel(self.predict, gradient_as_bucket_view=True)
        optimizer = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer]
        self.optimizer = optimizer(
            self.trained_parameters,
            lr=recipe.lr,
            weight_decay=recipe.weight_decay,
            fused=machine.device.type in ("cpu", "cuda"),
        )

    @property
    def trained_parameters(self) -> list[nn.Parameter]:
        """Those of the translator that the optimizer moves."""
        return [parameter for parameter in self.translator.parameters() if parameter.requires_grad]

    def train_epoch(self, epoch: int, tick: Callable[[], Any]) -> dict[str, float]:
        """Train one epoch, `tick` after every step; before the first, fit the ridge regression beside the MLPs, which a
        resumed run has. Returns the mean loss, the last learning rate and the speed."""
        started = time.perf_counter()
        if epoch == 1 and isinstance(self.translator, Committee) and self.translator.ridge and self.world.first:
            ridge, _ = fit_ridge(self.train, KERNEL.hidden_dim, self.recipe.seed)
            self.translator.ridge.load_state_dict(ridge.state_dict())
        fitted = time.perf_counter()
        torch.manual_seed(self._drawn(epoch, *[self.world.rank] * (not self.world.first)))
        if self.common_draws:
            self.common_draws.manual_seed(self._drawn(epoch))
        self.translator.train()
        steps = self.groups.num_batches
        loss_sum = torch.zeros((), device=self.machine.device)
        for step, (captions, share, indices) in enumerate(self._batches(epoch)):
            progress = epoch - 1 + step / steps + 1 / steps  # in epochs
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self.recipe, progress)
            loss = self._loss(progress, *indices) * share
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            loss_sum += loss.detach() * captions
            tick()
        train_loss = self.world.total(loss_sum).item() / self.world.size / len(self.train)
        ended = time.perf_counter()
        return {
            "train_loss": train_loss,
            "lr": self.optimizer.param_groups[0]["lr"],
            "seconds": ended - started,
            "captions_per_second": len(self.train) / (ended - fitted),
        }

    def _drawn(self, *numbers: int) -> int:
        """A seed that no other numbers give."""
        return int(np.random.SeedSequence((self.recipe.seed, *numbers)).generate_state(1)[0])

    def _batches(self, epoch: int) -> Iterator[tuple[int, float, tuple[Tensor, ...]]]:
        """Of each batch of the epoch: how many captions it has; by how much the loss of this process' counts in the
        mean over processes, which is the batch's; and what `_loss` needs, indices moved to the device in one go."""
        whole = list(self.groups.epoch(self.recipe.seed, epoch))
        own = [batch.share(self.world.rank, self.world.size) for batch in whole]
        weights = [[self.weight_n[batch.captions].sum() for batch in batches] for batches in (own, whole)]
        shares = [float(self.world.size * ours / max(all_, 1e-6)) for ours, all_ in zip(*weights, strict=True)]
        columns = []
        for name in ("captions", "images", "target", "counts"):
            parts = [getattr(batch, name) for batch in own]
            moved = torch.from_numpy(np.concatenate(parts)).to(self.machine.device)
            columns.append(moved.split([len(part) for part in parts]))
        padded = (F.pad(captions_B, (0, -len(captions_B) % ROWS_MULTIPLE)) for captions_B in columns[0])
        texts = self.train.of.texts(self.train.captions[captions_B] for captions_B in padded)
        sizes = (len(batch.captions) for batch in whole)
        return zip(sizes, shares, zip(texts, *columns, strict=True), strict=True)

    def _loss(
        self,
        progress: float,
        text_BT: Tensor,
        captions_B: Tensor,
        images_G: Tensor,
        target_B: Tensor,
        count_G: Tensor,
    ) -> Tensor:
        """text_BT may have more rows than captions_B, to no effect. captions_B and images_G are indices into the
        training part, target_B into images_G."""
        recipe, train = self.recipe, self.train
        image_GV = train.of.image_MV[train.images[images_G]]
        weight_B = None if train.of.weight_N is None else train.of.weight_N[train.captions[captions_B]]
        if recipe.negatives == "batch":
            columns = F.normalize(image_GV, dim=1), target_B, count_G
        elif 0 < recipe.max_negatives < len(self.unit_mV) - len(images_G):
            shown_G = torch.cat([images_G, self._others(images_G)])
            columns = self.unit_mV[shown_G], target_B, self.count_m[shown_G]
        else:
            columns = self.unit_mV, images_G[target_B], self.count_m
        loss = image_GV.new_zeros(())
        with self.machine.autocast():
            predictions = self.predict(text_BT)
        for prediction_BV in (prediction_BV[: len(captions_B)].float() for prediction_BV in predictions):
            if recipe.infonce_weight:
                weight = recipe.infonce_weight * ramp(progress, recipe.infonce_warmup_epochs)
                with self.machine.autocast():
                    infonce = multi_positive_infonce(
                        prediction_BV, *columns, recipe.tau, weight_B, self.world.logsumexp
                    )
                loss = loss + weight * infonce
            if recipe.regression_weight:
                weight = recipe.regression_weight * ramp(progress, recipe.regression_warmup_epochs)
                distance_BV = F.smooth_l1_loss(prediction_BV, image_GV[target_B], reduction="none")
                loss = loss + weight * weighted_mean(distance_BV.mean(dim=1), weight_B)
        return loss / len(self.members)

    def _others(self, images_G: Tensor) -> Tensor:
        """`max_negatives` training images, without replacement, that are not among the batch's own."""
        keys_m = torch.rand(len(self.unit_mV), device=self.machine.device, generator=self.common_draws)
        keys_m[images_G] = -1.0
        return keys_m.topk(self.recipe.max_negatives, sorted=False).indices


class _SideBySide(nn.Module):
    """Members that predict the same captions, each with noise of its own if there is some."""

    def __init__(self, members: Iterable[nn.Module], noise_T: Tensor | None) -> None:
        super().__init__()
        self.members, self.noise_T = nn.ModuleList(members), noise_T

    def forward(self, text_BT: Tensor) -> list[Tensor]:
        """(B, V) of each."""
        return [member(self._noisy(text_BT)) for member in self.members]

    def _noisy(self, text_BT: Tensor) -> Tensor:
        return text_BT if self.noise_T is None else text_BT + torch.randn_like(text_BT) * self.noise_T


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
