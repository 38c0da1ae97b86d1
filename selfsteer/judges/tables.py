"""Tables of judges' figures, for the terminal and for documents."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from rich import box
from rich.table import Table
from rich.text import Text

from selfsteer.confidence_intervals import Interval
from selfsteer.judges.agreement import Figures, agreement, by_subset, kappa, pooled
from selfsteer.judges.base import Judgement

COLUMNS = ("judge", "set", "n", "strict", "debiased", "kappa", "the first shown wins", "inconsistent", "tie", "invalid")
ALL_SETS = "all sets"
ORDER_BOUND = 0.9
"""Share of votes for one place from which a judge is called order-bound."""
_SURE = 0.65
"""Least value of the nearer end of that share's interval: a few equal votes show no bias."""


class Judged(NamedTuple):
    """One judge's judgements on all pairs."""

    name: str
    judgements: Sequence[Judgement]


def figures_rows(judged: Judged) -> list[tuple[str, ...]]:
    """Return a row of :data:`COLUMNS` for each subset, and after several subsets one for all distinct pairs."""
    rows = [(subset or "-", found) for subset, found in by_subset(judged.judgements).items()]
    if len(rows) > 1:
        rows.append((ALL_SETS, pooled(judged.judgements)))
    return [(judged.name, subset, *_cells(found)) for subset, found in rows]


def figures_table(all_judged: Iterable[Judged]) -> Table:
    """Return the figures of judges, the rows of each as in :func:`figures_rows`; shares with 95 % intervals."""
    # It fits into 80 columns: intervals are under their shares, and only names wrap.
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("judge\nand set", overflow="fold")
    for column in ("n", "strict", "debiased", "kappa", "the first\nshown wins", "inconsistent,\ntie, invalid"):
        table.add_column(column, no_wrap=True)
    for judged in all_judged:
        for name, subset, *figures, inconsistent, tie, invalid in figures_rows(judged):
            stacked = (figure.replace(" (", "\n(") for figure in figures)
            cells = (f"{name}\n{subset}", *stacked, f"{inconsistent}, {tie}, {invalid}")
            table.add_row(*map(Text, cells))  # names are the user's: no markup in them
    return table


def kappa_table(all_judged: Sequence[Judged]) -> Table:
    """Return the agreement of every two judges."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for column in ("judge", "and", "kappa of their debiased verdicts"):
        table.add_column(column, overflow="fold")
    for row in kappa_rows(all_judged):
        table.add_row(*map(Text, row))
    return table


def kappa_rows(all_judged: Sequence[Judged]) -> list[tuple[str, str, str]]:
    """Return Cohen's kappa of the debiased verdicts of every two judges, as text."""
    return [
        (one.name, other.name, _number_text(*found) if found else "undefined: all verdicts are equal")
        for one, other in itertools.combinations(all_judged, 2)
        for found in (common_kappa(one, other),)
    ]


def common_kappa(one: Judged, other: Judged) -> tuple[float, Interval] | None:
    """Return Cohen's kappa of two judges' debiased verdicts on the pairs that both judged (a person may stop early)."""
    first, second = ({judgement.pair.id: judgement.debiased for judgement in each.judgements} for each in (one, other))
    shared = [pair for pair in first if pair in second]
    return kappa([first[pair] for pair in shared], [second[pair] for pair in shared])


def judge_warnings(judged: Judged) -> list[str]:
    """Return warnings about a judge's figures: a sentence on position bias, one on missing verdicts."""
    found = agreement(judged.judgements, kappas=False)
    return list(filter(None, (order_warning(judged, found), invalid_warning(judged.name, asdict(found)))))


def order_warning(judged: Judged, found: Figures) -> str:
    """Return a sentence on a judge with position bias, "" for any other."""
    share, ends = found.first_share, found.first_share_interval
    if share is None or ends is None or max(share, 1 - share) < ORDER_BOUND or max(ends[0], 1 - ends[1]) < _SURE:
        return ""
    place, often = ("first", share) if share > 0.5 else ("second", 1 - share)
    return (
        f"{judged.name} votes for the {place} response shown in {often:.0%} of its answers: its strict verdicts mean "
        "nothing, its debiased ones only what is left when that cancels"
    )


def invalid_warning(name: str, found: Mapping[str, Any]) -> str:
    """Return a sentence on the pairs without a valid verdict, "" where there are none.

    Args:
        name: The judge's name.
        found: Its :class:`Figures` as JSON.
    """
    n, invalid = found["n"], found["outcomes"]["invalid"]
    if not invalid:
        return ""
    reasons = ", ".join(f"{why or 'for no known reason'}: {count}" for why, count in found["why_invalid"].items())
    return f"{name}: {invalid} of {n} pairs have no valid verdict ({invalid / n:.0%}); replies {reasons}"


def _cells(found: Figures) -> list[str]:
    outcomes = found.outcomes
    return [
        str(found.n) + (f" ({found.n_tied_labels} tied)" if found.n_tied_labels else ""),
        percent(found.strict.share, found.strict.interval),
        percent(found.debiased.share, found.debiased.interval),
        _number_text(found.debiased.kappa, found.debiased.kappa_interval),
        percent(found.first_share, found.first_share_interval),
        *(str(outcomes[name]) for name in ("inconsistent", "tie", "invalid")),
    ]


def percent(share: float | None, interval: Interval | None) -> str:
    """Return "74 % (60-84)", "-" where there is no share."""
    if share is None or interval is None:
        return "-"
    low, high = (f"{100 * end:.0f}" for end in interval)
    return f"{100 * share:.0f} % ({low}-{high})"


def _number_text(value: float | None, interval: Interval | None) -> str:
    if value is None or interval is None:
        return "-"
    return f"{value:.2f} ({interval[0]:.2f} to {interval[1]:.2f})"
