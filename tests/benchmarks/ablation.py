"""What each ingredient of `strong` is worth, and what it costs: the recipe without it, on the same splits and seeds.

    python -m tests.benchmarks.ablation                                          # on the data in data/
    python -m tests.benchmarks.ablation --train-npz language/train.npz --seeds 0 1 2
    python -m tests.benchmarks.ablation --images 2500 --only depth copies        # of a part of the images, some rows

Every row is trained on the training part of the splits of all seeds, and measured on what they hold out; what is
compared are means over seeds, and the differences seed by seed. The recipe is suited to the number of captions, as
`--recipe auto` suits it, but has one MLP and no kernel beside it, for what these add has rows of its own. Nothing is
refitted: what that is worth, the row tells that leaves out as many images as refitting adds. Runs that are finished are
not trained again. Seconds are of training, without validation, and depend on the machine; those to the baseline's best
MRR need its row.
"""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from src.common.cli import Parser, add_machine_arguments, print_settings
from src.common.endings import run_main
from src.common.files import InputError
from src.common.paths import TRAIN_NPZ
from src.common.progress import Progress
from src.data.splits import validation_images
from src.training.inputs import DataPaths, TrainingData, open_training_data
from src.training.job import train_unless_finished
from src.training.machine import choose_machine
from src.training.recipe import AUTO, BASELINE, KERNEL, LINEAR, Recipe, difference, one_mlp, sized
from tests.benchmarks.measuring import SPREAD, markdown, spread_of

# What `auto` adds to one MLP.
ADDED = {"copies": ["copies"], "kernel share": ["kernel_share"], "copies and kernel share": ["copies", "kernel_share"]}
# What takes the place of an ingredient. What makes no difference to the recipe at hand is left out of the table.
CHANGES = {
    "depth": {"depth": 3},
    "norm": {"norm": "layer"},
    "both": {"depth": 3, "norm": "layer"},
    "width": {"hidden_dim": 1024},
    "dropout": {"dropout": 0.0},
    "noise": {"input_noise": 0.0},
    "more noise": {"dropout": 0.5, "input_noise": 0.5},
    "batch": {"batch_size": 1024, "lr": 1e-3},
    "negatives": {"negatives": "batch", "max_negatives": 0},
    "sampling": {"max_negatives": 0},
    "schedule": {"lr_schedule": "constant"},
    "decay": {"weight_decay": 0.0},
    "lower tau": {"tau": 0.02},
    "higher tau": {"tau": 0.07},
    "regression": {"regression_weight": 0.1},
}
FEWER = "fewer images"  # by what refitting adds
OTHERS = {recipe.name: replace(recipe, predict_with="best") for recipe in (BASELINE, KERNEL, LINEAR)}


