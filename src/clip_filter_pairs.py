"""Filter caption-image pairs by a CLIP: score each caption against its photograph, drop the lowest-scoring share.

    python -m src.clip_filter_pairs                                       # score data/train, drop the lowest tenth
    python -m src.clip_filter_pairs --scores-input data/filtered/train_clip_scores_raw.npy --drop-fraction 0.2
    python -m src.clip_filter_pairs --model ViT-L-14 --pretrained openai  # another CLIP of open_clip
    python -m src.clip_filter_pairs --model ViT-B-32 --pretrained weights/clip.safetensors         # without a network
    python -m src.clip_filter_pairs --model mine.json --pretrained mine.pt                # a configuration of your own
    torchrun --nproc-per-node=4 -m src.clip_filter_pairs                  # on four GPUs: each scores a quarter

A checkpoint in a file is known by its SHA-256 or its folder to be of one of the model's tags; images are prepared, and
activations are, as that tag has them. Where it is not known and tags differ, a line tells what is taken and which of
the flags --image-mean to --force-quick-gelu make it another.

Scores are the cosine similarities of CLIP's caption and image features. A run that was stopped continues where it
was when started again with the same arguments. Of N captions exactly round(N x fraction) are dropped, those with
equal scores in the order of the file. With --output-npz OUT.npz and --scores-output SCORES.npy this writes

    OUT.npz                   the kept captions and all images, laid out as the input
    OUT.keep.npz              the keep-list: ids, scores, what is kept and why; for --keep-list of the trainers
    OUT.png                   the scores with the cut, the worst and the best pairs
    SCORES.npy, SCORES.json   scores (N,) float32, NaN where the image cannot be read; what they were made from
    SCORES.bad_images.csv     the captions whose images cannot be read, if there are any
    SCORES.odd_images.csv     the images that were read though something is odd about them or their names, if any
    SCORES.partial.jsonl      the scores so far, until the run is finished; of more processes SCORES.partial.1.jsonl, …
"""

import argparse
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from src.common.cli import (
    Parser,
    add_machine_arguments,
    add_workers_argument,
    command,
    positive_int,
    print_next,
    print_settings,
    record_arguments,
)
from src.common.endings import run_main
from src.common.files import InputError, try_outputs
from src.common.paths import CLIP_NPZ, FILTERED_DIR, IMAGES_ROOT, TRAIN_NPZ
from src.common.processes import rank
from src.data.keep_lists import KeepList, check_output, save_filtered
from src.data.pairs import Pairs, fingerprint, open_pairs
from src.filters.cut import cut_value, drop_lowest

if TYPE_CHECKING:
    from src.filters.clip_scoring import Scores

SCORES_NPY = FILTERED_DIR / "train_clip_scores_raw.npy"
PARTIAL = ".partial.jsonl"


