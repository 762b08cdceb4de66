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
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pmm.data.images import SegmentationData, image_size
from pmm.errors import InputError, some
from pmm.files import plain_file, whole_file
from pmm.method.cam import check_cam, check_class_ids, normalize_cam, resize_maps

CAM_SUFFIXES = (".npz", ".npy", ".pkl", ".pickle")
# to write: IRN's and ReCAM's dict, PMM's and SEAM's, which count the first class as 0; arrays alone, the first being 1
FORMS = ("irn", "pmm", "npz")
STRIDE = 4  # of IRN's small maps
MOST_BYTES = 1 << 31  # of one file's arrays: a few bytes can stand for any number
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
    known = files_by_stem(folder, CAM_SUFFIXES)
    if missing := [i for i in image_ids if i not in known]:
        raise InputError(f"{folder}: no CAM for {len(missing)} of {len(image_ids)} images: {some(missing)}; add them")
    return [known[i] for i in image_ids]


def files_by_stem(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """Stem -> file of those with one of the suffixes, sorted; InputError where two have one stem."""
    files = [path for path in sorted(folder.iterdir()) if path.suffix in suffixes]
    found = {path.stem: path for path in files}
    if twice := [path.name for path in files if path != found[path.stem]]:
        raise InputError(f"{folder}: beside {twice[0]} lies another file of that image; remove one of the two")
    return found


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

    Maps of another size are scaled (bilinear). A map that is not normalised yet, that is, leaves [0, 1] or does not
    reach 1, is rectified and normalised by eq. 1; the others stay as they are.

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
    try:
        keys, maps, own_first = _keys_and_maps(read_arrays(path))
        first_class = own_first if own_first is not None else first_class
        if keys is None:
            ids, maps = _channels(maps, labels, n_classes)
        else:
            ids = _class_ids(keys, labels, first_class)
        ids = check_class_ids(ids, len(maps))
        order = np.argsort(ids)
        return ids[order], _fitted(np.asarray(maps)[order], size)
    except InputError as error:
        raise InputError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None
    except (TypeError, ValueError, OverflowError, MemoryError) as error:
        raise InputError(f"{path}: no CAM file ({type(error).__name__}: {error}); make this CAM again") from None


def write_foreign_cams(path: Path, class_ids: npt.ArrayLike, cams: npt.ArrayLike, form: str) -> None:
    """Write one image's CAMs as another project does; the file appears whole or not at all.

    Args:
        path: file to write, a .npy, or a .npz for that form; its folder is made where missing.
        class_ids, cams: as in `save_cams`; the values are kept as float32, as float16 in a .npz.
        form: of `FORMS`.

    Raises:
        InputError: as `save_cams`, or the form is unknown.
    """
    maps = check_cam(cams, "cams")
    keys = check_class_ids(class_ids, len(maps)) - 1
    if form not in FORMS:
        raise InputError(f"form = {form}: choose one of {', '.join(FORMS)}")
    if form == "npz":
        save_cams(path, class_ids, cams)
        return
    by_class = {int(key): each for key, each in zip(keys, maps, strict=True)}
    content = by_class if form == "pmm" else {"keys": keys, "cam": maps[:, ::STRIDE, ::STRIDE], "high_res": maps}
    with whole_file(path) as file:
        np.save(file, np.array(content, dtype=object), allow_pickle=True)


def _fitted(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bring raw or normalised maps (C,h,w) to the image's size and to [0,1]."""
    with np.errstate(over="ignore"):  # infinity is refused
        maps = np.asarray(maps, np.float32)
    if not np.isfinite(maps).all():
        raise InputError("found NaN or infinity in the maps; make this CAM again")
    maps = resize_maps(maps, size)
    if not len(maps):
        return maps
    low, top = maps.min(axis=(1, 2)), maps.max(axis=(1, 2))
    ready = (low >= 0) & (top <= 1 + 1e-3) & ((top == 0) | (top >= NEARLY_ONE))
    return np.where(ready[:, None, None], check_cam(maps.clip(0, 1)), normalize_cam(maps.clip(min=0)))


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
    raise InputError(
        f"found {len(maps)} maps, which are neither of its {len(labels)} labels{every}; correct the labels"
    )


def _listed(ids: Sequence[int]) -> str:
    return ", ".join(str(int(i)) for i in sorted(ids)[:8]) + (", ..." if len(ids) > 8 else "") or "none"


def _keys_and_maps(content: np.ndarray | dict[Any, Any]) -> tuple[Sequence[int] | None, np.ndarray, int | None]:
    """Find keys as the file counts, None in a bare stack, maps (C,h,w), and from what it counts where that is known."""
    if isinstance(content, np.ndarray):
        maps = content[0] if content.ndim == 4 and len(content) == 1 else content
        if maps.ndim != 3 or 0 in maps.shape[1:]:
            raise InputError(f"found an array of shape {maps.shape}; (C, H, W) expected")
        return None, _numbers(maps), None
    if {"class_ids", "cams"} <= content.keys():
        return _whole(content["class_ids"]), _stack(list(content["cams"])), 1
    if "keys" in content and content.keys() & {"high_res", "cam"}:
        maps = content["high_res"] if content.get("high_res") is not None else content["cam"]
        return _whole(np.ravel(content["keys"])), _stack(list(maps)), None
    try:
        keys = _whole(content)
    except (TypeError, ValueError):
        found = ", ".join(map(str, list(content)[:6]))
        raise InputError(f"found the entries {found}; no CAM file of those that are known") from None
    return keys, _stack([np.squeeze(_numbers(each)) for each in content.values()]), None


def _whole(keys: Iterable[Any]) -> list[int]:
    numbers = [int(key) for key in keys]
    if any(float(key) != number for key, number in zip(keys, numbers, strict=True)):
        raise InputError("counts classes by other than whole numbers; make this CAM again")
    return numbers


def _stack(maps: Sequence[np.ndarray]) -> np.ndarray:
    shapes = {_numbers(each).shape for each in maps}
    if len(shapes) > 1 or any(len(shape) != 2 or 0 in shape for shape in shapes):
        raise InputError(f"found maps of the shapes {', '.join(map(str, sorted(shapes)))}; one (H, W) expected")
    _check_bytes(sum(each.nbytes for each in maps))
    return np.stack(maps) if maps else np.zeros((0, 1, 1), np.float32)


def read_arrays(path: Path) -> np.ndarray | dict[Any, Any]:
    """Read the arrays of a .npy, .npz or pickle file: one array, or a dict of arrays by number or name.

    In a dict a value may also be None. A pickle is read by `_PlainUnpickler`, whatever numpy or torch put into it.

    Raises:
        InputError: missing, damaged, or refused.
    """
    plain_file(path)
    try:
        with open(path, "rb") as file:
            start = file.read(6)
            file.seek(0)
            if start.startswith(b"PK"):
                return _archive(file)
            if start == b"\x93NUMPY":
                version = np.lib.format.read_magic(file)
                first = version == (1, 0)
                dtype = getattr(np.lib.format, f"read_array_header_{1 if first else 2}_0")(file)[2]
                if not dtype.hasobject:
                    file.seek(0)
                    return np.load(file, allow_pickle=False)
            found = _finished(_PlainUnpickler(file).load())
        return {key: _finished(value) for key, value in found.items()} if isinstance(found, dict) else _numbers(found)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the name and the folder") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:  # damaged bytes raise anything
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise InputError(f"{path}: cannot be read ({reason}); is it complete, and a .npy, .npz or pickle?") from None


def _archive(file: Any) -> np.ndarray | dict[str, np.ndarray]:
    with np.load(file, allow_pickle=False) as archive:
        if any(name.endswith("data.pkl") for name in archive.files):
            raise InputError("was written by torch.save; save numpy arrays instead")
        _check_bytes(sum(member.file_size for member in archive.zip.infolist()))
        arrays = {name: _numbers(archive[name]) for name in archive.files}
    return next(iter(arrays.values())) if list(arrays) in (["arr_0"], ["cam"], ["cams"]) else arrays


def _check_bytes(count: int) -> None:
    if count > MOST_BYTES:
        raise InputError(f"holds {count >> 20} MiB of numbers; one image's maps have less than {MOST_BYTES >> 20}")


def _numbers(value: Any) -> np.ndarray:
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return value
    kind = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
    raise InputError(f"found {kind} where an array of numbers is expected; make the file again")


class _Dtype:
    """Stands for a numpy dtype in a pickle: plain numbers, or object for the dict that np.save wraps."""

    __slots__ = ("text",)

    def __init__(self, text: str, *_: Any):
        if not isinstance(text, str):
            raise InputError("holds an array of records; only arrays of numbers are read")
        self.text = text.lstrip("<>=|")

    def __setstate__(self, state: Sequence[Any]) -> None:
        if any(part is not None for part in state[2:5]) or state[1] not in ("<", ">", "=", "|"):
            raise InputError("holds an array of records; only arrays of numbers are read")
        self.text = state[1] + self.text

    @property
    def wraps(self) -> bool:
        """Whether it is the dtype object."""
        return self.text.lstrip("<>=|") in ("O", "O8")

    def array(self, content: Any) -> np.ndarray:
        """Read numbers from bytes."""
        dtype = np.dtype(self.text)
        if dtype.kind not in "biuf":
            raise InputError(f"holds an array of {dtype}; only arrays of numbers are read")
        return np.frombuffer(content, dtype)


class _Array:
    """Stands for a numpy array in a pickle until its content is known."""

    __slots__ = ("value",)

    def __setstate__(self, state: Sequence[Any]) -> None:
        _, shape, dtype, fortran, content = state
        if dtype.wraps:
            if tuple(shape) != () or not isinstance(content, list) or len(content) != 1:
                raise InputError("holds an array of objects; only arrays of numbers are read")
            self.value = content[0]
        else:
            self.value = dtype.array(content).reshape(shape, order="F" if fortran else "C")


class _Call:
    """Makes something that a pickle asks for; nothing about it can be changed."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]):
        object.__setattr__(self, "_make", make)

    def __setattr__(self, name: str, value: Any) -> None:
        raise InputError(f"sets {name} of a function; only arrays in plain containers are read")

    def __call__(self, *args: Any) -> Any:
        return self._make(*args)


def _finished(value: Any) -> Any:
    """Take an array out of what stands for it, make one of a list; leave dicts, numbers and None, refuse all else."""
    value = value.value if isinstance(value, _Array) else value
    if isinstance(value, list | tuple):
        parts = [part.value if isinstance(part, _Array) else part for part in value]
        _check_bytes(sum(getattr(part, "nbytes", 0) for part in parts))
        if all(isinstance(part, int | float) for part in parts) or all(isinstance(part, np.ndarray) for part in parts):
            return np.array(parts) if not parts or isinstance(parts[0], int | float) else np.stack(parts)
    if value is None or isinstance(value, dict | np.ndarray | int | float):
        return value
    raise InputError(f"holds a {type(value).__name__}; only arrays in a dict, or one array, are read")


def _tensor(storage: Any, offset: int, size: Sequence[int], stride: Sequence[int], *_: Any) -> np.ndarray:
    """Rebuild a torch tensor as an array; one that would repeat its numbers is refused: it may be of any size."""
    import torch

    tensor = torch._utils._rebuild_tensor(storage, offset, tuple(size), tuple(stride))
    if tensor.numel() > storage.size():
        raise InputError("holds a tensor that is larger than its content")
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy().copy()


def _storage(content: bytes) -> Any:
    import torch

    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _check_keys(keys: Iterable[Any]) -> None:
    if any(not isinstance(key, int | float | str | bytes) for key in keys):
        raise InputError("holds a dict whose keys are neither numbers nor text; other dicts are not read")


def _ordered_dict(pairs: Iterable[Any] = ()) -> dict[Any, Any]:
    pairs = [tuple(pair) for pair in pairs]
    _check_keys(pair[0] for pair in pairs)
    return dict(pairs)


def _latin(text: str, _: str = "latin1") -> bytes:
    return text.encode("latin1")


def _from_buffer(content: Any, dtype: _Dtype, shape: Sequence[int], order: str) -> np.ndarray:
    return dtype.array(content).reshape(shape, order="F" if order == "F" else "C")


KNOWN = {  # what a pickle of arrays asks for -> what it gets
    "_codecs.encode": _latin,
    "collections.OrderedDict": _ordered_dict,
    "numpy.ndarray": _Array,
    "numpy.dtype": _Dtype,
    "numpy._core.multiarray._reconstruct": lambda *_: _Array(),
    "numpy._core.multiarray.scalar": lambda dtype, content: dtype.array(content)[0].item(),
    "numpy._core.numeric._frombuffer": _from_buffer,
    "torch.storage._load_from_bytes": _storage,
    "torch._utils._rebuild_tensor_v2": _tensor,
}


class _PlainUnpickler(pickle._Unpickler):  # the one in Python: C's cannot be told what may be a key
    """Builds arrays and plain containers, and nothing else; not one function or class of numpy or torch is handed out.

    A key of a dict is a number or text: tuples of tuples, a few bytes each, would take for ever to hash.
    """

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a function or class that a pickle asks for."""
        made = KNOWN.get(f"{module.replace('numpy.core.', 'numpy._core.')}.{name}")
        if made is None:
            raise InputError(f"holds {module}.{name}, which may run code; only arrays in plain containers are read")
        return _Call(made)

    def _keyed(self, load: Callable[[pickle._Unpickler], None], keys: Sequence[Any]) -> None:
        _check_keys(keys)
        load(self)

    def load_setitem(self) -> None:
        """Set one item of a dict."""
        self._keyed(pickle._Unpickler.load_setitem, self.stack[-2:-1])

    def load_setitems(self) -> None:
        """Set several items of a dict."""
        self._keyed(pickle._Unpickler.load_setitems, self.stack[::2])

    def load_dict(self) -> None:
        """Build a dict from what lies on the stack."""
        self._keyed(pickle._Unpickler.load_dict, self.stack[::2])

    def load_set(self) -> None:
        """Refuse a set."""
        raise InputError("holds a set; only arrays in plain containers are read")

    dispatch: ClassVar = {
        **pickle._Unpickler.dispatch,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.DICT[0]: load_dict,
        **dict.fromkeys((pickle.EMPTY_SET[0], pickle.FROZENSET[0], pickle.ADDITEMS[0]), load_set),
    }