def main(argv: list[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("--train-npz", type=Path, default=TRAIN_NPZ, help="pairs to train on and to hold out of")
    parser.add_argument("--images", type=int, help="take so many of the images (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of splits and initialisations")
    rows = [*ADDED, *CHANGES, FEWER, *OTHERS]
    parser.add_argument("--only", nargs="+", choices=rows, metavar="ROW", default=rows, help=", ".join(rows))
    parser.add_argument("--models-dir", type=Path, default=Path("models/ablation"), help="each run gets a folder here")
    add_machine_arguments(parser)
    args = parser.parse_args(argv)
    machine = choose_machine(args.device, args.precision)
    data = open_training_data(DataPaths(train_npz=args.train_npz, test_npz=None), machine.device)
    if args.images:
        data = first_images(data, args.images)
    auto = sized(AUTO, data.record.train_captions)
    strong = recipe_of("strong, one MLP", auto)
    recipes = {"strong, one MLP": strong} | {name: recipe_of(name, auto) for name in args.only}
    recipes = {name: recipe for name, recipe in recipes.items() if name == FEWER or recipe != strong or "," in name}
    settings = {
        "pairs": f"{args.train_npz}: {data.record.train_captions:,} captions, {data.record.train_images:,} images",
        "seeds": " ".join(map(str, args.seeds)),
        "runs": args.models_dir,
        "device, precision": machine,
    }
    print_settings("Ablation", settings)
    histories: dict[str, list[pd.DataFrame]] = {name: [] for name in recipes}
    with Progress(total=len(recipes) * len(args.seeds), unit="run") as bar:
        for seed in args.seeds:  # seed by seed: what there is after an interruption compares
            for name, recipe in recipes.items():
                bar.set_postfix_str(f"{name}, seed {seed}")
                folder = args.models_dir / f"{name.replace(' ', '_').replace(',', '')}_seed{seed}"
                job = replace(recipe, seed=seed), data
                bar_below = {"leave": False, "position": 1, "desc": folder.name}
                own = with_fewer_images(*job) if name == FEWER else job
                train_unless_finished(*own, folder, machine=machine, bar=bar_below)
                histories[name].append(pd.read_csv(folder / "history.csv"))
                bar.update()
    print(markdown(tabulate(histories, recipes, strong)))


def recipe_of(name: str, auto: Recipe) -> Recipe:
    """The recipe of a row."""
    one = replace(one_mlp(auto), kernel_share=0.0)
    added = {field: getattr(auto, field) for field in ADDED.get(name, ())}
    return OTHERS.get(name) or replace(one, **CHANGES.get(name, {}), **added)


def first_images(data: TrainingData, count: int) -> TrainingData:
    """Some of the images, in an order of their names' hashes. Raises InputError if there are no more."""
    if not 1 < count < data.record.train_images:
        raise InputError(f"--images {count}: expected more than 1 and fewer than {data.record.train_images:,}")
    names = data.train.pairs.image_names
    return data.without(validation_images(names, 1 - count / len(names), 0), f"all but {count} images")


def with_fewer_images(recipe: Recipe, data: TrainingData) -> tuple[Recipe, TrainingData]:
    """The recipe, and the data without as large a share of the images that train as those are that validate of all. The
    same validate: they are the first of an order by which more or fewer of the others make no difference."""
    names, seed = data.train.pairs.image_names, recipe.effective_split_seed
    validates = np.zeros(len(names), np.bool_)
    validates[data.images] = validation_images(names[data.images], recipe.val_fraction, seed)
    trains = data.images & ~validates
    left_out = trains.copy()
    left_out[trains] = validation_images(names[trains], recipe.val_fraction, seed + 1)
    fewer = data.without(left_out, f"a part that seed {seed} trains on")
    return replace(recipe, val_fraction=float(validates.sum() / fewer.images.sum())), fewer


def tabulate(histories: dict[str, list[pd.DataFrame]], recipes: dict[str, Recipe], strong: Recipe) -> list[list[str]]:
    """A row for each recipe: the MRR, mean ± s.d. over seeds; the mean difference, ± its standard error; mean seconds
    to the baseline's best MRR by the same seed ("–" if not by all seeds), and to its own."""
    mrrs = {name: [history.mrr.max() for history in of_seeds] for name, of_seeds in histories.items()}
    first, rows = next(iter(mrrs.values())), [["recipe", *SPREAD, "s to the baseline's best", "s to its best"]]
    for name, of_seeds in histories.items():
        changes = name if recipes[name].name != strong.name else difference(recipes[name], strong) or name
        targets = mrrs.get(BASELINE.name, [math.inf] * len(of_seeds))
        to_baseline = [seconds_to(*pair) for pair in zip(of_seeds, targets, strict=True)]
        to_best = [seconds_to(*pair) for pair in zip(of_seeds, mrrs[name], strict=True)]
        rows.append([changes, *spread_of(mrrs[name], first), *map(_mean_seconds, (to_baseline, to_best))])
    return rows


def seconds_to(history: pd.DataFrame, mrr: float) -> float:
    """Of training up to the first epoch that is as good; infinite if none is."""
    return float(history.seconds.cumsum()[history.mrr >= mrr].min()) if (history.mrr >= mrr).any() else math.inf


def _mean_seconds(seconds: list[float]) -> str:
    return f"{np.mean(seconds):.0f}" if np.isfinite(seconds).all() else "–"


if __name__ == "__main__":
    run_main(main)
