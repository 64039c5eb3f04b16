"""Measure this code against a plain reference, in the same run, and print one table.

    python -m tests.benchmarks                           # a few minutes
    python -m tests.benchmarks --full                    # the challenge's size: an hour, 18 GB of memory, 4 GB of disk
    python -m tests.benchmarks --only open ranks         # some rows
    python -m tests.benchmarks --only time-to-mrr --time-to-mrr language/train.npz

The reference (tests/benchmarks/reference_*.py) loads with dict(np.load) and dense labels, trains with a DataLoader over
a TensorDataset, N×N logits and float32 Adam, ranks caption by caption, and reads CSVs with ast.literal_eval. Both run
in turns on the same data, and the best time of each counts. The floor is what the work cannot go below on this machine,
measured in the same run. Nothing here passes or fails: figures depend on the machine.
"""

import os
import tempfile
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

from src.common.cli import Parser, add_machine_arguments, print_settings
from src.common.endings import run_main
from src.common.files import require_file
from src.common.paths import TRAIN_NPZ
from src.common.progress import Progress
from src.data.npz import isal_zlib as zlib
from src.training.machine import choose_machine
from src.training.recipe import BASELINE, RECIPE_HELP, load_recipe
from tests.benchmarks.measuring import Row, Sizes, describe_cpu, markdown
from tests.benchmarks.opening import make_train_npz, measure_opening
from tests.benchmarks.ranking import measure_ranking
from tests.benchmarks.submissions import measure_submissions
from tests.benchmarks.time_to_mrr import measure_time_to_mrr
from tests.benchmarks.training import measure_gpu, measure_memory, measure_steps

FULL = Sizes()
DEFAULT = Sizes(captions=25_000, images=5_000, csv_rows=100)
TINY = Sizes(
    captions=100,
    images=20,
    text_dim=12,
    image_dim=16,
    hidden_dim=24,
    batch_size=50,
    ranked_captions=40,
    ranked_images=20,
    csv_files=3,
    csv_rows=4,
    repeats=1,
)
LONG = ("memory", "time-to-mrr")
ROWS = ("open", "step", "ranks", "csv", "gpu", *LONG)
HEADER = ["work", "size", "reference", "ours", "ratio", "floor (ours / floor)"]


def main(argv: list[str] | None = None) -> None:
    parser = Parser(__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--full", action="store_true", help="the challenge's size, and the long rows too")
    size.add_argument("--tiny", action="store_true", help="seconds, to see that it runs; the figures mean nothing")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=ROWS,
        metavar="ROW",
        help=f"{', '.join(ROWS)} (default: all with --full, else all but the last two)",
    )
    parser.add_argument("--time-to-mrr", type=Path, default=TRAIN_NPZ, metavar="NPZ", help="data of the last row")
    parser.add_argument("--recipe", default="auto", help=f"ours in that row: {RECIPE_HELP}")
    add_machine_arguments(parser)
    args = parser.parse_args(argv)

    sizes = FULL if args.full else TINY if args.tiny else DEFAULT
    wanted = args.only or [row for row in ROWS if args.full or row not in LONG]
    machine = choose_machine(args.device, args.precision)
    device = machine.device
    recipe = load_recipe(args.recipe)
    if "time-to-mrr" in wanted:
        require_file(args.time_to_mrr)
    packages = f"torch {torch.__version__}, numpy {version('numpy')}, orjson {version('orjson')}"
    print_settings(
        "Ours against the plain way",
        {
            "CPU": f"{describe_cpu()}, {torch.get_num_threads()} threads used",
            "GPU": torch.cuda.get_device_name(device) if device.type == "cuda" else "none",
            "versions": f"{packages}, inflating with {zlib.__name__}",
            "device, default precision": machine,
            "repeats": f"{sizes.repeats}, in turns; the best of each counts",
            "load before": f"{os.getloadavg()[0]:.1f} processes; others than this one make the times longer",
        },
    )
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)

        @cache
        def train_npz() -> Path:
            return make_train_npz(folder / "train.npz", sizes)

        measure = {
            "open": lambda: measure_opening(train_npz(), sizes),
            "step": lambda: measure_steps(sizes, machine),
            "ranks": lambda: measure_ranking(sizes, device),
            "csv": lambda: measure_submissions(folder, sizes),
            "gpu": lambda: measure_gpu(sizes, machine),
            "memory": lambda: measure_memory(train_npz(), sizes),
            "time-to-mrr": lambda: measure_time_to_mrr(args.time_to_mrr, BASELINE, recipe, machine),
        }
        rows = []
        try:
            for name in Progress(wanted, desc="measuring", unit="row"):
                rows += measure[name]()
        finally:  # what was measured is not lost, whatever ends it
            if rows:
                print_table(rows)


def print_table(rows: list[Row]) -> None:
    """As Markdown, and below it what there is to say of each row."""
    print("\n" + markdown([HEADER, *(row.cells() for row in rows)]) + "\n")
    for row in rows:
        if row.note:
            print(f"- {row.work}: {row.note}")


if __name__ == "__main__":
    run_main(main)
