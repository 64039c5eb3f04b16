"""What a search leaves, how it goes on, how trials fail, and what is refused."""

import json
import shlex
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial

import src.search.space
from src.common.files import InputError
from src.data.pairs import open_pairs, open_test_captions, save_pairs
from src.data.submissions import check_submission
from src.search.space import Space
from src.search.store import SearchStore
from src.search.strategy import distributions
from src.training.recipe import BASELINE, STRONG, load_recipe
from src.training.runs import BEST_MRR, LAST, State
from tests.conftest import assert_input_error
from tests.search.conftest import LIST, NAMED, SCRIPT, WITH_NAMED, configurations, rows_of, run_search

SPACE = Space.of(
    replace(BASELINE, name="hpsearch", optimizer="adamw", epochs=2, patience=0, hidden_dim=16, batch_size=512),
    {"dropout": (0.0, 0.1), "lr": (1e-3, 3e-3), "tau": (0.01, 0.02, 0.05)},
)
JOURNAL = "models/hpsearch/journal.log"


def study_of(path=JOURNAL):
    return optuna.load_study(study_name="hpsearch", storage=JournalStorage(JournalFileBackend(path)))


def status_of(run_dir):
    return json.loads((run_dir / "run.json").read_text())["status"]


def test_a_search_ends_with_rows_best_weights_recipe_table_and_submission(project, capsys):
    run_search("--trials", 5, "--keep", 2, "--pruner", "none", "--test-npz", "data/test/../test/test.clean.npz")
    printed = capsys.readouterr().out
    table = rows_of()
    measures = ["mrr", "recall_at_1", "recall_at_5", "recall_at_10", "challenge_mrr", "best_epoch", "epochs"]
    remarks = ["started_from", "training_seconds", "device", "precision", "ended", "run", "reason"]
    assert list(table) == ["trial", "state", *measures, "dropout", "lr", "tau", *remarks]
    assert table.trial.tolist() == [1, 2, 3, 4, 5]
    assert set(table.state) == {"finished"}
    assert configurations(table) == LIST

    folder = project / "models/hpsearch"
    ranking = table.sort_values("mrr", ascending=False)
    with_weights = {path.parent.name for path in folder.glob(f"*/{BEST_MRR}")}
    assert with_weights == {f"trial_{trial:03}" for trial in ranking.trial[:2]}
    assert not list(folder.glob(f"*/{LAST}"))
    for row in table.itertuples():
        results = json.loads((project / row.run / "run.json").read_text())["results"]
        assert all(results[name] == getattr(row, name) for name in (*measures, "training_seconds"))
        kept = f"trial_{row.trial:03}" in with_weights
        assert status_of(project / row.run) == ("finished" if kept else "weights removed")

    best = ranking.iloc[0]
    configuration = {"lr": best.lr, "tau": best.tau, "dropout": best.dropout}
    assert load_recipe("models/hpsearch/best_recipe.json") == SPACE.recipe(configuration)
    shown = [line.split() for line in printed.splitlines() if "/2 " in line]
    assert [words[:2] for words in shown] == [[str(row.trial), f"{row.mrr:.4f}"] for row in ranking.itertuples()]
    assert f"Best of 5 trials: validation MRR {best.mrr:.4f}" in printed
    assert f"trial 1 of 5: MRR {table.mrr[0]:.4f} in epoch {table.best_epoch[0]} of 2; best so far" in printed
    assert "5 finished, 0 pruned, 0 failed" in printed
    again = "python train_mrr.py --recipe models/hpsearch/best_recipe.json --test-npz data/test/../test/test.clean.npz"
    assert shlex.join([*again.split(), "--device", "cpu"]) in printed
    check_submission("submission_mrr_hpsearch.csv", open_test_captions("data/test/test.clean.npz"), 1536)
    record = json.loads((folder / f"trial_{best.trial:03}/run.json").read_text())
    assert record["submission"]["path"] == f"models/hpsearch/trial_{best.trial:03}/submission.csv"


def test_a_search_that_has_ended_runs_nothing_and_one_with_more_trials_goes_on(project, before_training):
    run_search("--trials", 3, "--submission", "none")
    before = rows_of()
    trained = before_training()
    run_search("--trials", 3)
    run_search("--trials", 2)
    assert not trained
    run_search("--trials", 5)
    assert len(trained) == 2
    assert rows_of()[:3].equals(before)
    assert configurations(rows_of()) == LIST


def test_the_journal_of_earlier_versions_goes_on(project):
    """They drew all that was missing in advance, and described the search by the same settings."""
    run_search("--trials", 1, "--submission", "none")
    study = study_of()
    settings = study.user_attrs["settings"]
    assert settings.keys() == {"base", "choices", "data", "sampler", "search_seed"}
    assert settings["base"] == asdict(SPACE.base)
    assert settings["choices"] == {name: list(values) for name, values in SPACE.choices.items()}
    assert settings["data"].keys() == {"train_fingerprint"}
    for values in LIST[1:4]:
        configuration = dict(zip(SPACE.choices, values, strict=True))
        waiting = {"state": TrialState.WAITING, "distributions": distributions(SPACE)}
        study.add_trial(create_trial(params=configuration, **waiting))
    run_search("--trials", 3, "--submission", "none")
    assert configurations(rows_of()) == LIST[:3]
    run_search("--trials", 5, "--submission", "none")
    assert configurations(rows_of()) == LIST


