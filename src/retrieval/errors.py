"""Where a translator errs: which captions it fails, by their length and their words; which images it puts first too
often; which pairs are likely wrong ones.

Shapes: n captions with a right image, G images of the gallery, k that are looked at.
"""

import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from scipy.stats import skew, spearmanr

from src.retrieval.retriever import Retrieved
from src.retrieval.sheet import abbreviated
from src.training.metrics import summarize_ranks

WORD = re.compile(r"\w+(?:['’]\w+)*")
PRIOR = 500  # words that the prior weighs as much as: rare words, whatever became of them, come out near 0
LENGTH_GROUPS = 5


@dataclass(frozen=True, eq=False)
class ErrorAnalysis:
    """`texts` (n,) are the captions' words, `retrieved` what they find among `names` (G,). A caption is missed if its
    image is not among the first k that were retrieved."""

    texts: np.ndarray
    retrieved: Retrieved
    names: np.ndarray

    @property
    def top_k(self) -> int:
        return self.retrieved.best_nk.shape[1]

    @cached_property
    def missed(self) -> np.ndarray:
        """(n,) bool."""
        return self.retrieved.rank_n > self.top_k

    @cached_property
    def suspect(self) -> np.ndarray:
        """(n,) bool: captions whose own image is in the worse half of the gallery, as a random one would be as often.
        Likely wrong pairs, or captions that the translator does not understand."""
        return self.retrieved.rank_n > (len(self.names) + 1) / 2

    @cached_property
    def measures(self) -> dict[str, float]:
        return summarize_ranks(torch.from_numpy(self.retrieved.rank_n))

    @cached_property
    def lengths(self) -> np.ndarray:
        """(n,) int: words a caption."""
        return np.array([len(words_of(text)) for text in self.texts])

    @cached_property
    def by_length(self) -> pd.DataFrame:
        """About equally many captions a row, by their number of words: words ("4–6"), captions, mrr, its standard error
        and the median rank."""
        lengths, ranks = self.lengths, self.retrieved.rank_n
        starts = np.unique(np.quantile(lengths, np.arange(LENGTH_GROUPS) / LENGTH_GROUPS, method="nearest"))
        group = np.searchsorted(starts, lengths, side="right")
        rows = []
        for each in np.unique(group):
            least, most, reciprocal = (
                lengths[group == each].min(),
                lengths[group == each].max(),
                1 / ranks[group == each],
            )
            rows.append(
                {
                    "words": f"{least}–{most}" if most > least else str(least),
                    "captions": len(reciprocal),
                    "mrr": reciprocal.mean(),
                    "error": reciprocal.std() / np.sqrt(len(reciprocal)),
                    "median_rank": np.median(ranks[group == each]),
                }
            )
        return pd.DataFrame(rows)

    @cached_property
    def length_correlation(self) -> float:
        """Spearman's correlation of rank and number of words; NaN if one of them is always the same."""
        if np.ptp(self.lengths) == 0 or np.ptp(self.retrieved.rank_n) == 0:
            return np.nan
        return float(spearmanr(self.lengths, self.retrieved.rank_n).statistic)

    @cached_property
    def words(self) -> pd.DataFrame:
        """See `log_odds`: words of missed captions against those of found ones."""
        return log_odds(self.texts[self.missed], self.texts[~self.missed])

    @cached_property
    def wrongly_first(self) -> np.ndarray:
        """(G,) int: for how many captions that are not its own an image is the first."""
        first_n = self.retrieved.best_nk[:, 0]
        return np.bincount(first_n[first_n != self.retrieved.own_n], minlength=len(self.names))

    @cached_property
    def occurrence(self) -> np.ndarray:
        """(G,) int: among the first k of how many captions an image is, its k-occurrence N_k (Radovanović, Nanopoulos &
        Ivanović 2010)."""
        return np.bincount(self.retrieved.best_nk.ravel(), minlength=len(self.names))

    @property
    def hubness(self) -> float:
        """The skewness of N_k, which is large where few images are found by many (the same). 0 if N_k is constant."""
        return float(skew(self.occurrence)) if np.ptp(self.occurrence) else 0.0

    def describe(self, caption_ids: np.ndarray) -> dict[str, str]:
        """The lines of a summary; caption_ids (n,)."""
        measures, lengths = self.measures, self.by_length
        recalls = ", ".join(f"R@{k} {measures[f'recall_at_{k}']:.3f}" for k in (1, 5, 10))
        by_length = ", ".join(f"{row.mrr:.3f} ({row.words})" for row in lengths.itertuples())
        hubs = [hub for hub in self.hubs(3) if self.wrongly_first[hub]]
        firsts = [f"{abbreviated(self.names[hub], 28)} for {self.wrongly_first[hub]}" for hub in hubs]
        suspects = self.retrieved.worst_first[: self.suspect.sum()]
        ids = " ".join(str(caption_ids[query]) for query in suspects[:6])
        return {
            "ranks": f"MRR {measures['mrr']:.4f}, {recalls}, median {measures['median_rank']:g} of {len(self.names):,}",
            "missed": f"{self.missed.sum():,} of {len(self.texts):,}, the own image not among the first {self.top_k}",
            "MRR by words": f"{by_length}; Spearman {self.length_correlation:+.2f}",
            "words of missed": self._told(self.words[self.words.z > 0][:3]),
            "words of found": self._told(self.words[self.words.z < 0][::-1][:3]),
            "wrongly first": ", ".join(firsts) or "no image",
            f"{self.top_k}-occurrence": f"skewness {self.hubness:+.2f}, most {self.occurrence.max()}, mean "
            f"{self.occurrence.mean():.1f}; {(self.occurrence == 0).sum():,} of {len(self.names):,} images never",
            "suspect pairs": f"{len(suspects):,}, the own image in the worse half"
            + (f": --caption {ids}{' …' * (len(suspects) > 6)}" if len(suspects) else ""),
        }

    def hubs(self, count: int) -> np.ndarray:
        """The images that are first for the most captions not their own, rows of the gallery."""
        return np.argsort(-self.wrongly_first, kind="stable")[:count]

    @staticmethod
    def _told(words: pd.DataFrame) -> str:
        told = (f"{row.word} ({row.missed} of {row.missed + row.found}, z {row.z:+.1f})" for row in words.itertuples())
        return ", ".join(told) or "none"


