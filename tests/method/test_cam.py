"""CAM arrays: normalisation against a slow loop, and files that survive a kill and refuse damage."""

import io

import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pmm.data.cams import load_cams, save_cams
from pmm.errors import InputError
from pmm.method.cam import check_cam, check_class_ids, normalize_cam

raw_cams = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5)),
    elements=st.floats(-(2.0**99), 2.0**99, width=32, allow_subnormal=False),
)


def random_cam(n_classes=2, height=4, width=5, seed=0):
    return np.random.default_rng(seed).random((n_classes, height, width), dtype=np.float32)


def test_normalize_by_hand():
    cam = np.array([[[2, 4, 6], [2, 3, 2], [6, 5, 4]]], dtype=np.float32)
    expected = [[[0, 0.5, 1], [0, 0.25, 0], [1, 0.75, 0.5]]]
    assert np.array_equal(normalize_cam(cam), expected)


@given(raw_cams)
def test_normalize_matches_the_equation(cam):
    result = normalize_cam(cam)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, oracles.normalize_cam(cam), rtol=1e-6, atol=1e-30)
    for channel, source in zip(result, cam, strict=True):
        assert channel.min() == 0
        assert channel.max() == (source.max() > source.min())


@given(raw_cams)
def test_normalize_commutes_with_permutation_and_flip(cam):
    result = normalize_cam(cam)
    assert np.array_equal(normalize_cam(cam[::-1]), result[::-1])
    assert np.array_equal(normalize_cam(cam[:, :, ::-1]), result[:, :, ::-1])


@pytest.mark.parametrize("cam", [np.full((2, 3, 3), 7.0), np.full((1, 1, 1), -2.0), np.zeros((0, 3, 3))])
def test_normalize_constant_channels_to_zeros(cam):
    result = normalize_cam(cam)
    assert result.shape == cam.shape
    assert not result.any()


def test_normalize_survives_the_whole_range_of_float32_and_integers():
    largest = np.finfo(np.float32).max
    assert np.array_equal(normalize_cam(np.array([[[-largest, 0, largest]]], np.float32)), [[[0, 0.5, 1]]])
    assert np.array_equal(normalize_cam(np.array([[[0, 255]]], np.uint8)), [[[0, 1]]])


def test_normalize_leaves_its_input_alone():
    cam = np.array([[[1.0, 3.0]]])
    before = cam.copy()
    normalize_cam(cam)
    assert np.array_equal(cam, before)


@pytest.mark.parametrize(
    "cam, found",
    [
        (np.full((1, 2, 2), np.nan), "NaN"),
        (np.array([[[0, np.inf]]]), "infinity"),
        (np.zeros((2, 2)), r"\(2, 2\)"),
        (np.zeros((1, 0, 2)), r"\(1, 0, 2\)"),
        (np.zeros((1, 2, 2), complex), "complex"),
        ([["a"]], "real numbers"),
    ],
)
def test_normalize_refuses(cam, found):
    with pytest.raises(InputError, match=f"cam.*{found}"):
        normalize_cam(cam)


@pytest.mark.parametrize(
    "cam, found",
    [
        (np.full((1, 2, 2), 1.1), "1.1"),
        (np.full((1, 2, 2), -0.5), "-0.5"),
        (np.ones((1, 2, 2), np.uint8), "uint8"),
        (np.full((1, 2, 2), np.nan), "NaN"),
    ],
)
def test_check_cam_refuses(cam, found):
    with pytest.raises(InputError, match=f"mymap.*{found}"):
        check_cam(cam, "mymap")


def test_check_cam_clips_rounding_only():
    result = check_cam(np.array([[[1 + 5e-7, -5e-7, 0.5]]]))
    assert np.array_equal(result, np.array([[[1, 0, 0.5]]], np.float32))


@pytest.mark.parametrize(
    "class_ids, found",
    [([1], "1 ids"), ([1, 1], "twice"), ([0, 1], "0 is outside"), ([1, 255], "255"), ([1.0, 2.0], "float64")],
)
def test_check_class_ids_refuses(class_ids, found):
    with pytest.raises(InputError, match=f"class_ids.*{found}"):
        check_class_ids(class_ids, 2)


