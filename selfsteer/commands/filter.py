"""What `selfsteer filter` does and prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from selfsteer.commands.tables import quality_table
from selfsteer.errors import ConfigError
from selfsteer.workflows.filter import Outcome, refilter_file, refilter_run


def filter_rows(source: Path, overrides: Sequence[str], output: Path | None, *, dry_run: bool, out: Console) -> Outcome:
    """Filter the rows of a run directory or a file anew, and say what that changed.

    Raises:
        ConfigError: An option is wrong, or does not go with another one.
        InputError: There are no such rows.
        NothingSurvived: The filters keep no row.
    """
    is_run = (source / "recipe.yaml").is_file()
    if is_run and output is not None:
        what = "the rows of a run stay in its run directory"
        raise ConfigError(what, where=f"--output {output}", do="leave it out; `selfsteer export` hands them out")
    if not is_run and output is None and not dry_run:
        what = "nothing says where the filtered rows should go"
        raise ConfigError(
            what, where=str(source), do="name a .parquet file or a folder with --output, or say --dry-run"
        )
    if is_run:
        found = refilter_run(source, overrides, dry_run=dry_run)
    else:
        found = refilter_file(source, overrides, None if dry_run else output)
    for part in found.parts:
        out.print(quality_table(part.label, part.after, part.before))
        _thresholds(part.after["thresholds"], out)
        if part.after["few_kept"]:
            out.print(part.after["few_kept"], markup=False, soft_wrap=True)
    where = source / "ledger.jsonl" if is_run else output
    done = (
        "nothing was changed (--dry-run)"
        if dry_run
        else f"in force now, see {where}"
        if is_run
        else f"written  {where}"
    )
    for text in [*found.notes, done]:
        out.print(text, markup=False, soft_wrap=True)
    return found


def _thresholds(found: dict[str, float], out: Console) -> None:
    """Say the thresholds in digits that give the same filters elsewhere."""
    for name, value in found.items():
        out.print(f"threshold {name}: {value!r}", markup=False, soft_wrap=True)
