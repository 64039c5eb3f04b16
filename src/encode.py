"""Embed pictures and captions of your own, for the trainers: a folder and a captions file become train.npz and more.

    python -m src.encode --images-root photos --captions photos/captions.txt --output-dir data/mine
    python -m src.encode --images-root val2017 --captions captions_val2017.json --output-dir data/coco     # COCO's
    python -m src.encode --images-root photos --captions pairs.parquet --caption-column title --output-dir data/mine
    python -m src.encode … --image-encoder transformers:facebook/dinov2-giant     # needs: pip install transformers
    python -m src.encode … --image-encoder open_clip:ViT-B-32/laion2b_s34b_b79k --test-fraction 0.1
    python -m src.encode … --text-encoder models/mine --image-encoder timm:resnet50 --image-weights mine.safetensors
    python -m src.encode --captions captions.txt --text-embeddings X.npy --image-embeddings Y.npy --output-dir data/mine
    python train_mrr.py --train-npz data/mine/train.npz --test-npz data/mine/test.clean.npz    # then, and with
                        --val-npz data/mine/test.pairs.npz, to measure on the images that are held out

A captions file is Flickr's captions.txt (image,caption) or its older one (name.jpg#0, tab, caption), COCO's JSON, or
a CSV, TSV or Parquet file with a column for the image and one for the caption. By default the encoders are those of
the challenge: captions by all-roberta-large-v1 (pip install sentence-transformers), 1024 wide, and pictures by
DINOv2-giant, the mean of its patches' tokens, 1536 wide. They are downloaded on first use, 6 GB; a folder is taken
as it is. With --text-embeddings and --image-embeddings nothing is encoded: a row each, of the captions in the file's
order and of the images in the order of --image-names, else of the pictures in --images-root by name, else of the names
in the captions file.

A run that was stopped continues where it was when started again with the same arguments. Written to --output-dir:

    train.npz                 captions and images to train on, in the challenge's layout
    test.clean.npz            captions of the images that are held out, or of --test-captions
    test.pairs.npz            the same with their images
    encode.json               what these were made from, and by what
    left_out.csv              lines, images and pictures that are left out, and why, if there are any
    odd_images.csv            images that were read though something is odd about them or their names, if any
    encode.partial            the embeddings so far, until the run is finished
"""

import argparse
import csv
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
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
from src.common.files import InputError, atomic_path, read_json, sha256, temporary_folder, try_outputs, write_json
from src.common.paths import TEST_NPZ, TRAIN_NPZ
from src.data.pairs import Pairs, TestCaptions, fingerprint, save_pairs, save_test_captions
from src.data.splits import in_turns, validation_images
from src.encoding.captions import Captions, read_captions
from src.encoding.challenge import IMAGE_ENCODER, TEXT_ENCODER

if TYPE_CHECKING:
    from src.encoding.embedding import Embedded
    from src.encoding.gallery import Gallery

TRAIN, TEST, TEST_PAIRS = OUTPUTS = "train.npz", "test.clean.npz", "test.pairs.npz"
RECORD, LEFT_OUT, ODD, PARTIAL = "encode.json", "left_out.csv", "odd_images.csv", "encode.partial"
IN_WORK = "encode"  # what is not yet in place is in a temporary folder of this name
TEST_FRACTION = 0.06  # as the challenge, 1,500 of 26,500


