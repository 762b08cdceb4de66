"""One image's CAMs as a compressed .npz: class ids and maps."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pmm.errors import InputError
from pmm.files import whole_file
from pmm.method.cam import check_cam, check_class_ids


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
