"""The line to beat."""

from dataclasses import replace

import pytest

import src.search.space
from src.data.pairs import open_pairs
from src.search.line import line_to_beat, verdict
from src.search.space import Space
from src.training.fit import fit
from src.training.inputs import TrainingData
from src.training.job import linear_mrr
from src.training.machine import choose_machine
from src.training.recipe import BASELINE, LINEAR

LARGE = replace(BASELINE, name="large", lr=1e-3)
SPACE = Space.of(BASELINE, {"lr": (3e-4, 1e-3), "tau": (0.01, 0.02), "hidden_dim": [1024]})


def row(trial, lr, mrr, state="finished", tau=0.01):
    return {"trial": trial, "state": state, "mrr": mrr, "lr": lr, "tau": tau}


@pytest.fixture(autouse=True)
def named(monkeypatch):
    monkeypatch.setattr(src.search.space, "NAMED", (BASELINE, LARGE))


def test_the_line_is_of_the_named_recipes_that_have_ended_and_of_the_linear_map():
    assert line_to_beat([], SPACE, 0.43299) == "linear 0.4330"
    rows = [row(1, 3e-4, 0.5683), row(2, 1e-3, 0.6, tau=0.02)]
    assert line_to_beat(rows, SPACE, 0.433) == "baseline 0.5683 (trial 1 with hidden_dim=1024), linear 0.4330"
    rows += [row(3, 1e-3, 0.64294)]
    ranked = (
        "large 0.6429 (trial 3 with hidden_dim=1024), linear 0.6000, baseline 0.5683 (trial 1 with hidden_dim=1024)"
    )
    assert line_to_beat(rows, SPACE, 0.6) == ranked
    rows[0] |= {"state": "failed", "mrr": ""}
    assert line_to_beat(rows, SPACE, 0.6).endswith("linear 0.6000, baseline failed (trial 1 with hidden_dim=1024)")


def test_the_verdict_names_what_no_trial_has_beaten():
    rows = [row(1, 3e-4, 0.5), row(2, 1e-3, 0.4), row(3, 1e-3, 0.6, tau=0.02), row(4, 3e-4, 0.9, "pruned", tau=0.02)]
    assert verdict(rows, SPACE, 0.59) == ""
    assert "better than the linear map" in verdict(rows, SPACE, 0.61)
    assert verdict(rows[:2], SPACE, 0.49).endswith("the best is baseline with hidden_dim=1024.")
    rows[2]["mrr"] = 0.5  # the first of two that are as good
    assert verdict(rows, SPACE, 0.49).endswith("the best is baseline with hidden_dim=1024.")


def test_the_linear_map_is_that_of_the_recipe(sample, tmp_path, monkeypatch):
    monkeypatch.setattr("src.training.fit.plot_strengths", lambda *args: None)
    machine, pairs = choose_machine("cpu", "float32"), open_pairs(sample / "train/train.npz")
    narrow = {name: getattr(pairs, name)[:, :64] for name in ("text_embeddings", "image_embeddings")}
    split = TrainingData.of(replace(pairs, **narrow), machine.device).split(0.1, 43)
    assert linear_mrr(split) == fit(LINEAR, split, tmp_path, machine=machine).best["mrr"]
