"""The 23 models of the ensembles: which script trains which seeds, and which 16 of them make the smaller ensemble.

python -m src.inventory        # the table of the README, with the figures of the runs in models/
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.common.cli import MODELS_DIR, HelpFormatter, run
from src.training.recipe import RECIPES, Recipe
from src.training.runs import read_run

CLIP_NPZ = Path("data/filtered/train_clip_q0.10_from_raw.npz")


@dataclass(frozen=True)
class Member:
    """One model. reference_mrr is the validation MRR that is to be reproduced, None where none was recorded."""

    script: str
    recipe_name: str
    dataset: str
    seed: int
    in_16: bool
    reference_mrr: float | None

    @property
    def run_name(self) -> str:
        """Of its folder in models/. The recipe's name tells the dataset, so that seed 42 can occur twice."""
        return f"{self.recipe_name}_seed{self.seed}"


def _members(
    script: str, recipe_name: str, dataset: str, in_16: dict[int, float | None], others: dict[int, float | None]
) -> tuple[Member, ...]:
    return tuple(
        Member(script, recipe_name, dataset, seed, seed in in_16, mrr) for seed, mrr in (in_16 | others).items()
    )


ALL_23 = (
    *_members(
        "train_mrr_Ensemble_old_dataset.py",
        "ensemble_raw",
        "raw",
        in_16={
            42: None,
            1337: None,
            2025: 0.568535,
            31415: 0.578568,
            123456: 0.554589,
            7: 0.567784,
            111: 0.567888,
            7777: 0.567649,
            271828: 0.571855,
            98765: 0.573338,
            4: 0.567313,
        },
        others={},
    ),
    *_members(
        "train_mrr_Ensemble_new_dataset_CLIP.py",
        "ensemble_clip",
        "CLIP-filtered",
        in_16={8: 0.587656, 26: 0.593147, 256: 0.588814},
        others={4096: 0.598578, 8888: 0.598682, 1234: 0.600019},
    ),
    *_members(
        "train_mrr_Ensemble_new_dataset_CLIP_AdamW_5_batches.py",
        "ensemble_clip_adamw",
        "CLIP-filtered",
        in_16={42: 0.594952, 322: 0.595863},
        others={323: 0.586454, 10000: 0.593430, 100001: 0.593381, 100002: 0.593694},
    ),
)
THE_16 = tuple(member for member in ALL_23 if member.in_16)


def seeds_of(script: str) -> list[int]:
    """The seeds that a script trains, by its file name."""
    return [member.seed for member in ALL_23 if member.script == script]


def training_commands(members: list[Member], models_dir: Path) -> str:
    """The commands that train `members`, one a script."""
    seeds: dict[str, list[int]] = {}
    for member in members:
        seeds.setdefault(member.script, []).append(member.seed)
    where = "" if models_dir == MODELS_DIR else f" --models-dir {models_dir}"
    return " and ".join(f"`python {script} --seeds {' '.join(map(str, of))}{where}`" for script, of in seeds.items())


def validation_mrrs(member: Member, record: dict[str, Any]) -> tuple[float | None, float | None]:
    """A run's validation MRR on captions of its own dataset and on unfiltered ones; None for what was not measured."""
    results = record["results"]
    if "own_validation" in results:
        return results["own_validation"]["mrr"], results["mrr"]
    return results["mrr"], results["mrr"] if member.dataset == "raw" else None


def table(models_dir: Path) -> str:
    """The inventory as a Markdown table, with the figures of the finished runs in `models_dir`."""
    lines = [
        "| Script | Seed | Config | Val MRR, reference | Val MRR | on unfiltered captions | in the 16 |",
        "| --- | ---: | --- | ---: | ---: | ---: | :---: |",
    ]
    for member in ALL_23:
        record = read_run(models_dir / member.run_name) or {}
        own, unfiltered = validation_mrrs(member, record) if record.get("status") == "finished" else (None, None)
        figures = (f"{mrr:.6f}" if mrr is not None else "–" for mrr in (member.reference_mrr, own, unfiltered))
        cells = (f"`{member.script}`", member.seed, _config(member, record), *figures, "yes" if member.in_16 else "")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _config(member: Member, record: dict[str, Any]) -> str:
    """What tells the scripts apart or, of a run by another named recipe, which; and what the run changed in it."""
    own = RECIPES[member.recipe_name]
    values = record.get("recipe", {})

    def changes(recipe: Recipe) -> list[str]:
        ours = {name: value for name, value in values.items() if name not in ("name", "seed")}
        return [f"{name}={value}" for name, value in ours.items() if value != getattr(recipe, name, None)]

    nearest = min((own, *RECIPES.values()), key=lambda recipe: len(changes(recipe)))
    how = f"batch {own.batch_size}, {own.optimizer}" if nearest is own else f"recipe {nearest.name}"
    return "; with ".join(filter(None, (f"{member.dataset}, {how}", ", ".join(changes(nearest)))))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--models-dir", type=Path, default=MODELS_DIR, help="where the runs are")
    args = parser.parse_args(argv)
    print(table(args.models_dir))


if __name__ == "__main__":
    run(main)
