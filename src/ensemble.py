"""Ensembles: average submissions, measure means of runs, choose which runs to average.

    python -m src.ensemble combine a.csv b.csv --output submission_ab.csv       # any submissions
    python -m src.ensemble evaluate models/common_split                         # how good the mean of runs is
    python -m src.ensemble select models/common_split                           # which of them to average

The ensembles of the inventory have scripts of their own: ensemble_combine_CSVs_16seeds.py and
ensemble_combine_CSVs_all_23seeds.py.
"""

import argparse
from pathlib import Path

from src.common.cli import HelpFormatter, run
from src.ensembles import averaging as ensemble_averaging
from src.ensembles import evaluation as ensemble_evaluation
from src.ensembles import selection as ensemble_selection


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)

    def add_command(name: str, help: str, doc: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=help, description=doc, formatter_class=HelpFormatter)

    averaging = add_command("combine", "average submissions", ensemble_averaging.__doc__)
    averaging.add_argument("files", type=Path, nargs="+", metavar="CSV", help="the submissions to average")
    ensemble_averaging.add_combine_arguments(averaging)
    evaluation = add_command("evaluate", "measure the mean of runs", ensemble_evaluation.__doc__)
    ensemble_evaluation.add_evaluate_arguments(evaluation)
    selection = add_command("select", "choose which runs to average", ensemble_selection.__doc__)
    ensemble_selection.add_select_arguments(selection)
    args = parser.parse_args(argv)
    if args.command == "combine":
        ensemble_averaging.combine(args.files, args)
    elif args.command == "evaluate":
        ensemble_evaluation.evaluate_runs(args)
    else:
        ensemble_selection.select_runs(args)


if __name__ == "__main__":
    run(main)