def main(argv: list[str] | None = None) -> None:
    args = _parse(argv)
    out: Path = args.output_dir
    read = (args.captions, args.test_captions, args.text_embeddings, args.image_embeddings, args.image_names)
    try_outputs([out / name for name in (*OUTPUTS, RECORD, LEFT_OUT, ODD)], read)
    if not args.overwrite:
        _refuse_to_overwrite(out)
    columns = (args.image_column, args.caption_column)
    captions = read_captions(args.captions, *columns)
    count = len(captions)  # those of --test-captions come behind
    if args.test_captions:
        captions = captions.followed_by(read_captions(args.test_captions, *columns, with_images=False))

    from src.encoding.gallery import make_pairs  # as all that takes long to import, after the command line

    gallery = _look_up(args, captions)
    known = gallery.image_of_caption >= 0
    if not known[:count].any():
        name, reason = next(iter(gallery.missing.items()))
        raise InputError(f"{args.captions}: none of its {count:,} captions has an image; as {name}: {reason}")
    needed = known.copy()
    needed[count:] = True  # captions to predict need no image
    images, text_embeddings, made = _embed(args, captions, gallery, needed)
    left_out = _left_out(captions, gallery, images)
    _write_table(out / LEFT_OUT, ("what", "which", "reason"), left_out)
    _write_table(out / ODD, ("image", "what"), sorted(images.odd.items()))
    if images.unreadable and args.on_bad_image == "error":
        names = sorted(images.unreadable)
        raise InputError(
            f"{len(names):,} images ({', '.join(names[:3])}{', …' if len(names) > 3 else ''}) cannot be read, see "
            f"{out / LEFT_OUT}; put them right and run again, or pass --on-bad-image drop"
        )

    usable = known & ~np.isnan(images.values[gallery.image_of_caption, 0])
    if not usable[:count].any():
        raise InputError(f"{args.captions}: none of its captions has an image that can be read, see {out / LEFT_OUT}")

    def make(some: np.ndarray) -> Pairs:
        return make_pairs(some, captions.texts, text_embeddings, gallery, images.values)

    parts = _parts(args, captions, count, usable, make, text_embeddings)
    inputs = {str(path): sha256(path) for path in read if path}
    record = {"arguments": record_arguments(args), "inputs": inputs, **made}
    _save(out, parts, record)
    shutil.rmtree(out / PARTIAL, ignore_errors=True)
    _summarise(args.output_dir, parts, captions, gallery, images, usable)
    test = {"test_npz": (out / TEST, TEST_NPZ)} if TEST in parts else {"submission": ("none", "")}
    print_next(command("python train_mrr.py --recipe auto", train_npz=(out / TRAIN, TRAIN_NPZ), **test))


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--images-root", type=Path, help="folder of the pictures; names in --captions are seen from it")
    parser.add_argument("--captions", type=Path, required=True, help="captions file: .txt, .csv, .tsv, .json, .parquet")
    parser.add_argument("--image-column", help="its column of images' names (default: image, file_name or the like)")
    parser.add_argument("--caption-column", help="its column of captions (default: caption, text or the like)")
    parser.add_argument("--output-dir", type=Path, required=True, help="folder that everything is written to")
    parser.add_argument("--overwrite", action="store_true", help="replace data there that this command did not make")
    parser.add_argument("--text-encoder", default=TEXT_ENCODER, help="of sentence-transformers: name or folder")
    parser.add_argument(
        "--image-encoder", default=IMAGE_ENCODER, help="timm:…, transformers:… or open_clip:…, as above"
    )
    parser.add_argument("--image-weights", type=Path, help="its weights, from a file, for timm's and open_clip's")
    pooling = "mean of the patches' tokens, or the network's own (default: patches where it has such)"
    parser.add_argument("--image-pooling", choices=("patches", "own"), help=pooling)
    parser.add_argument("--text-embeddings", type=Path, help="embeddings of all captions, .npy, instead of encoding")
    parser.add_argument("--image-embeddings", type=Path, help="embeddings of all images, .npy, instead of encoding")
    parser.add_argument("--image-names", type=Path, help="which images --image-embeddings has: a name a line, in order")
    share = "share of the images that are held out for testing, with their captions, chosen by name; 0 for none"
    parser.add_argument("--test-fraction", type=float, help=f"{share} (default: {TEST_FRACTION})")
    parser.add_argument("--seed", type=int, default=0, help="another one holds out other images")
    test = "captions to predict instead, in a file of the same kinds, which needs no images"
    parser.add_argument("--test-captions", type=Path, help=test)
    bad = "what to do about images that cannot be read: an error, once all were tried; drop them and their captions"
    parser.add_argument("--on-bad-image", choices=("error", "drop"), default="error", help=bad)
    add_machine_arguments(parser)
    parser.add_argument("--image-batch-size", type=positive_int, default=32, help="images encoded at once")
    parser.add_argument("--text-batch-size", type=positive_int, default=64, help="captions encoded at once")
    add_workers_argument(parser)
    args = parser.parse_args(argv)
    if args.test_captions and args.test_fraction is not None:
        parser.error("argument --test-captions: not together with --test-fraction")
    if args.test_fraction is None:
        args.test_fraction = 0 if args.test_captions else TEST_FRACTION
    if not 0 <= args.test_fraction < 1:
        parser.error(f"argument --test-fraction: {args.test_fraction} is not from 0 to below 1")
    if args.test_captions and args.text_embeddings:
        parser.error("argument --test-captions: not together with --text-embeddings, which has none of them")
    if not args.images_root and not args.image_embeddings:
        parser.error("one of the arguments --images-root --image-embeddings is required")
    if args.image_names and not args.image_embeddings:
        parser.error("argument --image-names: names the rows of --image-embeddings, which is not given")
    if args.images_root and not args.images_root.is_dir():
        raise InputError(f"--images-root {args.images_root}: no such folder")
    return args


