"""What the explorer looks at: a training image of the run, chosen by its thumbnail, or a photograph of one's own."""

from __future__ import annotations

import base64
import tempfile
import uuid
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import combinations
from pathlib import Path
from typing import NamedTuple, TypeVar

import ipywidgets as widgets
import numpy as np
import torch
from PIL import Image
from torch import nn

from pmm.data import SegmentationData
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
THUMBNAIL = (72, 54)
ALIKE = 105  # two class colours nearer than this, as a distance in RGB, are no good first example
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

    def small_image(self, cell: tuple[int, int] = drawing.CELL) -> np.ndarray:
        """Return the image (h, w, 3) at the size at which the views show it."""
        return self.remember("small", ("image", cell), lambda: drawing.shrink(self.image, cell))

    def small_mask(self, mask: np.ndarray, cell: tuple[int, int] = drawing.CELL) -> np.ndarray:
        """Return a mask (H, W) uint8 over the image, (h, w, 3)."""
        small = drawing.shrink(mask, cell, smooth=False)
        return drawing.class_overlay(self.small_image(cell), small, class_palette(self.class_names))

    def small_truth(self, instead: str, cell: tuple[int, int] = drawing.CELL) -> np.ndarray:
        """Return the ground truth over the image (h, w, 3), or a cell that says what is to be said without one."""
        if self.truth is None:
            return drawing.message(instead, cell)
        return self.remember("small", ("truth", cell), lambda: self.small_mask(self.truth, cell))

    def class_heat(
        self, values: np.ndarray, class_id: int | None, top: float = 1.0, cell: tuple[int, int] = drawing.CELL
    ) -> np.ndarray:
        """Return a map (H, W) in [0, top] over the image, (h, w, 3), with the name of its class if it has one."""
        picture = drawing.heat(drawing.shrink(values, cell), top, self.small_image(cell))
        if class_id is None:
            return picture
        return drawing.name_tag(picture, self.labels[class_id], self.colour(class_id))

    def mask_png(self, mask: np.ndarray) -> bytes:
        """Return a mask (H, W) uint8 as an index PNG in this scene's colours."""
        return drawing.encoded(mask, "PNG", class_palette(self.class_names))

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

    They are spread over the run; those with ground truth come first, then those of about two classes, then those
    whose classes have colours that nobody mixes up.
    """
    data = experiment.data

    def order(image_id: str) -> tuple[bool, int, bool]:
        """Return what sorts the better ones first."""
        alike = nearest_colours(data, image_id) < ALIKE
        return not data.has_mask(image_id), abs(len(data.labels(image_id)) - 2), alike

    return sorted(spread_ids(experiment, 30 * count), key=order)[:count]


def spread_ids(experiment: Experiment, most: int) -> list[str]:
    """Return at most so many training images, spread over the run, in its order."""
    ids = experiment.train_ids
    return [ids[k] for k in np.linspace(0, len(ids) - 1, min(len(ids), most)).round().astype(int)]


def nearest_colours(data: SegmentationData, image_id: str) -> float:
    """Return how far apart in RGB the two most similar class colours of an image are; infinite for a single class."""
    colours = class_palette(data.class_names)[list(data.labels(image_id))].astype(float)
    return min((float(np.linalg.norm(a - b)) for a, b in combinations(colours, 2)), default=np.inf)


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


class _OnePhotograph(nn.Module):
    """A classifier for one photograph: it remembers its maps of every size, so that another class costs no pass."""

    def __init__(self, model: CamClassifier):
        super().__init__()
        self.model, self._known = model, {}

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (N,3,H,W) to class maps (N,1000,h,w)."""
        if images.shape not in self._known:
            self._known[images.shape] = self.model.maps(images)
        return self._known[images.shape]


