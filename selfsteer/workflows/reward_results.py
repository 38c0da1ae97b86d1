"""The figures of `selfsteer reward`: accuracy per subset, over seeds, beside what length alone gives."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from selfsteer.confidence_intervals import share_text, wilson
from selfsteer.judges import Judgement
from selfsteer.report.tables import markdown_table

Results = dict[str, Any]

NOTES = (
    "A pair counts as right where the chosen answer gets the higher reward; equal rewards, and pairs that don't fit "
    "in the model's context, count as not right. One seed: share of pairs with its 95 % interval (Wilson). Several: "
    "mean and standard deviation over seeds, which does not cover the choice of pairs; each model's interval is in "
    "results.md. 'longer answer' is the accuracy of counting words."
)


def accuracy(judgements: Sequence[Judgement]) -> dict[str, dict[str, Any]]:
    """Return by subset how many pairs with a winner were judged right.

    Each has n (pairs with a winner by their label), right, share and its Wilson interval (None where n is 0), tied and
    invalid (of those n: equal rewards, and pairs that could not be scored), and unlabelled (pairs without a winner).
    """
    groups: dict[str, list[Judgement]] = {}
    for one in judgements:
        groups.setdefault(one.pair.subset, []).append(one)
    found = {}
    for subset, group in groups.items():
        decided = [one for one in group if one.pair.label in (1, -1)]
        invalid = sum(one.outcome == "invalid" for one in decided)
        found[subset] = {
            **_share(sum(one.debiased == one.pair.label for one in decided), len(decided)),
            "tied": sum(one.debiased == 0 for one in decided) - invalid,
            "invalid": invalid,
            "unlabelled": len(group) - len(decided),
        }
    return found


class Subset(NamedTuple):
    """A row of the table: a subset of a file, with the accuracy of length and of each variant's models."""

    file: str
    name: str
    length: dict[str, Any]
    variants: dict[str, list[dict[str, Any]]]


def subsets(results: Results) -> Iterator[Subset]:
    """Yield the rows of the table."""
    for file, found in results["length"].items():
        for name, length in found["subsets"].items():
            variants: dict[str, list[dict[str, Any]]] = {}
            for model in results["models"]:
                variants.setdefault(model["variant"], []).append(model["accuracy"][file]["subsets"][name])
            yield Subset(file, name, length, variants)


def _with_totals(results: Results) -> Iterator[Subset]:
    """Yield the rows of the table, and after several subsets of a file one of all its pairs."""
    for file, group in itertools.groupby(subsets(results), key=lambda row: row.file):
        rows = list(group)
        yield from rows
        if len(rows) > 1:
            variants = {
                name: [_total(each) for each in zip(*(row.variants[name] for row in rows), strict=True)]
                for name in rows[0].variants
            }
            yield Subset(file, f"all of {Path(file).stem}", _total([row.length for row in rows]), variants)


def _total(figures: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return _share(sum(one["right"] for one in figures), sum(one["n"] for one in figures))


def _share(right: int, n: int) -> dict[str, Any]:
    share, interval = (right / n, list(wilson(right, n))) if n else (None, None)
    return {"n": n, "right": right, "share": share, "interval": interval}


def summary(figures: Sequence[dict[str, Any]]) -> str:
    """Return one model's share with its interval, or mean and standard deviation over several models."""
    shares = [one["share"] for one in figures]
    if None in shares:  # a subset without labels
        return "-"
    if len(figures) == 1:
        return share_text(shares[0], tuple(figures[0]["interval"]))
    return f"{100 * statistics.mean(shares):.1f} % ± {100 * statistics.stdev(shares):.1f}"


def accuracy_table(results: Results) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the table of accuracies, by subset and variant; no rows without an evaluation."""
    head = ["pairs", "n", "longer answer", *dict.fromkeys(model["variant"] for model in results["models"])]
    return head, [
        [name, str(row.length["n"]), summary([row.length]), *map(summary, row.variants.values())]
        for name, row in _named(results)
    ]


def _named(results: Results) -> list[tuple[str, Subset]]:
    """Return the rows with their names, which include the file if another row has the same name."""
    rows = list(_with_totals(results))
    names = [row.name for row in rows]
    return [(row.name if names.count(row.name) == 1 else f"{row.file}: {row.name}", row) for row in rows]


def as_markdown(results: Results) -> str:
    """Return results.md: the table, each model by itself, and what was trained on."""
    models = results["models"]
    parts = [f"# Reward models: {results['name']}", f"Base: `{results['base']}`."]
    if results["command"]:
        parts.append(f"    {results['command']}")
    if results["length"]:
        parts += ["## Accuracy", markdown_table(*accuracy_table(results)), NOTES, *_left_out(results)]
        columns = ["pairs", *(model["folder"].removeprefix("models/") for model in models)]
        rows = [
            [name, *(share_text(one["share"], one["interval"]) for figures in row.variants.values() for one in figures)]
            for name, row in _named(results)
        ]
        parts += ["## Each model", markdown_table(columns, rows)]
    reasons = []
    for model in models:
        listed = "; ".join(f"{reason} ({count})" for reason, count in model["data"]["left_out"].items())
        reasons.append(f"- `{model['folder']}`: {listed or 'nothing'}")
    parts += ["## Training data", _data_table(models), "Left out, and why:", "\n".join(reasons)]
    return "\n\n".join(parts) + "\n"


def _left_out(results: Results) -> list[str]:
    lines = [f"{file}: {count} rows left out, {reason}" for file, found in results["length"].items()
             for reason, count in found["left_out"].items()]  # fmt: skip
    lines += [f"{row.file}, {row.name}: {row.length['unlabelled']} pairs without a winner by their label"
              for row in subsets(results) if row.length["unlabelled"]]  # fmt: skip
    invalid = {(row.file, row.name, one["invalid"]) for row in subsets(results)
               for figures in row.variants.values() for one in figures if one["invalid"]}  # fmt: skip
    lines += [f"{file}, {name}: {count} pairs too long for the model, not right"
              for file, name, count in sorted(invalid)]  # fmt: skip
    return ["\n".join(f"- {line}" for line in lines)] if lines else []


def _data_table(models: Sequence[dict[str, Any]]) -> str:
    rows = []
    for model in models:
        data, training = model["data"], model["training"]
        sets = ", ".join(f"{name} {count}" for name, count in data["sets"].items())
        losses = f"{training['first']['loss']:.3f}, {training['last']['loss']:.3f}"
        longer = f"{100 * data['longer_chosen']:.0f} %"
        rows.append([f"`{model['folder']}`", str(data["examples"]), sets, longer, str(training["steps"]), losses,
                     f"{training['seconds']:.0f}"])  # fmt: skip
    columns = ["model", "pairs", "of which", "chosen is longer", "steps", "loss, first and last step", "seconds"]
    return markdown_table(columns, rows)
