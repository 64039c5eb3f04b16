"""Train the members of an ensemble, as far as their folders say that it is left to do."""

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from src.common.files import InputError
from src.common.progress import Progress
from src.training.inputs import TrainingData
from src.training.job import predict_again, train_run
from src.training.machine import Machine
from src.training.recipe import Recipe
from src.training.runs import SUBMISSION, State, folder_name, intact_submission, read_run, recorded_runs, state_of

TO_PREDICT = "to predict"  # finished, but without a submission of the test captions


@dataclass(frozen=True)
class Task:
    """A member's recipe and folder. state: a State or TO_PREDICT; reason: why it failed."""

    recipe: Recipe
    run_dir: Path
    state: str
    reason: str | None = None


def plan(recipe: Recipe, data: TrainingData, run_dir: Path) -> Task:
    """What is left to do for a member. Raises InputError if its folder holds another run."""
    state: str = state_of(run_dir, recipe, data.record)
    if state == State.FINISHED:
        record = read_run(run_dir)
        predicted = record and record.data.test_fingerprint == data.record.test_fingerprint
        if not predicted or intact_submission(run_dir) != run_dir / SUBMISSION:
            state = TO_PREDICT
    elif state != State.TO_RESUME:
        state = State.NEW
    return Task(recipe, run_dir, state)


def carry_out(task: Task, data: TrainingData, machine: Machine, log: str = "none") -> Task:
    """Do what is left to do, with a `log` as of `train_run`. Returns how it ended: finished or failed."""
    try:
        if task.state == TO_PREDICT:
            predict_again(task.run_dir, data, machine)
        elif task.state != State.FINISHED:
            resume = task.state == State.TO_RESUME
            bar = {"desc": task.run_dir.name, "position": 1, "leave": False}  # below the one of all members
            how: dict[str, Any] = {"machine": machine, "resume": resume, "log": log, "bar": bar}
            train_run(task.recipe, data, task.run_dir, predict=True, linear=True, **how)
    except InputError as error:
        return replace(task, state=State.FAILED, reason=str(error))
    return replace(task, state=State.FINISHED)


def train_in_turn(
    recipes: Sequence[Recipe], seconds: float, data: TrainingData, machine: Machine, models_dir: Path, log: str = "none"
) -> list[Task]:
    """Train members of the recipes in turn, by seeds 0, 1, … (those in closed form by 0 alone), for so many seconds,
    among them those that finished members recorded. Returns all that are finished, and those that failed.

    A member is started if time is left, and no less than the longest finished one of its recipe took. A recipe ends
    with the first of its members that does not fit in or that fails.
    """
    took = {recipe: _recorded_seconds(recipe, models_dir) for recipe in recipes}
    ends = time.monotonic() + seconds - sum(map(sum, took.values()))
    tasks: list[Task] = []
    going = list(recipes)
    with Progress(desc="members", unit="member", position=0) as bar:
        for seed in itertools.count():
            if not going:
                break
            for recipe in tuple(going):
                member = replace(recipe, seed=seed)
                task = plan(member, data, models_dir / folder_name(member, recipe))
                left = ends - time.monotonic()
                bar.set_postfix_str(f"{max(left, 0) / 60:.1f} minutes left")
                if task.state in (State.NEW, State.TO_RESUME) and max(took[recipe], default=0) >= left:
                    going.remove(recipe)
                    continue
                tasks.append(carry_out(task, data, machine, log))
                bar.update()
                took[recipe] = _recorded_seconds(recipe, models_dir)
                if tasks[-1].state == State.FAILED or recipe.model != "mlp":
                    going.remove(recipe)
    return tasks


def _recorded_seconds(recipe: Recipe, models_dir: Path) -> list[float]:
    """What the finished runs of a recipe, by any seed, took to train."""
    finished = [record for _, record in recorded_runs(models_dir) if record.status == State.FINISHED]
    of_recipe = [record.results for record in finished if replace(record.recipe, seed=recipe.seed) == recipe]
    seconds = [each.training_seconds + (each.refit_seconds or 0.0) for each in of_recipe if each]
    return [each for each in seconds if math.isfinite(each)]


def tabulate(tasks: Sequence[Task]) -> pd.DataFrame:
    """A row for each member, with the figures of those that have been trained."""
    rows = []
    for task in tasks:
        row: dict[str, Any] = {"seed": task.recipe.seed, "state": task.state, "run": task.run_dir}
        record = read_run(task.run_dir)
        if record and (results := record.results):
            row["epoch"] = f"{results.best_epoch}/{results.epochs}"
            row["minutes"] = f"{results.training_seconds / 60:.1f}"
            row["MRR"], row["R@10"] = results.mrr, results.measures["recall_at_10"]
            if results.linear_mrr is not None:
                row["linear map's MRR"] = results.linear_mrr
            row["challenge MRR"] = results.measures["challenge_mrr"]
            if record.submission and record.submission.notes:
                row["its submission"] = "; ".join(record.submission.notes)
            if results.own_measures:
                row["MRR on own captions"] = results.own_measures["mrr"]
        rows.append(row)
    return pd.DataFrame(rows)