def main(argv: list[str] | None = None) -> None:
    args = _parse(argv)
    check_output(args.input_npz, args.output_npz)
    data = {"input_npz": str(args.input_npz), "input_fingerprint": fingerprint(args.input_npz)}

    # after the command line, as all that takes long to import
    from src.filters.clip_scoring import BAD_IMAGES, ODD_IMAGES, progress_files
    from src.filters.pictures import FOUND_AS
    from src.filters.report import write_report

    outputs = [args.output_npz] if args.scores_input else [args.output_npz, args.scores_output]
    try_outputs(outputs, (args.input_npz, args.scores_input))
    pairs, found, made = (_open if args.scores_input else _score)(args, data)
    if rank():  # the first alone cuts and writes
        return
    scores = found.values
    unscored = np.isnan(scores)
    if unscored.any() and args.on_bad_image == "error":
        names = pairs.image_names[np.unique(pairs.image_of_caption[unscored])]
        path = args.scores_input or args.scores_output
        listed = path.with_suffix(BAD_IMAGES)
        raise InputError(
            f"{len(names):,} images ({', '.join(names[:3])}{', …' if len(names) > 3 else ''}) of {unscored.sum():,} "
            f"captions cannot be read{f', see {listed}' if listed.exists() else ''}; put them right and run again, or "
            f"pass --scores-input {path} with --on-bad-image drop (or keep)"
        )

    keep = drop_lowest(scores, args.drop_fraction, args.on_bad_image)
    cut, dropped = cut_value(scores, keep), int((~keep).sum())
    origin = data | {
        "filter": "clip",
        "higher_is_better": True,
        "scores": made,
        "arguments": record_arguments(args),
        "cut": {"drop_fraction": args.drop_fraction, "dropped": dropped, "cut": cut},
    }
    keep_list = KeepList(caption_ids=pairs.caption_ids, scores=scores, keep=keep, provenance=origin)
    list_path, report = save_filtered(pairs, keep_list, args.output_npz), args.output_npz.with_suffix(".png")
    write_report(report, pairs, keep_list, args.images_root, name="CLIP similarity", cut=cut)

    scored, up_to = scores[~unscored], "" if cut is None else f", scores up to {cut:.4f}"
    spread = ", ".join(f"{q:.4f}" for q in np.quantile(scored, (0, 0.05, 0.5, 0.95, 1))) if len(scored) else "none"
    summary = {
        "scores": f"{spread} (lowest, 5%, median, 95%, highest)",
        "dropped": f"{dropped:,} of {len(pairs):,} captions{up_to}",
        "bad images": f"{unscored.sum():,} captions without a score: {args.on_bad_image}" if unscored.any() else "none",
        "pairs": args.output_npz,
        "keep-list": list_path,
        "report": report,
    }
    if found.odd:
        respelt = sum(FOUND_AS in what for what in found.odd.values())
        spelling = f", {respelt:,} by another spelling of their name" if respelt else ""
        listed = args.scores_output.with_suffix(ODD_IMAGES)
        summary["odd images"] = f"{len(found.odd):,} were read all the same{spelling}; see {listed}"
    if not args.scores_input:
        for path in progress_files(args.scores_output.with_suffix(PARTIAL)):
            path.unlink()
        summary["all scores"] = args.scores_output
    print_settings(f"kept {keep.sum():,} captions", summary)
    members = "python train_mrr_Ensemble_new_dataset_CLIP.py"
    given = {"train_npz": (args.input_npz, TRAIN_NPZ)}
    train = command("python train_mrr.py", "--keep-list", list_path, **given)
    print_next(train, *[members] * (args.output_npz == CLIP_NPZ))


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--input-npz", type=Path, default=TRAIN_NPZ, help="caption-image pairs to filter")
    parser.add_argument("--images-root", type=Path, default=IMAGES_ROOT, help="folder of the image files")
    output = "of the kept pairs (default: data/filtered/train_clip_q0.10_from_raw.npz, or as --drop-fraction is)"
    parser.add_argument("--output-npz", type=Path, help=output)
    parser.add_argument("--scores-output", type=Path, default=SCORES_NPY, help="where the scores of all captions go")
    parser.add_argument("--scores-input", type=Path, help="cut by these, of an earlier --scores-output; score nothing")
    parser.add_argument("--drop-fraction", type=float, default=0.1, help="share of captions to drop, from 0 to 1")
    bad = "what to do with captions of unreadable images: an error, once all were tried; keep; drop them first of all"
    parser.add_argument("--on-bad-image", choices=("error", "keep", "drop"), default="error", help=bad)
    parser.add_argument("--model", default="ViT-B-32", help="a model of open_clip, or a JSON model configuration")
    parser.add_argument("--pretrained", default="laion2b_s34b_b79k", help="its tag, or .safetensors, .pt or .bin file")
    as_tag = "(default: as the tag of --pretrained has it)"
    for flag, what in (("--image-mean", "mean"), ("--image-std", "standard deviation")):
        what = f"{what} that images are normalised by {as_tag}"
        parser.add_argument(flag, type=float, nargs=3, metavar=("R", "G", "B"), help=what)
    parser.add_argument("--image-resize-mode", choices=("shortest", "longest", "squash"), help=f"how they fit {as_tag}")
    parser.add_argument("--image-interpolation", choices=("bicubic", "bilinear"), help=f"how they are resized {as_tag}")
    parser.add_argument("--force-quick-gelu", action=argparse.BooleanOptionalAction, help=f"as activation {as_tag}")
    add_machine_arguments(parser)
    parser.add_argument("--image-batch-size", type=positive_int, default=128, help="images encoded at once")
    parser.add_argument("--text-batch-size", type=positive_int, default=512, help="captions encoded at once, at most")
    add_workers_argument(parser)
    args = parser.parse_args(argv)
    if not 0 <= args.drop_fraction < 1:
        parser.error(f"argument --drop-fraction: {args.drop_fraction} is not from 0 to below 1")
    for flag, numbers, least in (("mean", args.image_mean, -math.inf), ("std", args.image_std, 0)):
        if not all(least < number < math.inf for number in numbers or ()):
            parser.error(f"argument --image-{flag}: {' '.join(map(str, numbers))} are not numbers that can be used")
    if args.output_npz is None:
        share = args.drop_fraction
        share = f"{share:.2f}" if share == round(share, 2) else f"{share:g}"
        args.output_npz = FILTERED_DIR / f"train_clip_q{share}_from_raw.npz"
    if args.scores_output.suffix != ".npy":
        raise InputError(f"--scores-output {args.scores_output}: expected a name that ends with .npy")
    return args


