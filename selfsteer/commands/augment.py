"""`selfsteer augment`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from selfsteer.commands.console import out, say
from selfsteer.commands.options import Quiet, count_option
from selfsteer.errors import ConfigError

if TYPE_CHECKING:
    from selfsteer.experimental.augment import Grown


@dataclass(frozen=True)
class AugmentArguments:
    """The options of `selfsteer augment`."""

    seeds: Annotated[str, typer.Argument(help="The seed queries: a file, a folder, a hub data set, builtin:NAME.")]
    output: Annotated[Path, typer.Option("--output", help="The .jsonl file to write the new queries to.")]
    overrides: Annotated[
        list[str],
        typer.Argument(
            help="Settings, e.g. generation.backend=vllm augment.per_request=4 queries.near_duplicates=0.8."
        ),
    ] = field(default_factory=list)
    count: Annotated[int, count_option(help="Number of new queries.")] = 100
    method: Annotated[str, typer.Option(help="self-instruct or evolve.")] = "self-instruct"
    model: Annotated[str, typer.Option("--model", help="The chat model that writes them.")] = "smollm2-135m"
    run_dir: Annotated[
        Path | None, typer.Option(help="Directory for answers and dropped queries.", show_default="OUTPUT.run")
    ] = None
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that this command did not write.")] = (
        False
    )
    quiet: Quiet = False


def augment(arguments: AugmentArguments) -> Grown:
    """Grow a seed set of queries with a chat model. Interrupted runs resume: run the same command again."""
    from selfsteer.config import growth_from
    from selfsteer.experimental.augment import augment as grow
    from selfsteer.runs.progress import Display

    output = arguments.output
    if output.suffix != ".jsonl":  # "." and "", too, which have no name to put .run behind
        do = "name a file that ends in .jsonl"
        raise ConfigError(f"can't write {str(arguments.output)!r}", where="--output", do=do)
    run_dir = arguments.run_dir or output.with_name(f"{output.name}.run")
    named = [
        f"queries.source={arguments.seeds}", f"augment.method={arguments.method}", f"model.name={arguments.model}"
    ]  # fmt: skip
    found = grow(
        growth_from([*named, *arguments.overrides]), output, run_dir, count=arguments.count,
        overwrite=arguments.overwrite, display=Display(quiet=arguments.quiet),
    )  # fmt: skip
    if not arguments.quiet:
        from selfsteer.commands.tables import plain_table

        unused = f"; not used: {_listed(found.unused_seeds)}" if found.unused_seeds else ""
        languages = "any language" if found.languages is None else f"languages kept: {', '.join(found.languages)}"
        say(f"{found.seeds} seeds{unused}; {languages}")
        say(f"{found.requests} requests in {found.rounds} rounds; answers: {_listed(found.outcomes)}")
        table = plain_table("new queries", "count", "share", right=("count", "share"))
        total = found.kept + sum(found.dropped.values())
        counts = {"kept": found.kept, **dict(sorted(found.dropped.items(), key=lambda item: (-item[1], item[0])))}
        for name, count in counts.items():
            label = name if name == "kept" else f"dropped: {name}"
            table.add_row(Text(label), str(count), f"{count / total:.0%}" if total else "-")
        out.print(table)
        say(f"kept by operation: {_listed(found.operations)}")
        say(f"written  {output}\ndropped  {run_dir / 'dropped.jsonl'}")
    return found


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"
