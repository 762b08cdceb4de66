"""Figures of notebooks 04 and 06: how a pseudo-mask is made, where two masks differ, sweeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pmm.data import SegmentationData
from pmm.figures.data import ground_truth_panel, label_names
from pmm.figures.panels import add_legend, curves, draw_image, heat_row, image_row, in_words
from pmm.figures.style import WIDTH, CaptionedFigure, as_percent, new_figure, spaced, styled, wrap
from pmm.method import IGNORE_INDEX
from pmm.method.pseudo_mask import PpmgSteps, background_score, ppmg
from pmm.method.smoothing import smooth_cam

if TYPE_CHECKING:  # its import brings torch
    from pmm.method.crf import CRFSettings
    from pmm.run.experiment import Experiment

MARK_RGB = (213, 94, 0)  # vermilion of Okabe and Ito: no class has it, so it always means "look here"
STEP_TITLES = ("CAM X(n)", "smoothed X(s)", "posterior of the class's CRF", "X(m) * P, over its maximum")


def highlight(image: np.ndarray, *marks: tuple[np.ndarray, Sequence[int]]) -> np.ndarray:
    """Paint pixels over a pale grey copy of a (H, W, 3) uint8 image, which comes back.

    Each mark is a (H, W) bool and a colour 0..255; later ones lie on top.
    """
    grey = np.asarray(image, dtype=np.float32).mean(axis=-1, keepdims=True)
    painted = np.repeat(110 + 0.5 * grey, 3, axis=-1)
    for where, rgb in marks:
        painted[np.asarray(where, dtype=bool)] = rgb
    return np.round(painted).astype(np.uint8)


def disagreement(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return (H, W) bool: pixels where two masks differ; a pixel that is IGNORE_INDEX in either is none."""
    first, second = np.asarray(first), np.asarray(second)
    return (first != second) & (first != IGNORE_INDEX) & (second != IGNORE_INDEX)


def thicken(where: np.ndarray) -> np.ndarray:
    """Return (H, W) bool in which each marked pixel has become a square of 3 x 3, so that a reader can see it."""
    high, wide = np.shape(where)
    padded = np.pad(np.asarray(where, dtype=bool), 1)
    return np.any([padded[y : y + high, x : x + wide] for y in range(3) for x in range(3)], axis=0)


def pick_examples(experiment: Experiment, count: int = 4, classes: int = 2) -> list[str]:
    """Choose training images to look at: first those that judge, if there are any, and nearly `classes` classes."""
    labels, judging = experiment.data.labels, dict.fromkeys(experiment.judge_ids)
    ids = list(judging | dict.fromkeys(experiment.train_ids))[:400]
    return sorted(ids, key=lambda i: (i not in judging, abs(len(labels(i)) - classes)))[:count]


def mask_rows(data: SegmentationData, rows: Mapping[str, Mapping[str, np.ndarray]]) -> CaptionedFigure:
    """Draw a row for each image: the image, its masks, and its ground truth if there is one.

    `rows` maps an image id to titles and (H, W) uint8 masks or (H, W, 3) uint8 images, as many in each row.
    """
    drawn = [
        [("image", data.image(image_id)), *masks.items(), *ground_truth_panel(data, image_id)]
        for image_id, masks in rows.items()
    ]
    columns = max(map(len, drawn))
    blank = ("", np.full_like(drawn[0][0][1], 255))  # where others have a ground truth
    panels = [panel for row in drawn for panel in [*row, *[blank] * (columns - len(row))]]
    return image_row(panels, data.class_names, columns)


def background_figure(image: np.ndarray, cam: np.ndarray, alphas: Sequence[float]) -> CaptionedFigure:
    """Draw an image, its strongest activation and its background score for each alpha; (C, H, W) cam in [0, 1]."""
    scores = [(f"background, alpha {alpha:g}", background_score(cam, alpha)) for alpha in alphas]
    panels = [("image", image), ("strongest CAM", cam.max(axis=0)), *scores]
    return heat_row(panels, 3, "activation, score").say("Background score of one image for several alpha.")


