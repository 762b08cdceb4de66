"""What the sliders of a page without a kernel work on: a few scenes of a run, packed into one JSON file.

The page computes by itself whatever is a formula of one pixel. What needs the dense CRF is solved here, for every point
of a grid over s and alpha, at which its sliders stop. `pmm.run.pages` writes the pages; their script is
`pmm/run/templates/explorer.js`.
"""

from __future__ import annotations

import base64
import io
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image

from pmm.data.images import IMAGE_SUFFIXES, class_palette
from pmm.errors import InputError
from pmm.explore import drawing
from pmm.explore.masks import MaskState, masks_view
from pmm.explore.picker import ExplorerScene, load_scene, nearest_colours, spread_ids
from pmm.explore.smoothing import SmoothingState, smoothing_view, unwarned
from pmm.explore.underfitting import CHECKPOINTS, ModelOutput, PusState, underfitting_view
from pmm.files import write_text
from pmm.method.cam import resize_maps
from pmm.method.smoothing import smooth_cam
from pmm.networks.training import EARLY
from pmm.run.experiment import Experiment
from pmm.run.folder import Stage
from pmm.run.pages import EXPLORER_DATA, EXPLORER_STAGE, explorer_inputs

SCENES = 4  # scenes of a run's page, unless told
LONGEST_SIDE = 320  # pixels; larger photographs are made smaller, so that the page stays small
STRENGTHS = tuple(round(0.05 * k, 2) for k in range(13))
ALPHAS = (0.125, 0.18, 0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 4.0, 8.0, 11.0, 24.0)  # 11 and 24 are the paper's
AT_ONCE = 64  # binary CRFs that are solved together: 8 cost little more than one, and memory stays small
QUALITY, STILL_QUALITY = 90, 75  # of a JPEG that has to be written anew, and of a view that stands still


@dataclass(frozen=True, eq=False)
class PageScene:
    """A scene as the page gets it: what stands here is, bit for bit, what the page computes with."""

    scene: ExplorerScene
    jpeg: bytes  # the photograph; decoded, it is the image that the CRF saw
    foreground: np.ndarray  # (S, A, C, H, W) bool, the binary masks X(m) at the points of the grid over s and alpha
    learned: np.ndarray | None = None  # (H, W) uint8, the pseudo-mask that the segmenter learned from
    loss: dict[str, np.ndarray] = field(default_factory=dict)  # checkpoint -> (H, W) float32 exact in float16, >= 0


def make_page(experiment: Experiment, ids: Sequence[str] | None = None) -> Stage:
    """Compute the data of a run's page, as the stage `explorer` of the run; `pmm.run.pages.write_explorer` writes it.

    Args:
        experiment: the run; nothing is trained here.
        ids: training images to show; SCENES of them unless told.

    Raises:
        InputError: the run has no CAMs, or no such image.
    """
    run, chosen = experiment.run, list(ids or page_ids(experiment))
    p = experiment.params
    wrong = [i for i in chosen if i not in experiment.train_ids]
    if wrong:
        raise InputError(f"{wrong[0]}: no training image of {run.path}; take one such as {experiment.train_ids[0]}")
    load_scene(experiment, chosen[0])  # says how CAMs are made, where there are none
    settings = p.pick("s", "t", "alpha", "variant", "cam_threshold", "crf_*", "pus", "pus_variant", "kappa", "beta")
    settings |= {"scenes": chosen, "longest_side": LONGEST_SIDE, "grid": [STRENGTHS, ALPHAS]}
    with run.stage(EXPLORER_STAGE, settings, explorer_inputs(run)) as stage:
        if not stage.reused:
            scenes = [page_scene(experiment, i) for i in chosen]
            write_text(stage.folder / EXPLORER_DATA, json.dumps(page_data(experiment, scenes), separators=(",", ":")))
    return stage


def page_ids(experiment: Experiment, count: int = SCENES) -> list[str]:
    """Choose training images spread over the run: one with three classes or more, one with one, the others with two.

    Those with ground truth come first, then those whose classes' colours are farthest apart; where a number of classes
    does not occur, others take its place.
    """
    data = experiment.data
    spread = spread_ids(experiment, 10 * count)
    spread.sort(key=lambda i: (not data.has_mask(i), -nearest_colours(data, i)))
    chosen: list[str] = []
    for wanted in (2, 3, 1, *[2] * count)[:count]:
        left = [i for i in spread if i not in chosen]
        chosen += sorted(left, key=lambda i: abs(min(len(data.labels(i)), 3) - wanted))[:1]
    return chosen


