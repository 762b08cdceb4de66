"""The command line: `pmm run`, `pmm check`, `pmm report`, `pmm params`.

Heavy imports wait until a command needs them. A user's mistake is one line on stderr and exit code 2,
a failure inside a notebook is exit code 1, Ctrl-C is exit code 130.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import pmm
from pmm.errors import InputError

if TYPE_CHECKING:
    from pmm.run.params import Params


class Commands(click.Group):
    """Turns the expected exceptions of every command into one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except InputError as error:
            click.echo(f"pmm: {' '.join(str(error).split())}", err=True)
            ctx.exit(2)
        except KeyboardInterrupt:
            click.echo("pmm: interrupted; the same command goes on and reuses finished stages", err=True)
            ctx.exit(130)


_parameter_file = click.argument("parameter_file", type=click.Path(path_type=Path), metavar="PARAMS.yaml")
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
def check(parameter_file: Path, overrides: Sequence[str]) -> None:
    """Check parameters, packages, weights and data before a run."""
    params = _load(parameter_file, overrides)
    click.echo(f"OK    parameters: {parameter_file}")
    from pmm.run.checks import all_checks

    failed = 0
    for name, step in all_checks(params):
        try:
            click.echo(f"OK    {name}: {step()}")
        except InputError as error:
            failed += 1
            click.echo(f"FAIL  {name}: {' '.join(str(error).split())}")
    if failed:
        raise InputError(f"{failed} of the checks failed; see the lines that begin with FAIL")


@main.command()
@click.argument("run_path", type=click.Path(path_type=Path), metavar="RUN")
def report(run_path: Path) -> None:
    """Write the report of a run anew, e.g. of runs/demo."""
    from pmm.run.folder import RunFolder
    from pmm.run.report import write_report

    click.echo(f"report: {write_report(RunFolder(run_path))}")


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


def _load(parameter_file: Path, overrides: Sequence[str]) -> Params:
    from pmm.run.params import load_params, parse_override

    return load_params(parameter_file, dict(parse_override(text) for text in overrides))


if __name__ == "__main__":
    main()
