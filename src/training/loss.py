"""Symmetric multi-positive InfoNCE with one column per image.

Shapes: B captions and G images of a batch, V image width.

The usual form repeats each image once per caption and builds B×B logits, all captions of an image being its
positives (the mean over positives of the log-probability: Khosla et al. 2020, "Supervised Contrastive
Learning", eq. 2; both directions averaged as in Radford et al. 2021, "CLIP"). The columns of an image are all
equal there. With one column per image, and log(count) added to its logits in the caption→image normaliser, the
loss and its gradient are the same at a fraction of the work.

Where several processes have captions of one batch each, every one shows its own to all images: these are frozen, so it
has them itself. What it lacks is the others' part of the image→caption normalisers, G numbers; open_clip's local loss
(Ilharco et al. 2021), which is the same, gathers the B×V predictions for it.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

COLUMNS_MULTIPLE = 64  # columns that count as none fill up the rest: the matrix products are up to a third faster


def multi_positive_infonce(
    prediction_BV: Tensor,
    unit_GV: Tensor,
    target_B: Tensor,
    count_G: Tensor,
    tau: float,
    weight_B: Tensor | None = None,
    over_processes: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """The mean over captions, weighted if they have weights, and over both directions of the InfoNCE loss on cosine
    similarities.

    prediction_BV (B, V) floating, of any length; unit_GV (G, V) images, of unit length; target_B (B,) int64, the row of
    `unit_GV` that a caption belongs to; count_G (G,), how often each image stands among the columns (its number of
    captions; at least 1); tau, the temperature; weight_B (B,) floating, at least 0. Images without a caption in the
    batch are further negatives of the caption→image direction. `over_processes` makes a logsumexp (G,) over these
    captions one over those of all processes (`World.logsumexp`). Returns a scalar in the precision of the predictions,
    float32 at least; the matrix product may be autocast to less.
    """
    padding = -len(unit_GV) % COLUMNS_MULTIPLE
    unit_GV, count_G = F.pad(unit_GV, (0, 0, 0, padding)), F.pad(count_G, (0, padding))
    logits_BG = (F.normalize(prediction_BV, dim=1) @ unit_GV.T).to(prediction_BV.dtype) / tau
    positive_B = logits_BG.gather(1, target_B[:, None]).squeeze(1)
    caption_to_image = torch.logsumexp(logits_BG + count_G.to(logits_BG).log(), dim=1)
    over_captions_G = torch.logsumexp(logits_BG, dim=0)
    image_to_caption = (over_processes(over_captions_G) if over_processes else over_captions_G)[target_B]
    return weighted_mean((caption_to_image + image_to_caption) / 2 - positive_B, weight_B)


def weighted_mean(loss_B: Tensor, weight_B: Tensor | None) -> Tensor:
    """Of the captions' losses (B,); the plain mean without weights, 0 if all of these are."""
    if weight_B is None:
        return loss_B.mean()
    return (weight_B * loss_B).sum() / weight_B.sum().clamp(min=1e-6)
