"""The space of a hyperparameter search: some choices for each field of a recipe; drawing configurations from it.

A configuration is {field: choice} for the fields that have several choices. No configuration is drawn twice.
"""

import argparse
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

from src.training.recipe import Recipe, add_recipe_arguments

# All trials have these in common: MRRs of different splits, or after different numbers of epochs, do not compare.
COMMON = ("seed", "split_seed", "val_fraction", "epochs")
SEARCHABLE = tuple(option.name for option in fields(Recipe) if option.name not in ("name", *COMMON))
SAMPLERS = ("random", "tpe")

Configuration = dict[str, Any]


@dataclass(frozen=True)
class Space:
    """`choices` are of the fields with several, sorted; `base` is a recipe with the only or the lowest choice of each
    field. Raises InputError if a choice makes no sense."""

    base: Recipe
    choices: dict[str, tuple]

    def __post_init__(self) -> None:
        # A recipe refuses what is too low or too high of a field, and loss weights that are all 0. `base` has the
        # lowest of all fields, so what is left to check is each choice beside the highest of the others.
        highest = {name: self.highest(name) for name in self.choices}
        for name, values in self.choices.items():
            for value in values:
                self.recipe(highest | {name: value})

    @property
    def size(self) -> int:
        return math.prod(map(len, self.choices.values()))

    @property
    def distributions(self) -> dict[str, CategoricalDistribution]:
        return {name: CategoricalDistribution(values) for name, values in self.choices.items()}

    def highest(self, name: str) -> Any:
        """The highest choice of a field."""
        return self.choices[name][-1] if name in self.choices else getattr(self.base, name)

    def recipe(self, configuration: Configuration) -> Recipe:
        return replace(self.base, **configuration)


def add_space_arguments(parser: argparse.ArgumentParser, base: Recipe, choices: Mapping[str, tuple]) -> None:
    """Add a flag for each field of a recipe; those of `SEARCHABLE` take several values, the choices of a field."""
    defaults = {name: choices.get(name, (getattr(base, name),)) for name in SEARCHABLE}
    add_recipe_arguments(parser, base, choices=defaults)


def read_space(args: argparse.Namespace, base: Recipe, choices: Mapping[str, tuple]) -> Space:
    """The space of `choices`, elsewhere of `base`, with what the user gave instead. Raises InputError."""
    common = {name: getattr(args, name) for name in COMMON if hasattr(args, name)}
    values = {name: getattr(args, name, choices.get(name, (getattr(base, name),))) for name in SEARCHABLE}
    values = {name: tuple(sorted(set(given))) for name, given in values.items()}
    lowest = {name: given[0] for name, given in values.items()}
    several = {name: given for name, given in values.items() if len(given) > 1}
    return Space(replace(base, **common, **lowest), several)


def draw(space: Space, earlier: Sequence[FrozenTrial], count: int, sampler: str, seed: int) -> list[Configuration]:
    """Draw `count` configurations that none of the `earlier` trials has; the space must have as many.

    With the sampler "random" the first draws of a seed are always the same: drawn at once or in parts, they are one
    list. "tpe" (Bergstra et al. 2011) draws by how the earlier trials ended.
    """
    study = optuna.create_study(direction="maximize", sampler=_sampler(sampler, seed, len(earlier)))
    if sampler == "tpe":
        study.add_trials(earlier)
    seen = {tuple(trial.params[name] for name in space.choices) for trial in earlier}
    drawn = []
    while len(drawn) < count:
        configuration = study.ask(space.distributions).params
        key = tuple(configuration[name] for name in space.choices)
        if key not in seen:
            seen.add(key)
            drawn.append({name: configuration[name] for name in space.choices})
    return drawn


def _sampler(name: str, seed: int, number: int) -> BaseSampler:
    if name == "random":
        return RandomSampler(seed)
    seed = int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
    with warnings.catch_warnings(category=ExperimentalWarning, action="ignore"):  # until optuna 4.4, of the liar
        return TPESampler(seed=seed, constant_liar=True)  # a trial that is still running counts as a bad one
