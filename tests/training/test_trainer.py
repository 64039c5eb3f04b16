"""One epoch: the schedule and the losses are the recipe's, as recorded before and as computed by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from src.training.closed_form import fit_ridge
from src.training.model import Committee
from src.training.recipe import BASELINE, KERNEL, RECIPES
from src.training.trainer import Trainer, learning_rate, ramp
from tests.training.conftest import MACHINE, TINY, tiny_pairs, whole


def test_the_schedule_warms_up_and_follows_the_cosine():
    recipe = replace(TINY, lr=1.0, epochs=12, lr_warmup_epochs=2, lr_schedule="cosine")
    assert learning_rate(recipe, 1) == 0.5
    assert learning_rate(recipe, 2) == 1.0
    assert learning_rate(recipe, 7) == pytest.approx(0.5)
    assert learning_rate(recipe, 12) == pytest.approx(0)
    assert learning_rate(replace(recipe, lr_schedule="constant"), 12) == 1.0
    assert learning_rate(replace(recipe, epochs=2), 2.5) == 0  # all of it was warm-up
    assert [ramp(progress, 4) for progress in (1, 4, 9)] == [0.25, 1, 1]
    assert ramp(0.1, 0) == 1


def test_all_negatives_equal_the_batch_when_the_batch_is_everything(split):
    recipe = replace(TINY, dropout=0.0, batch_size=10_000)
    losses = []
    for negatives in ("batch", "all"):
        trainer = Trainer(replace(recipe, negatives=negatives), split.train, MACHINE)
        losses.append(trainer.train_epoch(1, lambda: None)["train_loss"])
    # `all` also shows the few images that have no caption: a little harder.
    pairs = split.train.of.pairs
    captioned = split.train.of.part(np.isin(np.arange(60), pairs.image_of_caption))
    trainer = Trainer(replace(recipe, negatives="all"), captioned, MACHINE)
    assert trainer.train_epoch(1, lambda: None)["train_loss"] == pytest.approx(losses[0], rel=1e-5)
    assert losses[1] >= losses[0]


def test_a_step_may_be_shown_a_part_of_the_negatives_drawn_anew_and_none_twice(split):
    recipe = replace(TINY, negatives="all", max_negatives=7)
    trainer = Trainer(recipe, split.train, MACHINE)
    own, seen = torch.tensor([3, 11, 40]), set()
    for _ in range(60):
        others = trainer._others(own).tolist()
        assert len(set(others)) == 7
        assert not {3, 11, 40} & set(others)
        seen |= set(others)
    assert len(seen) == 60 - 3
    # A limit that leaves none out is none; a lower one makes it easier.
    losses = [
        Trainer(replace(recipe, max_negatives=limit), split.train, MACHINE).train_epoch(1, lambda: None)["train_loss"]
        for limit in (0, 60, 7)
    ]
    assert losses[0] == losses[1] > losses[2]


def test_copies_are_trained_by_losses_of_their_own(split):
    """Each of a committee's members moves as if it were alone; no dropout, so that none draws anything."""
    recipe = replace(TINY, dropout=0.0, copies=2)
    committee, alone = (Trainer(replace(recipe, copies=copies), split.train, MACHINE) for copies in (2, 1))
    alone.translator.load_state_dict(committee.members[1].state_dict())
    for epoch in (1, 2):
        for trainer in (committee, alone):
            trainer.train_epoch(epoch, lambda: None)
    for name, tensor in alone.translator.state_dict().items():
        torch.testing.assert_close(committee.members[1].state_dict()[name], tensor, rtol=1e-3, atol=1e-5)


def test_a_ridge_regression_beside_is_that_of_the_kernel_and_stays_as_it_was_fitted(split):
    recipe = replace(TINY, kernel_share=0.25)
    trainer = Trainer(recipe, split.train, MACHINE)
    trainer.train_epoch(1, lambda: None)
    kernel, _ = fit_ridge(split.train, KERNEL.hidden_dim, recipe.seed)
    assert isinstance(trainer.translator, Committee)
    for name, tensor in kernel.state_dict().items():
        assert torch.equal(trainer.translator.ridge.state_dict()[name], tensor)
    assert trainer.translator.ridge_share == 0.25


def test_captions_that_weigh_nothing_teach_nothing():
    """By regression; in the other loss they are negatives of the image-to-caption direction all the same."""
    recipe, weights = replace(TINY, infonce_weight=0.0, regression_weight=1.0), np.ones(240, np.float32)
    weights[::3] = 0
    learned = []
    for changed in (weights == 0, weights == 1):
        pairs = tiny_pairs(1, 60)
        trainers = []
        for noise in (0.0, 1.0):
            pairs.text_embeddings[changed] += np.float32(noise)
            trainers.append(Trainer(recipe, whole(pairs, weights), MACHINE))
            trainers[-1].train_epoch(1, lambda: None)
        learned.append([torch.cat([p.flatten() for p in trainer.translator.parameters()]) for trainer in trainers])
    assert torch.equal(*learned[0])
    assert not torch.equal(*learned[1])


def test_the_regression_term_and_its_warm_up(split):
    recipe = replace(TINY, dropout=0.0, batch_size=10_000, infonce_weight=0.0, regression_weight=2.0)
    trainer = Trainer(recipe, split.train, MACHINE)
    before = split.train.measure(trainer.translator)["regression_loss"]
    assert trainer.train_epoch(1, lambda: None)["train_loss"] == pytest.approx(2 * before, rel=1e-5)
    warm = Trainer(replace(recipe, regression_warmup_epochs=4), split.train, MACHINE)
    assert warm.train_epoch(1, lambda: None)["train_loss"] == pytest.approx(before / 2, rel=1e-5)


GOLDEN = {
    "baseline": [41.8223876953125, 36.23658447265625, 35.63492431640625],
    "strong": [19.668402099609374, 17.36986083984375, 16.64775187174479],
    "baseline, AdamW, 5,000": [43.13953450520833, 40.76370442708333, 39.09022216796875],
}
GOLDEN_RECIPES = RECIPES | {
    "baseline, AdamW, 5,000": replace(BASELINE, batch_size=5000, optimizer="adamw", weight_decay=1e-2)
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_losses(split, name):
    """Three epochs of each named recipe on the tiny pairs, as recorded: a refactoring must not move them."""
    recipe = GOLDEN_RECIPES[name]
    recipe = replace(recipe, hidden_dim=32, batch_size=recipe.batch_size // 128, seed=5)
    trainer = Trainer(recipe, split.train, MACHINE)
    losses = [trainer.train_epoch(epoch, lambda: None)["train_loss"] for epoch in (1, 2, 3)]
    assert all(map(math.isfinite, losses))
    assert losses == pytest.approx(GOLDEN[name], rel=1e-4)
