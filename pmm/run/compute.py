"""What the stages of a run compute, as plain functions that take what they need and know no parameters object.

`pmm.run.experiment` decides what is made when, and keeps it; here it is made: classifier, CAMs, pseudo-masks,
segmentation models, and their scores against ground truth.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from pmm.data import SegmentationData
from pmm.data.cams import load_cams, read_cams_of, save_cams
from pmm.data.images import class_palette, image_size, read_image, read_mask, write_mask
from pmm.data.transforms import Augmentation, augment
from pmm.errors import InputError
from pmm.method.crf import CRFSettings
from pmm.method.metrics import SegmentationScore, confusion_matrix
from pmm.method.noise import flip_regions
from pmm.method.pseudo_mask import crf_pseudo_mask, ppmg, threshold_pseudo_mask
from pmm.networks.devices import Statistics, prepare_images, run_network
from pmm.networks.inference import cam_batch_size, cams_in_batches, equal_sizes, multi_scale_cam
from pmm.networks.models import CamClassifier
from pmm.networks.training import SegmentationLoss, TrainingImages, TrainingSettings, classifier_loss, fit
from pmm.processes import count, from_first, is_first, share
from pmm.threads import map_images

METHODS = ("threshold", "crf", "ppmg_s0", "ppmg")
"""How pseudo-masks are made: CAM at a fixed threshold, joint CRF, PPMG without (s = 0) and with smoothing."""
USED = {
    "threshold": ("cam_threshold",),
    "crf": ("alpha_crf",),
    "ppmg_s0": ("alpha", "t", "variant"),
    "ppmg": ("s", "alpha", "t", "variant"),
}
"""The parameters that each way reads, beside crf_* where it has a CRF."""
AUGMENTATIONS = {
    "weak": {"scale": (1.0, 1.0), "colour": 0.0, "erase": 0.0},
    "strong": {"scale": (0.6, 1.5), "colour": 0.3, "erase": 0.5},
}
"""What `cls_augment` stands for; crops and mirror images are in both."""

MaskFunction = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(image (H,W,3) uint8, cam (C,H,W) float32, class_ids (C,)) -> mask (H,W) uint8."""


def train_classifier(
    model: CamClassifier,
    data: SegmentationData,
    image_ids: Sequence[str],
    settings: TrainingSettings,
    augmentation: Augmentation,
    folder: Path,
    statistics: Statistics,
    rough_mask: Callable[[str], np.ndarray] | None = None,
) -> None:
    """Train the multi-label classifier in place, as `fit` says; weights go into `folder`.

    It learns from image-level labels: a crop has the labels of its image, or, where `rough_mask` gives a mask (H,W)
    uint8 of an image, those of the classes that the mask shows in the crop.
    """

    def load(index: int) -> tuple[np.ndarray, np.ndarray | None, Tensor | None]:
        """Read an image and its labels, or its rough mask."""
        image_id = image_ids[index]
        if rough_mask:
            return data.image(image_id), rough_mask(image_id), None
        return data.image(image_id), None, _multi_hot(data.labels(image_id), len(data.class_names))

    images = TrainingImages(load, len(image_ids), partial(augment, settings=augmentation), settings.seed)
    parts = {"backbone": model.backbone, "statistics": statistics}
    fit(model, images, classifier_loss, settings, folder, **parts, title=folder.name)


def _multi_hot(class_ids: Sequence[int], n_classes: int) -> Tensor:
    target = torch.zeros(n_classes - 1)
    target[[i - 1 for i in class_ids]] = 1
    return target


