"""Benchmarks of pseudo-masks, CAMs and training: `make bench` writes results/benchmarks.json and docs/speed.md.

Everything is a ratio of contenders that take turns in one run on the same inputs; seconds are those of one machine.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from live import live_page
from measure import exponent, interleave, ratios, spread
from memory import memory
from networks import cam_rate, engine_rate, training_rate
from page import page
from recipe import RecipeCRF, blobs, one_thread, our_mask, photograph, recipe_mask, refine
from slider import slider_to_picture
from where import where_time_goes

from pmm.files import write_text
from pmm.method.crf import DenseCRF
from pmm.method.pseudo_mask import ppmg
from pmm.run.folder import environment, project_root

SIZES = ((320, 240), (500, 375))
ALL_CORES, ONE_THREAD = "all cores", "one thread"


def ppmg_per_image(rounds: int) -> list[dict[str, Any]]:
    """(a) PPMG of one image, C = 1, 2, 3, 5: ratios, agreement of masks and posteriors."""
    rows = []
    for width, height in SIZES:
        image = photograph(0, width, height)
        for n_classes in (1, 2, 3, 4, 5):
            cam = blobs(0, n_classes, width, height)
            contenders = {
                "recipe": partial(recipe_mask, image, cam),
                ALL_CORES: partial(our_mask, image, cam),
                ONE_THREAD: partial(one_thread, partial(our_mask, image, cam)),
            }
            seconds = interleave(contenders, rounds)
            posteriors = [
                crf.foreground_posterior(cam, (1 - cam) ** 0.5) for crf in (DenseCRF(image), RecipeCRF(image))
            ]
            row = {"size": f"{width}x{height}", "classes": n_classes}
            row |= {name: spread(1000 * values, 1) for name, values in seconds.items()}
            row |= {f"ratio, {name}": ratios(seconds, "recipe", name) for name in (ALL_CORES, ONE_THREAD)}
            row["pixels that agree"] = float((our_mask(image, cam) == recipe_mask(image, cam)).mean())
            row["largest difference of posteriors"] = float(np.abs(posteriors[0] - posteriors[1]).max())
            rows.append(row)
    return rows


def masks_per_second(n_images: int) -> dict[str, Any]:
    """(b) Masks of many images on all cores: threads with the lattice against processes with the recipe."""
    width, height = SIZES[1]
    jobs = [(photograph(i % 20, width, height), blobs(i, 1 + i % 3, width, height)) for i in range(n_images)]
    workers = joblib.cpu_count()

    def on_threads() -> None:
        joblib.Parallel(n_jobs=workers, prefer="threads")(
            joblib.delayed(one_thread)(partial(our_mask, *job)) for job in jobs
        )

    def on_processes() -> None:
        joblib.Parallel(n_jobs=workers)(joblib.delayed(recipe_mask)(*job) for job in jobs)

    joblib.Parallel(n_jobs=workers)(joblib.delayed(recipe_mask)(*job) for job in jobs[:workers])  # the pool is up
    seconds = interleave({"recipe": on_processes, "ours": on_threads}, 1)
    rates = {name: round(n_images / float(values[0]), 1) for name, values in seconds.items()}
    return {"images": n_images, "workers": workers, **rates, "ratio": round(rates["ours"] / rates["recipe"], 2)}


def slider_step(rounds: int) -> list[dict[str, Any]]:
    """(c) A new mask after s or alpha has moved: the image's lattices are kept."""
    rows = []
    for width, height in SIZES:
        crf = DenseCRF(photograph(0, width, height))
        for n_classes in (1, 3):
            cam = blobs(0, n_classes, width, height)
            image, ids = photograph(0, width, height), range(1, n_classes + 1)
            alphas = iter(np.linspace(0.3, 2, rounds + 1))

            def step(image=image, cam=cam, ids=ids, crf=crf, alphas=alphas) -> None:
                ppmg(image, cam, ids, s=0.3, alpha=next(alphas), t=0.05, crf=crf)

            milliseconds = 1000 * interleave({"step": step}, rounds)["step"]
            p50, p95 = np.percentile(milliseconds, [50, 95]).round(1)
            rows.append({"size": f"{width}x{height}", "classes": n_classes, "p50 ms": float(p50), "p95 ms": float(p95)})
    return rows


