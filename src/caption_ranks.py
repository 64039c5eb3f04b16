"""Where each caption's own image stands among all images, what the caption prefers to it, and the table of it all.

Shapes: N captions, M images, C captions of a chunk, D = at most 5 images that a caption likes best.

The table is a CSV with a row a caption, in the order of the pairs, and a record beside it (….json) of what ranked
them: caption_id, caption, image, rank, score (cosine similarity to the own image), then preferred_1, preferred_score_1
to preferred_5, preferred_score_5, the images that score highest with their scores.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from src.files import InputError, atomic_path, read_json, require_file, write_json
from src.metrics import ranks_of, score_chunks
from src.model import Translator, translate
from src.pairs import Pairs

DEPTH = 5
CAPTIONS_AT_ONCE = 8192  # translated; src.metrics scores a part of them at a time


def rank_captions(
    translator: Translator, pairs: Pairs, captions: np.ndarray, device: torch.device, tick: Callable[[int], Any]
) -> pd.DataFrame:
    """Rank all images for some captions; `captions` (n,) int, indices. `tick` is told how many are done.

    Returns the table's rows, indexed by `captions`. Memory beside the pairs is the gallery and a few chunks, however
    many captions there are. Raises NonFiniteError.
    """
    gallery_MV = torch.from_numpy(pairs.image_embeddings).to(device)
    ranks, scores, images, image_scores = [], [], [], []
    for start in range(0, len(captions), CAPTIONS_AT_ONCE):
        block = captions[start : start + CAPTIONS_AT_ONCE]
        prediction = translate(translator, torch.from_numpy(pairs.text_embeddings[block]))
        target = torch.from_numpy(pairs.image_of_caption[block]).to(device).long()
        for score_CM, target_C in score_chunks(prediction, gallery_MV, target):
            ranks.append(ranks_of(score_CM, target_C).cpu())
            scores.append(score_CM.gather(1, target_C[:, None])[:, 0].cpu())
            best_CD, best_scores_CD = _take_best(score_CM, min(DEPTH, pairs.num_images))
            images.append(best_CD.cpu())
            image_scores.append(best_scores_CD.cpu())
            tick(len(target_C))
    columns = {
        "caption_id": pairs.caption_ids[captions],
        "caption": pairs.caption_texts[captions],
        "image": pairs.image_names[pairs.image_of_caption[captions]],
        "rank": torch.cat(ranks).numpy(),
        "score": torch.cat(scores).numpy(),
    }
    best = zip(torch.cat(images).numpy().T, torch.cat(image_scores).numpy().T, strict=True)
    for place, (image, score) in enumerate(best, 1):
        columns |= {f"preferred_{place}": pairs.image_names[image], f"preferred_score_{place}": score}
    return pd.DataFrame(columns, index=captions)


def _take_best(score_CM: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """The `depth` highest of each row and their columns, highest first, of equal ones the first. Overwrites them."""
    columns, scores = [], []
    for _ in range(depth):
        best_C1 = score_CM.argmax(dim=1, keepdim=True)  # the first of equal ones, which topk does not promise
        columns.append(best_C1)
        scores.append(score_CM.gather(1, best_C1))
        score_CM.scatter_(1, best_C1, -torch.inf)
    return torch.cat(columns, dim=1), torch.cat(scores, dim=1)


def save_ranks(path: Path, table: pd.DataFrame, made: dict[str, Any]) -> None:
    """Write the table to `path`, ….csv, and the record `made` beside it."""
    write_json(path.with_suffix(".json"), made)
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False)


def open_ranks(path: Path, pairs: Pairs, input_fingerprint: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Open the table of these pairs and its record. Raises InputError if it is another's, or no such table."""
    made = read_json(require_file(path).with_suffix(".json"))
    if not isinstance(made, dict) or made.get("input_fingerprint") != input_fingerprint:
        raise InputError(f"{path}: ranks of other pairs than {pairs.source}, which has {input_fingerprint}")
    floats = {f"preferred_score_{place}": np.float32 for place in range(1, DEPTH + 1)}
    try:
        table = pd.read_csv(path, dtype={"score": np.float32} | floats, keep_default_na=False)
        known = np.array_equal(table["caption_id"], pairs.caption_ids)
        valid = known and bool(np.isfinite(table[["rank", "score"]].to_numpy(np.float64)).all())
    except (ValueError, KeyError) as error:
        raise InputError(f"{path}: not a table of ranks ({error})") from None
    if not valid:
        raise InputError(f"{path}: not a table of ranks, one finite rank and score for each caption of {pairs.source}")
    return table, made
