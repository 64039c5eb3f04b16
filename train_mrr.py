#!/usr/bin/env python
"""Train one translator and write its submission: the baseline.

    python train_mrr.py                                  # data/train/train.npz, the baseline recipe, seed 43
    python train_mrr.py --lr 1e-3 --tau 0.02             # the same with other hyperparameters
    python train_mrr.py --resume                         # continue after an interruption
    python train_mrr.py --train-npz data/filtered/train_clip_q0.10_from_raw.npz --val-npz data/train/train.npz

Everything about the run goes to models/<run name>/: weights, history, curves, run.json. The submission is checked
before the script ends.
"""

import argparse
from pathlib import Path

from src.common.cli import HelpFormatter, resolve_device, resolve_precision, run
from src.common.files import InputError
from src.data.submissions import check_submission
from src.training.inputs import open_training_data
from src.training.job import add_job_arguments, check_run_dir, print_job, print_result, run_name, train_run
from src.training.recipe import BASELINE, RECIPES, add_recipe_arguments, difference, load_recipe, override


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--recipe", default="baseline", help=f"{', '.join(RECIPES)}, or a JSON file of its fields")
    add_job_arguments(parser)
    parser.add_argument("--run-name", help="of the folder in --models-dir (default: from recipe, data and seed)")
    parser.add_argument(
        "--submission", help="the CSV to write, or none (default: submission_mrr_<recipe>.csv)", metavar="CSV"
    )
    parser.add_argument("--resume", action="store_true", help="continue the interrupted run of the same name")
    add_recipe_arguments(parser, BASELINE)
    args = parser.parse_args(argv)

    base = load_recipe(args.recipe)
    recipe = override(base, args)
    device = resolve_device(args.device)
    precision = resolve_precision(args.precision, device)
    submission = None if args.submission == "none" else Path(args.submission or f"submission_mrr_{recipe.name}.csv")
    data = open_training_data(args, with_test=submission is not None)
    changes = difference(recipe, base)
    run_dir = args.models_dir / (args.run_name or run_name(recipe, base, data.tag))
    status = check_run_dir(run_dir, recipe, data)
    if status == "finished" and args.resume:
        raise InputError(f"{run_dir}: is finished; start without --resume to train it anew")
    print_job(
        "Training a translator",
        data,
        args,
        {
            "recipe": f"{recipe.name}{f' with {changes}' if changes else ''}, seed {recipe.seed}",
            "device, precision": f"{device}, {precision}",
            "run": f"{run_dir}{f' (replaces the {status} one)' if status and not args.resume else ''}",
        },
    )
    record = train_run(
        recipe, data, run_dir, device=device, precision=precision, resume=args.resume, submission=submission
    )
    print_result(record, run_dir)
    if submission:
        check_submission(submission, data.test, data.pairs.image_embeddings.shape[1])


if __name__ == "__main__":
    run(main)
