"""CAM files: the project's own, and those that other projects write. Nothing that lies in a file is ever run.

this project                {class_ids: (C,), cams: (C, H, W)}               .npz
PMM, SEAM                   {class: (H, W)}                                  pickled dict in .npy or .pkl
IRN, ReCAM                  {keys: (C,), cam: (C, h, w), high_res: (C, H, W)}    the same, or .npz
anybody                     (C, H, W), a channel a label or a channel a class    .npy, .npz
"""

from __future__ import annotations

import io
import os
import pickle
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pmm.data.images import SegmentationData, image_size
from pmm.errors import InputError
from pmm.files import whole_file
from pmm.method.cam import check_cam, check_class_ids, normalize_cam, resize_maps

CAM_SUFFIXES = (".npz", ".npy", ".pkl", ".pickle")
FORMS = ("irn", "pmm")  # to write: IRN's and ReCAM's dict, PMM's and SEAM's; both count the first class as 0
STRIDE = 4  # of IRN's small maps
NEARLY_ONE = 0.99  # a normalised map's maximum, as float16 or a smaller size may have left it


def save_cams(path: str | os.PathLike, class_ids: npt.ArrayLike, cams: npt.ArrayLike) -> None:
    """Write one image's CAMs as a compressed .npz; the file appears whole or not at all.

    Args:
        path: file to write; its folder is made where missing.
        class_ids: (C,) mask values of the classes present, each in 1..254 and unique; stored as int64.
        cams: (C, H, W) in [0, 1], channel i belongs to class_ids[i]; stored as float16 to save space.

    Raises:
        InputError: as in `check_cam` and `check_class_ids`.
    """
    maps = check_cam(cams, "cams")
    ids = check_class_ids(class_ids, len(maps))
    with whole_file(Path(path)) as file:
        np.savez_compressed(file, class_ids=ids, cams=maps.astype(np.float16))


