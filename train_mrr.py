#!/usr/bin/env python
"""Train one translator and write its submission: the baseline.

    python train_mrr.py                                  # data/train/train.npz, the baseline recipe, seed 43
    python train_mrr.py --recipe auto                    # the recipe to win by, suited to the number of captions
    python train_mrr.py --lr 1e-3 --tau 0.02             # the baseline with other hyperparameters
    python train_mrr.py --resume                         # continue after an interruption
    python train_mrr.py --log tensorboard                # watch it: tensorboard --logdir models; or wandb
    torchrun --nproc-per-node=4 train_mrr.py             # on four GPUs: each has a share of every batch
    python train_mrr.py --train-npz data/filtered/train_clip_q0.10_from_raw.npz

Everything about the run goes to models/<run name>/: weights, history, curves, run.json and the submission, checked, of
which submission_mrr_<recipe>.csv is a copy: always the last run's.
"""

from pathlib import Path
from typing import Any

from src.common.cli import Parser, command, print_next, print_settings
from src.common.endings import run_main
from src.common.files import InputError, copy_file, try_outputs
from src.common.paths import MODELS_DIR, TRAIN_NPZ
from src.common.processes import restarts
from src.flags import (
    add_job_arguments,
    add_log_argument,
    add_recipe_arguments,
    check_command,
    data_paths,
    override,
)
from src.training.recipe import BASELINE, RECIPE_HELP, describe_recipe, load_recipe, sized
from src.training.runs import BEST_MRR, CURVES, REFIT, RUN_JSON, SUBMISSION, RunRecord, State, folder_name, state_of


def main(argv: list[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("--recipe", default="baseline", help=RECIPE_HELP)
    add_job_arguments(parser)
    parser.add_argument("--run-name", help="of the folder in --models-dir (default: from recipe, data and seed)")
    parser.add_argument(
        "--submission",
        help="copy the run's submission to here; none: predict none (default: submission_mrr_<recipe>.csv)",
        metavar="CSV",
    )
    parser.add_argument("--resume", action="store_true", help="continue the interrupted run of the same name")
    add_log_argument(parser)
    add_recipe_arguments(parser, BASELINE)
    args = parser.parse_args(argv)
    base = load_recipe(args.recipe)
    override(base, args)  # values that cannot be used end it here

    from src.training.inputs import open_training_data  # after the command line: torch takes seconds to import
    from src.training.job import describe_data, help_to_train, train_run
    from src.training.machine import choose_machine
    from src.training.scalars import require_log
    from src.training.world import join_world

    require_log(args.log)
    machine = choose_machine(args.device, args.precision)
    world = join_world(machine.device)
    submission = None if args.submission == "none" else Path(args.submission or f"submission_mrr_{base.name}.csv")
    paths = data_paths(args, with_test=submission is not None)
    with world.one_after_the_first():
        data = open_training_data(paths, machine.device)
    base = sized(base, len(data.train.pairs))
    recipe = override(base, args)
    run_dir = args.models_dir / (args.run_name or folder_name(recipe, base, paths.tag))
    state = state_of(run_dir, recipe, data.record)
    args.resume |= state == State.TO_RESUME and restarts() > 0
    if state == State.FINISHED and args.resume:
        raise InputError(f"{run_dir}: is finished; start without --resume to train it anew")
    inputs = (paths.train_npz, paths.keep_list, paths.val_npz, paths.test_npz)
    try_outputs((run_dir / RUN_JSON, *([submission] if submission else [])), inputs)
    old = "interrupted" if state == State.TO_RESUME else state
    replaces = "" if state == State.NEW or args.resume else f" (replaces the {old} one)"
    settings = {
        "recipe": f"{describe_recipe(recipe, base)}, seed {recipe.seed}",
        "device, precision": f"{machine}{world}",
        "run": f"{run_dir}{replaces}",
    }
    print_settings("Training a translator", describe_data(paths, data) | settings)
    predict = submission is not None
    how: dict[str, Any] = {"machine": machine, "world": world, "resume": args.resume, "predict": predict}
    if not world.first:
        return help_to_train(recipe, data, run_dir, **how)
    record = train_run(recipe, data, run_dir, linear=True, log=args.log, **how)
    if submission:
        copy_file(run_dir / SUBMISSION, submission)
    print_result(record, run_dir, submission)
    steps = [check_command(submission, args)] if submission else []
    if not args.keep_list and data.validation is None:  # else a filter has been at work already
        where = {"input_npz": (args.train_npz, TRAIN_NPZ), "models_dir": (args.models_dir, MODELS_DIR)}
        steps.insert(0, command("python -m src.topk_filter_pairs --folds 5", **where))
    elif not submission:
        steps = [command("python -m src.ensemble evaluate", args.models_dir, on=(data.unfiltered, TRAIN_NPZ))]
    print_next(*steps)


def print_result(record: RunRecord, run_dir: Path, submission: Path | None) -> None:
    """Print how a run ended."""
    results, data, parameters = record.results, record.data, record.parameters
    assert results is not None, "it is finished"
    assert parameters is not None, "it is finished"
    measures = results.measures
    recalls = ", ".join(f"R@{k} {measures[f'recall_at_{k}']:.4f}" for k in (1, 5, 10))
    summary = {
        "best epoch": f"{results.best_epoch} of {results.epochs}; {results.stopped}",
        "training": f"{results.training_seconds:.0f} s, {parameters / 1e6:.1f} M parameters",
        "validation": f"MRR {results.mrr:.4f}, {recalls}, median rank {measures['median_rank']:g} "
        f"({data.val_captions:,} captions, {data.val_images:,} images)",
        "challenge protocol": f"MRR {measures['challenge_mrr']:.4f}, NDCG {measures['challenge_ndcg']:.4f}",
    }
    if record.recipe.model != "linear" and results.linear_mrr is not None:
        summary["a linear map"] = f"MRR {results.linear_mrr:.4f}, in closed form on the same captions (--recipe linear)"
    if results.own_measures:
        summary["on own captions"] = f"MRR {results.own_measures['mrr']:.4f} (as filtered)"
    summary |= {"weights": str(run_dir / BEST_MRR), "curves": str(run_dir / CURVES)}
    if results.refit_seconds is not None:
        images, epochs = f"all {data.train_images:,} images", f"{record.recipe.refit_epochs(results.best_epoch)} epochs"
        summary["predicts"] = f"{run_dir / REFIT}, trained on {images} for {epochs} in {results.refit_seconds:.0f} s"
    if record.submission:
        summary["submission"] = f"{record.submission.path}, copied to {submission}"
        summary |= {f"note {number}": note for number, note in enumerate(record.submission.notes, 1)}
    print_settings(f"{record.run_name}: validation MRR {results.mrr:.4f}", summary)


if __name__ == "__main__":
    run_main(main, several=True)