@styled
def ppmg_figure(
    image: np.ndarray, cam: np.ndarray, class_ids: Sequence[int], steps: PpmgSteps, class_names: Sequence[str]
) -> CaptionedFigure:
    """Draw Algorithm 1 on one image: one row a class, from its CAM to its share, then the mask.

    Args:
        image, cam, class_ids: as in `pmm.method.pseudo_mask.ppmg_steps`, which returned the `steps` for them.
        class_names: index is the mask value.
    """
    share = steps.foreground * steps.proportion
    share = share / np.maximum(share.max(axis=(1, 2), keepdims=True), np.finfo(np.float32).tiny)
    rows, wide = max(len(cam), 2), WIDTH / 5
    figure, axes = new_figure(rows, 5, rows * (0.97 * wide * image.shape[0] / image.shape[1] + 0.15) + 1.2)
    for axis in axes.flat:
        axis.set_axis_off()
    names = [f"{spaced(class_names[i])}\nc_v = {c_v:.2f}" for i, c_v in zip(class_ids, steps.c_v, strict=True)]
    for row, maps in enumerate(zip(cam, steps.smoothed, steps.posterior, share, strict=True)):
        for axis, panel in zip(axes[row], maps, strict=False):
            draw_image(axis, panel)
        place = {"transform": axes[row, 0].transAxes, "bbox": {"facecolor": "black", "pad": 2}}
        axes[row, 0].text(0.03, 0.06, names[row], color="white", fontsize=12, **place).set_in_layout(False)
    for axis, title in zip(axes[0], (*STEP_TITLES, "pseudo-mask Y"), strict=True):
        axis.set_title(wrap(title, wide))
    draw_image(axes[0, 4], steps.mask, class_names)
    draw_image(axes[1, 4], image)
    axes[1, 4].set_title("the image")
    add_legend(figure, [steps.mask], class_names)
    columns = "; ".join([*STEP_TITLES, in_words("pseudo-mask", steps.mask, class_names)])
    alt = f"Rows for {' and '.join(names)}. Columns: {columns}."
    return figure.say("PPMG step by step; one row is one class.", alt.replace("\n", ", "))


def variant_masks(experiment: Experiment, image_id: str) -> dict[str, np.ndarray]:
    """Return one training image's PPMG mask by both variants, with the run's parameters otherwise."""
    p, (class_ids, cam) = experiment.params, experiment.cam(image_id)
    settings = {"s": p.s, "alpha": p.alpha, "t": p.t, "crf": experiment.crf_settings()}
    image = experiment.data.image(image_id)
    return {f"variant: {v}": ppmg(image, cam, class_ids, variant=v, **settings) for v in ("official", "paper")}


def variants_figure(data: SegmentationData, image_id: str, masks: Mapping[str, np.ndarray]) -> CaptionedFigure:
    """Draw two masks of an image, see `variant_masks`, and where they differ."""
    differ = disagreement(*masks.values())
    marked = highlight(data.image(image_id), (thicken(differ), MARK_RGB))  # a single pixel would be too small to see
    figure = image_row([*masks.items(), ("pixels that differ", marked)], data.class_names, columns=3)
    return figure.say(
        "The image with most differences: mask by the released code, by the equations, and where they differ "
        "(each such pixel is drawn as 3 x 3).",
        f"{figure.alt} {differ.sum()} of {differ.size} pixels differ.",
    )


def crf_settings_figure(
    experiment: Experiment, image_id: str, values: Mapping[str, Sequence[float]]
) -> CaptionedFigure:
    """Draw one training image's PPMG masks, each setting of the dense CRF in turn at other values, two settings a row.

    `values` maps the name of a field of `CRFSettings` to a low and a high value. The first row has the photograph, the
    mask without a CRF, that of the run's settings, and the ground truth, if there is one; titles say how much of the
    image is foreground.
    """
    p, data, (class_ids, cam) = experiment.params, experiment.data, experiment.cam(image_id)
    image, crf = data.image(image_id), experiment.crf_settings()

    def panel(title: str, settings: CRFSettings) -> tuple[str, np.ndarray]:
        """Make the mask of some settings."""
        made = ppmg(image, cam, class_ids, s=p.s, alpha=p.alpha, t=p.t, variant=p.variant, crf=settings)
        return f"{title}: {as_percent((made > 0).mean(), 0)}", made

    panels = [("photograph", image), panel("without a CRF", replace(crf, gauss_compat=0, bilateral_compat=0))]
    panels += [panel("this run", crf), *ground_truth_panel(data, image_id)]
    panels += [("", np.full_like(image, 255))] * (4 - len(panels))  # where there is no ground truth
    for name, pair in values.items():
        for value in pair:
            panels.append(panel(f"{name} {value:g}\ninstead of {getattr(crf, name):g}", replace(crf, **{name: value})))
    figure = image_row(panels, data.class_names)
    return figure.say("One mask, each setting of the CRF in turn at another value. Per cent: the share of foreground.")


