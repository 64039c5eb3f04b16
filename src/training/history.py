"""The history of a training, a row an epoch: as CSV and as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from src.common.figures import BLUE, GREEN, GREY, ORANGE, RED, REFERENCE, finish, new_figure, save_figure
from src.common.files import atomic_path

RECALLS = {"recall_at_1": ORANGE, "recall_at_5": GREEN, "recall_at_10": RED, "challenge_mrr": GREY}


def write_history(history: Sequence[dict[str, float]], path: Path) -> None:
    """One row an epoch; numbers in the shortest form that reads back the same."""
    with atomic_path(path) as temporary:
        pd.DataFrame(history).to_csv(temporary, index=False)


def plot_curves(history: Sequence[dict[str, float]], title: str, path: Path) -> None:
    """The picture of a training, as PNG: by epoch its loss, the MRR of captions that train beside that of those that
    validate, the other measures and, unless it is constant, the learning rate. Where the first MRR rises and the other
    does not any more, it learns by heart."""
    table = pd.DataFrame(history)
    best, varies = table.loc[table.mrr.idxmax()], table.lr.nunique() > 1
    marker = "." if len(table) <= 50 else ""
    figure = new_figure(4.5 * (3 + varies), 4)
    loss, mrrs, others, *rate = figure.subplots(1, 3 + varies)
    loss.plot(table.epoch, table.train_loss, marker=marker, color=BLUE)
    loss.set_title("training loss")
    if "train_mrr" in table:  # a run that an older version began has none
        mrrs.plot(table.epoch, table.train_mrr, marker=marker, color=GREY, label="training captions, a sample")
    mrrs.plot(table.epoch, table.mrr, marker=marker, color=BLUE, lw=2, label="validation captions")
    mrrs.plot(best.epoch, best.mrr, marker="o", color=BLUE, ls="")
    mrrs.set_title(f"MRR: best {best.mrr:.4f} in epoch {best.epoch:.0f}")
    for column, color in RECALLS.items():
        name = column.replace("recall_at_", "recall at ").replace("challenge_mrr", "challenge MRR")
        others.plot(table.epoch, table[column], marker=marker, color=color, label=name)
    others.set_title("other measures on validation captions")
    for axes in rate:
        axes.plot(table.epoch, table.lr, marker=marker, color=BLUE)
        axes.set(title="learning rate", ylim=(0, None))
        axes.ticklabel_format(axis="y", scilimits=(-2, 4))
    for axes in (loss, mrrs, others, *rate):
        axes.axvline(best.epoch, **REFERENCE, label="best epoch" if axes in (mrrs, others) else None)
        axes.locator_params(axis="x", integer=True)
        finish(
            axes, xlabel="epoch", xlim=(0.5, len(table) + 0.5), **({"ylim": (0, 1)} if axes in (mrrs, others) else {})
        )
    figure.suptitle(title)
    save_figure(figure, path)


def plot_strengths(gcv: Mapping[float, float], best: float, title: str, path: Path) -> None:
    """The picture of a ridge regression: the generalised cross-validation of every strength, the best marked."""
    figure = new_figure(7, 4)
    axes = figure.subplots()
    axes.plot([*gcv], [*gcv.values()], marker=".", color=BLUE)
    axes.axvline(best, **REFERENCE, label=f"the best: {best:.3g}")
    finish(
        axes, xscale="log", xlabel="strength of the ridge", ylabel="squared distance to images left out", title=title
    )
    save_figure(figure, path)
