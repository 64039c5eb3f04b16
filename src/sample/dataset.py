"""The embedded sample: an invented dataset in the challenge's layout, so that everything runs without its data.

Pictures of coloured shapes, five captions each, a tenth of them swapped to wrong images as in a noisy dataset. Two
fixed, random encoders that share no space embed them, so translating between them has to be learnt.
"""

import csv
import hashlib
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from src.common.files import InputError, read_json, temporary_folder, write_json
from src.common.progress import Progress
from src.data.origins import MARKER, PAIR
from src.data.pairs import Pairs, fingerprint, save_pairs, save_test_captions
from src.sample.encoders import encode_captions, encode_images
from src.sample.scenes import describe, paint, random_scene

TRAIN_IMAGES, TEST_IMAGES = 920, 300  # at scale 1
CAPTIONS_PER_IMAGE = 5
SWAPPED_SHARE = 0.1
SAMPLE_VERSION = 1  # raise it when the same scale and seed give other files than before
WORK = "prepare"  # what is not yet, or no longer, in place is in temporary folders of this name
MARKED = ("version", "scale", "seed", "train_images", "train_captions", "swapped_captions", "test_captions")
LARGEST = 2**63  # of the marker's numbers, excluded
FILES = (
    PAIR[0],
    "train/captions.txt",
    "train/sample_noise.csv",  # which caption shows which image, and which it was written for
    "train/Images",
    PAIR[1],
    "test/sample_test_labels.npz",  # the image of each test caption, and the gallery to rank
)


def make_sample(data_dir: Path, scale: float | None = None, seed: int | None = None) -> None:
    """Make the sample of that scale and seed in `data_dir`, unless it is there already; another one is replaced.

    None stands for the scale or seed of the sample that is there, else 1 and 0. Raises InputError, with everything
    left as it was, when `data_dir` holds data that were not made here or when `scale` or `seed` is out of range.
    """
    marker, made, foreign = _inspect(data_dir)
    scale = float(marker.get("scale", 1) if scale is None else scale)
    seed = int(marker.get("seed", 0) if seed is None else seed)
    if not (0.03 <= scale <= 30 and 0 <= seed < LARGEST):
        raise InputError(f"--scale {scale} --seed {seed}: expected 0.03 to 30, and a seed of 0 to {LARGEST - 1}")
    if foreign:
        hint = "nothing was touched. Choose another --data-dir, or move it away"
        raise InputError(f"{data_dir / foreign[0]}: exists and was not made by the sample; {hint}")
    wanted: dict[str, Any] = {"version": SAMPLE_VERSION, "scale": scale, "seed": seed}
    done = "the sample is there already"
    if len(made) < len(FILES) or not wanted.items() <= marker.items():
        done = "made the sample"
        with temporary_folder(data_dir / WORK) as part:
            sizes = _write_train(part, round(TRAIN_IMAGES * scale), seed)
            sizes |= _write_test(part, round(TEST_IMAGES * scale), seed)
            marker = wanted | sizes | {"files": {name: _hash(part / name) for name in FILES}} | _pair_in(part)
            # In this order, what is there always fits the marker that is there: cut off anywhere, a rerun finishes.
            remove_sample(data_dir)
            write_json(data_dir / MARKER, marker)
            for name in FILES:
                (data_dir / name).parent.mkdir(exist_ok=True)
                (part / name).rename(data_dir / name)
    elif not _pair_in(data_dir).items() <= marker.items():  # it is older than this entry
        write_json(data_dir / MARKER, marker | _pair_in(data_dir))
    print(
        f"{data_dir}: {done} (scale {scale:g}, seed {seed}: {marker['train_images']} training images with "
        f"{marker['train_captions']} captions, {marker['swapped_captions']} of them swapped; "
        f"{marker['test_captions']} test captions)"
    )


def is_sample(data_dir: Path) -> bool:
    """Whether the training data in `data_dir` are the sample's, and not, say, the challenge's put in their place."""
    return PAIR[0] in _inspect(data_dir)[1]


def foreign_files(data_dir: Path) -> list[str]:
    """Those of FILES in `data_dir` that were not made here, or were changed since."""
    return _inspect(data_dir)[2]


def remove_sample(data_dir: Path) -> None:
    """Remove the sample from `data_dir`, if it holds one. What was not made here, or was changed since, stays."""
    _, made, _ = _inspect(data_dir)
    with temporary_folder(data_dir / WORK) as removed:
        for name in made:  # moved first: a folder goes whole or not at all
            (data_dir / name).rename(removed / Path(name).name)
    (data_dir / MARKER).unlink(missing_ok=True)


