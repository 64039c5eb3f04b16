"""The embedded sample: an invented dataset in the challenge's layout, so that everything runs without its data.

    python -m src.sample.dataset                      # data/train and data/test, well under a minute
    python -m src.sample.dataset --scale 2            # twice the images: more to learn from, and harder to rank

Pictures of coloured shapes (`src/sample/scenes.py`), five captions each, a tenth of which are swapped to wrong
images as in a noisy dataset; which ones is told in a file of its own. The embeddings come from two fixed, random
encoders that share no space (`src/sample/encoders.py`), so translating between them has to be learnt.

    train/train.npz   train/captions.txt   train/Images/   test/test.clean.npz     the challenge's files
    train/sample_noise.csv                 which caption shows which image, and which it was written for
    test/sample_test_labels.npz            the image of each test caption, and the gallery to rank
    SAMPLE.json                            marks the folder as this sample, and what of it was made here
"""

import argparse
import csv
import hashlib
import io
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from src.common.cli import HelpFormatter, run_main as run
from src.common.files import InputError, read_json, write_json
from src.data.pairs import Pairs, TestCaptions, save_pairs, save_test_captions
from src.sample.encoders import encode_captions, encode_images
from src.sample.scenes import describe, paint, random_scene

TRAIN_IMAGES, TEST_IMAGES = 920, 300  # at scale 1
CAPTIONS_PER_IMAGE = 5
SWAPPED_SHARE = 0.1
MARKER = "SAMPLE.json"
_PART = ".sample.part"  # what is being made, until all of it is there
_VERSION = 1  # raise it when the same scale and seed give other files than before
_MADE = (
    "train/train.npz",
    "train/captions.txt",
    "train/sample_noise.csv",
    "train/Images",
    "test/test.clean.npz",
    "test/sample_test_labels.npz",
)


def make_sample(data_dir: Path, scale: float = 1.0, seed: int = 0) -> None:
    """Make the sample of that scale and seed in `data_dir`, unless it is there already.

    Another sample is replaced. Raises InputError, with everything left as it was, when `data_dir` holds data that
    were not made here or when `scale` or `seed` is out of range.
    """
    data_dir = Path(data_dir)
    if not 0.03 <= scale <= 30:
        raise InputError(f"--scale {scale}: expected a number from 0.03 to 30")
    if seed < 0:
        raise InputError(f"--seed {seed}: expected 0 or more")
    wanted = {"version": _VERSION, "scale": float(scale), "seed": int(seed)}
    old = _read_marker(data_dir)
    for name in _MADE:
        if _is_there(data_dir / name) and not _is_ours(data_dir, name, old):
            raise InputError(
                f"{data_dir / name}: exists and was not made by the sample; nothing was touched. "
                "Choose another --data-dir, or move it away"
            )
    if wanted.items() <= old.items() and all(_is_there(data_dir / name) for name in _MADE):
        print(f"{data_dir}: the sample is there already ({_summary(old)})")
        return

    part = data_dir / _PART
    shutil.rmtree(part, ignore_errors=True)  # of a run that was cut off
    part.mkdir(parents=True)
    try:
        sizes = _write_train(part, round(TRAIN_IMAGES * scale), seed)
        sizes |= _write_test(part, round(TEST_IMAGES * scale), seed)
        marker = wanted | sizes | {"files": {name: _fingerprint(part / name) for name in _MADE}}
        # In this order, what is there always fits the marker that is there: cut off anywhere, a rerun finishes.
        remove_sample(data_dir)
        write_json(data_dir / MARKER, marker)
        for name in _MADE:
            (data_dir / name).parent.mkdir(exist_ok=True)
            (part / name).rename(data_dir / name)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    print(f"{data_dir}: made the sample ({_summary(marker)})")


def is_sample(data_dir: Path) -> bool:
    """Whether the training data in `data_dir` are the sample's, and not, say, the challenge's put in their place."""
    data_dir, train = Path(data_dir), _MADE[0]
    return _is_there(data_dir / train) and _is_ours(data_dir, train, _read_marker(data_dir))


def sample_settings(data_dir: Path) -> dict[str, Any]:
    """Scale and seed of the sample in `data_dir`, for `make_sample` to make the same one; {} without a sample."""
    marker = _read_marker(Path(data_dir))
    return {name: marker[name] for name in ("scale", "seed") if name in marker}


