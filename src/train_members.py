"""What the ensemble trainers share: the command line, the table of the members, and how they end."""

from dataclasses import replace

from src.common.cli import CLIP_NPZ, Parser, print_settings
from src.common.files import InputError, require_file
from src.ensemble import print_table
from src.ensembles.members import Ensemble
from src.flags import add_job_arguments, add_recipe_arguments, data_paths, override
from src.training.recipe import RECIPES, describe, load_recipe


def train_members(argv: list[str] | None, doc: str | None, ensemble: Ensemble) -> None:
    """The whole of an ensemble trainer's `main`. Raises InputError, at the end, if a seed failed."""
    own = ensemble.recipe
    parser = Parser(doc)
    seeds = list(ensemble.reference_mrr)
    parser.add_argument("--seeds", type=int, nargs="+", default=seeds, help="the members to train")
    parser.add_argument("--dry-run", action="store_true", help="only list what would be trained and what exists")
    parser.add_argument(
        "--recipe", help=f"{', '.join(RECIPES)}, or a JSON file of its fields (default: the script's own, {own.name})"
    )
    add_job_arguments(parser, train_npz=ensemble.train_npz)
    add_recipe_arguments(parser, own, without=("seed",))
    args = parser.parse_args(argv)
    # A member keeps its recipe's name, by which it is combined.
    base = replace(load_recipe(args.recipe), name=own.name) if args.recipe else own
    recipe = override(base, args)
    if args.train_npz == CLIP_NPZ:
        require_file(CLIP_NPZ, "make it with `python -m src.clip_filter_pairs`")
    if args.train_npz == ensemble.train_npz:
        args.val_npz = args.val_npz or ensemble.val_npz

    from tqdm import tqdm

    from src.ensembles.training import carry_out, plan, tabulate
    from src.training.inputs import open_training_data
    from src.training.job import describe_data
    from src.training.machine import choose_machine

    machine, paths = choose_machine(args.device, args.precision), data_paths(args)
    data = open_training_data(paths, machine.device)
    members = ensemble.members(*dict.fromkeys(args.seeds))
    tasks = [plan(replace(recipe, seed=member.seed), data, args.models_dir / member.run_name) for member in members]
    settings = {
        "recipe": describe(recipe, replace(base, name=args.recipe or own.name)),
        "split": "by each seed" if recipe.split_seed is None else f"common, by seed {recipe.split_seed}",
        "seeds": " ".join(str(member.seed) for member in members),
        "device, precision": machine,
        "runs": args.models_dir / f"{own.name}_seed*",
    }
    print_settings(f"Training {len(members)} ensemble members", describe_data(paths, data) | settings)
    if not args.dry_run:
        tasks = [carry_out(task, data, machine) for task in tqdm(tasks, desc="members", unit="member", position=0)]
    table = tabulate(tasks)
    print_table(table)
    if "MRR" in table:
        scores = table["MRR"].dropna()
        print(f"validation MRR: {scores.mean():.4f} ± {scores.std(ddof=0):.4f} (mean ± s.d., n = {len(scores)})")
    failed = [f"seed {task.recipe.seed}: {task.reason}" for task in tasks if task.reason]
    if failed:
        raise InputError(f"{len(failed)} of {len(members)} members failed: {'; '.join(failed)}")
