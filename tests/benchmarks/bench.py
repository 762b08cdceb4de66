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
from measure import exponent, interleave, own_peak_mib, peak_mib, ratios, spread
from page import page
from recipe import DEMO, RecipeCRF, blobs, photograph
from where import where_time_goes

from pmm.artifacts import environment, project_root, write_text
from pmm.crf import DenseCRF
from pmm.pseudo_mask import ppmg
from pmm.threads import available_threads, limit_threads

SIZES = ((320, 240), (500, 375))
ALL_CORES, ONE_THREAD = "all cores", "one thread"


def our_mask(image: np.ndarray, cam: np.ndarray) -> np.ndarray:
    """Make a PPMG mask from scratch with the lattice engine."""
    return ppmg(image, cam, range(1, len(cam) + 1), **DEMO)


def recipe_mask(image: np.ndarray, cam: np.ndarray) -> np.ndarray:
    """Make the same mask with the common recipe."""
    return ppmg(image, cam, range(1, len(cam) + 1), **DEMO, crf=RecipeCRF(image))


def one_thread(work: Callable[[], Any]) -> Any:
    """Call on a single thread."""
    with limit_threads(1):
        return work()


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


def cam_rate(n_images: int) -> dict[str, Any]:
    """(d) CAMs at four scales with flips: batched and on threads, against a loop over scales and flips."""
    import torch
    from torch.nn.functional import interpolate

    from pmm.cam import normalize_cam
    from pmm.cam_inference import multi_scale_cam, scaled_batch
    from pmm.devices import place
    from pmm.models import EMBEDDED_BACKBONE, CamClassifier, image_statistics, load_imagenet
    from pmm.threads import map_images

    statistics, scales = image_statistics(EMBEDDED_BACKBONE), [0.5, 1.0, 1.5, 2.0]
    plain = CamClassifier(EMBEDDED_BACKBONE, 9)
    load_imagenet(plain.backbone, EMBEDDED_BACKBONE)
    plain.eval()
    ours = place(CamClassifier(EMBEDDED_BACKBONE, 9).eval(), torch.device("cpu"))
    ours.load_state_dict(plain.state_dict())
    images = [photograph(i, 256, 192) for i in range(n_images)]

    @torch.no_grad()
    def loop(image: np.ndarray) -> np.ndarray:
        total = 0
        for scale in scales:
            picture = torch.from_numpy(image.transpose(2, 0, 1).copy())[None]
            for flip in (False, True):
                batch = scaled_batch(
                    picture.flip(-1) if flip else picture, scale, False, statistics, torch.device("cpu")
                )
                maps = plain.maps(batch.contiguous())[:, :2].clamp(min=0)
                maps = maps.flip(-1) if flip else maps
                total = total + interpolate(maps, image.shape[:2], mode="bilinear")[0]
        return normalize_cam(total.numpy())

    options = {"scales": scales, "flip": True, "statistics": statistics}
    batched = partial(multi_scale_cam, ours, class_ids=(1, 2), **options)
    seconds = interleave(
        {"loop": lambda: [loop(i) for i in images], "ours": lambda: list(map_images(batched, images))}, 3
    )
    rates = {f"{name}, images/s": round(n_images / float(np.median(v)), 2) for name, v in seconds.items()}
    difference = float(np.abs(loop(images[0]) - batched(images[0])).max())
    return {**rates, "ratio": ratios(seconds, "loop", "ours"), "largest difference": difference}


