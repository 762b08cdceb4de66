"""Image and mask files: every odd mode is converted, every bad file is refused in one line."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pmm.data.images import (
    index_images,
    read_image,
    read_mask,
    voc_palette,
    write_jpeg,
    write_mask,
)
from pmm.errors import InputError

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)


def refusal(call, *args, **kwargs) -> str:
    """Message of the refusal, which must be one line."""
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


def saved(tmp_path, image: Image.Image, name: str, **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def test_rgb_is_read_unchanged(tmp_path):
    image = read_image(saved(tmp_path, Image.fromarray(NOISE), "a.png"))
    assert image.dtype == np.uint8 and image.flags.writeable
    np.testing.assert_array_equal(image, NOISE)


def test_grayscale_becomes_three_equal_channels(tmp_path):
    image = read_image(saved(tmp_path, Image.fromarray(NOISE[..., 0]), "a.png"))
    np.testing.assert_array_equal(image, np.repeat(NOISE[..., :1], 3, axis=2))


def test_black_and_white(tmp_path):
    image = read_image(saved(tmp_path, Image.fromarray(NOISE[..., 0] > 127), "a.png"))
    np.testing.assert_array_equal(image[..., 1], np.where(NOISE[..., 0] > 127, 255, 0))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_is_scaled_not_clipped(tmp_path, suffix):
    gray = np.array([[0, 257, 32768, 65535]], np.uint16)
    path = saved(tmp_path, Image.fromarray(gray), f"a.{suffix}")
    np.testing.assert_array_equal(read_image(path)[0, :, 0], [0, 1, 128, 255])
    assert read_image(path).shape == (1, 4, 3)


def test_transparency_is_laid_on_white(tmp_path):
    pixels = np.array([[[200, 0, 0, 0], [200, 0, 0, 255], [200, 0, 0, 128]]], np.uint8)
    image = read_image(saved(tmp_path, Image.fromarray(pixels), "a.png"))
    np.testing.assert_array_equal(image[0, :2], [[255, 255, 255], [200, 0, 0]])
    assert 120 < image[0, 2, 1] < 135


def test_gray_with_alpha_is_laid_on_white(tmp_path):
    image = Image.merge("LA", [Image.new("L", (2, 1), 10), Image.new("L", (2, 1), 0)])
    assert (read_image(saved(tmp_path, image, "a.png")) == 255).all()


def test_palette_with_and_without_transparency(tmp_path):
    image = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    image.putpalette([9, 8, 7, 30, 20, 10])
    np.testing.assert_array_equal(read_image(saved(tmp_path, image, "a.png"))[0], [[9, 8, 7], [30, 20, 10]])
    path = saved(tmp_path, image, "b.png", transparency=0)
    np.testing.assert_array_equal(read_image(path)[0], [[255, 255, 255], [30, 20, 10]])


def test_cmyk_jpeg(tmp_path):
    path = saved(tmp_path, Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "a.jpg", quality=100)
    red = read_image(path)[4, 4]
    assert red[0] > 240 and red[1] < 15 and red[2] < 15


@pytest.mark.parametrize(("orientation", "turn"), [(1, 0), (3, 2), (6, -1), (8, 1)])
def test_exif_rotation_is_applied(tmp_path, orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, Image.fromarray(NOISE), "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(path), np.rot90(NOISE, turn))


def test_mask_of_a_turned_image_has_the_upright_size(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = saved(tmp_path, Image.fromarray(NOISE), "a.jpg", exif=exif)
    write_mask(tmp_path / "upright.png", np.zeros((9, 6), np.uint8))
    write_mask(tmp_path / "lying.png", np.zeros((6, 9), np.uint8))
    assert read_mask(tmp_path / "upright.png", 2, image).shape == (9, 6)
    message = refusal(read_mask, tmp_path / "lying.png", 2, image)
    assert "lying.png" in message and "9 x 6" in message and "6 x 9" in message


def test_missing_file_is_named(tmp_path):
    assert "nothing.jpg" in refusal(read_image, tmp_path / "nothing.jpg")
    assert "nothing.png" in refusal(read_mask, tmp_path / "nothing.png")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "tif"])
def test_truncated_file_is_refused(tmp_path, suffix):
    path = saved(tmp_path, Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)), f"a.{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert f"a.{suffix}" in refusal(read_image, path)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n1234"])
def test_corrupt_file_is_refused(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    assert "a.jpg" in refusal(read_image, tmp_path / "a.jpg")


def test_a_folder_is_refused(tmp_path):
    assert str(tmp_path) in refusal(read_image, tmp_path)


@pytest.mark.parametrize("pixels", [np.ones((2, 2), np.float32), np.full((2, 2), 70_000, np.int32)])
def test_float_and_32_bit_pixels_are_refused(tmp_path, pixels):
    assert "a.tif" in refusal(read_image, saved(tmp_path, Image.fromarray(pixels), "a.tif"))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_mask_survives_writing_and_reading(tmp_path_factory, height, width, seed):
    mask = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    path = tmp_path_factory.getbasetemp() / "mask.png"
    write_mask(path, mask)
    np.testing.assert_array_equal(read_mask(path), mask)


def test_mask_is_a_palette_png_in_the_given_colours(tmp_path):
    palette = np.arange(768).reshape(256, 3).astype(np.uint8)
    write_mask(tmp_path / "new" / "a.png", np.array([[0, 2]], np.int64), palette)
    with Image.open(tmp_path / "new" / "a.png") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.array(image.convert("RGB")), palette[[[0, 2]]])


def test_small_palettes_and_grayscale_are_read_as_indices(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 3]], np.uint8)).convert("P")
    image.putpalette([5, 5, 5, 6, 6, 6, 7, 7, 7, 8, 8, 8])
    np.testing.assert_array_equal(read_mask(saved(tmp_path, image, "a.png", bits=2)), [[0, 1, 3]])
    np.testing.assert_array_equal(read_mask(saved(tmp_path, Image.fromarray(NOISE[..., 0]), "b.png")), NOISE[..., 0])


def test_rgb_mask_is_refused(tmp_path):
    message = refusal(read_mask, saved(tmp_path, Image.fromarray(NOISE), "a.png"))
    assert "a.png" in message and "RGB" in message


def test_mask_values_that_are_no_class_are_named(tmp_path):
    write_mask(tmp_path / "a.png", np.array([[0, 3, 254, 255]]))
    assert read_mask(tmp_path / "a.png", 255).max() == 255
    message = refusal(read_mask, tmp_path / "a.png", 3)
    assert "a.png" in message and "3, 254;" in message and "0 to 2" in message
    assert "254;" in refusal(read_mask, tmp_path / "a.png", 4)


@pytest.mark.parametrize(
    "mask", [np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2)), np.full((2, 2), 256), np.full((2, 2), -1)]
)
def test_writing_a_wrong_mask_is_refused(tmp_path, mask):
    assert "mask" in refusal(write_mask, tmp_path / "a.png", mask)
    assert not os.listdir(tmp_path)


def test_jpeg_is_close_to_the_image(tmp_path):
    smooth = np.broadcast_to(np.linspace(0, 255, 32, dtype=np.uint8)[None, :, None], (32, 32, 3))
    write_jpeg(tmp_path / "new" / "a.jpg", smooth)
    assert np.abs(read_image(tmp_path / "new" / "a.jpg").astype(int) - smooth).max() < 8
    assert "image" in refusal(write_jpeg, tmp_path / "b.jpg", smooth[..., 0])
    assert "image" in refusal(write_jpeg, tmp_path / "b.jpg", smooth / 255)


def test_interrupted_writing_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    write_mask(tmp_path / "a.png", np.zeros((2, 2), np.uint8))

    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        write_mask(tmp_path / "a.png", np.ones((2, 2), np.uint8))
    assert os.listdir(tmp_path) == ["a.png"]
    assert read_mask(tmp_path / "a.png").max() == 0


def test_voc_palette_has_the_known_colours():
    palette = voc_palette()
    assert palette.shape == (256, 3) and palette.dtype == np.uint8
    known = {
        0: (0, 0, 0),
        1: (128, 0, 0),
        2: (0, 128, 0),
        8: (64, 0, 0),
        15: (192, 128, 128),
        20: (0, 64, 128),
    }
    for index, colour in {**known, 255: (224, 224, 192)}.items():
        assert tuple(palette[index]) == colour
    assert len(np.unique(palette, axis=0)) == 256


def test_index_ignores_what_is_no_image(tmp_path):
    for name in ("a.jpg", "a.png", "b.PNG", "c.txt", ".d.jpg"):
        (tmp_path / name).touch()
    assert index_images(tmp_path) == {"a": tmp_path / "a.jpg", "b": tmp_path / "b.PNG"}
