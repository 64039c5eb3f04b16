"""The line to beat: what the named recipes reach on the split of a search."""

from src.search.space import Space
from src.search.store import TrialRow, ranked
from src.training.recipe import Recipe
from src.training.runs import State


def line_to_beat(rows: list[TrialRow], space: Space, linear: float) -> str:
    """ "strong 0.6429 (trial 2), baseline 0.5683 (trial 1), linear 0.4330": MRRs, the best first, of the linear map
    and of the named recipes whose trials have ended."""
    line = [(linear, f"linear {linear:.4f}")]
    for recipe, row in _named(rows, space):
        mrr, figure = (row["mrr"], f"{row['mrr']:.4f}") if row["state"] == State.FINISHED else (0.0, row["state"])
        line.append((mrr, f"{recipe.name} {figure} (trial {row['trial']}{space.changes(recipe)})"))
    return ", ".join(text for _, text in sorted(line, key=lambda each: -each[0]))


def verdict(rows: list[TrialRow], space: Space, linear: float) -> str:
    """What there is to say of a best trial that is not above the line; "" of one that is."""
    best = ranked(rows)[0]
    if best["mrr"] <= linear:
        return "No trial is better than the linear map (train_mrr.py --recipe linear): try more epochs, other choices."
    if same := [recipe for recipe, row in _named(rows, space) if row is best]:
        itself = f"{same[0].name}{space.changes(same[0])}"
        return f"No trial is better than the recipes that the search started from: the best is {itself}."
    return ""


def _named(rows: list[TrialRow], space: Space) -> list[tuple[Recipe, TrialRow]]:
    """The named recipes and the rows of their trials."""
    named = space.named.items()
    return [(recipe, row) for recipe, configuration in named for row in rows if configuration.items() <= row.items()]
