"""Ranks by models that never saw a caption's image: K short trainings, each without one fold of the images.

Ranks by a model that has seen the pairs, wrong ones too, flatter them: Northcutt, Jiang and Chuang ("Confident
Learning: Estimating Uncertainty in Dataset Labels", 2021) ask for predictions out of sample. The gallery is all images
here too: those that a model was trained on can only make a held-out image's rank worse.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from src.data.splits import image_folds
from src.filters.ranks import rank_captions
from src.training.inputs import TrainingData
from src.training.job import train_unless_finished
from src.training.machine import Machine
from src.training.model import load_translator
from src.training.recipe import Recipe
from src.training.runs import BEST_MRR


def rank_out_of_fold(
    data: TrainingData, folds: int, recipe: Recipe, folder: Path, machine: Machine
) -> tuple[pd.DataFrame, list[float]]:
    """Train `folds` models in `folder` and rank every caption of `data` by the one that never saw its image.

    Folds that are trained already are used, an interrupted one is continued. Returns the table of `rank_captions` and
    each model's MRR on the validation images of its own part. Raises InputError as `image_folds` and `train_run` do.
    """
    pairs = data.train.pairs
    fold_of_image = image_folds(pairs.image_names, folds, recipe.seed)
    tables, mrrs = [], []
    for fold in range(folds):
        label = f"fold {fold + 1} of {folds}"
        seen = data.without(fold_of_image == fold, label)
        run_dir = folder / f"fold{fold + 1}"
        mrrs.append(train_unless_finished(recipe, seen, run_dir, machine=machine, bar={"desc": label}).mrr)
        translator = load_translator(run_dir / BEST_MRR, machine.device)
        captions = np.flatnonzero(fold_of_image[pairs.image_of_caption] == fold)
        tables.append(rank_captions(translator, data.train, captions, f"ranking {label}"))
    return pd.concat(tables).sort_index(), mrrs
