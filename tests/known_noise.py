"""How well a filter finds the sample's swapped captions, which data/train/sample_noise.csv tells.

python -m tests.known_noise data/filtered/train_clip_q0.10_from_raw.keep.npz
"""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from src.common.cli import Parser
from src.common.endings import run_main
from src.common.files import InputError, require_file
from src.data.keep_lists import KeepList, open_keep_list

NOISE_CSV = Path("data/train/sample_noise.csv")


def read_swapped(noise_csv: Path, caption_ids: np.ndarray) -> np.ndarray:
    """Which captions are swapped, (N,) bool. Raises InputError if the file is of other captions than these (N,)."""
    noise = pd.read_csv(require_file(noise_csv))
    if not np.array_equal(noise.caption_id, caption_ids):
        raise InputError(f"{noise_csv}: is of other captions")
    return noise.swapped.to_numpy(bool)


def swaps_found(keep_list: KeepList, noise_csv: Path) -> dict[str, float]:
    """The share of the swapped captions that are dropped, of the dropped ones that are swapped, and the area under
    the ROC curve: the chance that a swapped caption scores worse than another one."""
    swapped, dropped = read_swapped(noise_csv, keep_list.caption_ids), ~keep_list.keep
    ranks = rankdata(-keep_list.scores if keep_list.provenance["higher_is_better"] else keep_list.scores)
    n, others = swapped.sum(), (~swapped).sum()
    return {
        "recall": float(dropped[swapped].mean()),
        "precision": float(swapped[dropped].mean()),
        "roc_auc": float((ranks[swapped].sum() - n * (n + 1) / 2) / (n * others)),
    }


def main(argv: list[str] | None = None) -> None:
    parser = Parser(__doc__, prog="python -m tests.known_noise")
    parser.add_argument("keep_list", type=Path, help="what a filter wrote beside its output")
    parser.add_argument("--noise-csv", type=Path, default=NOISE_CSV, help="which captions are swapped")
    args = parser.parse_args(argv)
    keep_list = open_keep_list(args.keep_list)
    found = swaps_found(keep_list, args.noise_csv)
    print(
        f"dropped {(~keep_list.keep).sum():,} of {len(keep_list.keep):,} captions: {found['recall']:.1%} of the "
        f"swapped ones; {found['precision']:.1%} of the dropped are swapped; ROC AUC {found['roc_auc']:.4f}"
    )


if __name__ == "__main__":
    run_main(main)
