"""Pseudo-masks of a whole split as files, in parallel over the images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from tqdm.auto import tqdm

from pmm.data import SegmentationData
from pmm.data.cam_files import load_cams
from pmm.data.images import read_image, read_mask, write_mask
from pmm.errors import InputError
from pmm.method.crf import CRFSettings
from pmm.method.metrics import SegmentationScore
from pmm.method.pseudo_mask import crf_pseudo_mask, ppmg, threshold_pseudo_mask
from pmm.threads import limit_threads, map_images

METHODS = ("threshold", "crf", "ppmg_s0", "ppmg")
"""CAM at a fixed threshold, joint CRF, PPMG without smoothing (s = 0), PPMG with smoothing."""


def mask_function(method: str, settings: dict[str, Any], crf: CRFSettings) -> Callable[..., np.ndarray]:
    """Return the function (image, cam, class_ids) -> (H,W) uint8 mask of a method.

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
        names = ("alpha", "t", "variant")
        return partial(ppmg, s=s, **{name: settings[name] for name in names}, crf=crf)
    raise InputError(f"method = {method}: choose one of {', '.join(METHODS)}")


def _threshold(image: np.ndarray, cam: np.ndarray, class_ids: np.ndarray, threshold: float) -> np.ndarray:
    return threshold_pseudo_mask(cam, class_ids, threshold)


def write_pseudo_masks(
    make: Callable[..., np.ndarray],
    image_ids: Sequence[str],
    data: SegmentationData,
    cams: Path,
    folder: Path,
    *,
    workers: int,
    title: str,
    engine: str = "lattice",
) -> None:
    """Make the masks of all images; files that are there already are kept.

    Args:
        make: see `mask_function`.
        image_ids: of the images.
        data: knows the images' files.
        cams: folder of `<id>.npz`.
        folder: receives `<id>.png`.
        workers: how many images at a time; threads where the CRF lets go of Python's lock, else processes.
        title: of the progress bar.
        engine: of the CRF, see `crf.CRFSettings`.
    """
    todo = [i for i in image_ids if not (folder / f"{i}.png").exists()]
    folder.mkdir(parents=True, exist_ok=True)
    files = ((data.image_path(i), cams / f"{i}.npz", folder / f"{i}.png") for i in todo)
    jobs = (joblib.delayed(_write_one)(make, *each) for each in files)
    prefer = "threads" if engine == "lattice" else "processes"
    done = joblib.Parallel(n_jobs=workers, prefer=prefer, return_as="generator_unordered")(jobs)
    for _ in tqdm(done, desc=title, total=len(image_ids), initial=len(image_ids) - len(todo), unit="image"):
        pass


def _write_one(make: Callable[..., np.ndarray], image_file: Path, cam_file: Path, mask_file: Path) -> None:
    class_ids, cam = load_cams(cam_file)
    image = read_image(image_file)
    if cam.shape[1:] != image.shape[:2]:
        raise InputError(f"{cam_file}: CAM of {cam.shape[1:]} for an image of {image.shape[:2]}; resize the CAM")
    with limit_threads(1):  # the other images keep the other cores busy
        write_mask(mask_file, make(image, cam, class_ids))


def score_masks(
    data: SegmentationData, image_ids: Iterable[str], predict: Callable[[str], np.ndarray], title: str
) -> dict[str, Any]:
    """Compare predicted masks with the exact ones, where there are exact ones.

    Args:
        data: gives the exact masks.
        image_ids: of the images.
        predict: image id -> (H,W) uint8; called from several threads.
        title: of the progress bar.

    Returns:
        miou, iou by class name, pixel_accuracy in [0,1] and images, the number of images judged; an empty
        dict where no image has an exact mask.
    """

    def judge(image_id: str) -> tuple[np.ndarray, np.ndarray]:
        """Read the exact mask beside the prediction."""
        return data.mask(image_id), predict(image_id)

    judged = [image_id for image_id in image_ids if data.has_mask(image_id)]
    score = SegmentationScore(data.class_names)
    for target, prediction in tqdm(map_images(judge, judged), desc=title, total=len(judged), unit="image"):
        score.update(target, prediction)
    return {**score.result(), "images": len(judged)} if judged else {}


def read_pseudo_mask(folder: Path, image_id: str, n_classes: int) -> np.ndarray:
    """Read a mask that a stage wrote.

    Raises:
        InputError: missing or broken; names the file.
    """
    return read_mask(folder / f"{image_id}.png", n_classes)
