"""The plain way of training: DataLoader over a TensorDataset, N×N logits, float32 Adam, a loop over captions for ranks.

Model, batches of whole image groups, loss and measure are those of the baseline recipe; only the way to compute them
is the plain one. Shapes: B captions of a batch, N captions and M images in all, T text width, V image width.
"""

import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from src.training.inputs import Part
from src.training.recipe import Recipe


def layer(width_in: int, width_out: int, dropout: float) -> list[nn.Module]:
    return [nn.Linear(width_in, width_out), nn.LayerNorm(width_out), nn.GELU(), nn.Dropout(dropout)]


class ResidualMLP(nn.Module):
    def __init__(self, text_dim: int, image_dim: int, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        self.stem = nn.Sequential(*layer(text_dim, hidden_dim, dropout))
        self.branch = nn.Sequential(*layer(hidden_dim, hidden_dim, dropout), *layer(hidden_dim, hidden_dim, dropout))
        self.head = nn.Linear(hidden_dim, image_dim)

    def forward(self, text_BT: Tensor) -> Tensor:
        hidden = self.stem(text_BT)
        return self.head(hidden + self.branch(hidden))


def infonce(prediction_BV: Tensor, image_BV: Tensor, image_of_caption_B: Tensor, tau: float) -> Tensor:
    """Symmetric InfoNCE over all B×B pairs, all captions of an image being positives of it."""
    logits = F.normalize(prediction_BV, dim=1) @ F.normalize(image_BV, dim=1).T / tau
    positive = (image_of_caption_B[:, None] == image_of_caption_B).float()

    def one_direction(logits: Tensor) -> Tensor:
        return -((F.log_softmax(logits, dim=1) * positive).sum(dim=1) / positive.sum(dim=1)).mean()

    return (one_direction(logits) + one_direction(logits.T)) / 2


class ImageGroupSampler:
    """Every epoch in a new order: some images a batch, each with all of its captions."""

    def __init__(self, image_of_caption: np.ndarray, batch_size: int) -> None:
        self.captions_of_image = {}
        for caption, image in enumerate(image_of_caption.tolist()):
            self.captions_of_image.setdefault(image, []).append(caption)
        self.images_a_batch = max(1, batch_size * len(self.captions_of_image) // len(image_of_caption))

    def __iter__(self) -> Iterator[list[int]]:
        images = list(self.captions_of_image)
        np.random.default_rng(int(torch.randint(2**31, ()))).shuffle(images)
        for start in range(0, len(images), self.images_a_batch):
            batch = images[start : start + self.images_a_batch]
            yield [caption for image in batch for caption in self.captions_of_image[image]]


class ReferenceTrainer:
    """One model in training on captions (N, T), images (M, V) and each caption's image (N,)."""

    def __init__(
        self, text: np.ndarray, images: np.ndarray, image_of_caption: np.ndarray, recipe: Recipe, device: torch.device
    ) -> None:
        torch.manual_seed(recipe.seed)
        image_of_caption = image_of_caption.astype(np.int64)
        dataset = TensorDataset(*map(torch.from_numpy, (text, images[image_of_caption], image_of_caption)))
        self.loader = DataLoader(dataset, batch_sampler=ImageGroupSampler(image_of_caption, recipe.batch_size))
        self.model = ResidualMLP(text.shape[1], images.shape[1], recipe.hidden_dim, recipe.dropout).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=recipe.lr)
        self.device, self.tau = device, recipe.tau

    def train_epoch(self) -> float:
        """Train one epoch. Returns its mean loss."""
        self.model.train()
        losses = []
        for batch in self.loader:
            text, image, image_of_caption = (part.to(self.device) for part in batch)
            self.optimizer.zero_grad()
            loss = infonce(self.model(text), image, image_of_caption, self.tau)
            loss.backward()
            self.optimizer.step()
            losses.append(loss.item())
        return float(np.mean(losses))

    @torch.no_grad()
    def predict(self, text: Tensor, batch_size: int = 4096) -> Tensor:
        self.model.eval()
        return torch.cat([self.model(part.to(self.device)) for part in text.split(batch_size)])


def ranks(prediction: Tensor, gallery: Tensor, target: Tensor) -> Tensor:
    """Caption by caption: score all images, sort them, look where the own one stands. (N,) int64 on the CPU."""
    gallery = F.normalize(gallery, dim=1)
    found = []
    for query, own in zip(F.normalize(prediction, dim=1), target, strict=True):
        order = (gallery @ query).argsort(descending=True)
        found.append(1 + int((order == own).nonzero()))
    return torch.tensor(found)


def mrr_by_time(trainer: ReferenceTrainer, validation: Part, recipe: Recipe) -> list[tuple[float, float]]:
    """Train until the recipe's epochs or its patience are over.

    Returns (validation MRR, seconds since the start) after each epoch.
    """
    text, gallery, target = validation.text_nT, validation.gallery_mV, validation.target_n
    history, best, best_epoch, started = [], 0.0, 0, time.perf_counter()
    for epoch in range(1, recipe.epochs + 1):
        if recipe.patience and epoch - 1 - best_epoch >= recipe.patience:
            break
        trainer.train_epoch()
        mrr = float((1 / ranks(trainer.predict(text), gallery, target)).mean())
        history.append((mrr, time.perf_counter() - started))
        if mrr > best:
            best, best_epoch = mrr, epoch
    return history
