"""The before/after table: which numbers stand in it, in plain words."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from selfsteer.report.formatting import Form, count, interval, label, maybe, number, percent, plain, points, signed
from selfsteer.report.read_run import Json, dig, dig_number, dig_numbers


def _tokens(value: float) -> str:
    return number(value, 1)


def _nats(value: float) -> str:
    return number(value, 3)


def _chance(value: float) -> str:
    return number(value, 3)


@dataclasses.dataclass(frozen=True)
class Kind:
    """How a number is shown, and how the difference of two of them is."""

    show: Form
    difference: Form


SHARE = Kind(percent, points)
TOKENS = Kind(_tokens, _tokens)
NATS = Kind(_nats, _nats)
CHANCE = Kind(_chance, _chance)
COUNT = Kind(number, number)
PLAIN = Kind(plain, plain)


@dataclasses.dataclass(frozen=True)
class Metric:
    """One row: where its number stands in a policy's entry of the summary, and what it means."""

    name: str
    meaning: str
    path: tuple[str, ...]
    kind: Kind
    interval: tuple[str, ...] = ()
    note: Callable[[Json], str] = lambda policy: ""


@dataclasses.dataclass(frozen=True)
class Cell:
    """A number as text, and the smaller lines under it."""

    text: str
    small: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Row:
    """A metric with its cells: one a policy, then the difference (None where there is one policy)."""

    name: str
    meaning: str
    cells: list[Cell]
    difference: str | None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The whole table: groups of rows, and the names of what no policy has a number for."""

    columns: list[str]
    sizes: str
    groups: list[tuple[str, list[Row]]]
    unmeasured: list[str]
    intervals: bool

    @property
    def title(self) -> str:
        """What the table compares, if there is something to compare."""
        return "Before and after" if len(self.columns) > 1 else "Before training"


def _direction_counts(policy: Json) -> str:
    names = ("right", "tied", "wrong")
    counts = [(name, dig_number(policy, "direction", name)) for name in names]
    return ", ".join(f"{number(value)}\N{NO-BREAK SPACE}{name}" for name, value in counts if value is not None)


def _implicit_ties(policy: Json) -> str:
    size, ties = dig_number(policy, "implicit", "n"), dig_number(policy, "implicit", "ties")
    parts = [count(size, "pair")] if size is not None else []
    return ", ".join([*parts, f"{number(ties)}\N{NO-BREAK SPACE}tied"] if ties else parts)


GROUPS: dict[str, tuple[Metric, ...]] = {
    "Plain answers": (
        Metric(
            "Answer length, mean",
            "Tokens in the answer to a held-out query with no principle.",
            ("length", "original", "mean_tokens"),
            TOKENS,
        ),
        Metric(
            "Answer length, median",
            "Half of the plain answers are shorter than this.",
            ("length", "original", "median_tokens"),
            PLAIN,
        ),
        Metric(
            "Answers cut at the limit",
            "Share of plain answers that were still going when the token limit stopped them.",
            ("length", "original", "capped_share"),
            SHARE,
        ),
        Metric(
            "Answers on topic",
            "Share of plain answers that aren't empty or degenerate and share content words with the question. A "
            "floor, not a judgement of quality.",
            ("answered", "share"),
            SHARE,
            ("answered", "interval"),
        ),
        Metric(
            "Repetition",
            "How much of a plain answer repeats itself; rises when a policy degenerates.",
            ("distinct", "repetition"),
            SHARE,
        ),
        Metric("Empty answers", "Plain answers with no text in them.", ("distinct", "empty"), COUNT),
    ),
    "Steering: is the signal right?": (
        Metric(
            "Pairs in the right direction",
            "Share of pairs in which a program, not a model, finds the positive response to be on the side that the "
            "principles ask for. Ties count against it.",
            ("direction", "share"),
            SHARE,
            ("direction", "interval"),
            _direction_counts,
        ),
        Metric(
            "Steering margin",
            "How much likelier a response is under the principle that asked for it than under the other one, in nats "
            "per token. It shows only that the prompts matter; it's never accuracy.",
            ("steering_margin", "mean"),
            NATS,
            ("steering_margin", "interval"),
        ),
        Metric(
            "Length of positive responses, mean",
            "Tokens in the answers steered by the positive principle.",
            ("length", "positive", "mean_tokens"),
            TOKENS,
        ),
        Metric(
            "Length of negative responses, mean",
            "Tokens in the answers steered by the negative principle.",
            ("length", "negative", "mean_tokens"),
            TOKENS,
        ),
    ),
    "On-policyness: would the policy write these itself?": (
        Metric(
            "On-policyness",
            "Mean of the two rows below. Nearer 1 means that training moves the policy along what it already does.",
            ("onpolicyness", "mean"),
            CHANCE,
            ("onpolicyness", "interval"),
        ),
        Metric(
            "… of positive responses",
            "Mean over y⁺ of exp(mean log-prob) under the query alone: a typical chance of each token.",
            ("onpolicyness", "positive_response"),
            CHANCE,
        ),
        Metric("… of negative responses", "The same over y⁻.", ("onpolicyness", "negative_response"), CHANCE),
    ),
    "Preference: what training taught": (
        Metric(
            "Implicit-reward accuracy",
            "Share of held-out pairs whose positive response gained more likelihood over the reference than the "
            "negative one did. Half is chance. Not measured before training: a policy compared with itself has no "
            "reward.",
            ("implicit", "accuracy"),
            SHARE,
            ("implicit", "accuracy_interval"),
            _implicit_ties,
        ),
        Metric(
            "Implicit-reward margin",
            "By how much it gained more, on average, in nats.",
            ("implicit", "margin"),
            NATS,
            ("implicit", "margin_interval"),
        ),
    ),
}


def compare(policies: Sequence[Json]) -> Comparison:
    """Lay out the before/after table; rows that no policy has a number for are named under it instead."""
    groups: list[tuple[str, list[Row]]] = []
    unmeasured: list[str] = []
    for title, metrics in GROUPS.items():
        found = [
            metric for metric in metrics if any(dig_number(policy, *metric.path) is not None for policy in policies)
        ]
        unmeasured += [metric.name.replace("… of", "on-policyness of") for metric in metrics if metric not in found]
        if found:
            groups.append((title, [_row(metric, policies) for metric in found]))
    intervals = any(cell.small for _, rows in groups for row in rows for cell in row.cells)
    columns = [label(policy.get("label")) for policy in policies]
    return Comparison(columns, _sizes(policies), groups, unmeasured, intervals)


def _row(metric: Metric, policies: Sequence[Json]) -> Row:
    values = [dig_number(policy, *metric.path) for policy in policies]
    cells = [_cell(metric, policy, value) for policy, value in zip(policies, values, strict=True)]
    difference = None
    if len(values) > 1:
        first, last = values[0], values[-1]
        change = None if first is None or last is None else last - first
        difference = maybe(change, lambda known: signed(metric.kind.difference(known)))
    return Row(metric.name + _qualifier(metric, policies), metric.meaning, cells, difference)


def _cell(metric: Metric, policy: Json, value: float | None) -> Cell:
    if value is None:
        return Cell(maybe(value, metric.kind.show))
    ends = interval(dig_numbers(policy, *metric.interval), metric.kind.show) if metric.interval else ""
    return Cell(metric.kind.show(value), [text for text in (ends, metric.note(policy)) if text])


_QUALIFIERS = {"direction": "program", "implicit": "scale"}
"""What is said behind a metric's name: which program checks the direction, whether rewards are per token or summed."""


def _qualifier(metric: Metric, policies: Sequence[Json]) -> str:
    path = (metric.path[0], _QUALIFIERS.get(metric.path[0], ""))
    found = {label(dig(policy, *path)) for policy in policies if dig(policy, *path)}
    return f" ({', '.join(sorted(found))})" if found else ""


def _sizes(policies: Sequence[Json]) -> str:
    """Return on how many held-out queries the policies were measured."""
    sizes = [dig_number(policy, "n") for policy in policies]
    known = sorted({size for size in sizes if size is not None})
    if not known:
        return "an unknown number of"
    return number(known[0]) if len(known) == 1 else f"{number(known[0])} to {number(known[-1])}"