def _refuse_to_overwrite(out: Path) -> None:
    """Raises InputError if one of the outputs is there and is not as an earlier run left it."""
    made: Any = {}
    with suppress(InputError, TypeError, LookupError):  # there is none, or it is something else
        made = read_json(out / RECORD)["files"]
    for name in OUTPUTS:
        if (out / name).exists():
            with suppress(InputError, TypeError, LookupError):
                if made[name] == fingerprint(out / name):
                    continue
            raise InputError(
                f"{out / name}: exists and was not made by this command; choose another --output-dir, or pass "
                "--overwrite to replace it"
            )


def _look_up(args: argparse.Namespace, captions: Captions) -> "Gallery":
    from src.encoding.gallery import find_names, find_pictures, list_pictures, read_names
    from src.filters.pictures import ImageFolder

    if not args.image_embeddings:
        return find_pictures(ImageFolder(args.images_root), captions.images)
    if args.image_names:
        names = read_names(args.image_names)
    else:
        names = list_pictures(args.images_root) if args.images_root else sorted({*captions.images} - {""})
    return find_names(names, captions.images)


def _embed(
    args: argparse.Namespace, captions: Captions, gallery: "Gallery", needed: np.ndarray
) -> tuple["Embedded", np.ndarray, dict[str, Any]]:
    """The embeddings of the images and, where `needed`, of the captions, (N, T); and the record of what made them."""
    from src.encoding.embedding import Embedded, embed_captions, embed_images, open_embeddings
    from src.encoding.image_encoder import load_image_encoder
    from src.encoding.text_encoder import load_text_encoder
    from src.filters.pictures import ImageFolder
    from src.training.machine import choose_machine

    machine, partial = choose_machine(args.device, args.precision), args.output_dir / PARTIAL
    images = texts = None  # all is opened before anything is encoded
    if args.image_embeddings:
        images = open_embeddings(args.image_embeddings, len(gallery.names), "images")
    if args.text_embeddings:
        texts = open_embeddings(args.text_embeddings, len(captions), f"captions in {args.captions}")
    text_encoder = None if texts else load_text_encoder(args.text_encoder)
    image_encoder = None if images else load_image_encoder(args.image_encoder, args.image_weights, args.image_pooling)
    made: dict[str, Any] = asdict(machine.provenance())
    files = " and ".join(map(str, filter(None, (args.captions, args.test_captions))))
    where = args.image_embeddings or args.images_root
    settings = {"captions": f"{needed.sum():,} of {files}", "images": f"{len(gallery.names):,} in {where}"}
    for what, encoder in (("text", text_encoder), ("image", image_encoder)):
        if encoder:
            made[f"{what}_encoder"] = encoder.identity
            settings[f"{what} encoder"] = str(encoder)
    settings |= {"device": f"{machine}, {args.workers} workers", "output": args.output_dir}
    print_settings("embedding pictures and captions", settings)
    if image_encoder:
        folder, how = ImageFolder(args.images_root), {"batch_size": args.image_batch_size, "workers": args.workers}
        images = embed_images(image_encoder, folder, gallery.names, partial / "images", machine, **how)
        image_encoder.network.cpu()  # makes room
        if images.unreadable and args.on_bad_image == "error":  # is told before hours more
            return images, np.empty((0, 0)), made
    if text_encoder:
        places = np.flatnonzero(needed)
        some = [captions.texts[place] for place in places]
        found = embed_captions(text_encoder, some, partial / "captions", machine, args.text_batch_size).values
        texts = Embedded(np.zeros((len(captions), found.shape[1]), np.float32))
        texts.values[places] = found
    assert images
    assert texts
    return images, texts.values, made


def _left_out(captions: Captions, gallery: "Gallery", images: "Embedded") -> list[tuple[str, str, str]]:
    """What is left out, which one, and why."""
    lines = [("broken line", *item) for item in captions.broken.items()]
    lines += [("missing image", *item) for item in gallery.missing.items()]
    lines += [("unreadable image", *item) for item in sorted(images.unreadable.items())]
    return lines + [("picture without captions", name, "no caption is of it") for name in gallery.unused]


