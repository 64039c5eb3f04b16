#!/usr/bin/env python
"""Search for hyperparameters at random on one fixed split; every trial is a row of hpsearch_results.csv as it ends.

    python train_mrr_hpp_tunning_RandSearch.py                     # 100 trials; again: those that are missing
    python train_mrr_hpp_tunning_RandSearch.py --trials 200        # the same search goes on
    python train_mrr_hpp_tunning_RandSearch.py --lr 3e-4 1e-3 --tau 0.02 --models-dir models/small --results small.csv
    python train_mrr_hpp_tunning_RandSearch.py --sampler tpe --pruner none
    python train_mrr.py --recipe models/hpsearch/best_recipe.json  # train the best configuration again

Start it again after an interruption, or several times at once, on one machine or on several with a common --models-dir:
all work on the same search, and no trial is run twice. What is searched is CHOICES in this file. A flag replaces a
field's choices: with one value the field is fixed, with several it is searched, whether CHOICES has it or not.

models/hpsearch/ gets the trials, best_recipe.json, and at the end plots of MRR against each hyperparameter and of
their importance. Only the best --keep trials keep their weights. The best one predicts the submission.
"""

from dataclasses import replace

from src.common.cli import run
from src.search.loop import search
from src.training.recipe import BASELINE

# AdamW without weight decay is Adam, so the baseline's choices are among these.
BASE = replace(BASELINE, name="hpsearch", epochs=50, optimizer="adamw")
CHOICES = {
    "lr": (3e-4, 7e-4, 1e-3),
    "batch_size": (1024, 2048, 3072, 4096),
    "hidden_dim": (1024, 2048, 3072, 4096),
    "regression_weight": (0.0, 0.1),
    "infonce_weight": (0.5, 1.0),
    "infonce_warmup_epochs": (0.0, 1.0, 3.0),
    "tau": (0.005, 0.01, 0.02),
    "dropout": (0.1, 0.3, 0.5),
    "weight_decay": (0.0, 0.01, 0.1),
    "lr_schedule": ("constant", "cosine"),
    "input_noise": (0.0, 0.3, 0.5),
    "negatives": ("batch", "all"),
}


def main(argv: list[str] | None = None) -> None:
    search(argv, __doc__, BASE, CHOICES)


if __name__ == "__main__":
    run(main)
