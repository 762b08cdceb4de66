"""Turn benchmarks.json into docs/speed.md."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

INTRO = """# Speed, and where the time goes

`make bench` wrote this page. All contenders take turns in one run on the same inputs, so a busy moment of the machine
meets all alike. Ratios are medians with quartiles; milliseconds are this machine's: {machine}.
The *recipe* is how pydensecrf is commonly called: for each class a new `DenseCRF2D`, a Gaussian and a bilateral
kernel, 10 iterations. *Ours* is `pmm.DenseCRF`. Photographs are sample scenes, maps are smooth blobs like CAMs.
"""

LIMIT = """
A pass over the pixels reads the lattices' vertices and weights, 54 bytes a pixel, and the channels. A copy of a large
array reaches {copy} GB/s here on one thread; the last column says how near a step comes to that. Channels lie side by
side, and the processor takes 4 or 8 of them at once: four classes cost little more than one. What is missing to 1 is
the price of nine gathers and nine adds a pixel into small tables that lie in the caches: dependent loads and stores set
the pace, not the memory. The blur touches the tables alone.
"""


MEMORY = """
The recipe's workers are processes, ours are threads of one. Pages of a file count once a job, whoever else uses them.
Each further worker costs {ours:.0f} MiB, of the recipe {recipe:.0f} MiB: {ratio:.2f} of it.
The whole job has a fixed part, too:

