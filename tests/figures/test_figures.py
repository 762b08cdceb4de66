"""Style and panels of the notebooks' figures, and the figures of notebooks 01 to 03."""

import io
import json
import subprocess
import sys
from types import SimpleNamespace

import matplotlib as mpl
import nbformat
import numpy as np
import pytest
from PIL import Image

from pmm.errors import InputError
from pmm.figures import data, panels, style
from pmm.method.smoothing import MIN_EXPONENT, smooth_cam

ALT = 'A mask of "birds" & <fish>'
NAMES = ("background", "bird", "small_mammal")


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)


@pytest.fixture
def mask():
    mask = np.zeros((12, 16), np.uint8)
    mask[2:9, 2:7], mask[3:10, 9:15], mask[2] = 1, 2, 255
    return mask


def png_size(png):
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")


def texts(figure):
    figure.canvas.draw()
    return [t.get_text() for t in figure.findobj(mpl.text.Text) if t.get_text()]


# --- show


def test_show_keeps_png_and_captions(tmp_path, image, capsys):
    for name, *texts in [
        ("01_first", "First.", "Alt one."),
        ("02_second", "Old.", "Two."),
        ("02_second", "New.", "Three."),
    ]:
        style.show(panels.image_row([("a", image)]).say(*texts), name, tmp_path)
    folder = tmp_path / "figures"
    assert json.loads((folder / "captions.json").read_text()) == {
        "01_first": {"caption": "First.", "alt": "Alt one.", "notebook": "01", "file": "01_first.png"},
        "02_second": {"caption": "New.", "alt": "Three.", "notebook": "02", "file": "02_second.png"},
    }
    assert sorted(p.name for p in folder.iterdir()) == ["01_first.png", "02_second.png", "captions.json"]
    assert png_size((folder / "01_first.png").read_bytes())[0] > 300


def test_show_keeps_an_svg_on_request(tmp_path, image):
    for _ in range(2):
        style.show(panels.image_row([("a", image)]).say("First.", "Alt."), "01_first", tmp_path, svg=True)
    assert sorted(p.name for p in (tmp_path / "figures").iterdir()) == ["01_first.png", "01_first.svg", "captions.json"]
    drawn = (tmp_path / "figures" / "01_first.svg").read_bytes()
    assert b"<svg" in drawn and b"<image" in drawn and b"<text" not in drawn
    assert drawn == style.to_svg(panels.image_row([("a", image)]))


def test_show_without_a_run_writes_nothing(tmp_path, image, monkeypatch):
    monkeypatch.chdir(tmp_path)
    style.show(panels.image_row([("a", image)]).say("Caption.", "Alt."), "01_first")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("caption, alt", [("", "alt"), ("caption", " ")])
def test_show_demands_texts(image, caption, alt):
    with pytest.raises(InputError, match="caption or alt is empty"):
        style.show(panels.image_row([("a", image)]).say(caption, alt))


def test_show_demands_texts_of_a_plain_figure_too():
    with pytest.raises(InputError, match=r"figure\.say"):
        style.show(mpl.figure.Figure())


def test_a_figure_keeps_its_own_alternative_text_unless_told_another(image):
    figure = panels.image_row([("a", image)])
    assert figure.say("Caption.").alt == "Images: a." and figure.caption == "Caption."
    assert figure.say("Caption.", "Other.").alt == "Other."


@pytest.mark.parametrize("name", ["first", "1_first", "01_../first", "01_"])
def test_show_refuses_names_without_notebook_number(tmp_path, image, name):
    with pytest.raises(InputError, match="notebook's number"):
        style.show(panels.image_row([("a", image)]).say("c", "a"), name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_equal_figures_give_equal_files(image):
    first, second = (style.to_png(panels.image_row([("a", image)])) for _ in range(2))
    assert first == second


def test_show_closes_a_pyplot_figure():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    figure = pyplot.figure(FigureClass=style.CaptionedFigure)
    style.show(figure.say("c", "a"))
    assert figure.number not in pyplot.get_fignums()


def test_plotting_leaves_the_readers_settings():
    before = dict(mpl.rcParams)
    style.to_png(panels.bars({"a": 0.5}, "x"))
    assert dict(mpl.rcParams) == before


def test_alt_text_reaches_the_html(image):
    from bs4 import BeautifulSoup
    from nbconvert import HTMLExporter

    html = style.figure_html(style.to_png(panels.image_row([("a", image)])), "Birds & fish.", ALT)
    output = nbformat.v4.new_output("display_data", {"text/html": html, "text/plain": ALT}, metadata={"alt": ALT})
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("show()", outputs=[output])])
    page, _ = HTMLExporter().from_notebook_node(notebook)
    pictures = BeautifulSoup(page, "html.parser").select("figure img")
    assert [p["alt"] for p in pictures] == [ALT]
    assert BeautifulSoup(page, "html.parser").select_one("figcaption").text == "Birds & fish."


