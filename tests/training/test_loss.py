"""The loss against its definition: N×N logits, every positive, both directions, written with loops in float64."""

import math

import pytest
import torch
from torch.nn import functional as F

from src.training.loss import multi_positive_infonce


def cosine_infonce(prediction, images, *rest):
    """Ours, for images of any length."""
    return multi_positive_infonce(prediction, F.normalize(images, dim=1), *rest)


def explicit_infonce(prediction_BV, columns_CV, image_of_column_C, target_B, tau):
    """One column per repeat of an image; row i's positives are the columns of its image, and the other way round.

    The mean over positives of -log softmax, averaged over captions (rows) in one direction and over the columns of
    the captions' images in the other, and over both directions.
    """
    captions = range(len(target_B))
    columns = range(len(columns_CV))
    logits = [
        [torch.dot(row, column) / (row.norm() * column.norm()) / tau for column in columns_CV] for row in prediction_BV
    ]
    caption_to_image, image_to_caption = [], []
    for i in captions:
        log_sum = torch.logsumexp(torch.stack([logits[i][j] for j in columns]), 0)
        positives = [log_sum - logits[i][j] for j in columns if image_of_column_C[j] == target_B[i]]
        caption_to_image.append(sum(positives) / len(positives))
    for own in captions:  # the column that stands for this caption's copy of its image
        j = image_of_column_C.index(int(target_B[own]))
        log_sum = torch.logsumexp(torch.stack([logits[i][j] for i in captions]), 0)
        positives = [log_sum - logits[i][j] for i in captions if target_B[i] == target_B[own]]
        image_to_caption.append(sum(positives) / len(positives))
    return (sum(caption_to_image) + sum(image_to_caption)) / (2 * len(target_B))


def problem(captions_of_image, seed=0, width=7):
    """Random predictions and images, float64, that many captions for each image, in mixed order."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.tensor(captions_of_image)
    target = torch.repeat_interleave(torch.arange(len(counts)), counts)
    target = target[torch.randperm(len(target), generator=generator)]
    prediction = torch.randn(len(target), width, dtype=torch.float64, generator=generator)
    images = torch.randn(len(counts), width, dtype=torch.float64, generator=generator)
    return prediction.requires_grad_(), images.requires_grad_(), target, counts


def both(prediction, images, target, counts, tau):
    """Ours and the definition's (loss, gradient of the predictions, gradient of the images)."""
    image_of_column = torch.repeat_interleave(torch.arange(len(counts)), counts).tolist()
    ours = cosine_infonce(prediction, images, target, counts, tau)
    definition = explicit_infonce(prediction, images[image_of_column], image_of_column, target, tau)
    return [(loss, *torch.autograd.grad(loss, (prediction, images))) for loss in (ours, definition)]


@pytest.mark.parametrize("tau", [0.01, 0.07, 1.0])
@pytest.mark.parametrize("captions_of_image", [(5, 5, 5, 5), (1, 1, 1), (7, 1, 3, 2, 1), (4,), (1,)], ids=str)
def test_loss_and_gradient_are_those_of_the_definition(captions_of_image, tau):
    torch.testing.assert_close(*both(*problem(captions_of_image), tau), rtol=1e-9, atol=1e-12)


def test_a_caption_counts_by_its_weight():
    prediction, images, target, counts = problem((3, 1, 2))
    alone = [cosine_infonce(prediction, images, target, counts, 0.1, weight) for weight in torch.eye(6)]
    weights = torch.tensor([0.0, 2.0, 1.0, 0.0, 0.5, 0.5])
    weighted = cosine_infonce(prediction, images, target, counts, 0.1, weights)
    torch.testing.assert_close(weighted, (2 * alone[1] + alone[2] + 0.5 * alone[4] + 0.5 * alone[5]) / 4)
    plain = cosine_infonce(prediction, images, target, counts, 0.1)
    torch.testing.assert_close(plain, sum(alone) / 6)
    nothing = cosine_infonce(prediction, images, target, counts, 0.1, torch.zeros(6))
    assert nothing == 0


def test_images_without_a_caption_in_the_batch_are_further_negatives():
    prediction, images, target, _ = problem((3, 1, 2))
    more = torch.randn(2, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    images = torch.cat([images.detach(), more]).requires_grad_()
    counts = torch.tensor([3, 1, 2, 1, 4])  # the last stands for four columns
    ours, definition = both(prediction, images, target, counts, 0.1)
    torch.testing.assert_close(ours, definition, rtol=1e-9, atol=1e-12)
    without = cosine_infonce(prediction, images[:3], target, counts[:3], 0.1)
    assert ours[0] > without


def test_values_by_hand():
    """Two images at right angles, one caption each, tau 1: every direction is log(e^s + e^t) - s."""
    images = torch.eye(2, dtype=torch.float64)
    ones, pair = torch.tensor([1, 1]), torch.tensor([0, 1])
    loss = cosine_infonce(5 * images, images, pair, ones, 1.0)
    assert loss.item() == pytest.approx(math.log(math.e + 1) - 1)  # both right; lengths do not matter
    loss = cosine_infonce(images.flip(0), images, pair, ones, 1.0)
    assert loss.item() == pytest.approx(math.log(math.e + 1))  # both wrong
    one_image = cosine_infonce(torch.ones(3, 2).double(), images[:1], torch.zeros(3).long(), torch.tensor([3]), 1)
    assert one_image.item() == pytest.approx(math.log(3))  # nothing to tell apart: its least value


def test_the_analytic_gradient_is_the_numerical_one():
    prediction, images, target, counts = problem((3, 1, 2))
    assert torch.autograd.gradcheck(lambda p, i: cosine_infonce(p, i, target, counts, 0.5), (prediction, images))


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1.0, 1e15])
@pytest.mark.parametrize("tau", [0.001, 0.01, 1.0])
def test_loss_and_gradient_stay_finite_in_float32(scale, tau):
    prediction, images, target, counts = problem((5, 1, 9), width=64)
    prediction = (prediction.detach().float() * scale).requires_grad_()
    loss = cosine_infonce(prediction, images.float(), target, counts, tau)
    loss.backward()
    assert loss.isfinite()
    assert prediction.grad.isfinite().all()


def test_float32_at_the_size_of_a_batch_is_float64():
    prediction, images, target, counts = problem([5] * 200, width=96)
    images = F.normalize(images, dim=1) + 3  # an offset that all share, as real embeddings have
    exact = cosine_infonce(prediction, images, target, counts, 0.01)
    single = cosine_infonce(prediction.float(), images.float(), target, counts, 0.01)
    assert single.item() == pytest.approx(exact.item(), rel=1e-4)
