"""CAM files of other projects: read as they are written, and never run."""

import pickle
import re
from collections import OrderedDict

import numpy as np
import pytest
import torch

from pmm.data.cams import FORMS, read_arrays, read_foreign_cams, save_cams, write_foreign_cams
from pmm.errors import InputError
from pmm.method.cam import normalize_cam

SIZE = 6, 8
MAPS = normalize_cam(np.random.default_rng(0).random((2, *SIZE), dtype=np.float32))
LABELS = [8, 15]  # cat and person


def keep(path, content):
    """Write as most projects do: np.save pickles what is no array."""
    np.save(path, content, allow_pickle=True)
    return path.with_suffix(".npy")


def pmm_dict(path):
    return keep(path, {7: MAPS[0], 14: MAPS[1]})


def numpy_keys(path):
    return keep(path, OrderedDict({np.int64(14): MAPS[1], np.int64(7): MAPS[0]}))


def irn_dict(path):
    strided = torch.from_numpy(MAPS[:, ::2, ::2].copy())
    return keep(path, {"keys": torch.tensor([7, 14]), "cam": strided, "high_res": MAPS})


def irn_one_based(path):
    return keep(path, {"keys": np.array([8, 15]), "cam": MAPS, "high_res": None})


def irn_of_lists(path):
    return keep(path, {"keys": [7, 14], "cam": [MAPS[0], MAPS[1]]})


def pickled(path):
    path.with_suffix(".pkl").write_bytes(pickle.dumps({8: MAPS[0], 15: MAPS[1]}))
    return path.with_suffix(".pkl")


def old_protocol(path):
    path.with_suffix(".pkl").write_bytes(pickle.dumps({8: MAPS[0], 15: torch.from_numpy(MAPS[1])}, protocol=2))
    return path.with_suffix(".pkl")


def stack_of_labels(path):
    return keep(path, MAPS)


def stack_of_classes(path):
    every = np.zeros((20, *SIZE), np.float32)
    every[[7, 14]] = MAPS
    return keep(path, every[None])


def irn_npz(path):
    np.savez(path.with_suffix(".npz"), keys=[7, 14], high_res=MAPS)
    return path.with_suffix(".npz")


def named_npz(path):
    np.savez(path.with_suffix(".npz"), **{"7": MAPS[0], "14": MAPS[1]})
    return path.with_suffix(".npz")


def bare_npz(path):
    np.savez(path.with_suffix(".npz"), MAPS)
    return path.with_suffix(".npz")


FORMATS = [
    *(pmm_dict, numpy_keys, irn_dict, irn_one_based, irn_of_lists, pickled, old_protocol),
    *(stack_of_labels, stack_of_classes, irn_npz, named_npz, bare_npz),
]


@pytest.mark.parametrize("write", FORMATS, ids=lambda write: write.__name__)
def test_every_format_gives_the_same_cam_bit_for_bit(tmp_path, write):
    ids, cam = read_foreign_cams(write(tmp_path / "a"), SIZE, LABELS, n_classes=20)
    assert ids.tolist() == LABELS and cam.dtype == np.float32
    np.testing.assert_array_equal(cam, MAPS)


def test_the_projects_own_files_need_no_labels(tmp_path):
    save_cams(tmp_path / "a.npz", [15, 8], MAPS[::-1])
    ids, cam = read_foreign_cams(tmp_path / "a.npz", SIZE)
    assert ids.tolist() == LABELS
    np.testing.assert_allclose(cam, MAPS, atol=1e-3)  # float16


@pytest.mark.parametrize("form", FORMS)
def test_what_is_written_for_other_projects_comes_back_bit_for_bit(tmp_path, form):
    kept = MAPS.astype(np.float16).astype(np.float32)  # as a run keeps its CAMs
    path = tmp_path / "deep" / ("a.npz" if form == "npz" else "a.npy")
    write_foreign_cams(path, [15, 8], kept[::-1], form)
    ids, cam = read_foreign_cams(path, SIZE, LABELS)
    assert ids.tolist() == LABELS and np.array_equal(cam, kept)
    if form == "npz":
        with np.load(path, allow_pickle=False) as content:
            assert content["class_ids"].tolist() == [15, 8] and content["cams"].dtype == np.float16
        return
    content = np.load(tmp_path / "deep" / "a.npy", allow_pickle=True).item()  # as their code reads it
    assert sorted(content["keys"] if form == "irn" else content) == [7, 14]
    with pytest.raises(InputError, match="form = seam: choose one of irn, pmm, npz"):
        write_foreign_cams(tmp_path / "b.npy", [8], MAPS[:1], "seam")


