"""Score caption-image pairs by a CLIP: the cosine similarity of the caption's and the image's features.

The work is cut into batches of image files with all of their captions, always the same ones, and each batch's scores
are appended to a progress file: whenever a run is killed, continuing it gives the scores of a run that was not. Several
processes share the batches out; each appends to a file of its own, and any number of processes continues them all.
"""

import hashlib
import json
import math
import re
from collections import ChainMap
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from src.common.files import InputError, atomic_path, parse_json, read_json, require_file, write_json, write_text
from src.common.progress import Progress
from src.data.pairs import Pairs, fingerprint
from src.filters.clip_model import Clip
from src.filters.loading import ImageBatches, load_batches, worker_deaths_told
from src.filters.pictures import ImageFolder
from src.training.machine import Machine
from src.training.world import ALONE, World

BAD_IMAGES, ODD_IMAGES = ".bad_images.csv", ".odd_images.csv"


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """values (N,) float32, NaN where the image cannot be read; unreadable, {caption: why it cannot}; odd, {name of an
    image: what is odd about it}, though it was read."""

    values: np.ndarray
    unreadable: dict[int, str] = field(default_factory=dict)
    odd: dict[str, str] = field(default_factory=dict)


def score_pairs(
    clip: Clip,
    pairs: Pairs,
    images_root: Path,
    progress_file: Path,
    *,
    machine: Machine,
    world: World = ALONE,
    batch_sizes: tuple[int, int],
    workers: int,
) -> Scores:
    """Score all N pairs, so many images and, at most, so many captions at once. Progress files of the same scores are
    continued, their unreadable images tried again; `progress_file` is that of the first process. Raises InputError if
    one is of others, or if the model gives NaN."""
    assert pairs.source is not None, "a whole file as it was opened"
    images_at_once, captions_at_once = batch_sizes
    folder = ImageFolder(images_root)
    files, file_of_image = folder.distinct(pairs.image_names)
    identity = {  # what the scores depend on, wherever the model and the pairs were read from
        "input_fingerprint": fingerprint(pairs.source),
        **{key: clip.identity[key] for key in ("config", "preprocess", "weights_sha256")},
        "images_root": str(images_root.resolve()),
        "images_sha256": hashlib.sha256(file_of_image.tobytes()).hexdigest(),
        "batches": batch_sizes,
        "device": machine.device.type,
        "precision": machine.precision,
    }
    batches = ImageBatches(clip, pairs, folder, files, file_of_image, images_at_once)
    finished = world.of_first(lambda: _open_progress(progress_file, identity, batches.captions))
    scores = Scores(values=np.full(len(pairs), np.nan, np.float32))
    for batch, record in finished.items():
        scores.values[batches.captions[batch]] = record["scores"]
        scores.odd.update(record.get("odd", {}))
    todo = [batch for batch in range(len(batches)) if batch not in finished]
    own = todo[world.rank :: world.size]
    done, ahead = (sum(len(batches.files[batch]) for batch in some) for some in (finished, own))
    if done:
        total = sum(map(len, batches.files))
        print(f"continuing {progress_file}: {done:,} of {total:,} images are done", flush=True)
    if not world.first:
        progress_file = _of_process(progress_file, world.rank)
        write_text(progress_file, json.dumps(identity) + "\n")

    device, network = machine.device, clip.network.to(machine.device)
    loaded = load_batches(batches, own, workers)
    done //= world.size
    bar = Progress(total=done + ahead, initial=done, desc=f"scoring{world.share}", unit="image", smoothing=0.05)
    with worker_deaths_told(), bar, progress_file.open("a", encoding="utf-8") as progress:
        for batch, read in zip(own, loaded, strict=True):
            pixels, tokens, image_of_caption = map(torch.as_tensor, (read.pixels, read.tokens, read.image_of_caption))
            with torch.inference_mode(), machine.autocast():
                images = network.encode_image(pixels.to(device))
                texts = torch.cat([network.encode_text(part.to(device)) for part in tokens.split(captions_at_once)])
            images, texts = F.normalize(images.float(), dim=-1), F.normalize(texts.float(), dim=-1)
            captions = batches.captions[batch]
            scores.values[captions] = (images[image_of_caption.to(device)] * texts).sum(dim=-1).cpu().numpy()
            scores.values[list(read.unreadable)] = np.nan
            record = {"batch": batch, "scores": scores.values[captions].tolist()}
            progress.write(json.dumps(record | ({"odd": read.odd} if read.odd else {})) + "\n")
            progress.flush()
            scores.unreadable.update(read.unreadable)
            scores.odd.update(read.odd)
            bar.update(len(pixels))
            if scores.unreadable:
                bar.set_postfix(captions_without_image=len(scores.unreadable))
    scores = _merge(world.gathered(scores))
    if np.isnan(scores.values).sum() > len(scores.unreadable):
        raise InputError(f"{clip.identity['model']}: gives NaN for readable images; try --precision float32")
    return scores


