"""What a search says at its end: the best trials as a table; MRR by hyperparameter, and their importance, as pictures.

The importance of a hyperparameter is the part of the MRR's variance over the trials that lies between its choices,
without what chance alone would put there: ω² of a one-way analysis of variance (Hays 1963, "Statistics for
Psychologists"). Optuna's PED-ANOVA looks at the best tenth of the trials, and cannot tell chance among a hundred.
"""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from src.common.files import atomic_path
from src.search.space import Space
from src.search.store import TrialRow, ranked

PANELS_A_LINE = 4
HYPERPARAMETERS_PNG, IMPORTANCE_PNG = "mrr_by_hyperparameter.png", "importance.png"


def top_table(rows: list[TrialRow], space: Space) -> pd.DataFrame:
    """The ten best finished trials, the best first: measures and configuration, as text."""
    return pd.DataFrame(
        {
            "trial": row["trial"],
            "MRR": f"{row['mrr']:.4f}",
            "R@10": f"{row['recall_at_10']:.4f}",
            "challenge MRR": f"{row['challenge_mrr']:.4f}",
            "epoch": f"{row['best_epoch']}/{row['epochs']}",
            "minutes": f"{row['training_seconds'] / 60:.1f}",
            **{name: str(row[name]) for name in space.choices},
        }
        for row in ranked(rows)[:10]
    )


def draw_plots(rows: list[TrialRow], space: Space, folder: Path) -> None:
    """Write both pictures, of all trials that have an MRR: without the pruned ones bad choices would look better."""
    table = pd.DataFrame([row for row in rows if row["mrr"] != ""])
    lines = max(1, -(-len(space.choices) // PANELS_A_LINE))
    figure = Figure(figsize=(3.6 * PANELS_A_LINE, 3.2 * lines), layout="constrained")
    for place, (name, values) in enumerate(space.choices.items(), start=1):
        axes = figure.add_subplot(lines, PANELS_A_LINE, place, sharey=next(iter(figure.axes), None))
        axes.boxplot([table.mrr[table[name] == value] for value in values])
        axes.set_xticks(range(1, len(values) + 1), [str(value) for value in values])
        axes.set_title(name)
    figure.suptitle("Validation MRR of the trials with each choice")
    _save(figure, folder / HYPERPARAMETERS_PNG)

    figure = Figure(figsize=(8, 6), layout="constrained")
    ordered = sorted((importance(table.mrr, table[name]), name) for name in space.choices)
    figure.subplots().barh([name for _, name in ordered], [part for part, _ in ordered])
    figure.suptitle(f"Part of the MRR's variance over {len(table)} trials between each one's choices (ω²)")
    _save(figure, folder / IMPORTANCE_PNG)


def importance(mrr: pd.Series, choice: pd.Series) -> float:
    """ω² of the MRR over the choices of a hyperparameter, from 0 to 1; 0 where trials are too few to tell."""
    groups = mrr.groupby(choice)
    total = ((mrr - mrr.mean()) ** 2).sum()
    within = ((mrr - groups.transform("mean")) ** 2).sum()
    free = len(mrr) - groups.ngroups
    if free < 1 or total == 0:
        return 0.0
    by_chance = within / free
    return max(0.0, float((total - within - (groups.ngroups - 1) * by_chance) / (total + by_chance)))


def _save(figure: Figure, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
