"""A recipe is one way of training a translator; the named recipes; the command line made from their fields.

A script or a user states only what differs: `replace(BASELINE, batch_size=5000)` or `--batch-size 5000`.
"""

import argparse
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_args

from src.common.files import InputError, read_json


def _option(default: Any, help: str, *, choices: tuple[str, ...] = (), low: float | None = None) -> Any:
    """A field with its default, its help, and its choices or its lowest value (exclusive for floats of 0)."""
    return field(default=default, metadata={"help": help, "choices": choices, "low": low})


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _kinds(annotation: Any) -> tuple[type, ...]:
    """The types of `int`, `str` or `int | None`."""
    return get_args(annotation) or (annotation,)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How to train one translator. Raises InputError for a value that makes no sense."""

    name: str = _option("baseline", "what runs of this recipe are called")
    seed: int = _option(
        43, "of the initialisation, the batches and the dropout; of the split too, unless --split-seed", low=0
    )
    split_seed: int | None = _option(None, "of the split into training and validation images, by their names", low=0)
    val_fraction: float = _option(0.1, "share of the images that validate", low=0)

    hidden_dim: int = _option(3072, "width of the residual MLP", low=1)
    dropout: float = _option(0.1, "after every hidden layer", low=0)
    input_noise: float = _option(0.0, "Gaussian noise on caption embeddings, in parts of each feature's spread", low=0)

    epochs: int = _option(500, "the most epochs", low=1)
    patience: int = _option(15, "stop after so many epochs without a better validation MRR; 0: never", low=0)
    batch_size: int = _option(4096, "captions a step, in whole image groups", low=1)
    negatives: str = _option("batch", "images each caption is told from", choices=("batch", "all"))
    optimizer: str = _option("adam", "Adam, or AdamW with decoupled weight decay", choices=("adam", "adamw"))
    lr: float = _option(3e-4, "learning rate", low=0)
    lr_schedule: str = _option("constant", "after the warm-up", choices=("constant", "cosine"))
    lr_warmup_epochs: float = _option(0.0, "epochs of linear warm-up of the learning rate", low=0)
    weight_decay: float = _option(0.0, "weight decay", low=0)

    tau: float = _option(0.01, "InfoNCE temperature", low=0)
    infonce_weight: float = _option(1.0, "weight of the InfoNCE loss", low=0)
    infonce_warmup_epochs: float = _option(0.0, "epochs over which that weight grows from 0", low=0)
    regression_weight: float = _option(0.0, "weight of the smooth-L1 loss to the raw image embedding", low=0)
    regression_warmup_epochs: float = _option(0.0, "epochs over which that weight grows from 0", low=0)

    def __post_init__(self) -> None:
        for option in fields(self):
            value, flag = getattr(self, option.name), _flag(option.name)
            choices, low, kinds = option.metadata["choices"], option.metadata["low"], _kinds(option.type)
            if isinstance(value, bool) or not isinstance(value, (*kinds, int) if float in kinds else kinds):
                raise InputError(f"{flag} {value!r}: expected {' or '.join(kind.__name__ for kind in kinds)}")
            if choices and value not in choices:
                raise InputError(f"{flag} {value}: expected one of {', '.join(choices)}")
            if low is not None and value is not None and not low <= value < float("inf"):
                raise InputError(f"{flag} {value}: expected a number of at least {low}")
        if not 0 < self.val_fraction < 1 or self.dropout >= 1:
            raise InputError("--val-fraction must be between 0 and 1 and --dropout below 1")
        if self.lr == 0 or self.tau == 0 or self.infonce_weight + self.regression_weight == 0:
            raise InputError("--lr, --tau and the sum of the loss weights must be above 0")

    @property
    def effective_split_seed(self) -> int:
        return self.seed if self.split_seed is None else self.split_seed


BASELINE = Recipe()

# Members of the ensembles: split and initialisation by their own seed.
ENSEMBLE_RAW = replace(BASELINE, name="ensemble_raw", epochs=300)
ENSEMBLE_CLIP = replace(ENSEMBLE_RAW, name="ensemble_clip")
ENSEMBLE_CLIP_ADAMW = replace(
    ENSEMBLE_RAW, name="ensemble_clip_adamw", batch_size=5000, optimizer="adamw", weight_decay=1e-2
)

# For some thousands of images or no GPU: better than the baseline there, in a fraction of its time (see the README).
COMPACT = replace(
    BASELINE,
    name="compact",
    hidden_dim=1024,  # a sixth of the parameters; 2048 scores the same
    dropout=0.5,  # small data is learnt by heart otherwise,
    input_noise=0.3,  # for the same reason
    epochs=30,
    patience=0,  # the schedule is to be gone through
    batch_size=1024,
    negatives="all",
    optimizer="adamw",
    lr=1e-3,
    lr_schedule="cosine",
    lr_warmup_epochs=3.0,
    weight_decay=0.05,
    tau=0.03,
)

RECIPES = {recipe.name: recipe for recipe in (BASELINE, COMPACT, ENSEMBLE_RAW, ENSEMBLE_CLIP, ENSEMBLE_CLIP_ADAMW)}


def load_recipe(name_or_path: str) -> Recipe:
    """A named recipe, or one from a JSON file of its fields. Raises InputError for an unknown name or field."""
    if name_or_path in RECIPES:
        return RECIPES[name_or_path]
    if not name_or_path.endswith(".json"):
        raise InputError(f"--recipe {name_or_path}: expected {', '.join(RECIPES)} or a JSON file")
    values = read_json(Path(name_or_path))
    known = {option.name for option in fields(Recipe)}
    if not isinstance(values, dict) or not values.keys() <= known:
        unknown = sorted(values.keys() - known) if isinstance(values, dict) else type(values).__name__
        raise InputError(f"{name_or_path}: expected an object with a recipe's fields; found {unknown}")
    return Recipe(**values)


def add_recipe_arguments(
    parser: argparse.ArgumentParser,
    recipe: Recipe,
    *,
    without: tuple[str, ...] = (),
    choices: Mapping[str, tuple] | None = None,
) -> None:
    """Add one flag for each field, but for the name and `without`. `recipe` gives the defaults that help shows.

    With a search's `choices`, {field: its default choices}, the flags of these fields take several values.
    """
    choices = choices or {}
    group = parser.add_argument_group("recipe", "Defaults are those of the recipe.")
    for option in fields(Recipe):
        if option.name == "name" or option.name in without:
            continue
        defaults = choices.get(option.name, (getattr(recipe, option.name),))
        group.add_argument(
            _flag(option.name),
            type=_kinds(option.type)[0],
            choices=option.metadata["choices"] or None,
            nargs="+" if option.name in choices else None,
            default=argparse.SUPPRESS,
            help=f"{option.metadata['help']} (default: {' '.join(map(str, defaults))})",
        )


def override(recipe: Recipe, args: argparse.Namespace) -> Recipe:
    """The recipe with what the user gave on the command line."""
    known = {option.name for option in fields(Recipe)} - {"name"}
    return replace(recipe, **{name: value for name, value in vars(args).items() if name in known})


def difference(recipe: Recipe, base: Recipe) -> str:
    """What a recipe changes in `base`, apart from the seed and the name, as "lr=0.001,tau=0.02"; "" for nothing."""
    ours, theirs = asdict(recipe), asdict(base)
    changed = [name for name in ours if name not in ("name", "seed") and ours[name] != theirs[name]]
    return ",".join(f"{name}={ours[name]}" for name in changed)