@pytest.mark.parametrize("n_classes", [0, 1, 20])
def test_files_round_trip(tmp_path, n_classes):
    cams, ids = random_cam(n_classes), np.arange(n_classes)[::-1] + 1
    save_cams(tmp_path / "deep" / "a.npz", ids, cams)
    loaded_ids, loaded = load_cams(str(tmp_path / "deep" / "a.npz"))
    assert loaded_ids.dtype == np.int64 and loaded.dtype == np.float32
    assert np.array_equal(loaded_ids, ids)
    assert np.array_equal(loaded, cams.astype(np.float16).astype(np.float32))
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.npz"]


def test_files_hold_the_documented_types(tmp_path):
    save_cams(tmp_path / "a.npz", [3, 1], random_cam())
    with np.load(tmp_path / "a.npz", allow_pickle=False) as archive:
        assert {name: archive[name].dtype for name in archive.files} == {
            "class_ids": "int64",
            "cams": "float16",
        }


def test_same_content_gives_the_same_bytes(tmp_path):
    for name in ("a.npz", "b.npz"):
        save_cams(tmp_path / name, [3, 1], random_cam())
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    save_cams(path, [3, 1], random_cam())
    before = path.read_bytes()

    def half_written(file, **arrays):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", half_written)
    with pytest.raises(OSError, match="disk full"):
        save_cams(path, [3, 1], random_cam(seed=1))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_save_swaps_the_file_instead_of_writing_into_it(tmp_path):
    path, other_name = tmp_path / "a.npz", tmp_path / "link.npz"
    save_cams(path, [3, 1], random_cam())
    other_name.hardlink_to(path)  # a reader that has the old file open
    before = other_name.read_bytes()
    save_cams(path, [3, 1], random_cam(seed=1))
    assert other_name.read_bytes() == before != path.read_bytes()


def test_save_refuses_what_load_would_refuse(tmp_path):
    with pytest.raises(InputError, match="class_ids"):
        save_cams(tmp_path / "a.npz", [1], random_cam())
    with pytest.raises(InputError, match="cams"):
        save_cams(tmp_path / "a.npz", [1, 2], random_cam() + 1)
    assert not list(tmp_path.iterdir())


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


GOOD = npz(class_ids=np.array([1, 2]), cams=random_cam(height=40, width=50))


@pytest.mark.parametrize(
    "content, found",
    [
        (b"", "not a readable"),
        (b"PK\x03\x04 nonsense", "not a readable"),
        (b"text, not an archive", "not a readable"),
        (GOOD[:-30], "not a readable"),
        (GOOD[: len(GOOD) // 2], "not a readable"),
        (npy(np.zeros(3)), "single array"),
        (npy(np.array([{}], dtype=object)), "not a readable"),
        (npz(cams=random_cam()), "'class_ids' is missing"),
        (npz(class_ids=[1, 2]), "'cams' is missing"),
        (npz(class_ids=[1, 2], cams=np.array([None])), "not a readable"),
        (npz(class_ids=[1], cams=random_cam()), "class_ids: 1 ids"),
        (npz(class_ids=[1, 2], cams=random_cam()[0]), "cams: shape"),
        (npz(class_ids=[1, 2], cams=random_cam() * np.nan), "cams: holds NaN"),
        (npz(class_ids=[1, 2], cams=random_cam() * 3), "cams: values lie in"),
    ],
)
def test_load_names_the_damaged_file(tmp_path, content, found):
    path = tmp_path / "2007_000032.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"2007_000032.npz.*{found}") as error:
        load_cams(path)
    assert "\n" not in str(error.value)


def test_one_damaged_byte_anywhere_never_gives_wrong_maps(tmp_path):
    path, refused = tmp_path / "a.npz", 0
    save_cams(path, [3, 1], random_cam())
    good, content = load_cams(path), path.read_bytes()
    for position in range(len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :])
        try:
            loaded = load_cams(path)
        except InputError as error:
            assert "a.npz" in str(error)
            refused += 1
        else:  # dates and other bytes that nothing reads
            assert all(np.array_equal(a, b) for a, b in zip(loaded, good, strict=True))
    assert refused > len(content) / 2


def test_load_names_a_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"gone.npz: no such CAM file"):
        load_cams(tmp_path / "gone.npz")
    with pytest.raises(InputError, match="not a readable"):
        load_cams(tmp_path)
