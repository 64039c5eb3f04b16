"""`python -m src.runs`: the table of all runs, rows for machines, and two runs side by side."""

import csv
import hashlib
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

import src.training.job
import train_mrr
from src.common.files import InputError
from src.common.locks import at_work
from src.ensembles.held_out import SEARCH_JOURNAL
from src.runs import RUN_COLUMNS, main, row_of
from src.submission import LOG_COLUMNS
from src.training.recipe import AUTO, BASELINE, KERNEL, STRONG, named_recipe, sized
from src.training.runs import (
    LAST,
    RUNNING,
    DataRecord,
    FileRecord,
    Provenance,
    Results,
    RunRecord,
    State,
    read_run,
    recorded_runs,
    write_run,
)

MODELS = Path("models")
DATA = DataRecord(train_npz="data/train/train.npz", train_fingerprint="0123")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    MODELS.mkdir()


@pytest.fixture
def call(calling):
    return calling(main)


def record(name, mrr=None, recipe=BASELINE, started="2026-01-01", **more):
    """Write the record of a run in models/, finished if it has an MRR; its folder."""
    measures = {"mrr": mrr, "challenge_mrr": 0.9}
    results = Results(measures=measures, best_epoch=3, epochs=5, training_seconds=90, refit_seconds=30) if mrr else None
    values = {"status": State.FINISHED, "data": DATA, "provenance": Provenance(started=started), "results": results}
    write_run(MODELS / name, RunRecord(run_name=name, recipe=recipe, **values | more))
    return MODELS / name


def rows_of(printed):
    return {row["run"]: row for row in json.loads(printed)}


def test_the_best_comes_first_and_what_has_no_mrr_last(call):
    record("b", 0.5, replace(BASELINE, lr=1e-3, tau=0.02, seed=7))
    record("a/c", 0.7, replace(STRONG, split_seed=0))
    record("d", status=State.FAILED, reason="training diverged in epoch 2; try a lower --lr")
    title, data, header, *lines = call().splitlines()
    assert (title, data.split()) == ("3 runs in models", ["data", "train"])
    assert header.split() == ["run", "recipe", "seed", "epoch", "min", "MRR", "chall.", "state"]
    assert [line.split() for line in lines[:3]] == [
        ["a/c", "strong", "split_seed=0", "43", "3", "2.0", "0.7000", "0.9000", "finished"],
        ["b", "baseline", "lr=0.001,tau=0.02", "7", "3", "2.0", "0.5000", "0.9000", "finished"],
        ["d", "baseline", "43", "failed"],
    ]
    assert lines[3:] == ["failed: d: training diverged in epoch 2; try a lower --lr"]


@pytest.mark.parametrize(
    ("recipe", "named"),
    [
        (replace(BASELINE, seed=1), "baseline"),
        (replace(STRONG, name="baseline"), "baseline"),  # of its name, whatever it has become
        (replace(BASELINE, name="ensemble_raw", epochs=300), "baseline"),
        (replace(KERNEL, name="hpsearch"), "kernel"),
        (replace(sized(AUTO, 10_000), tau=0.1), "auto"),
    ],
)
def test_a_recipe_is_told_by_what_it_changes_in_its_named_one(recipe, named):
    assert named_recipe(recipe).name == named


def test_auto_changes_nothing_whatever_it_was_suited_to(call):
    for captions in (1_000, 10_000, 1_000_000):
        record(str(captions), 0.5, sized(AUTO, captions))
    assert {(row["recipe"], row["changes"]) for row in rows_of(call("--json")).values()} == {("auto", "")}


def test_machines_get_whole_names_and_numbers(call):
    long = "baseline_" + "lr_warmup_epochs=0.123456789," * 5 + "_train_seed43"
    record(long, 0.123456789, data=replace(DATA, keep_list="k/some.npz", caption_weights="1 / rank"))
    (row,) = json.loads(call("--json"))
    assert list(row) == list(RUN_COLUMNS)
    assert (row["run"], row["folder"], row["mrr"], row["data"]) == (long, f"models/{long}", 0.123456789, "some_soft")
    assert (row["minutes"], row["reason"], row["score"]) == (2.0, None, None)
    (of_csv,) = csv.DictReader(io.StringIO(call("--csv")))
    assert of_csv == {name: "" if value is None else str(value) for name, value in row.items()}


