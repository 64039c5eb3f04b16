"""`python -m src.ensemble train`: unlike members as long as the time lasts, and the weighted mean of the best."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure

import src.ensembles.training
from src.common.files import InputError, read_json, write_json
from src.data.submissions import read_submission
from src.ensemble import main
from src.ensembles.members import UNLIKE
from src.ensembles.training import carry_out
from src.training.inputs import Part
from src.training.model import ResidualMLP
from src.training.recipe import BASELINE, KERNEL, RECIPES, load_recipe
from src.training.runs import LAST, State, read_run
from tests.ensembles.test_averaging import unit

QUICK = replace(BASELINE, name="quick", hidden_dim=8, epochs=2)
SECONDS = {"kernel": 10, "quick": 60}
OUTPUT = "submission_ensemble_unlike.csv"


@pytest.fixture
def trained(project, monkeypatch):
    """The folders, by name, of members that were trained, in that order: each took as long as SECONDS says."""
    names, clock = [], [0.0]

    def take_time(task, *others):
        done = carry_out(task, *others)
        if task.state in (State.NEW, State.TO_RESUME) and done.state == State.FINISHED:
            names.append(task.run_dir.name)
            clock[0] += SECONDS[task.recipe.name]
            record = read_json(task.run_dir / "run.json")
            record["results"]["training_seconds"] = SECONDS[task.recipe.name]
            write_json(task.run_dir / "run.json", record)
        return done

    monkeypatch.setattr(src.ensembles.training, "carry_out", take_time)
    monkeypatch.setattr(src.ensembles.training, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(Figure, "savefig", lambda *_, **__: None)  # two thirds of the time, and no subject here
    use(monkeypatch, QUICK)
    return names


def use(monkeypatch, recipe):
    """Take members of the kernel and of a recipe."""
    monkeypatch.setattr("src.ensemble.UNLIKE", ("kernel", recipe.name))
    monkeypatch.setitem(RECIPES, recipe.name, recipe)


def train(seconds, *flags):
    main(["train", "--minutes", str(seconds / 60), "--device", "cpu", "--precision", "float32", *map(str, flags)])


def submissions(*names):
    files = [f"models/unlike/{name}/submission.csv" for name in names]
    return unit(np.array([read_submission(file).embeddings for file in files]))


def test_members_are_trained_in_turn_as_long_as_another_fits(trained, project, capsys):
    train(140)
    assert trained == ["kernel_seed0", "quick_seed0", "quick_seed1"]  # 10 seconds are left
    printed = capsys.readouterr().out
    assert "kernel, quick" in printed
    assert "unit vectors, for the models are of several kinds: kernel, mlp" in printed
    records = [read_run(project / "models/unlike" / name) for name in trained]
    assert {record.recipe.effective_split_seed for record in records} == {0}
    weights = [int(re.search(rf"^ *(\d+) +models/unlike/{name} ", printed, re.MULTILINE)[1]) for name in trained]
    expected = np.average(submissions(*trained), axis=0, weights=weights)
    np.testing.assert_allclose(read_submission(OUTPUT).embeddings, expected, rtol=1e-4, atol=1e-5)

    train(140)  # again: nothing is left to do
    train(189)  # the 130 count, and 59 are not enough
    assert len(trained) == 3
    assert capsys.readouterr().out.count("quick_seed1") == 6  # its table in two parts, and the weights, each time
    train(191, "--members", 1)
    assert trained[3:] == ["quick_seed2"]
    assert "1 of 4 runs selected" in capsys.readouterr().out
    assert any(np.allclose(read_submission(OUTPUT).embeddings, each, atol=1e-5) for each in submissions(*trained))


def test_an_interrupted_member_continues(trained, project, monkeypatch):
    measure, calls = Part.measure, []

    def interrupt_in_the_second_epoch(self, translator):
        calls.extend([translator] * isinstance(translator, ResidualMLP))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(self, translator)

    with monkeypatch.context() as patch:
        patch.setattr("src.training.checkpoint.SECONDS_BETWEEN_CHECKPOINTS", 0)
        patch.setattr(Part, "measure", interrupt_in_the_second_epoch)
        with pytest.raises(KeyboardInterrupt):
            train(70)
    run_dir = project / "models/unlike/quick_seed0"
    assert (run_dir / LAST).exists()
    started = read_run(run_dir).provenance.started
    train(70)
    assert trained == ["kernel_seed0", "quick_seed0"]
    assert read_run(run_dir).provenance.started == started


def test_one_that_fails_is_named_and_the_others_are_averaged(trained, monkeypatch, capsys):
    use(monkeypatch, replace(QUICK, lr=1e30))
    with pytest.raises(InputError, match=r"^1 of 2 members failed: models/unlike/quick_seed0: training diverged"):
        train(600)
    assert trained == ["kernel_seed0"]
    assert "The only member is the ensemble" in capsys.readouterr().out
    alone = read_submission("models/unlike/kernel_seed0/submission.csv").embeddings
    np.testing.assert_array_equal(read_submission(OUTPUT).embeddings, alone)


def test_a_time_that_is_over_at_once_is_said_to_be(project, monkeypatch):
    with pytest.raises(InputError, match=r"--minutes 1e-09: over before a member could be started"):
        train(6e-8)


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf", "an hour"])
def test_minutes_are_above_0(project, minutes, capsys):
    with pytest.raises(SystemExit):
        main(["train", "--minutes", minutes])
    assert "--minutes" in capsys.readouterr().err


def test_members_that_train_on_another_split_are_refused(trained, project):
    train(10)
    with pytest.raises(InputError, match=r"kernel_seed0: holds a run with another split_seed; choose another --models"):
        train(10, "--split-seed", 1)


def test_the_recipes_hold_out_as_many_images():
    """Or their common split is none."""
    assert {load_recipe(name).val_fraction for name in UNLIKE} == {KERNEL.val_fraction}
