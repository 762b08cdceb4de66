"""One sample scene in memory: photographed objects laid on a photographed background.

The raw material and its licence are in `sample_scenes/`. A scene shows one to three classes, each once or
twice; the objects of the validation scenes never appear in a training scene. The 16 backgrounds serve both
splits, each scene with a crop and colours of its own.
"""

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from pmm.data.images import IGNORE
from pmm.errors import InputError

SCENE_CLASSES = (
    *("background", "arthropod", "bird", "fish", "flower", "fruit"),
    *("hoofed", "instrument", "small_mammal", "vehicle"),
)
"""Class names; the position is the mask value."""

SPLITS = ("train", "val")
MATERIAL = Path(__file__).parent / "sample_scenes"

_N_CLASSES_CHANCES = (0.35, 0.45, 0.20)  # a scene shows 1, 2 or 3 classes
_TWICE_CHANCE = 0.2  # a class appears with two objects
_MAX_ENLARGEMENT = 2.2
_MIN_VISIBLE_SHARE = 0.3  # of an object's pixels inside the frame; else the scene is composed anew
_MIN_VISIBLE_AREA = 0.001  # of the frame
_MAX_TRIES = 1000


class SceneObject(NamedTuple):
    """One object of a scene: class name, cut-out file, and whether the frame or another object cuts it."""

    class_name: str
    cutout: str
    truncated: bool


class Scene(NamedTuple):
    """A composed scene.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        instances: (H, W) uint8, 0 background, i the i-th of `objects`, later ones in front.
        objects: what the scene shows, from back to front.
    """

    image: np.ndarray
    instances: np.ndarray
    objects: tuple[SceneObject, ...]


def split_objects() -> dict[str, dict[str, tuple[str, ...]]]:
    """Divide the objects of every class: a quarter, at least two, for validation, the others for training.

    The order is that of a hash of the name: fixed for good, whatever the seed and the number of scenes.

    Returns:
        split ("train", "val") -> class name -> cut-out file names.
    """
    return {split: dict(_objects_of(split)) for split in SPLITS}


def compose_scene(split: str, index: int, *, width: int = 320, height: int = 240, seed: int = 0) -> Scene:
    """Compose one scene in memory.

    Args:
        split: "train" or "val".
        index: number of the scene, from 0.
        width: width in pixels.
        height: height in pixels.
        seed: seed of the set.

    Returns:
        the scene.

    Raises:
        InputError: the frame has a shape into which no objects fit.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    cutouts = _objects_of(split)
    for _ in range(_MAX_TRIES):
        scene = _try_scene(rng, cutouts, (width, height))
        if scene is not None:
            return scene
    raise InputError(f"width, height: no objects fit into {width} x {height} px; try a larger or squarer frame")


def scene_mask(scene: Scene) -> np.ndarray:
    """Class mask of a scene, with the outline that VOC draws around every object.

    Args:
        scene: a composed scene.

    Returns:
        (H, W) uint8: 0 background, class ids, and 255 on the two pixels along every object's edge.
    """
    class_ids = [0, *(SCENE_CLASSES.index(obj.class_name) for obj in scene.objects)]
    mask = np.array(class_ids, np.uint8)[scene.instances]
    mask[_edges(scene.instances)] = IGNORE
    return mask


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


@lru_cache(maxsize=len(SPLITS))
def _objects_of(split: str) -> dict[str, tuple[str, ...]]:
    """Class name -> cut-out file names of one split; never changed by its users."""
    chosen = {}
    for name in SCENE_CLASSES[1:]:
        files = [path.name for path in (MATERIAL / "cutouts" / name).glob("*.webp")]
        files.sort(key=lambda file, name=name: hashlib.sha256(f"{name}/{file}".encode()).hexdigest())
        n_val = max(2, round(len(files) / 4))
        chosen[name] = tuple(files[:n_val] if split == "val" else files[n_val:])
    return chosen


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
    files = _backgrounds()
    photo = _load(f"backgrounds/{files[rng.integers(len(files))]}").convert("RGB")
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
    """Jitter brightness, contrast and saturation."""
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(rng.uniform(0.75, 1.25))
    return image


def _mirror(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    """Mirror every second image."""
    return ImageOps.mirror(image) if rng.random() < 0.5 else image


@lru_cache(maxsize=1)
def _backgrounds() -> tuple[str, ...]:
    """File names of the backgrounds."""
    return tuple(sorted(path.name for path in (MATERIAL / "backgrounds").glob("*.webp")))


@lru_cache(maxsize=256)
def _load(name: str) -> Image.Image:
    """One file of the raw material; never changed by its users."""
    with Image.open(MATERIAL / name) as image:
        return image.convert("RGBA")


def _edges(instances: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels with another instance among their eight neighbours, two pixels wide at an edge."""
    padded = np.pad(instances, 1, mode="edge")
    height, width = instances.shape
    edges = np.zeros(instances.shape, bool)
    for dy in range(3):
        for dx in range(3):
            edges |= padded[dy : dy + height, dx : dx + width] != instances
    return edges
