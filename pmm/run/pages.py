"""Executed notebooks as HTML pages with a table of contents, and one index of them.

A page stands alone: figures are embedded, equations are MathML, nothing is loaded from elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
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
from pmm.files import write_text
from pmm.run.folder import RunFolder

TEMPLATES = Path(__file__).parent / "templates"
WIDGET = "application/vnd.jupyter.widget-view+json"
NOTE = "(an interactive widget: open the notebook)\n"
BAR = re.compile(r"\d+%\|.*\|")
"""The text of a progress bar of tqdm, `epoch: 50%|#####     | 1/2`; other widgets have none like it."""
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
    pages = [(done or {}).get(path.stem) or export_page(path) for path in sorted(folder.glob("*.ipynb"))]
    index = templates().get_template("index.html.j2")
    if pages:
        write_text(folder / "index.html", index.render(run_name=run.path.name, pages=pages, version=pmm.__version__))
    return pages


def export_page(path: Path) -> Page:
    """Write one executed notebook as an HTML page beside it.

    Links between notebooks lead to the pages; a widget, dead without a kernel, leaves the picture that stands
    beside it in the notebook, or a line of text; progress bars leave nothing. Where the data gave
    nothing to draw, the paragraph that says what to see goes as well.

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
    for cell in document.cells:
        if cell.cell_type == "code":
            cell.outputs = _still(cell.outputs)
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


def _still(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Return the outputs of a cell as a page without a kernel can show them."""
    kept = []
    for output in outputs:
        data = output.get("data", {})
        if data.pop(WIDGET, None) is None:
            kept.append(output)
        elif not BAR.search("".join(data.get("text/plain", ""))):
            kept.append(output if set(data) - {"text/plain"} else nbformat.v4.new_output("stream", text=NOTE))
    return kept
