"""Figures of notebooks 04 and 06: how a pseudo-mask is made, where two masks differ, sweeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pmm.figures.charts import draw_curves
from pmm.figures.panels import Panel, add_legend, draw_image
from pmm.figures.style import WIDTH, new_figure, spaced, styled, wrap
from pmm.method.pseudo_mask import PpmgSteps, background_score, ppmg
from pmm.method.smoothing import smooth_cam

MARK_RGB = (213, 94, 0)
"""Vermilion of Okabe and Ito: no class has it, so it always means "look here"."""
STEP_TITLES = ("CAM X(n)", "smoothed X(s)", "posterior of the class's CRF", "X(m) * P, over its maximum")


def highlight(image: np.ndarray, *marks: tuple[np.ndarray, Sequence[int]]) -> np.ndarray:
    """Paint chosen pixels over a pale grey copy of the image.

    Args:
        image: (H, W, 3) uint8 RGB.
        marks: pairs of (H, W) bool and a colour 0..255; later ones lie on top.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    grey = np.asarray(image, dtype=np.float32).mean(axis=-1, keepdims=True)
    painted = np.repeat(110 + 0.5 * grey, 3, axis=-1)
    for where, rgb in marks:
        painted[np.asarray(where, dtype=bool)] = rgb
    return np.round(painted).astype(np.uint8)