def grid(params: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the values of s and of alpha that the sliders stop at, those of the run among them."""
    return tuple(sorted({*STRENGTHS, params.s})), tuple(sorted({*ALPHAS, params.alpha}))


def page_scene(experiment: Experiment, image_id: str) -> PageScene:
    """Read a training image, make it small enough for a page, and solve the CRFs of the grid."""
    whole, run = load_scene(experiment, image_id), experiment.run
    height, width = whole.image.shape[:2]
    scale = min(1.0, LONGEST_SIDE / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    jpeg, image = _jpeg(experiment, image_id, whole.image, size)
    cam = resize_maps(whole.cam, size).astype(np.float16).astype(np.float32)
    truth = None if whole.truth is None else _labels(whole.truth, size)
    sizes = f"{width} x {height} to {size[1]} x {size[0]}"
    note = "" if scale == 1 else f"made smaller, from {sizes} pixels, before the CRF saw it"
    scene = replace(whole, image=image, cam=cam, truth=truth, note=note, _memory={})
    found = PageScene(scene, jpeg, foreground_grid(experiment, scene))
    if run.recorded("segmenter/pus") is None:
        return found
    masks = experiment.params.seg_masks
    early = (run.path / "segmenter/pus" / EARLY).exists()
    loss = {
        name: _maps(experiment.loss_map("pus", image_id, masks, early=name == "early"), size)
        for name in CHECKPOINTS
        if early or name != "early"
    }
    return replace(found, learned=_labels(experiment.pseudo_mask(masks, image_id), size), loss=loss)


def _jpeg(experiment: Experiment, image_id: str, image: np.ndarray, size: tuple[int, int]) -> tuple[bytes, np.ndarray]:
    """Return a JPEG of the image at the size and its pixels: the file itself where it is one of that size."""
    path = experiment.data.image_path(image_id)
    if image.shape[:2] == size and path.suffix.lower() in IMAGE_SUFFIXES[:2]:
        content = path.read_bytes()
        if np.array_equal(np.asarray(Image.open(io.BytesIO(content))), image):  # grey or turned pictures are not
            return content, image
    picture = Image.fromarray(image)
    if image.shape[:2] != size:
        picture = picture.resize(size[::-1], Image.Resampling.LANCZOS, reducing_gap=3.0)
    content = _encoded(picture, QUALITY)
    return content, np.asarray(Image.open(io.BytesIO(content)))


def _labels(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale a mask (H, W) uint8; each pixel keeps the label of one."""
    return np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))


