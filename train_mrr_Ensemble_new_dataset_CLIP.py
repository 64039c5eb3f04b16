#!/usr/bin/env python
"""Train the ensemble members of the CLIP-filtered pairs, data/filtered/train_clip_q0.10_from_raw.npz.

    python -m src.clip_filter_pairs                                # makes the filtered pairs
    python train_mrr_Ensemble_new_dataset_CLIP.py                  # all seeds; again: those not finished yet
    python train_mrr_Ensemble_new_dataset_CLIP.py --dry-run        # what would be trained, and what exists
    python train_mrr_Ensemble_new_dataset_CLIP.py --seeds 8 26     # these only

They train like those of the unfiltered pairs. They validate on the unfiltered captions of their validation images,
data/train/train.npz; the MRR on the filtered ones stands beside it. Each member goes to
models/ensemble_clip_seed<seed>/ with its submission.csv.
"""

from pathlib import Path

from src.common.cli import run
from src.ensembles.training import train_members
from src.inventory import CLIP_NPZ
from src.training.recipe import ENSEMBLE_CLIP


def main(argv: list[str] | None = None) -> None:
    train_members(argv, Path(__file__), __doc__, ENSEMBLE_CLIP, CLIP_NPZ)


if __name__ == "__main__":
    run(main)
