"""`selfsteer evaluate signal`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selfsteer.commands.console import progress_bar
from selfsteer.commands.options import MaxTokens
from selfsteer.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from selfsteer.workflows.evaluate_signal import Signal

_SPLITS = ("train", "heldout")


@dataclass(frozen=True)
class EvaluateSignalArguments:
    """The options of `selfsteer evaluate signal`; None leaves what the recipe says of the judge."""

    run_dir: Annotated[Path, typer.Argument(help="A run directory; the run may still be going.")]
    judge: Annotated[
        str | None,
        typer.Option(
            help="A chat model, reward:MODEL, implicit:POLICY@REFERENCE, endpoint:MODEL or program:NAME "
            "(default: the recipe's)."
        ),
    ] = None
    mode: Annotated[str | None, typer.Option(help="How a language model answers: logprobs or text.")] = None
    max_tokens: MaxTokens = None
    by: Annotated[str | None, typer.Option(help="What it judges by: overall or aspects.")] = None
    limit: Annotated[int | None, typer.Option(help="Use a random sample of this many rows a round.")] = None
    trust_recipe: Annotated[
        bool,
        typer.Option(
            "--trust-recipe",
            help="Let the judge of the run's own recipe run its program or its model's code, or ask its server.",
        ),
    ] = False
    split: Annotated[
        str, typer.Option(help="train: the rows that each round made; heldout: the answers of each policy.")
    ] = "train"


def evaluate_signal(arguments: EvaluateSignalArguments) -> Signal:
    """Check a run's data: accuracy by program and judge, on-policyness, and how well free scores predict accuracy."""
    from selfsteer.commands.evaluate_signal_tables import show_signal, show_written
    from selfsteer.workflows.evaluate_signal import evaluate_signal as evaluate

    split = arguments.split
    if split not in _SPLITS:
        raise ConfigError(f"unknown split {split!r}", where="--split", do=did_you_mean(split, _SPLITS))
    overrides = {
        "name": arguments.judge, "mode": arguments.mode, "max_tokens": arguments.max_tokens, "by": arguments.by
    }  # fmt: skip

    def show(found: Signal) -> None:
        bar.stop()
        show_signal(found)

    with progress_bar() as bar:
        task = bar.add_task("reading", total=None)
        found = evaluate(
            arguments.run_dir,
            overrides=overrides,
            trust_recipe=arguments.trust_recipe,
            split="train" if split == "train" else "heldout",
            limit=arguments.limit,
            progress=lambda name, done, total: bar.update(task, description=name, completed=done, total=total),
            show=show,
        )
    show_written(arguments.run_dir)
    return found
