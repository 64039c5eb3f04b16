"""How good single runs and means of them are on captions that they did not train on.

A run's best epoch was chosen on its validation captions, and the best run is chosen here: both flatter single runs a
little, so the gain from averaging is not overstated.

Shapes: n captions of the part that is measured, V image width, R runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.stats import bootstrap
from torch import Tensor
from torch.nn import functional as F

from src.common.files import InputError
from src.common.progress import Progress
from src.ensembles.expansion import expand_queries
from src.ensembles.held_out import Run
from src.training.inputs import Part
from src.training.metrics import challenge_protocol, reciprocal_ranks, retrieval_ranks

PER_CAPTION = ("MRR", "R@1", "R@5", "R@10")


class Difference(NamedTuple):
    """A difference and its 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


@dataclass(frozen=True, eq=False)
class Measured:
    """How good a run is, or a mean of runs, of which `count` predict a caption, as "3" or "1-3".

    per_caption (n, 4) float64: PER_CAPTION of each caption of `part`, NaN where it is not predicted.
    """

    label: str
    count: str
    part: Part
    per_caption: np.ndarray
    challenge_mrr: float = np.nan

    @classmethod
    def of(cls, prediction: Tensor, predicted_n: Tensor, part: Part, *, label: str, count: str) -> "Measured":
        """Measure predictions, a row for each caption of the mask `predicted_n`. Raises NonFiniteError."""
        some = replace(part, captions=part.captions[predicted_n])  # the gallery stays that of the part
        ranks = retrieval_ranks(prediction, some.gallery_mV, some.target_n)
        challenge = challenge_protocol(prediction, some.gallery_mV, some.target_n)
        columns = [reciprocal_ranks(ranks), *(ranks <= k for k in (1, 5, 10))]
        per_caption = np.full((len(part), len(PER_CAPTION)), np.nan)
        per_caption[predicted_n.cpu().numpy()] = np.stack(columns, axis=1)
        return cls(label, count, part, per_caption, challenge["challenge_mrr"])

    def expanded(self, prediction_nV: Tensor, neighbours: int) -> "Measured":
        """The same with its predictions, of all captions of the part, expanded by `neighbours` of each other."""
        everything = torch.ones_like(self.part.captions, dtype=torch.bool)
        expanded_nV, label = expand_queries(prediction_nV, neighbours), f"{self.label}, expanded by {neighbours}"
        return self.of(expanded_nV, everything, self.part, label=label, count=self.count)

    @property
    def mrr(self) -> float:
        return float(np.nanmean(self.per_caption[:, 0]))

    @property
    def partial(self) -> bool:
        """Whether some captions of the part are not predicted."""
        return bool(np.isnan(self.per_caption).any())

    def over(self, other: "Measured") -> Difference:
        """MRR − MRR of `other`, on the captions that both predict."""
        return paired_difference(self.per_caption[:, 0], other.per_caption[:, 0], self.part.target_n.cpu().numpy())


def paired_difference(ours_n: np.ndarray, theirs_n: np.ndarray, image_n: np.ndarray) -> Difference:
    """Mean of ours − theirs over the captions that have both, whose images are `image_n`.

    A paired percentile bootstrap (Efron & Tibshirani 1993) over images, because the captions of one are not
    independent. Raises InputError for fewer than two images.
    """
    gain_n = ours_n - theirs_n
    both = np.isfinite(gain_n)
    images, image = np.unique(image_n[both], return_inverse=True)
    if len(images) < 2:
        raise InputError(f"{len(images)} image to measure on: a difference has an interval from two images on")
    gain, count = np.bincount(image, weights=gain_n[both]), np.bincount(image)
    interval = bootstrap(
        (gain, count),
        lambda gain, count, axis: gain.sum(axis=axis) / count.sum(axis=axis),
        paired=True,
        batch=1000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Difference(gain.sum() / count.sum(), *interval)


def measure_runs(
    runs: Sequence[Run], part: Part, unseen_Rn: Tensor, prefix: str = "", neighbours: int = 0
) -> tuple[list[Measured], list[Measured], list[Measured]]:
    """Measure single runs and means of them, every caption predicted by the runs that `unseen_captions` gives it.

    Returns the single runs; if there are two or more, a single run on average and the three means that `combine` makes;
    and, with `neighbours`, the best single run and these means, expanded among the captions of the part. Holds four
    (n, V) float32 arrays, however many runs there are, and five more to expand. Raises NonFiniteError, and InputError
    for what cannot be expanded.
    """
    if neighbours and not unseen_Rn.all():
        raise InputError(
            "--expand: runs with splits of their own cannot tell what it brings, for captions of one image are "
            "predicted by the same few runs, which alone brings them near each other; train all with one --split-seed"
        )
    singles = []
    # No measure depends on a prediction's length, so that sums do for means.
    labels = "mean", "MRR-weighted mean", "normalised mean"
    totals = {label: torch.zeros(len(part), part.of.image_MV.shape[1], device=part.of.device) for label in labels}
    for run, unseen_n in zip(Progress(runs, desc="predicting", unit="run"), unseen_Rn, strict=True):
        prediction = run.predict(replace(part, captions=part.captions[unseen_n]))
        singles.append(Measured.of(prediction, unseen_n, part, label=f"{prefix}{run.folder}", count="1"))
        totals["mean"][unseen_n] += prediction
        totals["MRR-weighted mean"][unseen_n] += run.mrr * prediction
        totals["normalised mean"][unseen_n] += F.normalize(prediction, dim=1)
    best = max(range(len(runs)), key=lambda run: singles[run].mrr)
    expanded = [singles[best].expanded(runs[best].predict(part), neighbours)] if neighbours else []
    if len(runs) == 1:
        return singles, [], expanded
    counts = unseen_Rn.sum(dim=0).tolist()
    count = "-".join(map(str, sorted({min(counts), max(counts)})))
    # What to expect of one run: for every caption, the average over those that predict it.
    expected = np.nanmean([single.per_caption for single in singles], axis=0)
    together = [Measured(f"{prefix}single runs, on average", "1", part, expected)]
    everything = torch.ones(len(part), dtype=torch.bool, device=part.of.device)
    for label, total_nV in totals.items():
        together.append(Measured.of(total_nV, everything, part, label=f"{prefix}{label}", count=count))
        if neighbours:
            expanded.append(together[-1].expanded(total_nV, neighbours))
    return singles, together, expanded


def comparison(measured: Sequence[Measured], reference: Measured | None = None) -> pd.DataFrame:
    """A row each, the best first: the measures and the difference from `reference`; without one, how many captions."""
    rows = []
    for each in sorted(measured, key=lambda each: each.mrr, reverse=True):
        measures = dict(zip(PER_CAPTION, np.nanmean(each.per_caption, axis=0), strict=True))
        row = {"n": each.count, "runs": each.label, "MRR": measures["MRR"]}
        if reference:
            row["ΔMRR [95% interval]"] = "reference" if each is reference else str(each.over(reference))
        else:
            row["captions"] = int(np.isfinite(each.per_caption[:, 0]).sum())
        rows.append(row | measures | {"challenge MRR": each.challenge_mrr})
    return pd.DataFrame(rows)
