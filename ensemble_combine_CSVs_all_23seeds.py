#!/usr/bin/env python
"""Average the submissions of all 23 models: 11 of the raw pairs, 6 of the CLIP-filtered, 6 of those with AdamW.

    python ensemble_combine_CSVs_all_23seeds.py                        # submission_ensemble_mean_23seeds.csv
    python ensemble_combine_CSVs_all_23seeds.py --weights mrr          # weighted by validation MRR
    python ensemble_combine_CSVs_all_23seeds.py a.csv b.csv            # these instead

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
    *clip.ENSEMBLE.members(),
    *clip_adamw.ENSEMBLE.members(),
)


def main(argv: list[str] | None = None) -> None:
    combine_members(argv, __doc__, MEMBERS, Path("submission_ensemble_mean_23seeds.csv"))


if __name__ == "__main__":
    run_main(main)
