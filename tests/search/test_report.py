"""The report at the end of a search."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from src.search.report import HYPERPARAMETERS_PNG, IMPORTANCE_PNG, describe_plots, draw_plots, importance, top_table
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


@pytest.mark.parametrize(("trials", "fields"), [(1, 0), (1, 3), (2, 1), (29, 3), (30, 0), (30, 3)])
def test_the_pictures_of_few_and_of_many_trials(tmp_path, trials, fields):
    choices = dict(list(CHOICES.items())[:fields])
    rows = measured_rows(np.random.default_rng(0), CHOICES, trials)
    rows += [{"trial": trials + 1, "state": "failed", "mrr": ""} | {name: choices[name][0] for name in choices}]
    draw_plots(rows, Space.of(BASELINE, choices), tmp_path)
    drawn = [HYPERPARAMETERS_PNG, IMPORTANCE_PNG] if trials >= 30 else [HYPERPARAMETERS_PNG]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(drawn)
    for name in drawn:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
        assert str(tmp_path / name) in describe_plots(rows, tmp_path)
    assert ("fewer than 30 finished trials" in describe_plots(rows, tmp_path)) == (trials < 30)


def test_pruned_trials_are_drawn_but_are_part_of_no_median_and_no_importance(tmp_path, monkeypatch):
    rows, space = measured_rows(np.random.default_rng(0), CHOICES, 60), Space.of(BASELINE, CHOICES)
    pruned = [row | {"trial": 61 + i, "state": "pruned", "mrr": -9.0 - i} for i, row in enumerate(rows[:20])]
    lines, titles, hlines, suptitle = [], [], Axes.hlines, Figure.suptitle
    monkeypatch.setattr(Axes, "hlines", lambda *args, **how: (lines.append(args[1:]), hlines(*args, **how))[1])
    monkeypatch.setattr(Figure, "suptitle", lambda *args: (titles.append(args[1]), suptitle(*args))[1])
    draw_plots(rows + pruned, space, tmp_path)
    trials = "Validation MRR of 80 trials by choice, 60 of them finished"
    assert titles == [trials, "Importance, over 60 finished trials"]
    table = pd.DataFrame(rows)
    medians, intervals = lines[:3], lines[3:]
    for (drawn, *_), (name, values) in zip(medians, space.choices.items(), strict=True):
        assert drawn.tolist() == [table.mrr[table[name] == value].median() for value in values]
    values = sorted(importance(table.mrr, table[name]) for name in CHOICES)
    for (_, low, high), value in zip(intervals, values, strict=True):
        assert 0 <= low <= value <= high <= 1
    low, high = intervals[-1][1:]  # of the one that matters
    assert 0.1 < high - low < 0.5
    assert intervals[0][1] == 0  # of one that does not


def test_the_table_shows_the_ten_best_finished_trials_and_where_they_differ():
    measures = {"recall_at_10": 0.9, "challenge_mrr": 0.5, "best_epoch": 2, "epochs": 3, "training_seconds": 60.0}
    same = {"lr": 1e-3, "tau": 0.01}
    rows = [{"trial": n, "state": "finished", "mrr": n / 100} | same | measures for n in range(1, 13)]
    rows[5]["tau"], rows[0]["lr"] = 0.02, 2e-3  # the second is not among them
    rows += [{"trial": 13, "state": "pruned", "mrr": 0.99}, {"trial": 14, "state": "failed", "mrr": ""}]
    table = top_table(rows, Space.of(BASELINE, {"lr": (1e-3, 2e-3), "tau": (0.01, 0.02)}))
    assert table.trial.tolist() == list(range(12, 2, -1))
    assert table.iloc[0].to_dict() == {
        "trial": 12,
        "MRR": "0.1200",
        "R@10": "0.9000",
        "challenge MRR": "0.5000",
        "epoch": "2/3",
        "minutes": "1.0",
        "tau": "0.01",
    }
