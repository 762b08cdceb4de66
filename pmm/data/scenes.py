"""Sample scenes, the embedded data set: composed on demand and written in the VOC layout.

A scene is photographed objects laid on a photographed background. The raw material and its licence are in
`sample_scenes/`. A scene shows one to three classes, each once or twice; the objects of the validation scenes never
appear in a training scene. The 16 backgrounds serve both splits, each scene with a crop and colours of its own.
A number measured on these scenes is not one on VOC.
"""

import hashlib
import json
import os
import shutil
import xml.etree.ElementTree as ElementTree
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from tqdm.auto import tqdm

from pmm.data.images import class_palette, write_jpeg, write_mask
from pmm.data.voc import VOCData
from pmm.errors import InputError
from pmm.files import write_text
from pmm.method import IGNORE_INDEX
from pmm.threads import map_images

SCENE_CLASSES = (  # the position is the mask value
    *("background", "arthropod", "bird", "fish", "flower", "fruit"),
    *("hoofed", "instrument", "small_mammal", "vehicle"),
)
SPLITS = ("train", "val")
MATERIAL = Path(__file__).parent / "sample_scenes"

_RECORD = "scenes.json"
_BACKGROUNDS = sorted(path.name for path in (MATERIAL / "backgrounds").glob("*.webp"))
_N_CLASSES_CHANCES = (0.35, 0.45, 0.20)  # a scene shows 1, 2 or 3 classes
_TWICE_CHANCE = 0.2  # a class appears with two objects
_MAX_ENLARGEMENT = 2.2
_MIN_VISIBLE_SHARE = 0.3  # of an object's pixels inside the frame; else the scene is composed anew
_MIN_VISIBLE_AREA = 0.001  # of the frame
_MAX_TRIES = 1000
_LIMITS = {"n_train": (1, 10**6), "n_val": (1, 10**6), "width": (32, 4096), "height": (32, 4096), "seed": (0, 2**63)}


class SceneObject(NamedTuple):
    """One object of a scene."""

    class_name: str
    cutout: str  # file
    truncated: bool  # cut by the frame or another object


class Scene(NamedTuple):
    """A composed scene."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    instances: np.ndarray  # (H, W) uint8, 0 background, i the i-th of `objects`
    objects: tuple[SceneObject, ...]  # from back to front


@lru_cache(maxsize=1)
def split_objects() -> dict[str, dict[str, tuple[str, ...]]]:
    """Divide the objects of every class: a quarter, at least two, for validation, the others for training.

    The order is that of a hash of the name: fixed for good, whatever the seed and the number of scenes.

    Returns:
        split ("train", "val") -> class name -> cut-out file names; one object for all callers, leave it as it is.
    """
    parts: dict[str, dict[str, tuple[str, ...]]] = {split: {} for split in SPLITS}
    for name in SCENE_CLASSES[1:]:
        files = [path.name for path in (MATERIAL / "cutouts" / name).glob("*.webp")]
        files.sort(key=lambda file, name=name: hashlib.sha256(f"{name}/{file}".encode()).hexdigest())
        n_val = max(2, round(len(files) / 4))
        parts["val"][name], parts["train"][name] = tuple(files[:n_val]), tuple(files[n_val:])
    return parts


def compose_scene(split: str, index: int, *, width: int = 320, height: int = 240, seed: int = 0) -> Scene:
    """Compose scene number `index` (from 0) of a split, "train" or "val", in memory.

    Args:
        width, height: in pixels.
        seed: of the set.

    Raises:
        InputError: the frame has a shape into which no objects fit.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    for _ in range(_MAX_TRIES):
        scene = _try_scene(rng, split_objects()[split], (width, height))
        if scene is not None:
            return scene
    raise InputError(f"width, height: no objects fit into {width} x {height} px; try a larger or squarer frame")


def scene_mask(scene: Scene) -> np.ndarray:
    """Class mask of a scene, (H, W) uint8: 0 background, class ids, 255 on the two pixels along an object's edge."""
    class_ids = [0, *(SCENE_CLASSES.index(obj.class_name) for obj in scene.objects)]
    mask = np.array(class_ids, np.uint8)[scene.instances]
    mask[_edges(scene.instances)] = IGNORE_INDEX
    return mask


class ScenesData(VOCData):
    """Composed sample scenes, read through their VOC layout but never called VOC.

    Args:
        root: the folder that `compose_scenes` wrote; InputError where it holds no scenes.
        name: what tables and figures call the set.
    """

    def __init__(self, root: str | Path, name: str | None = None) -> None:
        super().__init__(root, name=name or "sample scenes")


