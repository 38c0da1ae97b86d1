"""The table of `selfsteer evaluate model`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from selfsteer.commands.console import out, say
from selfsteer.commands.tables import plain_table
from selfsteer.evaluation.benchmarks.results import smallest_shown

_CONTROL_FIGURES = ("rating", "score", "win_rate")
_RIGHT = ("value", "95 %", "n", "length", "cut off", "can show")


def show_result(result: Mapping[str, Any], *, keep: bool) -> None:
    """Print the figures of a model, and what a reader of them must know.

    Args:
        keep: Figures of benchmarks that lack scores are shown, with their counts.
    """
    table = plain_table("benchmark", "metric", *_RIGHT, right=_RIGHT)
    for one in result["benchmarks"].values():
        title, n, answers = one["title"], _count(one, keep), _answers(one)
        for name, metric in one["metrics"].items() or [("-", None)]:
            hidden = metric is None or (one["incomplete"] and not keep)
            figures = (
                ("incomplete", "-", n, *answers, "-") if hidden else (*_figures(metric), n, *answers, _shown(metric))
            )
            table.add_row(title, name.replace("_", " "), *figures)
            title, n, answers = "", "", ("", "")
    say(f"{result['model']['name']} ({result['model']['engine']})")
    out.print(table)
    for one in result["benchmarks"].values():
        for note in _notes(one):
            say(f"{one['title']}: {note}")


def _figures(metric: Mapping[str, Any]) -> tuple[str, str]:
    interval = "-" if metric["low"] is None else f"{metric['low']:.2f} to {metric['high']:.2f}"
    return f"{metric['value']:.2f}", interval


def _shown(metric: Mapping[str, Any]) -> str:
    smallest = smallest_shown(metric)
    return "-" if smallest is None else f"{smallest:.2f}"


def _count(one: Mapping[str, Any], keep: bool) -> str:
    scored, expected = f"{one['scored']:,}", f"{one['expected']:,}"
    return scored if not one["incomplete"] else f"of {expected}: {scored}" if keep else f"{scored} of {expected}"


def _answers(one: Mapping[str, Any]) -> tuple[str, str]:
    """Return the mean length of answers in characters, and the share that the token limit cut off."""
    mean, cut = one["length"]["mean"], one["length"]["cut_off"]
    return "-" if mean is None else f"{mean:,.0f}", "-" if cut is None else f"{100 * cut:.0f} %"


def _notes(one: Mapping[str, Any]) -> list[str]:
    found = []
    if one["sample"]:
        found.append(f"a sample of {one['sample']['limit']:,} questions, seed {one['sample']['seed']}.")
    if one["judge"]:
        found.append(f"judged by {one['judge']['name']}. {one['judge']['calibration']['line']}.")
    if one["thinking"]:
        found.append(f"{one['thinking']:,} answers had a thinking part, which was taken off.")
    found += _controls(one["details"].get("controls", []))
    found += [f"{n:,} items: {flag}." for flag, n in one["flags"].items()]
    found += [f"without a score: {why} ({n:,})." for why, n in one["invalid"].items()]
    return [*found, *one["notes"]]


def _controls(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the line on answers by which a judge shows whether it reads."""
    figures = [
        (row["answers"], next(row[name] for name in _CONTROL_FIGURES if name in row)) for row in rows if row["n"]
    ]
    texts = [f"{name} {'no verdict' if value is None else f'{value:.2f}'}" for name, value in figures]
    return [f"the judge's figures for control answers: {', '.join(texts)}."] if texts else []
