"""What a search says at its end: the best trials as a table; MRR by hyperparameter, and their importance, as pictures.

The importance is PED-ANOVA's (Watanabe et al. 2023, "PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in
Arbitrary Subspaces"): how far the choices of the best tenth of the trials differ from those of all.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import optuna
import pandas as pd
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import create_trial
from optuna.visualization.matplotlib import plot_param_importances, plot_slice

from src.common.files import atomic_path
from src.search.space import Space
from src.search.store import TrialRow, ranked
from src.search.strategy import distributions

TRIALS_SHOWN = 10
HYPERPARAMETERS_PNG, IMPORTANCE_PNG = "mrr_by_hyperparameter.png", "importance.png"


def top_table(rows: list[TrialRow], space: Space) -> pd.DataFrame:
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
        | {name: f"{row[name]}" for name in space.choices}
        for row in ranked(rows)[:TRIALS_SHOWN]
    ]
    return pd.DataFrame(table)


def draw_plots(rows: list[TrialRow], space: Space, folder: Path) -> None:
    """Write both pictures, over all trials that have an MRR: without the pruned ones bad choices would look better."""
    study = optuna.create_study(direction="maximize")
    for row in rows:
        if row["mrr"] != "":
            configuration = {name: row[name] for name in space.choices}
            study.add_trial(create_trial(params=configuration, distributions=distributions(space), value=row["mrr"]))
    with warnings.catch_warnings(action="ignore"):  # the plots are experimental, and a few trials tell little
        _save(folder / HYPERPARAMETERS_PNG, plot_slice, study, target_name="validation MRR")
        _save(folder / IMPORTANCE_PNG, plot_param_importances, study, evaluator=PedAnovaImportanceEvaluator())


def _save(path: Path, plot: Callable[..., Any], *args: Any, **options: Any) -> None:
    with plt.rc_context(), atomic_path(path) as temporary:  # Optuna sets a style
        plot(*args, **options)
        plt.savefig(temporary, dpi=110, bbox_inches="tight")
        plt.close()
