"""The command line: runs (`run`, `train`, `check`, `report`, `status`, ...), `data`, `params`, `doctor`, CAMs.

Heavy imports wait until a command needs them. A user's mistake is one line on stderr and exit code 2,
a failure inside a notebook is exit code 1, Ctrl-C is exit code 130.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import pmm
from pmm.errors import InputError, one_line, some

if TYPE_CHECKING:
    from pmm.run.folders import Labels
    from pmm.run.params import Params

SHOWN = 10  # problems of a data set that are printed


class Commands(click.Group):
    """Turns the expected exceptions of every command into one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        if isinstance(sys.stdout, TextIOWrapper):  # the name of a file need not be UTF-8
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            return super().invoke(ctx)
        except InputError as error:
            click.echo(f"pmm: {one_line(error)}", err=True)
            ctx.exit(2)
        except OSError as error:
            hint = "check the name, the rights and the space"
            problem = f"{error.filename or 'file system'}: {error.strerror or error}; {hint}"
            click.echo(f"pmm: {one_line(problem)}", err=True)
            ctx.exit(2)
        except KeyboardInterrupt:
            click.echo("pmm: interrupted; the same command goes on and reuses finished stages", err=True)
            ctx.exit(130)


_path = click.Path(path_type=Path)
_run_path = click.argument("run_path", type=_path, metavar="RUN")
_parameter_file = click.argument("parameter_file", type=_path, metavar="PARAMS.yaml")
_override = click.option(
    "-p", "overrides", multiple=True, metavar="NAME=VALUE", help="Replace one parameter; may be repeated."
)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(pmm.__version__, prog_name="pmm")
def main() -> None:
    """Weakly supervised segmentation: from image labels over pseudo-masks to a model, in notebooks."""


@main.command()
@_parameter_file
@_override
@click.option("--only", multiple=True, metavar="NN", help="Run only this notebook, e.g. 04; may be repeated.")
@click.option("-v", "--verbose", is_flag=True, help="Copy what the notebooks print to the terminal.")
def run(parameter_file: Path, overrides: Sequence[str], only: Sequence[str], verbose: bool) -> None:
    """Run the notebooks in order and write the report."""
    params = _load(parameter_file, overrides)
    from pmm.run.notebooks import NotebookError, run_notebooks

    try:
        run_notebooks(params, list(only) or None, verbose=verbose)
    except NotebookError as error:
        if error.traceback:
            click.echo(error.traceback, err=True)
        click.echo(f"pmm: {error}", err=True)
        raise SystemExit(1) from None


@main.command()
@_parameter_file
@_override
def train(parameter_file: Path, overrides: Sequence[str]) -> None:
    """Make all masks and models without the notebooks, on several GPUs: accelerate launch -m pmm train ..."""
    params = _load(parameter_file, overrides)
    from pmm.run.experiment import train as train_all

    train_all(params)


@main.command()
@_parameter_file
@_override
def check(parameter_file: Path, overrides: Sequence[str]) -> None:
    """Check parameters, packages, weights and data before a run."""
    params = _load(parameter_file, overrides)
    click.echo(f"OK    parameters: {parameter_file}")
    from pmm.run.checks import all_checks

    _report(all_checks(params))


def _report(checks: Iterable[tuple[str, Callable[[], str]]]) -> None:
    failed = 0
    for name, step in checks:
        try:
            click.echo(f"OK    {name}: {step()}")
        except (InputError, OSError) as error:
            failed += 1
            click.echo(f"FAIL  {name}: {one_line(error)}")
    if failed:
        raise InputError(f"{failed} of the checks failed; see the lines that begin with FAIL")


@main.group()
def data() -> None:
    """Put data sets in place; count and check what one holds."""


@data.command(name="check")
@_parameter_file
@_override
def data_check(parameter_file: Path, overrides: Sequence[str]) -> None:
    """Count images, labels and masks of each split, and list what cannot be read."""
    params = _load(parameter_file, overrides)
    from pmm.run.checks import check_data

    _tell(check_data(params))


@data.command()
@click.option("--root", required=True, type=_path, metavar="DIR", help="Where VOCdevkit/ is, or goes.")
def voc2012(root: Path) -> None:
    """Download VOC 2012 and SBD, and make SBD's masks and list train_aug; goes on where it stopped."""
    from pmm.run.datasets import place_voc

    _tell(place_voc(root))


@data.command()
@click.option("--root", required=True, type=_path, metavar="DIR", help="COCO's folder, which holds annotations/.")
@click.option("--split", "splits", multiple=True, metavar="NAME", help="Only this, e.g. val2014; may be repeated.")
@click.option("--out", required=True, type=_path, metavar="DIR", help="Where the label maps go.")
@click.option("--workers", type=click.IntRange(0, 1024), default=0, help="Images at a time; by default one a core.")
@click.option("--scheduler", default="", metavar="ADDRESS", help="Dask cluster, tcp://host:port, instead.")
def coco2014(root: Path, splits: Sequence[str], out: Path, workers: int, scheduler: str) -> None:
    """Write COCO's objects as label maps (palette PNGs) with a table of labels; goes on where it stopped."""
    from pmm.run.datasets import convert_coco

    _tell(convert_coco(root, out, splits, workers=workers, scheduler=scheduler))


