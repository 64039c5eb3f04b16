"""Embed images and captions, batch by batch, as shards that a later run goes on from; or open embeddings of one's own.

Shapes: N captions, M images, T text width, V image width.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from src.common.files import InputError, require_file
from src.common.progress import Progress
from src.encoding.image_encoder import ImageEncoder
from src.encoding.shards import Shards
from src.encoding.text_encoder import TextEncoder
from src.filters.loading import BLACK, load_batches, read_pictures, worker_deaths_told
from src.filters.pictures import ImageFolder
from src.training.machine import Machine

CAPTIONS_A_SHARD = 512


@dataclass(frozen=True, eq=False)
class Embedded:
    """values (rows, width) float32, NaN where an image cannot be read; why it cannot, and what is odd about images that
    can: {name: what}."""

    values: np.ndarray
    unreadable: dict[str, str] = field(default_factory=dict)
    odd: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class PictureBatch:
    """pixels (b, 3, H, W) float32; why images cannot be read, {place in the batch: why}; {name: what is odd}."""

    pixels: Tensor | np.ndarray
    unreadable: dict[int, str]
    odd: dict[str, str]


class PictureBatches(Dataset):
    """Pictures of a folder, by name, some at a time."""

    def __init__(self, prepare: Callable, folder: ImageFolder, batches: list[list[str]]) -> None:
        self.prepare, self.folder, self.batches = prepare, folder, batches
        self.nbytes = max(map(len, batches)) * prepare(BLACK).nbytes  # of a batch

    def __getitem__(self, batch: int) -> PictureBatch:
        return PictureBatch(*read_pictures(self.folder, self.batches[batch], self.prepare))


def embed_images(
    encoder: ImageEncoder,
    folder: ImageFolder,
    names: list[str],
    progress: Path,
    machine: Machine,
    batch_size: int,
    workers: int,
) -> Embedded:
    """Embed M images. Those that cannot be read are tried again whenever a run goes on. Raises InputError if `progress`
    is of another run, or if the network gives NaN."""
    batches = _split(names, batch_size)
    identity = {"folder": str(folder.root)} | _identity(encoder.identity, names, machine, batch_size)
    shards = Shards(progress, identity)
    unreadable: dict[str, str] = {}
    embed_batch = _autocast(encoder, machine)

    def embed(todo: list[int]) -> Iterable[tuple[np.ndarray, dict[str, str]]]:
        encoder.network.to(machine.device)
        loaded = load_batches(PictureBatches(encoder.prepare, folder, batches), todo, workers)
        for batch, read in zip(todo, loaded, strict=True):
            values = embed_batch(torch.as_tensor(read.pixels))
            bad = list(read.unreadable)
            values[bad] = 0
            if values.ndim != 2 or not np.isfinite(values).all():
                raise InputError(
                    f"{encoder.identity['encoder']}: gives NaN, or more than a vector, for an image that "
                    "can be read; try --precision float32, or another --image-pooling"
                )
            values[bad] = np.nan
            unreadable.update({batches[batch][place]: why for place, why in read.unreadable.items()})
            yield values, read.odd

    with worker_deaths_told():
        values, odd = _embed(shards, [len(batch) for batch in batches], embed, "image")
    return Embedded(values, unreadable, odd)


def embed_captions(
    encoder: TextEncoder, texts: list[str], progress: Path, machine: Machine, batch_size: int
) -> Embedded:
    """Embed N captions. Raises InputError if `progress` is of another run, or if the network gives NaN."""
    parts = _split(texts, CAPTIONS_A_SHARD)
    shards = Shards(progress, _identity(encoder.identity, texts, machine, batch_size))

    def embed(todo: list[int]) -> Iterable[tuple[np.ndarray, dict[str, str]]]:
        encoder.to(machine)
        for part in todo:
            values = encoder.embed(parts[part], machine, batch_size)
            if not np.isfinite(values).all():
                raise InputError(f"{encoder.identity['encoder']}: gives NaN for a caption; try --precision float32")
            yield values, {}

    return Embedded(_embed(shards, [len(part) for part in parts], embed, "caption")[0])


def _embed(
    shards: Shards,
    sizes: list[int],
    embed: Callable[[list[int]], Iterable[tuple[np.ndarray, dict[str, str]]]],
    unit: str,
) -> tuple[np.ndarray, dict[str, str]]:
    """The embeddings of all batches, of these sizes: those that are there, and of the others what `embed` makes."""
    found = {batch: shard for batch, rows in enumerate(sizes) if (shard := shards.read(batch, rows))}
    done, total = sum(sizes[batch] for batch in found), sum(sizes)
    if done:
        print(f"continuing {shards.folder}: {done:,} of {total:,} {unit}s are done", flush=True)
    todo = [batch for batch in range(len(sizes)) if batch not in found]
    if todo:
        with Progress(total=total, initial=done, desc=f"embedding {unit}s", unit=unit, smoothing=0.05) as bar:
            for batch, (values, odd) in zip(todo, embed(todo), strict=True):
                shards.write(batch, values, odd)
                found[batch] = values, odd
                bar.update(len(values))
    if len({values.shape[1] for values, _ in found.values()}) > 1:
        raise InputError(f"{shards.folder}: has embeddings of different widths; remove it and run again")
    odd = {name: what for _, its in found.values() for name, what in its.items()}
    return np.concatenate([found[batch][0] for batch in range(len(sizes))]), odd


def _autocast(encoder: ImageEncoder, machine: Machine) -> Callable[[Tensor], np.ndarray]:
    def embed(pixels: Tensor) -> np.ndarray:
        with torch.inference_mode(), machine.autocast():
            return encoder.embed(pixels.to(machine.device)).float().cpu().numpy()

    return embed


def _split(items: list[str], size: int) -> list[list[str]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _identity(encoder: dict[str, Any], items: Sequence[str], machine: Machine, batch_size: int) -> dict[str, Any]:
    """What embeddings depend on."""
    digest = hashlib.sha256("\0".join(items).encode("utf-8", "surrogateescape")).hexdigest()
    of = {"encoder": encoder, "sha256": digest, "batch_size": batch_size}
    return of | {"device": machine.device.type, "precision": machine.precision}


def open_embeddings(path: Path, rows: int, what: str) -> Embedded:
    """Open an array of one's own, .npy, floats, a row for each of so many of `what`. Raises InputError."""
    require_file(path)
    try:
        with path.open("rb") as file:  # NumPy does not close what it takes for a damaged archive
            found = np.load(file, allow_pickle=False)
    except Exception as error:  # NumPy's parser, zipfile and what allocates raise a dozen kinds for damaged bytes
        raise InputError(f"{path}: not an array that NumPy saved ({str(error) or type(error).__name__})") from None
    if not isinstance(found, np.ndarray) or found.ndim != 2 or found.dtype.kind != "f" or not found.shape[1]:
        is_one = f"{found.dtype} of shape {found.shape}" if isinstance(found, np.ndarray) else "an archive"
        raise InputError(f"{path}: {is_one}; expected floats of two dimensions, a row each")
    if len(found) != rows:
        raise InputError(f"{path}: has {len(found):,} rows; there are {rows:,} {what}")
    with np.errstate(over="ignore"):
        values = found.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise InputError(
            f"{path}: has NaN, infinite numbers or such beyond float32 in {len(bad)} rows, from row {bad[0]}"
        )
    return Embedded(values)
