"""Ridge regression in closed form, against the formulas written out with matrices as large as the data."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from src.training.closed_form import GAMMA, IMAGE_FLOOR, STRENGTHS, TEXT_FLOOR, even_out, fit_ridge
from src.training.inputs import Part
from src.training.model import RidgeMap, load_translator, save_translator, translate
from tests.training.conftest import tiny_pairs, whole


def evened(rows: torch.Tensor, floor: float) -> torch.Tensor:
    """The matrix that takes shares s, with a floor, to s^0.5, by an eigendecomposition of the covariance."""
    shares, vectors = torch.linalg.eigh(rows.T @ rows)
    shares = shares.clamp(min=0) / shares.max() + floor
    return vectors @ torch.diag(shares**-0.25) @ vectors.T


class Reference:
    """The regression problem in float64: features and targets of every caption, the matrix that leads back. A caption
    that weighs w stands in it with the root of w, its similarities and its target."""

    def __init__(self, part: Part, kernel: bool) -> None:
        text, image = part.text_nT.double(), F.normalize(part.gallery_mV.double(), dim=1)
        self.center = text.mean(dim=0)
        self.evening = evened(F.normalize(text - self.center, dim=1), TEXT_FLOOR)
        self.back = evened(image - image.mean(dim=0), IMAGE_FLOOR)
        self.target_n = part.target_n
        self.root = torch.ones(len(text)).double() if part.weight_n is None else part.weight_n.double().sqrt()
        targets = F.normalize((image - image.mean(dim=0)) @ self.back, dim=1)[self.target_n]
        self.targets = targets * self.root[:, None]
        self.unit = self.prepare(text)
        self.gram = self.similarity(self.unit, kernel) * self.root[:, None]
        self.strength_by = self.root.square().sum() * torch.eye(len(text), dtype=torch.float64)

    def prepare(self, text: torch.Tensor) -> torch.Tensor:
        return F.normalize(F.normalize(text.double() - self.center, dim=1) @ self.evening, dim=1)

    def similarity(self, unit: torch.Tensor, kernel: bool) -> torch.Tensor:
        """(rows, N): what a prediction weighs the targets of the N captions by."""
        similarity = torch.exp(-GAMMA * torch.cdist(unit, self.unit) ** 2) if kernel else unit @ self.unit.T
        return similarity * self.root

    def hat(self, strength: float) -> torch.Tensor:
        return self.gram @ torch.linalg.inv(self.gram + strength * self.strength_by)

    def gcv(self, strength: float) -> float:
        """By image: residuals and leverages of the images' means."""
        one_hot = F.one_hot(self.target_n).double()
        one_hot = one_hot[:, one_hot.any(dim=0)] * self.root[:, None]
        weight = one_hot.square().sum(dim=0)
        means = one_hot.T / weight[:, None]  # (images with captions, N)
        hat = self.hat(strength)
        residuals = means @ (self.targets - hat @ self.targets)
        error = (weight * residuals.square().sum(dim=1)).sum() / weight.sum()
        leverage = (means @ hat @ means.T * weight).diagonal().mean()
        return (error / (1 - leverage) ** 2).item()

    def predict(self, text: torch.Tensor, strength: float, kernel: bool) -> torch.Tensor:
        weights = torch.linalg.solve(self.gram + strength * self.strength_by, self.targets)
        return self.similarity(self.prepare(text), kernel) @ weights @ self.back


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kernel", [False, True])
@pytest.mark.parametrize("images", [60, 2])  # more captions than features, and fewer
def test_it_is_ridge_regression_with_the_strength_of_the_least_cross_validation(images, kernel, weighted):
    pairs, other = tiny_pairs(1, images), whole(tiny_pairs(2, 20)).text_nT
    train = whole(pairs, np.random.default_rng(0).random(len(pairs), np.float32) if weighted else None)
    found, gcv = fit_ridge(train, landmarks=10_000 if kernel else 0)
    reference = Reference(train, kernel)
    assert list(gcv) == list(STRENGTHS)
    for strength in STRENGTHS[16::4]:  # of lower ones float32 tells little
        assert gcv[strength] == pytest.approx(reference.gcv(strength), rel=0.02 if kernel else 5e-4)
    best = min(gcv, key=gcv.get)
    expected = reference.predict(other, best, kernel)
    assert F.cosine_similarity(found(other).double(), expected).min() > (0.999 if kernel else 0.99999)


