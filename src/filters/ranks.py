"""Where each caption's own image stands among all images, what the caption prefers to it, and the table of it all.

Shapes: N captions, M images, C captions of a chunk, D = at most 5 images that a caption likes best.

The table is a CSV with a row a caption, in the order of the pairs, and a record beside it (….json) of what ranked
them: caption_id, caption, image, rank, score (cosine similarity to the own image), then preferred_1, preferred_score_1
to preferred_5, preferred_score_5, the images that score highest with their scores.
"""

import csv
from collections import ChainMap
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from src.common.files import InputError, atomic_path, read_json, write_json
from src.common.progress import Progress
from src.data.pairs import Pairs
from src.filters.tables import read_table
from src.training.inputs import OnDevice
from src.training.metrics import ranks_of, score_chunks
from src.training.model import Translator, translate
from src.training.world import ALONE, World

DEPTH = 5
RANK_NAME = "rank of the own image"  # in pictures
CAPTIONS_AT_ONCE = 8192  # translated; src.training.metrics scores a part of them at a time


def rank_captions(
    translator: Translator, data: OnDevice, captions: np.ndarray, label: str = "ranking", *, world: World = ALONE
) -> pd.DataFrame:
    """Rank all images for some captions, (n,) int indices, under a progress bar with a label. Returns the table's rows,
    indexed by `captions`, in every process. Raises NonFiniteError."""
    pairs, captions_n = data.pairs, torch.from_numpy(captions).to(data.device)
    blocks = captions_n.split(CAPTIONS_AT_ONCE)
    chunks: dict[int, list[list[Tensor]]] = {}  # by block, the same ones for any number of processes
    own = range(world.rank, len(blocks), world.size)
    with Progress(total=sum(len(blocks[i]) for i in own), desc=f"{label}{world.share}", unit="caption") as bar:
        for i in own:
            block, chunks[i] = blocks[i], []
            prediction = translate(translator, data.text(block))
            for score_CM, target_C in score_chunks(prediction, data.image_MV, data.image_of_caption_N[block]):
                own_C = score_CM.gather(1, target_C[:, None])[:, 0]
                found = ranks_of(score_CM, target_C), own_C, *take_best(score_CM, min(DEPTH, pairs.num_images))
                chunks[i].append([part.cpu() for part in found])
                bar.update(len(target_C))
    chunks = dict(ChainMap(*world.gathered(chunks)))
    in_order = (chunk for i in range(len(blocks)) for chunk in chunks[i])
    ranks, scores, images, image_scores = (torch.cat(parts).numpy() for parts in zip(*in_order, strict=True))
    columns = {
        "caption_id": pairs.caption_ids[captions],
        "caption": pairs.caption_texts[captions],
        "image": pairs.image_names[pairs.image_of_caption[captions]],
        "rank": ranks,
        "score": scores,
    }
    for place, (image, score) in enumerate(zip(images.T, image_scores.T, strict=True), 1):
        columns |= {f"preferred_{place}": pairs.image_names[image], f"preferred_score_{place}": score}
    return pd.DataFrame(columns, index=captions)


def take_best(score_CM: Tensor, depth: int) -> tuple[Tensor, Tensor]:
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
    record = path.with_suffix(".json")
    record.unlink(missing_ok=True)  # at no moment does a record stand beside another's table
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, quoting=csv.QUOTE_NONNUMERIC)  # texts may hold a lone carriage return
    write_json(record, made)


def find_ranks(path: Path, pairs: Pairs, identity: dict[str, Any]) -> tuple[pd.DataFrame, dict[str, Any]] | None:
    """The table at `path` and its record, if there is one whose record agrees with `identity`. Raises InputError if it
    is no table of these pairs although its record says so."""
    record = path.with_suffix(".json")
    if not path.exists() or not record.exists():
        return None
    made = read_json(record)
    if not isinstance(made, dict) or any(made.get(key) != value for key, value in identity.items()):
        return None
    dtypes = {"caption_id": np.int64, "caption": str, "image": str, "rank": np.float64, "score": np.float32}
    for place in range(1, min(DEPTH, pairs.num_images) + 1):
        dtypes |= {f"preferred_{place}": str, f"preferred_score_{place}": np.float32}
    table = read_table(path, dtypes, "a table of ranks", "; remove it")
    numbers, preferred = table.select_dtypes("number"), [name for name in table if name[10:].isdigit()]
    if not (
        np.array_equal(table.caption_id, pairs.caption_ids)
        and np.array_equal(table.image, pairs.image_names[pairs.image_of_caption])
        and np.isfinite(numbers.to_numpy()).all()
        and table["rank"].between(1, pairs.num_images).all()
        and table[preferred].isin(pairs.image_names).all(axis=None)
    ):
        raise InputError(f"{path}: not one finite rank and score for each caption of {pairs.source}; remove it")
    return table, made
