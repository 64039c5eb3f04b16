"""The hyperparameter search: its list of configurations, its rows, and that kills and company change neither."""

import csv
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace

import numpy as np
import optuna
import pandas as pd
import pytest
import torch
from optuna.trial import create_trial

import src.search.loop as search_module
import src.search.report as search_report
import src.training.fit as training
import src.training.job as job
from src.common.files import InputError
from src.common.locks import FileLocks
from src.data.pairs import open_pairs, open_test_captions, save_pairs
from src.data.submissions import check_submission
from src.search.loop import search
from src.search.report import importance, top_table
from src.search.space import Space, draw
from src.search.store import MOST_DEATHS, SearchStore
from src.training.recipe import BASELINE, load_recipe
from src.training.runs import BEST_MRR, LAST
from tests.conftest import REPO, assert_input_error

SCRIPT = "train_mrr_hpp_tunning_RandSearch.py"
BASE = replace(BASELINE, name="hpsearch", epochs=2, hidden_dim=16, batch_size=512)
CHOICES = {"dropout": (0.0, 0.1), "lr": (1e-3, 3e-3), "tau": (0.01, 0.02, 0.05)}  # in the order of a recipe's fields
SPACE = Space(BASE, CHOICES)
WHEN = ["training_seconds", "ended"]


class Killed(BaseException):
    """Ends a search like a SIGKILL: nothing of it can react."""


@pytest.fixture
def project(sample, tmp_path, monkeypatch):
    """An empty project folder with the sample's data as the working directory. Searches leave out what would take
    most of the time of ones as short as these: the plots, and threads that wait for each other."""
    (tmp_path / "data").symlink_to(sample)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(REPO))
    for module, plot in ((job, "curves"), (search_report, "hyperparameters"), (search_report, "importance")):
        monkeypatch.setattr(module, f"plot_{plot}", lambda *args: None)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)


def run_search(*flags, choices=CHOICES):
    """Search in this process, with flags as of the script."""
    search(["--device", "cpu", *map(str, flags)], "a search", BASE, choices)


def rows_of(path="hpsearch_results.csv"):
    return pd.read_csv(path, keep_default_na=False)


def configurations(table):
    return [tuple(row) for row in table[list(CHOICES)].itertuples(index=False)]


def patch_training(monkeypatch, change):
    """Have `change(recipe)` called before each training; it may raise. Returns the recipes that were trained."""
    train_run, trained = search_module.train_run, []

    def train(recipe, *args, **options):
        trained.append(recipe)
        change(recipe)
        return train_run(recipe, *args, **options)

    monkeypatch.setattr(search_module, "train_run", train)
    return trained


# The list of configurations


def test_the_default_space_is_the_documented_one_and_holds_the_baseline(monkeypatch):
    monkeypatch.syspath_prepend(str(REPO))
    script = importlib.import_module(SCRIPT.removesuffix(".py"))
    assert script.CHOICES["lr"] == (3e-4, 7e-4, 1e-3)
    assert script.CHOICES["batch_size"] == script.CHOICES["hidden_dim"] == (1024, 2048, 3072, 4096)
    assert script.CHOICES["regression_weight"] == (0, 0.1)
    assert script.CHOICES["infonce_weight"] == (0.5, 1)
    assert script.CHOICES["infonce_warmup_epochs"] == (0, 1, 3)
    assert script.CHOICES["tau"] == (0.005, 0.01, 0.02)
    assert {"dropout", "weight_decay", "lr_schedule", "input_noise", "negatives"} <= script.CHOICES.keys()
    assert script.BASE.epochs == 50
    assert all(getattr(BASELINE, name) in values for name, values in script.CHOICES.items())


