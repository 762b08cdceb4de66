"""Figures of notebooks 01 to 03: weak labels, ground truth, the objects of the scenes, CAMs and their smoothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pmm.data import SegmentationData
from pmm.data.images import read_image
from pmm.data.scenes import MATERIAL, split_objects
from pmm.figures.panels import (
    MOST,
    Panel,
    bars,
    curves,
    draw_image,
    draw_marks,
    heat_overlay,
    heat_row,
    image_row,
    left_out,
    matrix,
    spread_in_words,
    write_above,
)  # fmt: skip
from pmm.figures.style import WIDTH, CaptionedFigure, class_colour, new_figure, spaced, styled
from pmm.method import IGNORE_INDEX
from pmm.method.smoothing import raise_cam, smooth_cam, smoothing_exponent

if TYPE_CHECKING:  # its import brings torch
    from pmm.run.experiment import Experiment

SPLITS = {"train": "training", "val": "validation"}
GAIN = 4  # the activation that smoothing adds is small
Found = tuple[float, str, int]  # a map among all training CAMs: its c_v, the image's id, the class id


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
    caption = "One training image: its weak label names the classes, the ground truth also says where they are."
    return image_row(labelled_panels(data, image_id), data.class_names, columns=2).say(caption)


def gallery(data: SegmentationData, image_ids: Sequence[str]) -> CaptionedFigure:
    """Draw training images under their weak labels, each beside its ground truth."""
    panels = [panel for image_id in image_ids for panel in labelled_panels(data, image_id)]
    return image_row(panels, data.class_names).say("Training images with their weak labels and ground truth.")


@styled
def object_sheet(class_names: Sequence[str], split: str, count: int = 6) -> CaptionedFigure:
    """Draw the first photographed objects that may appear in the scenes of a split, one row a class."""
    objects, part = split_objects()[split], SPLITS.get(split, split)
    figure, axes = new_figure(len(class_names), count, 0.75 * WIDTH / count * len(class_names) + 0.5)
    for row, name in zip(axes, class_names, strict=True):
        for position, axis in enumerate(row):
            axis.set_axis_off()
            axis.set_anchor("W" if position == 0 else "C")  # the first one begins below the row's name
            if position < len(objects[name]):
                draw_image(axis, read_image(MATERIAL / "cutouts" / name / objects[name][position]))
        row[0].set_title(spaced(name), loc="left", color="black")
    figure.suptitle(f"objects of the {part} scenes")
    totals = {spaced(name): len(objects[name]) for name in class_names}
    shown = ", ".join(f"{min(count, total)} of {total} {name}" for name, total in totals.items())
    return figure.say(
        f"Objects that the {part} scenes are made of, up to {count} a class.",
        f"Rows of cut-out photographs, from the {split} part: {shown}.",
    )


def class_bars(
    values: Sequence[float], class_names: Sequence[str], xlabel: str, percent: bool = False, shortest: bool = False
) -> CaptionedFigure:
    """Draw one bar per class that occurs, in class colours, at most MOST: the longest first.

    Args:
        values: one number per name, without the background; a class does not occur where it is NaN or a count of 0.
        class_names, xlabel, percent: index is the mask value; what the bars measure; whether it is a share.
        shortest: the shortest bars first.
    """
    known = {c: value for c, value in enumerate(map(float, values), 1) if value > 0 or (percent and value == 0)}
    order = sorted(known, key=lambda c: known[c] if shortest else -known[c])[:MOST]
    colours = [class_colour(c, class_names) for c in order]
    figure = bars({class_names[c]: known[c] for c in order}, xlabel, percent, colours)
    return write_above(figure, left_out(len(order), len(known), len(class_names) - 1))


def meeting_figure(meet: np.ndarray, names: Sequence[str]) -> CaptionedFigure:
    """Draw how often two classes meet: the classes that occur, at most MOST, the most frequent first.

    `meet` holds (C, C) counts of images that show both of two classes, `names` their C names without the background.
    """
    meet, counts = np.asarray(meet), np.diagonal(meet)
    found = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    order, pairs = found[:MOST], np.triu(meet, 1)
    shown = [names[c] for c in order]
    figure = matrix(meet[np.ix_(order, order)], shown, shown, "images that show both")
    often = [np.unravel_index(place, pairs.shape) for place in np.argsort(-pairs, axis=None, kind="stable")[:3]]
    told = [f"{spaced(names[a])} and {spaced(names[b])} in {pairs[a, b]}" for a, b in often if pairs[a, b]]
    figure.alt += f" Most often meet {', '.join(told)}." if told else " No two classes meet."
    return write_above(figure, left_out(len(order), len(found), len(names)))


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
    """Return one row of panels for `heat_row`: the image and its first `n_maps` maps, padded with blank panels.

    `image` is (H, W, 3) uint8 RGB, `cam` (C, H, W) float in [0, 1], and `class_ids` holds the C mask values.
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


def class_map(experiment: Experiment, image_id: str, class_id: int) -> np.ndarray:
    """Return the (H, W) float32 CAM of one class that the image shows."""
    class_ids, cam = experiment.cam(image_id)
    return cam[list(class_ids).index(class_id)]