def compose_scenes(
    root: str | Path,
    *,
    n_train: int,
    n_val: int,
    width: int = 320,
    height: int = 240,
    seed: int = 0,
    n_jobs: int = 1,
    progress: bool = True,
) -> ScenesData:
    """Compose a data set of sample scenes and write it in the VOC layout.

    Scene i of a split depends on the seed, the split and i alone, so a larger set begins with the
    smaller one. The folder appears at the end, complete, and replaces an earlier set of scenes.

    Args:
        root: folder to write; it may hold an earlier set of scenes, and nothing else.
        n_train, n_val: number of training and of validation scenes, at least 1.
        width, height: of a scene, in pixels, 32 to 4096.
        seed: of the scenes, at least 0.
        n_jobs: processes, as joblib counts them (-1: one a core).
        progress: show a progress bar.

    Raises:
        InputError: a number is out of range, or `root` holds something else than scenes.
    """
    root = Path(root).absolute()
    record = {"n_train": n_train, "n_val": n_val, "width": width, "height": height, "seed": seed}
    for key, (low, high) in _LIMITS.items():
        if type(record[key]) is not int or not low <= record[key] <= high:
            raise InputError(f"{key}: found {record[key]!r}; give a whole number from {low} to {high}")
    _check_replaceable(root)
    part = root.with_name(f".{root.name}.part")  # left by a killed run: nobody else uses this name
    shutil.rmtree(part, ignore_errors=True)
    try:
        _write_set(part, record, n_jobs, progress)
        shutil.rmtree(root, ignore_errors=True)
        os.replace(part, root)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return ScenesData(root)


def _write_set(root: Path, record: dict[str, int], n_jobs: int, progress: bool) -> None:
    names = [(split, index) for split in SPLITS for index in range(record[f"n_{split}"])]
    size = {key: record[key] for key in ("width", "height", "seed")}
    work = map_images(partial(_write_scene, root, size), names, workers=n_jobs, processes=True)
    for _ in tqdm(work, total=len(names), desc="scenes", unit="scene", disable=not progress):
        pass
    for split in SPLITS:
        lines = "".join(f"{_scene_id(split, i)}\n" for s, i in names if s == split)
        write_text(root / "ImageSets" / "Segmentation" / f"{split}.txt", lines)
    write_text(root / "classes.txt", "\n".join(SCENE_CLASSES) + "\n")
    for name in ("NOTICE.md", "COPYING"):
        shutil.copy(MATERIAL / name, root / name)
    write_text(root / _RECORD, json.dumps(record, indent=2) + "\n")


def _scene_id(split: str, index: int) -> str:
    return f"{split}_{index + 1:04d}"


def _write_scene(root: Path, size: dict[str, int], which: tuple[str, int]) -> None:
    """Compose and write one scene: image, mask and annotation."""
    scene, name = compose_scene(*which, **size), _scene_id(*which)
    write_jpeg(root / "JPEGImages" / f"{name}.jpg", scene.image, quality=95)
    write_mask(root / "SegmentationClass" / f"{name}.png", scene_mask(scene), class_palette(SCENE_CLASSES))
    tree = _element("annotation", _annotation(scene, name))
    ElementTree.indent(tree)
    write_text(root / "Annotations" / f"{name}.xml", ElementTree.tostring(tree, encoding="unicode"))


def _annotation(scene: Scene, name: str) -> list[tuple[str, object]]:
    """VOC's XML as nested pairs: every object with its class and the box around its visible pixels, counted from 1."""
    objects = []
    for number, obj in enumerate(scene.objects, start=1):
        rows, columns = (axis + 1 for axis in np.nonzero(scene.instances == number))
        box = [("xmin", columns.min()), ("ymin", rows.min()), ("xmax", columns.max()), ("ymax", rows.max())]
        facts = [("name", obj.class_name), ("cutout", obj.cutout), ("truncated", int(obj.truncated)), ("difficult", 0)]
        objects.append(("object", [*facts, ("bndbox", box)]))
    height, width = scene.instances.shape
    size = [("width", width), ("height", height), ("depth", 3)]
    return [("folder", "sample scenes"), ("filename", f"{name}.jpg"), ("segmented", 1), ("size", size), *objects]


def _element(tag: str, content: object) -> ElementTree.Element:
    """XML of a tag and its text, or its list of (tag, content)."""
    element = ElementTree.Element(tag)
    if isinstance(content, list):
        element.extend(_element(*child) for child in content)
    else:
        element.text = str(content)
    return element


def _check_replaceable(root: Path) -> None:
    if root.is_dir() and not (root / _RECORD).is_file() and any(root.iterdir()):
        raise InputError(f"{root}: holds files that are no sample scenes; name a new or an empty folder")
    if root.exists() and not root.is_dir():
        raise InputError(f"{root}: is a file; name a new or an empty folder")