def test_a_seed_gives_one_list_whether_drawn_at_once_or_in_parts():
    whole = draw(SPACE, [], 8, "random", 5)
    first = draw(SPACE, [], 3, "random", 5)
    trials = [create_trial(params=drawn, distributions=SPACE.distributions, value=0.0) for drawn in first]
    assert first + draw(SPACE, trials, 5, "random", 5) == whole
    assert draw(SPACE, [], 8, "random", 6) != whole


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_no_configuration_is_drawn_twice_until_all_are(sampler):
    trials = []
    for number in range(SPACE.size):
        (drawn,) = draw(SPACE, trials, 1, sampler, 0)
        value = drawn["lr"] - drawn["tau"] if number % 3 else None
        state = optuna.trial.TrialState.COMPLETE if number % 3 else optuna.trial.TrialState.RUNNING
        trials.append(create_trial(params=drawn, distributions=SPACE.distributions, value=value, state=state))
    assert len({tuple(trial.params.values()) for trial in trials}) == SPACE.size == 12


def test_tpe_draws_what_did_well():
    space = Space(BASE, CHOICES | {"input_noise": (0.0, 0.1, 0.2, 0.3), "batch_size": tuple(range(64, 96))})
    earlier = [
        create_trial(params=drawn, distributions=space.distributions, value=float(drawn["input_noise"] == 0.2))
        for drawn in draw(space, [], 60, "random", 0)
    ]
    drawn = [draw(space, earlier, 1, "tpe", seed)[0]["input_noise"] for seed in range(20)]
    assert drawn.count(0.2) >= 12  # by chance: 5


def test_flags_narrow_fix_and_widen_the_space(project, capsys):
    run_search("--trials", 2, "--lr", 3e-3, 3e-3, "--tau", 0.02, 0.01, "--weight-decay", 0, 0.1, "--epochs", 1)
    printed = capsys.readouterr().out
    assert "2 of 8 configurations" in printed
    record = json.loads((project / "models/hpsearch/trial_001/run.json").read_text())
    assert (record["recipe"]["lr"], record["recipe"]["epochs"]) == (3e-3, 1)
    assert {"tau", "dropout", "weight_decay"} < set(rows_of().columns)
    assert "lr" not in rows_of().columns


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--lr", 0, 1e-3), "--lr"),
        (("--dropout", 0.1, 1.0), "--dropout"),
        (("--infonce-weight", 0, 1, "--regression-weight", 0, 0.1), "loss weights"),
        (("--trials", 13), "has 12 configurations"),
        (("--val-fraction", 1), "--val-fraction"),
    ],
)
def test_a_space_that_makes_no_sense_is_refused_before_anything_is_written(project, flags, reason):
    with pytest.raises(InputError, match=reason):
        run_search(*flags)
    assert {path.name for path in project.iterdir()} == {"data"}


def test_a_loss_weight_may_be_0_if_the_other_is_not(project):
    run_search("--trials", 1, "--infonce-weight", 0, "--regression-weight", 0.1, 1, "--epochs", 1)
    assert rows_of().state.tolist() == ["finished"]


# What a search leaves


def test_a_search_ends_with_rows_best_weights_recipe_table_and_submission(project, capsys):
    run_search("--trials", 6, "--keep", 2, "--pruner", "none")
    printed = capsys.readouterr().out
    table = rows_of()
    assert table.trial.tolist() == [1, 2, 3, 4, 5, 6]
    assert set(table.state) == {"finished"}
    assert configurations(table) == [tuple(drawn.values()) for drawn in draw(SPACE, [], 6, "random", 0)]

    folder = project / "models/hpsearch"
    ranking = table.sort_values("mrr", ascending=False)
    with_weights = {path.parent.name for path in folder.glob(f"*/{BEST_MRR}")}
    assert with_weights == {f"trial_{trial:03}" for trial in ranking.trial[:2]}
    assert not list(folder.glob(f"*/{LAST}"))
    for trial, mrr in zip(table.trial, table.mrr, strict=True):
        record = json.loads((folder / f"trial_{trial:03}/run.json").read_text())
        assert record["results"]["mrr"] == mrr
        assert (record["status"] == "finished") == (f"trial_{trial:03}" in with_weights)

    best = ranking.iloc[0]
    assert load_recipe("models/hpsearch/best_recipe.json") == replace(
        BASE, lr=best.lr, tau=best.tau, dropout=best.dropout
    )
    listed = [line.split()[0] for line in printed.splitlines() if line.split()[1:2] and "/2" in line]
    assert listed[-6:] == [str(trial) for trial in ranking.trial]
    assert f"validation MRR {best.mrr:.4f}" in printed
    check_submission("submission_mrr_hpsearch.csv", open_test_captions("data/test/test.clean.npz"), 1536)
    record = json.loads((folder / f"trial_{best.trial:03}/run.json").read_text())
    assert record["submission"]["path"] == "submission_mrr_hpsearch.csv"


