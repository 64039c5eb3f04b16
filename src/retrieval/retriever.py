"""A translator, the captions that it has not trained on, and the gallery that it ranks for them.

Shapes: N captions and M images of the pairs; G images of the gallery; n queries, each with the k images that it ranks
first; T text width, V image width.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from src.common.files import InputError
from src.common.progress import Progress
from src.data.pairs import Pairs, open_gallery
from src.ensembles.held_out import Run
from src.filters.ranks import CAPTIONS_AT_ONCE, take_best
from src.training.metrics import NonFiniteError, ranks_of, score_chunks
from src.training.model import Translator, load_translator, translate
from src.training.runs import REFIT, read_run


@dataclass(frozen=True, eq=False)
class Retrieved:
    """What n queries find. best_nk (n, k) int64: rows of the gallery, the best first, with their cosine similarities,
    best_score_nk. Of the right image: own_n (n,) int64, its row, -1 where the gallery lacks it; rank_n float64 and
    score_n float32, then NaN."""

    best_nk: np.ndarray
    best_score_nk: np.ndarray
    own_n: np.ndarray
    rank_n: np.ndarray
    score_n: np.ndarray

    @property
    def worst_first(self) -> np.ndarray:
        """(n,) int64: the queries from the worst rank to the best, of equal ones from the lowest score; those without
        a rank are last."""
        return np.lexsort((self.score_n, -self.rank_n))


@dataclass(frozen=True, eq=False)
class Retriever:
    """captions (some of N,) int64: those that may be asked; names_G and gallery_GV, on the translator's device; own_N
    (N,) int64: the row of each caption's image in the gallery, or -1; seen: what is known of the translator's training
    on them."""

    weights: Path
    translator: Translator
    pairs: Pairs
    captions: np.ndarray
    names_G: np.ndarray
    gallery_GV: Tensor
    own_N: np.ndarray
    seen: str

    def retrieve(self, captions: np.ndarray, top_k: int) -> Retrieved:
        """What some captions find, (n,) int64 indices. Raises InputError as `retrieve_vectors`."""
        return self.retrieve_vectors(self.pairs.text_embeddings, self.own_N[captions], top_k, captions)

    def retrieve_vectors(
        self, text_NT: np.ndarray, own_n: np.ndarray, top_k: int, rows_n: np.ndarray | None = None
    ) -> Retrieved:
        """What text embeddings find, all or some rows of (N, T) float32; own_n as in `Retrieved`. Raises InputError if
        a prediction is not finite."""
        rows = torch.from_numpy(np.arange(len(text_NT)) if rows_n is None else rows_n)
        depth, chunks = min(top_k, len(self.names_G)), []
        try:
            for score_CG, own_C in self._scores(text_NT, rows, torch.from_numpy(own_n)):
                target_C1 = own_C.clamp(min=0)[:, None]
                ranks_C, score_C = ranks_of(score_CG, target_C1[:, 0]), score_CG.gather(1, target_C1)[:, 0]
                best_Ck, best_score_Ck = take_best(score_CG, depth)
                chunks.append([part.cpu() for part in (best_Ck, best_score_Ck, ranks_C, score_C)])
        except NonFiniteError as error:
            raise InputError(f"{self.weights}: {error}") from None
        best_nk, best_score_nk, rank_n, score_n = (torch.cat(parts).numpy() for parts in zip(*chunks, strict=True))
        rank_n[own_n < 0] = score_n[own_n < 0] = np.nan
        return Retrieved(best_nk, best_score_nk, own_n, rank_n, score_n)

    def _scores(self, text_NT: np.ndarray, rows_n: Tensor, own_n: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Scores (C, G) of some queries at a time, and the rows of their own images, under a bar if they are many."""
        device, few = self.gallery_GV.device, len(rows_n) <= CAPTIONS_AT_ONCE
        with Progress(total=len(rows_n), desc="ranking", unit="caption", disable=few) as bar:
            for rows, own in zip(rows_n.split(CAPTIONS_AT_ONCE), own_n.split(CAPTIONS_AT_ONCE), strict=True):
                prediction = translate(self.translator, torch.from_numpy(text_NT[rows.numpy()]))
                yield from score_chunks(prediction, self.gallery_GV, own.to(device))
                bar.update(len(rows))

    def with_ids(self, caption_ids: list[int]) -> np.ndarray:
        """The captions of these ids, (n,) int64 indices. Raises InputError for one that there is not or was trained
        on."""
        order = np.argsort(self.pairs.caption_ids)
        places = np.searchsorted(self.pairs.caption_ids, caption_ids, sorter=order).clip(max=len(order) - 1)
        found = order[places]
        for caption_id, row in zip(caption_ids, found, strict=True):
            if self.pairs.caption_ids[row] != caption_id:
                raise InputError(f"--caption {caption_id}: {self.pairs.source} has no caption of this id")
            if row not in self.captions:
                raise InputError(f"--caption {caption_id}: of an image that was trained on; --all-images shows it")
        return found

    def containing(self, text: str) -> np.ndarray:
        """The captions that contain a text, in upper or lower case, (n,) int64 indices. Raises InputError if none
        does."""
        lower = text.casefold()
        found = [row for row in self.captions if lower in self.pairs.caption_texts[row].casefold()]
        if not found:
            raise InputError(f"--containing {text!r}: in none of the {len(self.captions):,} captions ({self.seen})")
        return np.array(found)


def open_retriever(
    weights: Path, pairs: Pairs, device: torch.device, *, all_images: bool = False, gallery_npz: Path | None = None
) -> Retriever:
    """The captions and images of `pairs` that the translator did not train on or, with `all_images`, all of them;
    `gallery_npz` gives another gallery. Raises InputError."""
    translator = load_translator(weights, device, of=pairs)
    images_M, seen = np.ones(pairs.num_images, np.bool_), "all, whether it was trained on them or not"
    if not all_images:
        images_M, seen = held_out_images(weights, pairs)
    captions = np.flatnonzero(images_M[pairs.image_of_caption])
    if not len(captions):
        raise InputError(
            f"{weights}: was trained on all images of {pairs.source}; --all-images shows them nevertheless"
        )
    names, embeddings = pairs.image_names[images_M], pairs.image_embeddings[images_M]
    if gallery_npz:
        names, embeddings = open_gallery(gallery_npz)
        width = pairs.image_embeddings.shape[1]
        if embeddings.shape[1] != width:
            widths = f"its image embeddings are {embeddings.shape[1]} wide; the translator's predictions {width}"
            raise InputError(f"{gallery_npz}: {widths}")
    row_of = {name: row for row, name in enumerate(names)}
    own_M = np.array([row_of.get(name, -1) for name in pairs.image_names])
    gallery_GV = torch.from_numpy(embeddings).to(device)
    return Retriever(weights, translator, pairs, captions, names, gallery_GV, own_M[pairs.image_of_caption], seen)


def held_out_images(weights: Path, pairs: Pairs) -> tuple[np.ndarray, str]:
    """Which images of `pairs` a translator did not train on, (M,) bool, and how that is known: by the record of the run
    beside its weights. All, where there is no record. Raises InputError if the record does not tell it."""
    everything = np.ones(pairs.num_images, np.bool_)
    if weights.name == REFIT:
        return ~everything, "none: it was trained on all images"
    record = read_run(weights.parent)
    if record is None:
        return everything, "all: what it was trained on is not recorded"
    try:
        return Run(weights.parent, record).held_out(pairs), "never seen in training"
    except InputError as error:
        raise InputError(f"{error}; --all-images shows all, whether it was trained on them or not") from None
