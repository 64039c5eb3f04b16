"""Exact ranks of captions among the images of the validation split."""

import torch

from src.training.metrics import retrieval_ranks
from tests.benchmarks import reference_training
from tests.benchmarks.measuring import Cost, Row, Sizes, best_seconds
from tests.benchmarks.training import format_rate, matrix_rate


def measure_ranking(sizes: Sizes, device: torch.device) -> list[Row]:
    captions, images = sizes.ranked_captions, sizes.ranked_images
    prediction = torch.randn(captions, sizes.image_dim, device=device)
    gallery = torch.randn(images, sizes.image_dim, device=device)
    target = torch.arange(captions, device=device) % images
    seconds = best_seconds(
        sizes.repeats,
        reference=lambda: reference_training.ranks(prediction, gallery, target),
        ours=lambda: retrieval_ranks(prediction, gallery, target),
    )
    rate = matrix_rate("float32", device, sizes)
    return [
        Row(
            work="exact ranks",
            size=f"{captions:,} captions, {images:,} images, {device.type}",
            reference=Cost(seconds["reference"]),
            ours=Cost(seconds["ours"]),
            floor=2 * captions * images * sizes.image_dim / rate,
            note="reference: caption by caption one product with the gallery, one argsort, the place of the own image "
            f"in it; floor: one matrix product at the measured {format_rate(rate)}",
        )
    ]
