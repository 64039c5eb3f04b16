"""The members of an ensemble: one recipe, many seeds; which script trains them, and where their submissions lie."""

import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from src.common.files import InputError
from src.common.paths import MODELS_DIR
from src.training.recipe import BASELINE, Recipe
from src.training.runs import SUBMISSION, folder_name, intact_submission

# The recipes of members that are unlike each other, in the order in which they pay: `kernel` takes seconds.
UNLIKE = ("kernel", "auto")


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """Models that differ in their seeds only.

    dataset: what train_npz is called for short. reference_mrr: the seeds, with the validation MRR to be reproduced,
    None where none was recorded.
    """

    script: str
    dataset: str
    train_npz: Path
    recipe: Recipe
    reference_mrr: Mapping[int, float | None]

    def members(self, *seeds: int) -> tuple["Member", ...]:
        """The members of these seeds; of all seeds if none is given."""
        return tuple(Member(self, seed) for seed in seeds or self.reference_mrr)

    def given_up(self, recipe: Recipe) -> str:
        """What makes these models different from those of other scripts, their length apart, and `recipe` has not, as
        "batch_size=5000, optimizer=adamw"."""
        own = asdict(self.recipe).items()
        distinct = {name: value for name, value in own if value != getattr(BASELINE, name)}
        lost = [name for name in distinct if name not in ("name", "epochs") and getattr(recipe, name) != distinct[name]]
        return ", ".join(f"{name}={distinct[name]}" for name in lost)


@dataclass(frozen=True)
class Member:
    ensemble: Ensemble
    seed: int

    @property
    def recipe(self) -> Recipe:
        return replace(self.ensemble.recipe, seed=self.seed)

    @property
    def run_name(self) -> str:
        """Of its folder in models/. The recipe's name tells the ensemble: a seed can be in several."""
        return folder_name(self.recipe, self.ensemble.recipe)


def member_files(members: Sequence[Member], models_dir: Path) -> list[Path]:
    """The members' submissions. Raises InputError that names those missing or changed, and the commands that make
    them."""
    files = [intact_submission(models_dir / member.run_name) for member in members]
    missing = [member for member, file in zip(members, files, strict=True) if file is None]
    if missing:
        first = models_dir / missing[0].run_name / SUBMISSION
        reason = "is not the one that its run recorded" if first.exists() else "no such file"
        others = f", nor those of {len(missing) - 1} other members" if len(missing) > 1 else ""
        where = "" if models_dir == MODELS_DIR else f" --models-dir {shlex.quote(str(models_dir))}"
        seeds: dict[str, str] = defaultdict(str)  # by script
        for member in missing:
            seeds[member.ensemble.script] += f" {member.seed}"
        commands = " and ".join(f"`python {script} --seeds{some}{where}`" for script, some in seeds.items())
        raise InputError(f"{first}: {reason}{others}; run {commands}")
    return [file for file in files if file]
