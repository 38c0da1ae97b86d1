"""`selfsteer principles list` and `selfsteer principles show`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Column

from selfsteer.commands.console import out


def principles_list() -> None:
    """List the shipped principle sets."""
    from selfsteer.commands.tables import plain_table
    from selfsteer.principles import list_sets, load_set

    table = plain_table("name", Column("hash", no_wrap=True), Column("aspects", no_wrap=True), "direction", "for")
    for name in list_sets():
        found = load_set(name)
        aspects = "\n".join(aspect.name for aspect in found.aspects)
        version = f"{name}\nv{found.version}"
        table.add_row(version, found.fingerprint, aspects, found.direction or "-", found.description)
        table.add_section()
    out.print(table)


def principles_show(name: Annotated[str, typer.Argument(help="A shipped set or the path of a YAML file.")]) -> None:
    """Show a set's aspects with their principle pairs."""
    from selfsteer.commands.tables import plain_table
    from selfsteer.principles import load_set

    found = load_set(name)
    table = plain_table("aspect", "positive", "negative")
    table.title = f"{found.name} v{found.version} {found.fingerprint}"
    for aspect in found.aspects:
        label = aspect.name + ("\n(extra)" if aspect.extra else "")
        label += "\n(y- flagged as harmful)" if aspect.harmful_negative else ""
        positive = f"{aspect.positive}\n{aspect.positive_principle}"
        table.add_row(label, positive, f"{aspect.negative}\n{aspect.negative_principle}")
        table.add_section()
    out.print(table)
