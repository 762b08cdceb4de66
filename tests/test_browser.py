"""The sliders in a real browser: Chromium opens the explorer in Voila and notebook 04 in JupyterLab.

    python -m pytest -m browser

Screenshots are kept in runs/browser/. Skips, with the reason, where Chromium, Playwright or a server is missing.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from importlib.util import find_spec

import nbformat
import pytest

from pmm.run.folder import project_root
from pmm.run.params import load_params

pytestmark = pytest.mark.browser
ROOT = project_root()
PAGES = ROOT / "runs" / "browser"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync"
PATIENCE = 240_000
"""Milliseconds a page may take to run its cells."""
PROJECTOR = {"width": 1280, "height": 720}
DRAWN = "() => [...document.querySelectorAll('.pmm-words')].some(e => e.offsetParent && e.innerText)"
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
"""JupyterLab keeps cells out of sight out of the page, unless told otherwise."""


@pytest.fixture(scope="module")
def page():
    for package in ("playwright", "voila", "jupyterlab"):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed; Debian's package is called chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS.split())
        yield browser.new_page(viewport={"width": 1400, "height": 1500})
        browser.close()


@pytest.fixture(scope="module")
def params(page):
    """A tiny finished run with CAMs, masks and the PUS model."""
    from pmm.run.experiment import Experiment

    params = load_params(ROOT / "params" / "smoke.yaml", {"run_name": "browser", "alpha": 4.0})
    experiment = Experiment(params)
    experiment.pseudo_masks("ppmg")
    experiment.segmenter("pus", masks=params.seg_masks)
    return params


def parameterised(name, params):
    """Copy a notebook with the run's parameters written below the defaults."""
    from pmm.run.notebooks import injected_parameters

    notebook = nbformat.read(ROOT / "notebooks" / name, as_version=4)
    lines = [f"{key} = {value!r}" for key, value in injected_parameters(params).items()]
    notebook.cells[1].source += "\n" + "\n".join(lines)
    path = PAGES / "pages" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


@contextmanager
def server(module, *arguments):
    """Start a server of this interpreter on a free port; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", module, *arguments, "--no-browser", f"--port={port}"]
    log = (PAGES / f"{module}.log").open("wb")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=PAGES)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{address}/api" if module == "jupyterlab" else f"{address}/voila/static/", process)
        yield address
    finally:
        process.terminate()
        process.wait(30)
        log.close()


def _wait_for(address, process, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5)
            return
        except urllib.error.HTTPError:
            return  # it answers
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"the server did not start; see {PAGES}/*.log")


def move(page, slider, key):
    """Press a key on a slider; wait until picture and words show the slider's new value."""
    picture, words = page.locator("img.pmm-picture.pmm-rows-2").first, page.locator("ul.pmm-words").first
    before, text = picture.get_attribute("src"), words.inner_text()
    row = page.locator(".widget-slider", has_text=slider).first
    row.locator(".noUi-handle").focus()
    for _ in range(8):
        page.keyboard.press(key)
    value = f"{slider.split(',')[0]} {row.locator('.widget-readout').inner_text()}"
    changed = """([src, text, value]) => document.querySelector('img.pmm-picture.pmm-rows-2').src !== src
        && document.querySelector('ul.pmm-words').innerText !== text
        && document.querySelector('.pmm-alt').getAttribute('aria-label').includes(value)"""
    page.wait_for_function(changed, arg=[before, text, value], timeout=20_000)
    return words.inner_text()


def check_page(page, name):
    page.wait_for_selector("img.pmm-picture", timeout=PATIENCE)
    picture = page.locator("img.pmm-picture.pmm-rows-2").first
    assert page.locator(".pmm-alt").first.get_attribute("aria-label").startswith("Pseudo-mask of")
    box = picture.bounding_box()
    page.screenshot(path=PAGES / f"{name}_opened.png")
    assert "ground truth" in move(page, "s, smoothing", "ArrowRight")
    assert "points against the previous setting" in move(page, "alpha", "ArrowRight")
    picture.scroll_into_view_if_needed()
    page.screenshot(path=PAGES / f"{name}_moved.png")
    after = picture.bounding_box()
    assert (after["width"], after["height"]) == (box["width"], box["height"])
    assert page.locator('[data-mime-type="application/vnd.jupyter.error"]').count() == 0
    assert page.locator(".pmm-problem").count() == 0


def test_the_explorer_in_voila(page, params):
    path = parameterised("08_explorer.ipynb", params)
    assert "--token" in (ROOT / "Makefile").read_text().split("voila", 1)[1].split("\n\n")[0]
    with server("voila", str(path), "--Voila.token=known", "--show_tracebacks=True") as address:
        page.set_viewport_size(PROJECTOR)
        page.goto(address, timeout=PATIENCE)
        assert "/login" in page.url
        page.goto(f"{address}/?token=known", timeout=PATIENCE)
        check_page(page, "voila")
        check_one_screen(page)
        check_prediction(page)


