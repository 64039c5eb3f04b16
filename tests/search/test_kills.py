"""That kills, interruptions and company change nothing in what a search ends with."""

import csv
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict

import optuna
import pytest

import src.search.loop
import src.search.store
import src.training.fit
from src.common.locks import FileLocks
from src.search.space import Space
from src.search.store import FIRST_TRIAL, LOCKS
from src.training.inputs import Part
from src.training.recipe import load_recipe
from src.training.runs import BEST_MRR, LAST
from tests.conftest import REPO
from tests.search.conftest import (
    LIST,
    NAMED,
    SCRIPT,
    WITH_NAMED,
    Killed,
    configurations,
    lock_holder,
    rows_of,
    run_search,
    without_times,
)

TRIAL_1 = "models/hpsearch/trial_001"


def die(*args, **options):
    raise Killed


@pytest.fixture
def epochs(monkeypatch):
    """A function that has `error` raised in that epoch of all trainings to come. It returns a list that grows with
    every epoch."""
    measure = Part.measure

    def patch(number=None, error=None):
        measured = []

        def measure_or_raise(self, translator):
            measured.append(number)
            if len(measured) == number:
                raise error
            return measure(self, translator)

        monkeypatch.setattr(Part, "measure", measure_or_raise)
        return measured

    return patch


@pytest.mark.parametrize("error", [Killed, KeyboardInterrupt])
def test_what_a_dead_process_left_continues_as_if_it_had_never_stopped(project, epochs, error):
    flags = ("--trials", 2, "--epochs", 4, "--pruner", "none", "--submission", "none", *WITH_NAMED)
    run_search(*flags, "--models-dir", "models/straight", "--results", "straight.csv")
    epochs(3, error)
    with pytest.raises(error):
        run_search(*flags)
    assert rows_of().empty
    half_written = project / TRIAL_1 / ".last.x1y2z3.pt"
    half_written.touch()
    measured = epochs()
    run_search(*flags)
    assert len(measured) == 3 + 4  # all but the first epoch, which was saved, of one; the whole of the other
    assert not half_written.exists()
    assert without_times(rows_of()).equals(without_times(rows_of("straight.csv")))
    assert configurations(rows_of()) == NAMED


def test_an_epoch_that_is_saved_is_in_the_journal(project, monkeypatch):
    measure, measured = Part.measure, []

    def measure_less(self, translator):
        measured.append(1)
        return measure(self, translator) | {"mrr": 1 / len(measured)}

    flags = ("--trials", 1, "--epochs", 3, "--submission", "none")
    monkeypatch.setattr(Part, "measure", measure_less)
    with monkeypatch.context() as patch:
        patch.setattr(src.training.fit, "write_history", die)  # just after the checkpoint of the first epoch
        with pytest.raises(Killed):
            run_search(*flags)
    assert (project / TRIAL_1 / LAST).exists()
    run_search(*flags)
    assert len(measured) == 3
    assert rows_of()[["mrr", "best_epoch", "epochs"]].to_numpy().tolist() == [[1, 1, 3]]


@pytest.mark.parametrize("changed", ["device", "precision", "threads", "versions"])
def test_what_another_machine_left_is_trained_anew(project, epochs, changed):
    epochs(2, Killed)
    with pytest.raises(Killed):
        run_search("--trials", 1, "--submission", "none")
    path = project / TRIAL_1 / "run.json"
    assert (project / TRIAL_1 / LAST).exists()
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {changed: {"threads": 99, "versions": {}}.get(changed, "")})
    )
    measured = epochs()
    run_search("--trials", 1, "--submission", "none")
    assert len(measured) == 2
    assert rows_of().device.tolist() == ["cpu"]


def test_a_trial_that_was_trained_but_not_recorded_is_not_trained_again(project, monkeypatch, before_training):
    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "tell", die)
        with pytest.raises(Killed):
            run_search("--trials", 1, "--submission", "none")
    trained = before_training()
    run_search("--trials", 2, "--submission", "none")
    assert len(trained) == 1
    assert rows_of().state.tolist() == ["finished", "finished"]
    assert configurations(rows_of()) == LIST[:2]


def test_a_kill_between_journal_and_table_costs_no_row(project, monkeypatch, before_training):
    with monkeypatch.context() as patch:
        patch.setattr(src.search.store, "write_json", die)  # the best recipe, after the table
        write_text = src.search.store.write_text
        patch.setattr(src.search.store, "write_text", lambda path, text: "finished" in text or write_text(path, text))
        with pytest.raises(Killed):
            run_search("--trials", 1, "--submission", "none")
        assert rows_of().empty
    trained = before_training()
    run_search("--trials", 1, "--submission", "none")
    assert not trained
    assert rows_of().trial.tolist() == [1]
    assert (project / "models/hpsearch/best_recipe.json").exists()


def test_half_a_line_in_the_journal_is_dropped(project):
    """What a process leaves that is killed while it writes: while another trains, or before one starts."""
    run_search("--trials", 2, "--submission", "none")
    journal = project / "models/hpsearch/journal.log"
    for trials in (3, 5):
        with journal.open("ab") as file:
            file.write(b'{"op_code":5,"worker_id":"of a proc')
        run_search("--trials", trials, "--submission", "none")
    assert configurations(rows_of()) == LIST
    assert all(json.loads(line) for line in journal.read_text().splitlines())


