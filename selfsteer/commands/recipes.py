"""`selfsteer recipes list`, `selfsteer recipes show` and `selfsteer recipes schema`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from selfsteer.commands.console import out, say


def recipes_list() -> None:
    """List the shipped recipes, each with what it does."""
    from selfsteer.commands.tables import plain_table
    from selfsteer.config import shipped_recipes

    table = plain_table("name", "what it does")
    for name, file in shipped_recipes().items():
        table.add_row(name, Text(_summary(file)))
    out.print(table)
    say("selfsteer recipes show NAME prints one; see also selfsteer sweep and selfsteer reproduce list")


def recipes_show(
    name: Annotated[str, typer.Argument(help="A shipped recipe or the path of a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="With --resolved: settings, e.g. train.lora.r=16.")
    ] = None,
    resolved: Annotated[bool, typer.Option("--resolved", help="Print every key with its value, defaults too.")] = False,
) -> None:
    """Print a recipe as it is written, or with all its settings.

    Raises:
        ConfigError: There is no such recipe, or a setting is wrong.
    """
    from selfsteer.config import dump_recipe, find_recipe, load_recipe
    from selfsteer.errors import ConfigError

    if overrides and not resolved:
        raise ConfigError("settings change nothing in a file's text", where=overrides[0], do="add --resolved")
    if resolved:
        say(dump_recipe(load_recipe(name, overrides or ())).rstrip())
    else:
        say(find_recipe(name).read_text(encoding="utf-8").rstrip())


def recipes_schema(
    output: Annotated[Path | None, typer.Option(help="File to write.", show_default="standard output")] = None,
) -> None:
    """Write the JSON schema of recipe files, with which editors complete and check keys."""
    from selfsteer.config.schema import recipe_schema
    from selfsteer.files import write_json
    from selfsteer.runs.store import output_folder

    if output is None:
        say(json.dumps(recipe_schema(), indent=2))
        return
    with output_folder(output, "--output") as part:
        write_json(output, recipe_schema(), inside=part)
    say(f"written  {output}; in a recipe: # yaml-language-server: $schema={output}")


def _summary(file: Path) -> str:
    """Return the first sentence of a recipe's header."""
    words = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.removeprefix("#").strip() or not line.startswith("#"):
            break
        words.append(line.removeprefix("#").strip())
    return " ".join(words).partition(". ")[0].removesuffix(":").removesuffix(".")
