"""The scripts as torchrun starts them: what one process makes, by several; killed ones; errors."""

import re
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from src.common.files import sha256
from src.training.runs import BEST_MRR, SUBMISSION, read_run
from tests.conftest import assert_input_error, kill_one_of

TINY = "--hidden-dim", 32, "--epochs", 3, "--batch-size", 100, "--dropout", 0, "--precision", "float32"
SEEDS = 1, 2, 3


@pytest.fixture
def folder(sample, tmp_path) -> Path:
    """A working directory with the sample in data/."""
    (tmp_path / "data").symlink_to(sample)
    return tmp_path


def errors_of(started: subprocess.CompletedProcess) -> list[str]:
    """The lines that the scripts themselves wrote on what ended them; torchrun's report is left out."""
    return re.findall(r"^(?:unexpected )?error: .*|^interrupted", started.stderr, re.MULTILINE)


@pytest.mark.slow
def test_one_model_is_trained_by_two_processes_as_by_one(folder, run_script, run_torchrun):
    alone = run_script("train_mrr.py", *TINY, "--models-dir", "alone", "--predict-with", "refit", cwd=folder)
    several = run_torchrun(2, "train_mrr.py", *TINY, "--predict-with", "refit", cwd=folder)
    assert several.returncode == alone.returncode == 0, several.stderr
    assert several.stdout.count("Training a translator") == 1
    assert "cpu, float32, 2 processes" in several.stdout
    run = "baseline_hidden_dim=32,dropout=0.0,epochs=3,batch_size=100,predict_with=refit_train_seed43"
    ours, theirs = (read_run(folder / models / run) for models in ("models", "alone"))
    assert (ours.provenance.processes, theirs.provenance.processes) == (2, 1)
    assert ours.results.measures == pytest.approx(theirs.results.measures, rel=1e-3)
    assert ours.weights.keys() == theirs.weights.keys()
    assert ours.submission.sha256 == sha256(folder / "submission_mrr_baseline.csv")


def models_of(folder: Path, models: str) -> list[str]:
    members = [folder / models / f"ensemble_raw_seed{seed}" for seed in SEEDS]
    return [sha256(member / name) for member in members for name in (BEST_MRR, SUBMISSION)]


@pytest.mark.slow
def test_members_are_shared_out_and_those_of_a_killed_process_taken_up(folder, run_script, run_torchrun):
    script = "train_mrr_Ensemble_old_dataset.py", "--seeds", *SEEDS, *TINY
    alone = run_script(*script, "--models-dir", "alone", cwd=folder)
    several = run_torchrun(2, *script, cwd=folder)
    assert several.returncode == alone.returncode == 0, several.stderr
    assert models_of(folder, "models") == models_of(folder, "alone")
    assert several.stdout.splitlines()[-2] == alone.stdout.splitlines()[-2]  # the mean over all seeds

    slower, killed = [*script, "--epochs", 60, "--patience", 0, "--models-dir", "killed"], folder / "killed"
    kill_one_of(2, 1, lambda: any(killed.glob("*/last.pt")), *slower, cwd=folder, restarts=1)
    for seed in SEEDS:
        record = read_run(killed / f"ensemble_raw_seed{seed}")
        assert (record.status, record.results.epochs) == ("finished", 60)


@pytest.mark.slow
def test_a_training_one_of_whose_processes_is_killed_goes_on_where_it_was(folder, run_script):
    script = "train_mrr.py", *TINY, "--epochs", 200, "--patience", 0, "--run-name", "run", "--submission", "none"
    run, begun = folder / "models/run", []

    def is_under_way() -> bool:
        begun[:] = [read_run(run)] if (run / "last.pt").exists() else []
        return bool(begun)

    kill_one_of(2, 0, is_under_way, *script, cwd=folder, restarts=1)
    record = read_run(run)
    assert record.results.epochs == 200
    assert record.provenance.started == begun[0].provenance.started


@pytest.mark.slow
def test_trials_of_a_search_are_shared_out(folder, run_script, run_torchrun):
    tiny = "--hidden-dim", 32, "--epochs", 2, "--precision", "float32", "--copies", 1, "--kernel-share", 0
    script = "train_mrr_hpp_tunning_RandSearch.py", "--trials", 4, "--pruner", "none", "--submission", "none", *tiny
    alone = run_script(*script, "--models-dir", "alone", "--results", "alone.csv", cwd=folder)
    several = run_torchrun(2, *script, cwd=folder)
    assert several.returncode == alone.returncode == 0, several.stderr
    ours, theirs = (pd.read_csv(folder / name) for name in ("hpsearch_results.csv", "alone.csv"))
    same = ["trial", "state", "mrr", "best_epoch", "lr", "tau", "dropout", "batch_size"]
    pd.testing.assert_frame_equal(ours[same].sort_values("trial"), theirs[same].sort_values("trial"))
    assert several.stdout.count("Best of 4 trials") == 1


@pytest.mark.slow
def test_an_error_of_all_or_of_one_process_is_told_once(folder, run_torchrun):
    missing = run_torchrun(3, "train_mrr.py", "--train-npz", "no.npz", cwd=folder)
    assert missing.returncode == 1
    assert errors_of(missing) == ["error: no.npz: no such file; run `bash setup.sh` to prepare data/"]
    assert re.search(r"exitcode +: 2 ", missing.stderr)
    diverging = run_torchrun(2, "train_mrr.py", *TINY, "--lr", 1e30, cwd=folder)
    assert len(errors_of(diverging)) == 1, diverging.stderr
    assert "training diverged in epoch" in errors_of(diverging)[0]


AS_RANK = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}


@pytest.mark.parametrize("script", ["ensemble_combine_CSVs_16seeds.py", "src.ensemble", "src.submission"])
def test_what_works_in_one_process_says_so(script, folder, run_script):
    command = (script,) if script.endswith(".py") else ("-m", script)
    first = run_script(*command, cwd=folder, env=AS_RANK | {"RANK": "0"})
    assert_input_error(first, "works in one process; start it without torchrun")
    second = run_script(*command, cwd=folder, env=AS_RANK | {"RANK": "1"})
    assert (second.returncode, second.stdout, second.stderr) == (2, "", "")


def test_a_wrong_command_line_is_told_by_the_first_process(folder, run_script):
    first, second = (
        run_script("train_mrr.py", "--lr", "fast", cwd=folder, env=AS_RANK | {"RANK": rank}) for rank in "01"
    )
    assert first.returncode == second.returncode == 2
    assert first.stderr.startswith("error: argument --lr")
    assert second.stderr == ""