def average_precision(
    model: CamClassifier, data: SegmentationData, image_ids: Sequence[str], statistics: Statistics, **where: Any
) -> dict[str, Any]:
    """Evaluate a classifier on the labels of some images, one image at a time; `where` is as in `map_images`.

    Returns:
        val_ap by class name, their mean val_map, in [0,1], and val_images, the number of images with a label; classes
        that no image shows are left out. An empty dict where no image has a label.
    """
    from sklearn.metrics import average_precision_score  # a second to import

    labelled = [i for i in image_ids if data.labels(i)]
    if not labelled or not is_first():
        return {}
    device = next(model.parameters()).device

    @torch.inference_mode()
    def score(image_id: str) -> np.ndarray:
        """Score one image's classes, (C,)."""
        picture = torch.from_numpy(data.image(image_id).transpose(2, 0, 1).copy())[None]
        return model(prepare_images(picture, *statistics, device))[0].float().cpu().numpy()

    found = map_images(partial(run_network, device, score), labelled, **where)
    bar = tqdm(found, desc="average precision", total=len(labelled), unit="image")
    scores = np.stack(list(bar))  # (N, C)
    present = np.stack([_multi_hot(data.labels(i), len(data.class_names)).numpy() for i in labelled])
    names = enumerate(data.class_names[1:])
    named = {n: float(average_precision_score(present[:, c], scores[:, c])) for c, n in names if present[:, c].any()}
    return {"val_map": float(np.mean(list(named.values()))), "val_ap": named, "val_images": len(labelled)}


def write_cams(
    model: CamClassifier,
    data: SegmentationData,
    image_ids: Sequence[str],
    folder: Path,
    *,
    batch_size: int = 0,
    scales: Sequence[float],
    flip: bool,
    statistics: Statistics,
    **where: Any,
) -> int:
    """Compute the CAMs of all images and write `<id>.npz`; files that exist are kept.

    Args:
        batch_size: images of one size in a pass; 0 leaves it to `cam_batch_size`. One image a thread for 1.
        model, scales, flip, statistics: as in `multi_scale_cam`.
        where: as in `map_images`, for a batch size of 1; larger batches are computed here.

    Returns:
        How many images have an all-zero CAM.
    """
    options = {"scales": scales, "flip": flip, "statistics": statistics}
    todo = _missing(image_ids, folder, ".npz")

    def load(image_id: str) -> tuple[np.ndarray, Sequence[int]]:
        """Read an image and its labels."""
        return data.image(image_id), data.labels(image_id)

    def save(image_id: str, class_ids: Sequence[int], cam: np.ndarray) -> None:
        """Write one image's CAM."""
        save_cams(folder / f"{image_id}.npz", class_ids, cam)

    def alone(image_id: str) -> None:
        """Compute and write one image's CAM."""
        image, class_ids = load(image_id)
        save(image_id, class_ids, multi_scale_cam(model, image, class_ids, **options))

    if (size := cam_batch_size(batch_size, next(model.parameters()).device)) == 1:
        done: Iterator[Any] = map_images(alone, todo, **where)
    else:
        sizes = list(map_images(lambda i: image_size(data.image_path(i)), todo))
        done = cams_in_batches(model, equal_sizes(todo, sizes, size), load, save, **options)
    _exhaust(done, "CAMs", len(image_ids), len(todo))
    return sum(not load_cams(folder / f"{i}.npz")[1].any() for i in image_ids)


def take_cams(files: Sequence[Path], data: SegmentationData, image_ids: Sequence[str], folder: Path) -> int:
    """Write the CAMs of another project, a file of `files` an image, as `<id>.npz`; files that exist are kept.

    Returns:
        How many images have an all-zero CAM, or no label.

    Raises:
        InputError: as `read_foreign_cams`.
    """
    file_of, todo = dict(zip(image_ids, files, strict=True)), _missing(image_ids, folder, ".npz")
    done = map_images(lambda i: save_cams(folder / f"{i}.npz", *read_cams_of(data, i, file_of[i])), todo)
    _exhaust(done, "CAMs", len(image_ids), len(todo))
    return sum(not load_cams(folder / f"{i}.npz")[1].any() for i in image_ids)


