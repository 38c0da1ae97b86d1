"""The tables of `selfsteer judge`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Column, Table
from rich.text import Text

from selfsteer.commands.console import out, say
from selfsteer.commands.tables import plain_table
from selfsteer.judges.agreement import agreement
from selfsteer.judges.tables import ALL_SETS, Judged, figures_rows, judge_warnings, kappa_rows


def show_judged(all_judged: Sequence[Judged]) -> None:
    """Print the figures of judges, what to know about them, and how far they agree."""
    out.print(figures_table(all_judged))
    several = any(len({judgement.pair.subset for judgement in one.judgements}) > 1 for one in all_judged)
    pooled = f' "{ALL_SETS}" takes all pairs together, each once, so a larger set counts for more.' if several else ""
    say(
        "Shares of pairs judged as labelled, with 95 % intervals; a verdict for neither response counts as wrong. "
        f"The kappa is that of the debiased verdicts with the labels.{pooled}"
    )
    for one in all_judged:
        for warning in judge_warnings(one.name, agreement(one.judgements, kappas=False)):
            say(warning)
    if len(all_judged) > 1:
        out.print(kappa_table(all_judged))


def figures_table(all_judged: Iterable[Judged]) -> Table:
    """Return the figures of judges, the rows of each as in :func:`figures_rows`; shares with 95 % intervals.

    It fits into 80 columns: intervals are below their shares, and only names are broken.
    """
    numbers = ("n", "strict", "debiased", "kappa", "the first\nshown wins", "inconsistent,\ntie, invalid")
    table = plain_table(Column("judge\nand set", overflow="fold"), *(Column(name, no_wrap=True) for name in numbers))
    for judged in all_judged:
        for name, subset, *figures, inconsistent, tie, invalid in figures_rows(judged):
            stacked = (figure.replace(" (", "\n(") for figure in figures)
            cells = (f"{name}\n{subset}", *stacked, f"{inconsistent}, {tie}, {invalid}")
            table.add_row(*map(Text, cells))  # names are the user's: no markup in them
    return table


def kappa_table(all_judged: Sequence[Judged]) -> Table:
    """Return how far every two judges agree."""
    columns = ("judge", "and", "kappa of their debiased verdicts")
    return plain_table(*(Column(name, overflow="fold") for name in columns), rows=kappa_rows(all_judged))
