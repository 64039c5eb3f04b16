"""Training: one seed gives one history, resuming continues exactly, the schedule and the losses are the recipe's."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from src.common.files import InputError
from src.training.checkpoint import Checkpoint
from src.training.fit import fit, refit
from src.training.machine import Machine
from src.training.model import load_translator
from src.training.recipe import KERNEL
from src.training.runs import BEST_LOSS, BEST_MRR, LAST, REFIT, REFIT_LAST
from src.training.trainer import Trainer
from tests.training.conftest import CPU, MACHINE, TINY

TIMING = ("seconds", "captions_per_second")


def run_fit(recipe, split, run_dir, **options):
    return fit(recipe, split, run_dir, **({"machine": MACHINE, "bar": {"disable": True}} | options))


def without_timing(history):
    return [{name: value for name, value in row.items() if name not in TIMING} for row in history]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_one_seed_gives_one_history_to_the_last_digit(split, tmp_path, precision):
    recipe = replace(TINY, input_noise=0.2)
    machine = Machine(CPU, precision)
    first = run_fit(recipe, split, tmp_path / "a", machine=machine)
    torch.rand(7)  # what ran before does not matter
    second = run_fit(recipe, split, tmp_path / "b", machine=machine)
    other = run_fit(replace(recipe, seed=6), split, tmp_path / "c", machine=machine)
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
    best_mrr = max(row["mrr"] for row in result.history)
    best_loss = min(row["regression_loss"] for row in result.history)
    assert result.best["mrr"] == best_mrr
    assert split.validation.measure(load_translator(tmp_path / BEST_MRR))["mrr"] == best_mrr
    assert split.validation.measure(load_translator(tmp_path / BEST_LOSS))["regression_loss"] == best_loss
    assert result.history[result.best_loss_epoch - 1]["regression_loss"] == best_loss


def test_history_csv_holds_every_epoch_exactly(split, tmp_path):
    result = run_fit(TINY, split, tmp_path)
    table = pd.read_csv(tmp_path / "history.csv")
    assert table.to_dict("records") == result.history
    expected = ["epoch", "train_loss", "regression_loss", "mrr", "recall_at_1", "recall_at_5", "recall_at_10", "lr"]
    assert {*expected, *TIMING} <= set(table.columns)


def test_the_mrr_of_a_sample_of_what_trains_is_measured_beside_and_shows_what_is_learnt_by_heart(split, tmp_path):
    """Among as many images as validate, so that both compare."""
    result = run_fit(replace(TINY, epochs=60, lr=3e-3, dropout=0.0, patience=0), split, tmp_path)
    seen = split.train.sample(1000, len(split.validation.images))
    trainer = Trainer(replace(TINY, lr=3e-3, dropout=0.0), split.train, MACHINE)
    trainer.train_epoch(1, lambda: None)
    assert result.history[0]["train_mrr"] == seen.measure(trainer.translator)["mrr"]
    assert result.history[-1]["train_mrr"] > result.history[-1]["mrr"] + 0.2


def test_in_a_log_an_epoch_is_a_line(split, tmp_path, capsys):
    recipe = replace(TINY, lr=1e-12, patience=3, epochs=9)  # the first epoch stays the best
    result = fit(recipe, split, tmp_path, machine=MACHINE, bar={"desc": "fold 1"})
    refit(TINY, split.train, 2, tmp_path, machine=MACHINE)
    lines, mrr = capsys.readouterr().err.splitlines(), f"{result.best['mrr']:.3f}"
    assert len(lines) == 4 + 2
    for epoch, (line, row) in enumerate(zip(lines[:4], result.history, strict=True), 1):
        told = f"fold 1: epoch {epoch} of 9: loss {row['train_loss']:.3f}, MRR {mrr}, best {mrr} in epoch 1, "
        ends = r"\d+ s, ends in about \d+ s unless the MRR rises" if epoch < 4 else r"\d+ s"
        assert re.fullmatch(re.escape(told) + ends, line)
    assert re.fullmatch(r"on all images: epoch 1 of 2: loss \d+\.\d{3}, \d+ s, ends in about \d+ s", lines[4])
    assert re.fullmatch(r"on all images: epoch 2 of 2: loss \d+\.\d{3}, \d+ s", lines[5])


class Killed(Exception):
    pass


def kill_in_the_second(row):
    """Epoch, when the first is saved."""
    if row["epoch"] == 2:
        raise Killed


@pytest.mark.parametrize("killed_in", [2, 4])
def test_a_resumed_run_is_the_uninterrupted_run(split, tmp_path, monkeypatch, killed_in):
    schedule = {"lr_schedule": "cosine", "lr_warmup_epochs": 1.5}
    recipe = replace(TINY, input_noise=0.2, regression_weight=0.1, copies=2, kernel_share=0.5, **schedule)
    monkeypatch.setattr("src.training.checkpoint.SECONDS_BETWEEN_CHECKPOINTS", 0)
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
    assert (tmp_path / "cut" / LAST).exists()  # until the run is recorded as finished


def test_what_an_older_version_began_without_the_training_mrr_is_resumed_twice(split, tmp_path, monkeypatch):
    monkeypatch.setattr("src.training.checkpoint.SECONDS_BETWEEN_CHECKPOINTS", 0)

    def kill_in(epoch):
        def kill(row):
            if row["epoch"] == epoch:
                raise Killed

        return kill

    with pytest.raises(Killed):
        run_fit(TINY, split, tmp_path, on_epoch=kill_in(2))
    state = torch.load(tmp_path / LAST)
    del state["history"][0]["train_mrr"]
    torch.save(state, tmp_path / LAST)
    with pytest.raises(Killed):
        run_fit(TINY, split, tmp_path, on_epoch=kill_in(3), resume=True)
    history = run_fit(TINY, split, tmp_path, resume=True).history
    assert ["train_mrr" in row for row in history] == [False, True, True, True]


def test_a_fresh_start_leaves_no_checkpoint_of_the_run_before(split, tmp_path):
    (tmp_path / LAST).write_bytes(b"of another run")
    run_fit(TINY, split, tmp_path)  # too quick for a checkpoint of its own
    assert not (tmp_path / LAST).exists() or b"of another run" not in (tmp_path / LAST).read_bytes()


def test_what_cannot_be_resumed_is_refused(split, tmp_path):
    with pytest.raises(InputError, match="nothing to resume"):
        run_fit(TINY, split, tmp_path, resume=True)
    with pytest.raises(Killed):
        run_fit(TINY, split, tmp_path, on_epoch=kill_in_the_second)
    with pytest.raises(InputError, match="another recipe"):
        run_fit(replace(TINY, lr=2e-3), split, tmp_path, resume=True)
    (tmp_path / LAST).write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="not a checkpoint"):
        run_fit(TINY, split, tmp_path, resume=True)


def test_a_checkpoint_with_a_damaged_byte_or_a_tensor_of_another_shape_is_refused(split, tmp_path):
    with pytest.raises(Killed):
        run_fit(TINY, split, tmp_path, on_epoch=kill_in_the_second)
    whole, state = (tmp_path / LAST).read_bytes(), torch.load(tmp_path / LAST)
    weights = state["translator"]["head.weight"].numpy().tobytes()
    damaged = bytearray(whole)
    damaged[whole.index(weights)] ^= 0x10  # torch.load would not see it
    (tmp_path / LAST).write_bytes(damaged)
    with pytest.raises(InputError, match=r"last\.pt: not a checkpoint .*damaged"):
        run_fit(TINY, split, tmp_path, resume=True)
    (tmp_path / LAST).write_bytes(b"")
    with pytest.raises(InputError, match=r"last\.pt: not a checkpoint"):
        run_fit(TINY, split, tmp_path, resume=True)
    moments, best, row = state["optimizer"]["state"][0], state["best_mrr"], state["history"][0]
    for place, key, value in (
        (moments, "exp_avg", torch.zeros(1)),  # the optimizer would write beyond its end
        (best, "weights", {}),
        (best, "epoch", 7),
        (row, "mrr", "high"),
        (state["identity"]["recipe"], "lr", "fast"),
    ):
        kept, place[key] = place[key], value
        torch.save(state, tmp_path / LAST)
        with pytest.raises(InputError, match=r"last\.pt: not a checkpoint"):
            run_fit(TINY, split, tmp_path, resume=True)
        place[key] = kept


@pytest.mark.parametrize("history", [[], {}])
def test_a_checkpoint_of_no_epoch_is_refused(split, tmp_path, history):
    """Its weights would be trained on from the first epoch again."""
    options = {"machine": MACHINE, "bar": {"disable": True}}
    refit(TINY, split.train, 1, tmp_path, **options)
    torch.save(torch.load(tmp_path / REFIT_LAST) | {"history": history}, tmp_path / REFIT_LAST)
    with pytest.raises(InputError, match=r"refit_last\.pt: not a checkpoint"):
        refit(TINY, split.train, 1, tmp_path, **options, resume=True)


class Payload:
    def __reduce__(self):
        return print, ("executed",)


def test_a_checkpoint_never_executes_code(split, tmp_path, capsys):
    torch.save(Payload(), tmp_path / LAST)
    with pytest.raises(InputError, match="not a checkpoint"):
        run_fit(TINY, split, tmp_path, resume=True)
    assert "executed" not in capsys.readouterr().out


def test_a_model_for_all_images_is_trained_as_one_that_is_validated_and_resumes(split, tmp_path, monkeypatch):
    """With the same images it is the same model, of the last epoch; whether or not it was interrupted."""
    recipe = replace(TINY, input_noise=0.2, kernel_share=0.5, patience=1)  # which has no say here
    last = run_fit(replace(recipe, patience=0), split, tmp_path)
    trained = Trainer(recipe, split.train, MACHINE)
    for row in last.history:
        assert trained.train_epoch(row["epoch"], lambda: None)["train_loss"] == row["train_loss"]
    monkeypatch.setattr("src.training.checkpoint.SECONDS_BETWEEN_CHECKPOINTS", 0)
    options = {"machine": MACHINE, "bar": {"disable": True}}

    def weights_of(folder, **resume):
        refit(recipe, split.train, 4, folder, **options, **resume)
        return load_translator(folder / REFIT).state_dict()

    whole = weights_of(tmp_path / "whole")
    with monkeypatch.context() as patch:
        epochs = iter(range(3))
        patch.setattr(Checkpoint, "save_if_due", lambda self, save=Checkpoint.save_if_due: (save(self), next(epochs)))
        with pytest.raises(StopIteration):
            weights_of(tmp_path / "cut")
    assert (tmp_path / "cut" / REFIT_LAST).exists()
    resumed = weights_of(tmp_path / "cut", resume=True)
    for name, tensor in trained.translator.state_dict().items():
        assert torch.equal(tensor, whole[name])
        assert torch.equal(tensor, resumed[name])


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


def test_a_closed_form_shows_its_only_row_and_leaves_what_others_leave(split, tmp_path):
    rows = []
    result = fit(replace(KERNEL, hidden_dim=20), split, tmp_path, machine=MACHINE, on_epoch=rows.append)
    assert rows == result.history == [result.best]
    assert result.best["mrr"] == split.validation.measure(load_translator(tmp_path / BEST_MRR))["mrr"]
    assert {path.name for path in tmp_path.iterdir()} == {"history.csv", "curves.png", BEST_MRR, BEST_LOSS}
