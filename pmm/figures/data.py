"""Figures of notebook 01: what a weak label says, what the scenes look like, which objects they show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pmm.data.images import read_image
from pmm.data.scenes import MATERIAL, split_objects
from pmm.figures.palette import class_colour
from pmm.figures.panels import bars, draw_image, spaced
from pmm.figures.style import WIDTH, new_figure, styled

SPLITS = {"train": "training", "val": "validation"}


def label_names(data: Any, image_id: str) -> str:
    """Return the image-level label of an image as text, such as "bird, fruit"."""
    return ", ".join(spaced(data.class_names[c]) for c in data.labels(image_id)) or "no class"


def labelled_panels(data: Any, image_id: str) -> list[tuple[str, np.ndarray]]:
    """Return panels for `image_row`: the image under its weak label, and its exact mask if there is one."""
    panels = [(f"weak label: {label_names(data, image_id)}", data.image(image_id))]
    if data.has_mask(image_id):
        panels.append(("exact mask", data.mask(image_id)))
    return panels


@styled
def object_sheet(class_names: Sequence[str], split: str, count: int = 6) -> Figure:
    """Draw the first photographed objects that may appear in the scenes of a split, one row a class."""
    objects = split_objects()[split]
    size = WIDTH / count
    figure, axes = new_figure(len(class_names), count, 0.75 * size * len(class_names) + 0.5)
    for row, name in zip(axes, class_names, strict=True):
        for position, axis in enumerate(row):
            axis.set_axis_off()
            axis.set_anchor("W" if position == 0 else "C")  # the first one begins below the row's name
            if position < len(objects[name]):
                draw_image(axis, read_image(MATERIAL / "cutouts" / name / objects[name][position]))
        row[0].set_title(spaced(name), loc="left", color="black")
    figure.suptitle(f"objects of the {SPLITS.get(split, split)} scenes")
    return figure


def class_bars(counts: Sequence[float], class_names: Sequence[str], xlabel: str, percent: bool = False) -> Figure:
    """Draw one bar per class, in class colours; `counts` has one number per name, without the background."""
    names = class_names[1:]
    colours = [class_colour(value) for value in range(1, len(class_names))]
    return bars(dict(zip(names, map(float, counts), strict=True)), xlabel, percent=percent, colours=colours)
