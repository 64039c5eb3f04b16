"""The plain way with files: what a script does that was written to get it done. NumPy and the standard library only."""

import ast
import csv
import json
from pathlib import Path

import numpy as np


def open_train(path: str, label_dtype: str = "float32") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Load everything, labels as a dense matrix of `label_dtype`: float32 as training scripts turn them into, or bool.

    Returns the captions' embeddings (N, T), the images' (M, V), and each caption's image (N,).
    """
    data = dict(np.load(path))
    labels = data["captions/label"].astype(label_dtype, copy=False)
    return data["captions/embeddings"], data["images/embeddings"], labels.argmax(axis=1)


def write_csv(path: Path, caption_ids: np.ndarray, embeddings: np.ndarray) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "embedding"])
        for caption_id, embedding in zip(caption_ids.tolist(), embeddings.tolist(), strict=True):
            writer.writerow([caption_id, json.dumps(embedding)])


def read_csv(path: Path) -> np.ndarray:
    csv.field_size_limit(1 << 24)
    with path.open(newline="") as file:
        return np.array([ast.literal_eval(row["embedding"]) for row in csv.DictReader(file)])


def average_csvs(paths: list[Path]) -> np.ndarray:
    return np.mean([read_csv(path) for path in paths], axis=0)
