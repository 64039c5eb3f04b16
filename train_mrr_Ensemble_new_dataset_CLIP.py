#!/usr/bin/env python
"""Train the ensemble members of the CLIP-filtered pairs, data/filtered/train_clip_q0.10_from_raw.npz.

    python -m src.clip_filter_pairs                                # makes the filtered pairs
    python train_mrr_Ensemble_new_dataset_CLIP.py                  # all seeds; again: those not finished yet
    torchrun --nproc-per-node=4 train_mrr_Ensemble_new_dataset_CLIP.py  # on four GPUs, by seeds
    python train_mrr_Ensemble_new_dataset_CLIP.py --dry-run        # what would be trained, and what exists
    python train_mrr_Ensemble_new_dataset_CLIP.py --seeds 8 26     # these only

They train like those of the unfiltered pairs. They validate on the unfiltered captions of their validation images; the
MRR on the filtered ones stands beside it. Each member goes to models/ensemble_clip_seed<seed>/ with its submission.csv.
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
        name="ensemble_clip",
        epochs=300,  # at most, as for the unfiltered pairs: only the data differ
    ),
    reference_mrr={  # seed: the validation MRR to be reproduced
        8: 0.587656,
        26: 0.593147,
        256: 0.588814,
        4096: 0.598578,
        8888: 0.598682,
        1234: 0.600019,
    },
)


def main(argv: list[str] | None = None) -> None:
    train_members(argv, __doc__, ENSEMBLE)


if __name__ == "__main__":
    run_main(main, several=True)