def training_rate(rounds: int) -> dict[str, Any]:
    """(e) A training step with cross-entropy and with PUS, and how long its batch takes to load."""
    import torch

    from pmm.data.transforms import Augmentation, augment
    from pmm.devices import keep_freed_memory, place, prepare_images
    from pmm.models import EMBEDDED_BACKBONE, create_segmenter, freeze, image_statistics, keep_statistics
    from pmm.params import Params
    from pmm.segmentation import SegmentationLoss

    keep_freed_memory()
    p = Params()
    sizes = {"channels": p.seg_decoder_channels, "rates": p.seg_atrous_rates}
    model = place(create_segmenter(p.seg_architecture, EMBEDDED_BACKBONE, 10, **sizes), torch.device("cpu")).train()
    keep_statistics(model.encoder)
    freeze(model.encoder.model, p.seg_frozen_stages)
    settings, rng = Augmentation(tuple(p.seg_crop), tuple(p.seg_scale), colour=0.3), np.random.default_rng(0)
    images = [photograph(i, 256, 192) for i in range(p.seg_batch_size)]
    masks = [rng.integers(0, 10, (192, 256), dtype=np.uint8) for _ in images]

    def load() -> tuple[torch.Tensor, torch.Tensor]:
        pairs = [augment(image, mask, settings, rng) for image, mask in zip(images, masks, strict=True)]
        return torch.stack([a for a, _ in pairs]), torch.stack([b for _, b in pairs])

    pictures, targets = load()
    inputs = prepare_images(pictures, *image_statistics(EMBEDDED_BACKBONE), torch.device("cpu"))

    def step(loss: SegmentationLoss) -> None:
        loss(model, inputs, targets, 1.0)[0].backward()
        model.zero_grad(set_to_none=True)

    plain = SegmentationLoss(Params(pus="none"))
    doubting = {kind: SegmentationLoss(Params(pus=kind, beta=100.0, kappa=0.5)) for kind in ("clamp", "pow", "ignore")}
    contenders = {"ce": partial(step, plain)} | {kind: partial(step, loss) for kind, loss in doubting.items()}
    seconds = interleave({**contenders, "load": load}, rounds)
    cost = {kind: spread(100 * (seconds[kind] / seconds["ce"] - 1), 1) for kind in doubting}
    rates = {f"{kind}, images/s": round(len(images) / float(np.median(seconds[kind])), 2) for kind in contenders}
    return {**rates, "cost of PUS, %": cost, "loading, % of a step": spread(100 * seconds["load"] / seconds["ce"], 1)}


def memory() -> dict[str, Any]:
    """(f) Peak memory of ten masks of three classes at 500x375, each way in a process of its own, and of (d), (e)."""
    recipe, ours, threads = peak_mib("recipe"), peak_mib("ours"), peak_mib("threads")
    per_worker = round(threads["peak"] / joblib.cpu_count(), 1)
    return {
        "recipe, one process": recipe,
        "ours, one thread": ours,
        "ours, all threads": threads,
        "per worker, MiB": {"recipe": recipe["peak"], "ours": per_worker},
        "ratio": round(per_worker / recipe["peak"], 2),
    }


def run_for_memory(which: str) -> None:
    """Do the work of `memory` in this process and print its memory."""
    image, cam = photograph(0, *SIZES[1]), blobs(0, 3, *SIZES[1])
    if which == "recipe":
        import pydensecrf.densecrf  # noqa: F401
    else:
        our_mask(image[:32, :32], cam[:, :32, :32])  # compiled
    before = own_peak_mib()
    n = available_threads() if which == "threads" else 1
    make = recipe_mask if which == "recipe" else our_mask
    joblib.Parallel(n_jobs=n, prefer="threads")(
        joblib.delayed(one_thread)(partial(make, image, cam)) for _ in range(10)
    )
    print(before, own_peak_mib())


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


PARTS: dict[str, Callable[[bool], Any]] = {
    "a_ppmg_per_image": lambda quick: ppmg_per_image(2 if quick else 9),
    "b_masks_per_second": lambda quick: masks_per_second(8 if quick else 200),
    "c_slider_step": lambda quick: slider_step(5 if quick else 60),
    "d_cam_rate": lambda quick: cam_rate(2 if quick else 12),
    "e_training_rate": lambda quick: training_rate(1 if quick else 15),
    "f_memory": lambda quick: memory(),
    "g_growth": lambda quick: growth(1 if quick else 5),
    "h_where_time_goes": lambda quick: where_time_goes(2 if quick else 15),
}


def main() -> None:
    """Run the parts that are asked for and write them down, each as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"letters of {', '.join(PARTS)}; none: all")
    parser.add_argument(
        "--quick", action="store_true", help="few rounds, to see that it runs; writes to a scratch file"
    )
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        run_for_memory(arguments.memory)
        return
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
