"""The whole `main` of the scripts at the top that train or average the inventory's ensembles."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from src.common.cli import Parser, command, print_next, print_settings, print_table
from src.common.files import InputError, require_file, try_outputs
from src.common.paths import CLIP_NPZ, TRAIN_NPZ
from src.ensemble import add_combine_arguments, combine_files
from src.ensembles.members import Ensemble, Member, member_files
from src.flags import (
    add_job_arguments,
    add_log_argument,
    add_recipe_arguments,
    check_command,
    data_paths,
    override,
)
from src.training.recipe import RECIPE_HELP, describe_recipe, load_recipe, sized
from src.training.runs import RUN_JSON, SUBMISSION


def train_members(argv: list[str] | None, doc: str | None, ensemble: Ensemble) -> None:
    """Of an ensemble trainer. Raises InputError, at the end, if a seed failed."""
    parser, own = Parser(doc), ensemble.recipe
    parser.add_argument("--seeds", type=int, nargs="+", default=list(ensemble.reference_mrr), help="members to train")
    parser.add_argument("--dry-run", action="store_true", help="only list what would be trained and what exists")
    parser.add_argument("--recipe", help=f"{RECIPE_HELP} (default: the script's own, {own.name})")
    add_job_arguments(parser, train_npz=ensemble.train_npz)
    add_log_argument(parser)
    add_recipe_arguments(parser, own, without=("seed",))
    args = parser.parse_args(argv)
    base = load_recipe(args.recipe) if args.recipe else own
    override(base, args)  # values that cannot be used end it here
    if args.train_npz == CLIP_NPZ:
        require_file(CLIP_NPZ, "make it with `python -m src.clip_filter_pairs`")

    from src.common.progress import Progress
    from src.ensembles.training import carry_out, plan, tabulate
    from src.training.inputs import open_training_data
    from src.training.job import describe_data
    from src.training.machine import choose_machine
    from src.training.scalars import require_log
    from src.training.world import join_world

    require_log(args.log)
    machine, paths = choose_machine(args.device, args.precision), data_paths(args)
    world = join_world(machine.device)
    with world.one_after_the_first():
        data = open_training_data(paths, machine.device)
    # A member keeps its recipe's name, by which it is combined.
    base = replace(sized(base, len(data.train.pairs)), name=own.name)
    recipe = override(base, args)
    members = ensemble.members(*dict.fromkeys(args.seeds))
    tasks = [plan(replace(recipe, seed=member.seed), data, args.models_dir / member.run_name) for member in members]
    given_up = ensemble.given_up(recipe)
    settings = {
        "recipe": describe_recipe(recipe, replace(base, name=args.recipe or own.name)),
        **({"without its own": f"{given_up}, which make this script's models different"} if given_up else {}),
        "split": "by each seed" if recipe.split_seed is None else f"common, by seed {recipe.split_seed}",
        "seeds": " ".join(str(member.seed) for member in members),
        "device, precision": f"{machine}{world}",
        "runs": args.models_dir / f"{own.name}_seed*",
    }
    print_settings(f"Training {len(members)} ensemble members", describe_data(paths, data) | settings)
    if not args.dry_run:
        outputs = [task.run_dir / RUN_JSON for task in tasks]
        try_outputs(outputs, (paths.train_npz, paths.keep_list, paths.val_npz, paths.test_npz))
        carried_out = {}
        with Progress(total=len(tasks), desc="members", unit="member", position=0) as bar:
            for turn in world.dealt(len(tasks)):
                bar.update(turn - bar.n)
                carried_out[turn] = carry_out(tasks[turn], data, machine, args.log)
            for of_process in world.gathered(carried_out):
                carried_out |= of_process
            bar.update(len(tasks) - bar.n)
        tasks = [carried_out[turn] for turn in range(len(tasks))]
    if not world.first:
        return
    table = tabulate(tasks)
    print_table(table, key="run")
    if "MRR" in table:
        scores = table["MRR"].dropna()
        print(f"validation MRR: {scores.mean():.4f} ± {scores.std(ddof=0):.4f} (mean ± s.d., n = {len(scores)})")
    failed = [f"seed {task.recipe.seed}: {task.reason}" for task in tasks if task.reason]
    if failed:
        raise InputError(f"{len(failed)} of {len(members)} members failed: {'; '.join(failed)}")
    if args.dry_run:
        return
    folders = [task.run_dir for task in tasks]
    if len(folders) == 1:
        print_next(check_command(folders[0] / SUBMISSION, args))
    elif recipe.split_seed is not None:
        print_next(command("python -m src.ensemble select", *folders, on=(data.unfiltered, TRAIN_NPZ)))
    else:
        files, output = [folder / SUBMISSION for folder in folders], f"submission_{own.name}.csv"
        print_next(command("python -m src.ensemble combine", *files, "--output", output))


def combine_members(argv: list[str] | None, doc: str | None, members: Sequence[Member], output: Path) -> None:
    """Of a script that averages."""
    parser = Parser(doc)
    parser.add_argument("files", type=Path, nargs="*", metavar="CSV", help="average these instead of the members")
    add_combine_arguments(parser, output)
    args = parser.parse_args(argv)
    args.files = args.files or member_files(members, args.models_dir)
    combine_files(args)
