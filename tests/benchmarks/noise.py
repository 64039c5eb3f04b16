"""What wrong pairs cost, and what the out-of-fold filter and soft weights win back, on captions that are right.

    python -m tests.benchmarks.noise                                                  # the sample, with those it has
    python -m tests.benchmarks.noise --train-npz multi30k/train.npz --images 2500 --swap 0.1      # with some made here

`auto` with one MLP is trained on the pairs as they are, on those that the filter keeps, on all by soft weights, and on
the right ones alone, as if one knew; by several splits and seeds, each measured on the right captions of the images
that it holds out. Ranks are by five models, once, none of which saw the image. What is finished is not made again.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from src.common.cli import Parser, add_machine_arguments, print_settings
from src.common.endings import run_main
from src.common.files import InputError
from src.common.paths import TRAIN_NPZ
from src.common.progress import Progress
from src.data.keep_lists import keep_list_path
from src.data.pairs import Pairs, open_pairs, save_pairs
from src.data.splits import validation_images
from src.filters.topk import TopK, TopKFilter
from src.training.inputs import DataPaths, open_training_data
from src.training.job import train_unless_finished
from src.training.machine import Machine, choose_machine
from src.training.recipe import AUTO, one_mlp, sized
from tests.benchmarks.measuring import SPREAD, markdown, spread_of
from tests.conftest import select_images
from tests.known_noise import NOISE_CSV, read_swapped

FOLDS = 5


def main(argv: list[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("--train-npz", type=Path, default=TRAIN_NPZ, help="pairs, some of them known to be wrong")
    parser.add_argument("--noise-csv", type=Path, default=NOISE_CSV, help="which of them")
    parser.add_argument("--swap", type=float, help="or make so large a share of them wrong, by swapping captions")
    parser.add_argument("--images", type=int, help="take so many of the images (default: all)")
    parser.add_argument("--top-k", type=int, nargs="+", default=[50, 200], help="cuts of the filter")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of splits and initialisations")
    parser.add_argument("--dir", type=Path, default=Path("models/noise"), help="everything is written here")
    add_machine_arguments(parser)
    args = parser.parse_args(argv)
    machine = choose_machine(args.device, args.precision)
    pairs = open_pairs(args.train_npz)
    swapped = read_swapped(args.noise_csv, pairs.caption_ids) if args.swap is None else np.zeros(len(pairs), np.bool_)
    if args.images:
        chosen = validation_images(pairs.image_names, args.images / pairs.num_images, 0)
        swapped, pairs = swapped[chosen[pairs.image_of_caption]], select_images(pairs, chosen)
    if args.swap is not None:
        pairs, swapped = swap_captions(pairs, args.swap)
    args.dir.mkdir(parents=True, exist_ok=True)
    noisy, right = args.dir / "noisy.npz", args.dir / "right.npz"
    save_pairs(pairs, noisy)
    save_pairs(pairs.select(~swapped), right)
    settings = {
        "pairs": f"{args.train_npz}: {len(pairs):,} captions, {pairs.num_images:,} images, {swapped.sum():,} wrong",
        "seeds": " ".join(map(str, args.seeds)),
        "cuts": " ".join(map(str, args.top_k)),
        "runs": args.dir,
        "device, precision": machine,
    }
    print_settings("Wrong pairs", settings)
    jobs = {"as they are": DataPaths(train_npz=noisy)}
    for k in args.top_k:
        ranks, keep_list = rank(noisy, k, args.dir, machine)
        dropped = ranks > k
        share = f"{dropped.mean():.1%} dropped, {dropped[swapped].mean():.1%} of the wrong ones"
        jobs[f"ranks up to {k} ({share})"] = DataPaths(train_npz=noisy, keep_list=keep_list)
        jobs[f"soft weights, k = {k}"] = DataPaths(train_npz=noisy, keep_list=keep_list, soft=True)
    jobs["the right ones alone"] = DataPaths(train_npz=right)
    mrrs: dict[str, list[float]] = {name: [] for name in jobs}
    with Progress(total=len(jobs) * len(args.seeds), unit="run") as bar:
        for number, (name, paths) in enumerate(jobs.items()):
            data = open_training_data(replace(paths, val_npz=right, test_npz=None), machine.device)
            recipe = one_mlp(sized(AUTO, len(data.train.pairs)))
            for seed in args.seeds:
                bar.set_postfix_str(f"{name}, seed {seed}")
                folder, bar_below = args.dir / f"{number}_seed{seed}", {"leave": False, "position": 1}
                job = replace(recipe, seed=seed), data, folder
                mrrs[name].append(train_unless_finished(*job, machine=machine, bar=bar_below).mrr)
                bar.update()
    first = mrrs["as they are"]
    print(markdown([["training pairs", *SPREAD], *([name, *spread_of(each, first)] for name, each in mrrs.items())]))


def swap_captions(pairs: Pairs, share: float, seed: int = 0) -> tuple[Pairs, np.ndarray]:
    """Pairs in which a share of the captions, drawn by the seed, each have the image of another one of them. Returns
    them and which captions are wrong now, (N,) bool: those whose new image is not their own."""
    if not 0 < share < 1:
        raise InputError(f"--swap {share}: expected a share between 0 and 1")
    drawn = np.random.default_rng(seed).permutation(len(pairs))[: round(len(pairs) * share)]
    image_of_caption = pairs.image_of_caption.copy()
    image_of_caption[drawn] = np.roll(image_of_caption[drawn], 1)
    return replace(pairs, image_of_caption=image_of_caption), image_of_caption != pairs.image_of_caption


def rank(noisy: Path, k: int, folder: Path, machine: Machine) -> tuple[np.ndarray, Path]:
    """Ranks (N,) out of fold, and the keep-list of a cut."""
    given = TopKFilter(input_npz=noisy, images_root=folder / "Images", output_dir=folder, models_dir=folder, top_k=k)
    topk = TopK(replace(given, folds=FOLDS), machine)
    ranks = topk.rank()["rank"].to_numpy()
    if not keep_list_path(topk.clean).exists():
        topk.export({})
    return ranks, keep_list_path(topk.clean)


if __name__ == "__main__":
    run_main(main)
