"""Out of fold: each caption is ranked by a model that never saw its image, and a stopped run continues."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from src.common.files import InputError
from src.data.pairs import fingerprint, open_pairs
from src.data.splits import image_folds
from src.ensembles.held_out import finished_runs
from src.filters import out_of_fold
from src.filters.out_of_fold import FOLD_RECIPE, fold_dir, rank_out_of_fold
from src.training.metrics import retrieval_ranks
from src.training.model import load_translator, translate
from src.training.runs import BEST_MRR, LAST

RECIPE = replace(FOLD_RECIPE, hidden_dim=16, epochs=3, seed=5)


@pytest.fixture(scope="module")
def pairs(sample):
    return open_pairs(sample / "train/train.npz")


def rank(pairs, folder, folds=3, recipe=RECIPE):
    options = {"device": torch.device("cpu"), "precision": "float32"}
    return rank_out_of_fold(pairs, folds, recipe, folder, fingerprint(pairs.source), **options)


class Recorder:
    """Stands in for `train_run`: trains, and keeps what was trained. The training `stop_in` ends after two epochs."""

    def __init__(self, monkeypatch, stop_in: int | None = None):
        self.data, self.resumed, self.stop_in = [], [], stop_in
        self.train_run = out_of_fold.train_run
        monkeypatch.setattr(out_of_fold, "train_run", self)

    def __call__(self, recipe, data, run_dir, *, resume, **options):
        self.data.append(data)
        self.resumed.append(resume)
        stops = len(self.data) == self.stop_in

        def on_epoch(row):
            if stops and row["epoch"] == 2:
                raise KeyboardInterrupt

        return self.train_run(recipe, data, run_dir, resume=resume, on_epoch=on_epoch, **options)


@pytest.fixture(scope="module")
def whole(pairs, tmp_path_factory):
    """One run of three folds: its folder, its table, and the data of each training."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        recorder = Recorder(patch)
        table, records = rank(pairs, folder)
    assert [record["status"] for record in records] == ["finished"] * 3
    return folder, table, recorder.data


def test_each_caption_is_ranked_by_the_model_that_did_not_see_its_image(pairs, whole):
    folder, table, trained_on = whole
    fold_of_image = image_folds(pairs.image_names, 3, 5)
    assert table.caption_id.tolist() == pairs.caption_ids.tolist()
    for fold, data in enumerate(trained_on):
        unseen = fold_of_image == fold
        assert set(data.pairs.image_names) == set(pairs.image_names[~unseen])
        captions = unseen[pairs.image_of_caption]
        translator = load_translator(folder / f"fold{fold + 1}" / BEST_MRR)
        prediction = translate(translator, torch.from_numpy(pairs.text_embeddings[captions]))
        own = torch.from_numpy(pairs.image_of_caption[captions]).long()
        ranks = retrieval_ranks(prediction, torch.from_numpy(pairs.image_embeddings), own)
        np.testing.assert_array_equal(table["rank"][captions], ranks)


def test_a_run_that_was_stopped_continues_to_the_same_ranks(pairs, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        Recorder(patch, stop_in=2)
        with pytest.raises(KeyboardInterrupt):
            rank(pairs, tmp_path)
    assert (tmp_path / "fold2" / LAST).exists()
    recorder = Recorder(monkeypatch)
    table, records = rank(pairs, tmp_path)
    assert recorder.resumed == [True, False], "the first fold is done, the second goes on, the third starts"
    assert len(records) == 3
    pd.testing.assert_frame_equal(table, whole[1], check_exact=True)


def test_a_finished_run_trains_nothing_again(pairs, whole, monkeypatch):
    recorder = Recorder(monkeypatch)
    table, _ = rank(pairs, whole[0])
    assert recorder.data == []
    pd.testing.assert_frame_equal(table, whole[1], check_exact=True)


def test_other_recipes_seeds_folds_and_pairs_have_folders_of_their_own(tmp_path):
    names = {
        fold_dir(tmp_path, recipe, folds, source).name
        for recipe in (RECIPE, replace(RECIPE, seed=6), replace(RECIPE, tau=0.1))
        for folds in (3, 4)
        for source in ("0123", "4567")
    }
    assert len(names) == 12
    assert "0123_folds3_hidden_dim=16,epochs=3_seed5" in names


def test_a_fold_cannot_pass_for_a_model_of_the_whole_file(pairs, whole):
    for fold in finished_runs([whole[0]]):
        with pytest.raises(InputError, match="what it trained on is not known"):
            fold.held_out(pairs)


@pytest.mark.parametrize("folds", [1, 93])
def test_a_number_of_folds_that_makes_no_sense_is_refused(pairs, tmp_path, folds):
    with pytest.raises(InputError, match=f"{folds} folds"):
        rank(pairs, tmp_path, folds=folds)
