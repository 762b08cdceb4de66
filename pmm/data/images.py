"""What every data set offers, and its files: images and index masks. A refusal is one line that names the file."""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from pmm.errors import InputError
from pmm.files import plain_file, whole_file
from pmm.method import IGNORE_INDEX

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train"),
    "tvmonitor",
)
MUTED = "cdcdcd332288cc6677117733ddcc7788ccee88225544aa99999933aa4499"  # 0 background, 1-9: hexadecimal
FURTHER = (  # 10-254; three digits d a value, red, green, blue = 25 + 24 d
    "100649020797990001429534657475802008767570343022569514155989447301363254620995476003506523798925723954680321"
    "403540586746539119110878044868796617636332948202322662274643287006342311983323385177552565827111866673420314"
    "566499910268034479040560456237985645231325448887654335753004899589450993336315976317207608962226346818312644"
    "192875023052555408233774298711659794002257402000535777488763541977888016259495167422642583310850758913203428"
    "182538014503009029341334601353451937752656886149097493445955302431648362410882132714961115478005650273634776"
    "998745980050201069800101426546607741039884066148922564965792096572630330515143846877081158854303764912094135"
    "300449525046744761151779872247997490545947221414011553853666355176220614340675855508716"
)


class SegmentationData(ABC):
    """A data set: images, image-level labels and, for evaluation only, ground truth."""

    root: Path  # its folder
    name: str  # what tables and figures call it
    class_names: tuple[str, ...]  # index 0 is "background", so that a mask value is an index

    @abstractmethod
    def ids(self, split: str) -> list[str]:
        """Image ids of a split, at least one, in the order of the file that lists them.

        Raises:
            InputError: no such split (the message lists those that exist), or the file that lists it is malformed,
                empty, names an image twice, or names one that does not exist.
        """

    @abstractmethod
    def image_path(self, image_id: str) -> Path:
        """Path of an image; InputError where there is no such image."""

    @abstractmethod
    def labels(self, image_id: str) -> tuple[int, ...]:
        """Image-level labels: sorted class ids in 1 .. n_classes-1 that are present; may be empty. Never from masks.

        Raises:
            InputError: no such image, or the file that holds the labels is missing or malformed.
        """

    @abstractmethod
    def mask_source(self, image_id: str) -> Path:
        """Path of the file that `mask` reads, whether it exists or not."""

    def left_out_note(self, split: str) -> str:
        """Say how many images of a split `ids` has left out, and why; empty where it gave all."""
        return ""

    def image(self, image_id: str) -> np.ndarray:
        """Pixels of an image, (H, W, 3) uint8 RGB; errors as in `image_path` and `read_image`."""
        return read_image(self.image_path(image_id))

    def has_mask(self, image_id: str) -> bool:
        """Whether `mask` finds a ground truth; InputError where a folder or a broken link stands in its place."""
        path = self.mask_source(image_id)
        if not path.is_file() and os.path.lexists(path):
            raise InputError(f"{path}: found a folder or a broken link; put the mask there, or remove it")
        return path.is_file()

    def mask(self, image_id: str) -> np.ndarray:
        """Ground truth, for evaluation only (training knows nothing but `labels`): see `read_mask`."""
        image = self.image_path(image_id)
        return read_mask(self.mask_source(image_id), len(self.class_names), image)


