"""Training pairs many times the challenge's, mapped from a file: peaks of memory, and captions/s against pairs that are
in memory.

    python -m tests.benchmarks.large --train-npz data/train/train.npz --times 10      # 13 GB of disk at full size

The file, which is made once, holds so many copies of each caption and image, with noise of their own. It is opened for
the first time and again, each in a process of its own; then some steps of a recipe are trained from it and from memory,
in turns, and the best speed of each counts. Peaks are of whole processes. Resident memory counts the pages of mapped
files, which the system takes back when it needs them and which processes share; own memory does not.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from src.common.cli import Parser, add_machine_arguments, print_settings
from src.common.endings import run_main
from src.common.paths import TRAIN_NPZ
from src.data.cache import cache_path
from src.data.npz import create_npz
from src.data.pairs import Pairs, open_pairs
from src.training.machine import choose_machine
from src.training.recipe import RECIPE_HELP, Recipe, load_recipe
from src.training.trainer import Trainer
from tests.benchmarks.measuring import Cost, available_memory, describe_cpu, in_own_process, markdown
from tests.benchmarks.training import split_of

NOISE = 0.1  # in parts of the spread of a copied array's numbers
ROWS_AT_ONCE = 8192
REST = 6e9  # bytes that training may need besides the embeddings
HEADER = ["work", "peak, resident", "peak, own", "seconds", "captions/s"]
SPEED = f"{__package__}.large:seconds_a_caption"


def main(argv: list[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("--train-npz", type=Path, default=TRAIN_NPZ, help="pairs to multiply")
    parser.add_argument("--times", type=int, default=10, help="by how much")
    parser.add_argument("--folder", type=Path, default=Path("models/large"), help="where the file goes")
    parser.add_argument("--recipe", default="baseline", help=RECIPE_HELP)
    parser.add_argument("--steps", type=int, default=20, help="that are timed, after the first")
    parser.add_argument("--repeats", type=int, default=3, help="of training either way")
    add_machine_arguments(parser)
    args = parser.parse_args(argv)
    machine, recipe = choose_machine(args.device, args.precision), load_recipe(args.recipe)
    pairs, large = open_pairs(args.train_npz), args.folder / f"{args.train_npz.stem}_{args.times}x.npz"
    if not large.exists():
        write_copies(pairs, args.times, large)
    size = args.times * (pairs.text_embeddings.nbytes + pairs.image_embeddings.nbytes)
    in_memory = large if available_memory() > size + REST else args.train_npz
    print_settings(
        "Large training pairs",
        {
            "pairs": f"{args.times} × {args.train_npz}, {args.times * len(pairs):,} captions, "
            f"{args.times * pairs.num_images:,} images, {size / 1e9:.2f} GB of embeddings",
            "in memory": f"{in_memory}",
            "recipe": f"{recipe.name}, {args.steps} steps, {args.repeats} times",
            "CPU": describe_cpu(),
            "device, precision": machine,
        },
    )
    cache_path(large).unlink(missing_ok=True)
    rows = [HEADER]
    for work in ("open it", "open it again"):
        cost = in_own_process("src.data.pairs:open_pairs", str(large), cache=True)
        rows.append([work, *peaks(cost), f"{cost.seconds:.1f}", "–"])
    job = {"recipe": asdict(recipe), "device": str(machine.device), "precision": machine.precision}
    ways = {"train, mapped": (large, False), "train, in memory": (in_memory, True)}
    costs: dict[str, list[Cost]] = {work: [] for work in ways}
    for _ in range(args.repeats):
        for work, (path, copy) in ways.items():
            costs[work].append(in_own_process(SPEED, str(path), copy=copy, steps=args.steps, **job))
    speed = {work: 1 / min(cost.seconds or 0 for cost in each) for work, each in costs.items()}
    for work, each in costs.items():
        rows.append([work, *peaks(each[0]), "–", f"{speed[work]:,.0f}"])
    print("\n" + markdown(rows))
    print(f"\nmapped ÷ in memory: {speed['train, mapped'] / speed['train, in memory']:.3f} of the captions/s")


def peaks(cost: Cost) -> list[str]:
    return ["–" if size is None else f"{size / 1e9:.2f} GB" for size in (cost.peak, cost.own_peak)]


def write_copies(pairs: Pairs, times: int, path: Path) -> None:
    """Write so many copies of pairs, each embedding with noise of its own and each caption with one index as label; a
    copy's captions and images follow those of the copy before. No more than one copy's texts are in memory."""
    captions, images = times * len(pairs), times * pairs.num_images
    texts, names = pairs.caption_texts.astype(str), pairs.image_names.astype(str)
    renamed = np.dtype(f"U{names.dtype.itemsize // 4 + len(f'{times}_')}")

    with create_npz(path) as archive:
        archive.array("captions/ids", np.arange(captions))
        archive.blocks("captions/text", (captions,), texts.dtype, (texts for _ in range(times)))
        for key, array in (("captions", pairs.text_embeddings), ("images", pairs.image_embeddings)):
            shape = (times * len(array), array.shape[1])
            archive.blocks(f"{key}/embeddings", shape, array.dtype, noisy_copies(array, times))
        index = (pairs.image_of_caption + copy * pairs.num_images for copy in range(times))
        archive.blocks("captions/label", (captions,), pairs.image_of_caption.dtype, index)
        copies = (np.char.add(f"{copy}_", names).astype(renamed) for copy in range(times))
        archive.blocks("images/names", (images,), renamed, copies)


def noisy_copies(array: np.ndarray, times: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    scale = NOISE * array[:ROWS_AT_ONCE].std()
    for _ in range(times):
        for start in range(0, len(array), ROWS_AT_ONCE):
            block = array[start : start + ROWS_AT_ONCE]
            yield block + scale * rng.standard_normal(block.shape, np.float32)


class Enough(Exception):
    """So many steps were to be timed."""


def seconds_a_caption(
    train_npz: str, *, recipe: dict[str, Any], device: str, precision: str, steps: int, copy: bool
) -> float:
    """The time that training takes a caption, from the second step on; `copy` puts all embeddings into memory first."""
    pairs, machine = open_pairs(train_npz, cache=True), choose_machine(device, precision)
    if copy:
        embeddings = {name: np.array(getattr(pairs, name)) for name in ("text_embeddings", "image_embeddings")}
        pairs = replace(pairs, **embeddings)
    trainer = Trainer(Recipe(**recipe), split_of(pairs, Recipe(**recipe), machine.device).train, machine)
    ticks: list[float] = []

    def tick() -> None:
        ticks.append(time.perf_counter())
        if len(ticks) > steps:
            raise Enough

    try:
        for epoch in count(1):
            trainer.train_epoch(epoch, tick)
    except Enough:
        return (ticks[-1] - ticks[0]) / steps / (len(trainer.train) / trainer.groups.num_batches)


if __name__ == "__main__":
    run_main(main)