def _maps(loss: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale a loss map (H, W) as `_labels`, whose pixels it belongs to; rounded to float16."""
    scaled = np.asarray(Image.fromarray(loss.astype(np.float32)).resize(size[::-1], Image.Resampling.NEAREST))
    return scaled.astype(np.float16).astype(np.float32)


def foreground_grid(experiment: Experiment, scene: ExplorerScene) -> np.ndarray:
    """Solve the binary CRFs of Algorithm 1 for all s and alpha of `grid`.

    Returns:
        (S, A, C, H, W) bool: the masks X(m) that `pmm.method.pseudo_mask.ppmg_steps` finds at each point.
    """
    p = experiment.params
    strengths, alphas = grid(p)
    with unwarned():
        smoothed = [smooth_cam(scene.cam, s, p.t, p.variant) for s in strengths]  # S times (C, H, W)
    crf, shape = scene.crf(experiment.crf_settings()), (len(strengths), len(alphas), *scene.cam.shape)
    points = list(np.ndindex(shape[:3]))  # s, alpha, class
    found = np.zeros((len(points), *shape[3:]), bool)
    for first in range(0, len(points), AT_ONCE):
        part = slice(first, first + AT_ONCE)
        front = np.stack([smoothed[i][c] for i, _, c in points[part]])
        back = np.stack([(1 - smoothed[i][c]) ** np.float32(alphas[j]) for i, j, c in points[part]])
        found[part] = crf.foreground_posterior(front, back) > 0.5
    return found.reshape(shape)


# --- packing


def page_data(experiment: Experiment, scenes: Sequence[PageScene]) -> dict[str, Any]:
    """Pack scenes and settings as the page's script reads them."""
    p, run = experiment.params, experiment.run
    strengths, alphas = grid(p)
    names, palette = experiment.data.class_names, class_palette(experiment.data.class_names)
    used = sorted({0, 255, *(i for s in scenes for i in _values(s))})
    spoken = {i: n for s in scenes for i, n in s.scene.labels.items()} | {255: "not evaluated"}
    missing = {}
    if not any(s.loss for s in scenes):
        missing["underfitting"] = "This run has no trained model (segmenter pus), so there is no loss to look at."
    elif not all("early" in s.loss for s in scenes):
        missing["early"] = "This run kept no early weights, so only the finished model is shown."
    if all(s.scene.truth is None for s in scenes):
        missing["truth"] = "These images have no ground truth, so nothing is scored."
    return {
        "run": run.path.name,
        "data": f"{experiment.data.name}, training images",
        "params": p.pick("s", "t", "alpha", "variant", "cam_threshold", "pus", "pus_variant", "kappa", "beta"),
        "grid": {"s": strengths, "alpha": alphas},
        "crf": p.pick("crf_*"),
        "heat": base64.b64encode(drawing.heat(np.arange(256)[None], 255).tobytes()).decode("ascii"),
        "classes": {
            i: {"name": spoken.get(i, names[i] if i < len(names) else str(i)), "colour": palette[i].tolist()}
            for i in used
        },
        "missing": missing,
        "scenes": [_packed_scene(s) for s in scenes],
        "still": _stills(scenes[0], p),
    }


def _values(page: PageScene) -> set[int]:
    """Return all values that the masks of a scene hold."""
    masks = [m for m in (page.scene.truth, page.learned) if m is not None]
    return {int(v) for m in masks for v in np.unique(m)} | set(page.scene.class_ids)


def _packed_scene(page: PageScene) -> dict[str, Any]:
    scene = page.scene
    return {
        "id": scene.id,
        "note": scene.note,
        "height": scene.image.shape[0],
        "width": scene.image.shape[1],
        "image": _source(page.jpeg),
        "classes": list(scene.class_ids),
        "cam": pack_maps(scene.cam),
        "foreground": pack_masks(page.foreground),
        "truth": None if scene.truth is None else pack_bytes(scene.truth),
        "learned": None if page.learned is None else pack_bytes(page.learned),
        "loss": {name: pack_maps(loss[None]) for name, loss in page.loss.items()},
    }


def pack_bytes(array: np.ndarray) -> str:
    """Return an array of bytes as text: deflate, then base64."""
    return base64.b64encode(zlib.compress(np.ascontiguousarray(array).tobytes(), 9)).decode("ascii")


def pack_maps(maps: np.ndarray) -> str:
    """Return maps (C, H, W), rounded to float16, as text.

    Neighbours are alike, so what is kept are the differences of the bit patterns, all low bytes before all high ones.
    """
    bits = maps.astype(np.float16).view(np.uint16).ravel()
    steps = np.diff(bits, prepend=np.uint16(0))  # modulo 2 ** 16
    return pack_bytes(steps.astype("<u2").view(np.uint8).reshape(-1, 2).T)


def pack_masks(masks: np.ndarray) -> str:
    """Return binary masks (S, A, C, H, W) as text: 8 pixels a byte, and of each point what differs from the one before.

    The point before is that of the next smaller alpha; for the smallest, that of the next smaller s.
    """
    bits = np.packbits(masks.reshape(*masks.shape[:3], -1), axis=-1, bitorder="little")
    steps = bits.copy()
    steps[:, 1:] ^= bits[:, :-1]
    steps[1:, 0] ^= bits[:-1, 0]
    return pack_bytes(steps)


def _stills(page: PageScene, p: Any) -> dict[str, dict[str, str]]:
    """Draw each view once, for a browser without JavaScript."""
    scene, first = page.scene, page.scene.class_ids[0] if page.scene.class_ids else 0
    views = {}
    if first:
        views["smoothing"] = smoothing_view(scene, SmoothingState(first, p.s, p.t, p.variant))
        state = MaskState(s=p.s, alpha=p.alpha, t=p.t, variant=p.variant, class_id=first)
        views["masks"] = masks_view(scene, state)
    if page.loss and page.learned is not None:
        output = ModelOutput(page.learned, page.loss["late"])
        views["underfitting"] = underfitting_view(scene, output, PusState(kappa=p.kappa, beta=p.beta))
    return {name: {"src": _source(_encoded(v.picture, STILL_QUALITY)), "alt": v.alt} for name, v in views.items()}


def _encoded(image: np.ndarray | Image.Image, quality: int) -> bytes:
    picture, buffer = image if isinstance(image, Image.Image) else Image.fromarray(image), io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _source(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode('ascii')}"