def test_cross_validation_foretells_the_error_on_images_left_out():
    """Captions of an image tell of its own target: to leave out one of several would choose too weak a ridge."""
    train, validation = whole(tiny_pairs(1, 60)), whole(tiny_pairs(2, 200))
    reference = Reference(train, kernel=False)
    _, gcv = fit_ridge(train)
    unit = F.normalize(validation.gallery_mV.double(), dim=1)
    mean = F.normalize(train.gallery_mV.double(), dim=1).mean(dim=0)
    targets = F.normalize((unit - mean) @ reference.back, dim=1)[validation.target_n]
    errors = {}
    for strength in STRENGTHS:
        predicted = reference.predict(validation.text_nT, strength, kernel=False) @ torch.linalg.inv(reference.back)
        errors[strength] = (predicted - targets).square().sum(dim=1).mean().item()
    assert errors[min(gcv, key=gcv.get)] < 1.05 * min(errors.values())


def test_the_seed_draws_the_landmarks():
    train, text = whole(tiny_pairs(1, 60)), whole(tiny_pairs(2, 20)).text_nT
    first, again, other = (fit_ridge(train, 30, seed)[0] for seed in (1, 1, 2))
    assert first.dims == {"text_dim": 8, "image_dim": 12, "landmarks": 30}
    assert torch.equal(first(text), again(text))
    assert not torch.allclose(first(text), other(text))
    assert F.cosine_similarity(first(text), other(text)).mean() > 0.9


@pytest.mark.parametrize("rows", [3, 40])
def test_evening_out_takes_the_shares_of_directions_to_their_roots(rows):
    values = torch.tensor([4.0, 2.0, 1.0, 0.5, 0.25], dtype=torch.float64)[:rows]
    vectors = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    left = torch.linalg.qr(torch.randn(rows, min(rows, 5), dtype=torch.float64))[0]
    data = left @ torch.diag(values) @ vectors[: len(values)]
    after = data @ even_out(data.split(30), floor=1e-9)
    assert torch.linalg.svdvals(after)[: len(values)] == pytest.approx((4 * values).sqrt().numpy(), rel=1e-3)


def test_captions_that_are_all_the_same_rank_like_chance():
    part = whole(tiny_pairs(1, 20))
    part.of.text_NT.fill_(0.5)
    assert part.measure(fit_ridge(part)[0])["median_rank"] == 10.5


@pytest.mark.parametrize("landmarks", [0, 30])
def test_a_saved_ridge_map_comes_back_exactly(landmarks, tmp_path):
    train, text = whole(tiny_pairs(1, 60)), torch.randn(9, 8)
    found, _ = fit_ridge(train, landmarks)
    save_translator(found.state_dict(), found.dims, tmp_path / "ridge.safetensors")
    loaded = load_translator(tmp_path / "ridge.safetensors", of=train.of.pairs)
    assert isinstance(loaded, RidgeMap)
    assert torch.equal(translate(loaded, text), found(text))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert loaded.num_parameters == 8 + 64 + landmarks * 8 + 1 + (landmarks or 8) * 12


def test_it_learns():
    train, validation = whole(tiny_pairs(1, 60)), whole(tiny_pairs(2, 50))
    chance = np.mean([1 / rank for rank in range(1, 51)])
    assert validation.measure(fit_ridge(train)[0])["mrr"] > 5 * chance
