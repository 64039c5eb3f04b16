"""How good the mean of some runs is, on captions that they did not train on; differences with their uncertainty.

    python -m src.ensemble evaluate models/common_split
    python -m src.ensemble evaluate models/common_split --against models/baseline_train_seed43
    python -m src.ensemble evaluate models/ensemble_* --out-of-fold      # members that each held out other images

Runs are given as their folders, or as folders of those. The mean of runs with one common split is measured on the
captions of the images that they held out. Runs with splits of their own have trained on each other's validation
images: --out-of-fold averages, for every caption, only the runs that never saw its image. With 10% held out these
are a tenth of all runs, so the figure is that of a smaller ensemble. The gallery is all images that are measured.

Each run's best epoch was chosen on its validation captions, and the best single run is chosen here: both flatter
single runs a little, so the gain from averaging is not overstated.

Shapes: N captions that are measured, M images of the gallery, V image width, R runs.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import bootstrap
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from src.common.cli import MODELS_DIR, TRAIN_NPZ, add_device_argument, print_settings, resolve_device
from src.common.files import InputError
from src.data.pairs import Pairs, open_pairs
from src.ensembles.held_out import Run, common_images, finished_runs
from src.training.inputs import in_turns
from src.training.metrics import challenge_protocol, reciprocal_ranks, retrieval_ranks

RESAMPLES = 9999
MEASURES = ("MRR", "R@1", "R@5", "R@10")


@dataclass(frozen=True, eq=False)
class Row:
    """What is measured of one run or mean of runs.

    measures (N, 4) float64: each caption's reciprocal rank and whether its image is among the first 1, 5 and 10;
    NaN for a caption that is not predicted.
    """

    label: str
    n: str
    measures: np.ndarray
    challenge_mrr: float = np.nan

    @property
    def mrr(self) -> float:
        return float(np.nanmean(self.measures[:, 0]))


class Measurer:
    """The captions that are measured and their gallery, on the device."""

    def __init__(self, captions: Pairs, device: torch.device) -> None:
        self.captions, self.device = captions, device
        self.gallery_MV = torch.from_numpy(captions.image_embeddings).to(device)
        self.target_N = torch.from_numpy(captions.image_of_caption).to(device).long()

    def row(self, label: str, n: str, prediction_NV: Tensor, predicted_N: np.ndarray) -> Row:
        """Measure the predictions of those captions that the mask `predicted_N` has. Raises NonFiniteError."""
        mask_N = torch.from_numpy(predicted_N).to(self.device)
        prediction, target = prediction_NV[mask_N], self.target_N[mask_N]
        ranks = retrieval_ranks(prediction, self.gallery_MV, target)
        measures = np.full((len(self.captions), len(MEASURES)), np.nan)
        measures[predicted_N] = np.stack([reciprocal_ranks(ranks), *(ranks <= k for k in (1, 5, 10))], axis=1)
        return Row(label, n, measures, challenge_protocol(prediction, self.gallery_MV, target)["challenge_mrr"])

    def difference(self, row: Row, other: Row) -> tuple[float, float, float]:
        """MRR of `row` − MRR of `other` and its 95% interval, on the captions that both predict."""
        return paired_difference(row.measures[:, 0], other.measures[:, 0], self.captions.image_of_caption)


def paired_difference(ours_N: np.ndarray, theirs_N: np.ndarray, image_N: np.ndarray) -> tuple[float, float, float]:
    """Mean of ours − theirs over the captions that have both, and its 95% interval: (difference, low, high).

    A paired percentile bootstrap over images (Efron & Tibshirani 1993): an image is drawn with all of its captions,
    because they are not independent. Raises InputError for fewer than two images.
    """
    gain_N = ours_N - theirs_N
    both = np.isfinite(gain_N)
    images, image = np.unique(image_N[both], return_inverse=True)
    if len(images) < 2:
        raise InputError(f"{len(images)} image to measure on: a difference has an interval from two images on")
    gain, count = np.bincount(image, weights=gain_N[both]), np.bincount(image)
    interval = bootstrap(
        (gain, count),
        lambda gain, count, axis: gain.sum(axis=axis) / count.sum(axis=axis),
        paired=True,
        n_resamples=RESAMPLES,
        batch=1000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(gain.sum() / count.sum()), float(interval.low), float(interval.high)


def measure_runs(runs: Sequence[Run], held_RN: np.ndarray, measurer: Measurer) -> tuple[list[Row], list[Row]]:
    """Measure single runs and means of them, every caption predicted by the runs that `held_RN` says.

    Returns the rows of the single runs; and, if there are two or more, those of a single run on average and of the
    three means that `combine` makes: plain, weighted by recorded MRR, and of unit vectors. Holds four (N, V) float32
    arrays, however many runs there are.
    """
    singles = []
    shape = len(measurer.captions), measurer.captions.image_embeddings.shape[1]
    # Neither measure depends on a prediction's length, so that sums do for means.
    sums = {
        name: torch.zeros(shape, device=measurer.device) for name in ("mean", "MRR-weighted mean", "normalised mean")
    }
    for run, held_N in zip(tqdm(runs, desc="predicting", unit="run"), held_RN, strict=True):
        prediction_NV = torch.zeros(shape, device=measurer.device)
        prediction_NV[torch.from_numpy(held_N).to(measurer.device)] = run.predict(
            measurer.captions.select(held_N), measurer.device
        )
        singles.append(measurer.row(str(run.folder), "1", prediction_NV, held_N))
        sums["mean"] += prediction_NV
        sums["MRR-weighted mean"] += run.record["results"]["mrr"] * prediction_NV
        sums["normalised mean"] += F.normalize(prediction_NV, dim=1)
    if len(runs) == 1:
        return singles, []
    counts = held_RN.sum(axis=0)
    n = "-".join(map(str, sorted({counts.min(), counts.max()})))
    everything = np.ones(len(measurer.captions), np.bool_)
    # What to expect of one run: for every caption, the average over those that predict it.
    average = Row("single runs, on average", "1", np.nanmean([row.measures for row in singles], axis=0))
    return singles, [average, *(measurer.row(label, n, total, everything) for label, total in sums.items())]


def print_rows(rows: Sequence[Row], reference: Row, measurer: Measurer) -> None:
    """Print the table, with differences from `reference` where all captions are predicted."""
    table = pd.DataFrame({"n": [row.n for row in rows], "runs": [row.label for row in rows]})
    for column, name in enumerate(MEASURES):
        table[name] = [np.nanmean(row.measures[:, column]) for row in rows]
    table["challenge MRR"] = [row.challenge_mrr for row in rows]
    table["ΔMRR [95% interval]"] = [_difference_cell(row, reference, measurer) for row in rows]
    print(table.to_string(index=False, na_rep="-", float_format="{:.4f}".format))


def _difference_cell(row: Row, reference: Row, measurer: Measurer) -> str:
    if row is reference:
        return "reference"
    return "-" if np.isnan(row.measures).any() else format_difference(*measurer.difference(row, reference))


def format_difference(difference: float, low: float, high: float) -> str:
    return f"{difference:+.4f} [{low:+.4f}, {high:+.4f}]"


def add_measuring_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `evaluate` and `select` share: the runs, the captions and the device."""
    parser.add_argument(
        "runs", type=Path, nargs="*", default=[MODELS_DIR], help="folders of finished runs, or folders of those"
    )
    parser.add_argument(
        "--on", type=Path, default=TRAIN_NPZ, help="pairs to measure on; unfiltered ones", metavar="NPZ"
    )
    add_device_argument(parser)


