"""Executed notebooks as HTML pages with a table of contents, and one index of them.

A page stands alone: figures are embedded, equations are MathML, nothing is loaded from elsewhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape, unescape
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import jinja2
import nbformat
from latex2mathml.converter import convert
from markupsafe import Markup
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath, MathInlineParser

import pmm
from pmm.errors import InputError
from pmm.files import read_json, write_text
from pmm.run.folder import RunFolder

TEMPLATES = Path(__file__).parent / "templates"
WIDGET = "application/vnd.jupyter.widget-view+json"
NOTE = "(an interactive widget: open the notebook)\n"
BAR = re.compile(r"\d+%\|.*\|")
"""The text of a progress bar of tqdm, `epoch: 50%|#####     | 1/2`; other widgets have none like it."""
EXPLORER_STAGE, EXPLORER_DATA = "explorer", "data.json"
"""Stage of a run that holds what its live pages work on, and the file: `pmm.explore.page` makes it."""
LIVE = {
    "03": ("smoothing",),
    "04": ("masks",),
    "05": ("underfitting",),
    "08": ("smoothing", "masks", "underfitting"),
}
"""Number of a notebook -> views that its page shows in the place of the widget."""
PARTS = {"smoothing": {"cam"}, "masks": {"cam", "foreground", "truth"}, "underfitting": {"truth", "learned", "loss"}}
"""View -> what it needs of a scene beside the photograph."""
FORMULAS = {
    "smoothing": {
        "the pixels above t, how uneven they are (eq. 5), and the power that lifts them (eq. 6):": (
            r"c_v = \frac{\sqrt{D(X^{(f)})}}{E(X^{(f)})}",
            r"X^{(s)} = {X^{(n)}}^{\, 1 - s \cdot c_v}",
        ),
    },
    "masks": {
        "background (eq. 2), each class against it alone, proportion (eq. 8), and who wins (Algorithm 1):": (
            r"bg = (1 - X^{(s)})^{\alpha}",
            r"X^{(m)} = \text{crf}(I, [bg, X^{(s)}])",
            r"P = \frac{X^{(n)}}{\sum X^{(n)} X^{(m)}}",
            r"Y = \operatorname{argmax}(X^{(m)} P)",
        ),
    },
    "underfitting": {
        "the gate (eq. 10): PUS acts while the mean loss is below beta; clamp (11), pow (12), ignore (13):": (
            r"E(L) < \beta",
            r"L \cdot \frac{\kappa}{L}",
            r"L^{\kappa}",
            r"0 \text{ where } L \geq \kappa",
        ),
    },
}
"""View -> what its formulas say, and the formulas as TeX."""
LEARN = re.compile(r"^\|\s*\*\*You learn\*\*\s*\|\s*(.+?)\s*\|\s*$", re.M)


@dataclass(frozen=True)
class Part:
    """One heading of a page: the id to link to, its text as HTML, 1 for the page's title."""

    anchor: str
    title: Markup
    level: int


@dataclass(frozen=True)
class Page:
    """An exported notebook: name without suffix, title and what it teaches as HTML, its headings."""

    name: str
    title: Markup
    learn: Markup
    parts: tuple[Part, ...]

    @property
    def file(self) -> str:
        """Name of the page, beside the notebook."""
        return f"{self.name}.html"


class PageRenderer(IPythonRenderer):
    """Renders Markdown with formulas as MathML and links to notebooks as links to their pages; notes its headings."""

    def __init__(self, attachments: dict[str, dict[str, str]] | None = None, folder: str = ""):
        super().__init__(escape=False, attachments=attachments)
        self.folder = folder
        self.parts: list[Part] = []

    def inline_math(self, body: str) -> str:
        """Translate the TeX of `$...$`."""
        return _mathml(body, "inline")

    def block_math(self, body: str) -> str:
        """Translate the TeX of `$$...$$`."""
        return _mathml(body, "block")

    def latex_environment(self, name: str, body: str) -> str:
        """Translate an environment that stands without dollars."""
        return _mathml(rf"\begin{{{name}}}{body}\end{{{name}}}", "block")

    def link(self, text: str, url: str, title: str | None = None) -> str:
        """Link to the page of a numbered notebook, to anything else as it is."""
        return super().link(text, re.sub(r"^(\d\d_\w+)\.ipynb", rf"{self.folder}\1.html", url), title)

    def heading(self, text: str, level: int, **attrs: Any) -> str:
        """Render a heading with nbconvert's anchor, and note it down to the third level."""
        html = super().heading(text, level, **attrs)
        if " id=" not in html.partition(">")[0]:  # a stray tag such as <more>: nbconvert cannot read it
            text = escape(unescape(text))
            html = super().heading(text, level, **attrs)
        if level <= 3:
            self.parts.append(Part(html.split('"')[1], Markup(text), level))
        return html


