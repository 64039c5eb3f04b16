"""The space of a search: some choices for each field of a recipe, and where the named recipes are in it."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from src.training.recipe import OPTIONS, RECIPES, Recipe, difference

# All trials have these in common: MRRs of different splits, or after different numbers of epochs, do not compare.
COMMON = ("seed", "split_seed", "val_fraction", "epochs", "patience", "predict_with")
SEARCHABLE = tuple(option.name for option in OPTIONS if option.name not in COMMON)
NAMED = tuple(recipe for recipe in RECIPES.values() if recipe.model == "mlp")  # what a search has to beat


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

    @property
    def named(self) -> dict[Recipe, dict[str, Any]]:
        """The configurations of the named recipes, with which a search begins. A field with one choice has that, as if
        it were a flag of theirs."""
        left_out = self.left_out
        return {recipe: self._configuration(recipe) for recipe in NAMED if recipe not in left_out}

    @property
    def left_out(self) -> dict[Recipe, str]:
        """The named recipes that are not in the space, and their values that are none of a field's several choices, as
        "dropout=0.5, tau=0.03"."""
        lacking = {}
        for recipe in NAMED:
            wanted = self._configuration(recipe).items()
            if lacks := [f"{name}={value}" for name, value in wanted if value not in self.choices[name]]:
                lacking[recipe] = ", ".join(lacks)
        return lacking

    def changes(self, recipe: Recipe) -> str:
        """What fields with one choice change in a named recipe, as " with hidden_dim=1024"; "" for nothing. What all
        trials have in common is left out."""
        common = {name: getattr(self.base, name) for name in COMMON}
        brought = self.recipe(self._configuration(recipe))
        changes = difference(_as_adamw(brought), _as_adamw(replace(recipe, **common)))
        return f" with {changes}" if changes else ""

    def _configuration(self, recipe: Recipe) -> dict[str, Any]:
        return {name: getattr(_as_adamw(recipe), name) for name in self.choices}


def _as_adamw(recipe: Recipe) -> Recipe:
    """The same recipe by AdamW, if it can be: without weight decay Adam is that."""
    return recipe if recipe.weight_decay else replace(recipe, optimizer="adamw")
