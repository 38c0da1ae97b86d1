"""`selfsteer filter`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selfsteer.commands.console import out, say
from selfsteer.errors import ConfigError

if TYPE_CHECKING:
    from selfsteer.workflows.filter import Outcome


@dataclass(frozen=True)
class FilterArguments:
    """The options of `selfsteer filter`."""

    source: Annotated[Path, typer.Argument(help="A run directory, a Parquet file of contrasts or a folder of them.")]
    overrides: Annotated[
        list[str], typer.Argument(help="Settings of quality, e.g. quality.filters='[identical, leak]'.")
    ] = field(default_factory=list)
    output: Annotated[
        Path | None, typer.Option(help="For a file or a folder: a new .parquet file, or a new folder.")
    ] = None
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be kept and dropped.")] = False


def filter_rows(arguments: FilterArguments) -> Outcome:
    """Re-filter stored rows with different settings. Nothing is generated again.

    Raises:
        ConfigError: An option is wrong, or does not go with another one.
        InputError: There are no such rows.
        NothingSurvived: The filters keep no row.
    """
    from selfsteer.commands.tables import quality_table
    from selfsteer.workflows.filter import refilter_file, refilter_run

    source, output, dry_run = arguments.source, arguments.output, arguments.dry_run
    is_run = (source / "recipe.yaml").is_file()
    if is_run and output is not None:
        what = "the rows of a run stay in its run directory"
        raise ConfigError(what, where=f"--output {output}", do="leave it out; `selfsteer export` writes rows elsewhere")
    if not is_run and output is None and not dry_run:
        do = "name a .parquet file or a folder with --output, or add --dry-run"
        raise ConfigError("no output is named for the filtered rows", where=str(source), do=do)
    if is_run:
        found = refilter_run(source, arguments.overrides, dry_run=dry_run)
    else:
        found = refilter_file(source, arguments.overrides, None if dry_run else output)
    for part in found.parts:
        out.print(quality_table(part.label, part.after, part.before))
        for name, value in part.after["thresholds"].items():
            say(f"threshold {name}: {value!r}")  # all its digits, so that it gives the same filter elsewhere
        if part.after["few_kept"]:
            say(part.after["few_kept"])
    done = f"active now, see {source / 'ledger.jsonl'}" if is_run else f"written  {output}"
    for text in [*found.notes, "nothing was changed (--dry-run)" if dry_run else done]:
        say(text)
    return found
