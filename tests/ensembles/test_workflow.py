"""The whole path on the sample, command by command as a user types it: filter, train the 23, combine, measure."""

import json

import numpy as np
import pytest

from src.data.pairs import open_pairs
from src.data.submissions import read_submission
from src.inventory import ALL_23, THE_16
from tests.ensembles.test_commands import rows_of

QUICK = ("--hidden-dim", "32", "--epochs", "2", "--val-fraction", "0.2", "--device", "cpu")
SCRIPTS = dict.fromkeys(member.ensemble.script for member in ALL_23)
COMMON = ("--split-seed", "0", "--models-dir", "models/common")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(sample, tmp_path_factory, run_script):
    """A function that runs a command in a project folder, in which the sample was filtered, all 23 members were trained
    and two of each script with a common split; it returns what the command prints."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "data").mkdir()
    for part in ("train", "test"):
        (folder / "data" / part).symlink_to(sample / part)
    scores = np.random.default_rng(0).random(len(open_pairs(sample / "train/train.npz")), np.float32)
    np.save(folder / "scores.npy", scores)

    def start(*command):
        result = run_script(*command, cwd=folder)
        assert result.returncode == 0, result.stderr
        return result.stdout

    start("-m", "src.clip_filter_pairs", "--scores-input", "scores.npy")
    for script in SCRIPTS:
        start(script, *QUICK)
        seeds = [member.seed for member in ALL_23 if member.ensemble.script == script]
        start(script, *QUICK, *COMMON, "--seeds", *seeds[:2])
    start.folder = folder
    return start


def test_every_member_leaves_its_run_and_nothing_else(run):
    allowed = {"run.json", "history.csv", "curves.png", "best_mrr.safetensors", "best_loss.safetensors"}
    for member in ALL_23:
        names = {path.name for path in (run.folder / "models" / member.run_name).iterdir()}
        assert names == allowed | {"submission.csv"}
    assert {path.name for path in (run.folder / "models").iterdir()} == {"common", *(m.run_name for m in ALL_23)}


def test_both_combinations_are_the_means_of_their_members(run):
    for name, members in (("16seeds", THE_16), ("all_23seeds", ALL_23)):
        run(f"ensemble_combine_CSVs_{name}.py")
        output = run.folder / f"submission_ensemble_mean_{name.removeprefix('all_')}.csv"
        parts = [read_submission(run.folder / f"models/{member.run_name}/submission.csv") for member in members]
        expected = np.mean([part.embeddings for part in parts], axis=0)
        np.testing.assert_allclose(read_submission(output).embeddings, expected, rtol=1e-5, atol=1e-6)


def test_the_inventory_shows_what_was_trained(run):
    lines = run("-m", "src.inventory").splitlines()[2:]
    for member, line in zip(ALL_23, lines, strict=True):
        results = json.loads((run.folder / "models" / member.run_name / "run.json").read_text())["results"]
        assert f"{results['mrr']:.6f}" in line


def test_members_of_a_common_split_measure_as_they_did_in_training(run):
    """The same captions, gallery and figure, filtered or not."""
    rows = rows_of(run("-m", "src.ensemble", "evaluate", "models/common"))
    folders = [path.parent for path in (run.folder / "models/common").glob("*/run.json")]
    assert len(folders) == 6
    for folder in folders:
        recorded = json.loads((folder / "run.json").read_text())["results"]["mrr"]
        assert rows[f"models/common/{folder.name}"][1] == pytest.approx(recorded, abs=6e-5)


def test_the_best_of_a_time_is_one_command(run):
    flags = ("--minutes", "0.5", "--device", "cpu", "--members", "3", "--models-dir", "unlike")
    weighted = run("-m", "src.ensemble", "train", *flags)
    assert "unlike/kernel_seed0" in weighted
    assert "unlike/auto_seed0" in weighted
    assert (run.folder / "unlike/selection_curve.png").exists()
    checked = run("-m", "src.submission", "check", "submission_ensemble_unlike.csv")
    assert "submission_ensemble_unlike.csv" in checked


def test_selection_leaves_nothing_among_the_runs(run):
    run("-m", "src.ensemble", "select", "models/common")
    assert all(path.is_dir() for path in (run.folder / "models").glob("ensemble_*")), (
        "`evaluate models/ensemble_*` fails"
    )
    runs = [f"models/{member.run_name}" for member in ALL_23[:4]]
    assert {*runs, "mean"} < rows_of(run("-m", "src.ensemble", "evaluate", *runs, "--out-of-fold")).keys()