def test_displayed_output_is_html_with_alt(image, monkeypatch):
    import IPython.display

    shown = []
    monkeypatch.setattr(IPython.display, "display", lambda bundle, **options: shown.append((bundle, options)))
    style.show(panels.image_row([("a", image)]).say("Caption.", ALT))
    ((bundle, options),) = shown
    assert 'alt="A mask of &quot;birds&quot; &amp; &lt;fish&gt;"' in bundle["text/html"]
    assert options["metadata"] == {"alt": ALT} and options["raw"]


def test_figures_import_no_torch():
    code = (
        "import sys; import pmm.figures.style, pmm.figures.panels, pmm.figures.data, "
        "pmm.figures.masks; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- panels


def test_image_row_draws_all_kinds_and_names_the_classes(image, mask):
    heat = np.linspace(0, 1, 192, dtype=np.float32).reshape(12, 16)
    figure = panels.image_row([("image", image), ("mask", mask), ("heat", heat)], NAMES, heading="all")
    assert {"image", "mask", "heat", "all", "bird", "small mammal", "unknown (255)"} <= set(texts(figure))
    drawn = figure.axes[1].images[0].get_array()
    assert (np.asarray(drawn) == style.mask_to_rgb(mask)).all()


def test_image_row_wraps_titles_and_fills_rows(image):
    figure = panels.image_row([("a very long title that cannot fit one line of a panel", image)] * 5, columns=4)
    assert len(figure.axes) == 8 and "\n" in figure.axes[0].get_title()
    assert png_size(style.to_png(figure))[0] > 1000


def test_heat_overlay_is_brighter_where_hotter():
    grey = panels.heat_overlay(np.full((1, 3, 3), 128, np.uint8), np.array([[0.0, 0.5, 1.0]]))
    levels = grey[0].astype(int).sum(axis=-1)
    assert grey.dtype == np.uint8 and levels[0] < levels[1] < levels[2]


def test_names_stand_where_their_box_fits_best():
    region = np.zeros((6, 8), bool)
    region[1:3, 2:6] = region[5, 0] = True
    assert panels.best_place(region, 2, 4) == (3.5, 1.5, 1.0)
    assert panels.best_place(region, 2, 6)[2] == 8 / 12
    assert panels.best_place(region, 7, 1)[2] == 0


def test_small_regions_get_no_name(mask):
    tiny = np.zeros_like(mask)
    tiny[0, 0] = 2
    figure = panels.image_row([("mask", tiny)], NAMES)
    assert not figure.axes[0].texts


def test_histogram_shows_shares(image):
    figure = panels.histogram({"a": np.array([0.1, 0.1, 0.9]), "empty": np.array([])}, "x", bins=2, marks={"t": 0.5})
    assert [p.get_height() for p in figure.axes[0].patches] == pytest.approx([2 / 3, 1 / 3])
    assert "t" in texts(figure)


def test_curves_bars_and_tables_write_their_numbers():
    assert "40.0 %" in texts(panels.bars({"a": 0.4, "b": float("nan")}, "x"))
    assert "–" in texts(panels.bars({"a": 0.4, "b": float("nan")}, "x"))
    assert "3" in texts(panels.bars({"a": 3, "b": 1}, "x", percent=False))
    assert {"25.0 %", "–"} <= set(texts(panels.grouped_bars({"x": {"a": 0.25}, "y": {"a": 0.5, "b": 1.0}}, "IoU")))
    assert {"7", "0"} <= set(texts(panels.matrix(np.diag([7, 3]), "ab", "cd", "n")))
    assert {"one", "two"} <= set(texts(panels.curves({"one": ([0, 1], [1, 2]), "two": ([0], [3])}, "x", "y")))


def test_figures_describe_themselves(mask):
    shares = "background 54 %, bird 16 %, small mammal 22 %, unknown (255) 8 %"
    assert panels.image_row([("a\nmask", mask), ("", mask)], NAMES).alt == f"Images: a mask ({shares})."
    assert panels.heat_row([("heat", np.array([[0.0, 0.5]])), ("mask", mask)]).alt == "Images: heat (mean 0.25); mask."
    assert panels.bars({"small_mammal": 0.25}, "IoU").alt == "Bars of IoU: small mammal 25.0 %."
    two = {"x": {"a": 0.25}, "y": {"a": 0.5, "b": 1.0}}
    assert panels.grouped_bars(two, "IoU").alt == "Bars of IoU. x: a 25.0 %, b –; y: a 50.0 %, b 100.0 %."
    grids = [("g", np.array([[0.25, np.nan], [1, 0]])), ("h", np.array([[3, 4]]))]
    assert (
        panels.number_grids(grids, digits=1).alt == "Grids of numbers, row by row. g: 0.2 empty / 1.0 0.0; h: 3.0 4.0."
    )
    series = {"one": ([0, 1, 2], [1, 3, 2]), "two": ([0, 2], [5, 4])}
    alt = "Curves of y over x. one: 1 at 0, 2 at 2, highest 3 at 1; two: 5 at 0, 4 at 2."
    assert panels.curves(series, "x", "y").alt == alt
    assert panels.curves({"none": ([], [])}, "x", "y").alt == "Curves of y over x. none: no values."
    values = {"a": np.array([0.1, 0.3, 0.8]), "b": np.array([])}
    spread = "a, 3 values from 0.10 to 0.80, median 0.30; b, no values"
    assert panels.histogram(values, "share").alt == f"Histograms of share: {spread}."
    assert panels.matrix(np.diag([7, 3]), "ab", "cd", "n").alt == "A table of 2 by 2 numbers, n, from 0 to 7."


def test_miou_bars_name_what_and_where():
    figure = panels.miou_bars({"PPMG": {"miou": 0.5, "iou": {}}}, "mIoU of masks", "scenes, train")
    assert figure.caption == "mIoU of masks on scenes, train." and figure.alt == "Bars of mIoU of masks: PPMG 50.0 %."


def test_number_grids_leave_nan_empty():
    figure = panels.number_grids([("g", np.array([[0.25, np.nan]])), ("nan", np.full((1, 1), np.nan))])
    assert [t.get_text() for t in figure.axes[0].texts] == ["0.25"] and not figure.axes[1].texts


def test_heat_row_has_one_colour_bar(image):
    figure = panels.heat_row([("a", image), ("b", np.zeros((12, 16)))])
    assert len(figure.axes) == 3 and figure.axes[2].get_ylabel() == "activation"


# --- figures of notebooks 01 to 03


class OneScene:
    """A data set of one image that shows both classes, and an experiment with its CAM."""

    class_names = NAMES
    params = SimpleNamespace(s=0.3, t=0.05, variant="paper")
    data = property(lambda self: self)

    def cam(self, _):
        return [1, 2], np.linspace(0, 1, 384, dtype=np.float32).reshape(2, 12, 16)

    def __init__(self, image, mask):
        self.pixels, self.truth = image, mask

    def image(self, _):
        return self.pixels

    def mask(self, _):
        return self.truth

    def labels(self, _):
        return (1, 2)

    def has_mask(self, _):
        return self.truth is not None


def test_labelled_panels_with_and_without_mask(image, mask):
    assert [t for t, _ in data.labelled_panels(OneScene(image, mask), "x")] == [
        "weak label: bird, small mammal",
        "ground truth",
    ]
    assert len(data.labelled_panels(OneScene(image, None), "x")) == 1
    assert {"ground truth", "weak label: bird, small mammal"} <= set(texts(data.one_image(OneScene(image, mask), "x")))
    assert len(data.gallery(OneScene(image, mask), "xy").axes) == 4


def test_object_sheet_and_class_bars():
    assert "bird" in texts(data.object_sheet(["bird"], "val", count=2))
    assert {"4", "small mammal"} <= set(texts(data.class_bars([4, 1], NAMES, "images")))


MANY = ["background", *(f"class {number}" for number in range(30))]


def test_class_bars_hide_what_does_not_occur_and_begin_with_the_longest():
    figure = data.class_bars([0, 2, 5, *[0] * 27], MANY, "images")
    assert figure.alt == "Bars of images: class 2 5, class 1 2. 28 classes do not occur."
    assert "(28 classes do not occur)" in texts(figure)
    shares = data.class_bars([0.0, 0.5, np.nan, *[0.25] * 27], MANY, "AP", percent=True, shortest=True)
    assert shares.alt.startswith("Bars of AP: class 0 0.0 %, class 3 25.0 %")
    assert shares.alt.endswith("9 more classes; 1 class does not occur.") and "50.0 %" not in shares.alt


def test_bars_of_voc_have_its_colours():
    figure = data.class_bars([1, 2], ["background", "cat", "dog"], "images")
    assert figure.axes[0].patches[0].get_facecolor()[:3] == pytest.approx((64 / 255, 0, 128 / 255))


def test_meeting_classes_are_the_most_frequent_ones():
    meet = np.diag([3, 0, 7, *range(1, 28)])
    meet[0, 2] = meet[2, 0] = 2
    figure = data.meeting_figure(meet, MANY[1:])
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(names) == panels.MOST and names[0] == "class 29"
    assert "Most often meet class 0 and class 2 in 2. 9 more classes; 1 class does not occur." in figure.alt
    assert "No two classes meet." in data.meeting_figure(np.diag([1, 2]), ["a", "b"]).alt


def test_grouped_bars_say_how_many_more_there_are():
    figure = panels.grouped_bars({"x": dict.fromkeys(MANY, 0.5)}, "IoU")
    assert len(figure.axes[0].patches) == panels.MOST and figure.alt.endswith("11 more classes.")


def test_cam_panels_pad_missing_maps(image):
    row = data.cam_panels(image, [2], np.ones((1, 12, 16), np.float32), NAMES, n_maps=2)
    assert [title for title, _ in row] == ["image", "small mammal", ""]
    assert (row[2][1] == 255).all()


def test_figures_of_cams_know_their_classes(image, mask):
    scene = OneScene(image, mask)
    assert data.cams_figure(scene, ["x", "y"]).alt.count("bird; small mammal") == 2
    figure = data.scales_figure(image, np.ones((2, 3)), {"scale 1": np.ones((12, 16))}, "small_mammal")
    assert "small mammal" in figure.caption and "raw map, scale 1, 2 x 3 places" in figure.alt
    figure = data.extremes_figure(scene, {"even": (0.5, "x", 1), "uneven": (1.2, "x", 2)})
    assert figure.alt == "Images: image; bird, c_v = 0.50; image; small mammal, c_v = 1.20."
    figure = data.before_after_figure(scene, [(0.5, "x", 1), (1.2, "x", 2)])
    assert "bird (c_v 0.50), small mammal (c_v 1.20)" in figure.alt and "s = 0.3" in figure.caption


def test_coverage_figure_draws_both_shares():
    figure = data.coverage_figure({0.0: (0.5, 0.1), 0.3: (0.6, 0.2)}, s=0.3, images=7)
    lines = figure.axes[0].lines
    assert [list(line.get_ydata()) for line in lines[:2]] == [[0.5, 0.6], [0.1, 0.2]] and "7 training" in figure.caption


def test_coverage_by_hand():
    cam = np.array([[[0.9, 0.2], [0.6, 0.8]]], np.float32)
    target = np.array([[1, 1], [0, 255]], np.uint8)
    assert data.coverage(cam, [1], target) == {1: (1, 2, 1, 1)}


def test_smoothing_figures(image):
    scene = OneScene(image, None)
    axes = data.before_after_figure(scene, [(0.5, "x", 1)]).axes
    assert [axis.get_title() for axis in axes[:4]] == ["image", "bird: before", "bird: after", "added, 4 x brighter"]
    heat = scene.cam("x")[1][0]
    added = smooth_cam(heat[None], s=0.3, t=0.05, variant="paper")[0] - heat
    assert np.allclose(axes[3].images[0].get_array(), np.minimum(4 * added, 1), atol=1e-6) and added.max() > 0
    curve = data.power_curves({"high": 1.0}, s=0.5).axes[0].lines[1]
    assert np.allclose(curve.get_ydata(), curve.get_xdata() ** 0.5, atol=1e-6) and MIN_EXPONENT < 0.5
    assert "largest possible" in texts(data.variation_histogram(np.array([0.5]), 0.3, 2.12))


def test_a_picture_is_cut_to_its_margin_and_nothing_that_sticks_out_is_lost():
    figure, axes = style.new_figure(1, 1, 3.0)
    axes[0, 0].set_axis_off()
    axes[0, 0].fill([0.4, 0.6, 0.6, 0.4], [0.4, 0.4, 0.6, 0.6], color="black")
    inside = np.asarray(Image.open(io.BytesIO(style.to_png(figure))).convert("L"))
    margin = round(style.MARGIN * style.DPI)
    rows, columns = np.nonzero(inside < 255)
    assert (rows.min(), columns.min()) == (margin, margin)
    assert (inside.shape[0] - rows.max(), inside.shape[1] - columns.max()) == (margin + 1, margin + 1)
    figure.text(0.5, 0.995, "above\nthe edge", va="bottom")
    taller = np.asarray(Image.open(io.BytesIO(style.to_png(figure))).convert("L"))
    dark = np.nonzero((taller < 255).any(axis=1))[0]
    assert dark.min() > 0 and np.ptp(dark) > 1.5 * style.DPI
