#!/usr/bin/env python
"""Train the ensemble members of the unfiltered pairs, data/train/train.npz: one translator a seed, up to 300 epochs.

    python train_mrr_Ensemble_old_dataset.py                       # all seeds; again: those not finished yet
    python train_mrr_Ensemble_old_dataset.py --dry-run             # what would be trained, and what exists
    python train_mrr_Ensemble_old_dataset.py --seeds 42 1337       # these only
    python train_mrr_Ensemble_old_dataset.py --split-seed 0 --models-dir models/common_split    # to be measured as one

Each member goes to models/ensemble_raw_seed<seed>/ with its submission.csv.
"""

from pathlib import Path

from src.common.cli import TRAIN_NPZ, run
from src.ensembles.training import train_members
from src.training.recipe import ENSEMBLE_RAW


def main(argv: list[str] | None = None) -> None:
    train_members(argv, Path(__file__), __doc__, ENSEMBLE_RAW, TRAIN_NPZ)


if __name__ == "__main__":
    run(main)
