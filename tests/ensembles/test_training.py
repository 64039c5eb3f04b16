"""The ensemble trainers: what they train, that nothing is done twice, and that one failure does not stop the others."""

import re
import runpy
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import src.training.inputs
import train_mrr_Ensemble_new_dataset_CLIP as clip
import train_mrr_Ensemble_new_dataset_CLIP_AdamW_5_batches as clip_adamw
import train_mrr_Ensemble_old_dataset as raw
from src.common.files import InputError, read_json, write_json
from src.common.paths import CLIP_NPZ, TRAIN_NPZ
from src.data.pairs import open_pairs, open_test_captions, save_test_captions
from src.data.submissions import read_submission
from src.training.inputs import Part
from src.training.recipe import BASELINE, difference
from src.training.runs import BEST_MRR, LAST, read_run
from tests.conftest import REPO
from tests.ensembles.conftest import QUICK, make_test_captions

TIMING = ["seconds", "captions_per_second"]


def train(script, *flags):
    script.main([*QUICK, *map(str, flags)])


def files_of(run_dir):
    return {path.name: path.read_bytes() for path in run_dir.iterdir()}


@pytest.mark.parametrize(
    ("script", "name", "changes", "train_npz"),
    [
        (raw, "ensemble_raw", "epochs=300", TRAIN_NPZ),
        (clip, "ensemble_clip", "epochs=300", CLIP_NPZ),
        (
            clip_adamw,
            "ensemble_clip_adamw",
            "epochs=300,batch_size=5000,optimizer=adamw,weight_decay=0.01",
            CLIP_NPZ,
        ),
    ],
)
def test_a_trainer_differs_in_data_seeds_and_recipe_only(project, capsys, script, name, changes, train_npz):
    ensemble = script.ENSEMBLE
    assert (ensemble.recipe.name, difference(ensemble.recipe, BASELINE)) == (name, changes)
    assert ensemble.train_npz == train_npz
    script.main(["--dry-run"])
    printed = capsys.readouterr().out
    assert str(train_npz) in printed
    for seed in ensemble.reference_mrr:
        assert re.search(rf"\b{seed} +to train +models/{name}_seed{seed}\n", printed)
    assert not (project / "models").exists()


def test_two_members_end_with_all_files_and_a_table(project, capsys):
    train(clip, "--seeds", 8, 26, 8)
    printed = capsys.readouterr().out
    test = open_test_captions("data/test/test.clean.npz")
    scores = []
    for seed in (8, 26):
        run_dir = project / f"models/ensemble_clip_seed{seed}"
        assert {"run.json", "history.csv", "curves.png", BEST_MRR, "submission.csv"} <= files_of(run_dir).keys()
        record = read_run(run_dir)
        assert (record.status, record.recipe.seed) == ("finished", seed)
        # The MRR that counts is on the captions that no filter made easier.
        assert Path(record.data.val_npz) == project / TRAIN_NPZ
        assert f" {record.results.own_measures['mrr']:.4f}\n" in printed
        assert (read_submission(run_dir / "submission.csv").caption_ids == test.caption_ids).all()
        scores.append(record.results.mrr)
        assert f"{scores[-1]:.4f}" in printed
    assert f"validation MRR: {np.mean(scores):.4f} ± {np.std(scores):.4f} (mean ± s.d., n = 2)" in printed
    assert len(list((project / "models").iterdir())) == 2


def test_unfiltered_captions_validate_whatever_was_filtered_however_it_is_called(project, capsys):
    shutil.copy(CLIP_NPZ, "other_fraction.npz")
    for script in (raw, clip):
        for filtered in (CLIP_NPZ, project / CLIP_NPZ, f"./{CLIP_NPZ}", "other_fraction.npz"):
            train(script, "--dry-run", "--train-npz", filtered)
            from_source = f"validation from +{project / TRAIN_NPZ} .*recorded as the source"
            assert re.search(from_source, capsys.readouterr().out), filtered
    train(clip, "--dry-run", "--train-npz", TRAIN_NPZ)
    for itself in (CLIP_NPZ, project / CLIP_NPZ, "own"):
        train(clip, "--dry-run", "--val-npz", itself)
    assert "validation from" not in capsys.readouterr().out