"""

FIXED = """
numba and LLVM take {fixed:.0f} MiB once a job, {files:.0f} of them pages of files, above all LLVM's library, before any
mask is made: loading a cached function needs numba's tables and LLVM's linker. With Python and the inputs that is
{least:.0f} MiB before any work.
"""

OUT_OF_REACH = """Half of the recipe's whole job, {half:.0f} MiB with {workers} workers, is therefore out of reach
with so few; by the costs above it is reached from {enough} workers on.
"""


def page(results: dict[str, Any]) -> str:
    """Return the page of the parts that `results` holds."""
    where = results["environment"]
    text = [INTRO.format(machine=f"{where['processor']}, {where['cores']} cores, Python {where['python']}")]
    for name, write in SECTIONS.items():
        if name in results:
            text.append(write(results[name]))
    return "\n".join(text)


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def ratio(value: dict[str, float]) -> str:
    """Write a median with its quartiles."""
    return f"{value['median']:g}x ({value['q1']:g} to {value['q3']:g})"


def _drop_in(rows: list[dict[str, Any]]) -> str:
    columns = ("image", "labels", "pydensecrf, ms", "pmm.densecrf, all cores, ms", "faster", "one thread, ms", "faster",
               "pixels that agree", "posterior differs by at most")  # fmt: skip
    note = "One program, one import changed: Gaussian and bilateral kernel, 10 iterations, all labels jointly.\n\n"
    return "## The drop-in for pydensecrf\n\n" + note + table(columns, _contest(rows, "labels", "pydensecrf"))


def _contest(rows: list[dict[str, Any]], counted: str, other: str) -> list[Sequence[Any]]:
    return [
        (r["size"], r[counted], r[other]["median"], r["all cores"]["median"], ratio(r["ratio, all cores"]),
         r["one thread"]["median"], ratio(r["ratio, one thread"]), f"{r['pixels that agree']:.4%}",
         f"{r['largest difference of posteriors']:.1e}")
        for r in rows
    ]  # fmt: skip


def _ppmg(rows: list[dict[str, Any]]) -> str:
    columns = ("image", "classes", "recipe, ms", "ours, all cores, ms", "faster", "ours, one thread, ms", "faster",
               "pixels that agree", "posterior differs by at most")  # fmt: skip
    return "## One image: PPMG from scratch\n\n" + table(columns, _contest(rows, "classes", "recipe"))


def _rate(found: dict[str, Any]) -> str:
    return (
        f"## Many images: masks a second\n\n{found['images']} images of 500x375 with 1 to 3 classes, "
        f"{found['workers']} cores: threads with the lattice {found['ours']} a second, "
        f"a process pool with the recipe {found['recipe']}: "
        f"{found['ratio']} times as many.\n"
    )


def _slider(rows: list[dict[str, Any]]) -> str:
    cells = [(r["size"], r["classes"], r["p50 ms"], r["p95 ms"]) for r in rows]
    return "## A slider step: alpha moves, the lattices stay\n\n" + table(
        ("image", "classes", "p50, ms", "p95, ms"), cells
    )


def _cams(found: dict[str, Any]) -> str:
    return (
        "## CAMs: four scales with flips, 256x192\n\n"
        f"{found['ours, images/s']} images a second, image and flip in one pass and an image a thread, against "
        f"{found['loop, images/s']} for a loop over scales and flips: {ratio(found['ratio'])}. "
        f"CAMs differ by at most {found['largest difference']:.1e}: a scaled image is rounded to whole grey levels, "
        "and a half may fall either way.\n\n" + _batches(found["batches"]) + _half(found["bfloat16"])
    )


def _batches(rows: list[dict[str, Any]]) -> str:
    columns = ("image", "an image a thread, images/s", "images of one size in a pass, all cores, images/s", "ratio",
               "CAMs differ by at most")  # fmt: skip
    cells = [
        (r["size"], r["thread, images/s"], f"{r['batch, images/s']} (in passes of {r['batch']})", ratio(r["ratio"]),
         f"{r['largest difference']:.1e}")
        for r in rows
    ]  # fmt: skip
    note = "\nSo on a processor each thread takes an image; a GPU takes 16 of one size a pass (`cam_batch_size`).\n\n"
    return table(columns, cells) + note


def _half(found: dict[str, Any]) -> str:
    return (
        f"In bfloat16 one CAM takes {found['time over float32']:g} times as long on this processor and differs by up "
        f"to {found['largest difference']:.2f}, so a processor keeps to float32. On a GPU "
        "`pmm.networks.devices.autocast` takes bfloat16 or float16; that was not measured here.\n"
    )


def _engine(found: dict[str, Any]) -> str:
    return (
        "## CAMs by ONNX Runtime, from JPEG to .npz\n\n"
        f"{found['onnxruntime, images/s']} photographs of 400 pixels a second, four scales with flips, against "
        f"{found['torch, images/s']} by PyTorch: {ratio(found['ratio'])} (`inference`). CAMs differ by at most "
        f"{found['largest difference']:.1e}, and {found['pixels that agree']:.4%} of the pixels of masks at a "
        f"threshold agree. Converting the network takes {found['seconds to convert']:g} seconds, once a stage.\n\n"
        f"With the CAMs of params/voc2012_animals.yaml (scales {' and '.join(map(str, found['animals, scales']))}, no "
        f"flips, stride 32) it is {found['animals, images/s']} photographs a second: {ratio(found['animals, ratio'])} "
        "as many as four scales with flips by PyTorch. Other CAMs, whose masks are as good: the file has the numbers.\n"
    )


def _training(found: dict[str, Any]) -> str:
    cells = [(kind, found[f"{kind}, images/s"], "" if kind == "ce" else _percent(found["cost of PUS, %"][kind]))
             for kind in ("ce", "clamp", "pow", "ignore")]  # fmt: skip
    note = "The cost is that of the loss, forward and backward, as a share of a whole step. "
    note += f"Loading a batch takes {_percent(found['loading, % of a step'])} of a step, on a thread beside it. "
    note += f"In bfloat16 a step takes {found['bfloat16 over float32']:g} times as long on this processor.\n"
    return "## A training step\n\n" + table(("loss", "images/s", "cost over cross-entropy"), cells) + "\n" + note


def _percent(value: dict[str, float]) -> str:
    return f"{value['median']:g} % ({value['q1']:g} to {value['q3']:g})"


def _memory(found: dict[str, Any]) -> str:
    rows = found["jobs"]
    cells = [
        (r["workers"], r["recipe"]["peak"], r["ours"]["peak"], r["ratio"],
         *(round(r[who]["peak"] / r["workers"], 1) for who in ("recipe", "ours")))
        for r in rows
    ]  # fmt: skip
    columns = ("workers", "recipe, peak", "ours, peak", "ours / recipe", "recipe, a worker", "ours, a worker")
    few, many = rows[0], rows[-1]
    more = {w: (many[w]["peak"] - few[w]["peak"]) / (many["workers"] - few["workers"]) for w in ("recipe", "ours")}
    title = "## Memory: many masks at 500x375, MiB, parent and workers together\n\n"
    text = MEMORY.format(**more, ratio=more["ours"] / more["recipe"], rest=few["ours"]["rest"])
    return title + table(columns, cells) + text + _memory_steps(found, more)


def _memory_steps(found: dict[str, Any], more: dict[str, float]) -> str:
    steps, first = found["steps"], found["jobs"][0]
    cells = [(who, *row.values()) for who in ("recipe", "ours") for row in steps[who]]
    fixed = sum(row["MiB"] for row in steps["ours"][1:-1])
    least = steps["ours"][0]["MiB"] + fixed
    half, workers = first["recipe"]["peak"] / 2, first["workers"]
    text = FIXED.format(fixed=fixed, files=sum(row["files, MiB"] for row in steps["ours"][1:-1]), least=least)
    if least > half:
        gap = first["ours"]["peak"] - half
        enough = workers + math.ceil(gap / (more["recipe"] / 2 - more["ours"]))
        text += OUT_OF_REACH.format(workers=workers, half=half, enough=enough)
    return table(("one thread", "step", "adds, MiB", "of it pages of files, MiB"), cells) + text


def _growth(found: dict[str, Any]) -> str:
    text = "## Growth, one thread\n\n"
    for what in ("pixels", "classes"):
        text += table((what, "ms"), list(found[f"ms over {what}"].items()))
        text += f"\nTime grows with {what} to the power of {found[f'exponent over {what}']:g}.\n\n"
    return text


def _pictures(rows: list[dict[str, Any]]) -> str:
    title = "## The explorer: from a slider's event to the new picture\n\n"
    note = "\nWith everything in between: the widget's event, the mask, the judgement, the drawing, and the JPEG.\n"
    return title + table(list(rows[0]), [list(row.values()) for row in rows]) + note


def _live(found: dict[str, Any]) -> str:
    rows, size = found["rows"], f"{found['megabytes']:g} MB"
    title = "## The page without a kernel: from a slider's event to the new pictures\n\n"
    note = f"""
docs/explorer.html has {size}. {found["browser"]}, no graphics card, {found["size"]}. By the browser's
own clock, from the event's time stamp to the pixels of all pictures and the numbers. The target is a frame, 16 ms.
"""
    return title + table(list(rows[0]), [list(row.values()) for row in rows]) + note


def _where(found: dict[str, Any]) -> str:
    names = ("step", "ms", "MB moved", "GB/s", "share of the copy's bandwidth")
    cells = [[row.get(name, "") for name in names] for row in found["steps"]]
    title = f"## Where the time goes, {found['size']}, one thread, {found['iterations']} iterations\n\n"
    return title + table(names, cells) + LIMIT.format(copy=found["copy, GB/s"])


SECTIONS = {
    "a_ppmg_per_image": _ppmg,
    "k_drop_in": _drop_in,
    "b_masks_per_second": _rate,
    "c_slider_step": _slider,
    "d_cam_rate": _cams,
    "e_training_rate": _training,
    "f_memory": _memory,
    "g_growth": _growth,
    "h_where_time_goes": _where,
    "i_slider_to_picture": _pictures,
    "l_live_page": _live,
    "j_engine": _engine,
}
