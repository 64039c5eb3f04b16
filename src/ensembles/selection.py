"""Which runs to average: forward selection on validation predictions.

Caruana, Niculescu-Mizil, Crew & Ksikes 2004, "Ensemble selection from libraries of models". Each run is added once,
because `combine` gives all files one weight.

Shapes: n captions of the part that is measured, m images of its gallery, V image width, R runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from src.common.files import atomic_path
from src.data.splits import image_folds
from src.ensembles.evaluation import Difference, Measured
from src.ensembles.held_out import Run
from src.training.inputs import Part
from src.training.metrics import mrr, retrieval_ranks

CHOOSING, OTHER = "MRR, choosing half", "MRR, other half"


@dataclass(frozen=True, eq=False)
class Selection:
    """order: the runs as they are added; curve: a row after each; means: the mean after each, on the other half."""

    order: list[Run]
    curve: pd.DataFrame
    means: list[Measured]

    @property
    def count(self) -> int:
        """How many runs are selected: those up to the curve's highest point."""
        return int(self.curve[CHOOSING].argmax()) + 1

    @property
    def gain(self) -> Difference:
        """Of the mean of the selected runs over the mean of all, on the other half."""
        return self.means[self.count - 1].over(self.means[-1])

    @property
    def recommended(self) -> list[Run]:
        """The selected runs; all, if the selected are no better on the other half."""
        return self.order[: self.count] if self.gain.value > 0 else self.order


def choosing_half(part: Part, seed: int) -> Tensor:
    """The captions of one half of the images, drawn by their names and the seed, (n,) bool."""
    names = part.of.pairs.image_names[part.images.cpu().numpy()]
    return torch.from_numpy(image_folds(names, 2, seed) == 0).to(part.of.device)[part.target_n]


def select(runs: Sequence[Run], part: Part, chooses_n: Tensor, *, normalize: bool = False) -> Selection:
    """Select by the captions `chooses_n` and measure on the others; the gallery is the whole part's.

    Holds R predictions (n, V) float32: 77 MB a run for 12,500 captions of width 1536. Raises NonFiniteError.
    """
    predictions = [run.predict(part) for run in tqdm(runs, desc="predicting", unit="run")]
    if normalize:
        predictions = [F.normalize(prediction_nV, dim=1) for prediction_nV in predictions]
    choosing = [prediction_nV[chooses_n] for prediction_nV in predictions]
    order, rows, means, total_nV = [], [], [], torch.zeros_like(predictions[0])
    for n, (run, score) in enumerate(forward_selection(choosing, part.gallery_mV, part.target_n[chooses_n]), 1):
        total_nV += predictions[run]
        order.append(runs[run])
        means.append(Measured.of(total_nV[~chooses_n], ~chooses_n, part, label=f"first {n}", count=str(n)))
        rows.append({"n": n, "added": str(runs[run].folder), CHOOSING: score, OTHER: means[-1].mrr})
    return Selection(order, pd.DataFrame(rows), means)


def forward_selection(predictions: Sequence[Tensor], gallery_mV: Tensor, target_n: Tensor) -> list[tuple[int, float]]:
    """The order in which greedy selection adds the runs, with the MRR of the mean after each: [(run, MRR)] × R.

    predictions: R of (n, V), on one device with the gallery and the targets. R²/2 rankings are computed.
    """
    steps: list[tuple[int, float]] = []
    left, total_nV = list(range(len(predictions))), torch.zeros_like(predictions[0])
    for _ in tqdm(predictions, desc="selecting", unit="run"):
        scores = {run: mrr(retrieval_ranks(total_nV + predictions[run], gallery_mV, target_n)) for run in left}
        best = max(left, key=scores.__getitem__)
        left.remove(best)
        total_nV += predictions[best]
        steps.append((best, scores[best]))
    return steps


def plot_selection(selection: Selection, path: Path) -> None:
    """The curve of a selection as PNG."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes, curve = figure.subplots(), selection.curve
    for column, marker in ((CHOOSING, "o"), (OTHER, "s")):
        axes.plot(curve.n, curve[column], marker=marker, label=column)
    axes.axvline(selection.count, color="grey", lw=0.8, ls=":", label="selected")
    axes.set(title="Forward selection", xlabel="runs averaged", ylabel="MRR", xticks=curve.n)
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
