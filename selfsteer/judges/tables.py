"""Tables of judges' figures, for the terminal and for documents."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from selfsteer.confidence_intervals import Interval, share_text, value_text
from selfsteer.judges.agreement import Figures, by_subset, kappa, pooled
from selfsteer.judges.base import Judgement
from selfsteer.temp_db import TempDatabase

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
    """Return a row for each subset, and after several subsets one for all distinct pairs.

    Its cells: judge, set, n, strict, debiased, kappa, share of the first shown, inconsistent, tie, invalid.
    """
    rows = [(subset or "-", found) for subset, found in by_subset(judged.judgements).items()]
    if len(rows) > 1:
        rows.append((ALL_SETS, pooled(judged.judgements)))
    return [
        (
            judged.name,
            subset,
            str(found.n) + (f" ({found.n_tied_labels} tied)" if found.n_tied_labels else ""),
            share_text(found.strict.share, found.strict.interval),
            share_text(found.debiased.share, found.debiased.interval),
            value_text(found.debiased.kappa, found.debiased.kappa_interval),
            share_text(found.first_share, found.first_share_interval),
            *(str(found.outcomes[name]) for name in ("inconsistent", "tie", "invalid")),
        )
        for subset, found in rows
    ]


def kappa_rows(all_judged: Sequence[Judged]) -> list[tuple[str, str, str]]:
    """Return Cohen's kappa of the debiased verdicts of every two judges, as text."""
    return [
        (one.name, other.name, value_text(*found) if found else "undefined: all verdicts are equal")
        for one, other in itertools.combinations(all_judged, 2)
        for found in (common_kappa(one, other),)
    ]


def common_kappa(one: Judged, other: Judged) -> tuple[float, Interval] | None:
    """Return Cohen's kappa of two judges' debiased verdicts on the pairs that both judged (a person may stop early)."""
    table = "CREATE TABLE verdicts (id BLOB PRIMARY KEY, verdict INTEGER) WITHOUT ROWID"
    first, second = array("b"), array("b")
    with TempDatabase([table], "the verdicts") as others:  # memory does not grow with the pairs
        for pair, verdict in _verdicts(other):
            others.execute("INSERT OR REPLACE INTO verdicts VALUES (?, ?)", (pair, verdict))
        for pair, verdict in _verdicts(one):
            found = others.execute("SELECT verdict FROM verdicts WHERE id = ?", (pair,)).fetchone()
            if found:
                first.append(verdict)
                second.append(found[0])
    return kappa(first, second)


def _verdicts(judged: Judged) -> Iterator[tuple[bytes, int]]:
    return ((one.pair.id.encode(errors="surrogatepass"), one.debiased) for one in judged.judgements)


def judge_warnings(name: str, found: Figures) -> list[str]:
    """Return warnings about the figures of a judge: a sentence on position bias, one on missing verdicts."""
    return list(filter(None, (order_warning(name, found), invalid_warning(name, asdict(found)))))


def order_warning(name: str, found: Figures) -> str:
    """Return a sentence on a judge with position bias, "" for any other."""
    share, ends = found.first_share, found.first_share_interval
    if share is None or ends is None or max(share, 1 - share) < ORDER_BOUND or max(ends[0], 1 - ends[1]) < _SURE:
        return ""
    place, often = ("first", share) if share > 0.5 else ("second", 1 - share)
    return (
        f"{name} votes for the {place} response shown in {often:.0%} of its answers: its strict verdicts mean "
        "nothing, its debiased ones only what is left when that cancels"
    )


def invalid_warning(name: str, found: Mapping[str, Any]) -> str:
    """Return a sentence on the pairs without a valid verdict, "" where there are none; ``found`` is Figures as JSON."""
    n, invalid = found["n"], found["outcomes"]["invalid"]
    if not invalid:
        return ""
    reasons = ", ".join(f"{why or 'for no known reason'}: {count}" for why, count in found["why_invalid"].items())
    return f"{name}: {invalid} of {n} pairs have no valid verdict ({invalid / n:.0%}); replies {reasons}"
