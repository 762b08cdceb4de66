"""The sliders without a kernel, in a real browser with the network cut: docs/explorer.html and the pages of a run.

    python -m pytest -m browser tests/test_live_pages.py

Every slider is moved by keyboard and by touch; numbers and maps must be those that pmm.method gives for the setting.
Screenshots are kept in runs/browser/.
"""

import base64

import nbformat
import numpy as np
import pytest
from live_numbers import numbers_and_maps
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from test_browser import ARGUMENTS, CHROMIUM, PAGES

from pmm.explore.page import make_page
from pmm.run.folder import project_root
from pmm.run.pages import LIVE, WIDGET, explorer_data, export_notebooks, read_explorer, write_explorer

pytestmark = pytest.mark.browser
DOCS = project_root() / "docs" / "explorer.html"
SIZES = {"projector": (1280, 720), "phone": (390, 844)}
LINKS = [
    ("smoothing", 0, {"class": 7, "s": 0.3, "t": 0.05, "variant": "official"}),
    ("smoothing", 1, {"class": 3, "s": 1.5, "t": 0.4, "variant": "paper"}),
    ("smoothing", 5, {"class": 2, "s": 0.85, "t": 0.0, "variant": "paper"}),
    ("masks", 0, {"class": 5, "s": 0.0, "alpha": 24.0, "threshold": 0.5}),
    ("masks", 1, {"class": 1, "s": 0.3, "alpha": 2.0, "threshold": 0.3}),
    ("masks", 5, {"class": 4, "s": 0.6, "alpha": 0.125, "threshold": 0.82}),
    ("underfitting", 0, {"beta": 0.3, "kappa": 1.0, "kind": "clamp-paper", "checkpoint": "late"}),
    ("underfitting", 1, {"beta": 1.0, "kappa": 0.5, "kind": "clamp-official", "checkpoint": "early"}),
    ("underfitting", 3, {"beta": 1.0, "kappa": 0.3, "kind": "pow", "checkpoint": "late"}),
    ("underfitting", 5, {"beta": 0.98, "kappa": 2.0, "kind": "ignore", "checkpoint": "early"}),
]
"""Ten settings of docs/explorer.html."""
TEXT = "| | |\n|---|---|\n| **You learn** | what the [glossary](08_explorer.ipynb) says |\n"
"""As the notebooks begin."""
MAPS = """() => Object.entries(document.querySelector('.pmm-live').explorer.result.maps).map(([name, map]) => {
    let text = '';
    for (const byte of new Uint8Array(Float32Array.from(map).buffer)) text += String.fromCharCode(byte);
    return [name, btoa(text)];
})"""
CHECKSUMS = """all => all.filter(c => c.offsetParent).map(c => {
    const pixels = new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer);
    return pixels.reduce((sum, pixel) => (Math.imul(sum, 31) + pixel) | 0, 0);
})"""


@pytest.fixture(scope="module")
def browser():
    pytest.importorskip("playwright", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed; Debian's package is called chromium")
    from playwright.sync_api import sync_playwright

    PAGES.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS.split())
        yield browser
        browser.close()


@pytest.fixture(params=SIZES)
def page(browser, request):
    """A page of a size, without a network; any request but for a file here, and any complaint, is a fault."""
    width, height = SIZES[request.param]
    context = browser.new_context(viewport={"width": width, "height": height}, has_touch=True)
    context.set_offline(True)
    page = context.new_page()
    page.size, faults = request.param, []
    page.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else faults.append(r.url))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda m: faults.append(m.text) if m.type in ("error", "warning") else None)
    yield page
    context.close()
    assert not faults


@pytest.fixture(scope="module")
def data():
    return read_explorer(DOCS)


def open_page(page, path, link=""):
    page.goto("about:blank")  # or else only the part after # would change
    page.goto(f"{path.as_uri()}{link}")
    page.wait_for_selector(".pmm-live[data-ready]")


def link(data, view, place, setting):
    words = (
        {**setting} if "class" not in setting else {**setting, "class": data["classes"][str(setting["class"])]["name"]}
    )
    return f"#view={view}&scene={place + 1}&" + "&".join(f"{name}={value}" for name, value in words.items())