@styled
def sweep_figure(
    sweeps: Sequence[Mapping[str, Any]], title: str = "", marks: Mapping[str, float] | None = None
) -> CaptionedFigure:
    """Draw mIoU over a swept parameter, one curve a sweep.

    Args:
        sweeps: dicts of `pmm.studies.masks.sweep` that share one parameter.
        title: over the axes.
        marks: label -> value of a dashed vertical line, such as the run's own value.
    """
    parameter = sweeps[0]["parameter"]
    series = {sweep["method"]: (sweep["values"], 100 * np.array(sweep["miou"])) for sweep in sweeps}
    figure = curves(series, parameter, "mIoU in %")
    axis = figure.axes[0]
    axis.set_title(title, pad=28 if marks else None)
    for value in sorted(set((marks or {}).values())):
        label = " = ".join(name for name, place in marks.items() if place == value)
        axis.axvline(value, color="0.25", linestyle="--", linewidth=1.8)
        axis.annotate(label, (value, 1.02), xycoords=("data", "axes fraction"), ha="center", fontsize=13)
    if parameter == "alpha":
        axis.set_xscale("log", base=2)
        ticks = sorted({value for sweep in sweeps for value in sweep["values"]})
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    return figure.say(
        f"mIoU of the pseudo-masks over {parameter}, against ground truth: to look at, it chooses nothing."
    )


def methods_figure(experiment: Experiment, methods: Mapping[str, str], image_ids: Sequence[str]) -> CaptionedFigure:
    """Draw a row for each training image with its pseudo-masks; methods maps each method to its title."""
    rows = {i: {title: experiment.pseudo_mask(m, i) for m, title in methods.items()} for i in image_ids}
    return mask_rows(experiment.data, rows).say(f"Pseudo-masks of training images by {len(methods)} methods.")


def cyclic_figure(experiment: Experiment, teacher: str, masks: str, image_ids: Sequence[str]) -> CaptionedFigure:
    """Draw a row a training image: its mask, what a model named `teacher` learned from, and its predictions."""
    rows = {
        image_id: {
            f"round 0: {masks}": experiment.pseudo_mask(masks, image_id),
            "predicted, not filtered": experiment.cyclic_mask(teacher, image_id, False),
            "predicted, filtered": experiment.cyclic_mask(teacher, image_id, True),
        }
        for image_id in image_ids
    }
    return mask_rows(experiment.data, rows).say(
        "Training images: mask of round 0, the teacher's prediction without and with the filter, ground truth."
    )


def changes_figure(experiment: Experiment, first: str, last: str, image_ids: Sequence[str]) -> CaptionedFigure:
    """Draw a row of four panels a training image: image, first mask, last mask, the pixels that differ."""
    data, panels = experiment.data, []
    for image_id in image_ids:
        image = data.image(image_id)
        before, after = (experiment.pseudo_mask(masks, image_id) for masks in (first, last))
        marked = highlight(image, (disagreement(before, after), MARK_RGB))
        titles = ("image", "round 0", "last round", "changed pixels")
        panels += zip(titles, (image, before, after, marked), strict=True)
    return image_row(panels, data.class_names).say(
        "Masks of round 0 and of the last round, and the pixels that changed, in orange."
    )


def story_figure(experiment: Experiment, image_id: str, model: str) -> CaptionedFigure:
    """Walk a training image through all stages: image, CAM, smoothed, mask, prediction of `model`, ground truth."""
    p, data, (_, cam) = experiment.params, experiment.data, experiment.cam(image_id)
    panels = [
        ("label: " + label_names(data, image_id).replace(", ", ",\n"), data.image(image_id)),
        ("CAM,\nall classes", cam.max(axis=0)),
        (f"smoothed,\ns = {p.s:g}", smooth_cam(cam, p.s, p.t, p.variant).max(axis=0)),
        ("pseudo-mask,\nPPMG", experiment.pseudo_mask("ppmg", image_id)),
        ("segmentation\nmodel", experiment.predict(model, image_id)),
        *((f"{title},\nto compare", mask) for title, mask in ground_truth_panel(data, image_id)),
    ]
    figure = image_row(panels, data.class_names, columns=len(panels))
    return figure.say("One training image through all stages, from image-level labels to the segmentation model.")
