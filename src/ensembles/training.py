"""Train the members of an ensemble: one recipe, many seeds. What the three ensemble trainers share.

A member's folder is models/<recipe>_seed<seed>/ and its submission lies in it. The state of the folders says what is
left to do: a finished member is not trained again, an interrupted one continues, and a finished one whose
submission is gone or is of other test captions predicts again.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from src.common.cli import TRAIN_NPZ, HelpFormatter, resolve_device, resolve_precision
from src.common.files import InputError, require_file
from src.data.submissions import check_submission
from src.inventory import CLIP_NPZ, seeds_of
from src.training.inputs import TrainingData, open_training_data
from src.training.job import add_job_arguments, check_run_dir, predict_again, print_job, train_run
from src.training.recipe import RECIPES, Recipe, add_recipe_arguments, difference, load_recipe, override
from src.training.runs import LAST, read_run

TO_TRAIN, TO_RESUME, TO_PREDICT, FINISHED, FAILED = "to train", "to resume", "to predict", "finished", "failed"


@dataclass(frozen=True)
class Member:
    """One seed of the ensemble, its folder, and what is left to do for it."""

    recipe: Recipe
    run_dir: Path
    state: str

    @property
    def submission(self) -> Path:
        return self.run_dir / "submission.csv"


def train_members(argv: list[str] | None, script: Path, doc: str, recipe: Recipe, train_npz: Path) -> None:
    """The whole of an ensemble trainer's `main`. Raises InputError, at the end, if a seed failed."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=HelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=seeds_of(script.name), help="the members to train")
    parser.add_argument("--dry-run", action="store_true", help="only list what would be trained and what exists")
    parser.add_argument("--recipe", default=recipe.name, help=f"{', '.join(RECIPES)}, or a JSON file of its fields")
    add_job_arguments(parser, train_npz=train_npz)
    add_recipe_arguments(parser, recipe, without=("seed",))
    args = parser.parse_args(argv)

    if args.train_npz == CLIP_NPZ:
        require_file(CLIP_NPZ, "make it with `python -m src.clip_filter_pairs`")
        args.val_npz = args.val_npz or TRAIN_NPZ  # the figure that counts is on captions that no filter made easier
    device = resolve_device(args.device)
    precision = resolve_precision(args.precision, device)
    base = replace(load_recipe(args.recipe), name=recipe.name)  # a member keeps its name, by which it is combined
    recipes = [replace(override(base, args), seed=seed) for seed in dict.fromkeys(args.seeds)]
    data = open_training_data(args)
    members = [plan(member, data, args.models_dir) for member in recipes]
    changes = difference(recipes[0], base)
    settings = {
        "recipe": f"{args.recipe}{f' with {changes}' if changes else ''}",
        "split": "by each seed" if recipes[0].split_seed is None else f"common, by seed {recipes[0].split_seed}",
        "seeds": " ".join(str(member.recipe.seed) for member in members),
        "device, precision": f"{device}, {precision}",
        "runs": args.models_dir / f"{recipe.name}_seed*",
    }
    print_job(f"Training {len(members)} ensemble members", data, args, settings)
    if args.dry_run:
        print_members(members)
        return
    failures = work_through(members, data, device, precision)
    ended = [FAILED if member.recipe.seed in failures else FINISHED for member in members]
    print_members([replace(member, state=state) for member, state in zip(members, ended, strict=True)])
    if failures:
        reasons = "; ".join(f"seed {seed}: {reason}" for seed, reason in failures.items())
        raise InputError(f"{len(failures)} of {len(members)} members failed: {reasons}")


def plan(recipe: Recipe, data: TrainingData, models_dir: Path) -> Member:
    """What is left to do for a member. Raises InputError if its folder holds another run."""
    member = Member(recipe, models_dir / f"{recipe.name}_seed{recipe.seed}", FINISHED)
    status = check_run_dir(member.run_dir, recipe, data)
    if status != "finished":
        resumable = status == "running" and (member.run_dir / LAST).exists()
        return replace(member, state=TO_RESUME if resumable else TO_TRAIN)
    predicted = read_run(member.run_dir)["data"].get("test_fingerprint")
    if not member.submission.exists() or predicted != data.record["test_fingerprint"]:
        return replace(member, state=TO_PREDICT)
    return member


def work_through(members: list[Member], data: TrainingData, device: torch.device, precision: str) -> dict[int, str]:
    """Do what is left to do, one member after the other. Returns {seed: reason} of those that failed."""
    failures = {}
    with tqdm(members, desc="members", unit="member", position=0) as progress:
        for member in progress:
            progress.set_postfix_str(f"seed {member.recipe.seed}")
            try:
                if member.state in (TO_TRAIN, TO_RESUME):
                    train_run(
                        member.recipe,
                        data,
                        member.run_dir,
                        device=device,
                        precision=precision,
                        resume=member.state == TO_RESUME,
                        submission=member.submission,
                        bar={"desc": member.run_dir.name, "position": 1, "leave": False},
                    )
                elif member.state == TO_PREDICT:
                    predict_again(member.run_dir, data, member.submission, device)
                if member.state != FINISHED:
                    check_submission(member.submission, data.test, data.pairs.image_embeddings.shape[1])
            except InputError as error:
                failures[member.recipe.seed] = str(error)
    return failures


def print_members(members: list[Member]) -> None:
    """The table of the runs, and the mean and standard deviation of their MRR."""
    table = pd.DataFrame([_row(member) for member in members])
    print(table.to_string(index=False, na_rep="-", float_format="{:.4f}".format))
    if "MRR" in table:
        scores = table["MRR"].dropna()
        print(f"validation MRR: {scores.mean():.4f} ± {scores.std(ddof=0):.4f} (mean ± s.d., n = {len(scores)})")


def _row(member: Member) -> dict[str, Any]:
    row = {"seed": member.recipe.seed, "state": member.state, "run": member.run_dir}
    record = read_run(member.run_dir)
    if record is None or "results" not in record:
        return row
    results = record["results"]
    row |= {
        "epoch": f"{results['best_epoch']}/{results['epochs']}",
        "minutes": f"{results['training_seconds'] / 60:.1f}",
    }
    row |= {"MRR": results["mrr"], "R@10": results["recall_at_10"], "challenge MRR": results["challenge_mrr"]}
    if "own_validation" in results:
        row["MRR on own captions"] = results["own_validation"]["mrr"]
    return row
