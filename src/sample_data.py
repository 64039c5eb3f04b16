"""The embedded sample: an invented dataset in the challenge's layout, so that everything runs without its data.

    python -m src.sample_data                      # data/train and data/test, well under a minute
    python -m src.sample_data --scale 2            # twice the images: more to learn from, and harder to rank

Pictures of coloured shapes (`src/sample_scenes.py`), five captions each, a tenth of which are swapped to wrong
images as in a noisy dataset; which ones is told in a file of its own. The embeddings come from two fixed, random
encoders that share no space. They see a caption's words and a picture's pixels, never the scene behind both, so
translating between them has to be learnt.

    train/train.npz   train/captions.txt   train/Images/   test/test.clean.npz     the challenge's files
    train/sample_noise.csv                 which caption shows which image, and which it was written for
    test/sample_test_labels.npz            the image of each test caption, and the gallery to rank
    SAMPLE.json                            marks the folder as this sample, and what of it was made here

Shapes: N captions, M images, T text width, V image width.
"""

import argparse
import csv
import hashlib
import io
import re
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from tqdm import tqdm

from src.cli import HelpFormatter, run
from src.files import InputError, read_json, write_json
from src.pairs import Pairs, TestCaptions, save_pairs, save_test_captions
from src.sample_scenes import describe, paint, random_scene

TEXT_DIM, IMAGE_DIM = 1024, 1536
TRAIN_IMAGES, TEST_IMAGES = 920, 300  # at scale 1
CAPTIONS_PER_IMAGE = 5
SWAPPED_SHARE = 0.1
MARKER = "SAMPLE.json"
_VERSION = 1  # raise it when the same scale and seed give other files than before
_MADE = (
    "train/train.npz",
    "train/captions.txt",
    "train/sample_noise.csv",
    "train/Images",
    "test/test.clean.npz",
    "test/sample_test_labels.npz",
)


# ----------------------------------------------------------------------------------------- text encoder

_WORD_DIM = 512
_TONE_CENTRE = 0.22


