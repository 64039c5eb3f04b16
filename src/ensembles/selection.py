"""Which runs to average, and with which weights: forward selection with replacement, on validation predictions.

Caruana, Niculescu-Mizil, Crew & Ksikes 2004, "Ensemble selection from libraries of models": a run that was added k
times of K has the weight k/K.

Weights flatter themselves on the captions that they were fitted to. So the images are halved, and each half is measured
by the weights that the other one chose: figures "out of fold" are of all captions, none by weights that it took part in
choosing. The weights to use are fitted to all. The gallery is all images for both halves.

The length of a mean does not change its ranks, so they are those of the weighted sum of the runs' scores.

Shapes: n captions of the part that is measured, m images of its gallery, V image width, R runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from src.common.figures import BLUE, GREEN, GREY, ORANGE, REFERENCE, finish, new_figure, save_figure
from src.common.progress import Progress
from src.data.splits import image_folds
from src.ensembles.evaluation import Difference, paired_difference
from src.ensembles.held_out import Run
from src.training.inputs import Part
from src.training.metrics import mrr, ranks_of, reciprocal_ranks, score_chunks

ADDITIONS_A_RUN, MOST_ADDITIONS = 3, 40
CHOOSING, OUT_OF_FOLD = "MRR, on the captions that chose", "MRR, out of fold"

Weights = list[int]  # one for each run; those of weight 0 are not averaged


@dataclass(frozen=True, eq=False)
class RunScores:
    """How R runs score the gallery for some captions, each (n, m), and the images that are right, target_n (n,)."""

    of_runs: list[Tensor]
    target_n: Tensor

    def some(self, captions: slice) -> "RunScores":
        return RunScores([score_nm[captions] for score_nm in self.of_runs], self.target_n[captions])

    def reciprocal(self, weights: Weights) -> np.ndarray:
        """The reciprocal ranks by the weighted mean, (n,) float64."""
        total_nm = torch.zeros_like(self.of_runs[0])
        for weight, score_nm in zip(weights, self.of_runs, strict=True):
            total_nm.add_(score_nm, alpha=weight)
        return reciprocal_ranks(ranks_of(total_nm, self.target_n)).numpy()

    def alone(self) -> np.ndarray:
        """The reciprocal ranks by each run, (R, n) float64."""
        return np.stack([self.reciprocal(only) for only in np.eye(len(self.of_runs), dtype=int).tolist()])


@dataclass(frozen=True)
class Additions:
    """The order in which forward selection adds the runs, of which there are `runs`, and the MRR of the mean after
    each."""

    order: list[int]
    mrrs: list[float]
    runs: int

    @property
    def best(self) -> int:
        """How many additions lead to the highest MRR."""
        return int(np.argmax(self.mrrs)) + 1

    def weights(self, count: int | None = None) -> Weights:
        """How often each run is among the first `count`; among the best."""
        return np.bincount(self.order[: count or self.best], minlength=self.runs).tolist()


@dataclass(frozen=True, eq=False)
class Selection:
    """weights: those to use, fitted or equal ones. mrr: theirs out of fold; alone: that of each run; mean_of_all: of
    all with equal weights; over_best: its difference from the best
    single run; gain: of the fitted over equal weights, out of fold. table: what each run adds, those of the largest
    weights first; curve: a row for each addition, of which `best` lead to the fitted weights; its low and high are the
    95% interval of how much is gained over the best single run, drawn from that run's MRR."""

    weights: Weights
    mrr: float
    alone: list[float]
    mean_of_all: float
    over_best: Difference
    gain: Difference
    table: pd.DataFrame
    curve: pd.DataFrame
    best: int


