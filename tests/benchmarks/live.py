"""docs/explorer.html in Chromium: size, and from a slider's event to the new pictures by the browser's clock."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np

from pmm.run.folder import project_root

PAGE = project_root() / "docs" / "explorer.html"
SIZE = "256x192, three classes"
TIMINGS = "document.querySelector('.pmm-live').explorer.timings"
SLIDERS = {"smoothing": ("s", "t"), "masks": ("s", "alpha", "threshold"), "underfitting": ("beta", "kappa")}


def live_page(rounds: int) -> dict[str, Any]:
    """(l) Milliseconds from the event of each slider to the pixels of all pictures, 256x192, three classes."""
    from playwright.sync_api import sync_playwright

    rows = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        for view, names in SLIDERS.items():
            for name in names:
                page.goto("about:blank")
                page.goto(f"{PAGE.as_uri()}#view={view}&scene=2&beta=1")
                page.wait_for_selector(".pmm-live[data-ready]")
                slider = page.locator(f"[data-control={name}] input")
                for step in range(6 + rounds):  # the first moves compile the script
                    slider.press("ArrowLeft" if step % 2 else "ArrowRight")
                found = np.array(page.evaluate(TIMINGS)[6:])
                half, most = np.percentile(found, [50, 95])
                rows.append({"view": view, "slider": name, "p50 ms": round(half, 1), "p95 ms": round(most, 1)})
        version = browser.version
        browser.close()
    return {
        "megabytes": round(PAGE.stat().st_size / 1e6, 2),
        "browser": f"Chromium {version}",
        "size": SIZE,
        "rows": rows,
    }
