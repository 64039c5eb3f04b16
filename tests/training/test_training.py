"""Training: one seed gives one history, resuming continues exactly, the schedule and the losses are the recipe's."""

import math
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
import torch

from src.common.files import InputError
from src.data.pairs import Pairs
from src.training.fit import OnDevice, Trainer, fit, learning_rate, ramp
from src.training.inputs import Split
from src.training.model import load_translator
from src.training.recipe import BASELINE, RECIPES
from src.training.runs import BEST_LOSS, BEST_MRR, LAST

CPU = torch.device("cpu")
TINY = replace(BASELINE, hidden_dim=32, epochs=4, batch_size=60, lr=1e-3, tau=0.1, seed=5)
TIMING = ("seconds", "captions_per_second")


def tiny_pairs(seed: int, images: int) -> Pairs:
    """Captions are a fixed nonlinear function of their image's embedding, plus noise: something to learn."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(0).standard_normal((12, 8))
    image_embeddings = rng.standard_normal((images, 12)).astype(np.float32)
    image_of_caption = np.sort(rng.integers(0, images, 4 * images)).astype(np.int32)
    text = np.tanh(image_embeddings[image_of_caption] @ mixing) + 0.1 * rng.standard_normal((4 * images, 8))
    return Pairs(
        caption_ids=np.arange(4 * images),
        caption_texts=np.array([f"caption {i}" for i in range(4 * images)], object),
        text_embeddings=text.astype(np.float32),
        image_of_caption=image_of_caption,
        image_names=np.array([f"{i}.jpg" for i in range(images)], object),
        image_embeddings=image_embeddings,
    )


@pytest.fixture
def split() -> Split:
    return Split(train=tiny_pairs(1, 60), validation=tiny_pairs(2, 20))


def run_fit(recipe, split, run_dir, **options):
    options = {"device": CPU, "precision": "float32", "identity": {"recipe": asdict(recipe)}} | options
    return fit(recipe, split, run_dir, bar={"disable": True}, **options)


def without_timing(history):
    return [{name: value for name, value in row.items() if name not in TIMING} for row in history]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_one_seed_gives_one_history_to_the_last_digit(split, tmp_path, precision):
    recipe = replace(TINY, input_noise=0.2)
    first = run_fit(recipe, split, tmp_path / "a", precision=precision)
    torch.rand(7)  # what ran before does not matter
    second = run_fit(recipe, split, tmp_path / "b", precision=precision)
    other = run_fit(replace(recipe, seed=6), split, tmp_path / "c", precision=precision)
    assert without_timing(first.history) == without_timing(second.history)
    assert (tmp_path / "a" / BEST_MRR).read_bytes() == (tmp_path / "b" / BEST_MRR).read_bytes()
    assert without_timing(first.history) != without_timing(other.history)


def test_it_learns(split, tmp_path):
    result = run_fit(replace(TINY, epochs=60), split, tmp_path)
    chance = np.mean(1 / np.arange(1, 21))
    assert result.best["mrr"] > 2 * chance
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"] / 2


def test_the_best_epochs_are_kept_and_reload_to_the_same_figures(split, tmp_path):
    result = run_fit(replace(TINY, epochs=30), split, tmp_path)
    validation = OnDevice(split.validation, CPU)
    best_mrr = max(row["mrr"] for row in result.history)
    best_loss = min(row["regression_loss"] for row in result.history)
    assert result.best["mrr"] == best_mrr
    assert validation.measure(load_translator(tmp_path / BEST_MRR))["mrr"] == best_mrr
    assert validation.measure(load_translator(tmp_path / BEST_LOSS))["regression_loss"] == best_loss
    assert result.history[result.best_loss_epoch - 1]["regression_loss"] == best_loss


def test_history_csv_holds_every_epoch_exactly(split, tmp_path):
    result = run_fit(TINY, split, tmp_path)
    table = pd.read_csv(tmp_path / "history.csv")
    assert table.to_dict("records") == result.history
    expected = ["epoch", "train_loss", "regression_loss", "mrr", "recall_at_1", "recall_at_5", "recall_at_10", "lr"]
    assert {*expected, *TIMING} <= set(table.columns)


class Killed(Exception):
    pass


@pytest.mark.parametrize("killed_in", [1, 3])
def test_a_resumed_run_is_the_uninterrupted_run(split, tmp_path, monkeypatch, killed_in):
    recipe = replace(TINY, input_noise=0.2, lr_schedule="cosine", lr_warmup_epochs=1.5, regression_weight=0.1)
    monkeypatch.setattr("src.training.fit.SECONDS_BETWEEN_CHECKPOINTS", 0)
    whole = run_fit(recipe, split, tmp_path / "whole")

    def kill(row):
        if row["epoch"] == killed_in:
            raise Killed

    with pytest.raises(Killed):
        run_fit(recipe, split, tmp_path / "cut", on_epoch=kill)
    assert (tmp_path / "cut" / LAST).exists()
    resumed = run_fit(recipe, split, tmp_path / "cut", resume=True)
    assert without_timing(resumed.history) == without_timing(whole.history)
    assert (tmp_path / "cut" / BEST_MRR).read_bytes() == (tmp_path / "whole" / BEST_MRR).read_bytes()
    assert (tmp_path / "cut" / BEST_LOSS).read_bytes() == (tmp_path / "whole" / BEST_LOSS).read_bytes()
    assert not (tmp_path / "cut" / LAST).exists()


def test_what_cannot_be_resumed_is_refused(split, tmp_path):
    with pytest.raises(InputError, match="nothing to resume"):
        run_fit(TINY, split, tmp_path, resume=True)
    with pytest.raises(Killed):
        run_fit(TINY, split, tmp_path, on_epoch=lambda row: (_ for _ in ()).throw(Killed))
    with pytest.raises(InputError, match="another recipe"):
        run_fit(replace(TINY, lr=2e-3), split, tmp_path, resume=True)
    (tmp_path / LAST).write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="not a checkpoint"):
        run_fit(TINY, split, tmp_path, resume=True)


class Payload:
    def __reduce__(self):
        return print, ("executed",)


def test_a_checkpoint_never_executes_code(split, tmp_path, capsys):
    torch.save(Payload(), tmp_path / LAST)
    with pytest.raises(InputError, match="not a checkpoint"):
        run_fit(TINY, split, tmp_path, resume=True)
    assert "executed" not in capsys.readouterr().out


def test_patience_ends_the_run(split, tmp_path):
    # A learning rate this low changes nothing that a rank could see: the first epoch stays the best.
    result = run_fit(replace(TINY, lr=1e-12, patience=3, epochs=50), split, tmp_path)
    assert result.best["epoch"] == 1
    assert len(result.history) == 4
    assert "3 epochs" in result.stopped
    assert len(run_fit(replace(TINY, lr=1e-12, patience=0, epochs=6), split, tmp_path).history) == 6


def test_a_diverging_run_ends_in_one_clear_error(split, tmp_path):
    with pytest.raises(InputError, match="diverged in epoch 1"):
        run_fit(replace(TINY, lr=1e30), split, tmp_path)


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
        trainer = Trainer(replace(recipe, negatives=negatives), split.train, CPU, "float32")
        losses.append(trainer.train_epoch(1, lambda: None)["train_loss"])
    # `all` also shows the few images that have no caption: a little harder.
    captioned = split.train.select_images(np.isin(np.arange(60), split.train.image_of_caption))
    trainer = Trainer(replace(recipe, negatives="all"), captioned, CPU, "float32")
    assert trainer.train_epoch(1, lambda: None)["train_loss"] == pytest.approx(losses[0], rel=1e-5)
    assert losses[1] >= losses[0]


def test_the_regression_term_and_its_warm_up(split):
    recipe = replace(TINY, dropout=0.0, batch_size=10_000, infonce_weight=0.0, regression_weight=2.0)
    trainer = Trainer(recipe, split.train, CPU, "float32")
    before = OnDevice(split.train, CPU).measure(trainer.translator)["regression_loss"]
    assert trainer.train_epoch(1, lambda: None)["train_loss"] == pytest.approx(2 * before, rel=1e-5)
    warm = Trainer(replace(recipe, regression_warmup_epochs=4), split.train, CPU, "float32")
    assert warm.train_epoch(1, lambda: None)["train_loss"] == pytest.approx(before / 2, rel=1e-5)


GOLDEN = {
    "baseline": [41.8223876953125, 36.23658447265625, 35.63492431640625],
    "compact": [16.31595458984375, 14.814788818359375, 14.295039876302083],
    "ensemble_raw": [41.8223876953125, 36.23658447265625, 35.63492431640625],
    "ensemble_clip": [41.8223876953125, 36.23658447265625, 35.63492431640625],
    "ensemble_clip_adamw": [43.13953450520833, 40.76370442708333, 39.09022216796875],
}


@pytest.mark.parametrize("name", RECIPES)
def test_golden_losses(split, name):
    """Three epochs of each named recipe on the tiny pairs, as recorded: a refactoring must not move them."""
    recipe = replace(RECIPES[name], hidden_dim=32, batch_size=RECIPES[name].batch_size // 128, seed=5)
    trainer = Trainer(recipe, split.train, CPU, "float32")
    losses = [trainer.train_epoch(epoch, lambda: None)["train_loss"] for epoch in (1, 2, 3)]
    assert all(map(math.isfinite, losses))
    assert losses == pytest.approx(GOLDEN[name], rel=1e-4)
