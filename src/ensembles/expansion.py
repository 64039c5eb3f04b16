"""Query expansion among the captions to be predicted.

A file has several captions of most images, so that predictions that are near each other are often of one image. Average
query expansion (Chum et al. 2007, "Total recall") adds a query's nearest neighbours to it; α-QE (Radenović, Tolias &
Chum 2018, "Fine-tuning CNN image retrieval with no human annotation") weighs each by its cosine to the power of α, here
1. There the neighbours are images of the gallery, which a submission does not see; here they are other queries. What
this brings is owed to the other captions: it says nothing of one that is asked alone.

Shapes: N predictions, V image width, K neighbours, B predictions of a chunk.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from src.common.files import InputError
from src.training.metrics import score_chunks


def expand_queries(prediction_NV: Tensor, neighbours: int, chunk_size: int = 1024) -> Tensor:
    """Unit vectors p_i + Σ max(0, cos(p_i, p_j)) p_j over the `neighbours` j ≠ i of the highest cosine.

    prediction_NV (N, V) float32. Returns (N, V) float32, longer than 1; zeros stay zeros and add nothing to others. Of
    neighbours that are equally near, any may be the last one. Holds chunk_size × N cosines. Raises InputError if there
    are fewer others than neighbours, and NonFiniteError.
    """
    count = len(prediction_NV)
    if not 0 < neighbours < count:
        raise InputError(f"cannot expand by {neighbours} neighbours: of {count} captions each has {count - 1} others")
    # By the largest number first: squares of the largest float32 are infinite, and those of the smallest 0.
    largest_N1 = prediction_NV.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(prediction_NV.dtype).tiny)
    unit_NV = F.normalize(prediction_NV / largest_N1, dim=1)
    expanded_NV, own_N = unit_NV.clone(), torch.arange(count, device=unit_NV.device)
    cosines = score_chunks(unit_NV, unit_NV, own_N, chunk_size)
    for (cosine_BN, own_B), expanded_BV in zip(cosines, expanded_NV.split(chunk_size), strict=True):
        nearest = cosine_BN.scatter_(1, own_B[:, None], -torch.inf).topk(neighbours)
        for weight_B, neighbour_B in zip(nearest.values.clamp(min=0).T, nearest.indices.T, strict=True):
            expanded_BV += weight_B[:, None] * unit_NV[neighbour_B]
    return expanded_NV
