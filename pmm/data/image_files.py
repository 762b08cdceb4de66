"""What data sets share whose images and masks are files."""

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np

from pmm.data.images import read_image, read_mask_of


class ImageFiles(ABC):
    """Images and masks by the files that `image_path` and `mask_source` name."""

    class_names: tuple[str, ...]

    @abstractmethod
    def image_path(self, image_id: str) -> Path:
        """Path of an image; each data set says where."""

    @abstractmethod
    def mask_source(self, image_id: str) -> Path:
        """Path of the file that `mask` reads; each data set says where."""

    def image(self, image_id: str) -> np.ndarray:
        """Pixels of an image.

        Args:
            image_id: an id from `ids`.

        Returns:
            (H, W, 3) uint8 RGB.

        Raises:
            InputError: no such image, or it cannot be read.
        """
        return read_image(self.image_path(image_id))

    def has_mask(self, image_id: str) -> bool:
        """Whether a ground-truth mask exists.

        Args:
            image_id: an id from `ids`.

        Returns:
            True where `mask` finds a file.
        """
        return self.mask_source(image_id).is_file()

    def mask(self, image_id: str) -> np.ndarray:
        """Ground-truth mask, for evaluation only: training knows nothing but `labels`.

        Args:
            image_id: an id from `ids`.

        Returns:
            (H, W) uint8, 0 background, 255 unknown.

        Raises:
            InputError: the mask is missing, no index PNG, of another size, or holds a value that is no class.
        """
        return read_mask_of(self.image_path(image_id), self.mask_source(image_id), len(self.class_names))
