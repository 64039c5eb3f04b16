"""What a person decided about captions: keep or drop, whatever a filter says. A CSV that outlives the notebook:

caption_id, decision (keep or drop), decided (UTC), image, caption, input_fingerprint (of the pairs they are about)
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from src.common.files import InputError, atomic_path, now
from src.data.pairs import Pairs
from src.filters.tables import read_table

KEEP, DROP = "keep", "drop"
FIELDS = ["decision", "decided", "image", "caption", "input_fingerprint"]  # beside caption_id


@dataclass(frozen=True, eq=False)
class ReviewDecisions:
    """The decisions about `pairs` in the CSV at `path`. It is read whenever asked, so that it alone holds them."""

    path: Path
    pairs: Pairs
    input_fingerprint: str

    def read(self) -> dict[int, str]:
        """{caption id: "keep" or "drop"}. Raises InputError for a file that is damaged or about other pairs."""
        return self._table().decision.to_dict()

    def decide(self, caption_id: int, decision: str | None) -> None:
        """Write a decision, in place of an earlier one; None takes it back. The file is whole at any moment."""
        if decision not in (KEEP, DROP, None):
            raise ValueError(f"{decision!r} is no decision")
        table = self._table().drop(index=caption_id, errors="ignore")
        if decision:
            row = np.flatnonzero(self.pairs.caption_ids == caption_id)[0]
            image, caption = self.pairs.image_names[self.pairs.image_of_caption[row]], self.pairs.caption_texts[row]
            table.loc[caption_id] = [decision, now(), image, caption, self.input_fingerprint]
        with atomic_path(self.path) as temporary:
            table.to_csv(temporary, index_label="caption_id", quoting=csv.QUOTE_NONNUMERIC)

    def apply(self, keep: np.ndarray) -> np.ndarray:
        """A filter's choice, (N captions,) bool, with what was decided as it was. Raises InputError as `read`."""
        decisions, keep = self.read(), keep.copy()
        rows = pd.Index(self.pairs.caption_ids).get_indexer(list(decisions))
        keep[rows] = [decision == KEEP for decision in decisions.values()]
        return keep

    def _table(self) -> pd.DataFrame:
        if not self.path.exists():
            return pd.DataFrame(columns=FIELDS, index=pd.Index([], dtype=np.int64), dtype=str)
        dtypes = {"caption_id": np.int64} | dict.fromkeys(FIELDS, str)
        table = read_table(self.path, dtypes, "a table of review decisions").set_index("caption_id")[FIELDS]
        others = set(table.input_fingerprint) - {self.input_fingerprint}
        if others:
            raise InputError(
                f"{self.path}: decisions about other pairs ({', '.join(sorted(others))}) than {self.pairs.source}, "
                f"which has {self.input_fingerprint}; name another file with --decisions, or none"
            )
        for wrong, what in (
            (~table.decision.isin((KEEP, DROP)), f"neither {KEEP} nor {DROP}"),
            (table.index.duplicated(), "decided twice"),
            (~table.index.isin(self.pairs.caption_ids), "no caption of these pairs"),
        ):
            if wrong.any():
                raise InputError(f"{self.path}: caption {table.index[wrong][0]} is {what}")
        return table
