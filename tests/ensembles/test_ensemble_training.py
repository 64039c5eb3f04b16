"""The ensemble trainers: what they train, that nothing is done twice, and that one failure does not stop the others."""

import importlib
import json
import re

import numpy as np
import pandas as pd
import pytest

import src.ensembles.training as ensemble_training
import src.training.fit as training
import src.training.inputs as training_data
from src.common.files import InputError
from src.data.pairs import open_pairs, open_test_captions, save_pairs
from src.data.submissions import read_submission
from src.inventory import CLIP_NPZ, seeds_of
from src.training.recipe import BASELINE, RECIPES, difference
from src.training.runs import BEST_MRR, LAST
from tests.conftest import REPO, assert_input_error

RAW, CLIP, ADAMW = SCRIPTS = (
    "train_mrr_Ensemble_old_dataset.py",
    "train_mrr_Ensemble_new_dataset_CLIP.py",
    "train_mrr_Ensemble_new_dataset_CLIP_AdamW_5_batches.py",
)
QUICK = ("--hidden-dim", "32", "--epochs", "2", "--device", "cpu")
TIMING = ["seconds", "captions_per_second"]


@pytest.fixture
def project(sample, tmp_path, monkeypatch):
    """An empty project folder with the sample's data, and filtered ones, as the working directory."""
    (tmp_path / "data").mkdir()
    for part in ("train", "test"):
        (tmp_path / "data" / part).symlink_to(sample / part)
    raw = open_pairs(sample / "train/train.npz")
    save_pairs(raw.select(np.arange(len(raw)) % 5 > 0), tmp_path / CLIP_NPZ)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(REPO))
    return tmp_path


def train(script, *flags):
    """Call a trainer's `main` as its command line would."""
    importlib.import_module(script.removesuffix(".py")).main([*QUICK, *map(str, flags)])


def record_of(run_dir):
    return json.loads((run_dir / "run.json").read_text())


def files_of(run_dir):
    return {path.name: path.read_bytes() for path in run_dir.iterdir()}


@pytest.mark.parametrize(
    ("script", "recipe", "changes"),
    [
        (RAW, "ensemble_raw", "epochs=300"),
        (CLIP, "ensemble_clip", "epochs=300"),
        (ADAMW, "ensemble_clip_adamw", "epochs=300,batch_size=5000,optimizer=adamw,weight_decay=0.01"),
    ],
)
def test_a_trainer_differs_in_data_seeds_and_recipe_only(project, run_script, script, recipe, changes):
    assert difference(RECIPES[recipe], BASELINE) == changes
    result = run_script(script, "--dry-run", cwd=project)
    assert result.returncode == 0, result.stderr
    assert (str(CLIP_NPZ) in result.stdout) == (script != RAW)
    for seed in seeds_of(script):
        assert re.search(rf"\b{seed} +to train +models/{recipe}_seed{seed}\n", result.stdout)
    assert not (project / "models").exists()
    lines = (REPO / script).read_text().splitlines()
    assert 20 <= len(lines) <= 40


def test_two_members_end_with_all_files_and_a_table(project, capsys):
    train(CLIP, "--seeds", 8, 26, 8)
    printed = capsys.readouterr().out
    test = open_test_captions("data/test/test.clean.npz")
    scores = []
    for seed in (8, 26):
        run_dir = project / f"models/ensemble_clip_seed{seed}"
        assert {"run.json", "history.csv", "curves.png", BEST_MRR, "submission.csv"} <= files_of(run_dir).keys()
        record = record_of(run_dir)
        assert (record["status"], record["recipe"]["seed"]) == ("finished", seed)
        # The MRR that counts is on the captions that no filter made easier.
        assert record["data"]["val_npz"] == "data/train/train.npz"
        assert {"mrr", "own_validation"} <= record["results"].keys()
        assert (read_submission(run_dir / "submission.csv").caption_ids == test.caption_ids).all()
        scores.append(record["results"]["mrr"])
        assert f"{scores[-1]:.4f}" in printed
    assert f"validation MRR: {np.mean(scores):.4f} ± {np.std(scores):.4f}" in printed
    assert len(list((project / "models").iterdir())) == 2


def test_by_another_recipe_a_member_keeps_the_name_by_which_it_is_combined(project):
    (project / "best_recipe.json").write_text('{"name": "hpsearch", "tau": 0.02}')
    train(RAW, "--seeds", 1, "--recipe", "best_recipe.json")
    recipe = record_of(project / "models/ensemble_raw_seed1")["recipe"]
    assert (recipe["name"], recipe["tau"], recipe["seed"]) == ("ensemble_raw", 0.02, 1)


def test_the_data_are_opened_once(project, monkeypatch):
    opened = []
    monkeypatch.setattr(training_data, "open_pairs", lambda path: opened.append(path) or open_pairs(path))
    train(RAW, "--seeds", 1, 2)
    assert len(opened) == 1