class DollarParser(MathInlineParser):
    """Reads `$` as Pandoc does: the price of 5 $ and 6 $ is no formula."""

    SPECIFICATION: ClassVar[dict[str, str]] = {
        **MathInlineParser.SPECIFICATION,
        "inline_math_tex": r"(?<![$\\])\$(?P<math_inline_tex>[^$\s](?:[^$]*[^$\s])?)\$",
    }


def to_html(markdown: str, renderer: PageRenderer | None = None) -> Markup:
    """Render Markdown; formulas become MathML, and code where they cannot be translated; code stays as it is."""
    return Markup(MarkdownWithMath(renderer or PageRenderer(), inline=DollarParser()).render(markdown))


@jinja2.pass_context
def cell_html(context: Mapping[str, Any], markdown: str, folder: str = "") -> str:
    """Render the Markdown of a cell: nbconvert's filter `markdown2html`."""
    return to_html(markdown, PageRenderer(context.get("cell", {}).get("attachments"), folder))


@jinja2.pass_context
def voila_html(context: Mapping[str, Any], markdown: str) -> str:
    """Render the Markdown of a cell for `make explore`: Voila serves a run's files, so links lead to its pages."""
    return cell_html(context, markdown, "voila/files/notebooks/")


@cache
def _mathml(tex: str, display: str) -> str:
    known = re.sub(r"\\\\\[\w+\]", r"\\\\", tex.strip())  # a line break without its distance
    known = known.replace(r"\arg", r"\operatorname{arg}")
    try:
        html = convert(known, display=display)
    except Exception:  # the converter raises a kind of its own for each mistake
        html = "\\"
    if "\\" in html:  # an unknown command is left as it is
        return f"<code>{escape(tex)}</code>"
    return html.replace(' xmlns="http://www.w3.org/1998/Math/MathML"', "")  # HTML knows <math> by its name


