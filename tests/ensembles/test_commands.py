"""`python -m src.ensemble evaluate` and `select`, on runs with random weights."""

import re
import shlex
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from src.common.files import InputError, read_json, sha256, write_json
from src.common.paths import TRAIN_NPZ
from src.data.pairs import open_pairs, save_pairs
from src.data.splits import validation_images
from src.data.submissions import read_submission, write_submission
from src.ensemble import main
from src.training.model import ResidualMLP, save_translator
from src.training.recipe import BASELINE
from src.training.runs import BEST_MRR
from tests.training.conftest import tiny_pairs

RUNS = ("models/seed1", "models/seed2", "models/seed3")


@pytest.fixture
def common_split(make_run):
    """Three runs that held out the same images, each with a submission in its folder."""
    for seed in (1, 2, 3):
        embeddings = np.random.default_rng(seed).standard_normal((4, 12))
        write_submission(make_run(seed, split_seed=0) / "submission.csv", np.arange(4), embeddings)


@pytest.fixture
def call(calling):
    return calling(main)


def rows_of(printed: str) -> dict[str, tuple[str, float, str]]:
    """The tables that `evaluate` prints: {label: (n, MRR, difference or captions)}."""
    found = re.findall(r"^ *([\d-]+) +(\S.*?) +(\d\.\d{4}) +(reference|\d+|\S+ \[\S+ \S+\])( .*)?$", printed, re.M)
    return {label: (n, float(mrr), difference) for n, label, mrr, difference, _ in found}


def weights_of(printed: str) -> dict[str, int]:
    """Of the table that `select` prints: {run: weight}, without those of weight 0."""
    found = re.findall(r"^ *(\d+) +(models/\S+) +\d\.\d{4}\b", printed, re.MULTILINE)
    assert len(found) == len(RUNS)
    return {run: int(weight) for weight, run in found if weight != "0"}


def test_runs_of_a_common_split_are_measured_with_their_means(common_split, call):
    printed = call("evaluate")  # models/ by default
    assert "15 images, held out by every run" in printed
    rows = rows_of(printed)
    means = ("mean", "MRR-weighted mean", "normalised mean")
    assert rows.keys() == {*RUNS, "single runs, on average", *means}
    scores = [mrr for _, mrr, _ in rows.values()]
    assert scores == sorted(scores, reverse=True)
    best = max(RUNS, key=lambda run: rows[run][1])
    assert [label for label, row in rows.items() if row[2] == "reference"] == [best]
    assert [rows[label][0] for label in means] == ["3"] * 3
    assert printed.splitlines()[-2:] == [
        f"Differences are from: {best} (n = 1)",
        "next: python -m src.ensemble select models",
    ]
    assert max(map(len, printed.splitlines())) <= 100


def test_two_sets_of_runs_are_compared(common_split, call):
    rows = rows_of(call("evaluate", RUNS[0], "--against", *RUNS[1:]))
    assert rows["against: mean"][::2] == ("2", "reference")
    gain, low, high = map(float, re.findall(r"[+-]\d\.\d{4}", rows[RUNS[0]][2]))
    assert gain == pytest.approx(rows[RUNS[0]][1] - rows["against: mean"][1], abs=1e-4)
    assert low < gain < high
    assert rows_of(call("evaluate", RUNS[0], "--against", RUNS[1]))[f"against: {RUNS[1]}"][2] == "reference"


def test_expansion_adds_rows_and_changes_none(common_split, call):
    plain, printed = rows_of(call("evaluate")), call("evaluate", "--expand", "2")
    assert re.search(r"expanded by +2 nearest predictions, in rows of their own\n", printed)
    rows = rows_of(printed)
    best = max(RUNS, key=lambda run: rows[run][1])
    labels = (best, "mean", "MRR-weighted mean", "normalised mean")
    expanded = {label: rows.pop(f"{label}, expanded by 2") for label in labels}
    assert rows == plain
    gain, low, high = map(float, re.findall(r"[+-]\d\.\d{4}", expanded[best][2]))
    assert gain == pytest.approx(expanded[best][1] - rows[best][1], abs=1.1e-4)
    assert low < gain < high
    against = rows_of(call("evaluate", RUNS[0], "--against", *RUNS[1:], "--expand", "2"))
    assert against["against: mean"][2] == "reference"
    assert {f"{RUNS[0]}, expanded by 2", "against: mean, expanded by 2"} < against.keys()