def test_a_source_that_is_gone_is_missed_aloud(project, capsys):
    (project / TRAIN_NPZ).unlink()
    train(clip, "--dry-run")
    assert "train.npz is gone or has changed: validates on filtered captions" in capsys.readouterr().out


def test_by_another_recipe_a_member_keeps_the_name_by_which_it_is_combined(project, capsys):
    (project / "best_recipe.json").write_text('{"name": "hpsearch", "tau": 0.02}')
    train(raw, "--seeds", 1, "--recipe", "best_recipe.json")
    recipe = read_run(project / "models/ensemble_raw_seed1").recipe
    assert (recipe.name, recipe.tau, recipe.seed) == ("ensemble_raw", 0.02, 1)
    assert re.search(r"recipe +best_recipe\.json with hidden_dim=8,epochs=2\n", capsys.readouterr().out)
    with pytest.raises(
        InputError, match="--recipe unknown: expected auto, baseline, strong, linear, kernel or a JSON file"
    ):
        train(raw, "--recipe", "unknown")


def test_what_another_recipe_takes_from_a_script_is_said(project, capsys):
    """By the same recipe two scripts would train the same models without a word."""
    for script, more, said in (
        (clip_adamw, (), "batch_size=5000, weight_decay=0.01, which make this script's models different"),
        (clip_adamw, ("--batch-size", 5000), "without its own    weight_decay=0.01, which"),
        (clip, (), ""),
        (raw, (), ""),
    ):
        train(script, "--recipe", "strong", "--dry-run", *more)
        printed = capsys.readouterr().out
        assert said in printed
        assert ("without its own" in printed) == bool(said)
    train(clip_adamw, "--dry-run")
    assert "without its own" not in capsys.readouterr().out


def test_a_renamed_script_trains_its_seeds(project, capsys):
    shutil.copy(REPO / "train_mrr_Ensemble_old_dataset.py", project / "mine.py")
    mine = runpy.run_path(str(project / "mine.py"))
    assert mine["ENSEMBLE"].script == "mine.py"
    mine["main"](["--dry-run"])
    assert capsys.readouterr().out.count("to train") == len(raw.ENSEMBLE.reference_mrr)


def test_the_data_are_opened_once(project, monkeypatch):
    opened = []
    monkeypatch.setattr(src.training.inputs, "open_pairs", lambda path, **how: opened.append(path) or open_pairs(path))
    train(raw, "--seeds", 1, 2)
    assert len(opened) == 1


def test_a_finished_member_is_left_as_it_is_and_a_new_one_joins(project):
    train(raw, "--seeds", 1)
    before = files_of(project / "models/ensemble_raw_seed1")
    train(raw, "--seeds", 1, 2)
    assert files_of(project / "models/ensemble_raw_seed1") == before
    assert read_run(project / "models/ensemble_raw_seed2").status == "finished"


def test_a_member_without_its_submission_predicts_again_and_does_not_train(project, capsys):
    train(raw, "--seeds", 1)
    run_dir = project / "models/ensemble_raw_seed1"
    before = files_of(run_dir)
    for harm in (Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-9])):
        harm(run_dir / "submission.csv")
        train(raw, "--seeds", 1, "--dry-run")
        assert "to predict" in capsys.readouterr().out
        train(raw, "--seeds", 1)
        assert files_of(run_dir) == before  # the times of the training among it

    save_test_captions(make_test_captions(7), project / "others.npz")
    train(raw, "--seeds", 1, "--test-npz", "others.npz")
    assert len(read_submission(run_dir / "submission.csv").caption_ids) == 7
    assert files_of(run_dir)["history.csv"] == before["history.csv"]