def crf_settings(settings: dict[str, Any], joint: bool = False) -> CRFSettings:
    """Return the dense CRF of the parameters crf_*, that of PPMG or the joint one."""
    compat = settings["crf_joint_gauss_compat" if joint else "crf_gauss_compat"]
    own = {field.name: settings[f"crf_{field.name}"] for field in fields(CRFSettings)}
    return CRFSettings(**{**own, "gauss_compat": compat})


def mask_function(method: str, settings: dict[str, Any], crf: CRFSettings) -> MaskFunction:
    """Return the function that makes one image's mask by a method.

    Args:
        method: one of `METHODS`.
        settings: the parameters s, t, alpha, alpha_crf, cam_threshold, variant.
        crf: strengths and reaches for this method.

    Raises:
        InputError: unknown method.
    """
    if method == "threshold":
        return partial(_threshold, threshold=settings["cam_threshold"])
    if method == "crf":
        return partial(crf_pseudo_mask, alpha=settings["alpha_crf"], crf=crf)
    if method in ("ppmg", "ppmg_s0"):
        s = settings["s"] if method == "ppmg" else 0.0
        return partial(ppmg, s=s, **{name: settings[name] for name in ("alpha", "t", "variant")}, crf=crf)
    raise InputError(f"method = {method}: choose one of {', '.join(METHODS)}")


def _threshold(image: np.ndarray, cam: np.ndarray, class_ids: np.ndarray, threshold: float) -> np.ndarray:
    return threshold_pseudo_mask(cam, class_ids, threshold)


def write_pseudo_masks(
    make: MaskFunction,
    data: SegmentationData,
    image_ids: Sequence[str],
    cams: Path,
    folder: Path,
    **where: Any,
) -> None:
    """Make the masks of all images from the CAMs `<id>.npz` and write `<id>.png`; files that exist are kept.

    Args:
        make: see `mask_function`.
        where: as in `map_images`.

    Raises:
        InputError: a CAM is missing, broken, or of another size than its image.
    """
    todo = _missing(image_ids, folder, ".png")
    files = [(data.image_path(i), cams / f"{i}.npz", folder / f"{i}.png") for i in todo]
    write = partial(_write_pseudo_mask, make, class_palette(data.class_names))
    done = map_images(write, files, **where)
    _exhaust(done, f"{folder.name} masks", len(image_ids), len(todo))


def _write_pseudo_mask(make: MaskFunction, palette: np.ndarray, files: tuple[Path, Path, Path]) -> None:
    image_file, cam_file, mask_file = files
    class_ids, cam = load_cams(cam_file)
    image = read_image(image_file)
    if cam.shape[1:] != image.shape[:2]:
        raise InputError(f"{cam_file}: CAM of {cam.shape[1:]} for an image of {image.shape[:2]}; resize the CAM")
    write_mask(mask_file, make(image, cam, class_ids), palette)


def write_noisy_masks(data: SegmentationData, image_ids: Sequence[str], share: float, seed: int, folder: Path) -> None:
    """Spoil the ground truth of all images by a known share of the object pixels, see `method.noise`.

    Raises:
        InputError: an image has no ground truth.
    """
    for image_id in image_ids:
        if not data.has_mask(image_id):
            raise InputError(f"masks = noisy: {image_id} has no ground truth that could be spoiled")
        noisy = flip_regions(data.mask(image_id), data.labels(image_id), share, seed, image_id)
        write_mask(folder / f"{image_id}.png", noisy, class_palette(data.class_names))


def write_predicted_masks(
    predict: Callable[[str], np.ndarray],
    image_ids: Sequence[str],
    folder: Path,
    class_names: Sequence[str],
    **where: Any,
) -> None:
    """Write what `predict` returns for each image, (H,W) uint8, several at a time; files that exist are kept.

    `class_names` decide the colours of the files, see `class_palette`; `where` is as in `map_images`.
    """
    todo = _missing(image_ids, folder, ".png")
    palette = class_palette(class_names)
    done = map_images(lambda i: write_mask(folder / f"{i}.png", predict(i), palette), todo, **where)
    _exhaust(done, f"{folder.name} masks", len(image_ids), len(todo))