def _tell(found: Iterable[tuple[str, list[str]]]) -> None:
    """Print each text as it comes, then the first problems, each once; exit code 1 where there are any."""
    problems: dict[str, None] = {}  # an image may be in two splits
    for text, wrong in found:
        click.echo(text)
        problems.update(dict.fromkeys(wrong))
    for problem in list(problems)[:SHOWN]:
        click.echo(one_line(problem))
    if len(problems) > SHOWN:
        click.echo(f"... and {len(problems) - SHOWN} more")
    if problems:
        raise SystemExit(1)


@main.command()
@_run_path
def report(run_path: Path) -> None:
    """Write the report of a run anew, e.g. of runs/demo."""
    from pmm.run.folder import RunFolder
    from pmm.run.report import write_report

    click.echo(f"report: {write_report(RunFolder(run_path))}")


@main.command()
@click.argument("source", type=_path, metavar="RUN|PAGE.html")
@click.option("--out", type=_path, metavar="FILE", help="The page to write; RUN/explorer.html unless told.")
@click.option("--scene", "scenes", multiple=True, metavar="ID", help="A training image to show; may be repeated.")
def explorer(source: Path, out: Path | None, scenes: Sequence[str]) -> None:
    """Write all sliders as one HTML file that needs no Python; of a page written before: with its data."""
    from pmm.run.pages import explorer_data, read_explorer, write_explorer

    if source.is_dir():
        from pmm.explore.page import make_page
        from pmm.run.experiment import Experiment
        from pmm.run.folder import RunFolder

        run = RunFolder(source)
        make_page(Experiment(_load(source / "params.yaml", ()), run=run), scenes)
        data = explorer_data(run)
    elif scenes:
        raise InputError(f"--scene {scenes[0]}: a page keeps its scenes; name a run's folder instead of {source}")
    else:
        data = read_explorer(source)
    path = out or (source / "explorer.html" if source.is_dir() else source)
    write_explorer(data, path, report=(path.parent / "report.html").is_file())
    click.echo(f"page: {path}, {path.stat().st_size / 1e6:.1f} MB")


@main.command()
@_run_path
def status(run_path: Path) -> None:
    """Say of each stage of a run whether it is done, stale and why, begun, damaged or missing."""
    from pmm.run import audit

    found = audit.status(run_path)
    width = max(map(len, found))
    for name, (state, why) in found.items():
        click.echo(f"{name.ljust(width)}  {state.ljust(7)}  {why}".rstrip())
    todo = sum(state != audit.DONE for state, _ in found.values())
    left = f"{todo} of {len(found)} stages are to be made: pmm run {run_path / 'params.yaml'}"
    click.echo(left if todo else f"all {len(found)} stages are done")


@main.command()
@click.argument("first", type=_path, metavar="RUN")
@click.argument("second", type=_path, metavar="OTHER")
def diff(first: Path, second: Path) -> None:
    """Say why the results of two runs differ: parameters, code, machine, stages, numbers."""
    from pmm.run.audit import differences

    found = differences(first, second)
    for what, lines in found.items():
        click.echo(f"{what} ({first} | {second}):")
        for line in lines:
            click.echo(f"  {line}")
    if not found:
        click.echo("no difference: same parameters, code, machine, stages and numbers")


@main.command()
def doctor() -> None:
    """Check this installation: OK or FAIL for each thing that a run needs, and how to mend what fails."""
    from pmm.run.checks import health

    _report(health())


@main.command()
def params() -> None:
    """List every parameter: name, default, range, meaning."""
    from pmm.run.params import Params, allowed_values

    rows = [("name", "default", "range", "meaning")]
    for name, field in Params.model_fields.items():
        default = str(field.default) or "''"
        rows.append((name, default, allowed_values(name), field.description or ""))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    for *cells, meaning in rows:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        click.echo("  ".join((*padded, meaning)))


