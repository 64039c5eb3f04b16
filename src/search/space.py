"""The space of a search: some choices for each field of a recipe."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from src.training.recipe import OPTIONS, Recipe

# All trials have these in common: MRRs of different splits, or after different numbers of epochs, do not compare.
COMMON = ("seed", "split_seed", "val_fraction", "epochs")
SEARCHABLE = tuple(option.name for option in OPTIONS if option.name not in COMMON)


@dataclass(frozen=True)
class Space:
    """`choices`: those of the fields with several, sorted, in the order of a recipe's fields. `base`: a recipe with the
    only or the lowest choice of each field."""

    base: Recipe
    choices: dict[str, tuple]

    @classmethod
    def of(cls, base: Recipe, choices: Mapping[str, Iterable]) -> "Space":
        """The space of some fields' choices; the others are as in `base`. Raises InputError for one without sense."""
        given = {name: tuple(sorted(set(choices[name]))) for name in SEARCHABLE if name in choices}
        lowest = replace(base, **{name: values[0] for name, values in given.items()})
        space = cls(lowest, {name: values for name, values in given.items() if len(values) > 1})
        # A recipe checks each field by itself, but for loss weights that are all 0: those of the lowest choices.
        for name, values in space.choices.items():
            for value in values:
                space.recipe({name: value})
        return space

    @property
    def size(self) -> int:
        return math.prod(map(len, self.choices.values()))

    def recipe(self, configuration: Mapping[str, Any]) -> Recipe:
        """The recipe of a choice for each field that has several."""
        return replace(self.base, **configuration)
