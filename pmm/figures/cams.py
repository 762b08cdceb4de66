"""Figures of class activation maps: heat maps over images, one panel a class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pmm.figures.panels import Panel, heat_overlay, spaced


def cam_panels(
    image: np.ndarray, class_ids: Sequence[int], cam: np.ndarray, class_names: Sequence[str], n_maps: int = 2
) -> list[Panel]:
    """Return one row of panels for `heat_row`: the image and its first maps, padded with blank panels.

    Args:
        image: (H, W, 3) uint8 RGB.
        class_ids: (C,) mask values of the channels.
        cam: (C, H, W) float in [0, 1].
        class_names: index is the mask value.
        n_maps: maps a row; channels beyond are left out.
    """
    names = [spaced(class_names[int(value)]) for value in class_ids[:n_maps]]
    maps = [(name, heat_overlay(image, channel)) for name, channel in zip(names, cam, strict=False)]
    blank = [("", np.full_like(image, 255))] * (n_maps - len(maps))
    return [("image", image), *maps, *blank]


def compare_panels(image: np.ndarray, maps: dict[str, np.ndarray]) -> list[Panel]:
    """Return one row for `heat_row`: the image and several (H, W) maps of one class, under their titles."""
    return [("image", image), *((title, heat_overlay(image, heat)) for title, heat in maps.items())]


def class_map(experiment: Any, image_id: str, class_id: int) -> np.ndarray:
    """Return the (H, W) float32 CAM of one class that the image shows."""
    class_ids, cam = experiment.cam(image_id)
    return cam[list(class_ids).index(class_id)]
