"""What a search says at its end: the best trials as a table; MRR by hyperparameter, and their importance, as pictures.

The importance of a hyperparameter is the part of the MRR's variance over the finished trials that lies between its
choices, without what chance alone would put there: ω² of a one-way analysis of variance (Hays 1963, "Statistics for
Psychologists"); its interval is by a bootstrap over trials (BCa, Efron 1987). Optuna's PED-ANOVA looks at the best
tenth of the trials, and cannot tell chance among a hundred.

The MRR of a pruned trial is that of fewer epochs: it is drawn, but is part of no median and no importance.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import bootstrap

from src.common.figures import BLUE, GREY, ORANGE, finish, new_figure, save_figure
from src.search.space import Space
from src.search.store import TrialRow, ranked
from src.training.runs import State

PANELS_A_LINE = 4
FEWEST_TRIALS = 30  # finished ones, from which medians and importance are told: of fewer they are mostly chance
HYPERPARAMETERS_PNG, IMPORTANCE_PNG = "mrr_by_hyperparameter.png", "importance.png"


def top_table(rows: list[TrialRow], space: Space) -> pd.DataFrame:
    """The ten best finished trials, the best first: measures and where their configurations differ, as text."""
    best = ranked(rows)[:10]
    differing = [name for name in space.choices if len({row[name] for row in best}) > 1]
    return pd.DataFrame(
        {
            "trial": row["trial"],
            "MRR": f"{row['mrr']:.4f}",
            "R@10": f"{row['recall_at_10']:.4f}",
            "challenge MRR": f"{row['challenge_mrr']:.4f}",
            "epoch": f"{row['best_epoch']}/{row['epochs']}",
            "minutes": f"{row['training_seconds'] / 60:.1f}",
            **{name: str(row[name]) for name in differing},
        }
        for row in best
    )


def describe_plots(rows: list[TrialRow], folder: Path) -> str:
    """Where the pictures of a search are, and why there is only one."""
    if few := _too_few(rows):
        return f"{folder / HYPERPARAMETERS_PNG}; {few}"
    return f"{folder / HYPERPARAMETERS_PNG}, {folder / IMPORTANCE_PNG}"


def _too_few(rows: list[TrialRow]) -> str:
    few = f"no medians and no importance from fewer than {FEWEST_TRIALS} finished trials"
    return few if len(ranked(rows)) < FEWEST_TRIALS else ""


def draw_plots(rows: list[TrialRow], space: Space, folder: Path) -> None:
    """Write the picture of all trials that have an MRR and, unless finished ones are too few, that of the
    importance."""
    table = pd.DataFrame([row for row in rows if row["mrr"] != ""])
    finished = table.state == State.FINISHED
    few, rng = _too_few(rows), np.random.default_rng(0)
    lines = max(1, -(-len(space.choices) // PANELS_A_LINE))
    figure = new_figure(3.6 * PANELS_A_LINE, 0.6 + 3.2 * lines)
    for place, (name, values) in enumerate(space.choices.items(), start=1):
        axes = figure.add_subplot(lines, PANELS_A_LINE, place, sharey=next(iter(figure.axes), None))
        x = table[name].map(values.index) + rng.uniform(-0.2, 0.2, len(table))
        if not finished.all():
            axes.plot(x[~finished], table.mrr[~finished], "x", color=GREY, ms=4, label="pruned, so far")
        axes.plot(x[finished], table.mrr[finished], "o", color=BLUE, ms=4, alpha=0.6, label="finished")
        if not few:
            medians = table[finished].groupby(name).mrr.median()
            places = [values.index(value) for value in medians.index]
            axes.hlines(medians, np.subtract(places, 0.35), np.add(places, 0.35), color=ORANGE, lw=3, label="median")
        axes.set_xticks(range(len(values)), [str(value) for value in values])
        finish(axes, title=name, xlim=(-0.6, len(values) - 0.4))
        if place > 1 and (legend := axes.get_legend()):
            legend.remove()
    title = f"Validation MRR of {len(table)} trials by choice, {finished.sum()} of them finished"
    figure.suptitle(f"{title}; {few}" if few else title)
    save_figure(figure, folder / HYPERPARAMETERS_PNG)
    (folder / IMPORTANCE_PNG).unlink(missing_ok=True)
    if few:
        return
    mrr = table.mrr[finished]
    parts = sorted((importance(mrr, table[name]), *_interval(mrr, table[name]), name) for name in space.choices)
    figure = new_figure(8, 1.5 + 0.35 * len(parts))
    axes = figure.subplots()
    axes.barh([name for *_, name in parts], [part for part, *_ in parts], color=BLUE, alpha=0.7)
    for place, (_, low, high, _) in enumerate(parts):
        axes.hlines(place, low, high, color="black", lw=1.5, label="" if place else "95% interval")
    finish(axes, xlim=(0, 1), xlabel="part of the MRR's variance between its choices (ω²)")
    figure.suptitle(f"Importance, over {len(mrr)} finished trials")
    save_figure(figure, folder / IMPORTANCE_PNG)


def importance(mrr: pd.Series, choice: pd.Series) -> float:
    """ω² of the MRR over the choices of a hyperparameter, from 0 to 1; 0 where trials are too few to tell."""
    return max(0.0, _omega_squared(mrr.to_numpy(), pd.factorize(choice[mrr.index])[0]))


def _interval(mrr: pd.Series, choice: pd.Series) -> tuple[float, float]:
    """The 95% interval of `importance`, cut to what it can be."""
    if mrr.nunique() < 2:
        return 0.0, 0.0
    low, high = bootstrap(
        (mrr.to_numpy(), pd.factorize(choice[mrr.index])[0]),
        _omega_squared,
        paired=True,
        vectorized=False,
        n_resamples=999,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return max(0.0, low), max(0.0, high)


def _omega_squared(mrr_n: np.ndarray, choice_n: np.ndarray) -> float:
    """Below 0 where choices differ less than chance has it; `choice_n` (n,) are 0, 1, …, of any type."""
    choice_n = choice_n.astype(np.int64)
    count = np.bincount(choice_n)
    mean = np.bincount(choice_n, weights=mrr_n) / np.maximum(count, 1)
    total = ((mrr_n - mrr_n.mean()) ** 2).sum()
    within = ((mrr_n - mean[choice_n]) ** 2).sum()
    groups = np.count_nonzero(count)
    free = len(mrr_n) - groups
    if free < 1 or total == 0:
        return 0.0
    by_chance = within / free
    return float((total - within - (groups - 1) * by_chance) / (total + by_chance))