def test_what_counts_the_first_class_is_told_by_labels_or_by_the_user_and_never_guessed(tmp_path):
    path = pmm_dict(tmp_path / "a")
    assert read_foreign_cams(path, SIZE, first_class=0)[0].tolist() == [8, 15]
    assert read_foreign_cams(path, SIZE, first_class=1)[0].tolist() == [7, 14]
    for labels, first, words in (
        (None, None, "keys 7, 14 may count the classes from 0 or from 1; .*--first-class"),
        ([3], None, "keys 7, 14 are not the image's classes 3, neither counted from 1 nor from 0"),
        ([8, 15], 1, "maps are of the classes 7, 14, the image's labels are 8, 15"),
        ([8], None, "keys 7, 14 are not the image's classes 8"),
    ):
        with pytest.raises(InputError, match=rf"^{re.escape(str(path))}: its {words}"):
            read_foreign_cams(path, SIZE, labels, first)
    with pytest.raises(InputError, match="a stack of 2 maps does not say of which classes"):
        read_foreign_cams(stack_of_labels(tmp_path / "b"), SIZE)
    with pytest.raises(
        InputError, match=r"found 2 maps, which are neither of its 1 labels nor of all 20; correct the labels$"
    ):
        read_foreign_cams(stack_of_labels(tmp_path / "b"), SIZE, [3], n_classes=20)


def test_raw_maps_are_rectified_and_normalised_and_others_left_alone(tmp_path):
    raw = np.float16([[[-2, 0], [1, 4]]])
    assert read_foreign_cams(keep(tmp_path / "a", raw), (2, 2), [3])[1].tolist() == [[[0, 0], [0.25, 1]]]
    faint = np.float32([[[0, 0.1], [0.2, 0.4]]])  # within [0, 1], but it never reaches 1
    found = read_foreign_cams(keep(tmp_path / "b", faint), (2, 2), [3])[1]
    np.testing.assert_allclose(found, faint / 0.4, rtol=1e-6)
    lifted = np.float32([[[0.3, 0.5], [0.5, 1]]])  # its minimum stays: IRN divides by the maximum alone
    np.testing.assert_array_equal(read_foreign_cams(keep(tmp_path / "c", lifted), (2, 2), [3])[1], lifted)
    empty = keep(
        tmp_path / "d", {"keys": np.zeros(0, int), "cam": np.zeros((0, 2, 2)), "high_res": np.zeros((0, 4, 4))}
    )
    ids, cam = read_foreign_cams(empty, (4, 4), [])
    assert ids.shape == (0,) and cam.shape == (0, 4, 4)


def test_maps_of_another_size_are_scaled_to_the_image(tmp_path):
    small = np.float32([[[0, 1], [0, 1]]])
    _, cam = read_foreign_cams(keep(tmp_path / "a", small), (4, 8), [3])
    assert cam.shape == (1, 4, 8) and (np.diff(cam[0], axis=1) >= 0).all() and (cam[0, 0] == cam[0, 3]).all()
    expected = torch.nn.functional.interpolate(torch.from_numpy(small)[None], (4, 8), mode="bilinear")[0]
    np.testing.assert_allclose(cam, expected, atol=1e-6)


