#!/usr/bin/env python
"""Train the ensemble members of the CLIP-filtered pairs with AdamW and batches of 5,000 captions.

    python -m src.clip_filter_pairs                                               # makes the filtered pairs
    python train_mrr_Ensemble_new_dataset_CLIP_AdamW_5_batches.py                 # all seeds; again: those not finished
    python train_mrr_Ensemble_new_dataset_CLIP_AdamW_5_batches.py --dry-run       # what would be trained, what exists
    python train_mrr_Ensemble_new_dataset_CLIP_AdamW_5_batches.py --seeds 42 322  # these only

Weight decay is 0.01. They validate on the unfiltered captions of their validation images, data/train/train.npz; the
MRR on the filtered ones stands beside it. Each member goes to models/ensemble_clip_adamw_seed<seed>/ with its
submission.csv.
"""

from pathlib import Path

from src.common.cli import run
from src.ensembles.training import train_members
from src.inventory import CLIP_NPZ
from src.training.recipe import ENSEMBLE_CLIP_ADAMW


def main(argv: list[str] | None = None) -> None:
    train_members(argv, Path(__file__), __doc__, ENSEMBLE_CLIP_ADAMW, CLIP_NPZ)


if __name__ == "__main__":
    run(main)
