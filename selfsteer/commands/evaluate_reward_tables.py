"""The tables of `selfsteer evaluate reward`: accuracy by set, and the sections of benchmarks."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Column, Table
from rich.text import Text

from selfsteer.commands.console import out, say
from selfsteer.commands.tables import plain_table
from selfsteer.confidence_intervals import share_text
from selfsteer.evaluation.benchmarks import Benchmark
from selfsteer.judges.agreement import agreement
from selfsteer.judges.tables import ALL_SETS, Judged, judge_warnings
from selfsteer.workflows.evaluate_reward import LabelledSet, benchmarks_of, groups, sections_of

_LEGEND = (
    "Shares of pairs in which the judge prefers the labelled response, with 95 % intervals; a tie and an invalid "
    "answer count as wrong. 'accuracy' uses the log-odds averaged over both orders; 'in both orders' requires a judge "
    "that sees both responses to prefer the same one wherever it is shown."
)


def show_accuracy(sets: Sequence[LabelledSet], judged: Sequence[Judged]) -> None:
    """Print the judges' accuracy on each set, what was left out of the sets, and the benchmarks among them."""
    out.print(_accuracy_table(sets, judged))
    say(_LEGEND)
    for one in sets:
        reasons = [f"{count} rows left out: {why}" for why, count in one.left_out.items()]
        labelled = sum(bool(pair.label) for pair in one.pairs)
        if labelled < one.labelled:
            reasons.insert(0, f"a sample of {labelled} of {one.labelled} labelled pairs")
        if reasons:
            say(f"{one.name}: {'; '.join(reasons)}")
    together = groups(sets).get("")
    labelled = sum(bool(pair.label) for one in sets for pair in one.pairs)
    if together and (repeated := labelled - len(together)):
        say(f"{ALL_SETS}: {repeated} pairs that came before, in this set or another, count once")
    for benchmark in benchmarks_of(judged[0]).values():
        out.print()
        out.print(_benchmark_table(benchmark, judged))
        sections = sections_of(benchmark, judged[0])
        missing = [name for section in sections if section.found for name in section.missing]
        say(benchmark.averaging + (f" Not run: {', '.join(missing)}." if missing else ""))
    for judge in judged:
        for warning in judge_warnings(judge.name, agreement(judge.judgements, kappas=False)):
            say(warning)


def _accuracy_table(sets: Sequence[LabelledSet], all_judged: Sequence[Judged]) -> Table:
    """Return all judges' figures, those on the same pairs below each other."""
    numbers = ("n", "accuracy", "in both orders", "wrong,\ntie, invalid")
    table = plain_table(Column("set\n  judge", overflow="fold"), *(Column(name, no_wrap=True) for name in numbers))
    for name, places in groups(sets).items():
        table.add_row(Text(name or ALL_SETS, style="bold"), str(len(places)))
        for one in all_judged:
            found = agreement([one.judgements[place] for place in places], kappas=False)
            debiased, strict, invalid = found.debiased, found.strict, found.outcomes["invalid"]
            accuracy = share_text(debiased.share, debiased.interval)
            counts = f"{debiased.wrong}, {debiased.none - invalid}, {invalid}"
            cells = (f"  {one.name}", "", accuracy, share_text(strict.share, strict.interval), counts)
            table.add_row(*map(Text, cells))
        table.add_section()
    return table


def _benchmark_table(benchmark: Benchmark, all_judged: Sequence[Judged]) -> Table:
    fold = Column("of the section", overflow="fold")
    table = plain_table(Column(f"{benchmark.title}\n  judge", overflow="fold"), Column("accuracy", no_wrap=True), fold)
    by_judge = [(one.name, sections_of(benchmark, one)) for one in all_judged]
    for place, section in enumerate(by_judge[0][1]):
        table.add_row(Text(section.name, style="bold"), "", section.state)
        for name, found in by_judge if section.found else []:
            table.add_row(Text(f"  {name}"), share_text(found[place].share, found[place].interval))
        table.add_section()
    scores = [(name, benchmark.score(found)) for name, found in by_judge]
    whole = all(section.whole for section in by_judge[0][1])  # all judges saw the same pairs
    table.add_row(Text("score", style="bold"), "", "" if whole else "not run: not all sections are whole")
    for name, score in scores:
        if score is not None:
            table.add_row(Text(f"  {name}"), f"{100 * score:.1f} %")
        elif whole:
            table.add_row(Text(f"  {name}"), "-", "needs a judge that gives scores")
    return table
