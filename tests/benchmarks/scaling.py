"""How much faster several processes are than one, by the scripts themselves as torchrun starts them.

    python -m tests.benchmarks.scaling                        # one and two processes, on the data in data/
    python -m tests.benchmarks.scaling --processes 1 2 4 8    # as on a machine with eight GPUs

Two kinds of work: one model, each process with its share of every batch, in captions a second of an epoch (the median,
without the first); and the members of an ensemble, shared out by seeds, in seconds from the start of the script to its
end. On CPU the cores are divided among the processes, so that a ratio of 1 is what there is to hope for; on GPUs each
process has one, and the ratio should come near to their number.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch

from src.common.cli import Parser, add_machine_arguments, positive_int, print_settings
from src.common.endings import run_main
from src.common.files import InputError, require_file
from src.common.paths import TRAIN_NPZ
from src.common.progress import Progress
from src.training.machine import choose_machine
from tests.benchmarks.measuring import REPO, describe_cpu, markdown


def main(argv: list[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("--train-npz", type=Path, default=TRAIN_NPZ, help="pairs to train on")
    parser.add_argument("--processes", type=positive_int, nargs="+", default=[1, 2], help="how many, in turns")
    parser.add_argument("--recipe", default="baseline", help="of both kinds of work")
    parser.add_argument("--epochs", type=positive_int, default=4, help="of each training")
    parser.add_argument("--seeds", type=positive_int, default=4, help="members of the ensemble")
    parser.add_argument("--hidden-dim", type=positive_int, help="another width than the recipe's")
    add_machine_arguments(parser)
    args = parser.parse_args(argv)
    train_npz, machine = require_file(args.train_npz).resolve(), choose_machine(args.device, args.precision)
    settings = {
        "pairs": args.train_npz,
        "recipe": f"{args.recipe}, {args.epochs} epochs",
        "CPU": describe_cpu(),
        "GPU": torch.cuda.get_device_name() if machine.device.type == "cuda" else "none",
        "device, precision": machine,
        "load before": f"{os.getloadavg()[0]:.1f} processes; others than these make the figures worse",
    }
    print_settings("Several processes against one", settings)
    flags = ["--train-npz", train_npz, "--recipe", args.recipe, "--epochs", args.epochs, "--patience", 0]
    flags += ["--device", machine.device.type, "--precision", machine.precision]
    flags += ["--hidden-dim", args.hidden_dim] if args.hidden_dim else []
    model: dict[int, float] = {}
    members: dict[int, float] = {}
    for processes in Progress(args.processes, desc="measuring", unit="number of processes"):
        with tempfile.TemporaryDirectory() as folder:
            to = ["--models-dir", folder]
            start(processes, "train_mrr.py", *flags, *to, "--run-name", "model", "--submission", "none")
            model[processes] = statistics.median(
                pd.read_csv(Path(folder) / "model/history.csv").captions_per_second[1:]
            )
            ensemble = ["train_mrr_Ensemble_old_dataset.py", "--seeds", *range(args.seeds)]
            members[processes] = start(processes, *ensemble, *flags, *to)
    rows = [["processes", "one model: captions/s", "ratio", f"{args.seeds} members: seconds", "ratio"]]
    first = args.processes[0]
    for processes in args.processes:
        rates = f"{model[processes]:,.0f}", f"{model[processes] / model[first]:.2f}"
        times = f"{members[processes]:.0f}", f"{members[first] / members[processes]:.2f}"
        rows.append([str(processes), *rates, *times])
    print(markdown(rows))


def start(processes: int, script: str, *arguments: object) -> float:
    """Run a script in so many processes, which share the cores. Returns the seconds. Raises InputError if it fails."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] * (processes > 1)
    threads = max(1, len(os.sched_getaffinity(0)) // processes)
    command = [sys.executable, *torchrun, str(REPO / script), *map(str, arguments)]
    started = time.perf_counter()
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", check=False)
    if run.returncode:
        raise InputError(f"{script} in {processes} processes failed: {run.stderr[-500:]}")
    return time.perf_counter() - started


if __name__ == "__main__":
    run_main(main)
