"""Figures of notebook 07: grids as heat maps, gains over settings, rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from pmm.figures.data import ground_truth_panel
from pmm.figures.palette import LINES, text_colour
from pmm.figures.panels import Panel
from pmm.figures.style import WIDTH, new_figure, spaced, styled, wrap
from pmm.method.crf import DenseCRF
from pmm.method.pseudo_mask import ppmg_steps
from pmm.studies.ablations import differences

Table = tuple[Sequence[Any], Sequence[Any], np.ndarray]
MARK = "#D55E00"
GAINS = "RdBu"
CELLS = mpl.colors.ListedColormap(mpl.colormaps["Blues"](np.linspace(0.12, 0.95, 256)))


@styled
def heat_maps(
    tables: Mapping[str, Table],
    row: str,
    column: str,
    label: str = "mIoU in %",
    own: tuple[Any, Any] | None = None,
    signed: bool = False,
) -> Figure:
    """Draw tables of fractions as coloured cells with their numbers in per cent, side by side.

    Args:
        tables: title -> row values, column values, (rows, columns) fractions; NaN cells stay white.
        row, column: names of the axes.
        label: what a cell holds.
        own: row and column value of the run; None instead of a value marks the whole row or column.
        signed: the cells are gains (blue) and losses (red), 0 is white.
    """
    wide = [len(columns) for _, columns, _ in tables.values()]
    tall = max(len(rows) for rows, _, _ in tables.values())
    figure, axes = new_figure(1, len(tables), 1.8 + 0.46 * tall, width_ratios=wide)
    found = np.concatenate([100 * np.ravel(values) for _, _, values in tables.values()])
    colours = mpl.cm.ScalarMappable(_scale(found, signed), GAINS if signed else CELLS)
    for position, (axis, (title, content)) in enumerate(zip(axes.flat, tables.items(), strict=True)):
        _draw_cells(axis, content, colours, own, "+.1f" if signed else ".1f")
        axis.set_title(wrap(title, WIDTH * wide[position] / sum(wide) - 0.6), pad=10)
        axis.set(xlabel=column, ylabel=row if position == 0 else "")
    figure.colorbar(colours, ax=axes, label=label, fraction=0.03, pad=0.015)
    return figure


def _scale(found: np.ndarray, signed: bool) -> mpl.colors.Normalize:
    low, high = np.nanmin(found), np.nanmax(found)
    if not signed:
        return mpl.colors.Normalize(low, max(high, low + 1))
    reach = max(-low, high, 1)
    return mpl.colors.Normalize(-reach, reach)


def _draw_cells(
    axis: Axes, content: Table, palette: mpl.cm.ScalarMappable, own: tuple[Any, Any] | None, form: str
) -> None:
    rows, columns, values = content
    colours = palette.to_rgba(np.nan_to_num(100 * values))
    colours[np.isnan(values)] = 1
    axis.imshow(colours, aspect="auto")
    small = len(columns) > 7
    for (r, c), value in np.ndenumerate(values):
        if np.isfinite(value):
            ink = text_colour(colours[r, c])
            text = f"{round(100 * value, 1) + 0.0:{form}}"  # + 0.0: no -0.0
            axis.text(c, r, text, ha="center", va="center", color=ink, fontsize=11 if small else 13)
    axis.set_xticks(range(len(columns)), [_shown(value) for value in columns])
    axis.set_yticks(range(len(rows)), [_shown(value) for value in rows])
    axis.tick_params(length=0)
    for name in ("left", "bottom"):
        axis.spines[name].set_visible(False)
    if own is not None:
        _outline(axis, rows, columns, own)


def _outline(axis: Axes, rows: Sequence[Any], columns: Sequence[Any], own: tuple[Any, Any]) -> None:
    r, c = own
    if r not in (None, *rows) or c not in (None, *columns):
        return
    top, height = (0, len(rows)) if r is None else (list(rows).index(r), 1)
    left, width = (0, len(columns)) if c is None else (list(columns).index(c), 1)
    style = {"fill": False, "edgecolor": MARK, "linewidth": 3.5, "clip_on": False}
    axis.add_patch(Rectangle((left - 0.5, top - 0.5), width, height, **style))


def _line(place: int, count: int) -> dict[str, Any]:
    """Return the style of one curve: a colour of its own, or its place on a scale where there are many."""
    colour = LINES[place] if count <= 4 else mpl.colormaps["viridis"](0.92 * place / (count - 1))
    return {"color": colour, "linestyle": ("-", "--", "-.", ":")[place % 4], "marker": "osD^vPX"[place % 7]}


@styled
def lines_figure(
    grids: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]], xlabel: str, ylabel: str,
    own: float | None = None, log: bool = False, even: bool = False,
) -> Figure:  # fmt: skip
    """Draw labelled curves in one panel a grid, with a common y axis and one legend.

    Args:
        grids: title of the panel -> label of the curve -> (x, y).
        xlabel, ylabel: with the unit.
        own: x of the run's own value, dashed.
        log: x axis in powers of 2.
        even: x values at equal distances, labelled with their numbers.
    """
    figure, axes = new_figure(1, len(grids), 4.6, sharey=True)
    names = list(dict.fromkeys(name for curves in sorted(grids.values(), key=len, reverse=True) for name in curves))
    values = sorted({x for curves in grids.values() for xs, _ in curves.values() for x in xs})
    for axis, (title, curves) in zip(axes.flat, grids.items(), strict=True):
        for label, (x, y) in curves.items():
            x = [values.index(v) for v in x] if even else x
            axis.plot(x, y, **_line(names.index(label), len(names)), label=label)
        axis.set(xlabel=xlabel, title=wrap(title, WIDTH / len(grids) - 1))
        axis.grid(True)
        if log:
            axis.set_xscale("log", base=2)
            axis.xaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda v, _: f"{v:g}"))
        if even:
            axis.set_xticks(range(len(values)), [f"{v:g}" for v in values])
        if own is not None and (own in values or not even):
            axis.axvline(values.index(own) if even else own, color="0.25", linestyle="--", linewidth=1.8, zorder=1.8)
    axes[0, 0].set_ylabel(ylabel)
    handles = {h.get_label(): h for axis in axes.flat for h in axis.get_lines() if h.get_label() in names}
    if len(names) > 1:
        shown = [handles[name] for name in names]
        figure.legend(shown, names, loc="outside lower center", ncols=min(4, len(names)), handlelength=2.6)
    return figure


@styled
def gains_figure(results: Mapping[str, Any], titles: Sequence[str] | None = None) -> Figure:
    """Draw what each loss gains over cross-entropy on the same masks and seeds, one colour a kind of masks.

    Args:
        results: as `pmm.studies.ablations.run_grid` returned.
        titles: lines to draw; None draws all.
    """
    found = [d for d in differences(results) if titles is None or d["title"] in titles]
    families = list(dict.fromkeys(d["masks"] for d in found))
    figure, axes = new_figure(1, 1, 1.5 + 0.42 * max(len(found), 1))
    axis = axes[0, 0]
    for place, d in enumerate(found):
        colour = LINES[families.index(d["masks"]) % len(LINES)]
        spread = {"xerr": 100 * (d["spread"] or 0), "capsize": 5, "markersize": 9}
        axis.errorbar(100 * d["mean"], place, fmt="o", color=colour, **spread)
    axis.axvline(0, color="0.25", linewidth=1.8)
    axis.set_yticks(range(len(found)), [f"{d['title']}  [{d['masks']}]" for d in found])
    axis.invert_yaxis()
    axis.set_xlabel("val mIoU against cross-entropy, points: mean of the seeds and spread")
    axis.grid(True, axis="x")
    return figure


@styled
def seeds_figure(
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[Sequence[float]]]]], xlabel: str, ylabel: str,
    log: bool = False, zero: bool = False,
) -> Figure:  # fmt: skip
    """Draw the mean over the seeds as a line and each seed as a pale dot, one panel a title.

    Args:
        panels: title -> label of the line -> (x, for each x the values of the seeds).
        xlabel, ylabel: with the unit.
        log: x axis in powers of 2; otherwise x holds whole numbers.
        zero: draw a line at 0.
    """
    figure, axes = new_figure(1, len(panels), 4.6)
    for axis, (title, lines) in zip(axes.flat, panels.items(), strict=True):
        for place, (label, (x, values)) in enumerate(lines.items()):
            colour, means = LINES[place % len(LINES)], [np.mean(v) for v in values]
            axis.plot(x, means, ("-", "--")[place % 2], color=colour, marker="o", label=label)
            for position, seeds in zip(x, values, strict=True):
                axis.plot([position] * len(seeds), seeds, "o", color=colour, alpha=0.3, markersize=6)
        axis.set(xlabel=xlabel, title=title)
        axis.grid(True)
        if log:
            axis.set_xscale("log", base=2)
            axis.xaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda v, _: f"{v:g}"))
        else:
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        if zero:
            axis.axhline(0, color="0.25", linewidth=1.8, zorder=1.8)
    axes[0, 0].set_ylabel(ylabel)
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), handlelength=2.6)
    return figure


def story_panels(experiment: Any, image_id: str, alpha: float) -> list[Panel]:
    """Return one training scene with one thing changed at a time: the row for a slide.

    Args:
        experiment: the run, a `pmm.run.experiment.Experiment`, whose CAMs are finished.
        image_id: of a training image.
        alpha: another background exponent.
    """
    p, image = experiment.params, experiment.data.image(image_id)
    class_ids, cam = experiment.cam(image_id)
    shared = DenseCRF(image, experiment.crf_settings())
    own = {"s": p.s, "alpha": p.alpha, "t": p.t, "variant": p.variant, "crf": shared}
    steps = ppmg_steps(image, cam, class_ids, **own)
    changed = {"the same,\ns = 0": {"s": 0.0}, f"the same,\nalpha = {alpha:g}": {"alpha": alpha}}
    return [
        ("scene", image),
        ("CAM", cam.max(axis=0)),
        ("smoothed\nCAM", steps.smoothed.max(axis=0)),
        ("the run's\nmask", steps.mask),
        *((title, ppmg_steps(image, cam, class_ids, **{**own, **one}).mask) for title, one in changed.items()),
        *ground_truth_panel(experiment.data, image_id),
    ]


def _shown(value: Any) -> str:
    return spaced(value) if isinstance(value, str) else f"{value:g}"
