"""The before/after table: its metrics, in plain words."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

from selfsteer.report.formatting import (
    Form,
    count,
    interval,
    label,
    maybe,
    nats,
    number,
    percent,
    plain,
    points,
    signed,
)
from selfsteer.report.read_run import Json, dig, dig_number, dig_numbers

tokens = partial(number, digits=1)


@dataclasses.dataclass(frozen=True)
class Metric:
    """A row of the table.

    Attributes:
        path: Of its number in a policy's entry of the summary, with dots; ``interval``: of its 95 % interval.
        meaning: One or two sentences under the name.
        note: Returns a smaller line under the number, "" for none.
    """

    name: str
    path: str
    show: Form
    meaning: str
    interval: str = ""
    note: Callable[[Json], str] = lambda policy: ""


def _direction_counts(policy: Json) -> str:
    names = ("right", "tied", "wrong")
    counts = [(name, dig_number(policy, "direction", name)) for name in names]
    return ", ".join(f"{number(value)}\N{NO-BREAK SPACE}{name}" for name, value in counts if value is not None)


def _implicit_ties(policy: Json) -> str:
    size, ties = dig_number(policy, "implicit", "n"), dig_number(policy, "implicit", "ties")
    parts = [count(size, "pair")] if size is not None else []
    return ", ".join([*parts, f"{number(ties)}\N{NO-BREAK SPACE}tied"] if ties else parts)


# fmt: off
GROUPS: dict[str, tuple[Metric, ...]] = {
    "Plain answers": (
        Metric("Answer length, mean", "length.original.mean_tokens", tokens,
               "Tokens in the answer to a held-out query with no principle."),
        Metric("Answer length, median", "length.original.median_tokens", plain,
               "Half of the plain answers are shorter than this."),
        Metric("Answers cut at the limit", "length.original.capped_share", percent,
               "Share of plain answers that the token limit cut off."),
        Metric("Answers on topic", "answered.share", percent,
               "Share of plain answers that aren't empty or degenerate and share content words with the question. A "
               "floor, not a judgement of quality.", "answered.interval"),
        Metric("Repetition", "distinct.repetition", percent,
               "How much of a plain answer repeats itself; rises when a policy degenerates."),
        Metric("Empty answers", "distinct.empty", number, "Plain answers with no text in them."),
    ),
    "Steering: is the signal right?": (
        Metric("Pairs in the right direction", "direction.share", percent,
               "Share of pairs in which a program, not a model, finds the positive response to be on the side that the "
               "principles ask for. Ties count against it.", "direction.interval", _direction_counts),
        Metric("Steering margin", "steering_margin.mean", nats,
               "How much likelier a response is under the principle that asked for it than under the other one, in "
               "nats per token. It shows only that the prompts matter; it's never accuracy.",
               "steering_margin.interval"),
        Metric("Length of positive responses, mean", "length.positive.mean_tokens", tokens,
               "Tokens in the answers steered by the positive principle."),
        Metric("Length of negative responses, mean", "length.negative.mean_tokens", tokens,
               "Tokens in the answers steered by the negative principle."),
    ),
    "On-policyness: would the policy write these itself?": (
        Metric("On-policyness", "onpolicyness.mean", nats,
               "Mean of the two rows below. Nearer 1 means that training moves the policy along what it already does.",
               "onpolicyness.interval"),
        Metric("… of positive responses", "onpolicyness.positive_response", nats,
               "Mean over y⁺ of exp(mean log-prob) under the query alone: a typical chance of each token."),
        Metric("… of negative responses", "onpolicyness.negative_response", nats, "The same over y⁻."),
    ),
    "Preference: what training taught": (
        Metric("Implicit-reward accuracy", "implicit.accuracy", percent,
               "Share of held-out pairs in which the positive response gained more likelihood over the reference than "
               "the negative one did. Half is chance. Not measured before training: a policy compared with itself has "
               "no reward.", "implicit.accuracy_interval", _implicit_ties),
        Metric("Implicit-reward margin", "implicit.margin", nats,
               "By how much it gained more, on average, in nats.", "implicit.margin_interval"),
    ),
}
# fmt: on


def compare(policies: Sequence[Json]) -> Json:
    """Return the values of the before/after table; metrics that no policy has a number for are listed under it."""
    groups: list[tuple[str, list[Json]]] = []
    unmeasured: list[str] = []
    for title, metrics in GROUPS.items():
        found = [metric for metric in metrics if any(_value(metric, policy) is not None for policy in policies)]
        unmeasured += [metric.name.replace("… of", "on-policyness of") for metric in metrics if metric not in found]
        if found:
            groups.append((title, [_row(metric, policies) for metric in found]))
    known = sorted(size for policy in policies if (size := dig_number(policy, "n")) is not None)
    return {
        "title": "Before and after" if len(policies) > 1 else "Before training",
        "columns": [label(policy.get("label")) for policy in policies],
        "sizes": " to ".join(dict.fromkeys(map(number, known[:1] + known[-1:]))) or "an unknown number of",
        "groups": groups,
        "unmeasured": unmeasured,
        "intervals": any(cell["small"] for _, rows in groups for row in rows for cell in row["cells"]),
    }


def _value(metric: Metric, policy: Json) -> float | None:
    return dig_number(policy, *metric.path.split("."))


def _row(metric: Metric, policies: Sequence[Json]) -> Json:
    """Return a metric's cells, a number with smaller lines under it for each policy, and their difference."""
    cells = []
    for policy in policies:
        value, small = _value(metric, policy), []
        if value is not None:
            small = [interval(dig_numbers(policy, *metric.interval.split(".")), metric.show), metric.note(policy)]
        cells.append({"text": maybe(value, metric.show), "small": list(filter(None, small))})
    difference = None
    if len(policies) > 1:
        first, last = _value(metric, policies[0]), _value(metric, policies[-1])
        change = None if first is None or last is None else last - first
        form = points if metric.show is percent else metric.show
        difference = maybe(change, lambda known: signed(form(known)))
    # Which program decides the direction, and whether rewards are per token or summed.
    group = metric.path.partition(".")[0]
    key = {"direction": "program", "implicit": "scale"}.get(group, "")
    names = sorted({label(dig(policy, group, key)) for policy in policies if dig(policy, group, key)})
    name = metric.name + (f" ({', '.join(names)})" if names else "")
    return {"name": name, "meaning": metric.meaning, "cells": cells, "difference": difference}
