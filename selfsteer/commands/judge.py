"""`selfsteer judge`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selfsteer.commands.console import errors, progress_bar, say
from selfsteer.commands.options import JudgingArguments, judge_settings_of
from selfsteer.errors import ConfigError

if TYPE_CHECKING:
    from selfsteer.judges import Judge, Pair
    from selfsteer.judges.tables import Judged
    from selfsteer.stages.judgements import StoredPairs


@dataclass(frozen=True)
class JudgeArguments:
    """The options of `selfsteer judge`."""

    sources: Annotated[
        list[Path],
        typer.Argument(
            help="Files or folders of preference pairs, labelled or not; hub data sets (org/name); or run directories."
        ),
    ]
    judging: JudgingArguments = field(default_factory=JudgingArguments)
    by: Annotated[str, typer.Option(help="What a run's pairs are judged by: overall or aspects.")] = "overall"
    human: Annotated[
        str | None, typer.Option(help="Judge yourself, under this name; stop at any time and resume later.")
    ] = None
    page: Annotated[bool, typer.Option("--page", help="With --human: on a local web page.")] = False


def judge(arguments: JudgeArguments) -> None:
    """Judge preference pairs, each in both orders, and compare judges with the labels and with each other.

    Raises:
        ConfigError: No judge is named, or a setting is wrong.
        DataError: A source can't be read.
        WorkFailed: No reply of a judge came to a verdict; figures and verdicts are printed and written all the same.
        KeyboardInterrupt: Ctrl-C, also while a person judges; every answer is kept, and no figures are shown.
    """
    from selfsteer.commands.judge_tables import show_judged
    from selfsteer.files import write_json
    from selfsteer.runs.store import output_folder
    from selfsteer.workflows.judge import as_json, check_verdicts, is_run, open_judges, read_pairs

    human, judging = arguments.human, arguments.judging
    if not judging.names and not human:
        raise ConfigError("no judge is named", do="name a model with --judge, or yourself with --human NAME")
    if arguments.page and not human:
        raise ConfigError("--page shows the pairs to a person", do="add --human NAME")
    settings = judge_settings_of(arguments)
    if settings.by != "overall" and not any(map(is_run, arguments.sources)):
        what = f"--by {settings.by} needs a run's pairs: files of pairs have no aspects"
        raise ConfigError(what, where="--by", do="leave it out, or give a run directory")
    pairs, notes = read_pairs(
        arguments.sources, limit=judging.limit, seed=judging.seed, by=settings.by, split=judging.split
    )
    judges = open_judges(settings, judging.names)
    for note in notes:
        say(note, errors)
    judged = ask_in_turn(judges, pairs, judging.answers)
    if human:
        from selfsteer.files import fingerprint
        from selfsteer.judges import AnswerCache
        from selfsteer.judges.human import HumanJudge, collect
        from selfsteer.judges.human_page import ask_on_page
        from selfsteer.judges.human_terminal import ask_in_terminal
        from selfsteer.judges.tables import Judged

        person = HumanJudge(human)
        cache = AnswerCache(_folder(judging.answers) / f"{fingerprint(person.key)}.jsonl")
        judged.append(
            Judged(person.name, collect(person, list(pairs), cache, ask_on_page if arguments.page else ask_in_terminal))
        )
    show_judged(judged)
    if judging.json_file:
        with output_folder(judging.json_file, "--json") as part:
            write_json(judging.json_file, as_json(judged), inside=part)
    check_verdicts(judged)


def ask_in_turn(judges: list[Judge], pairs: Sequence[Pair] | StoredPairs, answers: Path | None) -> list[Judged]:
    """Put the pairs before one judge after the other, with progress; ``judges`` is empty afterwards.

    Each is taken out, so that its weights are freed before the next one loads its own.
    """
    judged = []
    while judges:
        judged.append(_judge_by_machine(judges.pop(0), pairs, _folder(answers)))
    return judged


def _judge_by_machine(judge: Judge, pairs: Sequence[Pair] | StoredPairs, folder: Path) -> Judged:
    from selfsteer.stages.judgements import judge_with_cache

    with progress_bar() as bar:
        task = bar.add_task(judge.name, total=None)
        return judge_with_cache(
            judge, pairs, folder, lambda name, done, total: bar.update(task, completed=done, total=total)
        )


def _folder(answers: Path | None) -> Path:
    from selfsteer.models import cache_folder

    return answers or cache_folder() / "judgements"
