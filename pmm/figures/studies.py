"""Figures of the studies: grids as heat maps and curves, gains of the losses over settings and seeds, rounds.

The first half draws tables and lines of any kind; the second half draws one study each, with its caption and, as the
alternative text, the sentences that its numbers write.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from pmm.figures.data import ground_truth_panel
from pmm.figures.panels import MOST, image_row, left_out
from pmm.figures.style import LINES, WIDTH, CaptionedFigure, new_figure, spaced, styled, text_colour, wrap
from pmm.method import IGNORE_INDEX
from pmm.method.crf import DenseCRF
from pmm.method.noise import flip_regions
from pmm.method.pseudo_mask import ppmg_steps
from pmm.run.experiment import Experiment
from pmm.studies import findings, masks, trainings
from pmm.studies.records import Record, summarise

Table = tuple[Sequence[Any], Sequence[Any], np.ndarray]
MARK = "#D55E00"
GAINS = "RdBu"
CELLS = mpl.colors.ListedColormap(mpl.colormaps["Blues"](np.linspace(0.12, 0.95, 256)))


@styled
def heat_maps(
    tables: Mapping[str, Table], row: str, column: str, label: str = "mIoU in %",
    own: tuple[Any, Any] | None = None, signed: bool = False,
) -> CaptionedFigure:  # fmt: skip
    """Draw tables of fractions as coloured cells with their numbers in per cent, side by side.

    Args:
        tables: title -> row values, column values, (rows, columns) fractions; NaN cells stay white.
        row, column, label: names of the axes, and what a cell holds.
        own: row and column value of the run; None instead of a value marks the whole row or column.
        signed: the cells are gains (blue) and losses (red), 0 is white.
    """
    wide = [len(columns) for _, columns, _ in tables.values()]
    tall = max(len(rows) for rows, _, _ in tables.values())
    figure, axes = new_figure(1, len(tables), 1.8 + 0.46 * tall, width_ratios=wide)
    found = np.concatenate([100 * np.ravel(values) for _, _, values in tables.values()])
    low, high = np.nanmin(found), np.nanmax(found)
    reach = max(-low, high, 1)
    ends = (-reach, reach) if signed else (low, max(high, low + 1))
    colours = mpl.cm.ScalarMappable(mpl.colors.Normalize(*ends), GAINS if signed else CELLS)
    for position, (axis, (title, content)) in enumerate(zip(axes.flat, tables.items(), strict=True)):
        _draw_cells(axis, content, colours, own, "+.1f" if signed else ".1f")
        axis.set_title(wrap(title, WIDTH * wide[position] / sum(wide) - 0.6), pad=10)
        axis.set(xlabel=column, ylabel=row if position == 0 else "")
    figure.colorbar(colours, ax=axes, label=label, fraction=0.03, pad=0.015)
    return figure


def _draw_cells(
    axis: Axes, content: Table, palette: mpl.cm.ScalarMappable, own: tuple[Any, Any] | None, form: str
) -> None:
    rows, columns, values = content
    colours = palette.to_rgba(np.nan_to_num(100 * values))
    colours[np.isnan(values)] = 1
    axis.imshow(colours, aspect="auto")
    style = {"ha": "center", "va": "center", "fontsize": 11 if len(columns) > 7 else 13}
    for r, c in np.argwhere(np.isfinite(values)):
        text = f"{round(100 * values[r, c], 1) + 0.0:{form}}"  # + 0.0: no -0.0
        axis.text(c, r, text, color=text_colour(colours[r, c]), **style)
    for ticks, names in ((axis.set_xticks, columns), (axis.set_yticks, rows)):
        ticks(range(len(names)), [spaced(name) if isinstance(name, str) else f"{name:g}" for name in names])
    axis.tick_params(length=0)
    axis.spines[["left", "bottom"]].set_visible(False)
    if own is not None and own[0] in (None, *rows) and own[1] in (None, *columns):
        top, height = (0, len(rows)) if own[0] is None else (list(rows).index(own[0]), 1)
        left, width = (0, len(columns)) if own[1] is None else (list(columns).index(own[1]), 1)
        frame = {"fill": False, "edgecolor": MARK, "linewidth": 3.5, "clip_on": False}
        axis.add_patch(Rectangle((left - 0.5, top - 0.5), width, height, **frame))


@styled
def lines_figure(
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[Any]]]], xlabel: str, ylabel: str,
    own: float | None = None, log: bool = False, even: bool = False, zero: bool = False, share: bool = True,
) -> CaptionedFigure:  # fmt: skip
    """Draw labelled curves in one panel a title, with one legend.

    Args:
        panels: title of the panel -> label of the curve -> (x, y); where a y is a list of seeds, the curve is their
            mean and each seed a pale dot.
        xlabel, ylabel: with the unit.
        own: x of the run's own value, dashed.
        log, even: x axis in powers of 2; x values at equal distances, labelled with their numbers.
        zero, share: draw a line at 0; one y axis for all panels.
    """
    figure, axes = new_figure(1, len(panels), 4.6, sharey=share)
    names = list(dict.fromkeys(name for curves in sorted(panels.values(), key=len, reverse=True) for name in curves))
    values = sorted({x for curves in panels.values() for xs, _ in curves.values() for x in xs})
    line = {"color": "0.25", "linewidth": 1.8, "zorder": 1.8}
    for axis, (title, curves) in zip(axes.flat, panels.items(), strict=True):
        for label, (x, y) in curves.items():
            x = [values.index(v) for v in x] if even else x
            _draw_line(axis, x, y, label, names.index(label), len(names))
        axis.set(xlabel=xlabel, title=wrap(title, WIDTH / len(panels) - 1))
        axis.grid(True)
        if log:
            axis.set_xscale("log", base=2)
            axis.xaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda v, _: f"{v:g}"))
        if even:
            axis.set_xticks(range(len(values)), [f"{v:g}" for v in values])
        if own is not None and (own in values or not even):
            axis.axvline(values.index(own) if even else own, linestyle="--", **line)
        if zero:
            axis.axhline(0, **line)
    axes[0, 0].set_ylabel(ylabel)
    if len(names) > 1:
        handles = {handle.get_label(): handle for axis in axes.flat for handle in axis.get_lines()}
        shown = [handles[name] for name in names]
        figure.legend(shown, names, loc="outside lower center", ncols=min(4, len(names)), handlelength=2.6)
    return figure


def _draw_line(axis: Axes, x: Sequence[float], y: Sequence[Any], label: str, place: int, count: int) -> None:
    colour = LINES[place] if count <= 4 else mpl.colormaps["viridis"](0.92 * place / (count - 1))  # many: a scale
    look = {"linestyle": ("-", "--", "-.", ":")[place % 4], "marker": "osD^vPX"[place % 7]}
    axis.plot(x, [np.mean(value) for value in y], color=colour, label=label, **look)
    for position, seeds in zip(x, y, strict=True):
        if np.ndim(seeds):
            axis.plot([position] * len(seeds), seeds, "o", color=colour, alpha=0.3, markersize=6)


@styled
def losses_figure(record: Record, live: Mapping[str, float] | None = None) -> CaptionedFigure:
    """Draw the mean and the spread of every loss, its single seeds, and this run's own numbers.

    Args:
        record: as `trainings.run_losses` returned.
        live: label -> val mIoU of this run as a fraction, drawn as extra lines at the top.
    """
    rows, live = summarise(record.cells, "masks", "title"), dict(live or {})
    keys, first = [(row["masks"], row["title"]) for row in rows], [f"this run: {label}" for label in live]
    figure, axis, colours = _setting_axis(keys, 1.3, "val mIoU in %: seeds (dots), mean (bar) and spread", first)
    axis.plot([100 * v for v in live.values()], range(len(live)), "D", color="0.2", markersize=9)
    for place, (row, colour) in enumerate(zip(rows, colours, strict=True), start=len(live)):
        axis.plot(100 * np.array(row["values"]), [place] * row["seeds"], "o", color=colour, alpha=0.35)
        bar = {"markersize": 18, "markeredgewidth": 3, "capsize": 5}
        axis.errorbar(100 * row["mean"], place, xerr=100 * (row["spread"] or 0), fmt="|", color=colour, **bar)
    return figure.say(
        "Settings of the loss, several seeds each; diamonds are this run's own trainings.",
        " ".join(findings.loss_sentences(record)) or "One line a setting.",
    )


@styled
def gains_figure(record: Record) -> CaptionedFigure:
    """Draw what each loss gains over cross-entropy on the same masks, a colour a kind of masks.

    `record` is as `trainings.run_losses` returned; of more than MOST settings those of `LOSS_TITLES` are drawn.
    """
    found = trainings.loss_gains(record)
    if len(found) > MOST:
        found = {key: gain for key, gain in found.items() if key[1] in trainings.LOSS_TITLES}
    xlabel = "val mIoU against cross-entropy, points: mean of the seeds and spread"
    figure, axis, colours = _setting_axis(list(found), 1.5, xlabel)
    for place, (gain, colour) in enumerate(zip(found.values(), colours, strict=True)):
        spread = {"xerr": 100 * (gain.spread or 0), "capsize": 5, "markersize": 9}
        axis.errorbar(100 * gain.mean, place, fmt="o", color=colour, **spread)
    axis.axvline(0, color="0.25", linewidth=1.8)
    return figure.say(
        "What each loss gains over cross-entropy on the same masks and the same seeds (beta/kappa in the name).",
        findings.verdicts_sentence(record),
    )


def _setting_axis(
    keys: Sequence[tuple[str, str]], height: float, xlabel: str, first: Sequence[str] = ()
) -> tuple[CaptionedFigure, Axes, list[str]]:
    """Make an axis with a line for each of `first` and each (masks, title); return the colours of the latter too."""
    labels = [*first, *(f"{title}  [{spaced(family)}]" for family, title in keys)]
    figure, axes = new_figure(1, 1, height + 0.42 * max(len(labels), 1))
    axis, families = axes[0, 0], list(dict.fromkeys(family for family, _ in keys))
    axis.set_yticks(range(len(labels)), labels)
    axis.invert_yaxis()
    axis.set_xlabel(xlabel)
    axis.grid(True, axis="x")
    return figure, axis, [LINES[families.index(family) % len(LINES)] for family, _ in keys]


def story(experiment: Experiment, image_id: str, alpha: float) -> CaptionedFigure:
    """Walk one training image from its CAM to the mask, then with s = 0 or another alpha: the row for a slide.

    The CAMs of the run are finished.
    """
    p, image, (class_ids, cam) = experiment.params, experiment.data.image(image_id), experiment.cam(image_id)
    own = p.model_dump(include={"s", "alpha", "t", "variant"}) | {"crf": DenseCRF(image, experiment.crf_settings())}
    steps = ppmg_steps(image, cam, class_ids, **own)
    changed = {"the same,\ns = 0": {"s": 0.0}, f"the same,\nalpha = {alpha:g}": {"alpha": alpha}}
    panels = [
        ("image", image),
        ("CAM", cam.max(axis=0)),
        ("smoothed\nCAM", steps.smoothed.max(axis=0)),
        ("the run's\nmask", steps.mask),
        *((title, ppmg_steps(image, cam, class_ids, **{**own, **one}).mask) for title, one in changed.items()),
        *ground_truth_panel(experiment.data, image_id),
    ]
    return image_row(panels, experiment.data.class_names, columns=7).say(
        f"From the image to the mask (s = {p.s:g}, alpha = {p.alpha:g}), with s = 0, with alpha = {alpha:g}.",
        "A row: image, CAM, smoothed CAM, the run's mask, the mask with s = 0, with a larger alpha, ground truth.",
    )


def s_alpha_maps(found: Mapping[str, Record]) -> CaptionedFigure:
    """Draw mIoU over s and alpha, one heat map a grid; `found` is title -> grid of `masks.run_mask_grid`."""
    own = masks.own_of(next(iter(found.values())))
    tables = {title: masks.table(record, "s", "alpha") for title, record in found.items()}
    return heat_maps(tables, "s", "alpha", own=(own["s"], own["alpha"])).say(
        "mIoU of the pseudo-masks over s and alpha; orange marks the run's setting, which was fixed beforehand.",
        " ".join(findings.each(found, findings.smoothing_sentence)),
    )


def class_map(title: str, record: Record) -> CaptionedFigure:
    """Draw the IoU of each class over s, of one grid: the background, then the classes by their IoU at the run's s.

    Of more than MOST classes those that s moves most.
    """
    s, (names, values, iou) = masks.own_of(record)["s"], masks.class_table(record, "s")
    moved, own = np.ptp(np.nan_to_num(iou), axis=1), np.nan_to_num(iou[:, values.index(s)])
    most = sorted(range(len(names)), key=lambda k: (names[k] != "background", -moved[k]))[:MOST]
    order = sorted(most, key=lambda k: (names[k] != "background", -own[k]))
    note = left_out(len(order), len(names), len(masks.pick(record, "s")[0]["iou"]))
    above = f"{title} ({note})" if note else title
    figure = heat_maps({above: ([names[k] for k in order], values, iou[order])}, "class", "s", "IoU in %", (None, s))
    return figure.say(
        f"IoU of each class over s, {above}; orange marks the run's s, by which they are sorted.",
        findings.class_sentence(record),
    )


def _grid_curves(
    found: Mapping[str, Record], axis: str, lines: str | None, say: Callable[[Record], str], xlabel: str, **look: bool
) -> CaptionedFigure:
    curves = {title: masks.curves(record, axis, lines) for title, record in found.items()}
    figure = lines_figure(curves, xlabel, "mIoU in %", masks.own_of(next(iter(found.values())))[axis], **look)
    return figure.say("", " ".join(findings.each(found, say)))


def s_alpha_curves(found: Mapping[str, Record]) -> CaptionedFigure:
    """Draw mIoU over alpha, one curve a value of s; `found` as in `s_alpha_maps`."""
    figure = _grid_curves(found, "alpha", "s", findings.smoothing_sentence, "alpha", log=True)
    caption = "The same grid as curves over alpha, one a value of s; dashed: the run's alpha."
    return figure.say(caption, f"One curve over alpha for each value of s. {figure.alt}")


def threshold_curves(found: Mapping[str, Record]) -> CaptionedFigure:
    """Draw mIoU over t by both variants; `found` as in `s_alpha_maps`."""
    caption = "mIoU of the pseudo-masks over t, by the released code and by the equations; dashed: the run's t."
    return _grid_curves(found, "t", "variant", findings.threshold_sentence, "t").say(caption)


def crf_curves(found: Mapping[str, Record]) -> CaptionedFigure:
    """Draw mIoU over the strength of the CRF; `found` as in `s_alpha_maps`."""
    caption = "mIoU of the pseudo-masks over the strength of the CRF; 0 is no CRF, dashed: the run's."
    figure = _grid_curves(found, "crf_scale", None, findings.crf_sentence, "factor on both weights", even=True)
    return figure.say(caption)


def augment_curves(record: Record) -> CaptionedFigure:
    """Draw what smoothing gains over alpha, for weak and strong augmentation of the classifier."""
    lines = {"mIoU with the run's s minus mIoU with s = 0": trainings.augment_lines(record)}
    return lines_figure(lines, "alpha", "gain of CVS, points", log=True, zero=True).say(
        "What smoothing gains over s = 0, for weak and strong augmentation; pale dots are single seeds.",
        findings.augment_sentence(record),
    )


def training_masks(experiment: Experiment, image_id: str) -> CaptionedFigure:
    """Draw the four kinds of training masks of one image that has a ground truth."""
    p, data = experiment.params, experiment.data
    truth = data.mask(image_id)
    noisy = flip_regions(truth, data.labels(image_id), p.ablation_noise, p.seed, image_id)
    objects = (truth > 0) & (truth != IGNORE_INDEX)
    changed = f"{np.mean((noisy != truth)[objects]):.0%}"
    pseudo = [(kind, experiment.pseudo_mask(kind, image_id)) for kind in ("ppmg", "threshold")]
    panels = [("image", data.image(image_id)), ("ground truth", truth), (f"noisy, {changed} wrong", noisy), *pseudo]
    return image_row(panels, data.class_names, columns=5).say(
        "The four kinds of training masks of one image.",
        f"Image, ground truth, the same with {changed} of its object pixels changed in blocks, two pseudo-masks.",
    )


def beta_kappa_maps(record: Record) -> CaptionedFigure | None:
    """Draw what the paper's clamp gains over beta and kappa, one heat map a kind of masks; None without any."""
    tables = {f"{kind} masks": trainings.gain_table(record, kind) for kind in trainings.FINE_MASKS}
    tables = {title: content for title, content in tables.items() if np.isfinite(content[2]).any()}
    if not tables:
        return None
    own = record.manifest["params"]["beta"], record.manifest["params"]["kappa"]
    return heat_maps(tables, "beta", "kappa", "gain, points", own, signed=True).say(
        "What the paper's clamp gains over cross-entropy for each beta and kappa; orange marks the run's pair.",
        f"Gains in points over beta and kappa for {' and '.join(tables)}.",
    )


def round_curves(record: Record) -> CaptionedFigure:
    """Draw the masks and the models over the cyclic rounds, with and without the filter."""
    names = {True: "filtered by the image's labels", False: "not filtered"}
    panels = {}
    for title, score in {"masks trained on, train": "masks_miou", "models, val": "model_miou"}.items():
        panels[title] = {names[key]: line for key, line in trainings.round_lines(record, score).items()}
    return lines_figure(panels, "round", "mIoU in %", even=True, share=False).say(
        "Masks and models over the rounds, with and without the filter; pale dots are single seeds.",
        " ".join(findings.cyclic_sentence(record, score) for score in ("masks_miou", "model_miou")),
    )
