"""The error analysis, by hand-computed values."""

import math

import numpy as np
import pytest

from src.retrieval.errors import PRIOR, ErrorAnalysis, log_odds
from src.retrieval.retriever import Retrieved

TEXTS = np.array(["a dog", "a red dog", "a cat on a mat", "the cat's hat, red", "dogs", "a b c d e f g"], object)
NAMES = np.array(["a.jpg", "b.jpg", "c.jpg", "d.jpg"], object)
BEST = np.array([[0, 1], [0, 1], [0, 2], [0, 3], [1, 0], [3, 0]])
OWN, RANKS = np.array([0, 1, 1, 2, 0, 2]), np.array([1.0, 2.0, 3.0, 4.0, 2.0, 2.5])


@pytest.fixture
def analysis() -> ErrorAnalysis:
    """Six captions, two images of four looked at."""
    scores = np.linspace(0.9, 0.4, 6)
    return ErrorAnalysis(TEXTS, Retrieved(BEST, np.stack([scores, scores - 0.1], 1), OWN, RANKS, scores - 0.2), NAMES)


def test_what_is_missed_and_what_is_suspect(analysis):
    assert analysis.missed.tolist() == [False, False, True, True, False, True]
    assert analysis.suspect.tolist() == [False, False, True, True, False, False], "2.5 is the middle of four"
    assert analysis.measures["mrr"] == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 2 + 1 / 2.5) / 6)


def test_images_that_are_found_too_often(analysis):
    assert analysis.wrongly_first.tolist() == [3, 1, 0, 1]
    assert analysis.hubs(2).tolist() == [0, 1]
    assert analysis.occurrence.tolist() == [6, 3, 1, 2]
    deviations = np.array([3, 0, -2, -1])
    assert analysis.hubness == pytest.approx((deviations**3).mean() / (deviations**2).mean() ** 1.5)


def test_ranks_by_the_number_of_words(analysis):
    assert analysis.lengths.tolist() == [2, 3, 5, 4, 1, 7]
    table = analysis.by_length
    assert table.captions.sum() == 6
    assert table.words.tolist() == ["1", "2", "3", "4", "5–7"]
    assert table.mrr.iloc[-1] == pytest.approx((1 / 3 + 1 / 2.5) / 2)
    assert table.median_rank.iloc[-1] == 2.75
    # Ranks of the ranks 1, 2.5, 5, 6, 2.5, 4; of the lengths 2, 3, 5, 4, 1, 6.
    expected = np.corrcoef([1, 2.5, 5, 6, 2.5, 4], [2, 3, 5, 4, 1, 6])[0, 1]
    assert analysis.length_correlation == pytest.approx(expected)


def test_log_odds_of_words_by_the_formula():
    missed, found = np.array(["Red dog, red", "red cat"], object), np.array(["dog", "a dog", "a cat"], object)
    table = log_odds(missed, found).set_index("word")
    assert (table.missed.to_dict(), table.found.to_dict()) == (
        {"red": 2, "cat": 1, "dog": 1, "a": 0},
        {"red": 0, "cat": 1, "dog": 2, "a": 2},
    )
    assert table.index[0] == "red"
    prior = {"red": PRIOR * 2 / 9, "all": PRIOR}  # two of nine words in captions are red
    y, n, y_found, n_found = 2, 4, 0, 5
    delta = math.log((y + prior["red"]) / (n + prior["all"] - y - prior["red"])) - math.log(
        (y_found + prior["red"]) / (n_found + prior["all"] - y_found - prior["red"])
    )
    assert table.z["red"] == pytest.approx(delta / math.sqrt(1 / (y + prior["red"]) + 1 / (y_found + prior["red"])))


@pytest.mark.parametrize("ranks", [np.ones(6), np.full(6, 4.0)])
def test_all_found_and_all_missed_and_captions_all_alike_are_described(analysis, ranks):
    retrieved = Retrieved(BEST, analysis.retrieved.best_score_nk, OWN, ranks, analysis.retrieved.score_n)
    described = ErrorAnalysis(np.array(["same"] * 6, object), retrieved, NAMES).describe(np.arange(6))
    assert described["MRR by words"].startswith(f"{1 / ranks[0]:.3f} (1); ")
    assert described["words of missed"] == described["words of found"] == "none"
    assert described["suspect pairs"].startswith("0," if ranks[0] == 1 else "6,")
    assert ErrorAnalysis(np.array([""] * 6, object), retrieved, NAMES).describe(np.arange(6))


def test_the_summary_names_captions_that_can_be_shown(analysis):
    described = analysis.describe(np.array([10, 11, 12, 13, 14, 15]))
    assert described["suspect pairs"] == "2, the own image in the worse half: --caption 13 12"
    assert described["wrongly first"] == "a.jpg for 3, b.jpg for 1, d.jpg for 1"
    assert described["missed"] == "3 of 6, the own image not among the first 2"
