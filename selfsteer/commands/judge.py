"""What `selfsteer judge` does and prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from selfsteer.config import judge_settings
from selfsteer.errors import ConfigError
from selfsteer.files import write_json
from selfsteer.judges import AnswerCache, Judge, Pair
from selfsteer.judges.tables import ALL_SETS, Judged, figures_table, judge_warnings, kappa_table
from selfsteer.models import cache_folder
from selfsteer.stages.judgements import judge_with_cache
from selfsteer.workflows.judge import as_json, check_verdicts, is_run, open_judges, read_pairs

_POOLED = f' "{ALL_SETS}" takes all pairs together, each once, so a larger set counts for more.'


def judge(
    sources: Sequence[Path],
    names: Sequence[str],
    settings: Mapping[str, Any],
    *,
    human: str | None,
    page: bool,
    limit: int | None,
    seed: int,
    split: str | None,
    answers: Path | None,
    json_file: Path | None,
    out: Console,
    errors: Console,
) -> None:
    """Judge the pairs of ``sources``, print the figures, and write them to ``json_file`` if it is given.

    Args:
        sources: Files, folders or hub data sets of preference pairs, or run directories.
        names: Of judges, as :func:`open_judge` takes them.
        settings: Keys and values of :class:`JudgeSettings`, besides the name.
        human: Who judges in person, after the others; None is nobody.
        page: That person judges on a local web page.
        limit: Take a random sample of so many pairs of each source.
        seed: Chooses the sample.
        split: Of hub data sets; None is train.
        answers: Where answers are kept; None is the cache folder.
        json_file: Where figures and verdicts are written.
        out, errors: Where figures, and what is worth knowing besides, are printed.

    Raises:
        ConfigError: Nobody is named to judge, or a setting is wrong.
        DataError: A source can't be read.
        WorkFailed: No reply of a judge came to a verdict; figures and verdicts are printed and written all the same.
        KeyboardInterrupt: Ctrl-C, also while a person judges; every answer is kept, and no figures are shown.
    """
    if not names and not human:
        raise ConfigError("nobody is named to judge", do="name a model with --judge, or yourself with --human NAME")
    if page and not human:
        raise ConfigError("--page shows the pairs to a person", do="add --human NAME")
    own = judge_settings(dict(settings))
    if own.by != "overall" and not any(map(is_run, sources)):
        what = f"--by {own.by} is about a run's pairs, and files of pairs have no aspects"
        raise ConfigError(what, where="--by", do="leave it out, or give a run directory")
    pairs, notes = read_pairs(sources, limit=limit, seed=seed, by=own.by, split=split)
    judges = open_judges(own, names)
    for note in notes:
        errors.print(note, markup=False, soft_wrap=True)
    folder = answers or cache_folder() / "judgements"
    judged = ask_in_turn(judges, pairs, folder, errors)
    if human:
        judged.append(_judge_by_hand(human, pairs, folder, page))
    _show(judged, out)
    if json_file:
        write_json(json_file, as_json(judged))
    check_verdicts(judged)


def ask_in_turn(judges: list[Judge], pairs: Sequence[Pair], answers: Path, errors: Console) -> list[Judged]:
    """Put the pairs before one judge after the other, with progress; ``judges`` is empty afterwards.

    Each is taken out, so that its weights are let go before the next one loads its own.
    """
    judged = []
    while judges:
        judged.append(_judge_by_machine(judges.pop(0), pairs, answers, errors))
    return judged


def _judge_by_machine(judge: Judge, pairs: Sequence[Pair], answers: Path, errors: Console) -> Judged:
    with Progress(console=errors, transient=True) as bar:
        task = bar.add_task(judge.name, total=None)
        return judge_with_cache(
            judge, pairs, answers, lambda name, done, total: bar.update(task, completed=done, total=total)
        )


def _judge_by_hand(name: str, pairs: Sequence[Pair], answers: Path, page: bool) -> Judged:
    from selfsteer.files import fingerprint
    from selfsteer.judges.human import HumanJudge, collect
    from selfsteer.judges.human_page import ask_on_page
    from selfsteer.judges.human_terminal import ask_in_terminal

    person = HumanJudge(name)
    cache = AnswerCache(answers / f"{fingerprint(person.key)}.jsonl")
    return Judged(person.name, collect(person, pairs, cache, ask_on_page if page else ask_in_terminal))


def _has_several_sets(judged: Sequence[Judged]) -> bool:
    return any(len({judgement.pair.subset for judgement in one.judgements}) > 1 for one in judged)


def _show(judged: Sequence[Judged], out: Console) -> None:
    out.print(figures_table(judged))
    out.print(
        "Shares of pairs judged as labelled, with 95 % intervals; a verdict that names none counts as not right. "
        "The kappa is that of the debiased verdicts with the labels." + (_POOLED if _has_several_sets(judged) else ""),
        soft_wrap=True,
    )
    for one in judged:
        for warning in judge_warnings(one):
            out.print(warning, markup=False, soft_wrap=True)
    if len(judged) > 1:
        out.print(kappa_table(judged))