def _of_cams(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that name CAMs of another project."""
    for option in reversed((
        click.option("--cams", required=True, type=_path, metavar="DIR", help="CAM files, named as the images."),
        click.option("--images", required=True, type=_path, metavar="DIR", help="The images."),
        click.option("--out", required=True, type=_path, metavar="DIR", help="Where the masks go."),
        click.option("--labels", "label_file", type=_path, metavar="FILE", help="A table, or cls_labels.npy."),
        click.option("--classes", type=_path, metavar="FILE", help="Class names, one a line, or: voc."),
        click.option("--first-class", type=click.IntRange(0, 1), help="What counts the first class."),
    )):  # fmt: skip
        command = option(command)
    return command


def _labels(label_file: Path | None, classes: Path | None) -> Labels | None:
    from pmm.run.folders import read_labels

    if classes and not label_file:
        raise InputError(f"--classes {classes}: names the classes of the labels; give --labels, too")
    return read_labels(label_file, classes) if label_file else None


@main.command()
@_of_cams
@click.option(
    "-p", "overrides", multiple=True, metavar="NAME=VALUE", help="s, alpha, ... or method=crf; may be repeated."
)
def masks(
    cams: Path, images: Path, out: Path, label_file: Path | None, classes: Path | None, first_class: int | None,
    overrides: Sequence[str],
) -> None:  # fmt: skip
    """Turn CAMs of any project into pseudo-masks: palette PNGs."""
    from pmm.run.compute import METHODS, USED
    from pmm.run.folders import make_masks
    from pmm.run.params import check_params, parse_override

    own = dict(parse_override(text) for text in overrides)
    if (method := own.pop("method", "ppmg")) not in METHODS:
        raise InputError(f"method = {method}: choose one of {', '.join(METHODS)}")
    params = check_params(own, "-p")
    for name in sorted(set().union(*USED.values()) & own.keys() - set(USED[method])):
        raise InputError(f"-p {name}: method = {method} does not read it, but {', '.join(USED[method])} and crf_*")
    labels = _labels(label_file, classes)
    found = make_masks(cams, images, out, method, params.model_dump(), labels, first_class)
    click.echo(
        f"{out}: {len(found.new)} new masks ({found.seconds:.2f} s each), {len(found.kept)} were there; "
        f"{len(found.empty)} of the new are background alone"
    )
    if found.without_cam:
        click.echo(f"pmm: {len(found.without_cam)} images have no CAM: {some(found.without_cam)}", err=True)
        raise SystemExit(1)


@main.command()
@_of_cams
@click.option("--truth", type=_path, metavar="DIR", help="Ground truth, index PNGs, to score all ways.")
@_override
def compare(
    cams: Path, images: Path, out: Path, label_file: Path | None, classes: Path | None, first_class: int | None,
    truth: Path | None, overrides: Sequence[str],
) -> None:  # fmt: skip
    """Make the masks of every method of CAMs of any project, and a page that shows and scores them."""
    from pmm.run.compare import COMPARED, compare_methods
    from pmm.run.params import check_params, parse_override

    params = check_params(dict(parse_override(text) for text in overrides), "-p").model_dump()
    scores = compare_methods(cams, images, out, params, _labels(label_file, classes), first_class, truth)
    for method, score in scores.items():
        click.echo(f"{COMPARED[method].ljust(16)}  mIoU {score['miou']:.2%}, {score['images']} images")
    click.echo(f"page: {out / 'index.html'}")


@main.command()
@_run_path
@click.option(
    "--export", "form", required=True, type=click.Choice(["irn", "pmm", "npz"]), help="How other projects write CAMs."
)
@click.option("--out", required=True, type=_path, metavar="DIR", help="Where the files go.")
def cams(run_path: Path, form: str, out: Path) -> None:
    """Write the CAMs of a run for other projects."""
    from pmm.run.folder import RunFolder
    from pmm.run.folders import export_cams

    count = export_cams(RunFolder(run_path), out, form)
    click.echo(f"{out}: {count} files, the first class counted as {int(form == 'npz')}")


@main.command(name="eval")
@click.option("--masks", "mask_folder", required=True, type=_path, metavar="DIR", help="Index PNGs to score.")
@click.option("--truth", required=True, type=_path, metavar="DIR", help="Ground truth, index PNGs of the same names.")
@click.option("--classes", type=_path, metavar="FILE", help="Class names, one a line, or: voc.")
def evaluate(mask_folder: Path, truth: Path, classes: Path | None) -> None:
    """Print the IoU of each class, and their mean, of a folder of masks."""
    from pmm.run.folders import score_masks

    score, *alone = score_masks(mask_folder, truth, classes)
    width = max(map(len, score["iou"]))
    for name, value in score["iou"].items():
        click.echo(f"{name.ljust(width)}  {'does not occur' if value != value else format(value, '7.2%')}")
    accuracy = f"pixel accuracy {score['pixel_accuracy']:.2%}"
    click.echo(f"mIoU {score['miou']:.2%}, {accuracy}, {score['images']} images")
    for ids, what in zip(alone, ("masks have no ground truth", "ground truths have no mask"), strict=True):
        if ids:
            click.echo(f"{len(ids)} {what} and are not scored: {some(ids)}")


def _load(parameter_file: Path, overrides: Sequence[str]) -> Params:
    from pmm.run.params import load_params, parse_override

    return load_params(parameter_file, dict(parse_override(text) for text in overrides))


if __name__ == "__main__":
    main()
