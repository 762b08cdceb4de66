"""One thing to move in each of the notebooks 01, 02 and 06: the border of a mask, the scales of a CAM, the round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import ipywidgets as widgets
import numpy as np

from pmm.data import SegmentationData
from pmm.data.images import class_palette
from pmm.explore import drawing
from pmm.explore.app import STYLE, PictureAndWords, menu, slider
from pmm.explore.drawing import BLUE, GREY, VERMILION, Chart, View
from pmm.explore.picker import ExplorerScene, load_scene
from pmm.figures.masks import MARK_RGB, disagreement
from pmm.figures.style import figure_html, spaced
from pmm.method import IGNORE_INDEX
from pmm.method.metrics import confusion_matrix, iou_per_class
from pmm.networks.inference import multi_scale_cam
from pmm.run.experiment import Experiment

FARTHEST = 12  # pixels that a border moves, inward and outward
SCALES = (0.5, 1.0, 1.5, 2.0)  # offered beside those of the run
COVERED = 0.5  # activation above which a pixel counts as covered, as in notebook 03
MISSED_RGB, SKY, DARK = BLUE, (86, 180, 233), (60, 60, 60)


class SmallView(widgets.VBox):
    """Some controls above one picture, which is drawn at once when one of them changes.

    Args:
        controls: name -> slider, menu or checkbox.
        draw: makes a view from the values of the controls, by their names.
        rows: of the view's picture, 1 or 2.
    """

    def __init__(self, controls: dict[str, widgets.Widget], draw: Callable[[dict[str, Any]], View], rows: int = 2):
        self.controls, self._draw, self._shown = controls, draw, PictureAndWords(rows)
        row = widgets.Box(list(controls.values()), layout=widgets.Layout(flex_flow="row wrap"))
        style = widgets.HTML(f"<style>{STYLE}</style>")
        super().__init__([style, row, self._shown.picture, self._shown.words])
        self._redraw()
        for control in controls.values():
            control.observe(self._redraw, "value")

    def _redraw(self, *_: Any) -> None:
        self.view = self._draw({name: control.value for name, control in self.controls.items()})
        self._shown.show(self.view)

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """Add the picture as HTML, for pages without a kernel."""
        bundle = dict(super()._repr_mimebundle_(**kwargs) or {})
        words = "; ".join(self.view.text)
        note = f"{words[0].upper()}{words[1:]}. Without a kernel this is a picture; in JupyterLab it can be moved."
        bundle["text/html"] = figure_html(drawing.encoded(self.view.picture, "PNG"), note, self.view.alt)
        bundle["text/plain"] = f"[explorer] {self.view.alt}"
        return bundle


def _iou(scene: ExplorerScene, mask: np.ndarray) -> dict[str, float]:
    """Return the IoU of the background and of each class of a scene with ground truth, by name."""
    each = iou_per_class(confusion_matrix(scene.truth, mask, IGNORE_INDEX))[list(scene.labels)]
    return dict(zip(scene.labels.values(), each.tolist(), strict=True))


def _iou_bars(scene: ExplorerScene, iou: dict[str, float], before: dict[str, float] | None = None) -> np.ndarray:
    """Draw IoU and its mean; with `before`, the change in points."""
    shares = {"mean": float(np.nanmean([*iou.values()])), **iou}
    then = {"mean": float(np.nanmean([*before.values()])), **before} if before else shares
    notes = [f"{100 * (value - then[name]):+.1f}" if before else "" for name, value in shares.items()]
    return drawing.share_bars(shares, [DARK, *map(scene.colour, scene.labels)], notes)


# --- notebook 01: what a border that is a little off costs


def moved_border(mask: np.ndarray, pixels: int) -> np.ndarray:
    """Move the borders of all objects of a mask outward or, with `pixels` < 0, inward.

    Args:
        mask: (H, W) uint8; IGNORE_INDEX first takes the labels around it, half from each side.
        pixels: steps of one pixel up, down, left or right; the image's own edge is no border.

    Returns:
        (H, W) uint8 without IGNORE_INDEX, 0 where nothing is known; where two objects meet, the higher value stays.
    """
    moved, unknown = mask, mask == IGNORE_INDEX
    while unknown.any():
        around = _around(moved)
        known = np.where(around == IGNORE_INDEX, -1, around.astype(np.int16)).max(axis=0)
        if not (reached := unknown & (known >= 0)).any():  # nothing but IGNORE_INDEX
            return np.zeros_like(mask)
        moved, unknown = np.where(reached, known, moved).astype(np.uint8), unknown & ~reached
    for _ in range(abs(pixels)):
        around = _around(moved)
        grown = np.where(moved == 0, around.max(axis=0), moved)
        moved = grown if pixels > 0 else np.where((around == 0).any(axis=0), 0, moved)
    return moved


def _around(mask: np.ndarray) -> np.ndarray:
    """Return the four neighbours of each pixel, (4, H, W); beyond the edge it is its own."""
    padded = np.pad(mask, 1, mode="edge")
    return np.stack([padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]])


def border_view(scene: ExplorerScene, pixels: int) -> View:
    """Draw the ground truth with its borders moved, its errors, and IoU over the movement."""
    moved, evaluated = moved_border(scene.truth, pixels), scene.truth != IGNORE_INDEX
    wrong = evaluated & (moved != scene.truth)
    errors = drawing.paint(
        drawing.pale(scene.small_image()),
        (drawing.shrink(wrong & (moved > 0)), MARK_RGB),
        (drawing.shrink(wrong & (moved == 0)), MISSED_RGB),
        (drawing.shrink(~evaluated), drawing.PAPER),
    )
    iou = _iou(scene, moved)
    accuracy = 1 - wrong.sum() / max(evaluated.sum(), 1)
    maps = [
        ("photograph", scene.small_image()),
        ("ground truth, white: 255", scene.small_truth("")),
        (f"prediction: border {pixels:+d} px", scene.small_mask(moved)),
        ("orange: too much, blue: missed", errors),
    ]
    charts = [("IoU while the border moves", _border_chart(scene, pixels)), ("IoU now", _iou_bars(scene, iou))]
    mean = np.nanmean([*iou.values()])
    text = (
        f"border moved by {pixels:+d} pixels: pixel accuracy {accuracy:.1%}, mean IoU {mean:.1%}",
        ", ".join(f"{name} {value:.1%}" for name, value in iou.items()),
    )
    alt = f"{scene.id}: the ground truth as a prediction whose borders are moved. {'. '.join(text)}."
    return View(drawing.grid([maps, charts], scene.legend()), text, alt, {"iou": iou, "accuracy": accuracy})


def _border_chart(scene: ExplorerScene, pixels: int) -> np.ndarray:
    """Draw the IoU of each class over the movement; the curves are made once a scene."""
    steps = range(-FARTHEST, FARTHEST + 1)
    curves = scene.remember("curves", "border", lambda: [_iou(scene, moved_border(scene.truth, n)) for n in steps])
    labels = ("border, pixels (inward < 0 < outward)", "IoU")
    ticks = (steps[0], -6, -2, 0, 2, 6, steps[-1])
    chart = Chart((steps[0], steps[-1]), (0, 1), *labels, ticks, (0, 0.5, 1), percent=True, size=drawing.HALF)
    for value, name in scene.labels.items():
        chart.curve(steps, [iou[name] for iou in curves], scene.colour(value) if value else GREY)
        chart.dot(pixels, curves[pixels + FARTHEST][name], scene.colour(value) if value else GREY)
    return chart.mark(pixels, colour=GREY).key(("lines: class colours, grey: background", GREY)).picture()


def explore_border(data: SegmentationData, image_ids: Sequence[str]) -> SmallView:
    """Return a slider that moves the borders of the ground truth, notebook 01; the images must have one."""

    @cache
    def scene(image_id: str) -> ExplorerScene:
        """Read an image; there is no CAM yet, so its place is empty."""
        ids, image, truth = tuple(data.labels(image_id)), data.image(image_id), data.mask(image_id)
        names = tuple(spaced(data.class_names[i]) for i in ids)
        nothing = np.zeros((len(ids), *truth.shape), np.float32)
        return ExplorerScene(image_id, image, nothing, ids, names, truth, class_names=data.class_names)

    controls = {
        "image": menu("image", image_ids, image_ids[0]),
        "pixels": slider("border, pixels", 3, -FARTHEST, FARTHEST, 1),
    }
    return SmallView(controls, lambda values: border_view(scene(values["image"]), values["pixels"]))


# --- notebook 02: the scales of a CAM


def scales_view(scene: ExplorerScene, class_id: int, now: tuple[str, np.ndarray], run: tuple[str, np.ndarray]) -> View:
    """Draw two CAMs of one class and what the first covers, in points against the second.

    Args:
        scene: the image.
        class_id: one of its classes.
        now, run: scales in words and CAM (H, W) float32 in [0, 1], of what is ticked and of the run.
    """
    name, text, covered = scene.labels[class_id], [], []
    cells = [("photograph", scene.small_image())]
    parts = {"of the image": np.ones(scene.image.shape[:2], bool)}
    if scene.truth is not None:
        parts = {f"of the {name}": scene.truth == class_id, "of all else": scene.truth != class_id}
    outline = drawing.border(drawing.shrink(next(iter(parts.values()))))
    for title, heat in (now, run):
        cells.append((title, drawing.paint(scene.class_heat(drawing.shrink(heat), class_id), (outline, SKY))))
        covered.append({what: float((heat[inside] > COVERED).mean()) for what, inside in parts.items() if inside.any()})
        shares = " and ".join(f"{share:.1%} {what}" for what, share in covered[-1].items())
        text.append(f"{title}: above {COVERED:g} lie {shares}")
    notes = [f"{100 * (share - covered[1][what]):+.1f}" for what, share in covered[0].items()]
    bars = drawing.share_bars(covered[0], [VERMILION, GREY][: len(notes)], notes)
    cells.append((f"share above {COVERED:g} (points)", bars))
    alt = f"Activation maps of {name} in {scene.id}. {'. '.join(text)}."
    return View(drawing.grid([cells], {f"outline: {name}": SKY}), tuple(text), alt, {"covered": covered})


def explore_scales(experiment: Experiment, image_ids: Sequence[str]) -> SmallView:
    """Return boxes to tick for the scales of a CAM and for the mirror images, notebook 02; the run must have CAMs."""
    p, model, load = experiment.params, experiment.load_classifier(), cache(partial(load_scene, experiment))
    scenes = [load(i) for i in image_ids]
    choices = [(f"{x.id}: {name}", (x.id, class_id)) for x in scenes for name, class_id in x.menu]
    offered = {f"scale {scale:g}": scale for scale in sorted({*SCALES, *p.cam_scales})}
    controls = {"image": menu("image: class", choices, choices[0][1])}
    controls |= {name: widgets.Checkbox(scale == 1, description=name, indent=False) for name, scale in offered.items()}
    controls["flip"] = widgets.Checkbox(False, description="mirror images, too", indent=False)
    for name in [*offered, "flip"]:
        controls[name].layout.width = "150px"

    def draw(values: dict[str, Any]) -> View:
        """Compute the CAM of what is ticked, once."""
        scene, class_id = load(values["image"][0]), values["image"][1]
        chosen = tuple(scale for name, scale in offered.items() if values[name])
        if not chosen:
            empty = drawing.message("tick at least one scale", drawing.WHOLE)
            return View(drawing.grid([[("", empty)]]), ("no scale is ticked",), "No scale is ticked.")
        options = {"flip": values["flip"], "statistics": experiment.statistics}
        make = partial(multi_scale_cam, model, scene.image, scene.class_ids, scales=chosen, **options)
        cam = scene.remember("cam", (chosen, values["flip"]), make, kept=2 ** (len(offered) + 1))
        now = _scales_in_words("ticked", chosen, values["flip"]), cam[scene.channel(class_id)]
        run = _scales_in_words("this run", p.cam_scales, p.cam_flip), scene.cam[scene.channel(class_id)]
        return scales_view(scene, class_id, now, run)

    return SmallView(controls, draw, rows=1)


def _scales_in_words(whose: str, scales: Sequence[float], flip: bool) -> str:
    """Return "ticked: 0.5, 1, mirrored"."""
    return ", ".join([f"{whose}: {scales[0]:g}", *(f"{scale:g}" for scale in scales[1:]), *["mirrored"] * flip])


# --- notebook 06: the rounds


def round_view(scene: ExplorerScene, learned: np.ndarray, free: np.ndarray, filtered: np.ndarray, use: bool) -> View:
    """Draw the mask that a model learned from, its prediction, and what the filter does.

    Args:
        scene: the training image.
        learned: (H, W) uint8, the mask that the model learned from.
        free, filtered: (H, W) uint8, its prediction without and with the filter.
        use: whether the filtered one is the prediction that is looked at.
    """
    now = filtered if use else free
    touched, changed = disagreement(free, filtered), disagreement(learned, now)
    pale = drawing.pale(scene.small_image())
    maps = [
        ("photograph", scene.small_image()),
        ("the mask it learned from", scene.small_mask(learned)),
        (f"its prediction, {'filtered' if use else 'not filtered'}", scene.small_mask(now)),
        ("ground truth", scene.small_truth("no ground truth")),
    ]
    charts = [
        ("orange: what the filter changes", drawing.paint(pale, (drawing.shrink(touched), MARK_RGB))),
        ("orange: other than it learned", drawing.paint(pale, (drawing.shrink(changed), MARK_RGB))),
    ]
    text = [f"the filter changes {touched.mean():.1%} of the pixels; other than learned: {changed.mean():.1%}"]
    if scene.truth is not None:
        before, after = _iou(scene, learned), _iou(scene, now)
        charts += [
            ("IoU of the mask it learned from", _iou_bars(scene, before)),
            ("IoU of the prediction (points)", _iou_bars(scene, after, before)),
        ]
        means = [np.nanmean([*iou.values()]) for iou in (before, after)]
        text.append(f"mean IoU {means[0]:.1%} of what it learned from, {means[1]:.1%} of its prediction")
    names, colours = scene.class_names, class_palette(scene.class_names)
    values = sorted({0, *np.unique(learned).tolist(), *np.unique(now).tolist()} - {IGNORE_INDEX})
    legend = {spaced(names[value]): tuple(colours[value].tolist()) for value in values}
    alt = f"Masks of {scene.id}: learned from and predicted. {'. '.join(text)}."
    return View(drawing.grid([maps, charts], legend), tuple(text), alt)


def explore_rounds(experiment: Experiment, image_ids: Sequence[str]) -> SmallView:
    """Return menus for image and round, and the filter as a box to tick, notebook 06; its models must be trained."""
    p, load = experiment.params, cache(partial(load_scene, experiment))
    models = {0: ("pus", p.seg_masks)} | {k: (f"round{k}", f"cyclic{k}") for k in range(1, p.cyclic_rounds + 1)}
    controls = {
        "image": menu("image", image_ids, image_ids[0]),
        "round": menu("model of round", models, 0),
        "filter": widgets.Checkbox(p.cyclic_filter, description="only classes of the image's label", indent=False),
    }

    def draw(values: dict[str, Any]) -> View:
        """Predict, once for each round."""
        scene, (model, masks) = load(values["image"]), models[values["round"]]
        both = [
            scene.remember("masks", (model, use), partial(experiment.cyclic_mask, model, scene.id, use), kept=64)
            for use in (False, True)
        ]
        return round_view(scene, experiment.pseudo_mask(masks, scene.id), *both, values["filter"])

    return SmallView(controls, draw)