def _write_table(path: Path, header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Write a CSV, or none if there are no rows."""
    path.unlink(missing_ok=True)
    if rows:
        with (
            atomic_path(path) as temporary,
            temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
        ):
            csv.writer(file).writerows([header, *rows])


def _parts(
    args: argparse.Namespace,
    captions: Captions,
    count: int,
    usable: np.ndarray,
    make: Callable[[np.ndarray], Pairs],
    text_embeddings: np.ndarray,
) -> dict[str, TestCaptions]:
    """What goes to which output. usable, (N,) bool, are the captions with an image, of which `make` makes pairs; from
    `count` on they are those of --test-captions."""
    train, behind = make(np.flatnonzero(usable[:count])), count + np.flatnonzero(usable[count:])
    if args.test_captions:
        to_predict = TestCaptions(
            caption_ids=np.arange(len(captions) - count),
            caption_texts=np.array(captions.texts[count:], object),
            text_embeddings=text_embeddings[count:],
        )
        parts = {TRAIN: train, TEST: to_predict}
        if len(behind):
            parts[TEST_PAIRS] = replace(make(behind), caption_ids=behind - count)
        return parts
    if not args.test_fraction:
        return {TRAIN: train}
    held_out = validation_images(train.image_names, args.test_fraction, args.seed)[train.image_of_caption]
    turns = in_turns(train.image_of_caption[held_out])  # as in the challenge, for its protocol
    test = make(train.caption_ids[held_out][turns])
    return {TRAIN: make(train.caption_ids[~held_out]), TEST: test, TEST_PAIRS: test}


def _save(out: Path, parts: dict[str, TestCaptions], record: dict[str, Any]) -> None:
    """Write the outputs and their record; at no moment does a file stand beside another run's."""
    with temporary_folder(out / IN_WORK) as folder:
        for name, part in parts.items():
            if isinstance(part, Pairs) and name != TEST:
                save_pairs(part, folder / name)
            else:
                save_test_captions(part, folder / name)
        files = {name: fingerprint(folder / name) for name in parts}
        for name in OUTPUTS:
            (out / name).unlink(missing_ok=True)
        write_json(out / RECORD, record | {"files": files})
        for name in parts:
            (folder / name).rename(out / name)


def _summarise(
    out: Path,
    parts: dict[str, TestCaptions],
    captions: Captions,
    gallery: "Gallery",
    images: "Embedded",
    usable: np.ndarray,
) -> None:
    train = parts[TRAIN]
    assert isinstance(train, Pairs)
    widths = f"{train.text_embeddings.shape[1]} and {train.image_embeddings.shape[1]} wide"
    summary: dict[str, Any] = {
        "pairs": f"{out / TRAIN}: {len(train):,} captions, {train.num_images:,} images, {widths}"
    }
    if TEST in parts:
        summary["test"] = f"{out / TEST}: {len(parts[TEST]):,} captions"
    if isinstance(pairs := parts.get(TEST_PAIRS), Pairs):
        both = len(np.intersect1d(pairs.image_names, train.image_names))
        shared = f", {both:,} of which are in {TRAIN}, too" if both else ""
        summary["test pairs"] = f"{out / TEST_PAIRS}: {len(pairs):,} captions, {pairs.num_images:,} images{shared}"
    for what, found, told in (
        ("broken lines", captions.broken, "left out"),
        ("odd lines", captions.odd, "read all the same"),
    ):
        for place, why in list(found.items())[:1]:
            summary[what] = f"{len(found):,} {told}; the first is {place}: {why}"
    if gallery.missing:
        lost = sum(name in gallery.missing for name in captions.images)
        summary["missing images"] = f"{len(gallery.missing):,}, with {lost:,} captions"
    if images.unreadable:
        lost = (~usable & (gallery.image_of_caption >= 0)).sum()
        summary["bad images"] = f"{len(images.unreadable):,} that cannot be read, with {lost:,} captions, left out"
    if gallery.unused:
        summary["no captions"] = f"{len(gallery.unused):,} pictures that no caption is of, left out"
    if (out / LEFT_OUT).exists():
        summary["left out"] = f"all of it is listed in {out / LEFT_OUT}"
    if images.odd:
        summary["odd images"] = f"{len(images.odd):,} were read all the same; see {out / ODD}"
    print_settings(f"embedded {len(train):,} pairs to train on", summary)


if __name__ == "__main__":
    run_main(main)