def load_cams(path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
    """Read one image's CAMs, as `save_cams` wrote them: class_ids (C,) int64 and cams (C, H, W) float32 in [0, 1].

    Raises:
        InputError: the file is missing, truncated or no .npz, or lacks one of the two arrays.
        InputError: the arrays do not fit each other, hold NaN, or leave [0, 1].
    """
    raw_ids, raw_cams = _read_npz(Path(path), ("class_ids", "cams"))
    try:
        cams = check_cam(raw_cams, "cams")
        return check_class_ids(raw_ids, len(cams)), cams
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _read_npz(path: Path, names: tuple[str, ...]) -> list[np.ndarray]:
    try:
        with open(path, "rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise InputError(f"{path}: a .npz archive expected, got a single array; write it with save_cams")
            missing = [name for name in names if name not in archive.files]
            if missing:
                raise InputError(f"{path}: array {missing[0]!r} is missing, found {archive.files}")
            return [archive[name] for name in names]
    except FileNotFoundError:
        raise InputError(f"{path}: no such CAM file; make the CAMs first (notebook 02)") from None
    except InputError:
        raise
    except Exception as error:  # a damaged byte may raise anything from zlib.error to tokenize.TokenError
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not a readable CAM file ({reason}); delete it and make it again") from None


def find_cam_files(folder: Path, image_ids: Sequence[str]) -> list[Path]:
    """Find the CAM file of each image in a folder; InputError that lists the first images without one."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of CAMs; check the name")
    known = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix in CAM_SUFFIXES}
    if missing := [i for i in image_ids if i not in known]:
        listed = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise InputError(f"{folder}: no CAM for {len(missing)} of {len(image_ids)} images: {listed}; add them")
    return [known[i] for i in image_ids]


def read_cams_of(data: SegmentationData, image_id: str, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Do as `read_foreign_cams` for an image of a data set, whose file numbers all its classes, chosen or not."""
    whole = getattr(data, "whole", data)
    size = image_size(data.image_path(image_id))[::-1]
    ids, cams = read_foreign_cams(path, size, whole.labels(image_id), n_classes=len(whole.class_names) - 1)
    return np.array([data.class_names.index(whole.class_names[i]) for i in ids], np.int64), cams


def read_foreign_cams(
    path: Path,
    size: tuple[int, int],
    labels: Sequence[int] | None = None,
    first_class: int | None = None,
    n_classes: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Read one image's CAMs as any of the projects above writes them, at the image's size and normalised.

    Maps of another size are scaled (bilinear). Maps that are not normalised yet, that is, leave [0, 1] or do not reach
    1, are rectified and normalised by eq. 1; the others stay as they are.

    Args:
        path: the file.
        size: height and width of the image, pixels.
        labels: class ids 1..n of the image, if known; the file must hold a map of each and of no other class.
        first_class: the key, 0 or 1, that the file gives the first class; by default it is told from the labels.
        n_classes: number of classes without the background, where a file may hold a channel for each.

    Returns:
        class_ids (C,) int64, sorted, and cams (C, H, W) float32 in [0, 1].

    Raises:
        InputError: the file is missing, damaged, or none of these; it holds more than arrays and plain containers; its
            classes are not the image's or cannot be told; its maps are not finite.
    """
    keys, maps, own_first = _keys_and_maps(path)
    first_class = own_first if own_first is not None else first_class
    try:
        if keys is None:
            ids, maps = _channels(maps, labels, n_classes)
        else:
            ids = _class_ids(keys, labels, first_class)
        ids = check_class_ids(ids, len(maps))
        order = np.argsort(ids)
        return ids[order], _fitted(np.asarray(maps)[order], size)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def write_foreign_cams(path: Path, class_ids: npt.ArrayLike, cams: npt.ArrayLike, form: str) -> None:
    """Write one image's CAMs as another project does; the file appears whole or not at all.

    Args:
        path: file to write, a .npy; its folder is made where missing.
        class_ids, cams: as in `save_cams`; the values are kept as float32.
        form: of `FORMS`.

    Raises:
        InputError: as `save_cams`, or the form is unknown.
    """
    maps = check_cam(cams, "cams")
    keys = check_class_ids(class_ids, len(maps)) - 1
    if form not in FORMS:
        raise InputError(f"form = {form}: choose one of {', '.join(FORMS)}")
    by_class = {int(key): each for key, each in zip(keys, maps, strict=True)}
    content = by_class if form == "pmm" else {"keys": keys, "cam": maps[:, ::STRIDE, ::STRIDE], "high_res": maps}
    with whole_file(path) as file:
        np.save(file, np.array(content, dtype=object), allow_pickle=True)


def _fitted(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bring raw or normalised maps (C,h,w) to the image's size and to [0,1]."""
    maps = np.asarray(maps, np.float32)
    if not np.isfinite(maps).all():
        raise InputError("found NaN or infinity in the maps; make this CAM again")
    maps = resize_maps(maps, size)
    if not len(maps):
        return maps
    top = maps.max(axis=(1, 2))
    if maps.min() >= 0 and top.max() <= 1 + 1e-3 and (top[top > 0] >= NEARLY_ONE).all():
        return check_cam(maps.clip(0, 1))
    return normalize_cam(maps.clip(min=0))


def _class_ids(keys: Sequence[int], labels: Sequence[int] | None, first_class: int | None) -> np.ndarray:
    """Turn a file's keys, which count from 0 or from 1, into class ids."""
    keys = np.asarray(keys, np.int64)
    if first_class is None and len(keys):
        if labels is None:
            raise InputError(
                f"its keys {_listed(keys)} may count the classes from 0 or from 1; give the images' labels, "
                "or say which with --first-class"
            )
        fits = [first for first in (0, 1) if set(keys + 1 - first) == set(labels)]
        if not fits:
            raise InputError(
                f"its keys {_listed(keys)} are not the image's classes {_listed(labels)}, neither counted from 1 nor "
                "from 0; correct the labels or the order of the classes (--classes)"
            )
        first_class = fits[0]
    ids = keys + 1 - (first_class or 0)
    if labels is not None and set(ids) != set(labels):
        raise InputError(
            f"its maps are of the classes {_listed(ids)}, the image's labels are {_listed(labels)}; correct the labels "
            "or --first-class"
        )
    return ids


def _channels(
    maps: np.ndarray, labels: Sequence[int] | None, n_classes: int | None
) -> tuple[Sequence[int], np.ndarray]:
    """Tell which class each channel of a bare stack is of."""
    if labels is None:
        raise InputError(f"a stack of {len(maps)} maps does not say of which classes; give the images' labels")
    labels = sorted(labels)
    if len(maps) == len(labels):
        return labels, maps
    if len(maps) == n_classes:
        return labels, maps[[label - 1 for label in labels]]
    every = f" nor of all {n_classes}" if n_classes else ""
    raise InputError(f"found {len(maps)} maps, which are neither of its {len(labels)} labels{every}")


def _listed(ids: Sequence[int]) -> str:
    return ", ".join(str(int(i)) for i in sorted(ids)[:8]) + (", ..." if len(ids) > 8 else "") or "none"


def _keys_and_maps(path: Path) -> tuple[Sequence[int] | None, np.ndarray, int | None]:
    """Find keys as the file counts, None in a bare stack, maps (C,h,w), and from what it counts where that is known."""
    content = read_arrays(path)
    if not isinstance(content, dict):
        maps = np.asarray(content)
        maps = maps[0] if maps.ndim == 4 and len(maps) == 1 else maps
        if maps.ndim != 3 or maps.dtype.kind not in "fiu":
            raise InputError(f"{path}: found an array of {maps.dtype} and shape {maps.shape}; (C, H, W) expected")
        return None, maps, None
    if {"class_ids", "cams"} <= content.keys():
        return [int(i) for i in content["class_ids"]], np.asarray(content["cams"]), 1
    if "keys" in content and content.keys() & {"high_res", "cam"}:
        maps = content["high_res"] if content.get("high_res") is not None else content["cam"]
        return [int(key) for key in np.ravel(content["keys"])], _stack(path, list(np.asarray(maps))), None
    try:
        keys = [int(key) for key in content]
    except (TypeError, ValueError):
        found = ", ".join(map(str, list(content)[:6]))
        raise InputError(f"{path}: found the entries {found}; no CAM file of those that are known") from None
    return keys, _stack(path, [np.squeeze(np.asarray(each)) for each in content.values()]), None


def _stack(path: Path, maps: Sequence[np.ndarray]) -> np.ndarray:
    shapes = {each.shape for each in maps}
    if len(shapes) > 1 or any(len(shape) != 2 or 0 in shape for shape in shapes):
        raise InputError(f"{path}: found maps of the shapes {', '.join(map(str, sorted(shapes)))}; one (H, W) expected")
    return np.stack(maps) if maps else np.zeros((0, 1, 1), np.float32)


def read_arrays(path: Path) -> Any:
    """Read the arrays of a .npy, .npz or pickle file: one array, or a dict.

    A pickle may hold numpy arrays, torch tensors, numbers, text, lists, tuples and dicts. Anything else, which could
    run code when it is loaded, is refused before it is built.

    Raises:
        InputError: missing, damaged, or refused.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(6)
            file.seek(0)
            if start.startswith(b"PK"):
                with np.load(file, allow_pickle=False) as archive:
                    arrays = {name: archive[name] for name in archive.files}
                return next(iter(arrays.values())) if list(arrays) in (["arr_0"], ["cam"], ["cams"]) else arrays
            if start == b"\x93NUMPY":
                version = np.lib.format.read_magic(file)
                read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else None
                dtype = (read_header or np.lib.format.read_array_header_2_0)(file)[2]
                if not dtype.hasobject:
                    file.seek(0)
                    return np.load(file, allow_pickle=False)
            found = _PlainUnpickler(file).load()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the name and the folder") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:  # damaged bytes raise anything
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise InputError(f"{path}: cannot be read ({reason}); is it complete, and a .npy, .npz or pickle?") from None
    return found.item() if isinstance(found, np.ndarray) and found.dtype == object and found.ndim == 0 else found


def _tensor_of_bytes(content: bytes) -> Any:
    import torch

    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _latin(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise InputError("found text that is no numpy array's")
    return text.encode("latin1")


class _PlainUnpickler(pickle.Unpickler):
    """Builds arrays and plain containers, whatever numpy or torch wrote them, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what a pickle may call."""
        module = module.replace("numpy.core.", "numpy._core.")
        own = {("_codecs", "encode"): _latin, ("collections", "OrderedDict"): OrderedDict}
        own |= {("torch.storage", "_load_from_bytes"): _tensor_of_bytes}
        if (module, name) in own:
            return own[module, name]
        known = {"numpy": ("ndarray", "dtype"), "numpy._core.multiarray": ("_reconstruct", "scalar")}
        known |= {"numpy._core.numeric": ("_frombuffer",), "torch._utils": ("_rebuild_tensor_v2",)}
        if name in known.get(module, ()):
            return super().find_class(module, name)
        raise InputError(f"holds {module}.{name}, which may run code; only arrays in plain containers are read")
