"""train_mrr.py: the run's folder, the submission, resuming, and errors in one line."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

import src.training.checkpoint
import src.training.job
import train_mrr
from src.common.files import InputError, sha256
from src.data.keep_lists import save_selected
from src.data.pairs import open_pairs, open_test_captions
from src.data.submissions import read_submission
from src.training.model import load_translator
from src.training.runs import REFIT, FileRecord, read_run
from tests.conftest import assert_input_error

QUICK = ("--hidden-dim", "64", "--epochs", "3", "--device", "cpu", "--run-name", "quick")
TIMING = ["seconds", "captions_per_second"]


@pytest.fixture
def flags(sample, tmp_path, monkeypatch):
    """A function that makes the command line for the sample, quickly; the working directory is empty."""
    monkeypatch.chdir(tmp_path)

    def make(*more):
        data = ("--train-npz", sample / "train/train.npz", "--test-npz", sample / "test/test.clean.npz")
        return [str(flag) for flag in (*data, *QUICK, *more)]

    return make


@pytest.fixture
def train(flags):
    return lambda *more: train_mrr.main(flags(*more))


def test_one_command_leaves_everything(flags, run_script, sample, tmp_path):
    result = run_script("train_mrr.py", *flags(), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    run_dir = tmp_path / "models/quick"
    names = {path.name for path in run_dir.iterdir()}
    weights = {"best_mrr.safetensors", "best_loss.safetensors"}
    assert names == {"run.json", "history.csv", "curves.png", "submission.csv"} | weights
    record = json.loads((run_dir / "run.json").read_text())
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


@pytest.mark.parametrize("flags", [("linear",), ("kernel", "--hidden-dim", "50")])
def test_a_closed_form_is_a_run_like_any_other(flags, sample, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = ("--train-npz", sample / "train/train.npz", "--test-npz", sample / "test/test.clean.npz")
    train_mrr.main([*map(str, data), "--device", "cpu", "--recipe", *flags])
    (run_dir,) = (tmp_path / "models").iterdir()
    record = read_run(run_dir)
    assert {path.name for path in run_dir.iterdir()} == {
        "run.json",
        "history.csv",
        "curves.png",
        "submission.csv",
        "best_mrr.safetensors",
        "best_loss.safetensors",
        "refit.safetensors",
    }
    assert record.results.stopped.startswith("in closed form, ridge strength")
    assert (record.results.linear_mrr == record.results.mrr) == (flags[0] == "linear")
    assert ("a linear map" in capsys.readouterr().out) == (flags[0] != "linear")
    assert pd.read_csv(run_dir / "history.csv").mrr.tolist() == [record.results.mrr]
    assert len(read_submission(tmp_path / f"submission_mrr_{flags[0]}.csv").embeddings) == 30


def test_a_submission_by_a_model_that_has_seen_all_images(train, sample, tmp_path, capsys):
    train()
    validated = read_run(tmp_path / "models/quick").results
    train("--predict-with", "refit", "--run-name", "refitted")
    record, run_dir = read_run(tmp_path / "models/refitted"), tmp_path / "models/refitted"
    assert record.results.measures == validated.measures  # of the model that has not seen those that validate
    assert f"all {record.data.train_images} images for {record.results.best_epoch} epochs" in capsys.readouterr().out
    text = torch.from_numpy(open_test_captions(sample / "test/test.clean.npz").text_embeddings)
    with torch.no_grad():
        expected = load_translator(run_dir / REFIT)(text)
    submission = read_submission(tmp_path / "submission_mrr_baseline.csv")
    np.testing.assert_allclose(submission.embeddings, expected.numpy(), rtol=1e-4, atol=1e-5)
    assert record.weights[REFIT] == sha256(run_dir / REFIT) != record.weights["best_mrr.safetensors"]
    assert not list(run_dir.glob("*.pt"))


def test_where_nothing_is_held_out_the_validated_model_has_seen_all(train, sample, tmp_path):
    with np.load(sample / "train/train.npz") as archive:
        arrays = dict(archive)
    arrays["images/names"] = np.char.add("other_", arrays["images/names"])
    np.savez("others.npz", **arrays)
    train("--predict-with", "refit", "--val-npz", "others.npz")
    assert REFIT not in read_run(tmp_path / "models/quick").weights


def test_the_linear_map_stands_beside_every_training(train, tmp_path, capsys):
    train()
    mrr = read_run(tmp_path / "models/quick").results.linear_mrr
    assert f"a linear map        MRR {mrr:.4f}, in closed form on the same captions" in capsys.readouterr().out


def test_twice_the_same_seed_is_the_same_history(train, tmp_path):
    histories = []
    for _ in range(2):
        train("--seed", "7")
        histories.append(pd.read_csv(tmp_path / "models/quick/history.csv").drop(columns=TIMING))
    pd.testing.assert_frame_equal(*histories, check_exact=True)


def test_other_peoples_dtypes_train_the_same(train, sample, tmp_path, caplog):
    train()
    with np.load(sample / "train/train.npz") as archive:
        arrays = dict(archive)
    texts = arrays["captions/text"].astype(object)
    texts[3] += "\ud83d"  # half of an emoji, as tools leave it that cut at so many UTF-16 units
    others = {
        "captions/text": texts.astype(str),
        "captions/ids": arrays["captions/ids"].astype(float),
        "captions/embeddings": arrays["captions/embeddings"].astype(np.float64),
        "captions/label": arrays["captions/label"].argmax(axis=1),
        "images/names": np.char.encode(arrays["images/names"]),
    }
    np.savez(tmp_path / "other.npz", **(arrays | others))
    train("--train-npz", "other.npz", "--run-name", "other")
    assert "other.npz: captions/embeddings has dtype float64; read as float32 without loss" in caplog.text
    assert "other.npz: captions/text holds half characters in 1 rows; read as U+FFFD" in caplog.text
    histories = [
        pd.read_csv(tmp_path / "models" / name / "history.csv").drop(columns=TIMING) for name in ("quick", "other")
    ]
    pd.testing.assert_frame_equal(*histories, check_exact=True)


def test_the_run_name_tells_recipe_changes_data_and_seed(sample, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = ("--train-npz", str(sample / "train/train.npz"), "--submission", "none", "--device", "cpu")
    train_mrr.main([*data, "--epochs", "1", "--hidden-dim", "32", "--seed", "9"])
    assert (tmp_path / "models/baseline_hidden_dim=32,epochs=1_train_seed9/run.json").exists()
    assert not list(tmp_path.glob("*.csv"))


def test_a_finished_run_is_not_mixed_with_another_recipe(train, capsys):
    train()
    with pytest.raises(InputError, match=r"another lr; .*--run-name"):
        train("--lr", "1e-2")
    with pytest.raises(InputError, match="finished"):
        train("--resume")
    train()
    assert "replaces the finished one" in capsys.readouterr().out


def test_every_run_keeps_its_submission_and_the_default_name_is_a_copy_of_the_last(train, tmp_path):
    for seed in ("1", "2"):
        train("--seed", seed, "--run-name", f"seed{seed}")
    for seed in ("1", "2"):
        submission = read_run(tmp_path / f"models/seed{seed}").submission
        assert submission == FileRecord(f"models/seed{seed}/submission.csv", sha256(submission.path))
    assert sha256("submission_mrr_baseline.csv") == submission.sha256


def test_a_run_is_continued_on_the_kind_of_machine_that_began_it(train, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(src.training.job, "write_submission", lambda *args: 1 / 0)  # all epochs are done, nothing saved
    monkeypatch.setattr(src.training.checkpoint, "SECONDS_BETWEEN_CHECKPOINTS", 0)
    with pytest.raises(ZeroDivisionError):
        train("--precision", "float32")
    before = (tmp_path / "models/quick/run.json").read_text()
    with pytest.raises(InputError, match=r"begun on cpu in float32; continue it with --device cpu --precision float32"):
        train("--precision", "bfloat16", "--resume")
    assert (tmp_path / "models/quick/run.json").read_text() == before
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    train("--precision", "float32", "--resume")
    record = read_run(tmp_path / "models/quick")
    assert record.provenance.precision == "float32"
    assert record.provenance.started == json.loads(before)["started"]
    assert not (tmp_path / "models/quick/last.pt").exists()


def test_what_is_odd_about_a_submission_is_said_and_recorded(train, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(src.training.job, "translate", lambda translator, text: torch.zeros(len(text), 1536))
    train()
    notes = ["all embeddings are the same", "30 embeddings are all zeros"]
    assert read_run(tmp_path / "models/quick").submission.notes == notes
    assert all(note in capsys.readouterr().out for note in notes[:1])


@pytest.mark.parametrize("output", ["train.npz", "folder", "file/below.csv"])
def test_outputs_that_cannot_be_written_are_named_before_anything_is_trained(train, sample, tmp_path, output):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    shutil.copy(sample / "train/train.npz", tmp_path)
    before = sha256(tmp_path / "train.npz")
    with pytest.raises(InputError, match=output):
        train("--train-npz", "train.npz", "--submission", tmp_path / output)
    assert sha256(tmp_path / "train.npz") == before
    assert not list(tmp_path.glob("models/*/*"))


def test_a_json_recipe_trains(train, tmp_path):
    recipe = tmp_path / "mine.json"
    recipe.write_text('{"name": "mine", "tau": 0.05, "optimizer": "adamw"}')
    train("--recipe", recipe)
    assert (tmp_path / "submission_mrr_mine.csv").exists()
    assert read_run(tmp_path / "models/quick").recipe.tau == 0.05


def test_a_filtered_set_validates_on_unfiltered_captions(train, sample, tmp_path):
    raw = open_pairs(sample / "train/train.npz")
    save_selected(raw, np.arange(len(raw)) % 3 > 0, tmp_path / "filtered.npz")
    filtered, runs = ("--train-npz", tmp_path / "filtered.npz"), []
    for more in (filtered, (*filtered, "--val-npz", "own"), ()):
        train(*more)
        runs.append(read_run(tmp_path / "models/quick"))
        shutil.rmtree(tmp_path / "models")
    unfiltered, own, plain = runs
    # The same images validate, with all of their captions; both figures are recorded.
    assert unfiltered.data.val_images == plain.data.val_images == own.data.val_images
    assert unfiltered.data.val_captions == plain.data.val_captions > own.data.val_captions
    assert {"mrr", "challenge_mrr"} <= unfiltered.results.own_measures.keys()
    assert own.results.own_measures is None


@pytest.mark.parametrize("flag", ["--train-npz", "--test-npz", "--val-npz", "--keep-list", "--recipe"])
def test_missing_and_damaged_files_are_named_and_nothing_is_written(train, sample, tmp_path, flag):
    damaged = tmp_path / "damaged.json"
    damaged.write_bytes((sample / "train/train.npz").read_bytes()[:5000])
    for name in ("absent.json", "damaged.json"):
        with pytest.raises(InputError, match=name):
            train(flag, tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {"damaged.json"}


@pytest.mark.parametrize("bad", [("--lr", "-1"), ("--device", "abacus"), ("--recipe", "unknown"), ("--lr", "1e30")])
def test_bad_values_are_named(train, bad):
    with pytest.raises(InputError, match=bad[0]):
        train(*bad)


def test_what_cannot_be_used_ends_in_one_line(flags, run_script, tmp_path):
    assert_input_error(run_script("train_mrr.py", *flags("--lr", "1e30"), cwd=tmp_path), "diverged", "--lr")
    assert read_run(tmp_path / "models/quick").status == "failed"


@pytest.mark.slow
@pytest.mark.flickr8k
@pytest.mark.parametrize("part", ["visual", "language"])
def test_real_data_train_unchanged(run_script, flickr8k, tmp_path, part):
    folder = flickr8k / part
    data = ("--train-npz", folder / "train.npz", "--test-npz", folder / "test.clean.npz")
    result = run_script("train_mrr.py", *data, "--hidden-dim", "256", "--epochs", "4", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    checked = ("-m", "src.submission", "check", tmp_path / "submission_mrr_baseline.csv")
    assert run_script(*checked, "--test-npz", folder / "test.clean.npz").returncode == 0
