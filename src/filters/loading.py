"""Read the batches that a CLIP scores, in this process or in workers, however little memory these may share.

Shapes: a batch has b images, S pixels wide and high, and their c captions of L tokens.
"""

import math
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import queues
from typing import Any, Protocol, TypeVar, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from src.common.files import InputError
from src.common.processes import local_world_size
from src.data.pairs import Pairs
from src.filters.clip_model import Clip
from src.filters.pictures import ImageFolder

Loaded = TypeVar("Loaded", covariant=True)
BLACK = Image.new("RGB", (64, 64))  # stands in for an image that cannot be read
BATCHES_A_WORKER = 3  # that are in shared memory at once: two that wait, one that is at work
WITHOUT_WORKERS = "run again to continue, with --workers 0, or with more memory (docker run --memory 8g --shm-size 2g)"


@dataclass(frozen=True, eq=False)
class ImageBatch:
    """pixels (b, 3, S, S) float32, tokens (c, L) int64, the image of each caption (c,) int64 from 0 to b - 1; why a
    caption's image cannot be read, {caption: reason}, and what is odd about images that can, {name: what}."""

    pixels: Tensor | np.ndarray
    tokens: Tensor | np.ndarray
    image_of_caption: Tensor | np.ndarray
    unreadable: dict[int, str]
    odd: dict[str, str]


class ImageBatches(Dataset):
    """Batches of image files, `files`, by their names, and of their captions, `captions`, indices of `pairs`."""

    def __init__(
        self, clip: Clip, pairs: Pairs, folder: ImageFolder, files: list[str], file_of_image: np.ndarray, size: int
    ) -> None:
        file_of_caption = file_of_image[pairs.image_of_caption]
        used, self.file_of_caption, counts = np.unique(file_of_caption, return_inverse=True, return_counts=True)
        self.files = [[files[i] for i in used[start : start + size]] for start in range(0, len(used), size)]
        by_file = np.argsort(self.file_of_caption, kind="stable")
        self.captions = np.split(by_file, np.cumsum(counts)[size - 1 : -1 : size])
        self.texts, self.folder, self.size = pairs.caption_texts, folder, size
        self.preprocess, self.tokenize = clip.preprocess, clip.tokenize
        self.nbytes = min(size, len(used)) * clip.preprocess(BLACK).nbytes  # of a batch

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, batch: int) -> ImageBatch:
        captions = self.captions[batch]
        image_of_caption = self.file_of_caption[captions] - batch * self.size
        pixels, reasons, odd = read_pictures(self.folder, self.files[batch], self.preprocess)
        unreadable: dict[int, str] = {}
        for image, reason in reasons.items():
            unreadable |= dict.fromkeys(captions[image_of_caption == image].tolist(), reason)
        tokens = self.tokenize(self.texts[captions].tolist())
        return ImageBatch(pixels, tokens, torch.from_numpy(image_of_caption), unreadable, odd)


def read_pictures(
    folder: ImageFolder, names: list[str], preprocess: Callable[[Image.Image], Tensor]
) -> tuple[Tensor, dict[int, str], dict[str, str]]:
    """Images by name as pixels (b, 3, S, S) float32, black where one cannot be read; why, {its place: reason}; what is
    odd about those that can, {name: what}."""
    pixels: list[Tensor] = []
    unreadable: dict[int, str] = {}
    odd: dict[str, str] = {}
    for place, name in enumerate(names):
        lines: list[str] = []
        try:
            picture = folder.read(name, lines)
        except InputError as error:
            picture = BLACK
            unreadable[place] = str(error)
        else:
            odd |= {name: "; ".join(lines)} if lines else {}
        pixels.append(preprocess(picture))
    return torch.stack(pixels), unreadable, odd


class Batches(Protocol[Loaded]):
    """A map-style dataset whose items, of `nbytes` of pixels each, are dataclasses that may hold tensors."""

    nbytes: int

    def __getitem__(self, batch: int, /) -> Loaded: ...


def load_batches(batches: Batches[Loaded], todo: list[int], workers: int) -> Iterator[Loaded]:
    """Read batches in so many processes, none for this one; by way of shared memory, or of pipes where there is too
    little: in a container there are 64 MB, and a worker that cannot have more hangs or is killed."""
    workers = min(workers, len(todo))
    needed, free = BATCHES_A_WORKER * workers * local_world_size() * batches.nbytes, _shared_memory()
    if needed > free:
        print(
            f"/dev/shm has {free / 1e6:,.0f} of the {needed / 1e6:,.0f} MB that all workers would use: images "
            "come through pipes, which takes longer (docker run --shm-size 2g gives it more)",
            flush=True,
        )
    collate: Callable[[Any], Any] = _as_arrays if needed > free else _as_it_is
    hook, sys.unraisablehook = sys.unraisablehook, lambda unraisable: None  # torch fails to undo what it half began
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of more workers than this machine has cores
            return iter(
                DataLoader(
                    cast(Dataset, batches),
                    batch_size=None,
                    sampler=todo,
                    num_workers=workers,
                    collate_fn=collate,
                    worker_init_fn=_die_if_unheard,
                )
            )
    except (OSError, RuntimeError) as error:  # too few handles, processes, memory
        reason = f"the processes that decode images cannot be started ({error}); {WITHOUT_WORKERS}"
        raise InputError(reason) from error.with_traceback(None)
    finally:
        sys.unraisablehook = hook


def _shared_memory() -> float:
    """The bytes of shared memory that are free; infinite where it is no folder."""
    with suppress(OSError):
        return shutil.disk_usage("/dev/shm").free
    return math.inf


def _as_it_is(batch: Any) -> Any:
    return batch


def _as_arrays(batch: Any) -> Any:
    """The batch without tensors, which are sent in shared memory."""
    arrays: dict[str, Any] = {key: value.numpy() for key, value in vars(batch).items() if isinstance(value, Tensor)}
    return replace(batch, **arrays)


def _die_if_unheard(worker: int) -> None:
    """Have a worker end when it cannot send a batch, as for want of memory: by default the batch is dropped, and the
    process that waits for it waits for ever."""
    queues.Queue._on_queue_feeder_error = staticmethod(lambda error, batch: os._exit(1))  # type: ignore[attr-defined]


@contextmanager
def worker_deaths_told() -> Iterator[None]:
    """Raises InputError if a worker dies; torch's signal handler raises an error wherever this process is by then."""
    try:
        yield
    except RuntimeError as error:
        if not any(sign in str(error) for sign in ("DataLoader worker", "Communication with the workers")):
            raise
        what = "a process that decodes images has died, likely for want of memory or of file handles"
        raise InputError(f"{what}; {WITHOUT_WORKERS}") from error
