"""What the explorer looks at: a training image of the run, chosen by its thumbnail, or a photograph of one's own."""

from __future__ import annotations

import base64
import html
import tempfile
import uuid
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import ipywidgets as widgets
import numpy as np
import torch
from PIL import Image
from torch import nn

from pmm.data.cams import load_cams
from pmm.data.images import class_palette, read_image
from pmm.errors import InputError
from pmm.explore import drawing
from pmm.figures.style import spaced
from pmm.method import IGNORE_INDEX
from pmm.method.cam import check_cam, check_class_ids, check_image
from pmm.method.crf import CRFSettings, DenseCRF
from pmm.networks.inference import multi_scale_cam, scaled_batch
from pmm.networks.models import EMBEDDED_BACKBONE, CamClassifier, embedded_imagenet_state, image_statistics
from pmm.run.experiment import Experiment

KEPT = 6  # results of each kind that a scene remembers; the oldest goes first
LONGEST_SIDE, SHORTEST_SIDE = 500, 32  # larger photographs are made smaller, to VOC's size; smaller ones are refused
CANDIDATES = 5  # classes of a photograph to choose from: those with the highest scores
THUMBNAIL = (112, 84)
CHOOSE = "The CAM comes from ImageNet's classes of the embedded network: choose one or more."
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class ExplorerScene:
    """A training image or a photograph, ready for every view.

    Raises:
        InputError: image, CAM, ids and ground truth do not fit each other.
    """

    id: str
    image: np.ndarray  # (H, W, 3) uint8 RGB
    cam: np.ndarray  # (C, H, W) float32 in [0, 1], normalised
    class_ids: tuple[int, ...]  # (C,) mask values of the channels
    names: tuple[str, ...]  # (C,) names of the channels, as prose writes them
    truth: np.ndarray | None = None  # (H, W) uint8 ground truth with IGNORE_INDEX where unknown; None without
    note: str = ""  # what a reader must know of it, such as that it was made smaller
    class_names: tuple[str, ...] = ()  # of the data set, which decide the colours
    _memory: dict[str, OrderedDict] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        size = check_image(self.image).shape[:2]
        check_class_ids(self.class_ids, len(check_cam(self.cam)))
        if self.cam.shape[1:] != size:
            raise InputError(f"{self.id}: its CAM has the size {self.cam.shape[1:]}, the image {size}; make it anew")
        if self.truth is not None and self.truth.shape != size:
            raise InputError(f"{self.id}: its ground truth has the size {self.truth.shape}, the image {size}")

    def channel(self, class_id: int) -> int:
        """Return the CAM channel of a class; InputError if it is not in this image."""
        if class_id not in self.class_ids:
            there = ", ".join(f"{i} ({name})" for name, i in self.menu) or "none"
            raise InputError(f"class {class_id}: not in {self.id}; the classes there are {there}")
        return self.class_ids.index(class_id)

    @property
    def menu(self) -> list[tuple[str, int]]:
        """Names and mask values of the classes, as a menu takes them."""
        return list(zip(self.names, self.class_ids, strict=True))

    @property
    def labels(self) -> dict[int, str]:
        """Mask value -> name of the background and of the classes."""
        return {0: "background", **{i: name for name, i in self.menu}}

    def colour(self, value: int) -> drawing.RGB:
        """Return the colour of a mask value."""
        return tuple(class_palette(self.class_names)[value].tolist())

    def legend(self) -> dict[str, drawing.RGB]:
        """Return name -> colour of everything that a mask of this scene may show."""
        unknown = self.truth is not None and (self.truth == IGNORE_INDEX).any()
        labels = {**self.labels, IGNORE_INDEX: "not evaluated"} if unknown else self.labels
        return {name: self.colour(value) for value, name in labels.items()}

    def small_image(self) -> np.ndarray:
        """Return the image (h, w, 3) at the size at which the views show it."""
        return self.remember("small", "image", lambda: drawing.shrink(self.image))

    def small_mask(self, mask: np.ndarray) -> np.ndarray:
        """Return a mask (H, W) uint8 over the image, (h, w, 3)."""
        small = drawing.shrink(mask, smooth=False)
        return drawing.class_overlay(self.small_image(), small, class_palette(self.class_names))

    def small_truth(self, instead: str) -> np.ndarray:
        """Return the ground truth over the image (h, w, 3), or a cell that says what is to be said without one."""
        if self.truth is None:
            return drawing.message(instead)
        return self.remember("small", "truth", lambda: self.small_mask(self.truth))

    def class_heat(self, values: np.ndarray, class_id: int | None) -> np.ndarray:
        """Return a map (H, W) in [0, 1] over the image, (h, w, 3), with the name of its class if it has one."""
        picture = drawing.heat(drawing.shrink(values), image=self.small_image())
        if class_id is None:
            return picture
        return drawing.name_tag(picture, self.labels[class_id], self.colour(class_id))

    def crf(self, settings: CRFSettings) -> DenseCRF:
        """Return the dense CRF of this image; its lattices stay while sliders move."""
        return self.remember("crf", settings, lambda: DenseCRF(self.image, settings))

    def remember(self, kind: str, key: Hashable, make: Callable[[], T], kept: int = KEPT) -> T:
        """Return what `make` gave for this key; the last few keys of each kind are kept."""
        known = self._memory.setdefault(kind, OrderedDict())
        if key not in known:
            known[key] = make()
            while len(known) > kept:
                known.popitem(last=False)
        known.move_to_end(key)
        return known[key]

    def only(self, class_ids: Sequence[int]) -> ExplorerScene:
        """Return this scene with some of its classes; errors as `channel`."""
        channels = [self.channel(i) for i in class_ids]
        names = tuple(self.names[c] for c in channels)
        return replace(self, cam=self.cam[channels], class_ids=tuple(class_ids), names=names, _memory={})