def test_no_line_is_longer_than_a_terminal_and_shortened_names_still_differ(call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with Path("submissions.csv").open("w", encoding="utf-8") as file:
        print(",".join(LOG_COLUMNS), *(f"now,f,{n},r,slug,m,0.91234" for n in range(4)), sep="\n", file=file)
    for number in range(4):
        changes = f"dropout=0.123456,lr=0.00{number + 1},weight_decay=0.123456789"
        data = replace(DATA, train_npz=f"a/very/long/name/of/some/data{number}.npz")
        submission = FileRecord("gone.csv", str(number))
        recipe = replace(BASELINE, seed=123456, dropout=0.123456, lr=(number + 1) / 1000, weight_decay=0.123456789)
        record(f"baseline_{changes}_name-data_seed123456", 0.5, recipe, data=data, submission=submission)
    _, header, *lines = call().splitlines()
    assert max(map(len, [header, *lines])) <= 100
    shown = [line.split()[0] for line in lines]
    assert len(set(shown)) == 4
    for name in shown:  # can be typed as they are shown
        assert "…" in name
        with pytest.raises(InputError, match="is named twice"):
            main(["compare", name, name])
    monkeypatch.setenv("COLUMNS", "250")
    assert "dropout=0.123456,lr=0.004,weight_decay=0.123456789_name-data_seed123456 " in call()


def test_submissions_are_checked_and_their_scores_found_by_contents(call):
    digest = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("intact", "changed", "gone", "unsent")}
    for name, sha in digest.items():
        folder = record(name, 0.5, submission=FileRecord(f"models/{name}/submission.csv", sha))
        if name != "gone":
            (folder / "submission.csv").write_text("other" if name == "changed" else name)
    with Path("sent.csv").open("w", encoding="utf-8") as file:
        print(",".join(LOG_COLUMNS), file=file)
        for name, score in (("intact", "0.91"), ("changed", "error"), ("gone", "")):
            print(f"now,renamed.csv,{digest[name]},,slug,message,{score}", file=file)
    rows = rows_of(call("--json", "--log", "sent.csv"))
    found = {name: (row["submission"], row["score"]) for name, row in rows.items()}
    assert found == {
        "intact": ("intact", "0.91"),
        "changed": ("lost", "error"),
        "gone": ("lost", "sent"),
        "unsent": ("intact", None),
    }
    assert next(iter(rows_of(call("--json", "--log", "sent.csv", "--sort", "score")))) == "intact"
    Path("sent.csv").write_text("damaged\n")
    with pytest.raises(InputError, match=r"sent\.csv: not a table"):
        main(["--log", "sent.csv"])


def test_the_state_tells_a_living_process_from_a_dead_one(call):
    folders = {name: record(name, status=RUNNING) for name in ("alive", "dead", "dead early")}
    (folders["dead"] / LAST).touch()
    (folders["alive"] / LAST).touch()
    with at_work(folders["alive"]):
        states = {name: row["state"] for name, row in rows_of(call("--json")).items()}
    assert states == {"alive": "running", "dead": "to resume", "dead early": "to train"}
    assert rows_of(call("--json"))["alive"]["state"] == "to resume"


def test_trials_and_folds_are_a_line_unless_they_are_asked_for(call):
    record("own", 0.5)
    for name in ("search/trial_001", "search/trial_002"):
        (record(name, 0.6).parent / SEARCH_JOURNAL).touch()
    record("folds/fold1", 0.4, data=replace(DATA, train_fingerprint="0123 without fold 1 of 5"))
    printed = call()
    assert "left out: 2 runs in models/search (trial of a search); see --all" in printed
    assert "left out: models/folds/fold1 (trained on a part of the data); see --all" in printed
    assert list(rows_of(call("--json"))) == ["own"]
    assert len(rows_of(call("--json", "--all"))) == 4
    assert list(rows_of(call("--json", "--models-dir", "models/search"))) == ["trial_001", "trial_002"]


def test_the_order_can_be_chosen(call):
    record("old", 0.7, started="2026-01-01")
    record("new", 0.5, started="2026-02-01")
    assert list(rows_of(call("--json", "--sort", "started"))) == ["new", "old"]
    assert list(rows_of(call("--json", "--sort", "run"))) == ["new", "old"]
    assert list(rows_of(call("--json"))) == ["old", "new"]


