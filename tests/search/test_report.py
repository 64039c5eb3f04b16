"""The report at the end of a search."""

import numpy as np
import pandas as pd
import pytest

from src.search.report import HYPERPARAMETERS_PNG, IMPORTANCE_PNG, draw_plots, importance, top_table
from src.search.space import Space
from src.training.recipe import BASELINE
from tests.search.conftest import measured_rows

CHOICES = {"dropout": (0.0, 0.1, 0.2), "tau": (0.01, 0.02), "lr_schedule": ("constant", "cosine")}


def test_importance_is_omega_squared():
    mrr, lr = pd.Series([0.1, 0.3, 0.5, 0.7]), pd.Series([1, 1, 2, 2])
    # Between: 2·0.2² + 2·0.2² = 0.16; within: 4·0.1² = 0.04, on 2 degrees of freedom 0.02; total 0.20.
    assert importance(mrr, lr) == pytest.approx((0.16 - 0.02) / (0.20 + 0.02))
    assert importance(mrr[:2], lr[:2]) == 0.0
    assert importance(mrr, pd.Series([1, 2, 3, 4])) == 0.0  # too few to tell


def test_importance_tells_what_matters_from_chance():
    table = pd.DataFrame(measured_rows(np.random.default_rng(0), CHOICES, 100))
    assert importance(table.mrr, table.dropout) > 0.5
    assert importance(table.mrr, table.tau) < 0.1
    assert importance(table.mrr, table.lr_schedule) < 0.1


@pytest.mark.parametrize(("trials", "fields"), [(1, 0), (1, 3), (2, 1), (20, 3)])
def test_the_pictures_of_few_and_of_many_trials(tmp_path, trials, fields):
    choices = dict(list(CHOICES.items())[:fields])
    rows = measured_rows(np.random.default_rng(0), CHOICES, trials)
    rows += [{"trial": trials + 1, "state": "failed", "mrr": ""} | {name: choices[name][0] for name in choices}]
    draw_plots(rows, Space.of(BASELINE, choices), tmp_path)
    for name in (HYPERPARAMETERS_PNG, IMPORTANCE_PNG):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_the_table_shows_the_ten_best_finished_trials():
    measures = {"recall_at_10": 0.9, "challenge_mrr": 0.5, "best_epoch": 2, "epochs": 3, "training_seconds": 60.0}
    rows = [{"trial": n, "state": "finished", "mrr": n / 100, "lr": 1e-3} | measures for n in range(1, 13)]
    rows += [{"trial": 13, "state": "pruned", "mrr": 0.99}, {"trial": 14, "state": "failed", "mrr": ""}]
    table = top_table(rows, Space.of(BASELINE, {"lr": (1e-3, 2e-3)}))
    assert table.trial.tolist() == list(range(12, 2, -1))
    assert table.iloc[0].to_dict() == {
        "trial": 12,
        "MRR": "0.1200",
        "R@10": "0.9000",
        "challenge MRR": "0.5000",
        "epoch": "2/3",
        "minutes": "1.0",
        "lr": "0.001",
    }