def read_pseudo_mask(folder: Path, image_id: str, n_classes: int) -> np.ndarray:
    """Read a mask (H,W) uint8 that a stage wrote.

    Raises:
        InputError: missing or broken; names the file.
    """
    return read_mask(folder / f"{image_id}.png", n_classes)


def evaluate_masks(
    data: SegmentationData, image_ids: Iterable[str], predict: Callable[[str], np.ndarray], title: str, **where: Any
) -> dict[str, Any]:
    """Compare what `predict` returns, (H,W) uint8, with the ground truth where there is one, several at a time.

    `where` is as in `map_images`.

    Returns:
        miou, iou by class name, pixel_accuracy in [0,1] and images, the number of images evaluated; an empty dict
        where no image has ground truth.
    """
    return evaluate_each(data, image_ids, lambda image_id: [predict(image_id)], title, 1, **where)[0]


def evaluate_each(
    data: SegmentationData,
    image_ids: Iterable[str],
    predict: Callable[[str], Sequence[np.ndarray]],
    title: str,
    n: int,
    **where: Any,
) -> list[dict[str, Any]]:
    """Do as `evaluate_masks` with `n` masks of each image; return a dict for each."""
    image_ids = list(image_ids) if is_first() else []
    evaluated = [image_id for image_id in image_ids if data.has_mask(image_id)]
    if len(evaluated) < len(image_ids):
        left = len(image_ids) - len(evaluated)
        print(f"{title}: {left} of {len(image_ids)} images have no ground truth and are not evaluated")
    scores = [SegmentationScore(data.class_names) for _ in range(n)]
    found = map_images(partial(_confusions, data, predict), evaluated, **where)
    for confusions in tqdm(found, desc=title, total=len(evaluated), unit="image"):
        for score, confusion in zip(scores, confusions, strict=True):
            score.confusion += confusion
    return [{**score.result(), "images": len(evaluated)} if evaluated else {} for score in scores]


def _confusions(
    data: SegmentationData, predict: Callable[[str], Sequence[np.ndarray]], image_id: str
) -> list[np.ndarray]:
    """Count one image's pixels, of each mask that is predicted."""
    target, n = data.mask(image_id), len(data.class_names)
    return [confusion_matrix(target, mask, n, unknown_column=True) for mask in predict(image_id)]


def train_segmenter(
    model: nn.Module,
    data: SegmentationData,
    image_ids: Sequence[str],
    read_training_mask: Callable[[str], np.ndarray],
    loss: SegmentationLoss,
    settings: TrainingSettings,
    augmentation: Augmentation,
    folder: Path,
    statistics: Statistics,
    title: str,
) -> None:
    """Train a segmentation model in place, as `fit` says, from masks (H,W) uint8 that `read_training_mask` gives."""

    def load(index: int) -> tuple[np.ndarray, np.ndarray, None]:
        """Read an image and the mask it is trained on."""
        return data.image(image_ids[index]), read_training_mask(image_ids[index]), None

    images = TrainingImages(load, len(image_ids), partial(augment, settings=augmentation), settings.seed)
    fit(model, images, loss, settings, folder, backbone=model.encoder, statistics=statistics, title=title)


def _missing(image_ids: Sequence[str], folder: Path, suffix: str) -> list[str]:
    """This process's share of the ids whose file is not there yet; makes the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    return share(from_first([i for i in image_ids if not (folder / f"{i}{suffix}").exists()]))


def _exhaust(done: Iterator[Any], title: str, total: int, left: int) -> None:
    """Work through an iterator behind a progress bar that knows what was there before."""
    deque(tqdm(done, desc=title, total=total, initial=total - left * count(), unit="image"), maxlen=0)
    from_first(None)  # all have written their share
