"""Score caption-image pairs by a CLIP: the cosine similarity of the caption's and the image's features.

The work is cut into batches of image files with all of their captions, always the same ones, and each batch's scores
are appended to a progress file: whenever a run is killed, continuing it gives the scores of a run that was not.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from src.common.files import InputError, atomic_path, parse_json, read_json, require_file, write_json, write_text
from src.data.pairs import Pairs, fingerprint
from src.filters.clip_model import Clip
from src.filters.pictures import distinct_files, read_image
from src.training.machine import Machine


def score_pairs(
    clip: Clip,
    pairs: Pairs,
    images_root: Path,
    progress_file: Path,
    *,
    machine: Machine,
    batch_sizes: tuple[int, int],
    workers: int,
) -> tuple[np.ndarray, dict[int, str]]:
    """Score all N pairs, so many images and, at most, so many captions at once. Returns (N,) float32, NaN where the
    image cannot be read, and {caption: why it cannot}. A progress file of the same scores is continued, its unreadable
    images tried again. Raises InputError if it is of others, or if the model gives NaN."""
    assert pairs.source is not None, "a whole file as it was opened"
    images_at_once, captions_at_once = batch_sizes
    files, file_of_image = distinct_files(pairs.image_names, images_root)
    identity = {  # what the scores depend on, wherever the model and the pairs were read from
        "input_fingerprint": fingerprint(pairs.source),
        **{key: clip.identity[key] for key in ("config", "preprocess", "weights_sha256")},
        "images_root": str(images_root.resolve()),
        "images_sha256": hashlib.sha256(file_of_image.tobytes()).hexdigest(),
        "batches": batch_sizes,
        "device": machine.device.type,
        "precision": machine.precision,
    }
    batches = _Batches(clip, pairs, files, file_of_image, images_at_once)
    finished = _open_progress(progress_file, identity, batches.captions)
    scores = np.full(len(pairs), np.nan, np.float32)
    for batch, values in finished.items():
        scores[batches.captions[batch]] = values
    todo = [batch for batch in range(len(batches)) if batch not in finished]
    total, done = sum(map(len, batches.files)), sum(len(batches.files[batch]) for batch in finished)
    if done:
        print(f"continuing {progress_file}: {done:,} of {total:,} images are done", flush=True)

    device, network = machine.device, clip.network.to(machine.device)
    pinned = device.type == "cuda"
    loader = DataLoader(batches, batch_size=None, sampler=todo, num_workers=workers, pin_memory=pinned)
    unreadable: dict[int, str] = {}
    bar = tqdm(total=total, initial=done, desc="scoring", unit="image", smoothing=0.05)
    with bar, _worker_deaths_told(), progress_file.open("a", encoding="utf-8") as progress:
        for batch, (pixels, tokens, image_of_caption, reasons) in zip(todo, loader, strict=True):
            with torch.inference_mode(), machine.autocast():
                images = network.encode_image(pixels.to(device, non_blocking=pinned))
                texts = torch.cat([network.encode_text(part.to(device)) for part in tokens.split(captions_at_once)])
            images, texts = F.normalize(images.float(), dim=-1), F.normalize(texts.float(), dim=-1)
            captions = batches.captions[batch]
            scores[captions] = (images[image_of_caption.to(device)] * texts).sum(dim=-1).cpu().numpy()
            scores[list(reasons)] = np.nan
            progress.write(json.dumps({"batch": batch, "scores": scores[captions].tolist()}) + "\n")
            progress.flush()
            unreadable |= reasons
            bar.update(len(pixels))
            if unreadable:
                bar.set_postfix(captions_without_image=len(unreadable))
    if np.isnan(scores).sum() > len(unreadable):
        raise InputError(f"{clip.identity['model']}: gives NaN for readable images; try --precision float32")
    return scores, unreadable


@contextmanager
def _worker_deaths_told() -> Iterator[None]:
    """Raises InputError if a worker dies; torch's signal handler raises an error wherever this process is by then."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise InputError(
            "a process that decodes images has died, of too little memory or shared memory; run again to continue, "
            "with --workers 0, or with more shared memory (docker run --shm-size 2g)"
        ) from error


def save_scores(path: Path, pairs: Pairs, scores: np.ndarray, unreadable: dict[int, str], made: dict[str, Any]) -> None:
    """Write scores (N,) to `path`, ….npy; beside it the record `made` as ….json, and the captions without a score,
    if there are any, as ….bad_images.csv."""
    record = path.with_suffix(".json")
    record.unlink(missing_ok=True)  # at no moment does a record stand beside another's scores
    with atomic_path(path) as temporary:
        np.save(temporary, scores)
    write_json(record, made)
    bad_images = path.with_suffix(".bad_images.csv")
    bad_images.unlink(missing_ok=True)
    if unreadable:
        captions = sorted(unreadable)
        table = {
            "caption_id": pairs.caption_ids[captions],
            "image": pairs.image_names[pairs.image_of_caption[captions]],
            "reason": [unreadable[caption] for caption in captions],
        }
        with atomic_path(bad_images) as temporary:
            pd.DataFrame(table).to_csv(temporary, index=False)