def disagreement(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return (H, W) bool: pixels where two masks differ; a pixel that is 255 in either is none."""
    first, second = np.asarray(first), np.asarray(second)
    return (first != second) & (first != 255) & (second != 255)


def thicken(where: np.ndarray) -> np.ndarray:
    """Return (H, W) bool in which each marked pixel has become a square of 3 x 3, so that a reader can see it."""
    high, wide = np.shape(where)
    padded = np.pad(np.asarray(where, dtype=bool), 1)
    return np.any([padded[y : y + high, x : x + wide] for y in range(3) for x in range(3)], axis=0)


def pick_examples(experiment: Any, count: int = 4, classes: int = 2) -> list[str]:
    """Choose training images to look at: with exact masks if there are any, and nearly `classes` classes."""
    data, ids = experiment.data, experiment.train_ids[:400]
    return sorted(ids, key=lambda i: (not data.has_mask(i), abs(len(data.labels(i)) - classes)))[:count]


def exact_panel(data: Any, image_id: str) -> list[Panel]:
    """Return the exact mask as a list of one panel, an empty list where there is none."""
    return [("exact mask", data.mask(image_id))] if data.has_mask(image_id) else []


def variant_masks(experiment: Any, image_id: str) -> dict[str, np.ndarray]:
    """Return one training image's PPMG mask by both variants, with the run's parameters otherwise."""
    p, (class_ids, cam) = experiment.params, experiment.cam(image_id)
    settings = {"s": p.s, "alpha": p.alpha, "t": p.t, "crf": experiment.crf_settings()}
    image = experiment.data.image(image_id)
    return {f"variant: {v}": ppmg(image, cam, class_ids, variant=v, **settings) for v in ("official", "paper")}


def alpha_panels(cam: np.ndarray, alphas: Sequence[float]) -> list[Panel]:
    """Return the strongest activation and its background score for each alpha, as panels of `heat_row`."""
    panels = [("strongest CAM", cam.max(axis=0))]
    return panels + [(f"background, alpha {alpha:g}", background_score(cam, alpha)) for alpha in alphas]


def compare_panels(experiment: Any, methods: Mapping[str, str], image_ids: Sequence[str]) -> list[Panel]:
    """Return a row of panels for each image: photograph, one pseudo-mask a method, exact mask if any.

    Args:
        experiment: the run, a `pmm.run.experiment.Experiment`.
        methods: method -> title.
        image_ids: training images.
    """
    data, panels = experiment.data, []
    for image_id in image_ids:
        panels.append(("scene", data.image(image_id)))
        panels += [(title, experiment.pseudo_mask(method, image_id)) for method, title in methods.items()]
        panels += exact_panel(data, image_id)
    return panels


def cyclic_panels(experiment: Any, teacher: str, masks: str, image_id: str) -> list[Panel]:
    """Return one image's row: photograph, training mask, prediction without and with the filter, truth.

    Args:
        experiment: the run, a `pmm.run.experiment.Experiment`.
        teacher: name of a trained segmentation model.
        masks: what it learned from.
        image_id: a training image.
    """
    return [
        ("scene", experiment.data.image(image_id)),
        (f"round 0: {masks}", experiment.pseudo_mask(masks, image_id)),
        ("predicted, not filtered", experiment.cyclic_mask(teacher, image_id, False)),
        ("predicted, filtered", experiment.cyclic_mask(teacher, image_id, True)),
        *exact_panel(experiment.data, image_id),
    ]


def change_panels(experiment: Any, first: str, last: str, image_ids: Sequence[str]) -> list[Panel]:
    """Return a row of four panels an image: photograph, first mask, last mask, the pixels that differ."""
    panels = []
    for image_id in image_ids:
        image = experiment.data.image(image_id)
        before, after = (experiment.pseudo_mask(masks, image_id) for masks in (first, last))
        marked = highlight(image, (disagreement(before, after), MARK_RGB))
        titles = ("scene", "round 0", "last round", "changed pixels")
        panels += zip(titles, (image, before, after, marked), strict=True)
    return panels


@styled
def ppmg_figure(
    image: np.ndarray,
    cam: np.ndarray,
    class_ids: Sequence[int],
    steps: PpmgSteps,
    class_names: Sequence[str],
) -> Figure:
    """Draw Algorithm 1 on one image: one row a class, from its CAM to its share, then the mask.

    Args:
        image: (H, W, 3) uint8 RGB.
        cam: (C, H, W) float in [0, 1], the CAM X(n).
        class_ids: (C,) mask values of the channels.
        steps: what `pmm.method.pseudo_mask.ppmg_steps` returned for them.
        class_names: index is the mask value.
    """
    share = steps.foreground * steps.proportion
    share = share / np.maximum(share.max(axis=(1, 2), keepdims=True), np.finfo(np.float32).tiny)
    rows, wide = max(len(cam), 2), WIDTH / 5
    figure, axes = new_figure(rows, 5, rows * (0.97 * wide * image.shape[0] / image.shape[1] + 0.15) + 1.2)
    for axis in axes.flat:
        axis.set_axis_off()
    for row, maps in enumerate(zip(cam, steps.smoothed, steps.posterior, share, strict=True)):
        for axis, panel in zip(axes[row], maps, strict=False):
            draw_image(axis, panel)
        name = f"{spaced(class_names[class_ids[row]])}\nc_v = {steps.c_v[row]:.2f}"
        place = {"transform": axes[row, 0].transAxes, "bbox": {"facecolor": "black", "pad": 2}}
        axes[row, 0].text(0.03, 0.06, name, color="white", fontsize=12, **place).set_in_layout(False)
    for axis, title in zip(axes[0], STEP_TITLES, strict=False):
        axis.set_title(wrap(title, wide))
    _draw_result(axes[:, 4], image, steps.mask, class_names, wide)
    add_legend(figure, [steps.mask], class_names)
    return figure


def _draw_result(column: np.ndarray, image: np.ndarray, mask: np.ndarray, names: Sequence[str], wide: float) -> None:
    draw_image(column[0], mask, names)
    column[0].set_title(wrap("pseudo-mask Y", wide))
    draw_image(column[1], image)
    column[1].set_title("the scene")


@styled
def sweep_figure(
    sweeps: Sequence[Mapping[str, Any]], title: str = "", marks: Mapping[str, float] | None = None
) -> Figure:
    """Draw mIoU over a swept parameter, one curve a sweep.

    Args:
        sweeps: dicts of `pmm.studies.sweeps` that share one parameter.
        title: over the axes.
        marks: label -> value of a dashed vertical line, such as the run's own value.
    """
    figure, axes = new_figure(1, 1, 4.6)
    axis, parameter = axes[0, 0], sweeps[0]["parameter"]
    series = {sweep["method"]: (sweep["values"], 100 * np.array(sweep["miou"])) for sweep in sweeps}
    draw_curves(axis, series, parameter, "mIoU in %")
    axis.set_title(title, pad=28 if marks else None)
    for value in sorted(set((marks or {}).values())):
        label = " = ".join(name for name, place in marks.items() if place == value)
        axis.axvline(value, color="0.25", linestyle="--", linewidth=1.8)
        axis.annotate(label, (value, 1.02), xycoords=("data", "axes fraction"), ha="center", fontsize=13)
    if parameter == "alpha":
        axis.set_xscale("log", base=2)
        ticks = sorted({value for sweep in sweeps for value in sweep["values"]})
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    return figure


def story_panels(experiment: Any, image_id: str, model: str) -> list[Panel]:
    """Walk one training scene through all stages: image, CAM, smoothed CAM, pseudo-mask, prediction, exact mask.

    Args:
        experiment: a `pmm.run.experiment.Experiment` whose stages are finished.
        image_id: of a training image.
        model: name of a trained segmenter.
    """
    p, data, (_, cam) = experiment.params, experiment.data, experiment.cam(image_id)
    image = data.image(image_id)
    return [
        ("image, with\nits labels", image),
        ("CAM,\nall classes", cam.max(axis=0)),
        (f"smoothed,\ns = {p.s:g}", smooth_cam(cam, p.s, p.t, p.variant).max(axis=0)),
        ("pseudo-mask,\nPPMG", experiment.pseudo_mask("ppmg", image_id)),
        ("segmentation\nmodel", experiment.predict(model, image_id)),
        *((f"{title},\nto compare", mask) for title, mask in exact_panel(data, image_id)),
    ]
