"""The command line. Subcommands stand in the order of the story; help needs no torch."""

from __future__ import annotations

import os
import shlex
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TextIO

import typer
from rich.console import Console
from rich.table import Table

import selfsteer
from selfsteer.errors import SelfsteerError, SelfsteerWarning

app = typer.Typer(
    help="Align a chat model with no human labels, by Self-Steering Optimization (arXiv 2410.17131).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
models_app = typer.Typer(help="The model catalogue.", no_args_is_help=True)
principles_app = typer.Typer(help="Principle sets.", no_args_is_help=True)
app.add_typer(models_app, name="models")
app.add_typer(principles_app, name="principles")

out = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


def _version(asked: bool) -> None:
    if asked:
        out.print(f"selfsteer {selfsteer.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped one.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings, e.g. train.beta=0.1 model=./my-model.")
    ] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Where everything goes [default: runs/NAME].")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but errors.")] = False,
) -> None:
    """Do the whole story of a recipe, from queries to the report. The same command again goes on or does nothing."""
    from selfsteer import loop
    from selfsteer.config import load_recipe
    from selfsteer.loop.display import Display
    from selfsteer.loop.outcome import show

    settings = load_recipe(recipe, overrides or [])
    folder = run_dir or Path("runs") / settings.name
    command = shlex.join(["selfsteer", "run", recipe, *(overrides or []), "--run-dir", str(folder)])
    with _interruptible():
        summary = loop.run(settings, folder, display=Display(quiet=quiet), command=command)
    if not quiet:
        show(summary, folder, out)


@app.command()
def report(run_dir: Annotated[Path, typer.Argument(help="A run directory.")]) -> None:
    """Write a run's report.html again from what the run directory holds."""
    from selfsteer.report import write_report

    out.print(str(write_report(run_dir)), soft_wrap=True)


@models_app.command("list")
def models_list() -> None:
    """Show the models that selfsteer can fetch by name."""
    from selfsteer.models import list_models

    table = Table("name", "parameters", "architecture", "licence", "download", "fetched to")
    for row in list_models():
        size = f"{row.download_bytes / 1e6:,.0f} MB"
        table.add_row(
            row.name, row.parameters, row.architecture, row.licence, size, str(row.folder) if row.fetched else "-"
        )
    out.print(table)


@models_app.command("fetch")
def models_fetch(name: Annotated[str, typer.Argument(help="A name from `selfsteer models list`.")]) -> None:
    """Download a model, check its sha256 and convert it once. The same command again goes on or does nothing."""
    from rich.progress import Progress

    from selfsteer.models import fetch

    with _interruptible(), Progress(console=errors, transient=True) as bar:
        task = bar.add_task("fetching", total=1.0)
        folder = fetch(name, progress=lambda phrase, share: bar.update(task, description=phrase, completed=share))
    out.print(str(folder), soft_wrap=True)


@principles_app.command("list")
def principles_list() -> None:
    """Show the shipped principle sets."""
    from selfsteer.principles import list_sets, load_set

    table = Table("name", "version", "aspects", "direction", "for")
    for name in list_sets():
        found = load_set(name)
        aspects = ", ".join(aspect.name for aspect in found.aspects)
        table.add_row(name, str(found.version), aspects, found.direction or "-", found.description)
    out.print(table)


@principles_app.command("show")
def principles_show(name: Annotated[str, typer.Argument(help="A shipped set or the path of a YAML file.")]) -> None:
    """Show a set's aspects with their principle pairs."""
    from selfsteer.principles import load_set

    found = load_set(name)
    table = Table("aspect", "positive", "negative", show_lines=True, title=f"{found.name} v{found.version}")
    for aspect in found.aspects:
        label = aspect.name + ("\n(extra)" if aspect.extra else "")
        table.add_row(
            label, f"{aspect.positive}\n{aspect.positive_principle}", f"{aspect.negative}\n{aspect.negative_principle}"
        )
    out.print(table)


def main() -> None:
    """Run the command line; every failure is one message and the right exit code (DESIGN 4.5)."""
    # torch reads this at its first allocation. Tensors in huge pages cost far fewer page faults on CPU, which on some
    # virtual machines take longer than the arithmetic (docs/decisions.md has the figures).
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    warnings.showwarning = _show_warning
    try:
        app()
    except SelfsteerError as error:
        errors.print("[bold red]error:[/] ", end="")
        errors.print(str(error), markup=False, soft_wrap=True)
        sys.exit(error.exit_code)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print our own warnings as a sentence; other libraries' keep the place they come from."""
    place = "" if issubclass(category, SelfsteerWarning) else f" ({category.__name__}, {filename}:{lineno})"
    errors.print("[bold yellow]warning:[/] ", end="")
    errors.print(f"{message}{place}", markup=False, soft_wrap=True)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Turn Ctrl-C into exit code 130; left to itself, typer says "Aborted!" and exits with 1."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        errors.print("interrupted: what is finished is kept; the same command goes on from here")
        raise typer.Exit(130) from interrupt


if __name__ == "__main__":
    main()
