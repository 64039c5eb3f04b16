"""train_mrr.py as a user starts it: the run's folder, the submission, resuming, and errors in one line."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from src.data.pairs import open_pairs, open_test_captions, save_pairs
from src.data.submissions import read_submission
from src.training.model import load_translator
from tests.conftest import assert_input_error

QUICK = ("--hidden-dim", "64", "--epochs", "3", "--device", "cpu", "--run-name", "quick")
TIMING = ["seconds", "captions_per_second"]


@pytest.fixture
def train(run_script, sample, tmp_path):
    """Start train_mrr.py on the sample in an empty folder, quickly, with more flags."""

    def start(*flags):
        data = ("--train-npz", sample / "train/train.npz", "--test-npz", sample / "test/test.clean.npz")
        return run_script("train_mrr.py", *data, *QUICK, *flags, cwd=tmp_path)

    return start


def read_json(path):
    return json.loads(path.read_text())


def test_one_command_leaves_everything(train, sample, tmp_path):
    result = train()
    assert result.returncode == 0, result.stderr
    run_dir = tmp_path / "models/quick"
    names = {path.name for path in run_dir.iterdir()}
    assert names == {"run.json", "history.csv", "curves.png", "best_mrr.safetensors", "best_loss.safetensors"}
    record = read_json(run_dir / "run.json")
    assert record["status"] == "finished"
    assert record["recipe"]["hidden_dim"] == 64
    assert {"torch", "numpy", "python"} <= record["versions"].keys()
    assert record["data"]["train_captions"] == len(open_pairs(sample / "train/train.npz"))
    assert f"validation MRR {record['results']['mrr']:.4f}" in result.stdout
    assert pd.read_csv(run_dir / "history.csv").mrr.max() == record["results"]["mrr"]

    test = open_test_captions(sample / "test/test.clean.npz")
    submission = read_submission(tmp_path / "submission_mrr_baseline.csv")
    assert (submission.caption_ids == test.caption_ids).all()
    with torch.no_grad():
        expected = load_translator(run_dir / "best_mrr.safetensors")(torch.from_numpy(test.text_embeddings))
    np.testing.assert_allclose(submission.embeddings, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_twice_the_same_seed_is_the_same_history(train, tmp_path):
    histories = []
    for _ in range(2):
        assert train("--seed", "7").returncode == 0
        histories.append(pd.read_csv(tmp_path / "models/quick/history.csv").drop(columns=TIMING))
    pd.testing.assert_frame_equal(*histories, check_exact=True)


def test_the_run_name_tells_recipe_changes_data_and_seed(run_script, sample, tmp_path):
    data = ("--train-npz", sample / "train/train.npz", "--submission", "none")
    result = run_script("train_mrr.py", *data, "--epochs", "1", "--hidden-dim", "32", "--seed", "9", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "models/baseline_hidden_dim=32,epochs=1_train_seed9/run.json").exists()
    assert not list(tmp_path.glob("*.csv"))


def test_a_finished_run_is_not_mixed_with_another_recipe(train):
    assert train().returncode == 0
    assert_input_error(train("--lr", "1e-2"), "another lr", "--run-name")
    assert_input_error(train("--resume"), "finished")
    again = train()
    assert again.returncode == 0
    assert "replaces the finished one" in again.stdout


def test_a_json_recipe_trains(train, tmp_path):
    recipe = tmp_path / "mine.json"
    recipe.write_text('{"name": "mine", "tau": 0.05, "optimizer": "adamw"}')
    result = train("--recipe", str(recipe))
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "submission_mrr_mine.csv").exists()
    assert read_json(tmp_path / "models/quick/run.json")["recipe"]["tau"] == 0.05


def test_a_filtered_set_validates_on_unfiltered_captions(train, sample, tmp_path):
    raw = open_pairs(sample / "train/train.npz")
    save_pairs(raw.select(np.arange(len(raw)) % 3 > 0), tmp_path / "filtered.npz")
    filtered = ("--train-npz", tmp_path / "filtered.npz")
    assert train(*filtered, "--val-npz", sample / "train/train.npz").returncode == 0
    unfiltered = read_json(tmp_path / "models/quick/run.json")
    shutil.rmtree(tmp_path / "models")
    assert train(*filtered).returncode == 0
    own = read_json(tmp_path / "models/quick/run.json")
    shutil.rmtree(tmp_path / "models")
    assert train().returncode == 0
    plain = read_json(tmp_path / "models/quick/run.json")
    # The same images validate, with all of their captions; both figures are recorded.
    assert unfiltered["data"]["val_images"] == plain["data"]["val_images"] == own["data"]["val_images"]
    assert unfiltered["data"]["val_captions"] == plain["data"]["val_captions"] > own["data"]["val_captions"]
    assert {"mrr", "challenge_mrr"} <= unfiltered["results"]["own_validation"].keys()
    assert "own_validation" not in own["results"]


@pytest.mark.parametrize("flag", ["--train-npz", "--test-npz", "--val-npz", "--keep-list", "--recipe"])
def test_missing_and_damaged_files_end_in_one_line(train, sample, tmp_path, flag):
    assert_input_error(train(flag, tmp_path / "absent.json"), "absent.json")
    damaged = tmp_path / "damaged.json"
    damaged.write_bytes((sample / "train/train.npz").read_bytes()[:5000])
    assert_input_error(train(flag, damaged), "damaged.json")
    assert {path.name for path in tmp_path.iterdir()} == {"damaged.json"}  # nothing half-written


@pytest.mark.parametrize("flags", [("--lr", "-1"), ("--device", "abacus"), ("--recipe", "unknown"), ("--lr", "1e30")])
def test_bad_values_end_in_one_line(train, flags):
    assert_input_error(train(*flags), flags[0])


def test_help_shows_every_flag_people_know(run_script):
    text = run_script("train_mrr.py", "--help").stdout
    flags = "--train-npz --val-npz --test-npz --recipe --epochs --batch-size --hidden-dim --lr --tau --seed --patience"
    for flag in [*flags.split(), "--device", "--precision", "--models-dir", "--submission", "--resume"]:
        assert flag in text


@pytest.mark.flickr8k
@pytest.mark.parametrize("part", ["visual", "language"])
def test_real_data_train_unchanged(run_script, flickr8k, tmp_path, part):
    folder = flickr8k / part
    data = ("--train-npz", folder / "train.npz", "--test-npz", folder / "test.clean.npz")
    result = run_script("train_mrr.py", *data, "--hidden-dim", "256", "--epochs", "4", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    checked = ("-m", "src.submission", "check", tmp_path / "submission_mrr_baseline.csv")
    assert run_script(*checked, "--test-npz", folder / "test.clean.npz").returncode == 0
