"""`--log`: every column of the history by epoch, each epoch once, whatever was interrupted; one line where the library
is missing. Weights & Biases is a stand-in that behaves as its runs do: steps ascend, and a known id goes on."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest

import train_mrr
import train_mrr_Ensemble_old_dataset
from src.common.files import InputError
from src.training.inputs import TrainingData
from src.training.job import train_run
from src.training.recipe import LINEAR
from src.training.runs import State, read_run
from src.training.scalars import LIBRARIES, require_log
from tests.training.conftest import CPU, MACHINE, TINY, tiny_pairs


class Killed(Exception):
    pass


class StandIn:
    """Runs by id: {step: scalars}, and how often each was begun and ended well."""

    class Error(Exception):
        pass

    def __init__(self):
        self.runs, self.begun, self.ended, self.settings = {}, [], [], {}

    def init(self, *, id, resume, **settings):
        assert resume == "allow"
        steps = self.runs.setdefault(id, {})
        self.begun.append(id)
        self.settings[id] = settings
        return StandInRun(self, id, steps)


class StandInRun:
    def __init__(self, library, id, steps):
        self.library, self.id, self.steps = library, id, steps
        self.step = max(steps, default=-1) + 1

    def log(self, scalars, *, step, commit):
        assert step not in self.steps, "told twice"
        self.steps[step] = scalars

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.library.ended.append((self.id, kind))


@pytest.fixture
def wandb(monkeypatch):
    library = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", library)
    return library


@pytest.fixture
def data():
    return TrainingData.of(tiny_pairs(1, 60), CPU)


def train_in_two(data, run_dir, log, monkeypatch, killed_in=3):
    """Train with one checkpoint, after the first epoch; kill it in a later one, and resume."""
    monkeypatch.setattr("src.training.checkpoint.SECONDS_BETWEEN_CHECKPOINTS", 1000)

    def kill(row):
        if row["epoch"] == killed_in:
            raise Killed

    with pytest.raises(Killed):
        train_run(TINY, data, run_dir, machine=MACHINE, log=log, on_epoch=kill)
    train_run(TINY, data, run_dir, machine=MACHINE, log=log, resume=True)
    return pd.read_csv(run_dir / "history.csv").set_index("epoch")


def test_wandb_is_told_each_epoch_once_of_a_run_that_was_killed(data, tmp_path, wandb, monkeypatch):
    history = train_in_two(data, tmp_path / "some", "wandb", monkeypatch)
    ((id, steps),) = wandb.runs.items()  # the same run goes on
    assert wandb.begun == [id, id]
    assert [kind for _, kind in wandb.ended] == [Killed, None]
    assert list(steps) == [1, 2, 3, 4] == list(history.index)
    assert all(row.keys() == set(history.columns) for row in steps.values())
    assert [row["mrr"] for row in steps.values()] == list(history.mrr)
    settings = wandb.settings[id]
    assert (settings["name"], settings["config"]["tau"]) == ("some", TINY.tau)


def test_a_run_that_is_trained_anew_is_another_one_at_wandb(data, tmp_path, wandb, monkeypatch):
    for moment in ("2026-01-01", "2026-01-02"):
        monkeypatch.setattr("src.training.machine.now", lambda moment=moment: moment)
        train_run(TINY, data, tmp_path / "some", machine=MACHINE, log="wandb")
    assert [list(steps) for steps in wandb.runs.values()] == [[1, 2, 3, 4]] * 2


def test_who_is_refused_by_wandb_trains_nothing_and_loses_nothing(data, tmp_path, wandb, monkeypatch):
    def refuse(**settings):
        raise wandb.Error("api_key not configured")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(InputError, match="--log wandb: api_key not configured"):
        train_run(TINY, data, tmp_path, machine=MACHINE, log="wandb")
    assert read_run(tmp_path).status != State.FAILED  # so that what was interrupted is still to resume
    assert not (tmp_path / "history.csv").exists()


def test_a_closed_form_is_one_epoch(data, tmp_path, wandb):
    train_run(replace(LINEAR, seed=5), data, tmp_path, machine=MACHINE, log="wandb")
    ((row,),) = (steps.values() for steps in wandb.runs.values())
    assert row.keys() == set(pd.read_csv(tmp_path / "history.csv")) - {"epoch"}


def test_tensorboard_shows_each_epoch_once_of_a_run_that_was_killed(data, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = train_in_two(data, tmp_path, "tensorboard", monkeypatch)
    shown = EventAccumulator(str(tmp_path / "tensorboard"))
    shown.Reload()
    assert set(shown.Tags()["scalars"]) == set(history.columns)
    for name in ("mrr", "train_loss"):
        assert [event.step for event in shown.Scalars(name)] == list(history.index)
        assert [event.value for event in shown.Scalars(name)] == pytest.approx(list(history[name]))


def test_what_an_earlier_writer_wrote_from_the_first_epoch_on_is_void(data, tmp_path, monkeypatch):
    """As TensorBoard takes it: of every writer, what it was told, and from which step on others no longer count."""
    writers = []

    class Writer:
        def __init__(self, folder, purge_step):
            assert folder == str(tmp_path / "tensorboard")
            self.purge_step, self.told, self.open = purge_step, [], True
            writers.append(self)

        def add_scalar(self, name, value, step):
            self.told.append((name, step))

        def flush(self):
            self.flushed = len(self.told)

        def close(self):
            self.open = False

    monkeypatch.setitem(sys.modules, LIBRARIES["tensorboard"], SimpleNamespace(SummaryWriter=Writer))
    history = train_in_two(data, tmp_path, "tensorboard", monkeypatch)
    shown = []
    for writer in writers:
        shown = [(name, step) for name, step in shown if step < writer.purge_step] + writer.told
        assert writer.flushed == len(writer.told)
        assert not writer.open
    assert sorted(shown) == sorted((name, epoch) for epoch in history.index for name in history.columns)
    assert [writer.purge_step for writer in writers] == [1, 2]


@pytest.mark.parametrize("log", LIBRARIES)
def test_a_library_that_is_missing_is_named_before_anything_is_read(log, monkeypatch):
    monkeypatch.setitem(sys.modules, LIBRARIES[log], None)
    with pytest.raises(InputError, match=f"--log {log}: needs the package {log} .*pip install {log}"):
        train_mrr.main(["--log", log, "--train-npz", "nowhere.npz"])
    require_log("none")


def test_an_ensemble_logs_each_member(sample, tmp_path, wandb, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = ("--train-npz", sample / "train/train.npz", "--test-npz", sample / "test/test.clean.npz")
    quick = ("--seeds", 42, 4, "--hidden-dim", 8, "--epochs", 2, "--device", "cpu", "--log", "wandb")
    train_mrr_Ensemble_old_dataset.main([str(word) for word in (*data, *quick)])
    names = {wandb.settings[id]["name"]: list(steps) for id, steps in wandb.runs.items()}
    assert names == {"ensemble_raw_seed42": [1, 2], "ensemble_raw_seed4": [1, 2]}
