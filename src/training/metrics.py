"""Ranks of the right image, and what is computed from them.

Shapes: N captions (queries), M images (the gallery), V image width.

rank = 1 + images that score strictly higher + half of the other images that score exactly the same, so that a
translator which says the same for everything scores like chance. Scores are float32 and never NaN or infinite.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

PROTOCOL_GROUP = 100
PROTOCOL_DEPTH = 99


class NonFiniteError(ValueError):
    """A translator's predictions are NaN, infinite or so large that scores would be: they have no rank."""


def _check_finite(prediction_NV: Tensor) -> Tensor:
    prediction_NV = prediction_NV.float()
    # Squared lengths are infinite as soon as any number is, and before a dot product with an image can be.
    bad = int((~prediction_NV.square().sum(dim=1).isfinite()).sum())
    if bad:
        raise NonFiniteError(f"{bad} of {len(prediction_NV)} predictions are NaN, infinite or too large")
    return prediction_NV


def ranks_of(score_NM: Tensor, target_N: Tensor) -> Tensor:
    """The rank of each row's target column, (N,) float64 on the CPU: not every device has float64."""
    # With M = higher + same + lower, the own image among the same, the rank is (M + 1 + higher - lower) / 2: one sum
    # of signs, exact in float32. Comparing and counting booleans takes 20 times as long, a fifth of all the ranking.
    signs_NM = (score_NM - score_NM.gather(1, target_N[:, None])).sign_()
    return (score_NM.shape[1] + 1 + signs_NM.sum(dim=1).cpu().double()) / 2


@torch.no_grad()
def score_chunks(
    prediction_NV: Tensor, gallery_MV: Tensor, target_N: Tensor, chunk_size: int = 2048
) -> Iterator[tuple[Tensor, Tensor]]:
    """Cosine similarities in float32 of some captions at a time, (chunk_size, M), with their targets.

    prediction_NV (N, V), gallery_MV (M, V), target_N (N,) int64 index into the gallery, all on one device.
    Raises NonFiniteError.
    """
    query_NV = F.normalize(_check_finite(prediction_NV), dim=1)
    gallery_VM = F.normalize(gallery_MV.float(), dim=1).T
    for query, target in zip(query_NV.split(chunk_size), target_N.split(chunk_size), strict=True):
        yield query @ gallery_VM, target


def retrieval_ranks(prediction_NV: Tensor, gallery_MV: Tensor, target_N: Tensor, chunk_size: int = 2048) -> Tensor:
    """The exact rank of each caption's image among the whole gallery, by cosine similarity.

    Arguments as for `score_chunks`; memory is chunk_size × M scores. Returns (N,) float64 on the CPU. Raises
    NonFiniteError.
    """
    chunks = score_chunks(prediction_NV, gallery_MV, target_N, chunk_size)
    return torch.cat([ranks_of(*chunk) for chunk in chunks])


def reciprocal_ranks(ranks_N: Tensor, depth: float = float("inf")) -> Tensor:
    """1/rank, and 0 beyond `depth`. (N,) float64."""
    return torch.where(ranks_N <= depth, 1 / ranks_N, 0.0)


def mrr(ranks_N: Tensor, depth: float = float("inf")) -> float:
    """Mean reciprocal rank, a rank beyond `depth` counting 0."""
    return float(reciprocal_ranks(ranks_N, depth).mean())


def recall_at_k(ranks_N: Tensor, k: int) -> float:
    """The share of captions whose image is among the first k."""
    return float((ranks_N <= k).double().mean())


def ndcg(ranks_N: Tensor, depth: float = float("inf")) -> float:
    """Normalised discounted cumulative gain with one relevant image: mean of 1 / log2(1 + rank), 0 beyond `depth`."""
    return float(torch.where(ranks_N <= depth, 1 / torch.log2(1 + ranks_N), 0.0).mean())


def summarize_ranks(ranks_N: Tensor) -> dict[str, float]:
    """The global measures: mrr, recall_at_1/5/10, ndcg, median_rank."""
    recalls = {f"recall_at_{k}": recall_at_k(ranks_N, k) for k in (1, 5, 10)}
    return {
        "mrr": mrr(ranks_N),
        **recalls,
        "ndcg": ndcg(ranks_N),
        "median_rank": float(ranks_N.quantile(0.5)),
    }


@torch.no_grad()
def challenge_protocol(prediction_NV: Tensor, gallery_MV: Tensor, target_N: Tensor) -> dict[str, float]:
    """What the leaderboard computes: captions in order, in groups of 100 with the 100 images of the group.

    Captions left over at the end rank among the images of the last 100 captions, so that every caption ranks 100.
    Fewer than 100 captions in all are one group, which flatters: they rank fewer images.

    Scores are dot products with the raw image embeddings; only the best 99 count and a miss is 0. Several captions
    of one image in a group bring as many copies of it: to another caption each is one more wrong image, to their
    own captions it is found at any of them. Arguments as for `retrieval_ranks`, the captions in the file's order.
    Raises NonFiniteError.
    """
    prediction_NV, gallery_MV = _check_finite(prediction_NV), gallery_MV.float()
    ranks = []
    for start in range(0, max(len(target_N), 1), PROTOCOL_GROUP):
        first = max(0, min(start, len(target_N) - PROTOCOL_GROUP))
        group = slice(first, first + PROTOCOL_GROUP)
        target = target_N[group]
        score = prediction_NV[group] @ gallery_MV[target].T
        copies = (target[:, None] == target).fill_diagonal_(False)
        group_ranks = ranks_of(score.masked_fill(copies, -torch.inf), torch.arange(len(target), device=target.device))
        ranks.append(group_ranks[start - first :])  # those before are counted already
    ranks_N = torch.cat(ranks)
    recalls = {f"challenge_recall_at_{k}": recall_at_k(ranks_N, k) for k in (1, 3, 5, 10, 50)}
    return {
        "challenge_mrr": mrr(ranks_N, PROTOCOL_DEPTH),
        "challenge_ndcg": ndcg(ranks_N, PROTOCOL_DEPTH),
        **recalls,
    }


def evaluate(prediction_NV: Tensor, gallery_MV: Tensor, target_N: Tensor) -> dict[str, float]:
    """Both measures, and the validation regression loss (smooth-L1 to the own image's raw embedding)."""
    regression = F.smooth_l1_loss(_check_finite(prediction_NV), gallery_MV[target_N].float())
    return {
        "regression_loss": float(regression),
        **summarize_ranks(retrieval_ranks(prediction_NV, gallery_MV, target_N)),
        **challenge_protocol(prediction_NV, gallery_MV, target_N),
    }
