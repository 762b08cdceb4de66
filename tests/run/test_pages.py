"""Executed notebooks as pages: contents, equations, nothing from elsewhere."""

import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from html.parser import HTMLParser

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from pmm.run.folder import RunFolder, project_root
from pmm.run.pages import WIDGET, export_notebooks, export_page, headings, to_html

TEXT = """# 03 · Smoothing

| | |
|---|---|
| **You learn** | what $c_v$ *is*, [and why](02_cams.ipynb) |

## 1 · High $c_v$

$$ c_v = \\frac{\\sqrt{D}}{E} $$

### Deeper

Price in `$` and `a$b`.
"""


def write(folder, name="03_smoothing", *cells):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.ipynb"
    nbformat.write(new_notebook(cells=list(cells) or [new_markdown_cell(TEXT), new_code_cell("1 + 1")]), path)
    return path


class Links(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.loaded, self.hrefs, self.ids = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids += [found["id"]] if "id" in found else []
        if tag == "a":
            self.hrefs.append(found.get("href", ""))
        elif "src" in found or (tag == "link" and "href" in found):
            self.loaded.append(found.get("src") or found["href"])


def test_what_to_see_stays_only_below_something_to_see(tmp_path):
    pointer = "**What to see:** the bars.\n\n## More"
    picture = new_output("display_data", data={"text/html": "<figure></figure>"})
    shown = [new_code_cell("a", outputs=[picture]), new_code_cell("b"), new_markdown_cell(pointer)]
    nothing = [new_code_cell("c", outputs=[new_output("stream", text="none")]), new_markdown_cell(pointer)]
    path = write(tmp_path, "03_smoothing", *shown)
    assert len(export_page(path).parts) == 1 and "the bars" in path.with_suffix(".html").read_text(encoding="utf-8")
    path = write(tmp_path, "04_masks", *nothing)
    assert len(export_page(path).parts) == 1 and "the bars" not in path.with_suffix(".html").read_text(encoding="utf-8")


def test_a_page_has_contents_and_loads_nothing(tmp_path):
    picture = new_output("display_data", data={"image/png": "iVBORw0KGgo=", "text/plain": "figure"})
    page = export_page(write(tmp_path, "03_smoothing", new_markdown_cell(TEXT), new_code_cell("x", outputs=[picture])))
    assert page.title == "03 · Smoothing" and page.learn.startswith("<p>You learn what <math")
    assert '<em>is</em>, <a href="02_cams.html">and why</a>' in page.learn
    assert [(p.title.partition("<")[0], p.level) for p in page.parts[1:]] == [("1 · High ", 2), ("Deeper", 3)]
    html = (tmp_path / page.file).read_text(encoding="utf-8")
    found = Links(html)
    assert all(source.startswith("data:") for source in found.loaded) and found.loaded
    assert not re.search(r"@import\s+[\"'u]|url\(\s*[\"']?(?:https?:)?//|<script[^>]+src=", html)
    for part in page.parts[1:]:
        assert f"#{part.anchor}" in found.hrefs and part.anchor in found.ids
    assert "02_cams.html" in found.hrefs and "index.html" in found.hrefs
    assert html.count("<math") == html.count("</math>") == 4  # one of them in the contents
    assert "<code>$</code> and <code>a$b</code>" in html


def test_a_folded_solution_stays_folded(tmp_path):
    inside = "Because $x$.\n\n```python\n1 + 1\n```"
    text = f"**1.** Why?\n\n<details><summary>Solution</summary>\n\n{inside}\n\n</details>\n\nafter"
    export_page(write(tmp_path, "01_a", new_markdown_cell(text)))
    html = (tmp_path / "01_a.html").read_text(encoding="utf-8")
    folded = html[html.index("<summary>Solution") : html.index("</details>", html.index("<summary>Solution"))]
    assert "Because" in folded and "<math" in folded and "highlight" in folded and "after" not in folded


def test_tex_becomes_mathml_and_code_stays():
    text = to_html("`$s$` and $s \\cdot c_v$, $$a * b_1$$\n```\n$x$\n```\n5 $ and 6 $.")
    assert "<code>$s$</code> and <math" in text and "<pre><code>$x$\n</code></pre>" in text
    assert text.endswith("<p>5 $ and 6 $.</p>\n")
    assert 'display="inline"' in text and 'display="block"' in text and text.count("<math") == 2


def test_a_formula_may_hold_the_marks_of_a_table():
    text = to_html("| a | b |\n|---|---|\n| $\\{x \\mid x > t\\}$ | $a_1 * b_1 * c_1$ |")
    assert text.count("<math") == 2 and text.count("<td>") == 2 and "<em>" not in text


def test_tex_that_cannot_be_translated_stays_readable():
    assert to_html(r"so $\left( a < b$ is") == "<p>so <code>\\left( a &lt; b</code> is</p>\n"
    assert to_html(r"so $\unheard x$ is") == "<p>so <code>\\unheard x</code> is</p>\n"


def test_every_formula_of_the_notebooks_is_translated():
    for path in sorted((project_root() / "notebooks").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            text = re.sub(r"```.*?```|`[^`\n]*`", "", cell.source, flags=re.S) if cell.cell_type == "markdown" else ""
            html = re.sub("<pre>.*?</pre>", "", to_html(text), flags=re.S)
            assert "<code>" not in html and "$" not in html, f"{path.name}: {text[:200]}"


def test_a_widget_leaves_its_picture_and_a_progress_bar_nothing(tmp_path):
    picture = '<figure><img src="data:image/png;base64,iVBORw0KGgo=" alt="a view"></figure>'
    bundles = (
        {WIDGET: {}, "text/plain": "[explorer] a view", "text/html": picture},
        {WIDGET: {}, "text/plain": "VBox(children=(...))"},
        {WIDGET: {}, "text/plain": "CAMs:   0%|          | 0/8 [00:00<?, ?image/s]"},
    )
    outputs = [new_output("display_data", data=data) for data in bundles]
    export_page(write(tmp_path, "03_a", new_code_cell("x", outputs=outputs)))
    html = (tmp_path / "03_a.html").read_text(encoding="utf-8")
    assert html.count('alt="a view"') == 1 and html.count("(an interactive widget") == 1
    assert "[explorer]" not in html and "VBox" not in html and "CAMs:" not in html


def test_an_attached_picture_is_embedded(tmp_path):
    cell = new_markdown_cell("![dropped](attachment:a.png)")
    cell.attachments = {"a.png": {"image/png": "iVBORw0KGgo="}}
    export_page(write(tmp_path, "03_a", cell))
    assert 'src="data:image/png;base64,iVBORw0KGgo="' in (tmp_path / "03_a.html").read_text(encoding="utf-8")


def test_headings_in_code_are_none():
    document = new_notebook(
        cells=[new_markdown_cell("```\n# no\n```"), new_code_cell("# no"), new_markdown_cell("# yes")]
    )
    assert [part.title for part in headings(document)] == ["yes"]


def test_the_index_names_every_page_its_parts_and_what_it_teaches(tmp_path):
    run = RunFolder(tmp_path)
    write(tmp_path / "notebooks")
    write(tmp_path / "notebooks", "04_b", new_markdown_cell("# Masks & <more>"))
    pages = export_notebooks(run)
    assert [page.name for page in pages] == ["03_smoothing", "04_b"]
    index = (tmp_path / "notebooks" / "index.html").read_text(encoding="utf-8")
    assert "Masks &amp; &lt;more&gt;" in index and "You learn what <math" in index
    assert "<em>is</em>" in index and "$" not in index and "*" not in index.partition("</style>")[2]
    hrefs = {h for h in Links(index).hrefs if not h.startswith("../")}
    assert {h.partition("#")[0] for h in hrefs} == {"03_smoothing.html", "04_b.html", "02_cams.html"}
    assert {h.partition("#")[2] for h in hrefs if "#" in h} >= {page.anchor for page in pages[0].parts}


def test_pages_just_written_are_not_written_again(tmp_path):
    path = write(tmp_path / "notebooks")
    page = export_page(path)
    path.with_suffix(".html").write_text("kept")
    assert export_notebooks(RunFolder(tmp_path), {"03_smoothing": page}) == [page]
    assert path.with_suffix(".html").read_text() == "kept"


@pytest.mark.parametrize(
    "formula", [r"\mathbb 1\bigl[x\bigr]_{\text{fg}}", r"\begin{cases} a & b \\[2pt] c & d \end{cases}"]
)
def test_the_notebooks_kinds_of_tex_are_translated(formula):
    html = to_html(f"$${formula}$$")
    assert html.startswith("<p><math") and html.count("<math") == 1 and "pt" not in html


def fetch(address):
    with urllib.request.urlopen(address, timeout=60) as answer:
        return answer.read().decode()


@pytest.mark.slow
def test_links_of_the_explorer_lead_to_the_pages_in_voila(tmp_path):
    pytest.importorskip("voila")
    folder = tmp_path / "runs" / "demo" / "notebooks"
    write(folder, "08_explorer", new_markdown_cell("Needs $c_v$ of [03](03_smoothing.ipynb)."), new_code_cell("6 * 7"))
    export_page(write(folder))
    (folder.parent / "report.html").write_text("the report")
    makefile = (project_root() / "Makefile").read_text(encoding="utf-8").replace("\\\n", "").replace("$(RUN)", "demo")
    arguments = shlex.split(re.search(r"\$\(BIN\)/voila (.*)", makefile)[1])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "voila", *arguments, "--no-browser", f"--port={port}"]
    address = f"http://127.0.0.1:{port}/"
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(address + "voila/files/report.html")
            found = Links(fetch(address)).hrefs
            assert "voila/files/notebooks/03_smoothing.html" in found
            assert "Smoothing" in fetch(address + "voila/files/notebooks/03_smoothing.html")
            with pytest.raises(urllib.error.HTTPError, match="403"):
                fetch(address + "voila/files/notebooks/08_explorer.ipynb")
        finally:
            process.terminate()


def wait_for(address, seconds=60):
    end = time.monotonic() + seconds
    while True:
        try:
            return fetch(address)
        except urllib.error.URLError:
            assert time.monotonic() < end
            time.sleep(0.3)