def add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    add_measuring_arguments(parser)
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--against",
        type=Path,
        nargs="+",
        metavar="RUNS",
        help="give differences from this run, or from the mean of these, and not from the best single run",
    )
    how.add_argument(
        "--out-of-fold", action="store_true", help="predict every caption by those runs only that never saw its image"
    )


def evaluate_runs(args: argparse.Namespace) -> None:
    """`python -m src.ensemble evaluate`. Raises InputError for runs that trained on what they would be measured on."""
    device = resolve_device(args.device)
    runs, others = finished_runs(args.runs), finished_runs(args.against or [])
    on = open_pairs(args.on)
    if args.out_of_fold:
        held_RM = np.array([run.held_out(on) for run in runs])
        images = held_RM.any(axis=0)
    else:
        images = common_images([*runs, *others], on)
        held_RM = np.ones((len(runs), len(images)), np.bool_)
    captions = in_turns(on.select_images(images))
    held_RN = held_RM[:, images][:, captions.image_of_caption]
    for run, held_N in zip(runs, held_RN, strict=True):
        if not held_N.any():
            raise InputError(f"{run.folder}: trained on all images of {args.on}; leave it out")
    settings = {
        "captions from": args.on,
        "measured": f"{len(captions):,} of {len(on):,} captions",
        "gallery": f"{captions.num_images:,} images, held out by {'any' if args.out_of_fold else 'every'} run",
        "runs a caption": f"{held_RN.sum(axis=0).mean():.1f} on average",
        "device": device,
    }
    print_settings(f"Measuring {len(runs)} runs", settings)
    measurer = Measurer(captions, device)
    singles, together = measure_runs(runs, held_RN, measurer)
    rows = [*singles, *together]
    reference = together[0] if args.out_of_fold and together else max(singles, key=lambda row: row.mrr)
    if others:
        held_RN = np.ones((len(others), len(captions)), np.bool_)
        compared = [row for part in measure_runs(others, held_RN, measurer) for row in part]
        compared = [replace(row, label=f"against: {row.label}") for row in compared]
        reference = compared[len(others) + 1] if len(others) > 1 else compared[0]  # the mean comes after the average
        rows += compared
    print_rows(rows, reference, measurer)
    print(f"Differences are from: {reference.label} (n = {reference.n})")