def state(page):
    """View, scene and setting as the page has them."""
    ask = "(({view, place, state}) => [view, place, state])(document.querySelector('.pmm-live').explorer)"
    return page.evaluate(ask)


SLIDERS = "all => all.map(each => [each.closest('.control').dataset.control, Number(each.textContent)])"


def shown(page):
    """The numbers of the page, by name."""
    cells = page.locator("td[data-number]")
    return dict(cells.evaluate_all("cells => cells.map(cell => [cell.dataset.number, cell.textContent])"))


def check(page, data):
    """Compare numbers and maps with Python's at the page's own setting; return what was compared."""
    view, place, setting = state(page)
    texts, maps = numbers_and_maps(data, view, place, setting)
    assert shown(page) == texts, (view, place, setting)
    found = {name: np.frombuffer(base64.b64decode(text), np.float32) for name, text in page.evaluate(MAPS)}
    assert found.keys() == maps.keys()
    for name, values in maps.items():
        expected = np.asarray(values, np.float64).ravel()
        tolerance = 0 if name in ("mask", "plain", "inside") else max(1.0, np.abs(expected).max()) / 255
        assert np.abs(found[name] - expected).max() <= tolerance, (name, setting)
    return texts, setting


def pictures(page):
    """A checksum of the pixels of each picture that is to be seen."""
    return page.locator("canvas").evaluate_all(CHECKSUMS)


def move_every_slider(page, data):
    """By keyboard to both ends and a step inwards, then by touch to the middle: each time new numbers and pictures."""
    for slider in page.locator("input[type=range]").all():
        name = slider.evaluate("each => each.closest('.control').dataset.control")
        values, changes = [state(page)[2][name]], 0
        for way in ("Home", "ArrowRight", "End", "ArrowLeft", "touch"):
            before = pictures(page)
            slider.scroll_into_view_if_needed()
            if way == "touch":
                box = slider.bounding_box()
                page.touchscreen.tap(box["x"] + box["width"] * 0.4, box["y"] + box["height"] / 2)
            else:
                slider.focus()
                page.keyboard.press(way)
            texts, setting = check(page, data)
            assert setting[name] != values[-1]
            assert texts
            values.append(setting[name])
            changes += pictures(page) != before
        assert len(set(values)) >= 4 and changes >= 3, (
            name
        )  # an exponent at its floor, or a closed gate, changes nothing


def test_ten_settings_show_pythons_numbers(page, data):
    for view, place, setting in LINKS:
        open_page(page, DOCS, link(data, view, place, setting))
        found = state(page)
        assert found[:2] == [view, place] and setting.items() <= found[2].items()
        check(page, data)
        assert page.locator(".note").is_hidden()


@pytest.mark.parametrize("view", ["smoothing", "masks", "underfitting"])
def test_every_slider_by_keyboard_and_touch(page, data, view):
    open_page(page, DOCS, f"#view={view}&scene=2" + "&beta=1" * (view == "underfitting"))
    check(page, data)
    page.screenshot(path=PAGES / f"live_{view}_{page.size}.png")
    if page.size == "projector":  # all that moves fits on one screen
        lowest = page.locator("input[type=range], canvas").evaluate_all(
            "all => Math.max(...all.filter(each => each.offsetParent).map(each => each.getBoundingClientRect().bottom))"
        )
        assert lowest <= 720
    assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[page.size][0]
    move_every_slider(page, data)
    for button in page.locator("[data-control] button").all():
        button.click()
        check(page, data)
    assert page.locator("canvas:not([aria-label])").count() == 0
    assert page.locator(".spoken").get_attribute("aria-live") == "polite"
    page.wait_for_function(
        "s => document.querySelector('.pmm-live').shadowRoot.querySelector('.spoken').textContent", arg=""
    )