class Evil:
    """A pickle that would write a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_that_would_run_code_is_refused_before_it_does(tmp_path):
    victim = tmp_path / "written"
    inside = np.empty((), dtype=object)
    inside[()] = {7: Evil(victim)}
    hidden = tmp_path / "hidden.pkl"
    torch_pickle = pickle.dumps(Evil(victim))
    content = b"\x80\x02ctorch.storage\n_load_from_bytes\n" + pickle.dumps(torch_pickle)[2:-1] + b"\x85R."
    hidden.write_bytes(content)
    files = [keep(tmp_path / "a", inside), keep(tmp_path / "b", {7: Evil(victim), 14: MAPS[0]}), hidden]
    (tmp_path / "c.pkl").write_bytes(pickle.dumps(Evil(victim)))
    (tmp_path / "d.pkl").write_bytes(b"cos\nsystem\n(S'touch " + str(victim).encode() + b"'\ntR.")
    for path in [*files, tmp_path / "c.pkl", tmp_path / "d.pkl"]:
        with pytest.raises(InputError, match=rf"^{re.escape(str(path))}: "):
            read_foreign_cams(path, SIZE, LABELS)
    with pytest.raises(InputError, match=r"c\.pkl: holds (_io|io)\.open, which may run code"):
        read_arrays(tmp_path / "c.pkl")
    assert not victim.exists()


class Made:
    """Pickles as a call, with a state if there is one."""

    def __init__(self, *parts):
        self.parts = parts

    def __reduce__(self):
        return self.parts


RECONSTRUCT, RAW = np.array([1.0]).__reduce__()[0], b"A" * 8
BOMB = b")" + 60 * b"2\x86"  # a tuple of two tuples of two tuples ...: 2 ** 60 leaves
FORGED = {
    "pointers": pickle.dumps(Made(np.ndarray, ((1,), np.dtype("O"), RAW))),
    "pointers in a state": pickle.dumps(
        Made(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (1,), np.dtype("O"), False, RAW))
    ),
    "pointers in a record": pickle.dumps(
        Made(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (1,), np.dtype([("a", "O")]), False, RAW))
    ),
    "too few bytes": pickle.dumps(
        Made(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (1 << 40,), np.dtype("f8"), False, RAW))
    ),
    "a key that takes for ever": b"\x80\x02}" + BOMB + b"K\x01s.",
    "keys that take for ever": b"\x80\x02}(" + BOMB + b"K\x01u.",
    "a dict of such keys": b"\x80\x02(" + BOMB + b"K\x01d.",
    "a set of such": b"\x80\x04\x8f(" + BOMB + b"\x90.",
    "a deep key": b"\x80\x02}" + b")" + 1_000_000 * b"\x85" + b"K\x01s.",
    "nothing but tuples": b"\x80\x02" + BOMB + b".",
    "a kind of tuples": b"\x80\x02cnumpy\ndtype\n" + BOMB + b"\x85R.",
    "a list": pickle.dumps([MAPS[0], MAPS[1][:3]]),
    "a changed function": b"\x80\x02c_codecs\nencode\nN}X\x0c\x00\x00\x00__defaults__X\x01\x00\x00\x00a\x85s\x86b.",
    "one number as a huge map": pickle.dumps({7: torch.zeros(1).expand(1 << 20, 1 << 20), 14: torch.zeros(2, 2)}),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_pickle_is_refused_at_once_and_leaves_nothing_changed(tmp_path, name):
    path = tmp_path / "a.pkl"
    path.write_bytes(FORGED[name])
    with pytest.raises(InputError, match=rf"^{re.escape(str(path))}: ") as refusal:
        read_foreign_cams(path, SIZE, LABELS)
    assert len(str(refusal.value)) < 400
    assert read_foreign_cams(old_protocol(tmp_path / "b"), SIZE, LABELS)[0].tolist() == LABELS


def odd_contents():
    """Yield dicts that are no CAMs, though all their parts may be read, with a word of what is said."""
    yield {float("inf"): MAPS[0]}, "OverflowError"
    yield {2**70: MAPS[0]}, "OverflowError"
    yield {"keys": np.array(["dog"]), "cam": MAPS}, "array of <U3"
    yield {"class_ids": 3, "cams": MAPS}, "TypeError"
    yield {"keys": np.array([7]), "cam": 3.0}, "TypeError"
    yield {7: "text"}, "holds a str"
    yield np.zeros((2, 0, 0), np.float32), "array of shape"


def test_what_is_no_cam_is_one_line(tmp_path):
    for number, (content, word) in enumerate(odd_contents()):
        path = keep(tmp_path / str(number), content)
        with pytest.raises(InputError, match=rf"^{re.escape(str(path))}: .*{word}"):
            read_foreign_cams(path, SIZE, LABELS, n_classes=20)
    torch.save({7: torch.from_numpy(MAPS[0])}, tmp_path / "t.pkl")
    with pytest.raises(InputError, match=r"t\.pkl: was written by torch\.save; save numpy arrays instead"):
        read_foreign_cams(tmp_path / "t.pkl", SIZE, LABELS)


def test_tensors_of_any_kind_are_read(tmp_path):
    rounded = torch.from_numpy(MAPS).bfloat16()
    learned = {7: rounded[0], 14: torch.from_numpy(MAPS[1]).requires_grad_()}
    cam = read_foreign_cams(keep(tmp_path / "a", learned), SIZE, LABELS)[1]
    np.testing.assert_array_equal(cam, [rounded[0].float().numpy(), MAPS[1]])


def broken_files(folder):
    """Yield damaged or unknown CAM files with a word of what is said of each."""
    whole = pmm_dict(folder / "whole").read_bytes()
    for number, (content, word) in enumerate((
        (whole[: len(whole) // 2], "cannot be read"), (b"", "cannot be read"), (b"\x93NUMPY", "cannot be read"),
        (b"PK\x03\x04 no archive", "cannot be read"), (b"some text", "cannot be read"),
    )):  # fmt: skip
        path = folder / f"damaged{number}.npy"
        path.write_bytes(content)
        yield path, word
    np.savez(folder / "objects.npz", np.array([{}], dtype=object), allow_pickle=True)
    yield folder / "objects.npz", "cannot be read"
    yield keep(folder / "nan", np.full((2, *SIZE), np.nan, np.float32)), "NaN"
    yield keep(folder / "text", np.array([[["a"]]])), "array of <U1"
    yield keep(folder / "flat", np.zeros(4, np.float32)), "shape .4,."
    yield keep(folder / "names", {"cat": MAPS[0]}), "entries cat"
    yield keep(folder / "sizes", {7: MAPS[0], 14: MAPS[1][:3]}), "maps of the shapes"
    yield folder / "gone.npy", "no such file"


def test_damaged_and_unknown_files_are_refused_in_one_line(tmp_path):
    for path, word in broken_files(tmp_path):
        with pytest.raises(InputError, match=rf"^{re.escape(str(path))}: .*{word}") as refusal:
            read_foreign_cams(path, SIZE, LABELS, n_classes=20)
        assert "\n" not in str(refusal.value)
