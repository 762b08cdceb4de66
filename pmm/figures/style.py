"""The look of all figures: style, and `show`, which displays one with its alternative text and keeps it.

Each class has one colour, the same in every figure and mask file: see `pmm.data.images.class_palette`. No 80 colours
are safe for everybody, so figures also write the class names into the regions.
"""

from __future__ import annotations

import base64
import html
import io
import json
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from pmm.data.images import class_palette
from pmm.errors import InputError
from pmm.files import read_json, whole_file, write_text
from pmm.run.folder import RunFolder

WIDTH = 11.0  # inches; with DPI it makes 1,210 pixels, which a page or a slide shows at full width
DPI = 110
MARGIN = 0.08  # inches of white around a figure
SLIDE_DPI = 300  # of the pictures inside an SVG, which a slide shows larger than a page does
HEAT = "inferno"  # activations: dark is 0, bright is 1, monotone in lightness, so it survives a grey print
LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#555555", "#E69F00", "#56B4E9")  # Okabe and Ito's, in this order
DASHES = ("-", "--", "-.", ":")
STYLE = {
    **dict.fromkeys(("font.size", "axes.titlesize", "axes.labelsize"), 15),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 14),
    **dict.fromkeys(("legend.frameon", "axes.spines.top", "axes.spines.right", "axes.grid"), False),
    "figure.titlesize": 17,
    "figure.facecolor": "white",
    "grid.color": "0.88",
    "lines.linewidth": 2.6,
    "lines.markersize": 8,
    "image.interpolation": "nearest",
    "axes.prop_cycle": mpl.cycler(color=LINES),
}
styled = mpl.rc_context(STYLE)  # decorator of every plotting function; the reader's own rcParams stay as they are


def class_colour(value: int, class_names: Sequence[str] = ()) -> tuple[float, float, float]:
    """Return the colour of one mask value as red, green, blue in 0..1; `class_names` as in `class_palette`."""
    return tuple((class_palette(class_names)[int(value)] / 255).tolist())


def mask_to_rgb(mask: np.ndarray, class_names: Sequence[str] = ()) -> np.ndarray:
    """Return (H, W, 3) uint8 of a (H, W) mask with values 0..255; `class_names` as in `class_palette`."""
    return class_palette(class_names)[np.asarray(mask).astype(np.uint8)]


def text_colour(rgb: tuple[float, float, float]) -> str:
    """Return black or white, whichever reads better on a colour in 0..1: black from CIELAB's lightness L > 55 on."""
    value = np.round(np.array(rgb[:3]) * 255) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return "black" if linear @ (0.2126, 0.7152, 0.0722) > ((55 + 16) / 116) ** 3 else "white"


class CaptionedFigure(Figure):
    """A figure that carries its caption and its alternative text to `show`."""

    caption = ""  # one sentence under the figure
    alt = ""  # what a reader who cannot see it needs to know

    def say(self, caption: str, alt: str = "") -> CaptionedFigure:
        """Set the caption and, unless the figure describes itself well enough, the alternative text; return it."""
        self.caption, self.alt = caption, alt or self.alt
        return self


def new_figure(
    rows: int = 1, columns: int = 1, height: float = 4.2, width: float = WIDTH, **subplots: Any
) -> tuple[CaptionedFigure, np.ndarray]:
    """Make an empty figure outside pyplot, so that nothing shows it twice; return it with its (rows, columns) axes.

    Height and width are inches; `subplots` goes to `Figure.subplots`, such as width_ratios or sharey.
    """
    figure = CaptionedFigure(figsize=(width, height), dpi=DPI, layout="constrained")
    figure.get_layout_engine().set(h_pad=0.07)
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **subplots)


def wrap(text: str, inches: float, points: float = 15) -> str:
    """Break a title into lines that fit a panel of the given width."""
    letters = max(8, int(inches * 72 / (points * 0.56)))
    return "\n".join(textwrap.fill(line, letters) for line in text.split("\n"))


