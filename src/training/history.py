"""The history of a training, a row an epoch: as CSV and as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from src.common.files import atomic_path


def write_history(history: Sequence[dict[str, float]], path: Path) -> None:
    """One row an epoch; numbers in the shortest form that reads back the same."""
    with atomic_path(path) as temporary:
        pd.DataFrame(history).to_csv(temporary, index=False)


def plot_curves(history: Sequence[dict[str, float]], title: str, path: Path) -> None:
    """The picture of a training: losses, retrieval measures and learning rate by epoch, as PNG."""
    table = pd.DataFrame(history)
    figure = Figure(figsize=(13, 4), layout="constrained")
    losses, measures, rate = figure.subplots(1, 3)
    losses.plot(table.epoch, table.train_loss, label="training loss")
    losses.plot(table.epoch, table.regression_loss, label="validation smooth-L1")
    losses.set(title="losses", yscale="log")
    for column in ("mrr", "recall_at_1", "recall_at_5", "recall_at_10", "challenge_mrr"):
        measures.plot(table.epoch, table[column], label=column.replace("_", " "), lw=2 if column == "mrr" else 1)
    best = table.loc[table.mrr.idxmax()]
    measures.axvline(best.epoch, color="grey", lw=0.8, ls=":")
    measures.set(title=f"validation: best MRR {best.mrr:.4f} in epoch {best.epoch:.0f}", ylim=(0, 1))
    rate.plot(table.epoch, table.lr, label="learning rate")
    rate.set(title="learning rate", ylim=(0, None))
    for axes in (losses, measures, rate):
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(title)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)


def plot_strengths(gcv: Mapping[float, float], best: float, title: str, path: Path) -> None:
    """The picture of a ridge regression: the generalised cross-validation of every strength, the best marked."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([*gcv], [*gcv.values()], marker=".")
    axes.axvline(best, color="grey", lw=0.8, ls=":", label=f"the best: {best:.3g}")
    axes.set(xscale="log", xlabel="strength of the ridge", ylabel="squared distance to images left out", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
