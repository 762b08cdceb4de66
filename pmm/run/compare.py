"""Threshold, joint CRF and PPMG on the same CAMs of any project: masks, scores, and one page that shows them."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

import pmm
from pmm.data.images import class_palette, index_images, read_image, read_mask, voc_palette
from pmm.files import write_text
from pmm.method import IGNORE_INDEX
from pmm.run.compute import USED
from pmm.run.folders import Labels, make_masks, score_masks
from pmm.run.pages import TEMPLATES

COMPARED = {"threshold": "CAM, threshold", "crf": "joint CRF", "ppmg": "PPMG"}
SHOWN, HEIGHT = 24, 130  # images on the page, and their height in pixels


def compare_methods(
    cams: Path,
    images: Path,
    out: Path,
    params: Mapping[str, Any],
    labels: Labels | None = None,
    first_class: int | None = None,
    truth: Path | None = None,
) -> dict[str, dict[str, Any]]:
    """Make the masks of every method in `out`/<method>, score them, and write `out`/index.html.

    Args:
        cams, images, out, params, labels, first_class: as in `make_masks`.
        truth: folder of the ground truth, if there is one; all methods are scored on the images that it has.

    Returns:
        For each method what `score_masks` found; nothing without a ground truth.

    Raises:
        InputError: as `make_masks` and `score_masks`.
    """
    for method in COMPARED:
        make_masks(cams, images, out / method, method, params, labels, first_class)
    names = labels.class_names if labels else ()
    scores = {m: score_masks(out / m, truth, class_names=names)[0] for m in COMPARED} if truth else {}
    made = sorted(path.stem for path in (out / "ppmg").glob("*.png"))
    pictures, palette = index_images(images), class_palette(names) if labels else voc_palette()
    rows = []
    for k in np.unique(np.linspace(0, len(made) - 1, SHOWN).round().astype(int)):
        files = [folder / f"{made[k]}.png" for folder in (*(out / m for m in COMPARED), *([truth] if truth else []))]
        masks = [read_mask(file) if file.is_file() else None for file in files]
        image = read_image(pictures[made[k]])
        cells = [_picture(image)] + [_picture(_overlay(image, m, palette)) if m is not None else "" for m in masks]
        values = np.unique(np.concatenate([m.ravel() for m in masks if m is not None])).tolist()
        classes = [_entry(value, names, palette) for value in values if value not in (0, IGNORE_INDEX)]
        rows.append({"id": made[k], "cells": cells, "classes": classes})
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True)
    found = {
        "cams": cams,
        "total": len(made),
        "heads": [*COMPARED.values(), *["ground truth"] * bool(truth)],
        "rows": rows,
        "scores": {COMPARED[method]: score for method, score in scores.items()},
        "settings": {COMPARED[method]: _setting(method, params) for method in COMPARED},
    }
    page = environment.get_template("compare.html.j2").render(found, version=pmm.__version__)
    write_text(out / "index.html", page)
    return scores


def _entry(value: int, names: Sequence[str], palette: np.ndarray) -> tuple[str, str]:
    """Return what the legend says of a mask value: name and colour."""
    return names[value] if value < len(names) else str(value), f"#{bytes(palette[value].tolist()).hex()}"


def _setting(method: str, params: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {params[name]:g}" for name in USED[method] if isinstance(params[name], float))


def _overlay(image: np.ndarray, mask: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Lay the colours of a mask over an image: objects strongly, background not at all."""
    share = np.where((mask == 0) | (mask == IGNORE_INDEX), 0, 0.65)[..., None]
    return (share * palette[mask] + (1 - share) * image).round().astype(np.uint8)


def _picture(pixels: np.ndarray) -> str:
    """Return an image, made small, as a data: address."""
    image = Image.fromarray(pixels)
    image.thumbnail((10 * HEIGHT, HEIGHT))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
