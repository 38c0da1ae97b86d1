"""`selfsteer score`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from selfsteer.commands.console import errors, say
from selfsteer.commands.options import LoadingArguments, count_option


@dataclass(frozen=True)
class ScoreArguments:
    """The options of `selfsteer score`."""

    model: Annotated[str, typer.Argument(help="A reward model: a folder or a hub name.")]
    file: Annotated[
        Path, typer.Argument(help="A file or folder of conversations, prompts with responses, or pairs (docs/data.md).")
    ]
    output: Annotated[Path, typer.Option("--output", help="The .jsonl file to write the rows and their rewards to.")]
    batch_size: Annotated[int, count_option(help="Conversations in one forward pass.")] = 8
    loading: LoadingArguments = field(default_factory=LoadingArguments)
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier file.")] = False


def score(arguments: ScoreArguments) -> None:
    """Score responses with a reward model, one reward each. Rows that can't be scored are reported and kept."""
    from selfsteer.config import judge_settings, template_kwargs
    from selfsteer.workflows.score import score_file

    loading, output = arguments.loading, arguments.output
    kwargs = template_kwargs(loading.chat_template_kwargs)
    hardware = judge_settings(dataclasses.asdict(loading) | {"chat_template_kwargs": kwargs})
    tally = score_file(
        arguments.model, arguments.file, output, hardware=hardware, batch_size=arguments.batch_size,
        overwrite=arguments.overwrite, note=lambda text: say(text, errors),
    )  # fmt: skip
    say(f"{tally.scored} of {tally.count} rows scored: {output}")
    if tally.problems:
        reasons = "; ".join(f"{why} ({number})" for why, number in tally.problems.most_common(3))
        say(f"{tally.problems.total()} rows have no reward, first {tally.first}; in all: {reasons}", errors)