def test_a_trial_that_kills_its_process_every_time_ends_as_failed(project, epochs):
    for _ in range(3):
        epochs(1, Killed)
        with pytest.raises(Killed):
            run_search("--trials", 2, "--submission", "none")
    epochs()
    run_search("--trials", 2, "--submission", "none")
    assert rows_of().state.tolist() == ["failed", "finished"]
    assert rows_of().reason[0] == "its process died 3 times before an epoch was over; out of memory?"
    record = json.loads((project / TRIAL_1 / "run.json").read_text())
    assert (record["status"], record["reason"]) == ("failed", rows_of().reason[0])


def test_deaths_after_an_epoch_do_not_count(project, epochs):
    for _ in range(4):
        epochs(2, Killed)
        with pytest.raises(Killed):
            run_search("--trials", 1, "--epochs", 9, "--submission", "none")
    epochs()
    run_search("--trials", 1, "--epochs", 9, "--submission", "none")
    assert rows_of().state.tolist() == ["finished"]


def test_interruptions_by_the_user_do_not_count(project, before_training):
    def interrupt(recipe):
        if len(trained) <= 4:
            raise KeyboardInterrupt

    trained = before_training(interrupt)
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            run_search("--trials", 1, "--submission", "none")
    run_search("--trials", 1, "--submission", "none")
    assert rows_of().state.tolist() == ["finished"]


# Other processes


def test_a_lock_ends_with_the_kill_of_its_holder(tmp_path):
    ours = FileLocks(tmp_path / "locks")
    with lock_holder(tmp_path / "locks", 7) as theirs:
        assert not ours.acquire(7, wait=False)
        assert ours.acquire(8, wait=False)
        theirs.kill()
        assert theirs.wait() == -signal.SIGKILL
        assert ours.acquire(7, wait=False)


def test_what_another_process_trains_is_left_to_it_and_taken_up_when_it_dies(project, monkeypatch, before_training):
    monkeypatch.setattr(src.search.loop, "SECONDS_BETWEEN_LOOKS", 0.01)
    before_training(die)
    with pytest.raises(Killed):
        run_search("--trials", 1, "--submission", "none", *WITH_NAMED)
    locks = project / "models/hpsearch" / LOCKS
    FileLocks(locks).release(FIRST_TRIAL)  # as this process, unlike one that was killed, still has it
    with lock_holder(locks, FIRST_TRIAL) as holder:
        trained = before_training()
        monkeypatch.setattr(time, "sleep", lambda seconds: (holder.kill(), holder.wait()))
        run_search("--trials", 2, "--submission", "none", *WITH_NAMED)
    assert [(recipe.dropout, recipe.lr, recipe.tau) for recipe in trained] == [NAMED[1], NAMED[0]]
    assert rows_of().trial.tolist() == [1, 2]


@pytest.mark.slow
def test_two_processes_killed_twice_end_with_every_trial_once_and_the_best_retrains(project, run_script):
    script, trials = importlib.import_module(SCRIPT.removesuffix(".py")), 20
    space = ("--lr", "1e-3", "3e-3", "--hidden-dim", "16", "32", "--batch-size", "64", "128", "--epochs", "3")
    environment = os.environ | {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}

    def start():
        command = [sys.executable, str(REPO / SCRIPT), "--trials", str(trials), "--device", "cpu", *space]
        return subprocess.Popen(
            command, cwd=project, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def kill_after(process, rows):
        deadline = time.monotonic() + 120
        while not (project / "hpsearch_results.csv").exists() or len(rows_of()) < rows:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
        with process:
            assert process.wait() == -signal.SIGKILL

    processes = [start(), start()]
    kill_after(processes[0], 2)
    processes[0] = start()
    kill_after(processes[1], 8)
    processes[1] = start()
    for process in processes:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
        assert "[I " not in errors  # Optuna's own log
        assert "Warning" not in errors

    with (project / "hpsearch_results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["trial"]) for row in rows] == list(range(1, trials + 1))
    searched = list(rows[0])[9 : list(rows[0]).index("started_from")]
    assert searched == list(Space.of(script.BASE, script.CHOICES).choices)
    assert len({tuple(row[name] for name in searched) for row in rows}) == trials
    assert {row["state"] for row in rows} <= {"finished", "pruned"}
    folder = project / "models/hpsearch"
    assert len(list(folder.glob(f"*/{BEST_MRR}"))) == 3
    assert not list(folder.glob(f"*/{LAST}"))
    assert (folder / "mrr_by_hyperparameter.png").read_bytes().startswith(b"\x89PNG")
    assert not (folder / "importance.png").exists(), "of so few trials"

    best = max((row for row in rows if row["state"] == "finished"), key=lambda row: float(row["mrr"]))
    again = ("--recipe", folder / "best_recipe.json", "--device", "cpu", "--run-name", "again")
    result = run_script("train_mrr.py", *again, cwd=project, env={"OMP_NUM_THREADS": "1"})
    assert result.returncode == 0, result.stderr
    record = json.loads((project / "models/again/run.json").read_text())
    assert record["results"]["mrr"] == float(best["mrr"])
    assert record["recipe"] == asdict(load_recipe(str(folder / "best_recipe.json")))