def _inspect(data_dir: Path) -> tuple[dict[str, Any], list[str], list[str]]:
    """The marker; those of FILES that are there exactly as it says; those that are there but were not made here. An
    empty folder is not there. Raises InputError for a marker that was not written here."""
    path = data_dir / MARKER
    marker = read_json(path) if path.exists() else {"files": {}}
    if not isinstance(marker, dict) or not isinstance(marker.get("files"), dict) or not _are_numbers(marker):
        raise InputError(f"{path}: not a marker of the sample; move it away")
    there = [name for name in FILES if (data_dir / name).is_file() or any((data_dir / name).glob("*"))]
    marked = marker["files"]
    made = [name for name in there if name in marked and marked[name] == _hash(data_dir / name)]
    return marker, made, [name for name in there if name not in made]


def _are_numbers(marker: dict[str, Any]) -> bool:
    """Whether a marker's version, scale, seed and sizes are: all of them, or none of them where there is no marker."""
    values = [marker.get(name, math.nan) for name in MARKED]
    return len(marker) == 1 or all(type(value) in (int, float) and 0 <= value < LARGEST for value in values)


def _hash(path: Path) -> str:
    """A hash of a file's name and bytes, or of all those in a folder."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) or [path]:
        digest.update(file.name.encode())
        if file.is_file():
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()[:16]


def _pair_in(folder: Path) -> dict[str, dict[str, str]]:
    """The marker's entry by which src.data.origins knows the two files wherever they, or filtered ones, lie."""
    return {"pair": {name: fingerprint(folder / name) for name in PAIR}}


def _write_train(folder: Path, num_images: int, seed: int) -> dict[str, int]:
    """Write train/ and return its sizes. Captions stand in the order of the images that they are shown with."""
    shown = np.repeat(np.arange(num_images, dtype=np.int32), CAPTIONS_PER_IMAGE)
    order = np.arange(len(shown))
    rng = np.random.default_rng((seed, 2))
    swapped = rng.choice(len(order), round(SWAPPED_SHARE * len(order)), replace=False)
    while (shown[order[swapped]] == shown[swapped]).any():  # until each got the caption of another image
        order[swapped] = rng.permutation(swapped)
    pairs = _invent(folder / "train", num_images, order, seed)
    save_pairs(replace(pairs, image_of_caption=shown), folder / "train/train.npz")
    shown_names, true_names = pairs.image_names[shown], pairs.image_names[pairs.image_of_caption]
    noise = zip(pairs.caption_ids, shown_names, true_names, (shown_names != true_names).astype(int), strict=True)
    _write_csv(folder / "train/captions.txt", ("image", "caption"), zip(shown_names, pairs.caption_texts, strict=True))
    _write_csv(folder / "train/sample_noise.csv", ("caption_id", "shown_image", "true_image", "swapped"), noise)
    return {"train_images": num_images, "train_captions": len(order), "swapped_captions": len(swapped)}


def _write_test(folder: Path, num_images: int, seed: int) -> dict[str, int]:
    """Write test/ and return its size: one caption an image, shuffled; the pictures are not among FILES."""
    order = np.random.default_rng((seed, 3)).permutation(num_images)
    pairs = _invent(folder / "test", num_images, order, seed)
    save_test_captions(pairs, folder / "test/test.clean.npz")
    np.savez(
        folder / "test/sample_test_labels.npz",
        image_of_caption=pairs.image_of_caption,
        image_names=pairs.image_names.astype(str),
        image_embeddings=pairs.image_embeddings,
    )
    return {"test_captions": num_images}


def _invent(folder: Path, num_images: int, order: np.ndarray, seed: int) -> Pairs:
    """Invent scenes with len(order) / num_images captions each, in that order; the pictures go to <folder>/Images.
    Returns the captions with the images that they were written for."""
    images = folder / "Images"
    images.mkdir(parents=True)
    captions_per_image = len(order) // num_images
    names = [f"{folder.name}_{i:05d}.jpg" for i in range(num_images)]
    texts: list[str] = []
    for i, name in enumerate(Progress(names, desc=f"painting {folder.name} images", unit="image", leave=False)):
        # A generator for each: a larger scale adds images and keeps the others.
        rng = np.random.default_rng((seed, ("train", "test").index(folder.name), i))
        scene = random_scene(rng)
        Image.fromarray(paint(scene, rng)).save(images / name, quality=92)
        texts += [describe(scene, rng) for _ in range(captions_per_image)]
    caption_texts = np.array(texts, object)[order]
    return Pairs(
        caption_ids=np.arange(len(order)),
        caption_texts=caption_texts,
        text_embeddings=encode_captions(caption_texts),
        image_of_caption=(order // captions_per_image).astype(np.int32),
        image_names=np.array(names, object),
        image_embeddings=encode_images(np.stack([np.asarray(Image.open(images / name)) for name in names])),
    )


def _write_csv(path: Path, header: tuple[str, ...], rows: Iterable[tuple]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
