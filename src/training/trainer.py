"""One epoch of training: batches, losses, optimizer, schedule.

Shapes: B captions and G images of a batch, m training images, T text width, V image width.

The data live on the device and a batch is one indexing operation. Inside an epoch nothing waits for the device. Random
numbers start anew in every epoch from (seed, epoch), whatever ran before.
"""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.training.batching import ImageGroups
from src.training.closed_form import fit_ridge
from src.training.inputs import Part
from src.training.loss import multi_positive_infonce, weighted_mean
from src.training.machine import Machine, keep_freed_memory
from src.training.model import Committee, ResidualMLP, Translator
from src.training.recipe import KERNEL, Recipe

ROWS_MULTIPLE = 16  # captions whose predictions are thrown away fill up a batch: bfloat16 products are 3% faster


class Trainer:
    """The state of one fit, and how it moves by an epoch."""

    def __init__(self, recipe: Recipe, train: Part, machine: Machine) -> None:
        if machine.device.type == "cpu":
            keep_freed_memory()
        self.recipe, self.train, self.machine = recipe, train, machine
        image_of_caption = train.target_n
        self.groups = ImageGroups(image_of_caption.cpu().numpy(), recipe.batch_size)
        if recipe.negatives == "all":
            self.unit_mV = F.normalize(train.gallery_mV, dim=1).to(machine.dtype)
            self.count_m = torch.bincount(image_of_caption, minlength=len(train.images)).clamp(min=1)
        if recipe.input_noise:
            self.noise_T = train.of_features(lambda text_nT: text_nT.std(dim=0)) * recipe.input_noise
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
        if epoch == 1 and isinstance(self.translator, Committee) and self.translator.ridge:
            ridge, _ = fit_ridge(self.train, KERNEL.hidden_dim, self.recipe.seed)
            self.translator.ridge.load_state_dict(ridge.state_dict())
        fitted = time.perf_counter()
        torch.manual_seed(int(np.random.SeedSequence((self.recipe.seed, epoch)).generate_state(1)[0]))
        self.translator.train()
        steps = self.groups.num_batches
        loss_sum = torch.zeros((), device=self.machine.device)
        for step, (text_BT, captions_B, images_G, target_B, count_G) in enumerate(self._batches(epoch)):
            progress = epoch - 1 + step / steps + 1 / steps  # in epochs
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self.recipe, progress)
            loss = self._loss(text_BT, captions_B, images_G, target_B, count_G, progress)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            loss_sum += loss.detach() * len(captions_B)
            tick()
        train_loss = loss_sum.item() / len(self.train)
        ended = time.perf_counter()
        return {
            "train_loss": train_loss,
            "lr": self.optimizer.param_groups[0]["lr"],
            "seconds": ended - started,
            "captions_per_second": len(self.train) / (ended - fitted),
        }

    def _batches(self, epoch: int) -> Iterator[tuple[Tensor, ...]]:
        """The epoch's batches as tensors, moved to the device in one go, and before each its captions' embeddings."""
        batches = list(self.groups.epoch(self.recipe.seed, epoch))
        columns = []
        for name in ("captions", "images", "target", "counts"):
            parts = [getattr(batch, name) for batch in batches]
            moved = torch.from_numpy(np.concatenate(parts)).to(self.machine.device)
            columns.append(moved.split([len(part) for part in parts]))
        padded = (F.pad(captions_B, (0, -len(captions_B) % ROWS_MULTIPLE)) for captions_B in columns[0])
        texts = self.train.of.texts(self.train.captions[captions_B] for captions_B in padded)
        return zip(texts, *columns, strict=True)

    def _loss(
        self,
        text_BT: Tensor,
        captions_B: Tensor,
        images_G: Tensor,
        target_B: Tensor,
        count_G: Tensor,
        progress: float,
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
        for member in self.members:
            prediction_BV = self._predict(member, text_BT)[: len(captions_B)].float()
            if recipe.infonce_weight:
                weight = recipe.infonce_weight * ramp(progress, recipe.infonce_warmup_epochs)
                with self.machine.autocast():
                    infonce = multi_positive_infonce(prediction_BV, *columns, recipe.tau, weight_B)
                loss = loss + weight * infonce
            if recipe.regression_weight:
                weight = recipe.regression_weight * ramp(progress, recipe.regression_warmup_epochs)
                distance_BV = F.smooth_l1_loss(prediction_BV, image_GV[target_B], reduction="none")
                loss = loss + weight * weighted_mean(distance_BV.mean(dim=1), weight_B)
        return loss / len(self.members)

    def _predict(self, member: nn.Module, text_BT: Tensor) -> Tensor:
        """(B, V) of captions with noise of their own."""
        if self.recipe.input_noise:
            text_BT = text_BT + torch.randn_like(text_BT) * self.noise_T
        with self.machine.autocast():
            return member(text_BT)

    def _others(self, images_G: Tensor) -> Tensor:
        """`max_negatives` training images, without replacement, that are not among the batch's own."""
        keys_m = torch.rand(len(self.unit_mV), device=self.machine.device)
        keys_m[images_G] = -1.0
        return keys_m.topk(self.recipe.max_negatives, sorted=False).indices


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
