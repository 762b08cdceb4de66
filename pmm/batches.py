"""Batches of a training: augmented images in an order that the seed and the epoch alone decide."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pmm.data.transforms import Augmentation, augment
from pmm.threads import one_thread_each


class TrainingImages(Dataset):
    """Augmented images with their targets, addressed by (epoch, index).

    Args:
        load: index -> (image (H,W,3) uint8, mask (H,W) uint8 or None, target tensor or None). The mask is
            augmented with the image and becomes the target where there is one.
        n: number of images.
        settings: augmentation.
        seed: with epoch and index it decides every random choice.
    """

    def __init__(self, load: Callable[[int], tuple], n: int, settings: Augmentation, seed: int):
        self.load, self.n, self.settings, self.seed = load, n, settings, seed

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, where: tuple[int, int]) -> tuple[Tensor, Tensor]:
        epoch, index = where
        image, mask, target = self.load(index)
        rng = np.random.default_rng([self.seed, epoch, index])
        picture, labels = augment(image, mask, self.settings, rng)
        return picture, target if labels is None else labels


class EpochBatches:
    """Batches of (epoch, index): each epoch its own permutation, the incomplete last batch left out."""

    def __init__(self, n: int, batch_size: int, epochs: range, seed: int):
        self.n, self.batch_size, self.epochs, self.seed = n, min(batch_size, n), epochs, seed

    def __len__(self) -> int:
        return len(self.epochs) * (self.n // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for epoch in self.epochs:
            order = np.random.default_rng([self.seed, epoch]).permutation(self.n)
            for first in range(0, self.n - self.batch_size + 1, self.batch_size):
                yield [(epoch, int(i)) for i in order[first : first + self.batch_size]]


def load_ahead(
    images: TrainingImages, batches: EpochBatches, workers: int, pin_memory: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches; the next one loads on a thread of its own while the model learns from this one.

    Args:
        images: what to load.
        batches: which images make a batch.
        workers: processes that load; 0 leaves the loading to the thread.
        pin_memory: keep batches where a GPU fetches them fast.
    """
    loaded = iter(DataLoader(images, batch_sampler=batches, num_workers=workers, pin_memory=pin_memory))
    with one_thread_each(1) as thread:
        coming = thread.submit(next, loaded, None)
        while (batch := coming.result()) is not None:
            coming = thread.submit(next, loaded, None)
            yield batch