def remove_sample(data_dir: Path) -> None:
    """Remove the sample from `data_dir`, if it holds one. What was not made here, or was changed since, stays."""
    data_dir = Path(data_dir)
    if not (data_dir / MARKER).exists():
        return
    old = _read_marker(data_dir)
    with tempfile.TemporaryDirectory(prefix=".removed.", dir=data_dir) as removed:
        for path in [data_dir / name for name in _MADE if _is_there(data_dir / name) and _is_ours(data_dir, name, old)]:
            path.rename(Path(removed) / path.name)  # a folder goes whole or not at all
    (data_dir / MARKER).unlink()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="where train/ and test/ go")
    parser.add_argument(
        "--scale",
        type=float,
        default=1.0,
        help=f"multiplies the numbers of images, {TRAIN_IMAGES} for training and {TEST_IMAGES} for test",
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed invents other pictures and captions")
    args = parser.parse_args(argv)
    make_sample(args.data_dir, args.scale, args.seed)


def _write_train(folder: Path, num_images: int, seed: int) -> dict[str, int]:
    """Write train/ and return its sizes. Captions stand in the order of the images that they are shown with."""
    names, jpegs, texts = _invent("train", num_images, CAPTIONS_PER_IMAGE, seed)
    shown = np.repeat(np.arange(num_images, dtype=np.int32), CAPTIONS_PER_IMAGE)
    rng = np.random.default_rng((seed, 2))
    swapped = rng.choice(len(shown), round(SWAPPED_SHARE * len(shown)), replace=False)
    written_for = shown.copy()
    order = np.arange(len(shown))
    while (written_for[swapped] == shown[swapped]).any():  # until each got the caption of another image
        order[swapped] = rng.permutation(swapped)
        written_for = shown[order]
    texts = texts[order]

    images = folder / "train/Images"
    images.mkdir(parents=True)
    for name, jpeg in zip(names, jpegs, strict=True):
        (images / name).write_bytes(jpeg)
    pairs = Pairs(
        caption_ids=np.arange(len(shown)),
        caption_texts=texts,
        text_embeddings=encode_captions(texts),
        image_of_caption=shown,
        image_names=names,
        image_embeddings=encode_images(_pixels(jpegs)),
    )
    save_pairs(pairs, folder / "train/train.npz")
    _write_csv(folder / "train/captions.txt", ("image", "caption"), zip(names[shown], texts, strict=True))
    _write_csv(
        folder / "train/sample_noise.csv",
        ("caption_id", "shown_image", "true_image", "swapped"),
        zip(pairs.caption_ids, names[shown], names[written_for], (written_for != shown).astype(int), strict=True),
    )
    return {"train_images": num_images, "train_captions": len(shown), "swapped_captions": len(swapped)}


def _write_test(folder: Path, num_images: int, seed: int) -> dict[str, int]:
    """Write test/ and return its size: one caption an image, shuffled; the pictures themselves are kept back."""
    names, jpegs, texts = _invent("test", num_images, 1, seed)
    image_of_caption = np.random.default_rng((seed, 3)).permutation(num_images).astype(np.int32)
    texts = texts[image_of_caption]
    save_test_captions(
        TestCaptions(caption_ids=np.arange(num_images), caption_texts=texts, text_embeddings=encode_captions(texts)),
        folder / "test/test.clean.npz",
    )
    np.savez(
        folder / "test/sample_test_labels.npz",
        image_of_caption=image_of_caption,
        image_names=names.astype(str),
        image_embeddings=encode_images(_pixels(jpegs)),
    )
    return {"test_captions": num_images}


def _invent(part: str, num_images: int, captions: int, seed: int) -> tuple[np.ndarray, list[bytes], np.ndarray]:
    """Invent M = num_images scenes: names (M,) and texts (M x captions,), object arrays of str, and M JPEG files."""
    names, jpegs, texts = [], [], []
    for i in tqdm(range(num_images), f"painting {part} images", unit="image", leave=False):
        # A generator for each: a larger scale adds images and keeps the others.
        rng = np.random.default_rng((seed, ("train", "test").index(part), i))
        scene = random_scene(rng)
        jpeg = io.BytesIO()
        Image.fromarray(paint(scene, rng)).save(jpeg, "JPEG", quality=92)
        names.append(f"{part}_{i:05d}.jpg")
        jpegs.append(jpeg.getvalue())
        texts += [describe(scene, rng) for _ in range(captions)]
    return np.array(names, object), jpegs, np.array(texts, object)


def _pixels(jpegs: list[bytes]) -> np.ndarray:
    """What a reader of the JPEGs sees, (M, height, width, 3) uint8."""
    return np.stack([np.asarray(Image.open(io.BytesIO(jpeg))) for jpeg in jpegs])


def _write_csv(path: Path, header: tuple[str, ...], rows: Iterable[tuple]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def _read_marker(data_dir: Path) -> dict[str, Any]:
    """What SAMPLE.json says, without one that there are no files. Raises InputError for one not written here."""
    path = data_dir / MARKER
    if not path.exists():
        return {"files": {}}
    marker = read_json(path)
    if not isinstance(marker, dict) or not isinstance(marker.get("files"), dict):
        raise InputError(f"{path}: not a marker of the sample; move it away")
    return marker


def _is_there(path: Path) -> bool:
    """Whether there is something that could be lost: an empty folder is nothing."""
    return path.exists() and not (path.is_dir() and not any(path.iterdir()))


def _is_ours(data_dir: Path, name: str, marker: dict[str, Any]) -> bool:
    """Whether that file or folder is exactly as the marker says."""
    return name in marker["files"] and _fingerprint(data_dir / name) == marker["files"][name]


def _fingerprint(path: Path) -> str:
    """A hash of a file's bytes, or of all names and bytes in a folder."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        digest.update(file.name.encode() + (b"" if file.is_dir() else file.read_bytes()))
    return digest.hexdigest()[:16]


def _summary(marker: dict[str, Any]) -> str:
    return (
        f"scale {marker['scale']:g}, seed {marker['seed']}: {marker['train_images']} training images with "
        f"{marker['train_captions']} captions, {marker['swapped_captions']} of them swapped; "
        f"{marker['test_captions']} test captions"
    )


if __name__ == "__main__":
    run(main)
