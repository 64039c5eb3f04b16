"""Ranks against brute force, ties included; measures by hand; the challenge's protocol against a plain loop."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from src.training.metrics import (
    NonFiniteError,
    challenge_protocol,
    evaluate,
    mrr,
    ndcg,
    ranks_of,
    recall_at_k,
    reciprocal_ranks,
    retrieval_ranks,
    score_chunks,
    summarize_ranks,
)


def brute_force_rank(scores, own):
    """1 + images that score strictly higher + half of the other images that score exactly the same."""
    higher = sum(score > scores[own] for score in scores)
    same = sum(score == scores[own] for score in scores) - 1
    return 1 + higher + same / 2


def random_problem(seed=0, captions=150, images=40, width=16):
    """Predictions (N, V) some of which are near their image, a gallery (M, V), targets (N,)."""
    generator = torch.Generator().manual_seed(seed)
    gallery = torch.randn(images, width, generator=generator) + 0.5
    target = torch.randint(images, (captions,), generator=generator)
    prediction = gallery[target] + torch.randn(captions, width, generator=generator) * 1.5
    return prediction, gallery, target


def tied_problem(seed=0):
    """Vectors of four ±1: cosines are multiples of a half without any rounding, and most images have equals."""
    generator = torch.Generator().manual_seed(seed)
    prediction, gallery = (2.0 * torch.randint(2, (n, 4), generator=generator) - 1 for n in (150, 40))
    return prediction, gallery, torch.randint(40, (150,), generator=generator)


PROBLEMS = pytest.mark.parametrize("problem", [random_problem, tied_problem])


# ------------------------------------------------------------------------------------------------------------ ranks


def test_ranks_by_hand():
    scores = torch.tensor([[0.9, 0.5, 0.1], [0.5, 0.9, 0.1], [0.5, 0.9, 0.5], [0.5, 0.5, 0.5]])
    ranks = ranks_of(scores, torch.zeros(4, dtype=torch.long))
    assert ranks.tolist() == [1, 2, 2.5, 2]
    assert ranks.dtype == torch.float64


@pytest.mark.parametrize("score", [1.0, 0.3, 1e-30, 1e-40, 0.0, -0.3])
def test_any_two_different_scores_are_told_apart(score):
    own = torch.tensor(score)
    above, below = (torch.nextafter(own, torch.tensor(limit)) for limit in (2.0, -2.0))
    assert ranks_of(torch.stack([own, above, below, own])[None], torch.zeros(1, dtype=torch.long)).tolist() == [2.5]


@PROBLEMS
def test_ranks_are_those_of_brute_force(problem):
    prediction, gallery, target = problem()
    cosine = F.normalize(prediction.double(), dim=1) @ F.normalize(gallery.double(), dim=1).T
    expected = [brute_force_rank(row.tolist(), own) for row, own in zip(cosine, target.tolist(), strict=True)]
    ranks = retrieval_ranks(prediction, gallery, target)
    assert ranks.tolist() == expected
    assert len(set(expected)) > 10
    assert any(rank % 1 for rank in expected) == (problem is tied_problem)


@PROBLEMS
@pytest.mark.parametrize("chunk_size", [1, 7, 149, 150, 100_000])
def test_ranks_do_not_depend_on_the_chunks(problem, chunk_size):
    assert retrieval_ranks(*problem(), chunk_size).tolist() == retrieval_ranks(*problem()).tolist()


def test_chunks_are_of_the_size_asked_and_in_order():
    prediction, gallery, target = random_problem()
    chunks = list(score_chunks(prediction, gallery, target, 64))
    assert [tuple(score.shape) for score, _ in chunks] == [(64, 40), (64, 40), (22, 40)]
    assert torch.equal(torch.cat([own for _, own in chunks]), target)
    cosine = F.cosine_similarity(prediction[:, None], gallery, dim=2)
    torch.testing.assert_close(torch.cat([score for score, _ in chunks]), cosine)


def test_cosine_ignores_lengths():
    prediction, gallery, target = tied_problem()
    lengths = 2.0 ** torch.randint(-8, 8, (40, 1), generator=torch.Generator().manual_seed(1))
    assert retrieval_ranks(prediction * 4, gallery * lengths, target).tolist() == (
        retrieval_ranks(prediction, gallery, target).tolist()
    )


def test_scores_are_float32_whatever_comes_in():
    prediction, gallery, target = random_problem()
    half = prediction.bfloat16()
    assert retrieval_ranks(half, gallery, target).tolist() == retrieval_ranks(half.float(), gallery, target).tolist()
    for score, _ in score_chunks(half, gallery.double(), target):
        assert score.dtype == torch.float32


# ----------------------------------------------------------------------------------- translators that say nothing


@pytest.mark.parametrize("value", [0.0, 1e-30, 1.0])
def test_a_constant_translator_scores_like_chance(value):
    """The same prediction for all captions: every rank from 1 to M comes once, or all are the middle one."""
    images = 200
    gallery = torch.randn(images, 8, generator=torch.Generator().manual_seed(0))
    measured = evaluate(torch.full((images, 8), value), gallery, torch.arange(images))
    if value == 0:
        assert measured["mrr"] == pytest.approx(1 / 100.5)
        assert measured["challenge_mrr"] == pytest.approx(1 / 50.5)
        assert measured["recall_at_1"] == measured["challenge_recall_at_50"] == 0
    else:
        harmonic = [sum(1 / rank for rank in range(1, n + 1)) for n in (200, 99)]
        assert measured["mrr"] == pytest.approx(harmonic[0] / 200)
        assert measured["challenge_mrr"] == pytest.approx(harmonic[1] / 100)
        assert (measured["recall_at_1"], measured["challenge_recall_at_50"]) == (1 / 200, 0.5)
    assert measured["median_rank"] == 100.5


def test_images_that_are_all_the_same_score_like_chance():
    prediction, _, target = random_problem()
    ranks = retrieval_ranks(prediction, torch.ones(40, 16), target)
    assert ranks.tolist() == [20.5] * 150


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e25])
@pytest.mark.parametrize("measure", [retrieval_ranks, challenge_protocol, evaluate])
def test_predictions_that_are_not_finite_are_refused(measure, value):
    prediction, gallery, target = random_problem()
    prediction[[3, 3, 70], [0, 1, 2]] = value
    with pytest.raises(NonFiniteError, match="2 of 150 predictions are NaN, infinite or too large"):
        measure(prediction, gallery, target)


# --------------------------------------------------------------------------------------------------------- measures


def test_measures_by_hand():
    ranks = torch.tensor([1, 2, 4, 10.5], dtype=torch.float64)
    assert reciprocal_ranks(ranks, 4).tolist() == [1, 0.5, 0.25, 0]
    assert mrr(ranks) == pytest.approx((1 + 1 / 2 + 1 / 4 + 2 / 21) / 4)
    assert mrr(ranks, 4) == pytest.approx((1 + 1 / 2 + 1 / 4) / 4)
    assert [recall_at_k(ranks, k) for k in (1, 2, 3, 4, 10, 11)] == [0.25, 0.5, 0.5, 0.75, 0.75, 1]
    gains = [1, 1 / math.log2(3), 1 / math.log2(5), 1 / math.log2(11.5)]
    assert ndcg(ranks) == pytest.approx(sum(gains) / 4)
    assert ndcg(ranks, 10) == pytest.approx(sum(gains[:3]) / 4)
    assert summarize_ranks(ranks) == {
        "mrr": mrr(ranks),
        "recall_at_1": 0.25,
        "recall_at_5": 0.75,
        "recall_at_10": 0.75,
        "ndcg": ndcg(ranks),
        "median_rank": 3,
    }
    assert summarize_ranks(ranks[:3])["median_rank"] == 2


def test_a_perfect_translator_scores_one():
    gallery = torch.randn(130, 16, generator=torch.Generator().manual_seed(0))
    measured = evaluate(F.normalize(gallery, dim=1) * 7, F.normalize(gallery, dim=1), torch.arange(130))
    assert {name for name, value in measured.items() if value != 1} == {"regression_loss"}
    assert evaluate(gallery, gallery, torch.arange(130))["regression_loss"] == 0


def test_the_regression_loss_is_smooth_l1_to_the_own_image():
    gallery = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    measured = evaluate(torch.tensor([[1.5, 1.0], [0.5, 3.0]]), gallery, torch.tensor([1, 0]))
    assert measured["regression_loss"] == pytest.approx((0.5**2 / 2 + 0 + 0.5**2 / 2 + 2.5) / 4)


# ------------------------------------------------------------------------------------------------ challenge protocol


def explicit_protocol(prediction, gallery, target):
    """The challenge protocol in loops and float64: captions in order, groups of 100, the group's raw images. The last
    group is filled up with captions before it."""
    prediction, gallery, target = prediction.double().numpy(), gallery.double().numpy(), target.tolist()
    ranks = []
    for start in range(0, len(target), 100):
        end = min(start + 100, len(target))
        group = target[max(end - 100, 0) : end]
        for position in range(len(group) - (end - start), len(group)):
            own = group[position]
            scores = [
                float(np.dot(prediction[end - len(group) + position], gallery[image]))
                for other, image in enumerate(group)
                if image != own or other == position  # another copy of the own image is no wrong one
            ]
            ranks.append(brute_force_rank(scores, sum(image != own for image in group[:position])))
    counted = [rank if rank <= 99 else math.inf for rank in ranks]
    return {
        "challenge_mrr": sum(1 / rank for rank in counted) / len(ranks),
        "challenge_ndcg": sum(1 / math.log2(1 + rank) for rank in counted) / len(ranks),
        **{f"challenge_recall_at_{k}": sum(rank <= k for rank in counted) / len(ranks) for k in (1, 3, 5, 10, 50)},
    }


@pytest.mark.parametrize("captions", [30, 100, 101, 250])
def test_the_protocol_is_the_loops_with_one_caption_an_image(captions):
    prediction, gallery, _ = random_problem(captions=captions, images=captions)
    target = torch.randperm(captions, generator=torch.Generator().manual_seed(2))
    prediction = gallery[target] + prediction
    assert challenge_protocol(prediction, gallery, target) == pytest.approx(
        explicit_protocol(prediction, gallery, target)
    )


@PROBLEMS
def test_the_protocol_is_the_loops_with_several_captions_an_image(problem):
    assert challenge_protocol(*problem()) == pytest.approx(explicit_protocol(*problem()))


def test_groups_follow_the_files_order():
    """Captions that are confused only with an image of the other group are right; in one group they are not."""
    gallery = torch.eye(200)
    target = torch.arange(200)
    prediction = torch.eye(200).roll(100, dims=1) * 2 + torch.eye(200)  # says the image 100 places on, too
    assert challenge_protocol(prediction, gallery, target)["challenge_mrr"] == 1
    mixed = torch.arange(200).view(2, 100).T.reshape(-1)  # 0, 100, 1, 101, …
    assert challenge_protocol(prediction[mixed], gallery, target[mixed])["challenge_mrr"] == 0.5
    assert retrieval_ranks(prediction, gallery, target).tolist() == [2] * 200


def test_captions_left_over_rank_as_many_images_as_the_others():
    """Each caption prefers the image 50 places before its own. The last ten alone would not meet it."""
    prediction = torch.eye(110) + 2 * torch.eye(110).roll(-50, dims=1)
    prediction[:50, 60:] = 0.0  # the first 50 have none before them
    measured = challenge_protocol(prediction, torch.eye(110), torch.arange(110))
    assert measured["challenge_mrr"] == pytest.approx((50 * 1 + 60 * 1 / 2) / 110)
    assert challenge_protocol(prediction[100:], torch.eye(110), torch.arange(100, 110))["challenge_mrr"] == 1


def test_dot_products_favour_long_images():
    gallery = torch.tensor([[1.0, 0.0], [3.0, 3.0]])
    prediction = torch.tensor([[1.0, 0.1], [1.0, 0.9]])
    target = torch.tensor([0, 1])
    assert retrieval_ranks(prediction, gallery, target).tolist() == [1, 1]
    assert challenge_protocol(prediction, gallery, target)["challenge_mrr"] == 0.75


def test_the_last_of_a_hundred_is_a_miss():
    gallery = torch.eye(100)
    target = torch.arange(100)
    wrong = 1 - torch.eye(100)  # each caption scores its own image below the 99 others
    measured = challenge_protocol(wrong, gallery, target)
    assert measured["challenge_mrr"] == measured["challenge_ndcg"] == 0
    better = wrong.clone()
    better[0, 1] = -1.0  # one of the others is worse: rank 99 counts
    measured = challenge_protocol(better, gallery, target)
    assert measured["challenge_mrr"] == pytest.approx(1 / 99 / 100)
    assert measured["challenge_ndcg"] == pytest.approx(1 / math.log2(100) / 100)


def test_evaluate_gives_both_measures():
    prediction, gallery, target = random_problem()
    measured = evaluate(prediction, gallery, target)
    assert measured.items() >= summarize_ranks(retrieval_ranks(prediction, gallery, target)).items()
    assert measured.items() >= challenge_protocol(prediction, gallery, target).items()
    assert all(isinstance(value, float) for value in measured.values())