def growth(rounds: int) -> dict[str, Any]:
    """(g) Milliseconds over pixels (two classes) and over classes (500x375), one thread, with the fitted exponent."""
    shapes = [(160, 120), (320, 240), (500, 375), (640, 480), (1000, 750)]
    works = {
        f"{w}x{h}": partial(one_thread, partial(our_mask, photograph(0, w, h), blobs(0, 2, w, h))) for w, h in shapes
    }
    pixels = {name: float(np.median(v)) for name, v in interleave(works, rounds).items()}
    image = photograph(0, *SIZES[1])
    works = {str(c): partial(one_thread, partial(our_mask, image, blobs(0, c, *SIZES[1]))) for c in (1, 2, 4, 8, 16)}
    classes = {name: float(np.median(v)) for name, v in interleave(works, rounds).items()}
    return {
        "ms over pixels": {name: round(1000 * v, 1) for name, v in pixels.items()},
        "exponent over pixels": exponent([w * h for w, h in shapes], list(pixels.values())),
        "ms over classes": {name: round(1000 * v, 1) for name, v in classes.items()},
        "exponent over classes": exponent([float(name) for name in classes], list(classes.values())),
    }


def drop_in(rounds: int) -> list[dict[str, Any]]:
    """(k) Joint inference of many labels by pydensecrf and by pmm.densecrf, the same program but for the import."""
    import pydensecrf.densecrf

    import pmm.densecrf

    rows, (width, height) = [], SIZES[1]
    image = np.ascontiguousarray(photograph(0, width, height))
    for n_labels in (2, 5, 21):
        maps = blobs(0, n_labels, width, height) + np.float32(0.05)
        energies = pmm.densecrf.unary_from_softmax(maps / maps.sum(axis=0))
        theirs, ours = (partial(refine, crf, energies, image) for crf in (pydensecrf.densecrf, pmm.densecrf))
        contenders = {"pydensecrf": theirs, ALL_CORES: ours, ONE_THREAD: partial(one_thread, ours)}
        seconds = interleave(contenders, rounds)
        expected, found = theirs(), ours()
        row = {"size": f"{width}x{height}", "labels": n_labels}
        row |= {name: spread(1000 * values, 1) for name, values in seconds.items()}
        row |= {f"ratio, {name}": ratios(seconds, "pydensecrf", name) for name in (ALL_CORES, ONE_THREAD)}
        row["pixels that agree"] = float((found.argmax(axis=0) == expected.argmax(axis=0)).mean())
        row["largest difference of posteriors"] = float(np.abs(found - expected).max())
        rows.append(row)
    return rows


PARTS: dict[str, Callable[[bool], Any]] = {
    "a_ppmg_per_image": lambda quick: ppmg_per_image(2 if quick else 9),
    "b_masks_per_second": lambda quick: masks_per_second(8 if quick else 200),
    "c_slider_step": lambda quick: slider_step(5 if quick else 60),
    "d_cam_rate": cam_rate,
    "e_training_rate": training_rate,
    "f_memory": lambda quick: memory(6 if quick else 40),
    "g_growth": lambda quick: growth(1 if quick else 5),
    "h_where_time_goes": lambda quick: where_time_goes(2 if quick else 15),
    "i_slider_to_picture": lambda quick: slider_to_picture(3 if quick else 30),
    "j_engine": engine_rate,
    "k_drop_in": lambda quick: drop_in(2 if quick else 15),
    "l_live_page": lambda quick: live_page(6 if quick else 60),
}


def main() -> None:
    """Run the parts that are asked for and write them down, each as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"letters of {', '.join(PARTS)}; none: all")
    parser.add_argument(
        "--quick", action="store_true", help="few rounds, to see that it runs; writes to a scratch file"
    )
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp()) if arguments.quick else project_root() / "results"
    path = folder / "benchmarks.json"
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name, measure in PARTS.items():
        if not arguments.parts or name[0] in arguments.parts:
            print(f"{name} ...", file=sys.stderr, flush=True)
            results |= {"environment": environment(), name: measure(arguments.quick)}
            write_text(path, json.dumps(results, indent=1) + "\n")
            write_text((folder if arguments.quick else project_root() / "docs") / "speed.md", page(results))
    print(path)


if __name__ == "__main__":
    main()