# The named recipes


def test_a_search_begins_with_the_named_recipes_and_ends_with_what_they_reach(project, before_training, capsys):
    trained, flags = before_training(), ("--trials", 3, "--submission", "none", "--split-seed", 1, *WITH_NAMED)
    run_search(*flags)
    table, printed = rows_of(), capsys.readouterr().out
    assert configurations(table)[:2] == NAMED
    assert table.started_from.tolist() == ["baseline", "strong", ""]
    search = {"name": "hpsearch", "split_seed": 1, "epochs": 2, "patience": 0, "optimizer": "adamw"}
    assert trained[0] == replace(BASELINE, **search, hidden_dim=16, batch_size=512)

    space = Space.of(SPACE.base, {"dropout": (0.1, 0.4), "lr": (3e-4, 5e-4), "tau": (0.01, 0.02, 0.05)})
    assert f"starts from        baseline{space.changes(BASELINE)}, strong{space.changes(STRONG)}\n" in printed
    assert "line to beat       linear 0.9900\n" in printed
    reached = zip(table.mrr, (BASELINE, STRONG), (1, 2), strict=False)
    ranked = sorted(reached, key=lambda each: -each[0])
    ended = [f"{recipe.name} {mrr:.4f} (trial {trial}{space.changes(recipe)})" for mrr, recipe, trial in ranked]
    line = ", ".join(["linear 0.9900", *ended])
    assert f"line to beat  {line}\n" in printed
    assert printed.splitlines()[-2].startswith("No trial is better than the linear map")
    run_search(*flags)
    assert f"line to beat       {line}\n" in capsys.readouterr().out


def test_a_search_that_began_without_the_named_recipes_has_them_as_its_next_trials(project, monkeypatch):
    """And its table gets the column that tells them."""
    with monkeypatch.context() as patch:
        patch.setattr(Space, "named", {})
        run_search("--trials", 2, "--submission", "none", *WITH_NAMED)
    before, journal = rows_of(), project / JOURNAL
    before.drop(columns="started_from").to_csv("hpsearch_results.csv", index=False)
    journal.write_text(journal.read_text().replace('"started_from":"",', ""))
    run_search("--trials", 5, "--submission", "none", *WITH_NAMED)
    assert rows_of()[:2].equals(before)
    assert rows_of().started_from.tolist() == ["", "", "baseline", "strong", ""]
    assert configurations(rows_of())[2:4] == NAMED
    assert len(set(configurations(rows_of()))) == 5


def test_named_recipes_are_not_pruned_and_those_that_are_the_same_in_the_space_are_one_trial(project, monkeypatch):
    monkeypatch.setattr(src.search.space, "NAMED", (BASELINE, STRONG, replace(STRONG, name="wide", hidden_dim=9)))
    space = Space.of(SPACE.base, {"dropout": (0.1, 0.4), "lr": (3e-4, 5e-4), "tau": (0.01, 0.02)})
    store = SearchStore(
        folder=project / "models",
        results=project / "results.csv",
        space=space,
        data={},
        sampler="random",
        seed=0,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=0),
        keep=1,
    )
    hopeless, started_from = [], []
    for mrr in (0.5, 0.1, 0.2):
        trial = store.claim(3)
        hopeless.append(store.report(trial, 1, mrr))
        started_from.append(store.end(trial, State.FINISHED, {"mrr": mrr})["started_from"])
    assert started_from == ["baseline", "strong, wide", ""]
    assert hopeless == [False, False, True]  # the median of the first two is 0.3


# Failures


def test_a_failed_trial_is_a_row_with_its_reason_and_the_others_go_on(project, before_training, capsys):
    def fail(recipe):
        if recipe.tau == 0.02:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore lines.")
        if recipe.tau == 0.05:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: 9 bytes.")

    before_training(fail)
    run_search("--trials", 12, "--lr", 1e-3, 1e30, "--submission", "none")
    table = rows_of()
    finished = (table.tau == 0.01) & (table.lr == 1e-3)
    assert set(table[finished].state) == {"finished"}
    assert set(table[finished].reason) == {""}
    assert set(table[~finished].state) == {"failed"}
    assert table[table.tau == 0.02].reason.str.startswith("out of memory: CUDA").all()
    assert table[table.tau == 0.05].reason.str.startswith("out of memory: [enforce").all()
    diverged = table[(table.tau == 0.01) & (table.lr == 1e30)]
    assert diverged.reason.str.contains("diverged in epoch 1").all()
    assert status_of(project / diverged.run.iloc[0]) == "failed"
    printed = capsys.readouterr().out
    assert "2 finished, 0 pruned, 10 failed" in printed
    assert "of 12: failed: out of memory: CUDA" in printed


