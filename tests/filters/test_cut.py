"""Where a filter cuts: exactly the share that was asked for, ties in the order of the file."""

import numpy as np

from src.filters.cut import cut_value, drop_lowest


def test_the_lowest_share_is_dropped_and_ties_go_in_the_order_of_the_file():
    scores = np.array([0.3, 0.1, 0.2, 0.1, 0.9, 0.1], np.float32)
    assert (~drop_lowest(scores, 0.5)).nonzero()[0].tolist() == [1, 3, 5]
    assert (~drop_lowest(scores, 1 / 3)).nonzero()[0].tolist() == [1, 3]
    assert (~drop_lowest(scores, 0.0)).nonzero()[0].tolist() == []


def test_exactly_the_rounded_share_is_dropped_whatever_the_scores():
    rng = np.random.default_rng(0)
    for _ in range(100):
        scores = rng.integers(0, 6, rng.integers(1, 60)).astype(np.float32)  # many ties
        fraction = rng.uniform(0, 1)
        dropped = sorted(range(len(scores)), key=lambda i: (scores[i], i))[: round(len(scores) * fraction)]
        assert set(np.flatnonzero(~drop_lowest(scores, fraction))) == set(dropped)


def test_captions_without_a_score_are_kept_or_are_the_first_to_be_dropped():
    scores = np.array([0.5, np.nan, 0.4, 0.3, np.nan, 0.6], np.float32)
    assert (~drop_lowest(scores, 0.5, "keep")).nonzero()[0].tolist() == [0, 2, 3]
    assert (~drop_lowest(scores, 0.5, "drop")).nonzero()[0].tolist() == [1, 3, 4]
    assert (~drop_lowest(scores, 0.0, "drop")).nonzero()[0].tolist() == [1, 4]


def test_the_cut_value_lies_between_what_is_kept_and_what_is_dropped():
    scores = np.array([1, 2, 5, 9, np.nan], np.float32)
    assert cut_value(scores, np.array([0, 0, 1, 1, 1], bool)) == 3.5
    assert cut_value(scores, np.array([1, 1, 0, 0, 0], bool)) == 3.5, "ranks: the low ones are kept"
    assert cut_value(scores, np.ones(5, bool)) is None
    assert cut_value(scores, np.array([1, 0, 1, 0, 1], bool)) is None