def templates() -> jinja2.Environment:
    """Return the environment of the templates; a name that a page lacks is an error."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


@cache
def _exporter() -> HTMLExporter:
    return HTMLExporter(
        template_name="page", extra_template_basedirs=[str(TEMPLATES)], filters={"markdown2html": cell_html}
    )


def export_notebooks(run: RunFolder, done: Mapping[str, Page] | None = None) -> list[Page]:
    """Write each executed notebook of a run as a page, and `notebooks/index.html`.

    Args:
        run: the run's folder.
        done: pages that `export_page` has just written, by name; they are not written again.

    Raises:
        InputError: an executed copy is damaged.
    """
    folder = run.path / "notebooks"
    fresh = {name: page for name, page in (done or {}).items() if not _lacks_sliders(run, folder / page.file)}
    pages = [fresh.get(path.stem) or export_page(path) for path in sorted(folder.glob("*.ipynb"))]
    index = templates().get_template("index.html.j2")
    if pages:
        told = {"run_name": run.path.name, "pages": pages, "explorer": explorer_data(run) is not None}
        write_text(folder / "index.html", index.render(**told, version=pmm.__version__))
    return pages


def _lacks_sliders(run: RunFolder, page: Path) -> bool:
    """Whether a page that was to have sliders was written before their data, which the last notebook makes."""
    data = run.path / EXPLORER_STAGE / EXPLORER_DATA
    return page.name[:2] in LIVE and data.is_file() and data.stat().st_mtime >= page.stat().st_mtime


def explorer_inputs(run: RunFolder) -> list[str]:
    """Return the fingerprints of what the live pages show: CAMs and, where it is trained, the segmenter "pus"."""
    found = [run.recorded(name) for name in ("cams", "segmenter/pus")]
    return [stage.fingerprint for stage in found if stage]


def explorer_data(run: RunFolder) -> dict[str, Any] | None:
    """Read what the live pages of a run work on; None where it was not made, or of CAMs or a model replaced since."""
    stage = run.recorded(EXPLORER_STAGE)
    if stage is None or run.begun(EXPLORER_STAGE).get("inputs") != explorer_inputs(run):
        return None
    return read_json(stage.folder / EXPLORER_DATA)


def read_explorer(page: Path) -> dict[str, Any]:
    """Read what a page that `write_explorer` wrote works on, so that it can be written anew without its run.

    Raises:
        InputError: there is no such file, or it is no such page.
    """
    try:
        html = page.read_text(encoding="utf-8")
        return json.loads(html.split('<script type="application/json">')[1].split("</script>")[0])
    except (IndexError, ValueError):
        raise InputError(f"{page}: no page of sliders; name one that pmm explorer wrote, or a run's folder") from None


def write_explorer(data: Mapping[str, Any], path: Path, report: bool = False) -> Path:
    """Write the page with all sliders: one file that loads nothing.

    Args:
        data: what `explorer_data` or `read_explorer` gives.
        path: file to write.
        report: whether the page lies in a run's folder, beside its report.

    Returns:
        The path.
    """
    html = templates().get_template("explorer.html.j2")
    told = {"data": data, "views": list(PARTS), "live": live_html, "report": report, "version": pmm.__version__}
    write_text(path, html.render(**told))
    return path


def live_html(data: Mapping[str, Any], views: Sequence[str], instead: str = "", whole: bool = False) -> Markup:
    """Return the sliders of some views as a piece of a page, with their script and their part of the data.

    Args:
        data: what `explorer_data` gives.
        views: names of PARTS.
        instead: HTML that stands there without JavaScript; the run's still pictures unless told.
        whole: whether the sliders are the page, so that its address names their setting.
    """
    needed = set().union(*(PARTS[view] for view in views)) | {"id", "note", "width", "height", "image", "classes"}
    scenes = [{name: value for name, value in scene.items() if name in needed} for scene in data["scenes"]]
    own = {**data, "scenes": scenes, "formulas": {view: _formulas(view) for view in views}}
    own |= {} if whole else {"still": {}}
    text = json.dumps(own, separators=(",", ":")).replace("<", "\\u003c")
    if not instead:
        instead = "<p>The sliders of this page need JavaScript. Without it, here is one setting of each view.</p>"
        for still in data["still"].values():
            instead += f'<p><img src="{still["src"]}" alt="{escape(still["alt"])}"></p>'
    told = {"views": views, "json": Markup(text), "instead": Markup(instead), "whole": whole}
    return Markup(templates().get_template("live.html.j2").render(**told))


def _formulas(view: str) -> str:
    return "".join(
        f"<p>{words}</p><p>{' &emsp; '.join(_mathml(tex, 'inline') for tex in formulas)}</p>"
        for words, formulas in FORMULAS[view].items()
    )


def export_page(path: Path) -> Page:
    """Write one executed notebook as an HTML page beside it.

    Links between notebooks lead to the pages; a widget, dead without a kernel, becomes sliders that need none where the
    run has made their data, else the picture that stands beside it in the notebook, or a line of text; progress bars
    leave nothing. Where the data gave nothing to draw, the paragraph that says what to see goes as well.

    Raises:
        InputError: the executed copy is damaged.
    """
    try:
        document = nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat raises many kinds, none of them useful to a reader
        raise InputError(f"{path}: no readable notebook ({type(error).__name__}); delete it and run again") from None
    text = "\n\n".join(cell.source for cell in document.cells if cell.cell_type == "markdown")
    parts = headings(document)
    title = next((part.title for part in parts if part.level == 1), Markup.escape(path.stem))
    learn = LEARN.search(text)
    views = LIVE.get(path.name[:2], ())
    data = explorer_data(RunFolder(path.parent.parent)) if views else None
    for cell in document.cells:
        if cell.cell_type == "code":
            cell.outputs = _still(cell.outputs, [view for view in views if data and view not in data["missing"]], data)
    _drop_pointers_to_nothing(document.cells)
    document.metadata.pop("widgets", None)
    resources = {"metadata": {"name": title.striptags()}, "parts": [part for part in parts if part.level > 1]}
    html, _ = _exporter().from_notebook_node(document, resources)
    write_text(path.with_suffix(".html"), html)
    return Page(path.stem, title, to_html(f"You learn {learn[1]}") if learn else Markup(), tuple(parts))


def _drop_pointers_to_nothing(cells: list[nbformat.NotebookNode]) -> None:
    """Take "What to see" away where the code cells right above it show neither figure nor table."""
    drawn = False
    for before, cell in pairwise(cells):
        if before.cell_type == "code":
            drawn |= any({"text/html", "image/png"} & set(output.get("data", {})) for output in before.outputs)
        else:
            drawn = False
        if cell.cell_type == "markdown" and before.cell_type == "code" and not drawn:
            cell.source = re.sub(r"\A\*\*What to see.*?(\n\n|\Z)", "", cell.source, flags=re.S)


def headings(document: nbformat.NotebookNode) -> list[Part]:
    """Return the headings of a notebook's text, three levels, in order."""
    renderer = PageRenderer()
    for cell in document.cells:
        if cell.cell_type == "markdown":
            renderer.attachments = cell.get("attachments", {})
            to_html(cell.source, renderer)
    return renderer.parts


def _still(
    outputs: list[nbformat.NotebookNode], views: Sequence[str] = (), live: Mapping[str, Any] | None = None
) -> list[nbformat.NotebookNode]:
    """Return the outputs of a cell as a page without a kernel can show them: a widget as the views of `live`."""
    kept = []
    for output in outputs:
        data = output.get("data", {})
        if data.pop(WIDGET, None) is None:
            kept.append(output)
        elif not BAR.search("".join(data.get("text/plain", ""))):
            if live and views:
                data["text/html"] = str(live_html(live, views, instead="".join(data.get("text/html", NOTE))))
            kept.append(output if set(data) - {"text/plain"} else nbformat.v4.new_output("stream", text=NOTE))
    return kept