def load_scene(experiment: Experiment, image_id: str) -> ExplorerScene:
    """Read one training image of a run, with the CAM that the run made; the explorer never trains.

    Raises:
        InputError: the run has no CAMs, names the command that makes them; or no such image.
    """
    cams, data = experiment.run.recorded("cams"), experiment.data
    if cams is None:
        raise InputError(
            f"{experiment.run.path}: no CAMs here; make them first: make demo, "
            "or pmm run PARAMS.yaml --only 01 --only 02"
        )
    class_ids, cam = load_cams(cams.folder / f"{image_id}.npz")
    names = tuple(spaced(data.class_names[i]) for i in class_ids)
    truth = data.mask(image_id) if data.has_mask(image_id) else None
    shown = {"truth": truth, "class_names": data.class_names}
    return ExplorerScene(image_id, data.image(image_id), cam, tuple(class_ids.tolist()), names, **shown)


def gallery_ids(experiment: Experiment, count: int = 8) -> list[str]:
    """Choose at most `count` training images for the thumbnails.

    They are spread over the run; those with ground truth come first, then those of about two classes.
    """
    data, ids = experiment.data, experiment.train_ids
    places = np.linspace(0, len(ids) - 1, min(len(ids), 10 * count)).round().astype(int)
    spread = dict.fromkeys(ids[place] for place in places)
    return sorted(spread, key=lambda i: (not data.has_mask(i), abs(len(data.labels(i)) - 2)))[:count]


def read_upload(content: bytes, name: str) -> tuple[np.ndarray, str]:
    """Decode an uploaded file: upright as its EXIF tag says, transparency on white, at most 500 pixels long.

    Args:
        content: the file's bytes.
        name: the file's name, for messages.

    Returns:
        (H, W, 3) uint8 RGB and a note, empty where nothing had to be changed.

    Raises:
        InputError: it is no image, or too small to look at.
    """
    pixels = _decode(content, name or "upload")
    size = pixels.shape[1::-1]
    scale = min(1.0, LONGEST_SIDE / max(size))
    smaller = tuple(round(side * scale) for side in size)
    found, made = ("{} x {}".format(*sides) for sides in (size, smaller))
    if min(size) < SHORTEST_SIDE:
        raise InputError(f"{name}: found {found} pixels; give at least {SHORTEST_SIDE} on the shorter side")
    if min(smaller) < SHORTEST_SIDE:
        raise InputError(f"{name}: {found} pixels are too long and thin; cut the picture first")
    if scale == 1:
        return pixels, ""
    picture = Image.fromarray(pixels).resize(smaller, Image.Resampling.LANCZOS, reducing_gap=3.0)
    return np.asarray(picture), f"{name}: made smaller, from {found} to {made} pixels"