def bottom(locator):
    box = locator.bounding_box()
    assert box["x"] >= 0 and box["y"] >= 0 and box["x"] + box["width"] <= PROJECTOR["width"]
    return box["y"] + box["height"]


def check_one_screen(page):
    """Tabs, thumbnails, sliders and both rows of pictures stand on a projector's screen, and nothing moves them."""
    page.evaluate("document.querySelector('#rendered_cells').scrollTop = 0")
    shown = page.locator(".widget-slider:visible, .pmm-tabs, .pmm-gallery, img.pmm-rows-2:visible")
    assert shown.count() == 7
    assert max(bottom(part) for part in shown.all()) <= PROJECTOR["height"]
    picture = page.locator("img.pmm-rows-2:visible")
    before = picture.bounding_box()
    assert page.locator(".pmm-tabs").bounding_box()["y"] < 40 and before["width"] >= 1190
    for part in (".widget-slider:visible .widget-label", ".widget-slider:visible .widget-readout", "select:visible"):
        sizes = page.locator(part).evaluate_all("found => found.map(e => parseFloat(getComputedStyle(e).fontSize))")
        assert sizes and min(sizes) >= 16
    live = page.locator(".widget-slider:visible", has_text="s, smoothing").locator(".noUi-target")
    assert live.bounding_box()["width"] >= 230
    unused = page.locator(".widget-slider:visible", has_text="threshold: not in PPMG")
    assert unused.locator(".noUi-target[disabled]").count() == 1
    for title in ("Smoothing", "Under-fitting"):
        page.get_by_role("button", name=title).click()
        page.wait_for_function(f"document.querySelector('.pmm-tabs .mod-active').innerText.trim() === '{title}'")
        page.wait_for_function(DRAWN, timeout=PATIENCE)
        assert page.locator("img.pmm-rows-2:visible").bounding_box() == before
        page.screenshot(path=PAGES / f"voila_{title}.png")
    page.get_by_role("button", name="Smoothing").click()
    page.locator("select:visible").filter(has_text="flower").select_option(index=1)  # the first one's CAM is empty
    page.locator("select:visible").filter(has_text="far too strong").select_option(label="far too strong")
    page.wait_for_selector(".pmm-warning:visible")
    assert page.locator("img.pmm-rows-2:visible").bounding_box() == before  # the warning has a place of its own
    page.get_by_role("button", name="Pseudo-mask").click()


def check_prediction(page):
    page.wait_for_function("document.querySelector('.pmm-tabs .mod-active').innerText.trim() === 'Pseudo-mask'")
    page.get_by_role("button", name="Predict first").click()
    row = page.locator(".widget-slider:visible", has_text="alpha")
    row.locator(".noUi-handle").focus()
    page.keyboard.press("PageDown")
    page.wait_for_selector("img.pmm-veiled:visible")
    setting = f"alpha {row.locator('.widget-readout').inner_text()},"
    label = page.locator(".pmm-alt").first
    assert setting not in label.get_attribute("aria-label")
    page.screenshot(path=PAGES / "voila_predict.png")
    page.locator(".pmm-strip:visible").get_by_role("button", name="less").click()
    page.wait_for_selector(".pmm-question:visible >> text=/of 1 right so far/")
    assert page.locator("img.pmm-veiled").count() == 0 and setting in label.get_attribute("aria-label")
    page.screenshot(path=PAGES / "voila_answer.png")


def test_notebook_04_in_jupyterlab(page, params):
    path = parameterised("04_pseudo_masks.ipynb", params)
    page.set_viewport_size({"width": 1400, "height": 1500})
    for name, values in SETTINGS.items():
        file = PAGES / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    options = [f"--ServerApp.root_dir={path.parent}", "--IdentityProvider.token=", "--allow-root"]
    options += [f"--LabApp.user_settings_dir={PAGES / 'settings'}", f"--LabApp.workspaces_dir={PAGES / 'workspaces'}"]
    with server("jupyterlab", *options) as address:
        page.goto(f"{address}/lab/tree/{path.name}?reset", timeout=PATIENCE)
        page.wait_for_selector(".jp-NotebookPanel-toolbar", timeout=60_000)
        page.wait_for_selector(
            ".jp-StatusBar-Widget >> text=/\\| Idle/", timeout=60_000
        )  # cells run earlier are dropped
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_text("Run All Cells", exact=True).click()
        check_page(page, "lab")