def test_a_bad_link_shows_the_nearest_and_says_so(page):
    open_page(page, DOCS, "#view=masks&scene=99&s=0.31&alpha=3.1&threshold=big&colour=red")
    assert state(page)[:2] == ["masks", 5]
    assert {name: state(page)[2][name] for name in ("s", "alpha")} == {"s": 0.3, "alpha": 4.0}
    note = page.locator(".note").inner_text()
    told = (
        'no scene "99"; shown is 6',
        "s = 0.31",
        "nearest, 0.3.",
        "alpha = 3.1 ",
        '"big" is no number',
        'no "colour"',
    )
    assert all(words in note for words in told), note
    page.screenshot(path=PAGES / f"live_link_{page.size}.png")
    page.locator("input[type=range]").first.press("ArrowRight")
    assert page.locator(".note").is_hidden()
    open_page(page, DOCS, "#view=elsewhere")
    assert 'no view "elsewhere"; shown is smoothing' in page.locator(".note").inner_text()


def test_the_address_follows_and_leads_back(page, data):
    open_page(page, DOCS, "#view=masks&scene=3&s=0.3&alpha=2")
    page.locator("input[type=range]").nth(1).press("ArrowRight")
    page.wait_for_function("location.hash.includes('alpha=4')")
    here, address = state(page), page.evaluate("location.href")
    page.goto("about:blank")
    page.goto(address)
    page.wait_for_selector(".pmm-live[data-ready]")
    assert state(page) == here


def test_predict_first_hides_the_outcome_until_there_is_an_answer(page, data):
    open_page(page, DOCS, "#view=masks&scene=1&s=0.3&alpha=0.5")
    page.get_by_role("button", name="Predict first").click()
    before, numbers = pictures(page), shown(page)
    slider = page.locator("input[type=range]").nth(1)
    for _ in range(4):
        slider.press("ArrowRight")
    assert pictures(page) == before and shown(page) == numbers and state(page)[2]["alpha"] == 0.5
    page.screenshot(path=PAGES / f"live_predict_{page.size}.png")
    page.get_by_role("button", name="more", exact=True).click()
    banner = page.locator(".banner").inner_text()
    assert banner.startswith("Right.") and "power" in banner and "1 of 1 right" in banner
    assert state(page)[2]["alpha"] == 2.0 and pictures(page) != before
    check(page, data)
    slider.press("ArrowLeft")
    page.get_by_role("button", name="more", exact=True).click()
    assert page.locator(".banner").inner_text().startswith("No.")
    assert "1 of 2 right" in page.locator(".banner").inner_text()


def test_the_lesson_asks_explains_and_scores(page, data):
    open_page(page, DOCS)
    page.get_by_role("button", name="Lesson").click()
    asked, right = [], 0
    for number in range(1, 20):
        page.wait_for_selector(".answers button")
        asked.append(page.locator(".banner p").inner_text())
        page.screenshot(path=PAGES / f"live_lesson_{number}_{page.size}.png")
        page.locator(".answers button").first.click()
        told = page.locator(".banner p").inner_text()
        assert told.startswith(("Right.", "No.")) and len(told) > 40
        right += told.startswith("Right.")
        assert f"{right} of {number} right" in told
        check(page, data)
        for name, value in page.locator(".control output").evaluate_all(SLIDERS):
            assert value == pytest.approx(state(page)[2][name], rel=0.01), "the slider shows what was asked"
        last = page.locator(".next").inner_text() == "Score"
        page.locator(".next").click()
        if last:
            break
    assert f"{right} of {len(asked)} right" in page.locator(".banner").inner_text()
    assert len(asked) >= 8 and any("Who wins" in text for text in asked) and any("gate" in text for text in asked)


def test_a_pinned_setting_stays_beside_the_moving_one(page, data):
    open_page(page, DOCS, "#view=masks&scene=2&s=0&alpha=0.5")
    pinned = shown(page)
    page.get_by_role("button", name="Compare").click()
    page.locator("input[type=range]").first.press("End")
    check(page, data)
    page.screenshot(path=PAGES / f"live_pinned_{page.size}.png")
    then = page.locator("td.then").all_inner_texts()
    assert then == list(pinned.values()) and then != list(shown(page).values())
    assert page.locator(".pinned figure").count() == page.locator(".key figure").count() == 4