def test_a_finished_member_is_left_as_it_is_and_a_new_one_joins(project):
    train(RAW, "--seeds", 1)
    before = files_of(project / "models/ensemble_raw_seed1")
    train(RAW, "--seeds", 1, 2)
    assert files_of(project / "models/ensemble_raw_seed1") == before
    assert record_of(project / "models/ensemble_raw_seed2")["status"] == "finished"


def test_a_member_without_its_submission_predicts_again_and_does_not_train(project, monkeypatch, capsys):
    train(RAW, "--seeds", 1)
    run_dir = project / "models/ensemble_raw_seed1"
    before = files_of(run_dir)
    (run_dir / "submission.csv").unlink()
    train(RAW, "--seeds", 1, "--dry-run")
    assert "to predict" in capsys.readouterr().out
    monkeypatch.setattr(ensemble_training, "train_run", None)
    train(RAW, "--seeds", 1)
    assert files_of(run_dir) == before


def test_an_interrupted_member_continues_as_if_it_had_never_stopped(project, monkeypatch, capsys):
    measure, calls = training.OnDevice.measure, []

    def interrupt_in_epoch_3(self, translator):
        calls.append(translator)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measure(self, translator)

    long = ("--seeds", 1, "--epochs", 4)
    train(RAW, *long, "--models-dir", "straight")
    with monkeypatch.context() as patch:
        patch.setattr(training, "SECONDS_BETWEEN_CHECKPOINTS", 0)
        patch.setattr(training.time, "monotonic", iter(range(10**9)).__next__)
        patch.setattr(training.OnDevice, "measure", interrupt_in_epoch_3)
        with pytest.raises(KeyboardInterrupt):
            train(RAW, *long)
    run_dir = project / "models/ensemble_raw_seed1"
    assert (run_dir / LAST).exists()
    capsys.readouterr()
    train(RAW, *long, "--dry-run")
    assert "to resume" in capsys.readouterr().out
    train(RAW, *long)
    histories = [
        pd.read_csv(folder / "history.csv").drop(columns=TIMING)
        for folder in (run_dir, project / "straight/ensemble_raw_seed1")
    ]
    pd.testing.assert_frame_equal(*histories, check_exact=True)


def test_one_that_diverges_does_not_stop_the_others(project, monkeypatch, capsys):
    train_run = ensemble_training.train_run

    def diverge_for_seed_2(recipe, *args, **options):
        if recipe.seed == 2:
            raise InputError("training diverged in epoch 1")
        return train_run(recipe, *args, **options)

    monkeypatch.setattr(ensemble_training, "train_run", diverge_for_seed_2)
    with pytest.raises(InputError, match="1 of 3 members failed: seed 2: training diverged in epoch 1"):
        train(RAW, "--seeds", 1, 2, 3)
    assert record_of(project / "models/ensemble_raw_seed3")["status"] == "finished"
    assert "failed" in capsys.readouterr().out


def test_all_that_diverge_end_in_one_line_and_train_anew_the_next_time(project, run_script):
    diverging = (RAW, *QUICK, "--seeds", "1", "2", "--lr", "1e30")
    assert_input_error(run_script(*diverging, cwd=project), "2 of 2 members failed", "seed 1", "seed 2", "--lr")
    assert record_of(project / "models/ensemble_raw_seed1")["status"] == "failed"
    result = run_script(*diverging, "--dry-run", cwd=project)
    assert result.stdout.count("to train") == 2


def test_a_folder_with_another_run_is_refused_before_anything_is_trained(project):
    train(RAW, "--seeds", 2)
    with pytest.raises(InputError, match=r"ensemble_raw_seed2: holds a run with another lr"):
        train(RAW, "--seeds", 1, 2, "--lr", "1e-3")
    assert not (project / "models/ensemble_raw_seed1").exists()


def test_members_with_a_common_split_validate_on_the_same_images(project):
    train(RAW, "--seeds", 1, 2, "--split-seed", 0)
    train(CLIP, "--seeds", 1, "--split-seed", 0)
    names = ("ensemble_raw_seed1", "ensemble_raw_seed2", "ensemble_clip_seed1")
    records = [record_of(project / "models" / name) for name in names]
    assert len({(record["data"]["val_captions"], record["data"]["val_images"]) for record in records}) == 1
    assert {record["recipe"]["split_seed"] for record in records} == {0}


@pytest.mark.parametrize("script", [CLIP, ADAMW])
def test_without_filtered_pairs_it_says_how_to_make_them(project, run_script, script):
    (project / CLIP_NPZ).unlink()
    assert_input_error(run_script(script, cwd=project), str(CLIP_NPZ), "python -m src.clip_filter_pairs")
    assert not (project / "models").exists()


def test_help_shows_seeds_and_recipe(run_script):
    text = run_script(ADAMW, "--help").stdout
    for flag in ("--seeds", "--dry-run", "--split-seed", "--models-dir", "--device", "--weight-decay"):
        assert flag in text
    assert "--seed SEED" not in text
    assert "(default: 5000)" in " ".join(text.split())
