"""Where a filter cuts: which of N captions it keeps, by their scores."""

import numpy as np


def drop_lowest(scores: np.ndarray, fraction: float, bad_images: str = "keep") -> np.ndarray:
    """Which captions to keep, (N,) bool: all but the round(N x fraction) lowest of `scores` (N,).

    Of equal scores the first in the file goes first. Captions without a score (NaN) are never dropped with
    `bad_images` "keep"; with "drop" all of them are, and count towards the number that is.
    """
    unscored = np.isnan(scores)
    order = np.argsort(np.where(unscored, -np.inf, scores), kind="stable")
    count = round(len(scores) * fraction)
    if bad_images == "keep":
        order = order[unscored.sum() :]
    else:
        count = max(count, unscored.sum())
    keep = np.ones(len(scores), np.bool_)
    keep[order[:count]] = False
    return keep


def cut_value(scores: np.ndarray, keep: np.ndarray) -> float | None:
    """Where the scores of kept and dropped captions meet; None if either is missing or they overlap."""
    kept, dropped = scores[keep & np.isfinite(scores)], scores[~keep & np.isfinite(scores)]
    for low, high in ((dropped, kept), (kept, dropped)):
        if len(low) and len(high) and low.max() <= high.min():
            return float(low.max() / 2 + high.min() / 2)
    return None