class Photograph:
    """A photograph of one's own, with a CAM of each of ImageNet's 1000 classes that is asked for.

    The embedded EfficientNet-Lite0 scores the classes; its last layer, laid over the feature map as a 1x1
    convolution, is their CAM. The network sees the photograph once.

    Args:
        content, name: as in `read_upload`.
        first_id: mask value of the first class that is chosen; one that no class of the run has. Each class keeps
            its value, and so its colour.

    Raises:
        InputError: the file is no usable image.
        MissingDependency: the embedded weights are not installed.
    """

    def __init__(self, content: bytes, name: str, first_id: int = 1):
        self.image, self.note = read_upload(content, name)
        self.name, self._first_id = name, first_id
        model, bias = _imagenet_classifier()
        self._model = _OnePhotograph(model)
        self._cams: dict[int, np.ndarray] = {}  # class -> (H, W); the order is that of the mask values
        self._scenes: OrderedDict[tuple[int, ...], ExplorerScene] = OrderedDict()  # the last few, with their CRFs
        self._options = {"scales": (0.5, 1.0, 1.5), "flip": True, "statistics": image_statistics(EMBEDDED_BACKBONE)}
        logits = _scores(model, self.image) + bias
        self.shares = logits.softmax(0).tolist()  # of each class, as the network splits its belief
        self.ranked = logits.argsort(descending=True).tolist()  # classes, the likeliest first

    def scene(self, classes: Sequence[int]) -> ExplorerScene:
        """Return the scene of some of ImageNet's classes, 0 to 999; it has no ground truth."""
        for index in classes:
            if index not in self._cams:
                self._cams[index] = multi_scale_cam(self._model, self.image, [index + 1], **self._options)[0]
        if (key := tuple(classes)) not in self._scenes:
            values = {index: self._first_id + place for place, index in enumerate(self._cams)}
            ids, names = tuple(values[i] for i in key), tuple(imagenet_names()[i].split(",")[0] for i in key)
            cam = np.stack([self._cams[i] for i in key])
            self._scenes[key] = ExplorerScene(self.name, self.image, cam, ids, names, note=self.note)
            if len(self._scenes) > KEPT:
                self._scenes.popitem(last=False)
        return self._scenes[key]


@cache
def imagenet_names() -> list[str]:
    """Return the names of ImageNet's 1000 classes, several of one class behind each other with commas."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    names = [info.index_to_description(index) for index in range(1000)]
    return [name if names.count(name) == 1 else f"{name} ({index})" for index, name in enumerate(names)]


@cache
def _imagenet_classifier() -> tuple[CamClassifier, torch.Tensor]:
    """Return the embedded network with its 1000-way classifier as a 1x1 convolution, and the classifier's bias."""
    state = embedded_imagenet_state()
    model = CamClassifier(EMBEDDED_BACKBONE, len(state["classifier.bias"]))
    model.backbone.load_state_dict({k: v for k, v in state.items() if not k.startswith("classifier.")})
    model.head.weight = nn.Parameter(state["classifier.weight"][:, :, None, None])
    return model.eval(), state["classifier.bias"]


@torch.inference_mode()
def _scores(model: CamClassifier, image: np.ndarray) -> torch.Tensor:
    """Return the logits (1000,) without bias, at the scale of ImageNet's training."""
    picture = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]
    scale = min(1.0, 240 / min(image.shape[:2]))
    batch = scaled_batch(picture, scale, True, image_statistics(EMBEDDED_BACKBONE), torch.device("cpu"))
    return model(batch).mean(0)


def style_sheet(rules: str) -> widgets.HTML:
    """Return a widget that holds CSS and takes no room."""
    return widgets.HTML(f"<style>{rules}</style>", layout=widgets.Layout(display="none"))


class Source(NamedTuple):
    """What is looked at: a training image, or a photograph of one's own."""

    read: Callable[[], ExplorerScene | Photograph]  # once
    own: bool = False