def to_png(figure: Figure) -> bytes:
    """Return the figure as PNG, cut to what is drawn and a narrow margin; equal figures give equal bytes.

    Draws once and cuts the pixels; only a figure that reaches the edge, where something may stick out, is left to
    `savefig(bbox_inches="tight")`, which lays out and draws everything twice.
    """
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[..., :3]
        drawn = (pixels != 255).any(axis=2)
        if drawn[[0, -1]].any() or drawn[:, [0, -1]].any():
            figure.savefig(buffer, format="png", bbox_inches="tight", pad_inches=MARGIN, metadata={"Software": None})
            return buffer.getvalue()
    if drawn.any():
        margin = round(MARGIN * DPI)
        ends = [np.flatnonzero(drawn.any(axis=axis))[[0, -1]] for axis in (1, 0)]
        pixels = pixels[tuple(slice(max(first - margin, 0), last + 1 + margin) for first, last in ends)]
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="png", dpi=(DPI, DPI))
    return buffer.getvalue()


def to_svg(figure: Figure) -> bytes:
    """Return the figure as SVG, letters as outlines to look the same everywhere; equal figures give equal bytes."""
    buffer = io.BytesIO()
    with mpl.rc_context({**STYLE, "svg.hashsalt": "pmm", "svg.fonttype": "path"}):
        figure.savefig(
            buffer, format="svg", dpi=SLIDE_DPI, bbox_inches="tight", pad_inches=MARGIN, metadata={"Date": None}
        )
    return buffer.getvalue()


def show(
    figure: CaptionedFigure, name: str | None = None, run: RunFolder | Path | None = None, svg: bool = False
) -> None:
    """Display a figure with its caption and alternative text; keep it in the run folder.

    JupyterLab and nbconvert's default template both drop an alternative text that stands in a PNG output's metadata.
    So the output is HTML: a figure element with the PNG, its `alt` and the caption.

    Args:
        figure: drawn figure that has been told its caption, see `CaptionedFigure.say`; it is closed.
        name: file name without suffix, beginning with the notebook's number, such as `01_scenes`.
        run: run folder; with name, it gets figures/<name>.png and an entry in figures/captions.json.
        svg: keep figures/<name>.svg beside it, for a slide.

    Raises:
        InputError: the figure lacks caption or alt, or name does not begin with two digits and `_`.
    """
    from IPython.display import display  # the two take a second, and only notebooks need them
    from matplotlib import pyplot

    caption, alt = (getattr(figure, text, "") for text in ("caption", "alt"))
    if not caption.strip() or not alt.strip():
        raise InputError("show: caption or alt is empty; give the figure both with figure.say(caption, alt)")
    png = to_png(figure)
    if name is not None and run is not None:
        folder = Path(getattr(run, "path", run))
        keep(png, caption, alt, name, folder)
        if svg:
            with whole_file(folder / "figures" / f"{name}.svg") as file:
                file.write(to_svg(figure))
    page = figure_html(png, caption, alt)
    display({"text/html": page, "text/plain": f"[figure] {alt}"}, raw=True, metadata={"alt": alt})
    pyplot.close(figure)


def keep(png: bytes, caption: str, alt: str, name: str, folder: Path) -> None:
    """Write figures/<name>.png below a run folder and note its texts in figures/captions.json."""
    if not re.fullmatch(r"\d\d_[A-Za-z0-9_.-]+", name):
        raise InputError(f"name = {name!r}: begin with the notebook's number, such as 01_scenes")
    target = folder / "figures" / f"{name}.png"
    with whole_file(target) as file:
        file.write(png)
    entry = {"caption": caption, "alt": alt, "notebook": name[:2], "file": target.name}
    captions = read_json(target.with_name("captions.json")) | {name: entry}
    write_text(target.with_name("captions.json"), json.dumps(captions, indent=1, sort_keys=True))


def figure_html(png: bytes, caption: str, alt: str) -> str:
    """Return the figure element that carries picture, alternative text and caption."""
    width = round(int.from_bytes(png[16:20], "big") * 96 / DPI)
    source = base64.b64encode(png).decode("ascii")
    texts = f'alt="{html.escape(alt)}" width="{width}" style="max-width:100%"'
    image = f'<img src="data:image/png;base64,{source}" {texts}>'
    return f'<figure style="margin:0">{image}<figcaption>{html.escape(caption)}</figcaption></figure>'


def as_percent(value: float, digits: int = 1) -> str:
    """Write a fraction as per cent; not-a-number as a dash."""
    return "–" if value is None or not np.isfinite(value) else f"{100 * value:.{digits}f} %"


def spaced(name: str) -> str:
    """Return a class name as prose writes it: without underscores."""
    return name.replace("_", " ")