def _merge(parts: list[Scores]) -> Scores:
    """What the processes have scored; each part is NaN where it has no score."""
    return Scores(
        values=np.fmax.reduce([part.values for part in parts]),
        unreadable=dict(ChainMap(*(part.unreadable for part in parts))),
        odd=dict(ChainMap(*(part.odd for part in parts))),
    )


def save_scores(path: Path, pairs: Pairs, scores: Scores, made: dict[str, Any]) -> None:
    """Write scores (N,) to `path`, ….npy; beside it the record `made` as ….json and, if there are any, the captions
    without a score as ….bad_images.csv and the images that are odd as ….odd_images.csv."""
    record = path.with_suffix(".json")
    record.unlink(missing_ok=True)  # at no moment does a record stand beside another's scores
    with atomic_path(path) as temporary:
        np.save(temporary, scores.values)
    write_json(record, made)
    captions, odd = sorted(scores.unreadable), sorted(scores.odd.items())
    bad_images = {
        "caption_id": pairs.caption_ids[captions],
        "image": pairs.image_names[pairs.image_of_caption[captions]],
        "reason": [scores.unreadable[caption] for caption in captions],
    }
    odd_images = {"image": [image for image, _ in odd], "what": [what for _, what in odd]}
    for suffix, table in ((BAD_IMAGES, bad_images), (ODD_IMAGES, odd_images)):
        path.with_suffix(suffix).unlink(missing_ok=True)
        if len(table["image"]):
            with atomic_path(path.with_suffix(suffix)) as temporary:
                pd.DataFrame(table).to_csv(temporary, index=False, errors="backslashreplace")


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


def _open_progress(path: Path, identity: dict[str, Any], captions: list[np.ndarray]) -> dict[int, dict[str, Any]]:
    """The records of the finished batches, of these `captions`, from the progress files of however many processes, all
    of which go to that of the first. Lines that were cut off, are damaged or hold NaN are taken out, to be done again;
    a file without a single score is begun anew, whatever it is of.

    JSON lines: the identity, then {"batch": i, "scores": of its captions, "odd": {image: what}, if any}.
    """
    files, identity = progress_files(path), json.loads(json.dumps(identity))
    scored = [record for file in files for record in _read_progress(file, identity) if _is_batch(record, captions)]
    finished = {record["batch"]: record for record in scored}
    write_text(path, "".join(json.dumps(record) + "\n" for record in (identity, *finished.values())))
    for file in files:
        if file != path:
            file.unlink()
    return finished


def progress_files(path: Path) -> list[Path]:
    """Those that are there beside that of the first process, and itself."""
    name = re.compile(rf"{re.escape(path.stem)}(\.\d+)?{re.escape(path.suffix)}")
    return [file for file in path.parent.glob("*") if name.fullmatch(file.name)]


def _of_process(path: Path, rank: int) -> Path:
    """The progress file of a process that is not the first."""
    return path.with_name(f"{path.stem}.{rank}{path.suffix}")


def _read_progress(path: Path, identity: dict[str, Any]) -> list[Any]:
    """The lines after the identity of a progress file, none if it has no score. Raises InputError if it is of another
    run."""
    records = []
    with suppress(FileNotFoundError, InputError):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            records.append(parse_json(line, "cut off or damaged"))
    found, *scored = records if any(map(_has_scores, records)) else [identity]
    differing = [key for key in identity if not isinstance(found, dict) or found.get(key) != identity[key]]
    if differing:
        raise InputError(
            f"{path}: holds the scores so far of another run (another {', '.join(differing)}); "
            "repeat that run's arguments, remove the file, or choose another --scores-output"
        )
    return scored


def _has_scores(record: Any) -> bool:
    """Whether a line of any progress file has a score: all are NaN where no image was found."""
    scores = record.get("scores") if isinstance(record, dict) else None
    return isinstance(scores, list) and any(type(score) is float and math.isfinite(score) for score in scores)


def _is_batch(record: Any, captions: list[np.ndarray]) -> bool:
    """Whether a line of a progress file has a cosine for each caption of a batch."""
    batch, scores = (record.get("batch"), record.get("scores")) if isinstance(record, dict) else (None, None)
    if type(batch) is not int or not 0 <= batch < len(captions) or not isinstance(scores, list):
        return False
    odd = record.get("odd", {})
    if not isinstance(odd, dict) or not all(isinstance(what, str) for what in odd.values()):
        return False
    return len(scores) == len(captions[batch]) and all(type(score) is float and abs(score) < 2 for score in scores)
