"""Ranks by models that never saw a caption's image: K short trainings, each without one fold of the images.

A model has seen the pairs that it was trained on, wrong ones too, so their ranks flatter them. Northcutt, Jiang and
Chuang ("Confident Learning: Estimating Uncertainty in Dataset Labels", 2021) therefore ask for predictions out of
sample. The gallery is all images here too, so that a rank means the same in both ways; the images that a model was
trained on are among them, and can only make a held-out image's rank worse.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from src.data.pairs import Pairs
from src.data.splits import image_folds
from src.filters.caption_ranks import rank_captions
from src.training.inputs import TrainingData
from src.training.job import check_run_dir, train_run
from src.training.model import load_translator
from src.training.recipe import COMPACT, Recipe, difference
from src.training.runs import BEST_MRR, LAST, read_run

# K times a model that is soon trained and learns little by heart.
FOLD_RECIPE = replace(COMPACT, name="topk_fold")


def fold_dir(folder: Path, recipe: Recipe, folds: int, input_fingerprint: str) -> Path:
    """Where the models of these folds lie: a folder of its own for every recipe, seed, number of folds and input."""
    changes = difference(recipe, FOLD_RECIPE)
    return folder / "_".join(filter(None, (input_fingerprint, f"folds{folds}", changes, f"seed{recipe.seed}")))


def rank_out_of_fold(
    pairs: Pairs,
    folds: int,
    recipe: Recipe,
    folder: Path,
    input_fingerprint: str,
    *,
    device: torch.device,
    precision: str,
) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Train `folds` models in `folder` and rank every caption by the one that never saw its image.

    Folds that are trained already are used, an interrupted one is continued. Each model stops by the validation
    images of its own part. Returns the table of `rank_captions` and the record of each fold's run. Raises InputError
    as `image_folds` and `train_run` do.
    """
    fold_of_image = image_folds(pairs.image_names, folds, recipe.seed)
    tables, records = [], []
    for fold in range(folds):
        label = f"fold {fold + 1} of {folds}"
        seen = pairs.select_images(fold_of_image != fold)
        # No model of the whole file: whoever asks which of its images this run held out must not be told a part.
        origin = {"train_npz": str(pairs.source), "train_fingerprint": f"{input_fingerprint} without {label}"}
        sizes = {"train_captions": len(seen), "train_images": seen.num_images}
        data = TrainingData(pairs=seen, validation=None, test=None, tag=label, record=origin | sizes)
        run_dir = folder / f"fold{fold + 1}"
        status = check_run_dir(run_dir, recipe, data)
        if status != "finished":
            resume = status == "running" and (run_dir / LAST).exists()
            train_run(recipe, data, run_dir, device=device, precision=precision, resume=resume, bar={"desc": label})
        records.append(read_run(run_dir))
        translator = load_translator(run_dir / BEST_MRR, device)
        captions = np.flatnonzero(fold_of_image[pairs.image_of_caption] == fold)
        with tqdm(total=len(captions), desc=f"ranking {label}", unit="caption") as progress:
            tables.append(rank_captions(translator, pairs, captions, device, progress.update))
    return pd.concat(tables).sort_index(), records
