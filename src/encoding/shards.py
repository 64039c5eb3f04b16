"""Embeddings so far, in a folder beside the outputs: a killed run goes on where it was."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from src.common.files import InputError, atomic_path, read_json, write_json


class Shards:
    """A file for each batch, 000000.npy, with 000000.json for what is odd in it, and identity.json: what they depend
    on. A batch that is damaged or has NaN, as of images that cannot be read, counts as missing."""

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        """Go on with a folder, or begin it. Raises InputError if it has batches of another identity."""
        self.folder, record = folder, folder / "identity.json"
        identity = json.loads(json.dumps(identity))
        if any(folder.glob("*.npy")):
            found = read_json(record) if record.exists() else {}
            differing = [key for key in identity if not isinstance(found, dict) or found.get(key) != identity[key]]
            if differing:
                raise InputError(
                    f"{folder}: holds the embeddings so far of another run (another {', '.join(differing)}); "
                    "repeat that run's arguments, remove the folder, or choose another --output-dir"
                )
        elif folder.exists():
            shutil.rmtree(folder)
        write_json(record, identity)

    def read(self, batch: int, rows: int) -> tuple[np.ndarray, dict[str, str]] | None:
        """The embeddings of a batch, (rows, width) float32, and what is odd, {image: what}; None if it is missing."""
        path = self._path(batch)
        odd: dict[str, str] = {}
        try:
            with path.open("rb") as file:
                embeddings = np.load(file, allow_pickle=False)
            if path.with_suffix(".json").exists():
                odd = dict(read_json(path.with_suffix(".json")))
        except Exception:  # NumPy's parser raises a dozen kinds for damaged bytes
            return None
        right = embeddings.dtype == np.float32 and embeddings.ndim == 2 and len(embeddings) == rows
        return (embeddings, odd) if right and np.isfinite(embeddings).all() else None

    def write(self, batch: int, embeddings: np.ndarray, odd: dict[str, str]) -> None:
        path = self._path(batch)
        if odd:
            write_json(path.with_suffix(".json"), odd)
        with atomic_path(path) as temporary:
            np.save(temporary, embeddings)

    def _path(self, batch: int) -> Path:
        return self.folder / f"{batch:06d}.npy"
