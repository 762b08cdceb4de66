"""Figures of notebooks 01 and 02: weak labels, ground truth, the objects of the scenes, class activation maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pmm.data import SegmentationData
from pmm.data.composition import MATERIAL, split_objects
from pmm.data.images import read_image
from pmm.figures.palette import class_colour
from pmm.figures.panels import Panel, bars, draw_image, heat_overlay, heat_row, image_row
from pmm.figures.style import WIDTH, CaptionedFigure, new_figure, spaced, styled

if TYPE_CHECKING:  # its import brings torch
    from pmm.run.experiment import Experiment

SPLITS = {"train": "training", "val": "validation"}


def label_names(data: SegmentationData, image_id: str) -> str:
    """Return the image-level label of an image as text, such as "bird, fruit"."""
    return ", ".join(spaced(data.class_names[c]) for c in data.labels(image_id)) or "no class"


def ground_truth_panel(data: SegmentationData, image_id: str) -> list[Panel]:
    """Return the ground truth as a list of one panel, an empty list where there is none."""
    return [("ground truth", data.mask(image_id))] if data.has_mask(image_id) else []


def labelled_panels(data: SegmentationData, image_id: str) -> list[Panel]:
    """Return the image under its weak label, and its ground truth if there is one."""
    labelled = (f"weak label: {label_names(data, image_id)}", data.image(image_id))
    return [labelled, *ground_truth_panel(data, image_id)]


def one_image(data: SegmentationData, image_id: str) -> CaptionedFigure:
    """Draw a training image under its weak label, and its ground truth if there is one."""
    figure = image_row(labelled_panels(data, image_id), data.class_names, columns=2)
    return figure.say(
        "One training image: its weak label names the classes, the ground truth also says where they are."
    )


def gallery(data: SegmentationData, image_ids: Sequence[str]) -> CaptionedFigure:
    """Draw training images under their weak labels, each beside its ground truth."""
    panels = [panel for image_id in image_ids for panel in labelled_panels(data, image_id)]
    return image_row(panels, data.class_names).say("Training images with their weak labels and ground truth.")


@styled
def object_sheet(class_names: Sequence[str], split: str, count: int = 6) -> CaptionedFigure:
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
    shown = ", ".join(
        f"{min(count, len(objects[name]))} of {len(objects[name])} {spaced(name)}" for name in class_names
    )
    return figure.say(
        f"Objects that the {SPLITS.get(split, split)} scenes are made of, up to {count} a class.",
        f"Rows of cut-out photographs, from the {split} part: {shown}.",
    )


def class_bars(
    counts: Sequence[float], class_names: Sequence[str], xlabel: str, percent: bool = False
) -> CaptionedFigure:
    """Draw one bar per class, in class colours; `counts` has one number per name, without the background."""
    names = class_names[1:]
    colours = [class_colour(value) for value in range(1, len(class_names))]
    return bars(dict(zip(names, map(float, counts), strict=True)), xlabel, percent, colours)


def overlay_panels(image: np.ndarray, maps: Mapping[str, np.ndarray]) -> list[Panel]:
    """Return the image and several (H, W) maps in [0, 1] laid over it, under their titles, for `heat_row`."""
    return [("image", image), *((title, heat_overlay(image, heat)) for title, heat in maps.items())]


def scales_figure(image: np.ndarray, raw: np.ndarray, maps: Mapping[str, np.ndarray], name: str) -> CaptionedFigure:
    """Draw one class's raw map, its CAMs at single scales and their sum.

    Args:
        image: (H, W, 3) uint8 RGB.
        raw: (h, w) float in [0, 1], the network's own map at scale 1.
        maps: title -> (H, W) float in [0, 1].
        name: the class.
    """
    first, *others = overlay_panels(image, maps)
    figure = heat_row([first, (f"raw map, scale 1,\n{raw.shape[0]} x {raw.shape[1]} places", raw), *others])
    return figure.say(f"The map of {spaced(name)} at single scales, and the sum that becomes the CAM.")


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
    blank = [("", np.full_like(image, 255))] * (n_maps - len(names))
    return [*overlay_panels(image, dict(zip(names, cam, strict=False))), *blank]


def cams_figure(experiment: Experiment, image_ids: Sequence[str]) -> CaptionedFigure:
    """Draw training images, each beside the CAMs of its first two classes."""
    data, panels = experiment.data, []
    for image_id in image_ids:
        panels += cam_panels(data.image(image_id), *experiment.cam(image_id), data.class_names)
    return heat_row(panels, columns=3).say("Training images with the CAMs of two of their classes.")
