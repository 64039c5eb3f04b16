"""Ranks by models that never saw a caption's image: K short trainings, each without one fold of the images.

Ranks by a model that has seen the pairs, wrong ones too, flatter them: Northcutt, Jiang and Chuang ("Confident
Learning: Estimating Uncertainty in Dataset Labels", 2021) ask for predictions out of sample. The gallery is all images
here too: those that a model was trained on can only make a held-out image's rank worse.
"""

from collections import ChainMap
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
from src.training.world import ALONE, World


def rank_out_of_fold(
    data: TrainingData, folds: int, recipe: Recipe, folder: Path, machine: Machine, world: World = ALONE
) -> tuple[pd.DataFrame, list[float]]:
    """Train `folds` models in `folder` and rank every caption of `data` by the one that never saw its image.

    Folds that are trained already are used, an interrupted one is continued; several processes are dealt them in
    turn. Returns, in every process, the table of `rank_captions` and each model's MRR on the validation images of its
    own part. Raises InputError as `image_folds` and `train_run` do.
    """
    pairs = data.train.pairs
    fold_of_image = image_folds(pairs.image_names, folds, recipe.seed)
    own: dict[int, tuple[pd.DataFrame, float]] = {}
    for fold in world.dealt(folds):
        label = f"fold {fold + 1} of {folds}"
        seen = data.without(fold_of_image == fold, label)
        run_dir = folder / f"fold{fold + 1}"
        results = train_unless_finished(recipe, seen, run_dir, machine=machine, bar={"desc": label})
        translator = load_translator(run_dir / BEST_MRR, machine.device)
        captions = np.flatnonzero(fold_of_image[pairs.image_of_caption] == fold)
        own[fold] = rank_captions(translator, data.train, captions, f"ranking {label}"), results.mrr
    ranked = ChainMap(*world.gathered(own))
    tables, mrrs = zip(*(ranked[fold] for fold in range(folds)), strict=True)
    return pd.concat(tables).sort_index(), list(mrrs)