def encode_captions(texts: Sequence[str]) -> np.ndarray:
    """Embeds captions by their words, (N, T) float32; case and punctuation do not count, word order does.

    Every word is a hashed random vector, heard together with its neighbours. The sum over the caption is its
    content; the words also set its tone, close to -1 or 1, which decides the sign in which most of the content
    is written down. A linear map cannot undo that, a translator has to.
    """
    captions = [re.findall(r"[a-z]+", text.lower()) for text in texts]
    vocabulary = {word: i for i, word in enumerate(sorted({word for words in captions for word in words}))}
    before, after = (
        _weights("word before", _WORD_DIM, _WORD_DIM),
        _weights("word after", _WORD_DIM, _WORD_DIM),
    )
    # Short words ("a", "on") say less.
    loudness = np.array([min(len(word), 5) / 5 for word in vocabulary], np.float32)
    vectors = np.array([_weights("word " + word, 1, _WORD_DIM)[0] for word in vocabulary]) * loudness[:, None]
    vectors_before, vectors_after = 0.7 * vectors @ before, 0.7 * vectors @ after
    content = np.zeros((len(texts), _WORD_DIM), np.float32)
    tone = np.zeros((len(texts), 1), np.float32)
    tone_of_word = vectors @ _weights("tone", _WORD_DIM, 1)
    for row, words in enumerate(captions):
        ids = np.array([vocabulary[word] for word in words], np.int64)
        heard = vectors[ids]
        heard[1:] += vectors_before[ids[:-1]]
        heard[:-1] += vectors_after[ids[1:]]
        content[row] = loudness[ids] @ np.tanh(1.5 * heard)
        tone[row] = tone_of_word[ids].sum() / np.sqrt(max(len(ids), 1))
    content /= np.sqrt((content**2).mean(axis=1, keepdims=True)) + 1e-6
    tone = np.tanh(3 * (tone - _TONE_CENTRE))
    hidden = np.tanh(1.5 * content @ _weights("content", _WORD_DIM, TEXT_DIM))
    hidden[:, TEXT_DIM // 10 :] *= tone
    hidden += 0.5 * tone * _weights("tone's direction", 1, TEXT_DIM)
    return hidden @ _weights("text out", TEXT_DIM, TEXT_DIM) + 0.3 * _weights("text offset", 1, TEXT_DIM)


# ---------------------------------------------------------------------------------------- image encoder

_GRID = 48  # pictures are seen at 48 x 48 pixels
_COLOURS, _DIRECTIONS, _CORNERS = 40, 12, 48


def encode_images(pixels: np.ndarray) -> np.ndarray:
    """Embeds pictures (M, H, W, 3) uint8, H and W multiples of 48, as (M, V) float32.

    What stands out from the picture's median colour is described twice: which colours with which outlines (a red
    star is more than something red and a star), and which colours in which part of the picture. The background
    adds its colour and texture. A fixed random layer mixes how all of that differs from the usual.
    """
    looks = np.concatenate([_look(pixels[i : i + 64]) for i in range(0, len(pixels), 64)])
    hidden = np.tanh((looks - _usual_look()) @ _weights("looks", looks.shape[1], IMAGE_DIM))
    return hidden @ _weights("image out", IMAGE_DIM, IMAGE_DIM) + 0.3 * _weights("image offset", 1, IMAGE_DIM)


@cache
def _usual_look() -> np.ndarray:
    """The mean look of some pictures, always the same ones: what an image encoder has learnt to take for granted."""
    rng = np.random.default_rng(0)
    return _look(np.stack([paint(random_scene(rng), rng) for _ in range(64)])).mean(axis=0)


def _look(pixels: np.ndarray) -> np.ndarray:
    """Describes a few pictures by histograms of colours, edge directions and texture, (M, their bins) float32."""
    m, height, width, _ = pixels.shape
    seen = pixels.reshape(m, _GRID, height // _GRID, _GRID, width // _GRID, 3).mean((2, 4), np.float32) / 255
    median = np.median(seen.reshape(m, -1, 3), axis=1)[:, None, None]
    salient = np.clip((np.linalg.norm(seen - median, axis=-1) - 0.2) / 0.3, 0, 1)[..., None]

    anchors = (0.5 + 0.4 * _weights("colours", 1, _COLOURS * 3).reshape(-1, 3)).clip(0, 1)
    nearness = np.exp(-14 * ((seen[:, :, :, None] - anchors) ** 2).sum(-1))
    colours = nearness / nearness.sum(-1, keepdims=True)

    # Edge directions in every window, turned into random features that answer to some corners and curves.
    down, right = np.gradient(salient[..., 0], axis=(1, 2))
    angles = np.arange(_DIRECTIONS, dtype=np.float32) * (2 * np.pi / _DIRECTIONS)
    edges = np.maximum(0, right[..., None] * np.cos(angles) + down[..., None] * np.sin(angles)) ** 2
    outlines = _windows(edges / (np.hypot(right, down)[..., None] + 0.05))
    outlines = outlines.reshape(*outlines.shape[:3], -1)
    outlines /= np.linalg.norm(outlines, axis=-1, keepdims=True) + 0.1
    corners = np.maximum(0, 6 * outlines @ _weights("corners", outlines.shape[-1], _CORNERS) - 0.5)
    colours_there = _windows(colours * salient).mean((-1, -2))

    objects = np.einsum("mijc,mijk->mck", colours_there, corners, optimize=True)
    places = (colours * salient).reshape(m, 3, _GRID // 3, 3, _GRID // 3, -1).mean((2, 4))
    background = (colours * (1 - salient)).mean((1, 2))
    neighbours = (seen[:, :-1, 1:], seen[:, :-1, :-1], seen[:, 1:, :-1])
    changes = np.stack([np.abs(seen[:, 1:, 1:] - neighbour).mean(-1) for neighbour in neighbours], axis=-1)
    texture = (changes * (1 - salient[:, 1:, 1:])).mean((1, 2))
    # Weighted so that objects count most; roots keep the big from drowning the small.
    parts = (12 * np.sqrt(objects), 6 * np.sqrt(places), 30 * np.sqrt(background), 720 * texture)
    return np.concatenate([part.reshape(m, -1) for part in parts], axis=1)


def _windows(pixelwise: np.ndarray) -> np.ndarray:
    """Means over cells of 4 x 4, then windows of 3 x 3 cells: (M, 48, 48, C) to (M, 10, 10, C, 3, 3)."""
    m, side, _, width = pixelwise.shape
    cells = pixelwise.reshape(m, side // 4, 4, side // 4, 4, width).mean((2, 4))
    return sliding_window_view(cells, (3, 3), axis=(1, 2))


def _weights(name: str, rows: int, columns: int) -> np.ndarray:
    """The random matrix of that name, (rows, columns) float32: always the same, and it keeps lengths about equal."""
    key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
    return np.random.default_rng(key).standard_normal((rows, columns), np.float32) / np.float32(np.sqrt(rows))


# --------------------------------------------------------------------------------------- making the sample


def make_sample(data_dir: Path, scale: float = 1.0, seed: int = 0) -> None:
    """Makes the sample of that scale and seed in `data_dir`, unless it is there already.

    An older sample is replaced. Raises InputError, with everything left as it was, when `data_dir` holds data that
    was not made here or when `scale` or `seed` is out of range.
    """
    data_dir = Path(data_dir)
    if not 0.03 <= scale <= 30:
        raise InputError(f"--scale {scale}: expected a number from 0.03 to 30")
    if seed < 0:
        raise InputError(f"--seed {seed}: expected 0 or more")
    if data_dir.exists() and not data_dir.is_dir():
        raise InputError(f"{data_dir}: is not a folder")
    wanted = {"version": _VERSION, "scale": float(scale), "seed": int(seed)}
    old = _read_marker(data_dir)
    present = _present(data_dir, old)
    if present == list(_MADE) and wanted.items() <= old.items():
        print(f"{data_dir}: the sample is there already ({_summary(old)})")
        return

    data_dir.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".sample.", dir=data_dir))
    try:
        sizes = _write_train(temporary, round(TRAIN_IMAGES * scale), seed)
        sizes |= _write_test(temporary, round(TEST_IMAGES * scale), seed)
        marker = wanted | sizes | {"files": {name: _fingerprint(temporary / name) for name in _MADE}}
        # In this order, what is there always fits the marker that is there: cut off anywhere, a rerun finishes.
        for name in present:
            path = data_dir / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        write_json(data_dir / MARKER, marker)
        for name in _MADE:
            (data_dir / name).parent.mkdir(exist_ok=True)
            (temporary / name).rename(data_dir / name)
    finally:
        shutil.rmtree(temporary)
    print(f"{data_dir}: made the sample ({_summary(marker)})")


def is_sample(data_dir: Path) -> bool:
    """Whether the training data in `data_dir` are the sample's, and not, say, the challenge's put in their place."""
    data_dir, train = Path(data_dir), _MADE[0]
    made = _read_marker(data_dir).get("files", {})
    return (data_dir / train).is_file() and made.get(train) == _fingerprint(data_dir / train)


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
    """Writes train/ and returns its sizes. Captions stand in the order of the images that they are shown with."""
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
    for name, jpeg in zip(names, jpegs):
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
    _write_csv(folder / "train/captions.txt", ("image", "caption"), zip(names[shown], texts))
    _write_csv(
        folder / "train/sample_noise.csv",
        ("caption_id", "shown_image", "true_image", "swapped"),
        zip(pairs.caption_ids, names[shown], names[written_for], (written_for != shown).astype(int)),
    )
    return {"train_images": num_images, "train_captions": len(shown), "swapped_captions": len(swapped)}


def _write_test(folder: Path, num_images: int, seed: int) -> dict[str, int]:
    """Writes test/ and returns its size: one caption an image, shuffled; the pictures themselves are kept back."""
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
    """Invents scenes: names (M,) and texts (M x captions,), object arrays of str, and M pictures as JPEG bytes."""
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
    """What a reader of the JPEGs sees, (M, H, W, 3) uint8."""
    return np.stack([np.asarray(Image.open(io.BytesIO(jpeg))) for jpeg in jpegs])


def _write_csv(path: Path, header: tuple[str, ...], rows: Iterable[tuple]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def _read_marker(data_dir: Path) -> dict:
    """What SAMPLE.json says, {} without one. Raises InputError if it is not one that was written here."""
    path = data_dir / MARKER
    if not path.exists():
        return {}
    marker = read_json(path)
    if not isinstance(marker, dict) or not isinstance(marker.get("files"), dict):
        raise InputError(f"{path}: not a marker of the sample; move it away")
    return marker


def _present(data_dir: Path, marker: dict) -> list[str]:
    """Which of the sample's files are there. Raises InputError if one of them is not as the marker says."""
    present = []
    for name in _MADE:
        path = data_dir / name
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            if _fingerprint(path) != marker.get("files", {}).get(name):
                raise InputError(
                    f"{path}: exists and was not made by the sample; nothing was touched. "
                    "Choose another --data-dir, or move it away"
                )
            present.append(name)
    return present


def _fingerprint(path: Path) -> str:
    """A hash of a file's bytes, or of all names and bytes in a folder."""
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def _summary(marker: dict) -> str:
    return (
        f"scale {marker['scale']:g}, seed {marker['seed']}: {marker['train_images']} training images with "
        f"{marker['train_captions']} captions, {marker['swapped_captions']} of them swapped; "
        f"{marker['test_captions']} test captions"
    )


if __name__ == "__main__":
    run(main)
