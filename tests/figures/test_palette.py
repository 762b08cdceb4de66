"""The table of mask colours: found anew by the search that made it, apart for colour-blind readers."""

import numpy as np
import pytest
from skimage.color import deltaE_ciede2000

from pmm.data.images import VOC_CLASSES, class_palette, voc_palette
from pmm.figures import style

# Paul Tol's "muted"
MUTED = ("332288", "CC6677", "117733", "DDCC77", "88CCEE", "882255", "44AA99", "999933", "AA4499")
# Machado, Oliveira, Fernandes 2009, full severity; they act on linear RGB
DEUTERANOPIA = ((0.3673, 0.8606, -0.2280), (0.2801, 0.6725, 0.0474), (-0.0118, 0.0429, 0.9690))
PROTANOPIA = ((0.1523, 1.0526, -0.2049), (0.1145, 0.7863, 0.0992), (-0.0039, -0.0481, 1.0520))
READERS = (np.eye(3), np.array(DEUTERANOPIA), np.array(PROTANOPIA))


def to_lab(rgb, reader=READERS[0]):
    """Convert sRGB (..., 3) uint8 to CIELAB (..., 3) as one reader sees it."""
    value = np.asarray(rgb, dtype=np.float64) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ reader.T, 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = seen @ to_xyz.T / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def colour_distance(first, second):
    """Return the smallest CIEDE2000 distance that any of the READERS sees between colours (..., 3) uint8."""
    pairs = [np.broadcast_arrays(to_lab(first, r), to_lab(second, r)) for r in READERS]
    return np.min([deltaE_ciede2000(*pair) for pair in pairs], axis=0)


def search():
    """Fill the values after MUTED greedily: each is the candidate farthest from all before it."""
    colours = np.full((256, 3), 255, dtype=np.uint8)
    colours[0] = 205
    colours[1 : 1 + len(MUTED)] = [tuple(bytes.fromhex(c)) for c in MUTED]
    steps = np.arange(25, 245, 24)
    candidates = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
    taken = [*colours[: 1 + len(MUTED)], colours[255]]
    nearest = np.min([colour_distance(candidates, c) for c in taken], axis=0)
    for value in range(1 + len(MUTED), 255):
        colours[value] = candidates[nearest.argmax()]
        nearest = np.minimum(nearest, colour_distance(candidates, colours[value]))
    return colours


def test_the_table_is_what_the_search_finds():
    assert np.array_equal(class_palette(), search())


def test_every_mask_value_has_a_colour_of_its_own():
    colours = class_palette()
    assert colours.shape == (256, 3) and colours.dtype == np.uint8
    assert len({tuple(c) for c in colours.tolist()}) == 256


def test_colours_of_background_unknown_and_first_class_are_fixed():
    assert style.mask_to_rgb(np.array([[0, 255, 1]])).tolist() == [
        [[205, 205, 205], [255, 255, 255], [0x33, 0x22, 0x88]]
    ]


def test_first_classes_are_apart_for_colour_blind_readers():
    colours = class_palette()
    used = [*range(10), 255]
    gaps = [colour_distance(colours[i], colours[j]) for i in used for j in used if i < j]
    assert min(gaps) > 10  # CIEDE2000; 1 is just noticeable
    assert min(colour_distance(colours[i], colours[0]) for i in range(1, 81)) > 4


def test_classes_of_voc_have_the_colours_that_voc_gives_their_names():
    colours = class_palette(VOC_CLASSES)
    assert np.array_equal(colours[1:21], voc_palette()[1:21])
    assert colours[[0, 255]].tolist() == class_palette()[[0, 255]].tolist()
    chosen = class_palette(["background", "dog", "cat"])
    assert chosen[1:3].tolist() == [[64, 0, 128], [64, 0, 0]]


def test_other_names_get_colours_by_index():
    assert np.array_equal(class_palette(["background", "dog", "hamster"]), class_palette())


def test_cow_and_person_are_apart_in_either_table():
    cow, person = VOC_CLASSES.index("cow"), VOC_CLASSES.index("person")
    for colours in (class_palette(), class_palette(VOC_CLASSES)):
        assert colour_distance(colours[cow], colours[person]) > 10


def test_lab_of_known_colours():
    assert np.allclose(to_lab(np.array([255, 255, 255])), [100, 0, 0], atol=0.1)
    assert np.allclose(to_lab(np.array([255, 0, 0])), [53.2, 80.1, 67.2], atol=0.3)


def test_colour_blindness_hides_red_against_green():
    red, green = np.array([190, 80, 0]), np.array([110, 120, 0])
    assert colour_distance(red, green) < 0.5 * np.linalg.norm(to_lab(red) - to_lab(green))


def test_palette_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        class_palette()[0] = 1


def test_text_reads_on_its_ground():
    assert style.text_colour((0, 0, 0.3)) == "white" and style.text_colour((1, 1, 0.8)) == "black"


def test_text_turns_white_at_the_middle_of_the_lightness():
    colours = np.random.default_rng(0).random((2000, 3))
    light = to_lab(np.round(255 * colours))[:, 0] > 55
    assert [style.text_colour(c) == "black" for c in colours] == light.tolist()