class ScenePicker:
    """Thumbnails, upload, and the classes of an uploaded photograph.

    Args:
        experiment: the run.
        changed: called without arguments when something else is to be looked at.
        upload: offer the upload.
    """

    def __init__(self, experiment: Experiment, changed: Callable[[], None], upload: bool = True):
        self.experiment, self._changed = experiment, changed
        self._load = cache(partial(load_scene, experiment))
        self._offered: Photograph | None = None
        self.scenes, style = self._gallery()
        self.upload = widgets.FileUpload(accept="image/*", multiple=False, description="Your photograph")
        self.back = widgets.Button(description="Back to the scenes", layout=widgets.Layout(display="none"))
        self.buttons = [self.upload, self.back] if upload else []
        wide = widgets.Layout(width="auto")
        self.search = widgets.Combobox(placeholder="search 1000 ImageNet classes", ensure_option=True, layout=wide)
        self.found = widgets.SelectMultiple(rows=3, layout=wide)
        self.found.tooltip = "classes of the photograph; hold Ctrl to choose several"
        self.scenes.observe(self._pick_scene, "value")
        self.upload.observe(self._take_upload, "value")
        self.search.observe(self._add_class, "value")
        self.found.observe(self._pick_classes, "value")
        self.back.on_click(lambda _: setattr(self.scenes, "value", self.scenes.options[0][1]))
        self._stack = widgets.Stack(
            [self.scenes, widgets.VBox([self.search, self.found], layout=widgets.Layout(width="100%"))],
            selected_index=0,
        )
        self._stack.layout.width = f"{4 * (THUMBNAIL[0] + 2) + 2}px"
        self.widget = widgets.Box([style, self._stack])
        self.source = Source(partial(self._load, self.scenes.value))

    def scene(self, source: Source) -> ExplorerScene:
        """Return what is looked at, with the chosen classes where it is a photograph.

        Raises:
            InputError: the image has no CAM, or the upload is no image.
        """
        what = source.read()
        if not source.own:
            return what
        if self._offered is not what:
            self._offer(what)
        return what.scene(self.found.value or what.ranked[:1])

    def look_at_upload(self, content: bytes, name: str) -> None:
        """Look at a photograph of one's own from now on."""
        self.scenes.value = None
        first_id = len(self.experiment.data.class_names)
        self._look_at(Source(cache(partial(Photograph, content, name, first_id)), own=True))

    def _look_at(self, source: Source) -> None:
        self.source = source
        self._stack.selected_index = int(source.own)
        for button, hidden in ((self.back, not source.own), (self.upload, source.own)):
            button.layout.display = "none" if hidden else ""
        self._changed()

    def _offer(self, photograph: Photograph) -> None:
        """Put the likeliest classes into the list, and all into the search box, the likeliest first."""
        self._offered = None  # until all is there, a choice is of the last photograph
        names = imagenet_names()
        self.search.value, self.search.options = "", [names[i] for i in photograph.ranked]
        likeliest = photograph.ranked[:CANDIDATES]
        self.found.options = [self._entry(photograph, index) for index in likeliest]
        self.found.value = likeliest[:1]
        self._offered = photograph

    def _entry(self, photograph: Photograph, index: int) -> tuple[str, int]:
        """Return a line of the list: name and share of a class, and its number."""
        return f"{imagenet_names()[index].split(',')[0]}, {photograph.shares[index]:.1%}", index

    def _add_class(self, change: dict) -> None:
        """Look at the class that was searched, too."""
        if self._offered is None or not change["new"]:
            return
        index, chosen = imagenet_names().index(change["new"]), self.found.value
        photograph, self._offered = self._offered, None  # new options take the choice away for a moment
        self.found.options = list(dict.fromkeys([self._entry(photograph, index), *self.found.options]))
        self._offered = photograph
        self.found.value = (*(i for i in chosen if i != index), index)
        self.search.value = ""

    def _pick_classes(self, _: dict) -> None:
        if self._offered is not None:
            self._changed()

    def _pick_scene(self, change: dict) -> None:
        if change["new"] is not None:
            self._look_at(Source(partial(self._load, change["new"])))

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
        return buttons, style_sheet(STYLE + rules)


STYLE = f"""
.pmm-gallery {{height: auto;}}
.pmm-gallery .widget-toggle-buttons, .pmm-gallery.widget-toggle-buttons {{flex-wrap: wrap;}}
.pmm-gallery .widget-toggle-button {{margin: 1px; width: {THUMBNAIL[0]}px; height: {THUMBNAIL[1]}px; padding: 0;
 background-size: cover; color: transparent; text-shadow: none; border: 3px solid transparent; overflow: hidden;}}
.pmm-gallery .widget-toggle-button.mod-active {{border-color: #0072B2; color: transparent;}}
.pmm-gallery .widget-toggle-button:hover {{color: transparent;}}
.pmm-gallery .widget-toggle-button:focus-visible {{outline: 3px solid #D55E00;}}
"""