def test_runs_with_splits_of_their_own_are_measured_out_of_fold(make_run, call):
    for seed in (1, 2, 3):
        make_run(seed)
    with pytest.raises(InputError, match=r"trained on .* of the 15 images .*--split-seed.*--out-of-fold"):
        call("evaluate")
    printed = call("evaluate", "--out-of-fold")
    names = open_pairs(TRAIN_NPZ).image_names
    held = np.array([validation_images(names, 0.25, seed) for seed in (1, 2, 3)])
    assert f"{held.any(axis=0).sum()} images, held out by any run" in printed
    rows = rows_of(printed)
    assert rows["mean"][0] == f"1-{held.sum(axis=0).max()}"
    assert rows["single runs, on average"][2] == "reference"
    whole, singles = printed.split(
        "Single runs, each on the captions that it did not train on; the gallery is the same:\n"
    )
    assert rows_of(whole).keys() == rows.keys() - set(RUNS)
    images = open_pairs(TRAIN_NPZ).image_of_caption
    captions = {run: str(held[seed][images].sum()) for seed, run in enumerate(RUNS)}
    assert {run: row[2] for run, row in rows_of(singles).items()} == captions


@pytest.mark.parametrize(
    ("flags", "fitted"), [((), False), (("--normalize",), False), (("--normalize", "--seed", "1"), True)]
)
def test_select_prints_the_command_that_averages_what_it_chose(common_split, call, tmp_path, flags, fitted):
    printed = call("select", *flags)
    assert (tmp_path / "models/selection_curve.png").stat().st_size > 10_000
    weights = weights_of(printed)
    assert f"{len(weights)} of 3 runs selected" in printed
    gain, low = map(float, re.search(r"fitted over equal weights +(\S+) \[(\S+),", printed).groups())
    assert ("not better than equal ones: all weigh the same" in printed) == (gain <= 0)
    assert ("not clearly better than equal ones" in printed) == (low <= 0 < gain)
    assert (gain > 0) == fitted
    assert fitted or weights == dict.fromkeys(RUNS, 1)
    command = shlex.split(printed.splitlines()[-1].removeprefix("next: "))
    call(*command[3:])
    in_order = sorted(weights.items())
    assert command[:4] == ["python", "-m", "src.ensemble", "combine"]
    assert ("--weights" in command) == fitted
    vectors = np.array([read_submission(f"{run}/submission.csv").embeddings for run, _ in in_order])
    if "--normalize" in flags:
        vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    expected = np.average(vectors, axis=0, weights=[weight for _, weight in in_order])
    mean = read_submission("submission_ensemble_selected.csv").embeddings
    np.testing.assert_allclose(mean, expected, rtol=1e-5, atol=1e-6)


def test_unit_vectors_are_averaged_where_models_are_of_several_kinds(common_split, call, tmp_path):
    assert re.search(r"average of +predictions\n", call("select"))
    change_record(tmp_path / RUNS[0], recipe=asdict(replace(BASELINE, model="linear", split_seed=0, val_fraction=0.25)))
    printed = call("select")
    assert re.search(r"average of +unit vectors, for the models are of several kinds: linear, mlp\n", printed)
    assert "--normalize" in printed.splitlines()[-1]


def test_the_curve_lies_with_what_it_is_of(common_split, make_run, call, tmp_path):
    split = tmp_path / "models/common split"
    split.mkdir()
    for run in RUNS[:2]:
        (tmp_path / run).rename(split / run.removeprefix("models/"))
    printed = call("select", "models/common split")
    assert re.search(r"curve +models/common split/selection_curve\.png\n", printed)
    assert "'models/common split/seed" in printed  # can be pasted into a shell
    call("select", "models/common split/seed1", RUNS[2])
    call("select", "models/common split/seed1", str(tmp_path / RUNS[2]), "--plot", "own.png")
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.png")) == [
        Path("models/common split/selection_curve.png"),
        Path("models/selection_curve.png"),
        Path("own.png"),
    ]
    assert not list((tmp_path / "models").glob("ensemble_*"))


def test_select_names_the_submission_as_it_was_recorded(common_split, call, tmp_path):
    for run in RUNS:
        file = tmp_path / run / "submission.csv"
        written = {"path": f"moved/{file.parent.name}.csv", "sha256": sha256(file)}
        change_record(tmp_path / run, submission=written, command="train_mrr.py --seed 1")
    printed = call("select")
    assert "/submission.csv" in printed
    assert "moved" not in printed
    (tmp_path / "moved").mkdir()
    for run in RUNS:
        (tmp_path / run / "submission.csv").rename(tmp_path / f"moved/{run.removeprefix('models/')}.csv")
    assert "combine moved/seed" in call("select")
    for path in (tmp_path / "moved").iterdir():
        path.write_text("another")
    printed = call("select")
    assert "src.ensemble combine" not in printed
    again = "repeat: python train_mrr.py --seed 1"
    assert re.search(rf"models/seed\d: its submission is gone or has changed, .*; {re.escape(again)}\n", printed)


