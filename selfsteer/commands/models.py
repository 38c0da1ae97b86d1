"""`selfsteer models list`, `models fetch` and `models merge`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from selfsteer.commands.console import out, progress_bar, say


def models_list() -> None:
    """List the models that selfsteer can fetch by name."""
    from selfsteer.commands.tables import plain_table
    from selfsteer.models.catalogue import CATALOGUE, is_fetched, model_folder

    table = plain_table("name", "parameters", "architecture", "licence", "download", "fetched to")
    for row in CATALOGUE.values():
        size = f"{row.download_bytes / 1e6:,.0f} MB"
        folder = str(model_folder(row)) if is_fetched(row) else "-"
        table.add_row(row.name, row.parameters, row.architecture, row.licence, size, folder)
    out.print(table)


def models_fetch(name: Annotated[str, typer.Argument(help="A name from `selfsteer models list`.")]) -> None:
    """Download a model, check its sha256 and convert it once. The same command resumes an interrupted download."""

    from selfsteer.models import fetch

    with progress_bar() as bar:
        task = bar.add_task("fetching", total=1.0)
        folder = fetch(name, progress=lambda phrase, share: bar.update(task, description=phrase, completed=share))
    say(str(folder))


@dataclass(frozen=True)
class MergeArguments:
    """The options of `selfsteer models merge`."""

    policy: Annotated[str, typer.Argument(help="A policy trained with train.lora: a folder with an adapter.")]
    output: Annotated[Path, typer.Option(help="The folder to write; it must not exist.")]
    dtype: Annotated[
        str, typer.Option(help="Type of the weights: auto (the base's), float32, bfloat16 or float16.")
    ] = "auto"
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python code that comes with a model.")
    ] = False


def models_merge(arguments: MergeArguments) -> None:
    """Merge a LoRA policy into its base: a folder of safetensors, as vLLM and converters load it."""
    from selfsteer.models import silence_transformers
    from selfsteer.models.merge import merge

    silence_transformers()
    code = arguments.trust_remote_code
    say(str(merge(arguments.policy, arguments.output, dtype=arguments.dtype, trust_remote_code=code)))