def extremes_figure(experiment: Experiment, extremes: Mapping[str, Found]) -> CaptionedFigure:
    """Draw some maps beside their images; keys say in a word what each is, such as even or uneven."""
    data, panels = experiment.data, []
    for c_v, image_id, class_id in extremes.values():
        title = f"{spaced(data.class_names[class_id])}, c_v = {c_v:.2f}"
        panels += overlay_panels(data.image(image_id), {title: class_map(experiment, image_id, class_id)})
    return heat_row(panels).say(f"Images with one map each, from left to right: {', '.join(extremes)}.")


@styled
def power_curves(variations: Mapping[str, float], s: float) -> CaptionedFigure:
    """Draw x ** (1 - s * c_v) over x in 0..1, one curve for each labelled c_v, and the diagonal."""
    x = np.linspace(0, 1, 201, dtype=np.float32)
    series = {"not smoothed": (x, x)}
    for label, c_v in variations.items():
        smoothed = raise_cam(x[None, None], smoothing_exponent([c_v], s), t=0.0)
        series[f"{label}: c_v = {c_v:.2f}"] = (x, smoothed[0, 0])
    figure = curves(series, "activation before, x", "activation after", ylim=(0, 1.02), height=5.0)
    figure.axes[0].set(xlim=(0, 1), aspect="equal")
    values = ", ".join(f"{label} {c_v:.2f}" for label, c_v in variations.items())
    return figure.say(
        f"The correction for {len(variations)} real values of c_v, at s = {s:g}.",
        f"Curves from (0, 0) to (1, 1) that bulge upwards, the more the higher c_v: {values}.",
    )


def before_after_figure(experiment: Experiment, chosen: Sequence[Found]) -> CaptionedFigure:
    """Draw maps before and after smoothing with the run's parameters, a row each, and what was added, GAIN-fold."""
    p, data, panels = experiment.params, experiment.data, []
    for _, image_id, class_id in chosen:
        name, before = spaced(data.class_names[class_id]), class_map(experiment, image_id, class_id)
        after = smooth_cam(before[None], p.s, p.t, p.variant)[0]
        panels += overlay_panels(data.image(image_id), {f"{name}: before": before, f"{name}: after": after})
        panels.append((f"added, {GAIN} x brighter", np.clip(GAIN * (after - before), 0, 1).astype(np.float32)))
    found = ", ".join(f"{spaced(data.class_names[c])} (c_v {c_v:.2f})" for c_v, _, c in chosen)
    return heat_row(panels).say(
        f"{len(chosen)} maps before and after smoothing with s = {p.s:g}, and the activation that was added.",
        f"Rows of photograph, map before, map after and the gain for {found}.",
    )


def coverage(
    cam: np.ndarray, class_ids: Sequence[int], mask: np.ndarray, level: float = 0.5
) -> dict[int, tuple[int, int, int, int]]:
    """Count, class by class, how far a CAM above a level covers the object and spills over it.

    Args:
        cam: (C, H, W) float in [0, 1].
        class_ids: (C,) mask values of the channels.
        mask: (H, W) uint8 ground truth; IGNORE_INDEX is not counted.
        level: activation from which a pixel counts as covered.

    Returns:
        class id -> pixels of the object covered, pixels of the object, other pixels covered, other pixels.
    """
    counts = {}
    for class_id, channel in zip(class_ids, cam, strict=True):
        hot, inside = channel > level, mask == class_id
        outside = ~inside & (mask != IGNORE_INDEX)
        counts[int(class_id)] = tuple(int(n.sum()) for n in (hot & inside, inside, hot & outside, outside))
    return counts


def coverage_figure(rates: Mapping[float, tuple[float, float]], s: float, images: int) -> CaptionedFigure:
    """Draw the covered shares of object and other pixels over the smoothing strength.

    `rates` maps a strength to both shares; `s` is the run's strength, `images` the number of images counted.
    """
    strengths, (inside, outside) = list(rates), zip(*rates.values(), strict=True)
    series = {"object pixels covered": (strengths, inside), "other pixels covered": (strengths, outside)}
    figure = curves(series, "smoothing strength s", "share of pixels", marks={"s used": s}, ylim=(0, 1.15))
    return figure.say(f"Share of pixels with a CAM above 0.5, in {images} training images, against ground truth.")


@styled
def variation_histogram(c_v: np.ndarray, s: float, largest: float) -> CaptionedFigure:
    """Draw how c_v is spread over many CAMs, with the largest possible value and the limit 1 / s."""
    figure, axes = new_figure()
    axis = axes[0, 0]
    axis.hist(c_v, bins=40, range=(0, max(2.2, float(np.max(c_v, initial=0)))))
    axis.set(xlabel="coefficient of variation c_v", ylabel="CAMs (image, class)")
    marks = {"largest possible": largest} if np.isfinite(largest) else {}
    if s > 0 and 1 / s <= 4:
        marks[f"1 / s at s = {s:g}"] = 1 / s
    draw_marks(axis, marks)
    axis.set_xlim(0, 1.15 * max([*marks.values(), 2.2]))
    return figure.say("The coefficient of variation of all training CAMs.", f"Histogram of {spread_in_words(c_v)}.")