def words_of(text: str) -> list[str]:
    return WORD.findall(text.casefold())


def log_odds(missed: np.ndarray, found: np.ndarray) -> pd.DataFrame:
    """Which words go with missed captions (texts) rather than with found ones: a row a word, in how many captions of
    either it is, and z, highest first: the log-odds ratio with an informative Dirichlet prior in units of its standard
    deviation (Monroe, Colaresi & Quinn 2008, "Fightin' Words"). The prior is the words' frequency in all these
    captions; a word counts once a caption. Of many words, some are beyond ±2 by chance.
    """
    missed_counts, found_counts = (
        Counter(word for text in texts for word in set(words_of(text))) for texts in (missed, found)
    )
    words = sorted(missed_counts | found_counts)
    counts = np.array([[each[word] for word in words] for each in (missed_counts, found_counts)], float)  # (2, words)
    prior = PRIOR * counts.sum(axis=0) / max(counts.sum(), 1)
    raised = counts + prior
    with np.errstate(divide="ignore", invalid="ignore"):  # of captions with one word in all
        odds = raised / (raised.sum(axis=1, keepdims=True) - raised)
        z = np.nan_to_num((np.log(odds[0]) - np.log(odds[1])) / np.sqrt((1 / raised).sum(axis=0)))
    table = pd.DataFrame({"word": words, "missed": counts[0].astype(int), "found": counts[1].astype(int), "z": z})
    return table.sort_values(["z", "word"], ascending=[False, True], ignore_index=True)
