#!/usr/bin/env python
"""Train the ensemble members of the CLIP-filtered pairs with AdamW and batches of 5,000 captions.

    python -m src.clip_filter_pairs                                               # makes the filtered pairs
    python train_mrr_Ensemble_new_dataset_CLIP_AdamW_5_batches.py                 # all seeds; again: those not finished
    torchrun --nproc-per-node=4 train_mrr_Ensemble_new_dataset_CLIP_AdamW_5_batches.py  # on four GPUs, by seeds
    python train_mrr_Ensemble_new_dataset_CLIP_AdamW_5_batches.py --dry-run       # what would be trained, what exists
    python train_mrr_Ensemble_new_dataset_CLIP_AdamW_5_batches.py --seeds 42 322  # these only

Weight decay is 0.01. They validate on the unfiltered captions of their validation images; the MRR on the filtered
ones stands beside it. Each member goes to models/ensemble_clip_adamw_seed<seed>/ with its submission.csv.
"""

from dataclasses import replace
from pathlib import Path

from src.common.endings import run_main
from src.common.paths import CLIP_NPZ
from src.ensemble_scripts import train_members
from src.ensembles.members import Ensemble
from src.training.recipe import BASELINE

ENSEMBLE = Ensemble(
    script=Path(__file__).name,
    dataset="CLIP-filtered",
    train_npz=CLIP_NPZ,  # without the tenth of the captions that fit their image least
    recipe=replace(
        BASELINE,
        name="ensemble_clip_adamw",
        epochs=300,  # at most, as for the other ensembles
        batch_size=5000,  # more images in a step to tell the right one from
        optimizer="adamw",  # decays the weights themselves, whatever their gradients
        weight_decay=1e-2,  # AdamW's default in torch; Adam trains the other ensembles without any
    ),
    reference_mrr={  # seed: the validation MRR to be reproduced
        42: 0.594952,
        322: 0.595863,
        323: 0.586454,
        10000: 0.593430,
        100001: 0.593381,
        100002: 0.593694,
    },
)


def main(argv: list[str] | None = None) -> None:
    train_members(argv, __doc__, ENSEMBLE)


if __name__ == "__main__":
    run_main(main, several=True)
