"""What a training job reads, uploaded to the device once; splits of it, which are indices.

On a GPU that is too small for the embeddings, the captions' stay in the host's memory or, mapped, in their file.

Shapes: N captions, M images, T text width, V image width; n captions and m images of a part.

A filtered file has lost the hard captions of its validation images too and so flatters its own MRR. So the file that it
was filtered from, its source, gives the captions that validate: of the same images, all of them.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from src.common.files import InputError
from src.common.paths import TEST_NPZ, TRAIN_NPZ
from src.data.keep_lists import apply_keep_list, soft_weights, source_of
from src.data.origins import require_one_origin
from src.data.pairs import Pairs, Source, TestCaptions, fingerprint, open_pairs, open_test_captions
from src.data.splits import in_turns, validation_images
from src.training.metrics import evaluate
from src.training.model import Translator, translate
from src.training.runs import DataRecord

ROWS_AT_ONCE, FEATURES_AT_ONCE = 8192, 128  # of the captions, so that no copy of all is made
OWN = Path("own")  # in place of a validation file: what a filter left of the validation images' captions


@dataclass(frozen=True, kw_only=True)
class DataPaths:
    """The files of a job: captions that train, which of them (None: all; `soft`: all, with weights), captions that
    validate (None: the unfiltered ones; OWN: those that a filter left), captions to predict (None: none). Raises
    InputError for `soft` without a keep-list. `cache_dir` is the folder for caches (None: see src.data.cache)."""

    train_npz: Path = TRAIN_NPZ
    keep_list: Path | None = None
    soft: bool = False
    val_npz: Path | None = None
    test_npz: Path | None = TEST_NPZ
    cache_dir: Path | None = None

    def __post_init__(self) -> None:
        if self.soft and not self.keep_list:
            raise InputError("--soft: weighs captions by the ranks of a keep-list; name it with --keep-list")

    @property
    def tag(self) -> str:
        """A short name of what is trained on, for the names of runs."""
        return self.keep_list.stem + "_soft" * self.soft if self.keep_list else dataset_tag(self.train_npz)


def dataset_tag(path: Path) -> str:
    """A short name: data/train/train.npz → train, elsewhere/visual/train.npz → visual-train."""
    folder = path.resolve().parent.name
    return path.stem if folder in ("", path.stem) else f"{folder}-{path.stem}"


def fits(needed: float, free: float) -> bool:
    """Whether embeddings are to be on a device, by its bytes of free memory: training needs the other half."""
    return needed <= free / 2


def free_memory(device: torch.device) -> float:
    """Bytes that tensors may take on a GPU of its own memory. Elsewhere no choice of a place would save any."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else math.inf