def open_scores(path: Path, input_fingerprint: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Open scores, (N,) float32, and their record, {} where there is none beside them. Raises InputError unless they
    are numbers, or if the record says that they are of other pairs."""
    record = require_file(path, "--scores-input takes what --scores-output wrote").with_suffix(".json")
    made = read_json(record) if record.exists() else {}
    if not isinstance(made, dict) or (made and made.get("input_fingerprint") != input_fingerprint):
        raise InputError(f"{path}: scores of other pairs than these ({input_fingerprint}), says {record}")
    try:
        with path.open("rb") as file:  # NumPy does not close what it takes for a damaged archive
            scores = np.load(file, allow_pickle=False)
    except Exception as error:  # NumPy's parser, zipfile and what allocates raise a dozen kinds for damaged bytes
        raise InputError(f"{path}: not an array of scores ({str(error) or type(error).__name__})") from None
    if not isinstance(scores, np.ndarray) or scores.ndim != 1 or scores.dtype.kind != "f" or np.isinf(scores).any():
        raise InputError(f"{path}: not an array of scores, one finite number (or NaN) a caption")
    return scores.astype(np.float32), made


class _Batches(Dataset):
    """Batches of b image files, `files`, and their c captions, `captions`, indices of `pairs`. Workers read for
    each: pixels (b, 3, S, S) float32, tokens (c, L) int64, the image of each caption (c,) int64 from 0 to b - 1, and
    {caption: why its image cannot be read}. A black image stands in for such a one."""

    def __init__(self, clip: Clip, pairs: Pairs, files: list[Path], file_of_image: np.ndarray, size: int) -> None:
        file_of_caption = file_of_image[pairs.image_of_caption]
        used, self.file_of_caption, counts = np.unique(file_of_caption, return_inverse=True, return_counts=True)
        self.files = [[files[i] for i in used[start : start + size]] for start in range(0, len(used), size)]
        by_file = np.argsort(self.file_of_caption, kind="stable")
        self.captions = np.split(by_file, np.cumsum(counts)[size - 1 : -1 : size])
        self.texts, self.size = pairs.caption_texts, size
        self.preprocess, self.tokenize = clip.preprocess, clip.tokenize

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, batch: int) -> tuple[Tensor, Tensor, Tensor, dict[int, str]]:
        captions = self.captions[batch]
        image_of_caption = self.file_of_caption[captions] - batch * self.size
        pixels: list[Tensor] = []
        reasons: dict[int, str] = {}
        for image, path in enumerate(self.files[batch]):
            try:
                picture = read_image(path)
            except InputError as error:
                picture = Image.new("RGB", (64, 64))
                reasons |= dict.fromkeys(captions[image_of_caption == image].tolist(), str(error))
            pixels.append(self.preprocess(picture))
        tokens = self.tokenize(self.texts[captions].tolist())
        return torch.stack(pixels), tokens, torch.from_numpy(image_of_caption), reasons


def _open_progress(path: Path, identity: dict[str, Any], captions: list[np.ndarray]) -> dict[int, list[float]]:
    """The scores of the finished batches, of these `captions`. Lines that were cut off, are damaged or hold NaN are
    taken out, to be done again.

    JSON lines: the identity, then {"batch": i, "scores": of its captions}.
    """
    identity = json.loads(json.dumps(identity))
    records = []
    with suppress(FileNotFoundError, InputError):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            records.append(parse_json(line, "cut off or damaged"))
    found, *scored = records or [identity]
    differing = [key for key in identity if not isinstance(found, dict) or found.get(key) != identity[key]]
    if differing:
        raise InputError(
            f"{path}: holds the scores so far of another run (another {', '.join(differing)}); "
            "repeat that run's arguments, remove the file, or choose another --scores-output"
        )
    scored = [record for record in scored if _is_batch(record, captions)]
    write_text(path, "".join(json.dumps(record) + "\n" for record in (identity, *scored)))
    return {record["batch"]: record["scores"] for record in scored}


def _is_batch(record: Any, captions: list[np.ndarray]) -> bool:
    """Whether a line of a progress file has a cosine for each caption of a batch."""
    batch, scores = (record.get("batch"), record.get("scores")) if isinstance(record, dict) else (None, None)
    if type(batch) is not int or not 0 <= batch < len(captions) or not isinstance(scores, list):
        return False
    return len(scores) == len(captions[batch]) and all(type(score) is float and abs(score) < 2 for score in scores)
