"""What tests/training/test_world.py has several processes do: `torchrun several_processes.py FOLDER` writes what came
of it to FOLDER/results.pt. The functions, called without torchrun, do it in one process, to compare with."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from src.common.endings import run_main
from src.training.fit import fit
from src.training.inputs import Split
from src.training.trainer import Trainer
from src.training.world import World, join_world
from tests.training.conftest import CPU, MACHINE, TINY, tiny_pairs, whole

WEIGHTS = np.random.default_rng(0).random(240, np.float32).round(1)  # some are 0
SHARED = replace(TINY, dropout=0.0, batch_size=24)  # 6 images, of 0 to 9 captions each
TRAININGS = {
    "the batch's negatives": SHARED,
    "few images a batch": replace(SHARED, batch_size=18),
    "drawn negatives and regression": replace(SHARED, negatives="all", max_negatives=7, regression_weight=0.5),
    "copies, a kernel and a warm-up": replace(SHARED, copies=2, kernel_share=0.25, infonce_warmup_epochs=2.0),
    "captions with weights": replace(SHARED, optimizer="adamw", weight_decay=0.1),
}
CHECKPOINT = replace(SHARED, epochs=4, negatives="all")


class Enough(Exception):
    pass


def main() -> None:
    folder, world = Path(sys.argv[1]), join_world(CPU)
    results = {
        "trainings": {name: train(name, world) for name in TRAININGS},
        "logsumexp": logsumexp(world),
        "of first": world.of_first(lambda: f"of {world.rank}"),
        "gathered": [world.gathered(world.rank * turn) for turn in (1, 2)],
        "dealt": world.gathered(list(world.dealt(7))),
        "draws": world.gathered(draws(world)),
        "history": begin_or_resume(folder, world),
    }
    if world.first:
        torch.save(results, folder / "results.pt")


def train(name: str, world: World) -> dict[str, Any]:
    """Two epochs: losses, the last gradients, the weights."""
    part = whole(tiny_pairs(1, 60), WEIGHTS if "weights" in name else None)
    trainer = Trainer(TRAININGS[name], part, MACHINE, world)
    losses = [trainer.train_epoch(epoch, lambda: None)["train_loss"] for epoch in (1, 2)]
    parameters = dict(trainer.translator.named_parameters())
    gradients = {name: value.grad for name, value in parameters.items() if value.grad is not None}
    return {"losses": losses, "gradients": gradients, "weights": trainer.translator.state_dict()}


def logsumexp(world: World) -> list[torch.Tensor]:
    """Over the rows that each process has of six, and the gradient of each one's own."""
    rows = torch.linspace(-3, 3, 24, dtype=torch.float64).view(6, 4).sin() * 50
    own = rows[world.rank :: world.size].clone().requires_grad_()
    total = world.logsumexp(own.logsumexp(dim=0))
    (total * torch.arange(1.0, 5.0) / world.size).sum().backward()
    gradients = torch.empty_like(rows)
    for rank, of_process in enumerate(world.gathered(own.grad)):
        gradients[rank :: world.size] = of_process
    return [total.detach(), gradients]


def draws(world: World) -> tuple[list[float], list[float]]:
    """What dropout and noise, and what the choice of negatives would draw after an epoch."""
    trainer = Trainer(TRAININGS["drawn negatives and regression"], whole(tiny_pairs(1, 60)), MACHINE, world)
    trainer.train_epoch(1, lambda: None)
    return torch.rand(3).tolist(), torch.rand(3, generator=trainer.common_draws).tolist()


def begin_or_resume(folder: Path, world: World) -> list[dict[str, float]]:
    """Three processes begin a training and are interrupted in its second epoch; others go on."""

    def on_epoch(row: dict[str, float]) -> None:
        if world.size == 3 and row["epoch"] == 2:
            raise Enough

    split = Split(train=whole(tiny_pairs(1, 60)), validation=whole(tiny_pairs(2, 20)))
    try:
        resume = world.size == 2
        return fit(CHECKPOINT, split, folder, machine=MACHINE, world=world, resume=resume, on_epoch=on_epoch).history
    except Enough:
        return []


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_main(main, several=True)