def test_without_javascript_there_are_pictures_and_a_sentence(browser):
    context = browser.new_context(java_script_enabled=False, viewport={"width": 390, "height": 844})
    page = context.new_page()
    page.goto(DOCS.as_uri())
    assert "need JavaScript" in page.locator("main").inner_text()
    assert page.locator("main img").count() == 3
    assert all(page.locator("main img").evaluate_all("all => all.map(each => each.alt && each.naturalWidth > 300)"))
    page.screenshot(path=PAGES / "live_without_javascript.png")
    context.close()


def test_the_page_times_each_move(page, data):
    """For tests/benchmarks, which reads them on a quiet machine."""
    open_page(page, DOCS, "#view=masks&scene=2")
    slider = page.locator("input[type=range]").nth(1)
    for key in ["ArrowRight", "ArrowLeft"] * 5:
        slider.press(key)
    timings = page.evaluate("document.querySelector('.pmm-live').explorer.timings")
    assert len(timings) >= 10 and min(timings) > 0


def barriers(page):
    """What the rules of axe find for readers who cannot see, hear or hold a mouse; WCAG 2.2, level AA."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    rules = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    found = axe.Axe().run(page, options={"runOnly": rules}).response
    assert len(found["passes"]) > 20
    return {(rule["id"], node["html"][:200]) for rule in found["violations"] for node in rule["nodes"]}


@pytest.mark.parametrize("view", ["smoothing", "masks", "underfitting"])
def test_there_is_no_barrier_on_the_page(page, view):
    open_page(page, DOCS, f"#view={view}&scene=2&s=0.31")  # off the grid, which a note says
    assert not barriers(page)
    for button in ("Compare", "Lesson"):
        page.get_by_role("button", name=button).click()
        assert not barriers(page)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with the widget's place in notebooks 03, 04, 05 and 08, exported."""
    from explorer_run import TinyRun

    run = TinyRun(tmp_path_factory.mktemp("live"))
    folder = run.run.path / "notebooks"
    folder.mkdir()
    for number in LIVE:
        picture = {"text/html": "<figure><img alt='still' src='data:,'></figure>", WIDGET: {"model_id": "1"}}
        cell = new_code_cell(
            "explore(experiment, s=0.3)  # with sliders",
            execution_count=1,
            outputs=[new_output("display_data", data=picture)],
        )
        notebook = new_notebook(cells=[new_markdown_cell(f"# {number} · Title\n\n{TEXT}"), cell])
        nbformat.write(notebook, folder / f"{number}_notebook.ipynb")
    make_page(run, run.train_ids)
    export_notebooks(run.run)
    return run.run


@pytest.mark.parametrize("number", LIVE)
def test_the_pages_of_a_run_have_living_sliders(page, run, number):
    open_page(page, run.path / "notebooks" / f"{number}_notebook.html")
    data = explorer_data(run)
    for view in LIVE[number]:
        if len(LIVE[number]) > 1:
            page.locator(f".tabs [data-view={view}]").click()
        check(page, data)
        assert page.get_by_text("No ground truth").count() == 0  # a view that needs none has none to miss
        if view == "underfitting":
            page.locator("input[type=range]").first.press("End")  # opens the gate, so that kappa changes something
        move_every_slider(page, data)
    page.locator(".pmm-live").scroll_into_view_if_needed()
    page.screenshot(path=PAGES / f"live_page_{number}_{page.size}.png")
    assert page.evaluate("location.hash") == ""  # which belongs to the table of contents
    assert not barriers(page)


def test_views_that_a_run_cannot_show_are_left_out_with_a_reason(page, tmp_path):
    from explorer_run import TinyRun

    bare = TinyRun(tmp_path, segmenter=False)
    bare.data.has_mask = lambda i: False
    make_page(bare, ["scene0"])
    open_page(page, write_explorer(explorer_data(bare.run), tmp_path / "explorer.html"))
    tab = page.locator(".tabs [data-view=underfitting]")
    assert tab.is_disabled() and "no trained model" in tab.get_attribute("title")
    page.locator(".tabs [data-view=masks]").click()
    assert page.locator("[data-panel=truth]").count() == 0 and "miou" not in shown(page)
    assert "nothing is scored" in page.locator(".legend").inner_text()
    check(page, explorer_data(bare.run))