def test_before_any_training_there_is_nothing_to_list(call):
    assert call() == "models: no runs yet; train one with `python train_mrr.py`\n"
    assert call("--json") == "[]\n"
    with pytest.raises(InputError, match="nope: no such folder"):
        main(["--models-dir", "nope"])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a", "nope"), "nope: no run's folder, nor the name of one in models"),
        (("a", "…"), "may be any of 2 runs"),
        (("a", "models/a"), "is named twice"),
        (("a", "b", "--output", "."), "is a folder"),
    ],
)
def test_what_cannot_be_compared_is_said(names, message):
    record("a", 0.5)
    record("b", 0.5)
    with pytest.raises(InputError, match=re.escape(message)):
        main(["compare", *names])


@pytest.fixture
def trained(sample, monkeypatch):
    """Two quick runs on the sample, and one as if it had another split; what the list said as they trained."""
    said, fit = [], src.training.job.fit

    def look(*arguments, **options):
        said.append([row_of(*run, MODELS, {})["state"] for run in recorded_runs(MODELS)])
        return fit(*arguments, **options)

    monkeypatch.setattr(src.training.job, "fit", look)
    data = ("--train-npz", str(sample / "train/train.npz"), "--submission", "none", "--device", "cpu")
    for name, rate in (("a", "1e-3"), ("b", "3e-4")):
        train_mrr.main([*data, "--hidden-dim", "16", "--epochs", "3", "--run-name", name, "--lr", rate])
    shutil.copytree(MODELS / "b", MODELS / "c")
    other = read_run(MODELS / "c")
    write_run(MODELS / "c", replace(other, recipe=replace(other.recipe, seed=44)))
    return said


def test_two_runs_side_by_side(trained, call, monkeypatch):
    assert trained == [["running"], ["finished", "running"]]
    drawn = {}
    savefig = Figure.savefig

    def look(figure, *arguments, **options):
        drawn["lines"] = [line.get_xydata().tolist() for line in figure.axes[0].lines]
        savefig(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", look)
    printed = call("compare", "a", "models/b", "--output", "two.png", "--device", "cpu")
    assert "Recipe: A | B\n  lr  0.001 | 0.0003\nData: the same\n" in printed
    mrrs = [json.loads((MODELS / name / "run.json").read_text())["results"]["mrr"] for name in "ab"]
    ours, theirs, gain = map(float, re.search(r"^ +mrr +(\S+) +(\S+) +(\S+)$", printed, re.MULTILINE).groups())
    assert [ours, theirs] == pytest.approx(mrrs, abs=1e-4)
    assert gain == pytest.approx(mrrs[0] - mrrs[1], abs=1e-4)
    value, low, high = map(float, re.search(r"A − B +(\S+) \[(\S+), (\S+)\] \(95% interval\)", printed).groups())
    assert value == pytest.approx(mrrs[0] - mrrs[1], abs=2e-4)  # measured anew, on what validated both
    assert low <= value <= high
    assert "captions of 9 images that neither trained on" in printed
    assert Path("two.png").read_bytes().startswith(b"\x89PNG")
    histories = [pd.read_csv(MODELS / name / "history.csv")[["epoch", "mrr"]].to_numpy().tolist() for name in "ab"]
    assert [line for line in drawn["lines"] if len(line) == 3] == histories
    assert [line for line in drawn["lines"] if len(line) == 1] == [
        [max(rows, key=lambda r: r[1])] for rows in histories
    ]

    printed = call("compare", "b", "c")
    assert re.search(
        r"A − B +none: models/c: trained on \d of the 9 images .* train all with one --split-seed", printed
    )
    assert Path("compare.png").exists()


def test_runs_that_are_not_finished_or_on_other_data_have_no_paired_difference(call):
    record("a", 0.5)
    record("b", status=RUNNING)
    printed = call("compare", "a", "b")
    assert "none: models/b: is not finished (running)" in printed
    assert "none: neither has trained an epoch yet" in printed
    record("c", 0.5, data=replace(DATA, train_npz="x/other.npz", train_fingerprint="4567", train_captions=1234))
    for name in "ac":
        (MODELS / name / "best_mrr.safetensors").touch()
    printed = call("compare", "a", "c")
    assert "none: they validated on captions of different files" in printed
    assert re.search(r"Data: A \| B\n  training pairs +train\.npz \(0123\) \| other\.npz \(4567\)\n", printed)
    assert re.search(r"captions, images +0, 0 \| 1,234, 0\n", printed)
    (MODELS / "a/history.csv").write_text("epoch,mrr\n1,high\n")
    with pytest.raises(InputError, match=r"history\.csv: not a run's history"):
        main(["compare", "a", "c"])