def change_record(folder, **values):
    write_json(folder / "run.json", read_json(folder / "run.json") | values)


def test_what_is_no_translator_of_the_same_data_is_left_out_and_named(common_split, make_run, call, tmp_path):
    models = tmp_path / "models"
    for seed, place in ((4, "topk_folds/a/fold1"), (5, "topk_folds/a/fold2"), (6, "hpsearch/trial_0006"), (7, "seed7")):
        made = make_run(seed, split_seed=0)
        (models / place).parent.mkdir(parents=True, exist_ok=True)
        made.rename(models / place)
    for fold in ("fold1", "fold2"):
        data = read_json(models / "topk_folds/a" / fold / "run.json")["data"]
        data["train_fingerprint"] += f" without {fold} of 2"
        change_record(models / "topk_folds/a" / fold, data=data)
    (models / "hpsearch/journal.log").touch()
    change_record(models / "seed7", status="running")
    for command in ("evaluate", "select"):
        lines = call(command).splitlines()
        assert [line for line in lines if line.startswith("left out")] == [
            "left out: models/hpsearch/trial_0006 (trial of a search)",
            "left out: models/seed7 (running)",
            "left out: 2 runs in models/topk_folds/a (trained on a part of the data)",
        ]
    assert {row for row in rows_of(call("evaluate")) if row.startswith("models/")} == set(RUNS)
    assert "models/hpsearch/trial_0006" in rows_of(call("evaluate", "models/hpsearch", RUNS[0]))
    with pytest.raises(InputError, match=r"topk_folds: holds no finished run; left out: 2 runs in .*part of the data"):
        call("evaluate", "models/topk_folds")
    with pytest.raises(InputError, match=r"fold1: trained on a part of .*train\.npz \(.* without fold1 of 2\)"):
        call("evaluate", "models/topk_folds/a/fold1")
    with pytest.raises(InputError, match=r"seed7: holds no finished run"):
        call("evaluate", "models/seed7")


def test_below_a_folder_runs_of_other_data_are_left_out(common_split, make_run, call, tmp_path):
    pairs = tiny_pairs(3, 60)
    others = np.array([f"another{i}.jpg" for i in range(60)], object)
    save_pairs(replace(pairs, image_names=others), tmp_path / "others.npz")
    save_pairs(pairs, tmp_path / "gone.npz")
    make_run(4, split_seed=0, train_npz=tmp_path / "others.npz")
    make_run(5, split_seed=0, train_npz=tmp_path / "gone.npz")
    (tmp_path / "gone.npz").unlink()
    narrow = ResidualMLP(8, 11, 6)
    save_translator(narrow.state_dict(), narrow.dims, make_run(6, split_seed=0) / BEST_MRR)
    printed = call("evaluate")
    assert "left out: models/seed4 (trained on none of the images of data/train/train.npz)\n" in printed
    assert re.search(r"left out: models/seed5 \(its .*gone\.npz is gone or has changed, .*\)\n", printed)
    assert re.search(r"left out: models/seed6 \(translates widths \(8, 11\); .*\)\n", printed)
    assert {row for row in rows_of(printed) if row.startswith("models/")} == set(RUNS)
    # These captions are new to all that were not trained on them.
    assert {*RUNS} < rows_of(call("evaluate", *RUNS, "--on", "others.npz")).keys()


def test_a_file_among_the_folders_is_left_out(common_split, call, tmp_path):
    (tmp_path / "models/notes.txt").touch()
    assert "left out: models/notes.txt (a file, not a folder of runs)" in call("evaluate", *RUNS, "models/notes.txt")
    with pytest.raises(InputError, match=r"no finished run; left out: models/notes\.txt"):
        call("evaluate", "models/notes.txt")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("evaluate", "absent"), "absent: holds no finished run"),
        (("evaluate", "models", "--on", "absent.npz"), "absent.npz: no such file"),
        (("select", "models/seed1"), "only finished run"),
    ],
)
def test_what_cannot_be_used_is_named(common_split, call, arguments, reason):
    with pytest.raises(InputError, match=reason):
        call(*arguments)