def test_an_interrupted_member_continues_as_if_it_had_never_stopped(project, monkeypatch, capsys):
    measure, calls = Part.measure, []

    def interrupt_in_epoch_3(self, translator):
        calls.append(translator)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measure(self, translator)

    long = ("--seeds", 1, "--epochs", 4)
    train(raw, *long, "--models-dir", "straight")
    with monkeypatch.context() as patch:
        patch.setattr("src.training.checkpoint.SECONDS_BETWEEN_CHECKPOINTS", 0)
        patch.setattr(Part, "measure", interrupt_in_epoch_3)
        with pytest.raises(KeyboardInterrupt):
            train(raw, *long)
    run_dir = project / "models/ensemble_raw_seed1"
    assert (run_dir / LAST).exists()
    capsys.readouterr()
    train(raw, *long, "--dry-run")
    assert "to resume" in capsys.readouterr().out
    train(raw, *long)
    histories = [
        pd.read_csv(folder / "history.csv").drop(columns=TIMING)
        for folder in (run_dir, project / "straight/ensemble_raw_seed1")
    ]
    pd.testing.assert_frame_equal(*histories, check_exact=True)


def test_one_that_fails_does_not_stop_the_others(project, capsys):
    train(raw, "--seeds", 2)
    broken = project / "models/ensemble_raw_seed2"
    write_json(broken / "run.json", read_json(broken / "run.json") | {"status": "running"})
    (broken / LAST).write_bytes(b"half a checkpoint")
    with pytest.raises(InputError, match=r"1 of 3 members failed: seed 2: .*not a checkpoint"):
        train(raw, "--seeds", 1, 2, 3)
    assert read_run(project / "models/ensemble_raw_seed3").status == "finished"
    assert re.search(r" 2 +failed ", capsys.readouterr().out)


def test_all_that_diverge_are_named_and_train_anew_the_next_time(project, capsys):
    diverging = ("--seeds", 1, 2, "--lr", "1e30")
    with pytest.raises(InputError, match=r"2 of 2 members failed: seed 1: .*--lr; seed 2: "):
        train(raw, *diverging)
    assert read_run(project / "models/ensemble_raw_seed1").status == "failed"
    capsys.readouterr()
    train(raw, *diverging, "--dry-run")
    assert capsys.readouterr().out.count("to train") == 2


def test_a_folder_with_another_run_is_refused_before_anything_is_trained(project):
    train(raw, "--seeds", 2)
    with pytest.raises(InputError, match=r"ensemble_raw_seed2: holds a run with another lr"):
        train(raw, "--seeds", 1, 2, "--lr", "1e-3")
    assert not (project / "models/ensemble_raw_seed1").exists()


def test_members_with_a_common_split_validate_on_the_same_images(project):
    train(raw, "--seeds", 1, 2, "--split-seed", 0)
    train(clip, "--seeds", 1, "--split-seed", 0)
    names = ("ensemble_raw_seed1", "ensemble_raw_seed2", "ensemble_clip_seed1")
    records = [read_run(project / "models" / name) for name in names]
    assert len({(record.data.val_captions, record.data.val_images) for record in records}) == 1
    assert {record.recipe.split_seed for record in records} == {0}


@pytest.mark.parametrize("script", [clip, clip_adamw])
def test_without_filtered_pairs_it_says_how_to_make_them(project, script):
    (project / CLIP_NPZ).unlink()
    with pytest.raises(InputError, match=f"{CLIP_NPZ}: no such file; make it with `python -m src.clip_filter_pairs`"):
        script.main([])
    assert not (project / "models").exists()


def test_help_shows_seeds_and_recipe(capsys):
    with pytest.raises(SystemExit):
        clip_adamw.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for flag in ("--seeds", "--dry-run", "--split-seed", "--models-dir", "--device", "--weight-decay"):
        assert flag in text
    assert "--seed SEED" not in text
    assert "(default: 5000)" in text
    assert "(default: the script's own, ensemble_clip_adamw)" in text
