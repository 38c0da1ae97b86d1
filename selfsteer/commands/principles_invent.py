"""`selfsteer principles invent`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from selfsteer.commands.console import out, say
from selfsteer.commands.options import count_option
from selfsteer.errors import ConfigError, InputError

if TYPE_CHECKING:
    from selfsteer.experimental.principles_invent import Invented

_OWN_OPTIONS = {"model": "--model", "queries": "--queries", "principles.set": "--set", "judge": "--judge"}
"""Settings that have an option of their own."""


@dataclass(frozen=True)
class AmountArguments:
    """How many of everything (:class:`selfsteer.experimental.principles_invent.InventOptions`)."""

    sample: Annotated[int, count_option(help="Queries to draw.")] = 24
    per_prompt: Annotated[int, count_option(help="Queries shown in one prompt.")] = 4
    aspects: Annotated[int, count_option(help="Aspects that one prompt asks for.")] = 2
    similarity: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Similarity from which two aspects count as the same.")
    ] = 0.5
    support: Annotated[int, count_option(help="Minimum number of answers that propose an aspect.")] = 1
    most: Annotated[int, count_option(help="Maximum number of new aspects to keep.")] = 8
    each: Annotated[int, count_option(least=0, help="Queries to try each of them on; 0 tries none.")] = 4
    tokens: Annotated[
        int,
        count_option(help="Maximum tokens of an answer for each aspect, without those for thoughts."),
    ] = 200


@dataclass(frozen=True)
class InventArguments:
    """The options of `selfsteer principles invent`."""

    output: Annotated[Path, typer.Option(help="The YAML file to write, for you to review.")]
    queries: Annotated[str, typer.Option(help="A file of queries, a folder, a hub data set or builtin:NAME.")]
    overrides: Annotated[
        list[str], typer.Argument(help="Settings, e.g. seed=1 generation.backend=vllm queries.field=text.")
    ] = field(default_factory=list)
    model: Annotated[str, typer.Option(help="The chat model that proposes aspects and tries them.")] = "smollm2-135m"
    given: Annotated[str, typer.Option("--set", help="The existing set: its aspects are not new.")] = "quality"
    extend: Annotated[bool, typer.Option("--extend", help="Write the existing set plus the new aspects.")] = False
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False
    amounts: AmountArguments = field(default_factory=AmountArguments)
    judge: Annotated[str | None, typer.Option(help="Judge that decides which answer is better in the trials.")] = None
    run_dir: Annotated[
        Path | None, typer.Option(help="Directory for all other files.", show_default="in the cache folder")
    ] = None


def principles_invent(arguments: InventArguments) -> Invented:
    """Let a model propose aspects that a set lacks, from a sample of queries; try them; write them for review."""
    from selfsteer.commands.principles_check import cells, trial_recipe
    from selfsteer.commands.tables import plain_table
    from selfsteer.experimental.invented_set import as_yaml, counted, describe_answers
    from selfsteer.experimental.principles_invent import InventOptions, invent
    from selfsteer.files import fingerprint, write_atomic
    from selfsteer.models import cache_folder
    from selfsteer.runs.progress import Display

    for override in arguments.overrides:
        key = override.partition("=")[0].strip().removesuffix(".name").removesuffix(".source")
        if key in _OWN_OPTIONS:
            do = f"give {_OWN_OPTIONS[key]}"
            raise ConfigError(f"{key} has an option of its own", where=f"command line: {override}", do=do)
    judge = [f"judge={arguments.judge}"] if arguments.judge else []
    named = [f"model={arguments.model}", f"queries={arguments.queries}", f"principles.set={arguments.given}", *judge]
    recipe, output = trial_recipe("invent", [*named, *arguments.overrides]), arguments.output
    # A folder for a model, a source and a given set, so that inventions of others are kept beside it.
    what = [recipe.model.model_dump(), recipe.generation.backend, recipe.queries.source, recipe.principles.set]
    folder = arguments.run_dir or cache_folder() / "inventions" / fingerprint(what)
    written = folder / "written" / f"{fingerprint(str(output.resolve()))}.yaml"
    # A file as an earlier call wrote it passes here: this call may turn out to write the same.
    unchanged = output.is_file() and written.is_file() and output.read_bytes() == written.read_bytes()
    _check_output(output, replace=arguments.overwrite or unchanged)
    found = invent(recipe, InventOptions(**asdict(arguments.amounts)), folder, display=Display())
    data = as_yaml(found, recipe, output, extend=arguments.extend).encode()
    if not output.is_file() or output.read_bytes() != data:
        _check_output(output, replace=arguments.overwrite)
        write_atomic(written, data)
        write_atomic(output, data)
    table = plain_table("new aspect", "for", "answers", "queries", "nearest", "margin,\nnats/token", "y+ is better")
    for one in found.candidates:
        aspect, probe = one.aspect, found.probes.get(one.aspect.name)
        margin, share = cells(probe.margin, probe.direction)[:2] if probe else ("-", "-")
        row = (aspect.name, f"{aspect.positive},\nnot {aspect.negative}", str(one.answers), str(len(one.queries)))
        table.add_row(*map(Text, (*row, f"{one.nearest}\n{one.similarity:.2f}", margin, share)))
    out.print(table)
    say(f"{describe_answers(found)}.")
    say(f"{counted(len(found.candidates), 'new aspect')} in {output}. Read it before you use it: a model wrote it.")
    return found


def _check_output(output: Path, *, replace: bool) -> None:
    """Raise where the file can't be written: a name that can't be used, or a file that may be somebody's work."""
    from selfsteer.principles import list_sets

    if output.suffix not in (".yaml", ".yml") or output.stem in list_sets():
        what = f"{output.name} can't be the name of a new set's file"
        do = "name a .yaml file, and not like a shipped set, which would be found in its place"
        raise ConfigError(what, where=f"--output {output}", do=do)
    if output.exists() and not replace:
        what = "the file already exists, and may hold somebody's work"
        raise InputError(what, where=str(output), do="name another one, or give --overwrite")
