"""Filter caption-image pairs by a translator: keep captions whose own image is among the first k of all images.

    python -m src.topk_filter_pairs                          # k = 50, ranks by the best run of train_mrr.py
    python -m src.topk_filter_pairs --top-k 20               # another cut of the same ranks
    python -m src.topk_filter_pairs --folds 5                # ranks by five models, none of which saw the image
    python -m src.topk_filter_pairs --folds 5 --epochs 30    # with another recipe for these
    torchrun --nproc-per-node=5 -m src.topk_filter_pairs --folds 5      # on five GPUs: each trains the next fold

A model has seen the pairs that it was trained on, wrong ones too, so their ranks flatter them. --folds K trains K
models, each without one part of the images, and ranks every caption by the one that never saw its image; a run that
was stopped continues with the fold where it was. Their recipe is that of train_mrr.py --recipe auto, suited to the
number of captions, with one MLP; the defaults below are those for many captions. Images that a model knows draw its
predictions, so out of fold the same k drops more, right captions too: look at the report and raise it, or drop nothing
and train with --soft. What visualize_split_top_50.ipynb decides about single captions overrides the cut. With train.npz
and k = 50 this writes to --output-dir

    train_clean_top50.npz              the kept captions and all images, laid out as the input
    train_clean_top50.keep.npz         ids, ranks, what is kept and why; for --keep-list [--soft] of the trainers
    train_clean_top50.png              the ranks with the cut, the worst and the best pairs
    train_suspect_top50.npz            the other captions, if there are any
    train_ranks.csv, train_ranks.json  every caption's rank, score and the five images it prefers; what ranked them

(train_folds5_… with --folds 5) and, the next time, uses ranks that are there if they are of the same pairs by the same
model.
"""

from pathlib import Path

from src.common.cli import (
    Parser,
    add_machine_arguments,
    command,
    positive_int,
    print_next,
    print_settings,
    record_arguments,
)
from src.common.endings import run_main
from src.common.files import InputError
from src.common.paths import FILTERED_DIR, IMAGES_ROOT, MODELS_DIR, TRAIN_NPZ
from src.flags import add_recipe_arguments, override, recipe_changes
from src.training.recipe import AUTO, flag_of, one_mlp


def main(argv: list[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("--input-npz", type=Path, default=TRAIN_NPZ, help="caption-image pairs to filter")
    parser.add_argument("--images-root", type=Path, default=IMAGES_ROOT, help="folder of the images, for the report")
    parser.add_argument("--output-dir", type=Path, default=FILTERED_DIR, help="where everything is written")
    parser.add_argument("--top-k", type=positive_int, default=50, help="the worst rank that is kept")
    parser.add_argument("--weights", type=Path, help="of the translator that ranks (default: the best run's)")
    parser.add_argument("--folds", type=positive_int, help="rank out of fold, by so many models of the recipe below")
    parser.add_argument("--models-dir", type=Path, default=MODELS_DIR, help="of trained models; folds get topk_folds/")
    decisions = "of the review, or none (default: review_decisions.csv in --output-dir, if it exists)"
    parser.add_argument("--decisions", metavar="CSV", help=decisions)
    add_machine_arguments(parser)
    recipe = one_mlp(AUTO)
    add_recipe_arguments(parser, recipe)
    args = parser.parse_args(argv)
    changes = recipe_changes(args)
    override(recipe, args)  # values that cannot be used end it here
    of_folds = [*changes, "precision"] if args.precision != "auto" else [*changes]
    if of_folds and not args.folds:
        raise InputError(f"{flag_of(of_folds[0])}: is of the models that --folds K trains; there are none")
    if args.folds and args.weights:
        raise InputError("--weights and --folds: ranks come from the one or from the others")

    from src.filters.topk import TopK, TopKFilter
    from src.training.machine import choose_machine
    from src.training.world import join_world

    machine = choose_machine(args.device, args.precision)
    world = join_world(machine.device)
    settings = TopKFilter(
        input_npz=args.input_npz,
        images_root=args.images_root,
        output_dir=args.output_dir,
        models_dir=args.models_dir,
        top_k=args.top_k,
        weights=args.weights,
        folds=args.folds,
        fold_changes=changes,
        decisions_csv=Path(args.decisions) if args.decisions else None,
        honour_decisions=args.decisions != "none",
    )
    topk = TopK(settings, machine, world)
    print_settings("filtering caption-image pairs by the rank of their image", topk.describe())
    topk.rank()
    if world.first:
        title, summary = topk.export(record_arguments(args))
        print_settings(title, summary)
        train = command(
            "python train_mrr.py", "--keep-list", summary["keep-list"], train_npz=(args.input_npz, TRAIN_NPZ)
        )
        print_next(train, f"{train} --soft")


if __name__ == "__main__":
    run_main(main, several=True)
