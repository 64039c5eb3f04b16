"""Out of fold: each caption is ranked by a model that never saw its image, and a stopped run continues."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from src.common.files import InputError
from src.data.pairs import Pairs
from src.data.splits import image_folds
from src.filters.out_of_fold import rank_out_of_fold
from src.training.inputs import TrainingData
from src.training.job import train_run
from src.training.metrics import retrieval_ranks
from src.training.model import load_translator, translate
from src.training.recipe import STRONG, one_mlp
from src.training.runs import BEST_MRR, LAST, DataRecord, read_run, state_of
from tests.filters.conftest import CPU, MACHINE, make_pairs

RECIPE = replace(one_mlp(STRONG), hidden_dim=8, epochs=3, batch_size=30, seed=5)
FOLDS = 3
PAIRS = make_pairs(captions=120, images=30)
FOLD_OF_IMAGE = image_folds(PAIRS.image_names, FOLDS, RECIPE.seed)
FOLD_OF_CAPTION = FOLD_OF_IMAGE[PAIRS.image_of_caption]


def opened(pairs: Pairs = PAIRS) -> TrainingData:
    return TrainingData.of(pairs, CPU, DataRecord(train_npz="pairs.npz", train_fingerprint="0123"))


def rank(folder: Path, pairs: Pairs = PAIRS, folds: int = FOLDS) -> tuple[pd.DataFrame, list[float]]:
    return rank_out_of_fold(opened(pairs), folds, RECIPE, folder, MACHINE)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, pd.DataFrame]:
    """One run: its folder and its table."""
    folder = tmp_path_factory.mktemp("whole")
    table, mrrs = rank(folder)
    assert mrrs == [read_run(folder / f"fold{fold}").results.mrr for fold in (1, 2, 3)]
    return folder, table


def contents(folder: Path) -> dict[Path, tuple[int, bytes]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_each_caption_is_ranked_among_all_images_by_the_model_of_its_fold(whole):
    folder, table = whole
    assert table.caption_id.tolist() == PAIRS.caption_ids.tolist()
    gallery, own = torch.from_numpy(PAIRS.image_embeddings), torch.from_numpy(PAIRS.image_of_caption).long()
    for fold in range(FOLDS):
        captions = fold == FOLD_OF_CAPTION
        translator = load_translator(folder / f"fold{fold + 1}" / BEST_MRR)
        prediction = translate(translator, torch.from_numpy(PAIRS.text_embeddings[captions]))
        np.testing.assert_array_equal(table["rank"][captions], retrieval_ranks(prediction, gallery, own[captions]))


def test_a_model_does_not_depend_on_the_images_and_captions_of_its_fold(whole, tmp_path):
    noise = np.random.default_rng(1)
    text, images = PAIRS.text_embeddings.copy(), PAIRS.image_embeddings.copy()
    text[FOLD_OF_CAPTION == 1] = noise.standard_normal(text[FOLD_OF_CAPTION == 1].shape)
    images[FOLD_OF_IMAGE == 1] = noise.standard_normal(images[FOLD_OF_IMAGE == 1].shape)
    rank(tmp_path, replace(PAIRS, text_embeddings=text, image_embeddings=images))
    same = [
        (tmp_path / run / BEST_MRR).read_bytes() == (whole[0] / run / BEST_MRR).read_bytes()
        for run in ("fold1", "fold2", "fold3")
    ]
    assert same == [False, True, False]


def test_a_run_that_was_stopped_continues_to_the_same_ranks(whole, tmp_path):
    shutil.copytree(whole[0] / "fold1", tmp_path / "fold1")
    first = contents(tmp_path / "fold1")

    def stop(row):
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    second = opened().without(FOLD_OF_IMAGE == 1, f"fold 2 of {FOLDS}")
    with pytest.raises(KeyboardInterrupt):
        train_run(RECIPE, second, tmp_path / "fold2", machine=MACHINE, on_epoch=stop)
    assert (tmp_path / "fold2" / LAST).exists()
    began = read_history(tmp_path / "fold2")

    table, mrrs = rank(tmp_path)
    pd.testing.assert_frame_equal(table, whole[1], check_exact=True)
    assert len(mrrs) == 3
    assert contents(tmp_path / "fold1") == first, "it was trained already"
    ended = read_history(tmp_path / "fold2")
    assert ended[: len(began)] == began, "the same epochs, their seconds too"
    assert len(ended) == 1 + RECIPE.epochs > len(began) > 1


def read_history(run_dir: Path) -> list[str]:
    return (run_dir / "history.csv").read_text().splitlines()


def test_a_finished_run_trains_nothing_again(whole):
    before = contents(whole[0])
    table, _ = rank(whole[0])
    assert contents(whole[0]) == before
    pd.testing.assert_frame_equal(table, whole[1], check_exact=True)


def test_a_fold_cannot_pass_for_a_model_of_the_whole_file(whole):
    for fold in range(FOLDS):
        run_dir = whole[0] / f"fold{fold + 1}"
        data = read_run(run_dir).data
        assert data.train_fingerprint == f"0123 without fold {fold + 1} of 3"
        assert (data.train_images, data.train_captions) == (20, (fold != FOLD_OF_CAPTION).sum())
        with pytest.raises(InputError, match="another train_fingerprint"):
            state_of(run_dir, RECIPE, opened().record)


@pytest.mark.parametrize("folds", [1, 31])
def test_a_number_of_folds_that_makes_no_sense_is_refused(tmp_path, folds):
    with pytest.raises(InputError, match=f"{folds} folds"):
        rank(tmp_path, folds=folds)
    assert not any(tmp_path.iterdir())