def _try_scene(rng: np.random.Generator, cutouts: dict[str, tuple[str, ...]], size: tuple[int, int]) -> Scene | None:
    """Draw a scene; None when an object is nearly hidden, since its label would then be wrong."""
    canvas = _background(rng, size)
    chosen = _choose_objects(rng, cutouts)
    instances = np.zeros(size[::-1], np.uint8)
    whole, inside = np.zeros((2, len(chosen)), int)
    for i, (name, file) in enumerate(chosen):
        shape = _object(rng, name, file, size[1])
        layer = Image.new("RGBA", size)
        layer.paste(shape, tuple(_offset(rng, shape.size[axis], size[axis]) for axis in (0, 1)))
        canvas = Image.alpha_composite(canvas, layer)
        solid = _solid(layer)
        instances[solid] = i + 1
        whole[i], inside[i] = _solid(shape).sum(), solid.sum()
    visible = _areas(instances, len(chosen))
    if _too_hidden(instances, visible, inside):
        return None
    objects = (SceneObject(*pair, bool(cut)) for pair, cut in zip(chosen, visible < whole, strict=True))
    return Scene(np.array(canvas.convert("RGB")), instances, tuple(objects))


def _too_hidden(instances: np.ndarray, visible: np.ndarray, inside: np.ndarray) -> bool:
    """Whether an object is mostly covered, tiny, or eaten up by its own outline."""
    smallest = np.maximum(_MIN_VISIBLE_SHARE * inside, _MIN_VISIBLE_AREA * instances.size)
    without_outline = _areas(np.where(_edges(instances), 0, instances), len(visible))
    return bool((visible < smallest).any() or (without_outline < smallest / 4).any())


def _areas(instances: np.ndarray, n_objects: int) -> np.ndarray:
    """Pixels of every object, in the order of the objects."""
    return np.bincount(instances.ravel(), minlength=n_objects + 1)[1:]


def _solid(image: Image.Image) -> np.ndarray:
    """(H, W) bool: pixels that are more opaque than transparent."""
    return np.asarray(image.getchannel("A")) > 127


def _choose_objects(rng: np.random.Generator, cutouts: dict[str, tuple[str, ...]]) -> list[tuple[str, str]]:
    """Pick one to three classes and one or two different objects of each, in a random order."""
    n_classes = 1 + rng.choice(3, p=_N_CLASSES_CHANCES)
    chosen = []
    for name in rng.choice(SCENE_CLASSES[1:], n_classes, replace=False):
        n_objects = 2 if rng.random() < _TWICE_CHANCE else 1
        files = rng.choice(cutouts[str(name)], n_objects, replace=False)
        chosen += [(str(name), str(file)) for file in files]
    return [chosen[i] for i in rng.permutation(len(chosen))]


def _background(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """A random crop of a background photograph, with jittered colours, perhaps mirrored."""
    photo = _load(f"backgrounds/{_BACKGROUNDS[rng.integers(len(_BACKGROUNDS))]}").convert("RGB")
    whole = min(photo.width, photo.height * size[0] / size[1])  # widest crop of the scene's shape
    width = rng.uniform(0.45, 1.0) * whole
    height = width * size[1] / size[0]
    left, top = rng.uniform(0, photo.width - width), rng.uniform(0, photo.height - height)
    crop = photo.resize(size, Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
    return _mirror(rng, _jitter(rng, crop)).convert("RGBA")


def _object(rng: np.random.Generator, name: str, file: str, scene_height: int) -> Image.Image:
    """A cut-out, scaled, rotated by at most 15 degrees, with jittered colours, perhaps mirrored."""
    cutout = _load(f"cutouts/{name}/{file}")
    colours = _jitter(rng, cutout.convert("RGB"))
    colours.putalpha(cutout.getchannel("A"))
    scale = min(rng.uniform(0.35, 0.85) * scene_height / max(cutout.size), _MAX_ENLARGEMENT)
    size = tuple(max(1, round(side * scale)) for side in cutout.size)
    scaled = _mirror(rng, colours.resize(size, Image.Resampling.BICUBIC))
    return scaled.rotate(rng.uniform(-15, 15), Image.Resampling.BICUBIC, expand=True)


def _offset(rng: np.random.Generator, side: int, room: int) -> int:
    """Place an object along one axis, with at most a sixth of it outside the frame."""
    beyond = side / 6
    low, high = -beyond, room - side + beyond
    return round(rng.uniform(min(low, high), max(low, high)))


def _jitter(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(rng.uniform(0.75, 1.25))
    return image


def _mirror(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    """Mirror every second image."""
    return ImageOps.mirror(image) if rng.random() < 0.5 else image


@lru_cache(maxsize=256)
def _load(name: str) -> Image.Image:
    """One file of the raw material; never changed by its users."""
    with Image.open(MATERIAL / name) as image:
        return image.convert("RGBA")


def _edges(instances: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels with another instance among their eight neighbours, two pixels wide at an edge."""
    image = Image.fromarray(instances)
    highest, lowest = image.filter(ImageFilter.MaxFilter(3)), image.filter(ImageFilter.MinFilter(3))
    return np.asarray(highest) != np.asarray(lowest)
