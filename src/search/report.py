"""What a search says at its end: the best trials as a table, MRR against each hyperparameter, their importance.

The importance of a hyperparameter is the part of the MRR's variance over the trials that lies between its choices,
estimated without the part that chance alone would put there: ω² of a one-way analysis of variance (Hays 1963,
"Statistics for Psychologists"). Each is measured by itself, on all trials that have an MRR: leaving out the pruned ones
would leave out what the bad choices do.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from src.common.files import atomic_path
from src.search.store import FINISHED, PRUNED, Row, ranked

SHOWN = 10
HYPERPARAMETERS_PNG, IMPORTANCE_PNG = "mrr_by_hyperparameter.png", "importance.png"
COLUMNS = 4  # of panels


def write_report(rows: Sequence[Row], choices: Mapping[str, tuple], folder: Path) -> list[Path]:
    """Print the table and write the plots into `folder`. Returns the plots. At least one trial has finished."""
    print(top_table(rows, choices).to_string(index=False))
    measured = [row for row in rows if row["mrr"] != ""]
    plots = [folder / HYPERPARAMETERS_PNG, folder / IMPORTANCE_PNG]
    plot_hyperparameters(measured, choices, plots[0])
    plot_importance({name: importance(measured, name) for name in choices}, len(measured), plots[1])
    return plots


def top_table(rows: Sequence[Row], choices: Mapping[str, tuple]) -> pd.DataFrame:
    """The best finished trials, the best first: measures and configuration."""
    table = [
        {
            "trial": row["trial"],
            "MRR": f"{row['mrr']:.4f}",
            "R@10": f"{row['recall_at_10']:.4f}",
            "challenge MRR": f"{row['challenge_mrr']:.4f}",
            "epoch": f"{row['best_epoch']}/{row['epochs']}",
            "minutes": f"{row['training_seconds'] / 60:.1f}",
        }
        | {name: f"{row[name]}" for name in choices}
        for row in ranked(rows)[:SHOWN]
    ]
    return pd.DataFrame(table)


def epochs_saved(rows: Sequence[Row], epochs: int) -> int:
    """How many epochs the pruned trials had left."""
    return sum(epochs - row["epochs"] for row in rows if row["state"] == PRUNED)


def importance(rows: Sequence[Row], name: str) -> float:
    """ω² of the MRR over the choices of a hyperparameter, from 0 to 1; 0 where trials are too few to tell."""
    mrr = np.array([row["mrr"] for row in rows], float)
    choice = np.unique([str(row[name]) for row in rows], return_inverse=True)[1]
    count = np.bincount(choice)
    free = len(mrr) - len(count)
    total = ((mrr - mrr.mean()) ** 2).sum()
    if free < 1 or total == 0:
        return 0.0
    mean = np.bincount(choice, weights=mrr) / count
    between = (count * (mean - mrr.mean()) ** 2).sum()
    by_chance = (total - between) / free
    return float(max(0.0, (between - (len(count) - 1) * by_chance) / (total + by_chance)))


def plot_hyperparameters(rows: Sequence[Row], choices: Mapping[str, tuple], path: Path) -> None:
    """A panel a hyperparameter: every trial's MRR above its choice, as PNG."""
    lines = -(-max(len(choices), 1) // COLUMNS)
    figure = Figure(figsize=(3.6 * COLUMNS, 3.2 * lines), layout="constrained")
    panels = list(figure.subplots(lines, COLUMNS, sharey=True, squeeze=False).flat)
    for axes, (name, values) in zip(panels, choices.items(), strict=False):
        _draw_panel(axes, rows, name, values)
    for axes in panels[len(choices) :]:
        axes.axis("off")
    figure.suptitle("Validation MRR of every trial (hollow: pruned, star: the best); the bar is the median")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)


def _draw_panel(axes: Axes, rows: Sequence[Row], name: str, values: tuple) -> None:
    best = ranked(list(rows))[0]
    for position, value in enumerate(values):
        here = [row for row in rows if row[name] == value]
        if not here:
            continue
        across = position + np.linspace(-0.25, 0.25, len(here) + 2)[1:-1]  # in the order of the list
        for x, row in zip(across, here, strict=True):
            face = "tab:blue" if row["state"] == FINISHED else "none"
            marker, size = ("*", 130) if row is best else ("o", 16)
            axes.scatter(x, row["mrr"], s=size, marker=marker, facecolors=face, edgecolors="tab:blue", linewidths=0.8)
        axes.hlines(np.median([row["mrr"] for row in here]), position - 0.35, position + 0.35, color="tab:orange")
    axes.set(title=name.replace("_", " "), xticks=range(len(values)), xlim=(-0.6, len(values) - 0.4))
    axes.set_xticklabels([str(value) for value in values])
    axes.grid(axis="y", alpha=0.3)


def plot_importance(importances: Mapping[str, float], trials: int, path: Path) -> None:
    """The importances as bars, the largest on top, as PNG."""
    ordered = sorted(importances.items(), key=lambda item: item[1])
    figure = Figure(figsize=(8, 1.5 + 0.35 * len(ordered)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh([name.replace("_", " ") for name, _ in ordered], [value for _, value in ordered])
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.set(xlim=(0, 1), xlabel="part of the MRR's variance between its choices (ω²)")
    axes.set_title(f"Importance of each hyperparameter by itself, over {trials} trials")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