def _score(args: argparse.Namespace, data: dict[str, str]) -> tuple[Pairs, "Scores", dict[str, Any]]:
    """Score all pairs, with the other processes, and write the scores; return them with the record of how they were
    made."""
    from src.filters.clip_model import load_clip
    from src.filters.clip_scoring import save_scores, score_pairs
    from src.training.machine import choose_machine
    from src.training.world import join_world

    if not args.images_root.is_dir():
        raise InputError(f"--images-root {args.images_root}: no such folder")
    machine = choose_machine(args.device, args.precision)
    world = join_world(machine.device)
    download = "" if Path(args.pretrained).is_file() else " (downloaded on first use)"
    forced = "image_mean", "image_std", "image_resize_mode", "image_interpolation", "force_quick_gelu"
    with world.one_after_the_first():
        pairs = open_pairs(args.input_npz)
        print(f"opening {args.model} {args.pretrained}{download}", flush=True)
        clip = load_clip(args.model, args.pretrained, **{setting: getattr(args, setting) for setting in forced})
    settings = {
        "pairs": f"{args.input_npz} ({data['input_fingerprint']})",
        "captions, images": f"{len(pairs):,}, {pairs.num_images:,} in {args.images_root}",
        "model": f"{args.model} {args.pretrained} (weights {clip.identity['weights_sha256'][:16]})",
        "preparation": clip.preparation(),
        "device": f"{machine}{world}, {args.workers} workers",
        "batches": f"{args.image_batch_size} images, up to {args.text_batch_size} captions",
        "scores": args.scores_output,
    }
    print_settings("scoring caption-image pairs by CLIP", settings)
    started, progress = time.perf_counter(), args.scores_output.with_suffix(PARTIAL)
    how = {"batch_sizes": (args.image_batch_size, args.text_batch_size), "workers": args.workers}
    scores = score_pairs(clip, pairs, args.images_root, progress, machine=machine, world=world, **how)
    print(f"scored {len(pairs):,} captions in {time.perf_counter() - started:.1f} s")
    made = data | {"images_root": str(args.images_root), "clip": clip.identity} | asdict(machine.provenance(world.size))
    if world.first:
        save_scores(args.scores_output, pairs, scores, made)
    return pairs, scores, made


def _open(args: argparse.Namespace, data: dict[str, str]) -> tuple[Pairs, "Scores", dict[str, Any]]:
    """Open pairs and their scores of an earlier run; return them with the record of how the scores were made."""
    from src.filters.clip_scoring import Scores, open_scores

    scores, made = open_scores(args.scores_input, data["input_fingerprint"])
    pairs = open_pairs(args.input_npz)
    if len(scores) != len(pairs):
        raise InputError(f"{args.scores_input}: {len(scores):,} scores; {args.input_npz} has {len(pairs):,} captions")
    settings = {
        "pairs": f"{args.input_npz} ({data['input_fingerprint']})",
        "captions, images": f"{len(pairs):,}, {pairs.num_images:,}",
        "scores": f"{args.scores_input} ({'of these pairs' if made else 'of which pairs is not recorded'})",
    }
    print_settings("cutting by the scores of an earlier run", settings)
    return pairs, Scores(values=scores), made


if __name__ == "__main__":
    run_main(main, several=True)
