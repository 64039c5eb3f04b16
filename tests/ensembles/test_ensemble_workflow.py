"""The whole path on the sample, command by command: filter, three trainers, both combinations, measuring, selection."""

import importlib
import json
import re
import shlex

import numpy as np
import pytest

from src.data.pairs import open_pairs
from src.data.splits import validation_images
from src.data.submissions import read_submission
from src.inventory import ALL_23, CLIP_NPZ
from tests.conftest import REPO, assert_input_error

QUICK = ("--hidden-dim", "32", "--epochs", "3", "--val-fraction", "0.2", "--device", "cpu")
SEEDS = {
    "train_mrr_Ensemble_old_dataset.py": ("42", "1337"),
    "train_mrr_Ensemble_new_dataset_CLIP.py": ("8", "26"),
    "train_mrr_Ensemble_new_dataset_CLIP_AdamW_5_batches.py": ("42", "322"),
}
MEMBERS = [member for member in ALL_23 if str(member.seed) in SEEDS[member.script]]


@pytest.fixture(scope="module")
def project(sample, tmp_path_factory, run_script):
    """A project folder in which the sample was filtered and six members were trained, each by its own split in models/
    and by a common one in models/common."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "data").mkdir()
    for part in ("train", "test"):
        (folder / "data" / part).symlink_to(sample / part)
    scores = np.random.default_rng(0).random(len(open_pairs(sample / "train/train.npz")), np.float32)
    np.save(folder / "scores.npy", scores)
    commands = [("-m", "src.clip_filter_pairs", "--scores-input", "scores.npy")]
    for script, seeds in SEEDS.items():
        commands.append((script, "--seeds", *seeds, *QUICK))
        commands.append((script, "--seeds", *seeds, *QUICK, "--split-seed", "0", "--models-dir", "models/common"))
    for command in commands:
        result = run_script(*command, cwd=folder)
        assert result.returncode == 0, result.stderr
    return folder


def rows_of(printed: str) -> dict[str, tuple[str, float, str]]:
    """The table that `evaluate` prints: {label: (n, MRR, difference)}."""
    found = re.findall(r"^ *([\d-]+) +(\S.*?) +(\d\.\d{4}) .* (reference|-|\S+ \[\S+ \S+\])$", printed, re.MULTILINE)
    return {label: (n, float(mrr), difference) for n, label, mrr, difference in found}


def results_of(run_dir):
    return json.loads((run_dir / "run.json").read_text())["results"]


def test_both_combinations_are_the_means_of_their_members(project, monkeypatch):
    monkeypatch.chdir(project)
    monkeypatch.syspath_prepend(str(REPO))
    for name, members, constant in (
        ("16seeds", [member for member in MEMBERS if member.in_16], "THE_16"),
        ("all_23seeds", MEMBERS, "ALL_23"),
    ):
        script = importlib.import_module(f"ensemble_combine_CSVs_{name}")
        monkeypatch.setattr(script, constant, members)
        script.main([])
        (output,) = project.glob(f"submission_*{name.removeprefix('all_')}.csv")
        parts = [read_submission(project / f"models/{member.run_name}/submission.csv") for member in members]
        expected = np.mean([part.embeddings for part in parts], axis=0)
        np.testing.assert_allclose(read_submission(output).embeddings, expected, rtol=1e-5, atol=1e-6)
        output.unlink()


def test_the_inventory_shows_what_was_trained(project, run_script):
    printed = run_script("-m", "src.inventory", cwd=project).stdout
    for member in MEMBERS:
        mrr = f"{results_of(project / 'models' / member.run_name)['mrr']:.6f}"
        (line,) = (line for line in printed.splitlines() if f"`{member.script}` | {member.seed} |" in line)
        assert mrr in line


def test_members_with_splits_of_their_own_are_refused(project, run_script):
    runs = [f"models/{member.run_name}" for member in MEMBERS]
    result = run_script("-m", "src.ensemble", "evaluate", *runs, cwd=project)
    assert_input_error(result, "trained on", "of the 18 images", "--split-seed", "--out-of-fold")


def test_out_of_fold_measures_them_on_what_each_did_not_see(project, run_script):
    runs = [f"models/{member.run_name}" for member in MEMBERS]
    result = run_script("-m", "src.ensemble", "evaluate", *runs, "--out-of-fold", cwd=project)
    assert result.returncode == 0, result.stderr
    names = open_pairs(project / "data/train/train.npz").image_names
    held = [validation_images(names, 0.2, member.seed) for member in MEMBERS]
    assert f"{np.any(held, axis=0).sum()} images, held out by any run" in result.stdout
    rows = rows_of(result.stdout)
    assert {f"models/{member.run_name}" for member in MEMBERS} < rows.keys()
    assert rows["mean"][0] == f"1-{np.sum(held, axis=0).max()}"
    assert rows["single runs, on average"][2] == "reference"


def test_members_of_a_common_split_are_measured_with_their_means(project, run_script):
    result = run_script("-m", "src.ensemble", "evaluate", "models/common", cwd=project)
    assert result.returncode == 0, result.stderr
    rows = rows_of(result.stdout)
    recorded = {f"models/common/{member.run_name}": MEMBERS.index(member) for member in MEMBERS}
    mrrs = {name: results_of(project / name)["mrr"] for name in recorded}
    for name, mrr in mrrs.items():  # the same captions, gallery and figure as in training, filtered or not
        assert rows[name][1] == pytest.approx(mrr, abs=6e-5)
    assert [name for name, row in rows.items() if row[2] == "reference"] == [max(mrrs, key=mrrs.get)]
    assert {"mean", "MRR-weighted mean", "normalised mean"} < rows.keys()
    assert rows["mean"][0] == "6"


def test_two_sets_of_runs_are_compared(project, run_script):
    raw = [f"models/common/ensemble_raw_seed{seed}" for seed in (42, 1337)]
    clip = "models/common/ensemble_clip_seed8"
    result = run_script("-m", "src.ensemble", "evaluate", clip, "--against", *raw, cwd=project)
    assert result.returncode == 0, result.stderr
    rows = rows_of(result.stdout)
    assert rows["against: mean"][::2] == ("2", "reference")
    gain, low, high = map(float, re.findall(r"[+-]\d\.\d{4}", rows[clip][2]))
    assert gain == pytest.approx(rows[clip][1] - rows["against: mean"][1], abs=1e-4)
    assert low < gain < high


def test_select_prints_the_command_that_averages_what_it_chose(project, run_script):
    result = run_script("-m", "src.ensemble", "select", "models/common", cwd=project)
    assert result.returncode == 0, result.stderr
    assert (project / "models/selection_curve.png").stat().st_size > 10_000
    assert all(path.is_dir() for path in (project / "models").glob("ensemble_*")), "`evaluate models/ensemble_*` fails"
    curve = re.findall(r"^ *(\d+) +(models/common/\S+) +(\d\.\d+) +(\d\.\d+)$", result.stdout, re.MULTILINE)
    assert sorted(name for _, name, _, _ in curve) == sorted(f"models/common/{member.run_name}" for member in MEMBERS)
    count = 1 + int(np.argmax([float(score) for _, _, score, _ in curve]))
    command = shlex.split(re.search(r"average them with +(.+)", result.stdout)[1])
    files = [f"{name}/submission.csv" for _, name, _, _ in curve[:count]]
    assert command == [
        "python",
        "-m",
        "src.ensemble",
        "combine",
        *files,
        "--output",
        "submission_ensemble_selected.csv",
    ]
    combined = run_script(*command[1:], cwd=project)
    assert combined.returncode == 0, combined.stderr
    expected = np.mean([read_submission(project / file).embeddings for file in files], axis=0)
    chosen = read_submission(project / "submission_ensemble_selected.csv").embeddings
    np.testing.assert_allclose(chosen, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("flags", "fragment"),
    [
        (("evaluate", "absent"), "absent: holds no finished run"),
        (("evaluate", "models/common", "--on", "absent.npz"), "absent.npz: no such file"),
        (("select", "models/common/ensemble_raw_seed42"), "only finished run"),
    ],
)
def test_what_cannot_be_used_ends_in_one_line(project, run_script, flags, fragment):
    assert_input_error(run_script("-m", "src.ensemble", *flags, cwd=project), fragment)


def test_the_three_trainers_leave_nothing_but_runs(project):
    assert {path.name for path in (project / "data/filtered").iterdir()} >= {CLIP_NPZ.name}
    allowed = {"run.json", "history.csv", "curves.png", "best_mrr.safetensors", "best_loss.safetensors"}
    for folder in ("models", "models/common"):
        for member in MEMBERS:
            names = {path.name for path in (project / folder / member.run_name).iterdir()}
            assert names == allowed | {"submission.csv"}