class OnDevice:
    """Pairs, and their image_MV, image_of_caption_N and, by `text`, their captions' embeddings as tensors on a device;
    weight_N, by which captions count when they train, or None. text_NT lies where it fits."""

    def __init__(self, pairs: Pairs, device: torch.device, weights: np.ndarray | None = None) -> None:
        self.pairs, self.device = pairs, device
        embeddings = torch.from_numpy(pairs.text_embeddings), torch.from_numpy(pairs.image_embeddings)
        self.text_on_host = not fits(sum(each.nbytes for each in embeddings), free_memory(device))
        self.text_NT = embeddings[0] if self.text_on_host else embeddings[0].to(device)
        self.image_MV = embeddings[1].to(device)
        self.image_of_caption_N = torch.from_numpy(pairs.image_of_caption).to(device).long()
        self.weight_N = None if weights is None else torch.from_numpy(weights).to(device)

    def __str__(self) -> str:
        return f"captions' on the host, {self.text_NT.nbytes / 1e9:.2f} GB" if self.text_on_host else "on the device"

    def text(self, captions_B: Tensor, features: slice = slice(None)) -> Tensor:
        """(B, T) float32 on the device: embeddings of some captions, or some of their features."""
        if not self.text_on_host:
            return self.text_NT[:, features][captions_B]
        return self._on_its_way(self._gathered(captions_B.cpu(), features))

    def texts(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """`text` of one batch after the other. On the host the next is gathered while the device computes."""
        if not self.text_on_host:
            return map(self.text, batches)
        batches = list(batches)
        on_host = torch.cat(batches).cpu().split([len(each) for each in batches])  # the device is waited for once
        return map(self._on_its_way, one_ahead(map(self._gathered, on_host)))

    def _gathered(self, captions_B: Tensor, features: slice = slice(None)) -> Tensor:
        text_BT = self.text_NT[:, features][captions_B]
        return text_BT.pin_memory() if self.device.type == "cuda" else text_BT

    def _on_its_way(self, text_BT: Tensor) -> Tensor:
        return text_BT.to(self.device, non_blocking=True)

    def part(self, images: np.ndarray, *, turns: bool = False) -> "Part":
        """Some images, by a boolean mask (M,), with all of their captions: in the file's order, or in turns of one an
        image."""
        image_of_caption = self.pairs.image_of_caption
        captions = np.flatnonzero(images[image_of_caption])
        if turns:
            captions = captions[in_turns(image_of_caption[captions])]
        captions_n, images_m = (torch.from_numpy(each).to(self.device) for each in (captions, np.flatnonzero(images)))
        return Part(self, captions_n, images_m)


@dataclass(frozen=True, eq=False)
class Part:
    """Images of a dataset and all of their captions: captions (n,) and images (m,) are int64 indices into `of`, on its
    device; images ascend."""

    of: OnDevice
    captions: Tensor
    images: Tensor

    def __len__(self) -> int:
        return len(self.captions)

    @property
    def text_nT(self) -> Tensor:
        """A copy as large as the part: see `text_blocks`."""
        return self.of.text(self.captions)

    def text_blocks(self, captions_at_once: int = ROWS_AT_ONCE) -> Iterator[Tensor]:
        """text_nT, some captions at a time."""
        return map(self.of.text, self.captions.split(captions_at_once))

    def of_features(self, measure: Callable[[Tensor], Tensor]) -> Tensor:
        """(T,): what `measure` makes of text_nT, (n, some) → (some,), a few features at a time but of all captions: the
        same digits as from all at once, which sums over parts of the captions would not give."""
        starts = range(0, self.of.text_NT.shape[1], FEATURES_AT_ONCE)
        some = (slice(start, start + FEATURES_AT_ONCE) for start in starts)
        return torch.cat([measure(self.of.text(self.captions, features)) for features in some])

    @property
    def gallery_mV(self) -> Tensor:
        return self.of.image_MV[self.images]

    @property
    def target_n(self) -> Tensor:
        """(n,) int64: the row of the gallery that each caption belongs to."""
        return torch.searchsorted(self.images, self.of.image_of_caption_N[self.captions])

    @property
    def weight_n(self) -> Tensor | None:
        """(n,) float32: by how much each caption counts when it trains; None: all the same."""
        return None if self.of.weight_N is None else self.of.weight_N[self.captions]

    def sample(self, captions: int, images: int) -> "Part":
        """At most so many captions of at most so many images, drawn at random: always the same ones, and without a
        draw from torch's numbers."""
        rng = np.random.default_rng(0)
        drawn = np.sort(rng.permutation(len(self.images))[:images])
        some = np.sort(rng.permutation(np.flatnonzero(np.isin(self.target_n.cpu().numpy(), drawn)))[:captions])
        some_n, drawn_m = (torch.from_numpy(each).to(self.of.device) for each in (some, drawn))
        return replace(self, captions=self.captions[some_n], images=self.images[drawn_m])

    def translate(self, translator: Translator) -> Tensor:
        """(n, V) float32 on the device: the predicted images of all captions."""
        return torch.cat([translate(translator, text_BT) for text_BT in self.text_blocks()])

    def measure(self, translator: Translator) -> dict[str, float]:
        """Both measures, each caption against all images of the part. Raises NonFiniteError."""
        return evaluate(self.translate(translator), self.gallery_mV, self.target_n)


@dataclass(frozen=True, eq=False)
class Split:
    """train and validation share no image; what validates stands in turns. `own_validation` is set when validation is
    of another file: the training file's own captions of the same images."""

    train: Part
    validation: Part
    own_validation: Part | None = None

    def __post_init__(self) -> None:
        if not len(self.train) or not len(self.validation):
            reason = "the split leaves no captions to train or to validate with"
            raise InputError(f"{reason}; try another --val-fraction or seed")


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingData:
    """The opened files of a job. `images` (M,) bool says which of the training file's images take part; `validation` is
    None where the captions that validate are of the training file; `lost_source` is set if they should not be, but the
    unfiltered file is gone or has changed; `record` is what a run stores of it all."""

    train: OnDevice
    images: np.ndarray
    validation: OnDevice | None = None
    lost_source: Source | None = None
    test: TestCaptions | None = None
    record: DataRecord

    @classmethod
    def of(
        cls, pairs: Pairs, device: torch.device, record: DataRecord | None = None, weights: np.ndarray | None = None
    ) -> "TrainingData":
        """Pairs that are in memory, all of them."""
        record = replace(record or DataRecord(), train_captions=len(pairs), train_images=pairs.num_images)
        return cls(train=OnDevice(pairs, device, weights), images=np.ones(pairs.num_images, np.bool_), record=record)

    @property
    def unfiltered(self) -> Path:
        """The file whose captions validate."""
        return Path(self.record.val_npz or self.record.train_npz)

    def without(self, images: np.ndarray, part: str) -> "TrainingData":
        """The same data without some images, (M,) bool. They are no longer the whole file: their fingerprint names the
        `part`, so that nobody takes a run on it for one on the file."""
        images = self.images & ~images
        record = replace(
            self.record,
            train_fingerprint=f"{self.record.train_fingerprint} without {part}",
            train_captions=int(images[self.train.pairs.image_of_caption].sum()),
            train_images=int(images.sum()),
        )
        return replace(self, images=images, record=record)

    def split(self, fraction: float, seed: int) -> Split:
        """Split by image name. Raises InputError if either side has no captions."""
        names = self.train.pairs.image_names
        validates = np.zeros(len(names), np.bool_)
        validates[self.images] = validation_images(names[self.images], fraction, seed)
        train, own = self.train.part(self.images & ~validates), self.train.part(validates, turns=True)
        if self.validation is None:
            return Split(train, own)
        others = self.validation.pairs.image_names
        if not np.isin(others, names[self.images]).any():  # a validation set of its own: nothing need be held out
            everything = np.ones(len(others), np.bool_)
            return Split(self.train.part(self.images), self.validation.part(everything, turns=True))
        return Split(train, self.validation.part(np.isin(others, names[validates]), turns=True), own)


def one_ahead(items: Iterator[Tensor]) -> Iterator[Tensor]:
    """The same items, each made in a thread while the one before it is in use."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item


def open_training_data(paths: DataPaths, device: torch.device) -> TrainingData:
    """Open and check all files of a job before anything is trained. Raises InputError."""
    pairs = whole = open_pairs(paths.train_npz, cache_dir=paths.cache_dir)
    record = {"train_npz": str(paths.train_npz), "train_fingerprint": fingerprint(paths.train_npz)}
    weights = None
    if paths.keep_list:
        if paths.soft:
            weights, record["caption_weights"] = soft_weights(pairs, paths.keep_list)
        else:
            pairs = apply_keep_list(pairs, paths.keep_list)
        record |= {"keep_list": str(paths.keep_list), "keep_list_fingerprint": fingerprint(paths.keep_list)}
    validation = test = None
    source = source_of(whole)
    val_npz = paths.val_npz or (source.find() if source else paths.train_npz)
    if val_npz and val_npz != OWN:
        val_fingerprint = fingerprint(val_npz)
        same_file = val_fingerprint == record["train_fingerprint"]
        if pairs is not whole or not same_file:
            validation = whole if same_file else open_pairs(val_npz, cache_dir=paths.cache_dir)
            record |= {"val_npz": str(val_npz), "val_fingerprint": val_fingerprint}
            _check_width(pairs.text_embeddings, validation.text_embeddings, val_npz, "caption")
            _check_width(pairs.image_embeddings, validation.image_embeddings, val_npz, "image")
    if paths.test_npz:
        test = open_test_captions(paths.test_npz)
        record |= {"test_npz": str(paths.test_npz), "test_fingerprint": fingerprint(paths.test_npz)}
        require_one_origin(paths.train_npz, paths.test_npz, source)
        _check_width(pairs.text_embeddings, test.text_embeddings, paths.test_npz, "caption")
    data = TrainingData.of(pairs, device, DataRecord(**record), weights)  # type: ignore[arg-type]
    return replace(
        data,
        validation=None if validation is None else OnDevice(validation, device),
        lost_source=None if val_npz else source,
        test=test,
    )


def _check_width(ours: np.ndarray, theirs: np.ndarray, path: Path, what: str) -> None:
    if ours.shape[1] != theirs.shape[1]:
        widths = f"its {what} embeddings are {theirs.shape[1]} wide; the training pairs' {ours.shape[1]}"
        raise InputError(f"{path}: {widths}")