def test_a_search_that_has_ended_runs_nothing_and_one_with_more_trials_goes_on(project, monkeypatch):
    run_search("--trials", 3, "--submission", "none")
    before = rows_of()
    trained = patch_training(monkeypatch, lambda recipe: None)
    run_search("--trials", 3)
    run_search("--trials", 2)
    assert not trained
    run_search("--trials", 5)
    assert len(trained) == 2
    assert rows_of()[:3].equals(before)
    assert configurations(rows_of()) == [tuple(drawn.values()) for drawn in draw(SPACE, [], 5, "random", 0)]


def test_the_median_pruner_ends_hopeless_trials_and_says_what_it_saved(project, capsys):
    flags = ("--trials", 9, "--epochs", 5, "--lr", 1e-6, 3e-3, "--batch-size", 128)
    run_search(*flags)
    printed = capsys.readouterr().out
    table = rows_of()
    pruned = table[table.state == "pruned"]
    assert 0 < len(pruned) <= 4  # five have to finish first
    assert (pruned.epochs.astype(int) < 5).all()
    saved = 5 * len(pruned) - pruned.epochs.astype(int).sum()
    assert f"saved {saved} of 45 epochs" in printed
    histories = {
        trial: pd.read_csv(project / f"models/hpsearch/trial_{trial:03}/history.csv").mrr
        for trial in table.trial[table.state == "finished"]
    }
    for row in pruned.itertuples():
        before = [history[int(row.epochs) - 1] for trial, history in histories.items() if trial < row.trial]
        assert row.mrr < np.median(before)
        run_dir = project / row.run
        assert json.loads((run_dir / "run.json").read_text())["status"] == "pruned"
        assert not list(run_dir.glob("*.safetensors"))
    run_search(*flags, "--pruner", "none", "--models-dir", "models/all", "--results", "all.csv")
    assert set(rows_of("all.csv").state) == {"finished"}
    assert "saved 0 of 45 epochs" in capsys.readouterr().out


def test_no_trial_is_pruned_while_a_warm_up_may_last(project):
    run_search("--trials", 8, "--epochs", 5, "--lr", 1e-6, 3e-3, "--infonce-warmup-epochs", 0, 4)
    assert set(rows_of().epochs) == {5}


def test_tpe_runs_every_trial_once(project):
    run_search("--trials", 12, "--epochs", 1, "--sampler", "tpe")
    assert len(set(configurations(rows_of()))) == 12


# Failures


def test_a_failed_trial_is_a_row_with_its_reason_and_the_others_go_on(project, monkeypatch, capsys):
    def fail(recipe):
        if recipe.tau == 0.02:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore lines.")
        if recipe.tau == 0.05:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: 9 bytes.")

    patch_training(monkeypatch, fail)
    run_search("--trials", 12, "--lr", 1e-3, 1e30, "--epochs", 2)
    table = rows_of()
    finished = (table.tau == 0.01) & (table.lr == 1e-3)
    assert set(table[finished].state) == {"finished"}
    assert set(table[~finished].state) == {"failed"}
    assert set(table[finished].reason) == {""}
    assert table[table.tau == 0.02].reason.str.startswith("out of memory: CUDA").all()
    assert table[table.tau == 0.05].reason.str.startswith("out of memory: [enforce").all()
    assert table[(table.tau == 0.01) & (table.lr == 1e30)].reason.str.contains("diverged in epoch 1").all()
    assert "2 finished, 0 pruned, 10 failed" in capsys.readouterr().out