def _decode(content: bytes, name: str) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a large photograph is welcome, it is made smaller
        path = Path(folder) / "upload"
        path.write_bytes(content)
        try:
            return read_image(path)
        except InputError as error:
            raise InputError(f"{str(error).replace(str(path), name)}; give a JPEG, PNG or WebP file") from None


def load_photograph(content: bytes, name: str, first_id: int = 1) -> ExplorerScene:
    """Turn an uploaded photograph into a scene whose CAM comes from ImageNet's classes.

    The embedded EfficientNet-Lite0 names the five likeliest of its 1000 classes; its last layer, laid over the
    feature map as a 1x1 convolution, is their CAM. `ExplorerScene.only` picks among them.

    Args:
        content, name: as in `read_upload`.
        first_id: mask value of the likeliest class; one that no class of the run has, for a colour of its own.

    Returns:
        A scene without ground truth; its classes are ordered by score.

    Raises:
        InputError: the file is no usable image.
        MissingDependency: the embedded weights are not installed.
    """
    from timm.data import ImageNetInfo

    image, note = read_upload(content, name)
    ranked = _likeliest(image)
    options = {"scales": (0.5, 1.0, 1.5), "flip": True, "statistics": image_statistics(EMBEDDED_BACKBONE)}
    cam = multi_scale_cam(_imagenet_classifier()[0], image, [index + 1 for index in ranked], **options)
    names = tuple(ImageNetInfo().index_to_description(i).split(",")[0] for i in ranked)
    return ExplorerScene(name, image, cam, tuple(range(first_id, first_id + len(ranked))), names, note=note)


@cache
def _imagenet_classifier() -> tuple[CamClassifier, torch.Tensor]:
    """Return the embedded network with its 1000-way classifier as a 1x1 convolution, and the classifier's bias."""
    state = embedded_imagenet_state()
    model = CamClassifier(EMBEDDED_BACKBONE, len(state["classifier.bias"]))
    model.backbone.load_state_dict({k: v for k, v in state.items() if not k.startswith("classifier.")})
    model.head.weight = nn.Parameter(state["classifier.weight"][:, :, None, None])
    return model.eval(), state["classifier.bias"]


@torch.inference_mode()
def _likeliest(image: np.ndarray) -> list[int]:
    """Return the indices of the five classes with the highest scores, at the scale of ImageNet's training."""
    model, bias = _imagenet_classifier()
    picture = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]
    scale = min(1.0, 240 / min(image.shape[:2]))
    batch = scaled_batch(picture, scale, True, image_statistics(EMBEDDED_BACKBONE), torch.device("cpu"))
    return (model(batch).mean(0) + bias).topk(CANDIDATES).indices.tolist()


class Source(NamedTuple):
    """What is looked at: a training image, or some classes of an uploaded photograph."""

    read: Callable[[], ExplorerScene]  # reads image or photograph, once
    chosen: tuple[int, ...] | None = None  # classes of the photograph, () for the likeliest; None: a training image


