"""Which captions are shown."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from src.common.files import InputError
from src.retrieval.retriever import Retriever

DEFAULT_COUNT = 4  # of random captions, and again of the worst


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Captions by their ids; so many `random` ones and so many `worst` ones, among those `containing` a text."""

    caption_ids: Sequence[int] = ()
    containing: str | None = None
    random: int = 0
    worst: int = 0

    def choose(self, retriever: Retriever, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Captions (int64 indices) under headings, each once. If it is only said what they contain, or nothing at all,
        some random and the worst ones. Raises InputError for what cannot be chosen."""
        chosen = {"by id": retriever.with_ids(list(dict.fromkeys(self.caption_ids)))} if self.caption_ids else {}
        random, worst = self.random, self.worst
        if not (random or worst or (self.caption_ids and self.containing is None)):
            random = worst = DEFAULT_COUNT
        of, among = "", retriever.captions
        if self.containing is not None:
            of, among = f" of those with {self.containing!r}", retriever.containing(self.containing)
        worst_ones = among[:0]
        if worst:
            retrieved = retriever.retrieve(among, 1)
            ranked = np.isfinite(retrieved.rank_n).sum()
            if self.worst and not ranked:
                raise InputError(f"--worst {worst}: no caption has a rank, as the gallery lacks the images of all")
            worst_ones = among[retrieved.worst_first[: min(worst, ranked)]]
        if random:
            others = np.setdiff1d(among, worst_ones)
            chosen[f"random ones{of}"] = rng.choice(others, min(random, len(others)), replace=False)
        chosen[f"the worst{of}"] = worst_ones
        return {heading: captions for heading, captions in chosen.items() if len(captions)}
