"""Executed notebooks as HTML pages with a table of contents, and one index of them.

A page stands alone: figures are embedded, equations are MathML, nothing is loaded from elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

import pmm
from pmm.errors import InputError
from pmm.files import write_text
from pmm.run.folder import RunFolder

TEMPLATES = Path(__file__).parent / "templates"
WIDGET = "application/vnd.jupyter.widget-view+json"
NOTE = "(an interactive widget: open the notebook)\n"
PLACE = "xTEXx{}xTEXx"
CODE_OR_TEX = re.compile(
    r"(?P<code>```.*?```|`[^`\n]*`)|\$\$(?P<block>.+?)\$\$|\$(?P<inline>[^$\s](?:[^$]*[^$\s])?)\$", re.S
)
HEADING = re.compile(r"^```.*?^```|^(?P<marks>#{1,3}) +(?P<title>[^\n]+?)\s*$", re.M | re.S)
LEARN = re.compile(r"^\|\s*\*\*You learn\*\*\s*\|\s*(.+?)\s*\|\s*$", re.M)


@dataclass(frozen=True)
class Part:
    """One heading of a page: where it is, what it says, 1 for the page's title."""

    anchor: str
    title: str
    level: int


@dataclass(frozen=True)
class Page:
    """An exported notebook: name without suffix, title, what it teaches, its headings."""

    name: str
    title: str
    learn: str
    parts: tuple[Part, ...]

    @property
    def file(self) -> str:
        """Name of the page, beside the notebook."""
        return f"{self.name}.html"


def templates() -> Any:
    """Return the jinja2 environment of the templates; a name that a page lacks is an error."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
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

    Links between notebooks lead to the pages; widgets, dead without a kernel, become a line of text.

    Raises:
        InputError: the executed copy is damaged.
    """
    import nbformat

    try:
        document = nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat raises many kinds, none of them useful to a reader
        raise InputError(f"{path}: no readable notebook ({type(error).__name__}); delete it and run again") from None
    parts = mark_headings(document)
    text = "\n".join(cell.source for cell in document.cells if cell.cell_type == "markdown")
    title = next((part.title for part in parts if part.level == 1), path.stem)
    learn = LEARN.search(text)
    for cell in document.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"\]\((\d\d_\w+)\.ipynb", r"](\1.html", cell.source)
    resources = {"metadata": {"name": title}, "parts": [part for part in parts if part.level > 1]}
    html, _ = _exporter().from_notebook_node(_without_widgets(document), resources)
    write_text(path.with_suffix(".html"), html)
    return Page(path.stem, title, _plain(learn[1]) if learn else "", tuple(parts))


def _mathml(tex: str, display: str) -> str:
    from latex2mathml.converter import convert

    known = re.sub(r"\\\\\[\w+\]", r"\\\\", tex.strip())  # a line break without its distance
    known = known.replace(r"\arg", r"\operatorname{arg}")
    try:
        html = convert(known, display=display)
    except Exception:  # the converter raises a kind of its own for each mistake
        html = "\\"
    return f"<code>{escape(tex)}</code>" if "\\" in html else html  # an unknown command is left as it is


@cache
def _exporter() -> Any:
    from jinja2 import pass_context
    from nbconvert import HTMLExporter

    class Exporter(HTMLExporter):  # here, because importing nbconvert takes a second
        """Translates the TeX of texts and of Markdown outputs."""

        @pass_context
        def markdown2html(self, context: Any, source: str) -> str:
            """Render Markdown, TeX included."""
            return translate_tex(source, lambda text: super(Exporter, self).markdown2html(context, text))

    # embed_images would close each HTML tag of a text by itself, and so unfold every <details>
    return Exporter(template_name="page", extra_template_basedirs=[str(TEMPLATES)], embed_images=False)


def translate_tex(markdown: str, render: Callable[[str], str]) -> str:
    """Render Markdown with its TeX, `$inline$` and `$$block$$`, as MathML; code stays as it is.

    TeX that cannot be translated stays readable, as code.

    Args:
        markdown: the text.
        render: makes HTML of Markdown; it sees a plain word in place of each formula.
    """
    formulas: list[str] = []

    def take(found: re.Match[str]) -> str:
        """Keep code; keep the place of a formula."""
        if found["code"]:
            return found["code"]
        formulas.append(_mathml(found["block"] or found["inline"], "block" if found["block"] else "inline"))
        return PLACE.format(len(formulas) - 1)

    def put(found: re.Match[str]) -> str:
        """Put a formula into its place; an attribute of a tag goes without it."""
        return re.sub(PLACE.format(r"\d+"), "", found["tag"]) if found["tag"] else formulas[int(found["number"])]

    html = render(CODE_OR_TEX.sub(take, markdown))
    return re.sub(r"(?P<tag><[^>]*>)|" + PLACE.format(r"(?P<number>\d+)"), put, html)


def mark_headings(document: Any) -> list[Part]:
    """Put an anchor before each heading of a notebook's text, in place, and return them in order.

    Args:
        document: notebook node; headings inside fenced code are passed over.
    """
    parts: list[Part] = []

    def mark(found: re.Match[str]) -> str:
        """Note a heading and return it with its anchor; keep code."""
        if not found["marks"]:
            return found[0]
        parts.append(Part(f"part-{len(parts) + 1}", _plain(found["title"]), len(found["marks"])))
        return f'{found["marks"]} <a id="{parts[-1].anchor}"></a>{found["title"]}'

    for cell in document.cells:
        if cell.cell_type == "markdown":
            cell.source = HEADING.sub(mark, cell.source)
    return parts


def _plain(markdown: str) -> str:
    """Return a line of Markdown without its marks; TeX subscripts become plain words such as c_v."""
    text = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", markdown)
    return re.sub(r"[`$]|\*\*", "", text).strip()


def _without_widgets(document: Any) -> Any:
    note = type(document)({"output_type": "stream", "name": "stdout", "text": NOTE})
    for cell in document.cells:
        if cell.cell_type == "code":
            cell.outputs = [note if WIDGET in o.get("data", {}) else o for o in cell.outputs if not _is_bar(o)]
    document.metadata.pop("widgets", None)
    return document


def _is_bar(output: Any) -> bool:
    """Tell a progress bar of tqdm by its text, `epoch: 50%|#####     | 1/2`; other widgets have none like it."""
    data = output.get("data", {})
    return WIDGET in data and re.search(r"\d+%\|.*\|", "".join(data.get("text/plain", ""))) is not None
