"""A recipe is one way of training a translator: a frozen dataclass whose fields are the flags of the trainers.

A script or a user states only what differs: `replace(BASELINE, batch_size=5000)` or `--batch-size 5000`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_args

from src.common.files import InputError, read_json


def _option(default: Any, help: str, *, choices: tuple[str, ...] = (), low: float | None = None) -> Any:
    """A field with its default, its help, and its choices or its lowest value (exclusive for floats of 0)."""
    return field(default=default, metadata={"help": help, "choices": choices, "low": low})


def flag_of(name: str) -> str:
    """The flag of a field: "batch_size" → "--batch-size"."""
    return "--" + name.replace("_", "-")


def types_of(annotation: Any) -> tuple[type, ...]:
    """The types of `int`, `str` or `int | None`."""
    return get_args(annotation) or (annotation,)


CLOSED_FORM_USES = ("name", "seed", "split_seed", "val_fraction", "model", "predict_with")  # of a recipe's fields
LIMITS = {int: 2**63, float: 3.4e38}  # of torch: its seeds are int64, its hyperparameters float32


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How to train one translator. Raises InputError for a value that makes no sense."""

    name: str = _option("baseline", "what runs of this recipe are called")
    seed: int = _option(
        43, "of the initialisation, the batches and the dropout; of the split too, unless --split-seed", low=0
    )
    split_seed: int | None = _option(None, "of the split into training and validation images, by their names", low=0)
    val_fraction: float = _option(0.1, "share of the images that validate", low=0)

    model: str = _option(
        "mlp",
        "a residual MLP, or in closed form ridge regression on the captions (linear) or their kernel",
        choices=("mlp", "linear", "kernel"),
    )
    hidden_dim: int = _option(3072, "width of the residual MLP; landmarks of the kernel", low=1)
    depth: int = _option(3, "hidden layers of the MLP: one, and the others as its residual branch", low=1)
    norm: str = _option("layer", "normalisation in every hidden layer", choices=("layer", "none"))
    copies: int = _option(1, "MLPs that are trained side by side and predict the mean of their unit vectors", low=1)
    kernel_share: float = _option(
        0.0, "share in the prediction of a ridge regression on a kernel beside the MLPs, below 1", low=0
    )
    dropout: float = _option(0.1, "after every hidden layer", low=0)
    input_noise: float = _option(0.0, "Gaussian noise on caption embeddings, in parts of each feature's spread", low=0)

    epochs: int = _option(500, "the most epochs", low=1)
    patience: int = _option(15, "stop after so many epochs without a better validation MRR; 0: never", low=0)
    batch_size: int = _option(4096, "captions a step, in whole image groups", low=1)
    negatives: str = _option("batch", "images each caption is told from", choices=("batch", "all"))
    max_negatives: int = _option(
        0, "with --negatives all: at most so many besides the batch's own, drawn for each step; 0: all", low=0
    )
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

    predict_with: str = _option(
        "best",
        "the model that predicts the submission: of the best epoch, or trained anew on all images, those that validate "
        "too, for the best number of epochs or through the whole cosine",
        choices=("best", "refit"),
    )

    def __post_init__(self) -> None:
        for option in fields(self):
            value, flag = getattr(self, option.name), flag_of(option.name)
            choices, low, kinds = option.metadata["choices"], option.metadata["low"], types_of(option.type)
            accepted: Any = (*kinds, int) if float in kinds else kinds
            if isinstance(value, bool) or not isinstance(value, accepted):
                raise InputError(f"{flag} {value!r}: expected {' or '.join(kind.__name__ for kind in kinds)}")
            if choices and value not in choices:
                raise InputError(f"{flag} {value}: expected one of {', '.join(choices)}")
            if low is not None and value is not None and not low <= value < LIMITS[kinds[0]]:
                too_large = f" and below {LIMITS[kinds[0]]:g}" if value > low else ""
                raise InputError(f"{flag} {value}: expected a number of at least {low}{too_large}")
        if not self.name.isprintable() or Path(self.name).name != self.name:  # is part of the names of folders
            raise InputError(f"--name {self.name!r}: expected what can be a folder's name")
        if not 0 < self.val_fraction < 1 or self.dropout >= 1 or self.kernel_share >= 1:
            raise InputError("--val-fraction must be between 0 and 1, --dropout and --kernel-share below 1")
        if self.model != "mlp":
            used = CLOSED_FORM_USES if self.model == "linear" else (*CLOSED_FORM_USES, "hidden_dim")
            for option in fields(self):
                if option.name not in used and getattr(self, option.name) != option.default:
                    flag = flag_of(option.name)
                    raise InputError(f"{flag}: has no effect on a {self.model} translator (see --recipe {self.model})")
        if self.lr == 0 or self.tau == 0 or self.infonce_weight + self.regression_weight == 0:
            raise InputError("--lr, --tau and the sum of the loss weights must be above 0")

    @property
    def effective_split_seed(self) -> int:
        return self.seed if self.split_seed is None else self.split_seed

    def refit_epochs(self, best_epoch: int) -> int:
        """For how many epochs to train anew on all images: a schedule that was gone through is not cut."""
        return self.epochs if self.lr_schedule == "cosine" and not self.patience else best_epoch


