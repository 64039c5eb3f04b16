"""The 23 models of the ensembles: which script trains which seeds, and which 16 of them make the smaller ensemble.

python -m src.inventory        # a table of them, with the figures of the runs in models/
"""

from pathlib import Path

from ensemble_combine_CSVs_16seeds import MEMBERS as THE_16
from ensemble_combine_CSVs_all_23seeds import MEMBERS as ALL_23
from src.common.cli import Parser
from src.common.endings import run_main
from src.common.files import InputError
from src.common.paths import MODELS_DIR
from src.ensembles.members import Member
from src.training.recipe import AUTO, RECIPES, SIZES, Recipe, difference, sized
from src.training.runs import State, read_run


def main(argv: list[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("--models-dir", type=Path, default=MODELS_DIR, help="where the runs are")
    args = parser.parse_args(argv)
    if args.models_dir != MODELS_DIR and not args.models_dir.is_dir():  # before any training there is no models/
        raise InputError(f"--models-dir {args.models_dir}: no such folder")
    print("| Script | Seed | Config | Val MRR, reference | Val MRR | on unfiltered captions | in the 16 |")
    print("| --- | ---: | --- | ---: | ---: | ---: | :---: |")
    for member in ALL_23:
        print(f"| {' | '.join(cells(member, args.models_dir))} |")


def cells(member: Member, models_dir: Path) -> list[str]:
    """A row of the table, with the figures of the member's run once it is finished."""
    ensemble, record = member.ensemble, read_run(models_dir / member.run_name)
    own = unfiltered = None
    if record and record.results and record.status == State.FINISHED:
        own = (record.results.own_measures or record.results.measures)["mrr"]
        if record.results.own_measures or ensemble.dataset == "raw":
            unfiltered = record.results.mrr
    mrrs = (ensemble.reference_mrr[member.seed], own, unfiltered)
    return [
        f"`{ensemble.script}`",
        str(member.seed),
        f"{ensemble.dataset}, {config(member.recipe, record.recipe if record else member.recipe)}",
        *("–" if mrr is None else f"{mrr:.6f}" for mrr in mrrs),
        "yes" if member in THE_16 else "",
    ]


def config(own: Recipe, trained: Recipe) -> str:
    """What tells the scripts' recipes apart or, of a run by another named recipe, which; and what the run changed."""
    named = (own, *RECIPES.values(), *(sized(AUTO, captions) for captions in SIZES))
    nearest = min(named, key=lambda recipe: difference(trained, recipe).count("="))
    how = f"batch {own.batch_size}, {own.optimizer}" if nearest is own else f"recipe {nearest.name}"
    changes = difference(trained, nearest).replace(",", ", ")
    return f"{how}; with {changes}" if changes else how


if __name__ == "__main__":
    run_main(main)
