"""Batches of whole image groups: some images, each with all of its captions.

Shapes: B captions and G images of one batch; N captions and M images in all.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch. captions (B,) and images (G,) are int64 indices into the data; target (B,) int64 is the row of
    `images` that a caption belongs to; counts (G,) int64 is the number of captions of each image in the batch."""

    captions: np.ndarray
    images: np.ndarray
    target: np.ndarray
    counts: np.ndarray

    def share(self, rank: int, size: int) -> "Batch":
        """The captions that process `rank` of `size` has: those of as many of the images as the others, all of them.
        The images stay, for all captions are told from all of them."""
        first, last = (place * len(self.images) // size for place in (rank, rank + 1))
        own = slice(self.counts[:first].sum(), self.counts[:last].sum())
        return replace(self, captions=self.captions[own], target=self.target[own])


class ImageGroups:
    """Deals the captions of a dataset into batches by image, in an order of its own for every epoch.

    A batch holds `batch_size // mean captions an image` images, so about `batch_size` captions. Nothing is
    dropped: what would be a small last batch is spread over all of them (a contrastive batch of a few images
    teaches little), and their numbers of images differ by at most one.
    """

    def __init__(self, image_of_caption: np.ndarray, batch_size: int) -> None:
        """image_of_caption (N,) int, N at least 1; images without captions are left out."""
        self._captions = np.argsort(image_of_caption, kind="stable")
        self.images, self._first, self._counts = np.unique(
            image_of_caption[self._captions].astype(np.int64), return_index=True, return_counts=True
        )
        images_a_batch = max(1, batch_size * len(self.images) // len(image_of_caption))
        self.num_batches = -(-len(self.images) // images_a_batch)

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        """Yield the batches of one epoch: the same for the same seed and epoch, whatever ran before."""
        order = np.random.default_rng((seed, epoch)).permutation(len(self.images))
        for groups in np.array_split(order, self.num_batches):
            counts = self._counts[groups]
            target = np.repeat(np.arange(len(groups)), counts)
            within_group = np.arange(len(target)) - np.repeat(np.cumsum(counts) - counts, counts)
            captions = self._captions[self._first[groups][target] + within_group]
            yield Batch(captions, self.images[groups], target, counts)