OPTIONS = tuple(option for option in fields(Recipe) if option.name != "name")  # those that are flags

BASELINE = Recipe()

# The best at any size (see the README): for some tens of thousands of captions or more as it is, for fewer by `sized`.
STRONG = replace(
    BASELINE,
    name="strong",
    hidden_dim=2048,
    depth=1,  # one hidden layer without normalisation learns more from each caption than the residual branch,
    norm="none",
    copies=3,  # and three of them cost less than it
    kernel_share=0.1,  # what it knows is another part of the truth, the larger the fewer the captions
    dropout=0.4,
    input_noise=0.2,
    epochs=8,
    patience=0,  # the schedule is to be gone through
    batch_size=256,  # many small steps,
    negatives="all",
    max_negatives=4096,  # each among as many images as are cheap
    optimizer="adamw",
    lr=5e-4,
    lr_schedule="cosine",
    lr_warmup_epochs=0.5,
    weight_decay=0.05,
    tau=0.02,
    predict_with="refit",  # a ninth more images are worth as much as a better recipe
)
SIZES: dict[int, dict[str, Any]] = {  # captions that train, up to → what so few of them need
    6_000: {"dropout": 0.5, "input_noise": 0.5, "tau": 0.05, "epochs": 15, "kernel_share": 0.5},
    40_000: {"dropout": 0.3, "input_noise": 0.0, "tau": 0.03, "epochs": 12, "kernel_share": 0.3},
}
AUTO = replace(STRONG, name="auto")

# In seconds: what any other has to beat, and a member unlike the others.
LINEAR = replace(BASELINE, name="linear", model="linear", predict_with="refit")
KERNEL = replace(BASELINE, name="kernel", model="kernel", predict_with="refit")

RECIPES = {recipe.name: recipe for recipe in (BASELINE, STRONG, LINEAR, KERNEL)}

RECIPE_HELP = f"auto (strong, suited to the number of captions), {', '.join(RECIPES)}, or a JSON file of its fields"


def sized(recipe: Recipe, captions: int) -> Recipe:
    """The recipe `auto` for so many captions that train: what `strong` is for many, with more noise and more epochs for
    fewer. Any other recipe as it is."""
    if recipe != AUTO:
        return recipe
    return replace(recipe, **next((changes for limit, changes in SIZES.items() if captions <= limit), {}))


def one_mlp(recipe: Recipe) -> Recipe:
    """A recipe for what is trained many times: with one MLP, as it was at its best epoch."""
    return replace(recipe, copies=1, predict_with="best")


def load_recipe(name_or_path: str) -> Recipe:
    """A named recipe, or one from a JSON file of its fields. Raises InputError for an unknown name or field."""
    if name_or_path in ("auto", *RECIPES):
        return RECIPES.get(name_or_path, AUTO)
    if not name_or_path.endswith(".json"):
        raise InputError(f"--recipe {name_or_path}: expected auto, {', '.join(RECIPES)} or a JSON file")
    values = read_json(Path(name_or_path))
    if not isinstance(values, dict) or not values.keys() <= asdict(BASELINE).keys():
        unknown = sorted(values.keys() - asdict(BASELINE)) if isinstance(values, dict) else type(values).__name__
        raise InputError(f"{name_or_path}: expected an object with a recipe's fields; found {unknown}")
    try:
        return Recipe(**values)
    except InputError as error:
        raise InputError(f"{name_or_path}: {error}") from None


def recorded_recipe(values: Mapping[str, Any]) -> Recipe:
    """The recipe that a run recorded: what an older version did not know yet has its default, what only another one
    knows is left out."""
    return Recipe(**{name: value for name, value in values.items() if name in asdict(BASELINE)})


def difference(recipe: Recipe, base: Recipe) -> str:
    """What a recipe changes in `base`, apart from the seed and the name, as "lr=0.001,tau=0.02"; "" for nothing."""
    ours, theirs = asdict(recipe), asdict(base)
    changed = [name for name in ours if name not in ("name", "seed") and ours[name] != theirs[name]]
    return ",".join(f"{name}={ours[name]}" for name in changed)


def named_recipe(recipe: Recipe) -> Recipe:
    """The named recipe that another was made of: of those of its name, or else of all, the one it changes least."""
    named = (*RECIPES.values(), AUTO, *(sized(AUTO, captions) for captions in SIZES))
    own = [each for each in named if each.name == recipe.name]
    return min(own or named, key=lambda each: difference(recipe, each).count("="))


def describe_recipe(recipe: Recipe, base: Recipe) -> str:
    """ "strong with lr=0.002": a recipe as the opening lines of a script tell it."""
    changes = difference(recipe, base)
    return f"{base.name} with {changes}" if changes else base.name