def select(
    runs: Sequence[Run], part: Part, *, normalize: bool = False, members: int | None = None, seed: int = 0
) -> Selection:
    """Fit weights for the mean of the runs' predictions or, with `normalize`, of their unit vectors. At most `members`
    of the runs get one. The seed is of the halving.

    If fitted weights are not better, out of fold, than equal ones of all runs (of the `members` that are best alone),
    these are to be used. Holds R scores (n, m) float32: 125 MB a run for 12,500 captions of 2,500 images. Raises
    NonFiniteError, and InputError for fewer than two images.
    """
    members = min(members or len(runs), len(runs))
    first_n = first_half(part, seed)
    part = replace(part, captions=torch.cat([part.captions[first_n], part.captions[~first_n]]))
    whole = RunScores(
        [score(run, part, normalize) for run in Progress(runs, desc="predicting", unit="run")], part.target_n
    )
    middle, image_n = int(first_n.sum()), part.target_n.cpu().numpy()
    halves = whole.some(slice(middle)), whole.some(slice(middle, None))

    def out_of_fold(first: Weights, second: Weights) -> np.ndarray:
        """Each half by the weights of the other."""
        return np.concatenate([halves[0].reciprocal(second), halves[1].reciprocal(first)])

    added, *by_half = [forward_selection(each, members) for each in (whole, *halves)]
    equal, *equal_by_half = [equal_weights(each, members) for each in (whole, *halves)]
    fitted_n, equal_n = out_of_fold(*(each.weights() for each in by_half)), out_of_fold(*equal_by_half)
    gain = paired_difference(fitted_n, equal_n, image_n)
    weights, to_believe_n = (added.weights(), fitted_n) if gain.value > 0 else (equal, equal_n)

    alone_Rn, mean_n = whole.alone(), whole.reciprocal(weights)
    best_n, rows = alone_Rn[alone_Rn.mean(axis=1).argmax()], []
    for number, run in enumerate(runs):
        rest = [weight if other != number else 0 for other, weight in enumerate(weights)]
        row = {"weight": weights[number], "run": str(run.folder), "MRR alone": alone_Rn[number].mean()}
        if weights[number] and any(rest):
            row["MRR lost without it [95% interval]"] = str(paired_difference(mean_n, whole.reciprocal(rest), image_n))
        rows.append(row)
    counts = range(1, len(added.order) + 1)
    by_count_n = [out_of_fold(*(each.weights(count) for each in by_half)) for count in counts]
    over_best = [paired_difference(each_n, best_n, image_n) for each_n in by_count_n]
    return Selection(
        weights=weights,
        mrr=float(to_believe_n.mean()),
        alone=alone_Rn.mean(axis=1).tolist(),
        mean_of_all=float(whole.reciprocal([1] * len(runs)).mean()),
        over_best=paired_difference(to_believe_n, best_n, image_n),
        gain=gain,
        table=pd.DataFrame(rows).sort_values(["weight", "MRR alone"], ascending=False, kind="stable"),
        curve=pd.DataFrame(
            {
                "additions": counts,
                CHOOSING: added.mrrs,
                OUT_OF_FOLD: [each_n.mean() for each_n in by_count_n],
                "low": [best_n.mean() + over.low for over in over_best],
                "high": [best_n.mean() + over.high for over in over_best],
            }
        ),
        best=added.best,
    )


def first_half(part: Part, seed: int) -> Tensor:
    """The captions of one half of the images, drawn by their names and the seed, (n,) bool."""
    names = part.of.pairs.image_names[part.images.cpu().numpy()]
    return torch.from_numpy(image_folds(names, 2, seed) == 0).to(part.of.device)[part.target_n]


def score(run: Run, part: Part, normalize: bool) -> Tensor:
    """How well each image of the gallery, of unit length, fits a run's predictions, (n, m). Raises NonFiniteError."""
    prediction_nV = run.predict(part)
    cosine_nm = torch.cat([chunk for chunk, _ in score_chunks(prediction_nV, part.gallery_mV, part.target_n)])
    return cosine_nm if normalize else cosine_nm.mul_(prediction_nV.norm(dim=1, keepdim=True))


def forward_selection(scores: RunScores, members: int) -> Additions:
    """Start with the best run and add, again and again, the one that raises the MRR of the mean most: of equal ones the
    first, and once `members` are in, one of these."""
    order: list[int] = []
    mrrs: list[float] = []
    runs, total_nm = len(scores.of_runs), torch.zeros_like(scores.of_runs[0])
    for _ in Progress(range(min(ADDITIONS_A_RUN * runs, MOST_ADDITIONS)), desc="weighing", unit="addition"):
        candidates = range(runs) if len(set(order)) < members else sorted(set(order))
        found = {run: mrr(ranks_of(total_nm + scores.of_runs[run], scores.target_n)) for run in candidates}
        order.append(max(found, key=found.__getitem__))
        mrrs.append(found[order[-1]])
        total_nm += scores.of_runs[order[-1]]
    return Additions(order, mrrs, runs)


def equal_weights(scores: RunScores, members: int) -> Weights:
    """1 for the `members` that are best alone."""
    best_first = np.argsort(-scores.alone().mean(axis=1), kind="stable")
    return np.isin(np.arange(len(best_first)), best_first[:members]).astype(int).tolist()


def plot_selection(selection: Selection, path: Path) -> None:
    """The curve of a selection as PNG, beside the single runs and the plain mean of all."""
    figure = new_figure(9, 5)
    axes, curve = figure.subplots(), selection.curve
    for number, mrr_alone in enumerate(selection.alone):
        axes.axhline(mrr_alone, color=GREY, lw=0.8, alpha=0.6, label=None if number else "single runs")
    axes.axhline(selection.mean_of_all, color=GREEN, ls="--", label="mean of all runs")
    interval = "95% interval of its difference from the best single run"
    axes.fill_between(curve.additions, curve.low, curve.high, color=BLUE, alpha=0.15, lw=0, label=interval)
    for column, color, marker in ((CHOOSING, ORANGE, "o"), (OUT_OF_FOLD, BLUE, "s")):
        axes.plot(curve.additions, curve[column], color=color, marker=marker, ms=4, label=column)
    axes.axvline(selection.best, **REFERENCE, label="fitted weights")
    axes.locator_params(axis="x", integer=True)
    finish(axes, title="Forward selection with replacement", xlabel="additions", ylabel="MRR")
    save_figure(figure, path)