class ScenePicker:
    """Thumbnails, upload, and the classes found in an uploaded photograph.

    Args:
        experiment: the run.
        changed: called without arguments when something else is to be looked at.
        upload: offer the upload.
    """

    def __init__(self, experiment: Experiment, changed: Callable[[], None], upload: bool = True):
        self.experiment, self._changed = experiment, changed
        self._load = cache(partial(load_scene, experiment))
        self._offered: ExplorerScene | None = None
        self.scenes, style = self._gallery()
        self.upload = widgets.FileUpload(accept="image/*", multiple=False, description="Your own photograph")
        self.upload.layout.width = "220px"
        self.found = widgets.SelectMultiple(rows=5, description="classes found", style={"description_width": "118px"})
        self.found.layout.display = "none"
        self.note = widgets.HTML()
        self.scenes.observe(self._pick_scene, "value")
        self.upload.observe(self._take_upload, "value")
        self.found.observe(self._pick_classes, "value")
        own = [widgets.HBox([self.upload, self.found, self.note])] if upload else []
        self.widget = widgets.VBox([style, self.scenes, *own])
        self.source = Source(partial(self._load, self.scenes.value))

    def scene(self, source: Source) -> ExplorerScene:
        """Return what is looked at, say what is to be known of it, and offer the classes of a photograph.

        Raises:
            InputError: the image has no CAM, or the upload is no image.
        """
        whole, uploaded = source.read(), source.chosen is not None
        self.found.layout.display = "" if uploaded else "none"
        self.note.value = html.escape(f"{CHOOSE} {whole.note}".strip()) if uploaded else ""
        if not uploaded:
            return whole
        if self._offered is not whole:
            self._offered = whole
            self.found.unobserve(self._pick_classes, "value")
            self.found.options, self.found.value = whole.menu, whole.class_ids[:1]
            self.found.observe(self._pick_classes, "value")
        ids = source.chosen or whole.class_ids[:1]
        return whole.remember("only", ids, lambda: whole.only(ids))

    def look_at_upload(self, content: bytes, name: str) -> None:
        """Look at a photograph of one's own from now on."""
        self.scenes.value = None
        first_id = len(self.experiment.data.class_names)
        self._look_at(cache(partial(load_photograph, content, name, first_id)), ())

    def _look_at(self, read: Callable[[], ExplorerScene], chosen: tuple[int, ...] | None = None) -> None:
        self.source = Source(read, chosen)
        self._changed()

    def _pick_scene(self, change: dict) -> None:
        if change["new"] is not None:
            self._look_at(partial(self._load, change["new"]))

    def _pick_classes(self, change: dict) -> None:
        if self.source.chosen is not None and change["new"]:
            self._look_at(self.source.read, tuple(change["new"]))

    def _take_upload(self, change: dict) -> None:
        for file in change["new"]:
            self.look_at_upload(bytes(file["content"]), file["name"])

    def _gallery(self) -> tuple[widgets.ToggleButtons, widgets.HTML]:
        """Return the buttons, and the style sheet that puts the thumbnails on them."""
        ids, data = gallery_ids(self.experiment), self.experiment.data
        tips = [f"{i}: {', '.join(spaced(data.class_names[c]) for c in data.labels(i))}" for i in ids]
        buttons = widgets.ToggleButtons(options=list(zip(tips, ids, strict=True)), value=ids[0], tooltips=tips)
        mark = f"pmm-gallery-{uuid.uuid4().hex[:8]}"
        buttons.add_class("pmm-gallery").add_class(mark)
        rules = ""
        for number, i in enumerate(ids, start=1):
            jpeg = base64.b64encode(drawing.encoded(drawing.in_cell(data.image(i), THUMBNAIL), "JPEG")).decode("ascii")
            button = f".{mark} .widget-toggle-button:nth-of-type({number})"
            rules += f"{button} {{background-image: url(data:image/jpeg;base64,{jpeg})}}"
        return buttons, widgets.HTML(f"<style>{STYLE}{rules}</style>")


STYLE = f"""
.pmm-gallery .widget-toggle-button {{width: {THUMBNAIL[0]}px; height: {THUMBNAIL[1]}px; padding: 0;
 background-size: cover; color: transparent; text-shadow: none; border: 3px solid transparent; overflow: hidden;}}
.pmm-gallery .widget-toggle-button.mod-active {{border-color: #0072B2; color: transparent;}}
.pmm-gallery .widget-toggle-button:hover {{color: transparent;}}
.pmm-gallery .widget-toggle-button:focus-visible {{outline: 3px solid #D55E00;}}
"""
