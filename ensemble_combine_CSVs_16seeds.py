#!/usr/bin/env python
"""Average the submissions of 16 models: 11 of the raw pairs, 3 of the CLIP-filtered, 2 of those with AdamW.

    python ensemble_combine_CSVs_16seeds.py                        # submission_ensemble_mean_16seeds.csv
    python ensemble_combine_CSVs_16seeds.py --weights mrr          # weighted by validation MRR
    python ensemble_combine_CSVs_16seeds.py a.csv b.csv            # these instead

The members' submissions are models/<recipe>_seed<seed>/submission.csv; what is missing is named together with the
command that makes it. The mean is the plain arithmetic one, unless --normalize, --weights or --expand is given.
"""

from pathlib import Path

import train_mrr_Ensemble_new_dataset_CLIP as clip
import train_mrr_Ensemble_new_dataset_CLIP_AdamW_5_batches as clip_adamw
import train_mrr_Ensemble_old_dataset as raw
from src.common.endings import run_main
from src.ensemble_scripts import combine_members

MEMBERS = (
    *raw.ENSEMBLE.members(),
    *clip.ENSEMBLE.members(8, 26, 256),
    *clip_adamw.ENSEMBLE.members(42, 322),
)


def main(argv: list[str] | None = None) -> None:
    combine_members(argv, __doc__, MEMBERS, Path("submission_ensemble_mean_16seeds.csv"))


if __name__ == "__main__":
    run_main(main)
