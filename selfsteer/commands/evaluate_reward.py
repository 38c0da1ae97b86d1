"""What `selfsteer evaluate reward` does and prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from selfsteer.commands.judge import ask_in_turn
from selfsteer.config import judge_settings
from selfsteer.errors import ConfigError
from selfsteer.evaluation import rewardbench
from selfsteer.files import write_json
from selfsteer.judges.agreement import Figures, agreement
from selfsteer.judges.tables import ALL_SETS, Judged, judge_warnings, percent
from selfsteer.models import cache_folder
from selfsteer.workflows.evaluate_reward import (
    LabelledSet,
    bench_sections,
    evaluation_json,
    groups,
    is_bench,
    length_baseline,
    read_sets,
)
from selfsteer.workflows.judge import check_verdicts, open_judges

_LEGEND = (
    "Shares of pairs in which the labelled response is preferred, with 95 % intervals; a tie and an invalid answer "
    "count as not right. Accuracy goes by the log-odds averaged over both orders; 'in both orders' asks a judge that "
    "sees both responses to prefer the same one wherever it stands."
)


def evaluate(
    sources: Sequence[Path],
    names: Sequence[str],
    settings: Mapping[str, Any],
    *,
    limit: int | None,
    seed: int,
    split: str | None,
    answers: Path | None,
    json_file: Path | None,
    out: Console,
    errors: Console,
) -> None:
    """Judge labelled pairs by reward models, implicit rewards and other judges, and print one table.

    Args:
        sources: As :func:`read_sets` takes them.
        names: Of judges, as :func:`open_judge` takes them; "longer is better" stands beside them.
        settings: Keys and values of :class:`JudgeSettings`, besides the name.
        limit: Take a random sample of so many labelled pairs of each file.
        seed: Chooses the sample.
        split: Of hub data sets; None is train.
        answers: Where answers are kept; None is the cache folder.
        json_file: Where figures and verdicts are written.
        out, errors: Where figures, and how far the work is, are printed.

    Raises:
        ConfigError: Nobody is named to judge, or a setting is wrong.
        DataError: A source can't be used.
    """
    if not names:
        do = "name one with --judge: reward:MODEL, implicit:POLICY@REFERENCE, a chat model"
        raise ConfigError("no reward model or judge is named", do=do)
    sets = read_sets(sources, limit=limit, seed=seed, split=split)
    judges = [length_baseline(), *open_judges(judge_settings(dict(settings)), names)]
    pairs = [pair for one in sets for pair in one.pairs]
    judged = ask_in_turn(judges, pairs, answers or cache_folder() / "judgements", errors)
    _show(sets, judged, out)
    if json_file:
        write_json(json_file, evaluation_json(sets, judged))
    check_verdicts(judged)


def _show(sets: Sequence[LabelledSet], judged: Sequence[Judged], out: Console) -> None:
    out.print(accuracy_table(sets, judged))
    out.print(_LEGEND, soft_wrap=True)
    for text in (*left_out_lines(sets), *repeated_line(sets)):
        out.print(text, markup=False, soft_wrap=True)
    if is_bench(judged[0]):
        out.print()
        out.print(bench_table(judged))
        out.print(_bench_note(judged[0]), soft_wrap=True)
    for one in judged:
        for warning in judge_warnings(one):
            out.print(warning, markup=False, soft_wrap=True)


def accuracy_table(sets: Sequence[LabelledSet], all_judged: Sequence[Judged]) -> Table:
    """Return all judges' figures, those on the same pairs below each other."""
    table = _table()
    table.add_column("set\n  judge", overflow="fold")
    for column in ("n", "accuracy", "in both orders", "wrong,\ntie, invalid"):
        table.add_column(column, no_wrap=True)
    for name, place in groups(sets).items():
        table.add_row(Text(name or ALL_SETS, style="bold"), str(len(place)))
        for one in all_judged:
            found = agreement([one.judgements[i] for i in place], kappas=False)
            table.add_row(*map(Text, (f"  {one.name}", "", *_cells(found))))
        table.add_section()
    return table


def _cells(found: Figures) -> tuple[str, str, str]:
    debiased, invalid = found.debiased, found.outcomes["invalid"]
    return (
        percent(debiased.share, debiased.interval),
        percent(found.strict.share, found.strict.interval),
        f"{debiased.wrong}, {debiased.none - invalid}, {invalid}",
    )


def left_out_lines(sets: Sequence[LabelledSet]) -> list[str]:
    """Return a line for each set that not all rows of its file take part of, with the reasons."""
    lines = []
    for one in sets:
        told = [f"{count} rows left out: {why}" for why, count in one.left_out.items()]
        if len(one.pairs) < one.labelled:
            told.insert(0, f"a sample of {len(one.pairs)} of {one.labelled} labelled pairs")
        if told:
            lines.append(f"{one.name}: {'; '.join(told)}")
    return lines


def repeated_line(sets: Sequence[LabelledSet]) -> list[str]:
    """Return a line on pairs that come up again, which all sets together count once; nothing where none does."""
    together = groups(sets).get("")
    repeated = sum(len(one.pairs) for one in sets) - len(together) if together else 0
    return [f"{ALL_SETS}: {repeated} pairs that came before, in this set or another, count once"] if repeated else []


def bench_table(all_judged: Sequence[Judged]) -> Table:
    """Return RewardBench's sections and score."""
    table = _table()
    table.add_column("RewardBench\n  judge", overflow="fold")
    table.add_column("accuracy", no_wrap=True)
    table.add_column("of the section", overflow="fold")
    by_judge = [(one.name, bench_sections(one)) for one in all_judged]
    for place, section in enumerate(by_judge[0][1]):
        table.add_row(Text(section.name, style="bold"), "", section.state)
        for name, found in by_judge if section.found else []:
            table.add_row(f"  {name}", percent(found[place].share, found[place].interval))
        table.add_section()
    table.add_row(
        Text("score", style="bold"), "", "" if _score(by_judge[0][1]) else "not run: not all sections are whole"
    )
    for name, found in by_judge:
        if text := _score(found):
            table.add_row(f"  {name}", text)
    return table


def _score(sections: list[rewardbench.Section]) -> str:
    found = rewardbench.score(sections)
    return "" if found is None else f"{100 * found:.1f} %"


def _bench_note(judged: Judged) -> str:
    missing = [name for section in bench_sections(judged) if section.found for name in section.missing]
    absent = f" Not run: {', '.join(missing)}." if missing else ""
    return (
        f"A section is the mean of its subsets by RewardBench's weights, the score the mean of whole sections.{absent}"
    )


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