def test_an_error_that_any_configuration_would_meet_ends_the_search(project, monkeypatch):
    patch_training(monkeypatch, lambda recipe: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_search("--trials", 2)
    monkeypatch.undo()
    monkeypatch.chdir(project)
    patch_training(monkeypatch, lambda recipe: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError):
        run_search("--trials", 2)
    assert rows_of().empty


def test_a_search_without_any_finished_trial_ends_in_one_line(project, run_script):
    result = run_script(SCRIPT, "--trials", 2, "--lr", "1e30", "--hidden-dim", 16, "--device", "cpu", cwd=project)
    assert_input_error(result, "none of 2 trials finished", "diverged")
    assert len(rows_of()) == 2


# Kills


def interrupt_in_epoch(monkeypatch, epoch, error):
    """Raise `error` in that epoch of the first training. Returns a list that grows with every epoch."""
    measure, calls = training.OnDevice.measure, []

    def measure_or_raise(self, translator):
        calls.append(epoch)
        if len(calls) == epoch:
            raise error
        return measure(self, translator)

    monkeypatch.setattr(training.OnDevice, "measure", measure_or_raise)
    return calls


@pytest.mark.parametrize("error", [Killed, KeyboardInterrupt])
def test_what_a_dead_process_left_continues_as_if_it_had_never_stopped(project, monkeypatch, error):
    flags = ("--trials", 2, "--epochs", 4, "--pruner", "none")
    run_search(*flags, "--models-dir", "models/straight", "--results", "straight.csv")
    with monkeypatch.context() as patch:
        interrupt_in_epoch(patch, 3, error)
        with pytest.raises(error):
            run_search(*flags)
        assert rows_of().empty
    half_written = project / "models/hpsearch/trial_001/.last.x1y2z3.pt"
    half_written.touch()
    with monkeypatch.context() as patch:
        calls = interrupt_in_epoch(patch, None, None)
        run_search(*flags)
    assert len(calls) == 3 + 4  # all but the first epoch, which was saved, of one; the whole of the other
    assert not half_written.exists()
    ours, straight = (rows_of(path).drop(columns=[*WHEN, "run"]) for path in ("hpsearch_results.csv", "straight.csv"))
    assert ours.equals(straight)


def test_what_another_machine_left_is_trained_anew(project, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_in_epoch(patch, 2, Killed)
        with pytest.raises(Killed):
            run_search("--trials", 1)
    path = project / "models/hpsearch/trial_001/run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"device": "another"}))
    with monkeypatch.context() as patch:
        calls = interrupt_in_epoch(patch, None, None)
        run_search("--trials", 1)
    assert len(calls) == 2
    assert rows_of().device.tolist() == ["cpu"]


def test_a_trial_that_was_trained_but_not_recorded_is_not_trained_again(project, monkeypatch):
    def die(*args):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(SearchStore, "end", die)
        with pytest.raises(Killed):
            run_search("--trials", 1)
    trained = patch_training(monkeypatch, lambda recipe: None)
    run_search("--trials", 2)
    assert len(trained) == 1
    assert set(rows_of().state) == {"finished"}


def test_a_kill_between_journal_and_table_costs_no_row(project, monkeypatch):
    publish = SearchStore._publish

    def die_with_the_first_row(self):
        if self.rows():
            raise Killed
        publish(self)

    with monkeypatch.context() as patch:
        patch.setattr(SearchStore, "_publish", die_with_the_first_row)
        with pytest.raises(Killed):
            run_search("--trials", 1)
        assert rows_of().empty
    trained = patch_training(monkeypatch, lambda recipe: None)
    run_search("--trials", 1)
    assert not trained
    assert rows_of().trial.tolist() == [1]


def test_half_a_line_in_the_journal_is_dropped(project):
    run_search("--trials", 2)
    with (project / "models/hpsearch/journal.log").open("ab") as journal:
        journal.write(b'{"op_code":5,"worker_id":"of a proc')
    run_search("--trials", 4)
    assert rows_of().trial.tolist() == [1, 2, 3, 4]


def test_a_trial_that_kills_its_process_every_time_ends_as_failed(project, monkeypatch):
    def die(recipe):
        if len(trained) <= MOST_DEATHS:
            raise Killed

    trained = patch_training(monkeypatch, die)
    for _ in range(MOST_DEATHS):
        with pytest.raises(Killed):
            run_search("--trials", 2)
    run_search("--trials", 2)
    assert rows_of().state.tolist() == ["failed", "finished"]
    assert f"died {MOST_DEATHS} times before an epoch" in rows_of().reason[0]


def test_an_interruption_by_the_user_does_not_count_as_such_a_death(project, monkeypatch):
    def interrupt(recipe):
        if len(trained) <= MOST_DEATHS:
            raise KeyboardInterrupt

    trained = patch_training(monkeypatch, interrupt)
    for _ in range(MOST_DEATHS):
        with pytest.raises(KeyboardInterrupt):
            run_search("--trials", 1)
    run_search("--trials", 1)
    assert rows_of().state.tolist() == ["finished"]


def test_a_lock_ends_with_the_process_that_holds_it(tmp_path):
    ours = FileLocks(tmp_path / "locks")
    hold = "import sys; from src.common.locks import FileLocks; locks = FileLocks(__import__('pathlib').Path(sys.argv[1])); "
    hold += "locks.acquire(7); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path / "locks")],
        cwd=REPO,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as theirs:
        assert theirs.stdout.readline() == "held\n"
        assert not ours.try_acquire(7)
        assert ours.try_acquire(8)
        theirs.kill()
        theirs.wait()
        assert ours.try_acquire(7)


def test_two_processes_killed_twice_end_with_every_trial_once_and_the_best_retrains(project, run_script):
    trials = 20
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

    with (project / "hpsearch_results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["trial"]) for row in rows] == list(range(1, trials + 1))
    searched = list(rows[0])[9 : list(rows[0]).index("training_seconds")]
    assert len(searched) == 12
    assert len({tuple(row[name] for name in searched) for row in rows}) == trials
    assert {row["state"] for row in rows} <= {"finished", "pruned"}
    folder = project / "models/hpsearch"
    assert len(list(folder.glob(f"*/{BEST_MRR}"))) == 3
    assert not list(folder.glob(f"*/{LAST}"))
    for name in ("mrr_by_hyperparameter.png", "importance.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")

    best = max((row for row in rows if row["state"] == "finished"), key=lambda row: float(row["mrr"]))
    again = ("--recipe", folder / "best_recipe.json", "--device", "cpu", "--run-name", "again")
    result = run_script("train_mrr.py", *again, cwd=project, env={"OMP_NUM_THREADS": "1"})
    assert result.returncode == 0, result.stderr
    record = json.loads((project / "models/again/run.json").read_text())
    assert record["results"]["mrr"] == float(best["mrr"])
    assert record["recipe"] == asdict(load_recipe(str(folder / "best_recipe.json")))


# What is refused


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--lr", 1e-3, 5e-3), "lr"),
        (("--epochs", 2), "epochs"),
        (("--split-seed", 7), "split_seed"),
        (("--search-seed", 7), "search_seed"),
        (("--sampler", "tpe"), "sampler"),
        (("--train-npz", "data/test/other.npz"), "train_fingerprint"),
    ],
)
def test_a_folder_with_another_search_is_refused(project, sample, tmp_path, flags, named):
    run_search("--trials", 1, "--epochs", 1, "--submission", "none")
    if named == "train_fingerprint":
        (project / "data").unlink()
        (project / "data/test").mkdir(parents=True)
        pairs = open_pairs(sample / "train/train.npz")
        save_pairs(pairs.select(np.arange(len(pairs)) > 0), project / "data/test/other.npz")
    before = rows_of()
    flags = flags if "--epochs" in flags else ("--epochs", 1, *flags)
    with pytest.raises(InputError, match=rf"another {named}; choose another --models-dir"):
        run_search("--trials", 2, "--submission", "none", *flags)
    assert rows_of().equals(before)


def test_rows_of_something_else_are_never_lost(project):
    run_search("--trials", 1, "--submission", "none")
    ours = (project / "hpsearch_results.csv").read_text()
    elsewhere = ("--models-dir", "models/other", "--submission", "none")
    with pytest.raises(InputError, match=r"hpsearch_results.csv: holds 2 lines of something else.*--results"):
        run_search("--trials", 1, *elsewhere, "--search-seed", 1, "--lr", 1e-3)
    assert (project / "hpsearch_results.csv").read_text() == ours
    assert not (project / "models/other/journal.log").exists()
    run_search("--trials", 1, *elsewhere, "--results", "other.csv")
    assert len(rows_of("other.csv")) == 1


def test_a_damaged_or_missing_journal_is_an_input_error(project):
    run_search("--trials", 1, "--submission", "none")
    journal = project / "models/hpsearch/journal.log"
    journal.write_bytes(b"\x00\xff not a journal\n" * 3)
    with pytest.raises(InputError, match=r"journal.log: not a search's journal"):
        run_search("--trials", 1)
    journal.unlink()
    with pytest.raises(InputError, match="trials without their journal"):
        run_search("--trials", 1)


# The report


def test_importance_is_omega_squared():
    rows = [{"mrr": mrr, "lr": lr} for lr, mrr in ((1, 0.1), (1, 0.3), (2, 0.5), (2, 0.7))]
    # Between: 2·0.2² + 2·0.2² = 0.16; within: 4·0.1² = 0.04, on 2 degrees of freedom 0.02; total 0.20.
    assert importance(rows, "lr") == pytest.approx((0.16 - 0.02) / (0.20 + 0.02))
    assert importance(rows[:2], "lr") == 0.0
    assert importance([row | {"lr": number} for number, row in enumerate(rows)], "lr") == 0.0  # too few to tell


def test_importance_tells_what_matters_from_chance():
    rng = np.random.default_rng(0)
    choices = rng.integers(0, 3, (100, 2))
    rows = [{"a": a, "b": b, "mrr": rng.normal(0.1 * a, 0.05)} for a, b in choices]
    assert importance(rows, "a") > 0.5
    assert importance(rows, "b") < 0.1


def test_the_table_shows_the_ten_best_finished_trials():
    measures = {"recall_at_10": 0.9, "challenge_mrr": 0.5, "best_epoch": 2, "epochs": 3, "training_seconds": 60.0}
    rows = [{"trial": n, "state": "finished", "mrr": n / 100, "lr": 1e-3} | measures for n in range(1, 13)]
    rows += [{"trial": 13, "state": "pruned", "mrr": 0.99}, {"trial": 14, "state": "failed", "mrr": ""}]
    table = top_table(rows, {"lr": (1e-3,)})
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


def test_help_shows_every_flag(run_script):
    text = run_script(SCRIPT, "--help").stdout
    flags = "--trials --search-seed --sampler --pruner --keep --results --submission --models-dir --device --lr"
    for flag in (*flags.split(), "--weight-decay", "--epochs", "--split-seed"):
        assert flag in text
    assert "(default: 1024 2048 3072 4096)" in " ".join(text.split())