@pytest.mark.parametrize("change", [lambda recipe: 1 / 0, lambda recipe: torch.zeros(2) @ torch.zeros(3)])
def test_an_error_that_any_configuration_would_meet_ends_the_search(project, before_training, change):
    before_training(change)
    with pytest.raises((ZeroDivisionError, RuntimeError)):
        run_search("--trials", 2)
    assert rows_of().empty


def test_a_search_without_any_finished_trial_is_an_input_error(project):
    with pytest.raises(InputError, match="none of 2 trials finished; the first: training diverged"):
        run_search("--trials", 2, "--lr", "1e30")
    assert rows_of().state.tolist() == ["failed", "failed"]


# What is refused


@pytest.fixture
def begun(project):
    run_search("--trials", 1, "--epochs", 1, "--submission", "none")
    return project


@pytest.mark.parametrize(
    ("flags", "named", "begun_with"),
    [
        (("--lr", 1e-3, 5e-3), "lr", "--lr 0.001 0.003"),
        (("--lr", 1e-3), "lr", "--lr 0.001 0.003"),
        (("--epochs", 2), "epochs", "--epochs 1"),
        (("--split-seed", 7), "split_seed", "no --split-seed"),
        (("--search-seed", 7), "search_seed", "--search-seed 0"),
        (("--sampler", "tpe"), "sampler", "--sampler random"),
        (("--search-seed", 7, "--tau", 0.5, 0.6), "search_seed, tau", "--search-seed 0 --tau 0.01 0.02 0.05"),
    ],
)
def test_a_folder_with_another_search_is_refused(begun, flags, named, begun_with):
    before = rows_of()
    with pytest.raises(
        InputError, match=rf"another {named}; continue it with {begun_with}, or choose another --models-"
    ):
        run_search("--trials", 2, "--epochs", 1, "--submission", "none", *flags)
    assert rows_of().equals(before)


def test_a_folder_with_a_search_on_other_data_is_refused(begun, sample):
    pairs = open_pairs(sample / "train/train.npz")
    save_pairs(pairs.select(np.arange(len(pairs)) > 0), begun / "other.npz")
    with pytest.raises(InputError, match="another train_fingerprint; choose"):
        run_search("--trials", 2, "--epochs", 1, "--submission", "none", "--train-npz", "other.npz")


def test_rows_of_something_else_are_never_lost(begun):
    ours = (begun / "hpsearch_results.csv").read_text()
    elsewhere = ("--models-dir", "models/other", "--submission", "none")
    with pytest.raises(InputError, match=r"hpsearch_results.csv: holds 2 lines of something else.*--results"):
        run_search("--trials", 1, *elsewhere, "--lr", 1e-3)
    assert (begun / "hpsearch_results.csv").read_text() == ours
    assert not (begun / "models/other/journal.log").exists()
    run_search("--trials", 1, *elsewhere, "--results", "other.csv")
    assert len(rows_of("other.csv")) == 1


def test_a_damaged_or_missing_journal_is_an_input_error(begun):
    whole = (begun / JOURNAL).read_text()
    (begun / JOURNAL).write_bytes(b"\x00\xff not a journal\n" * 3)
    with pytest.raises(InputError, match=r"journal.log: not a search's journal"):
        run_search("--trials", 1)
    for old, new in (
        ('"row":{"trial":1', '"row":{"trial":5'),
        ('"row":{', '"raw":{'),
        ('"settings":{"base"', '"settings":{"b"'),
    ):
        assert old in whole
        (begun / JOURNAL).write_text(whole.replace(old, new))
        with pytest.raises(InputError, match=r"journal.log: not a search's journal"):
            run_search("--trials", 1, "--epochs", 1)
    for lose in (Path.unlink, lambda journal: journal.write_text("")):
        lose(begun / JOURNAL)
        with pytest.raises(InputError, match="trials without their journal"):
            run_search("--trials", 1)


def test_an_empty_journal_is_a_search_that_has_not_begun(project):
    (project / JOURNAL).parent.mkdir(parents=True)
    (project / JOURNAL).touch()
    run_search("--trials", 1, "--epochs", 1, "--submission", "none")
    assert len(rows_of()) == 1


# The command line


def test_help_shows_every_flag(run_script):
    result = run_script(SCRIPT, "--help")
    flags = "--trials --search-seed --sampler --pruner --keep --results --submission --models-dir --device --lr"
    for flag in (*flags.split(), "--weight-decay", "--epochs", "--split-seed"):
        assert flag in result.stdout
    assert "(default: 1024 2048 3072)" in " ".join(result.stdout.split())


ERROR_THEN_HEAVY_MODULES = """
import sys, train_mrr_hpp_tunning_RandSearch as script
from src.common.endings import run_main
try:
    run_main(lambda: script.main(["--lr", "0", "1e-3"]))
finally:
    print(sorted({"torch", "optuna", "pandas", "matplotlib"} & sys.modules.keys()))
"""


def test_an_error_in_the_flags_is_one_line_and_there_at_once(project, run_script):
    (project / "script.py").write_text(ERROR_THEN_HEAVY_MODULES)
    result = run_script(project / "script.py", cwd=project)
    assert_input_error(result, "--lr")
    assert result.stdout == "[]\n"
