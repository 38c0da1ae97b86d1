"""`selfsteer evaluate reward`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from selfsteer.commands.judge import ask_in_turn
from selfsteer.commands.options import JudgingArguments, judge_settings_of
from selfsteer.errors import ConfigError


@dataclass(frozen=True)
class EvaluateRewardArguments:
    """The options of `selfsteer evaluate reward`."""

    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="SETS",
            help="Files of labelled preference pairs, folders of such files, or hub data sets (org/name).",
        ),
    ]
    judging: JudgingArguments = field(default_factory=JudgingArguments)


def evaluate_reward(arguments: EvaluateRewardArguments) -> None:
    """Measure how often reward models, implicit rewards and judges rank labelled pairs right, and "longer is better".

    Raises:
        ConfigError: No judge is named, or a setting is wrong.
        DataError: A source can't be used.
        WorkFailed: No reply of a judge came to a verdict; figures and verdicts are printed and written all the same.
    """
    from selfsteer.commands.evaluate_reward_tables import show_accuracy
    from selfsteer.files import write_json
    from selfsteer.runs.store import output_folder
    from selfsteer.workflows.evaluate_reward import evaluation_json, length_baseline, read_sets
    from selfsteer.workflows.judge import check_verdicts, open_judges

    judging = arguments.judging
    if not judging.names:
        do = "name one with --judge: reward:MODEL, implicit:POLICY@REFERENCE, a chat model"
        raise ConfigError("no reward model or judge is named", do=do)
    sets = read_sets(arguments.sources, limit=judging.limit, seed=judging.seed, split=judging.split)
    judges = [length_baseline(), *open_judges(judge_settings_of(arguments), judging.names)]
    judged = ask_in_turn(judges, [pair for one in sets for pair in one.pairs], judging.answers)
    show_accuracy(sets, judged)
    if judging.json_file:
        with output_folder(judging.json_file, "--json") as part:
            write_json(judging.json_file, evaluation_json(sets, judged), inside=part)
    check_verdicts(judged)
