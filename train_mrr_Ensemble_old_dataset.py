#!/usr/bin/env python
"""Train the ensemble members of the unfiltered pairs, data/train/train.npz: one translator a seed, up to 300 epochs.

    python train_mrr_Ensemble_old_dataset.py                       # all seeds; again: those not finished yet
    torchrun --nproc-per-node=4 train_mrr_Ensemble_old_dataset.py  # on four GPUs, by seeds
    python train_mrr_Ensemble_old_dataset.py --dry-run             # what would be trained, and what exists
    python train_mrr_Ensemble_old_dataset.py --seeds 42 1337       # these only
    python train_mrr_Ensemble_old_dataset.py --split-seed 0 --models-dir models/common_split    # to be measured as one

Each member goes to models/ensemble_raw_seed<seed>/ with its submission.csv.
"""

from dataclasses import replace
from pathlib import Path

from src.common.endings import run_main
from src.common.paths import TRAIN_NPZ
from src.ensemble_scripts import train_members
from src.ensembles.members import Ensemble
from src.training.recipe import BASELINE

ENSEMBLE = Ensemble(
    script=Path(__file__).name,
    dataset="raw",
    train_npz=TRAIN_NPZ,
    recipe=replace(
        BASELINE,
        name="ensemble_raw",
        epochs=300,  # at most: the baseline's patience ends most runs long before
    ),
    reference_mrr={  # seed: the validation MRR to be reproduced, None where none was recorded
        42: None,
        1337: None,
        2025: 0.568535,
        31415: 0.578568,
        123456: 0.554589,
        7: 0.567784,
        111: 0.567888,
        7777: 0.567649,
        271828: 0.571855,
        98765: 0.573338,
        4: 0.567313,
    },
)


def main(argv: list[str] | None = None) -> None:
    train_members(argv, __doc__, ENSEMBLE)


if __name__ == "__main__":
    run_main(main, several=True)