def read_image(path: str | Path) -> np.ndarray:
    """Read any common image file as 8-bit RGB, turned upright as its EXIF tag says.

    Grayscale, CMYK and palette images are converted, transparent ones are laid on white,
    and 16-bit grayscale is scaled (65535 becomes 255), not clipped.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        InputError: the file is missing, cannot be decoded, or holds floating-point or 32-bit pixels.
    """
    image = _decode(path)
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _scale_16_bit(np.asarray(image), path)
    if image.mode in ("F", "LAB"):
        raise InputError(f"{path}: found pixels of mode {image.mode}; save the image as 8-bit RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


def image_size(path: str | Path) -> tuple[int, int]:
    """Return (width, height) of the upright image, from its header alone; errors as in `read_image`."""
    try:
        with Image.open(plain_file(Path(path))) as image:
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            return (image.height, image.width) if turned else (image.width, image.height)
    except Exception:  # say it in the words of the full decoder
        height, width = read_image(path).shape[:2]
        return width, height


def read_mask(path: str | Path, n_classes: int | None = None, image: str | Path | None = None) -> np.ndarray:
    """Read an index mask: the pixel value is the class, whatever the palette shows.

    Args:
        path: a PNG of mode P (palette) or L (grayscale).
        n_classes: number of classes with the background; defaults to accepting every value.
        image: file of the mask's image, whose upright size it must have; defaults to accepting every size.

    Returns:
        (H, W) uint8, 0 background, 255 unknown.

    Raises:
        InputError: the file is missing, cannot be decoded, is no index mask (for example RGB) or of another size,
            or a value is neither a class (0 .. n_classes-1) nor 255.
    """
    picture = _decode(path, upright=False)
    if picture.mode not in ("P", "L"):
        raise InputError(f"{path}: found mode {picture.mode}; a mask is an index PNG (mode P or L), one class a value")
    mask = np.array(picture)
    values = np.unique(mask)
    wrong = values[(values >= (256 if n_classes is None else n_classes)) & (values != IGNORE_INDEX)]
    if wrong.size:
        listed = ", ".join(map(str, wrong[:8])) + (", ..." if wrong.size > 8 else "")
        raise InputError(f"{path}: found {listed}; a mask holds 0 to {n_classes - 1}, or {IGNORE_INDEX} for unknown")
    if image is not None and picture.size != (size := image_size(image)):
        found = f"{picture.width} x {picture.height} px"
        raise InputError(f"{path}: found {found}, its image has {size[0]} x {size[1]}; give the mask that size")
    return mask


def write_mask(path: str | Path, mask: np.ndarray, palette: np.ndarray | None = None) -> None:
    """Write an index mask as a palette PNG; the file appears complete or not at all.

    Args:
        path: the file to write; its folder is made.
        mask: (H, W) integers in [0, 255].
        palette: (256, 3) uint8 colours; defaults to the VOC colour map.

    Raises:
        InputError: `mask` is not two-dimensional, not of integers, or has a value outside [0, 255].
    """
    mask = np.asarray(mask)
    if mask.ndim != 2 or not mask.size or mask.dtype.kind not in "iu":
        raise InputError(f"mask: found {mask.dtype} of shape {mask.shape}; give (H, W) integers")
    if mask.min() < 0 or mask.max() > 255:
        raise InputError(f"mask: found values {mask.min()} to {mask.max()}; give 0 to 255")
    image = Image.fromarray(mask.astype(np.uint8))
    image.putpalette((voc_palette() if palette is None else np.asarray(palette, np.uint8)).tobytes())
    with whole_file(Path(path)) as file:
        image.save(file, format="PNG")


def write_jpeg(path: str | Path, image: np.ndarray, quality: int = 95) -> None:
    """Write an RGB image as a JPEG; the file appears complete or not at all.

    Args:
        path: as in `write_mask`.
        image: (H, W, 3) uint8 RGB; InputError for anything else.
        quality: JPEG quality in [1, 100].
    """
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or not image.size or image.dtype != np.uint8:
        raise InputError(f"image: found {image.dtype} of shape {image.shape}; give (H, W, 3) uint8")
    with whole_file(Path(path)) as file:
        Image.fromarray(image).save(file, format="JPEG", quality=quality)


@lru_cache(maxsize=1)
def voc_palette() -> np.ndarray:
    """Return the VOC colour map: the bits of the class, three at a time, become the high bits of R, G, B.

    (256, 3) uint8, read-only: black background, 255 in the pale colour of the VOC outlines.
    """
    channel, bit = np.ogrid[:3, :8]
    bits = np.arange(256)[:, None, None] >> (3 * bit + channel) & 1  # (256, 3, 8)
    palette = (bits << (7 - bit)).sum(2).astype(np.uint8)
    palette.setflags(write=False)
    return palette


def class_palette(class_names: Sequence[str] = ()) -> np.ndarray:
    """Return the colours of the mask values: (256, 3) uint8, read-only; 0 is pale grey, 255 white.

    Where all classes are VOC's, or some of them in any order, each has the colour that VOC gives its name. Otherwise
    values 1-9 are Paul Tol's scheme "muted" (https://personal.sron.nl/~pault/), and each further one is the candidate
    farthest from all before it, as seen by the worst-off reader, colour-blind or not: tests/figures/test_palette.py
    searches anew and proves the table.
    """
    return _class_palette(tuple(class_names[1:]))


@lru_cache(maxsize=8)
def _class_palette(names: tuple[str, ...]) -> np.ndarray:
    further = bytes(25 + 24 * int(digit) for digit in FURTHER)
    palette = np.frombuffer(bytes.fromhex(MUTED) + further + b"\xff\xff\xff", dtype=np.uint8).reshape(256, 3).copy()
    if names and set(names) <= set(VOC_CLASSES):
        palette[1 : len(names) + 1] = voc_palette()[[VOC_CLASSES.index(name) for name in names]]
    palette.setflags(write=False)
    return palette


def index_images(folder: Path) -> dict[str, Path]:
    """File stem -> path of the images right in a folder; of two files with one stem the first suffix by name wins."""
    names = sorted((entry.name for entry in os.scandir(folder)), reverse=True)
    paths = (folder / name for name in names if not name.startswith("."))
    return {path.stem: path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES}


def _decode(path: str | Path, upright: bool = True) -> Image.Image:
    """Load all pixels now, so that a truncated file fails here and not later."""
    plain_file(Path(path))
    try:
        with Image.open(path) as image:
            image.load()
            if not all(image.size):
                raise ValueError(f"{image.width} x {image.height} px")
            return ImageOps.exif_transpose(image) if upright else image.copy()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the name and the folder") from None
    except MemoryError:
        raise
    except Exception as error:  # the decoders raise a dozen types on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        hint = "is the file complete, and an image?"
        raise InputError(f"{path}: cannot be read as an image ({reason}); {hint}") from None


def _scale_16_bit(gray: np.ndarray, path: str | Path) -> np.ndarray:
    """Scale (H, W) 16-bit grayscale to (H, W, 3) uint8."""
    if gray.min() < 0 or gray.max() > 65535:
        raise InputError(f"{path}: found 32-bit pixels; save the image with 8 or 16 bits")
    scaled = ((gray.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return np.repeat(scaled[:, :, None], 3, axis=2)
