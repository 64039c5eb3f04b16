"""What the tests of the search share: a project folder, and the script's main on a small space."""

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import src.search.loop
import src.search.space
import src.training.job
from src.training.recipe import BASELINE, STRONG
from tests.conftest import REPO

SCRIPT = "train_mrr_hpp_tunning_RandSearch.py"
# Twelve configurations, (dropout, lr, tau), of a translator that trains in no time; no named recipe is among them.
SMALL = (
    "--device cpu --epochs 2 --hidden-dim 16 --batch-size 512 --regression-weight 0 --infonce-weight 1 "
    "--infonce-warmup-epochs 0 --weight-decay 0 --lr-schedule constant --input-noise 0 --negatives batch "
    "--lr-warmup-epochs 0 --depth 3 --norm layer --copies 1 --kernel-share 0 --max-negatives 0 "
    "--dropout 0 0.1 --lr 1e-3 3e-3 --tau 0.01 0.02 0.05"
)
# The beginning of the list of --search-seed 0, as it has been from the first version on.
LIST = [(0.1, 0.001, 0.02), (0.1, 0.003, 0.05), (0.0, 0.001, 0.05), (0.0, 0.003, 0.02), (0.0, 0.003, 0.01)]

# More flags, for twelve others that have `baseline` and `strong` among them.
WITH_NAMED = ("--dropout", 0.1, 0.4, "--lr", 3e-4, 5e-4, "--tau", 0.01, 0.02, 0.05)
NAMED = [(0.1, 3e-4, 0.01), (0.4, 5e-4, 0.02)]


class Killed(BaseException):
    """Ends a search like a SIGKILL: nothing of it reacts. (What a real one does to the locks is tested elsewhere.)"""


@pytest.fixture
def project(sample, tmp_path, monkeypatch):
    """An empty project folder with the sample's data as the working directory. Searches leave out what would take most
    of the time of ones as short as these: the pictures, the linear map, and threads that wait for each other. There are
    two named recipes, whatever others come."""
    (tmp_path / "data").symlink_to(sample)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(REPO))
    monkeypatch.setattr(src.training.fit, "plot_curves", lambda *args: None)
    monkeypatch.setattr(src.search.loop, "draw_plots", lambda *args: None)
    monkeypatch.setattr(src.training.job, "linear_mrr", lambda split: 0.99)
    monkeypatch.setattr(src.search.space, "NAMED", (BASELINE, STRONG))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)


def run_search(*flags) -> None:
    """The script in this process, with more flags."""
    script = importlib.import_module(SCRIPT.removesuffix(".py"))
    script.main([*SMALL.split(), *map(str, flags)])


def rows_of(path: str | Path = "hpsearch_results.csv") -> pd.DataFrame:
    return pd.read_csv(path, keep_default_na=False)


def configurations(table: pd.DataFrame) -> list[tuple]:
    return [tuple(row) for row in table[["dropout", "lr", "tau"]].itertuples(index=False)]


def without_times(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns=["training_seconds", "ended", "run"])


@pytest.fixture
def before_training(monkeypatch):
    """A function that has `change(recipe)` called before each training, which may raise. It returns the list of the
    recipes that are trained."""
    train_run = src.search.loop.train_run

    def patch(change=lambda recipe: None):
        trained = []

        def train(recipe, *args, **options):
            trained.append(recipe)
            change(recipe)
            return train_run(recipe, *args, **options)

        monkeypatch.setattr(src.search.loop, "train_run", train)
        return trained

    return patch


def lock_holder(path: Path, number: int) -> subprocess.Popen:
    """Another process that holds a lock until it is killed."""
    code = "import sys, pathlib; from src.common.locks import FileLocks; locks = FileLocks(pathlib.Path(sys.argv[1])); "
    code += "locks.acquire(int(sys.argv[2])); print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(path), str(number)]
    process = subprocess.Popen(command, cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def measured_rows(rng: np.random.Generator, choices: dict[str, tuple], count: int) -> list[dict]:
    """Rows of trials whose MRR depends on the position of the first field's choice, and on chance."""
    positions = rng.integers(0, [len(values) for values in choices.values()], (count, len(choices)))
    return [
        {name: values[k] for (name, values), k in zip(choices.items(), row, strict=True)}
        | {"trial": number + 1, "state": "finished", "mrr": float(rng.normal(0.1 * row[0], 0.05))}
        for number, row in enumerate(positions)
    ]
