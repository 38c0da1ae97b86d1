"""The tables of `selfsteer compare`: figures of each model, differences to the first one, and what to know of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Column, Table
from rich.text import Text

from selfsteer.commands.console import out, say
from selfsteer.commands.tables import plain_table
from selfsteer.evaluation.benchmarks.compare import Change, ComparedBenchmark, Comparison, Figure, Standing
from selfsteer.report.formatting import p_text

_NAMED = 10
"""Items that are named in the terminal."""
_LEGEND = (
    "With 95 % intervals. Differences are paired: taken on the items that both models have a score for, whole "
    "clusters of items resampled, the same ones for both. p is the bootstrap's; 'exact' is McNemar's test, for scores "
    "of right or wrong; 'Holm' adjusts a benchmark's official metric for the number of benchmarks. 'could show' is the "
    "true difference that so many items find with 80 % power."
)


def show_comparison(comparison: Comparison) -> None:
    """Print the figures, the differences, and which items only one of two models has a score for."""
    out.print(_figures(comparison))
    out.print()
    out.print(_differences(comparison))
    say(_LEGEND)
    for line in _remarks(comparison):
        say(line)


def _figures(comparison: Comparison) -> Table:
    names = (Column(Text(name), overflow="fold") for name in comparison.models)
    table = plain_table(Column("benchmark\n  metric", overflow="fold"), *names)
    for one in comparison.benchmarks:
        table.add_row(Text(_headed(one), style="bold"))
        for metric, figures in one.metrics.items():
            table.add_row(f"  {_words(metric)}", *(Text(_figure_text(one, figure)) for figure in figures))
        table.add_row("  items scored", *(Text(_scored_text(standing)) for standing in one.models))
        if one.judge:
            lengths = (standing.length if standing else None for standing in one.models)
            texts = ("-" if length is None else f"{length:,.0f}" for length in lengths)
            table.add_row("  characters an answer", *map(Text, texts))
    return table


def _headed(one: ComparedBenchmark) -> str:
    facts = [{"%": "percent", "1-10": "1 to 10"}.get(one.unit, ""), f"judge {one.judge}" if one.judge else ""]
    facts.append(f"chance {one.chance:g}" if one.chance else "")
    return ", ".join(filter(None, [one.title, *facts]))


def _words(metric: str) -> str:
    return metric.replace("_", " ")


def _digits(one: ComparedBenchmark) -> int:
    return 1 if one.unit == "%" else 2


def _figure_text(one: ComparedBenchmark, figure: Figure | None) -> str:
    if figure is None:
        return "-"
    digits = _digits(one)
    ends = "" if figure.low is None else f"\n({figure.low:.{digits}f} to {figure.high:.{digits}f})"
    return f"{figure.value:.{digits}f}{ends}"


def _scored_text(standing: Standing | None) -> str:
    if standing is None:
        return "not evaluated"
    if not standing.incomplete:
        return f"{standing.scored:,}"
    return f"{standing.scored:,} of {standing.expected:,}: incomplete"


def _changes(comparison: Comparison) -> Iterator[tuple[ComparedBenchmark, str, str, Change]]:
    """Yield each difference with its benchmark, metric and model."""
    for one in comparison.benchmarks:
        for metric, figures in one.metrics.items():
            for model, figure in zip(comparison.models, figures, strict=True):
                if figure and figure.change:
                    yield one, metric, model, figure.change


def _differences(comparison: Comparison) -> Table:
    numbers = ("difference", "p", "exact", "Holm", "n", "could\nshow")
    table = plain_table(
        Column(Text(f"to {comparison.models[0]}"), overflow="fold"), *(Column(name, no_wrap=True) for name in numbers)
    )
    group = None
    for one, metric, model, change in _changes(comparison):
        if group != (one.name, metric):
            group = one.name, metric
            table.add_row(Text(f"{one.title}: {_words(metric)}", style="bold"))
        digits = _digits(one)
        p_values = map(p_text, (change.p, change.mcnemar, change.holm))
        smallest = "-" if change.smallest is None else f"{change.smallest:.{digits}f}"
        cells = (f"  {model}", _change_text(change, digits), *p_values, _n_text(change), smallest)
        table.add_row(*map(Text, cells))
    return table


def _change_text(change: Change, digits: int) -> str:
    if change.value is None:
        return "-"
    ends = "" if change.low is None else f"\n({change.low:+.{digits}f} to {change.high:+.{digits}f})"
    return f"{change.value:+.{digits}f}{ends}"


def _n_text(change: Change) -> str:
    """Return the number of common items, and of clusters where those are fewer."""
    return f"{change.n:,}" + (f"\nin {change.clusters:,}" if change.clusters < change.n else "")


def _remarks(comparison: Comparison) -> Iterator[str]:
    first = comparison.models[0]
    for one, metric, model, change in _changes(comparison):
        if change.why:
            yield f"{one.title}, {_words(metric)}, {model}: no interval: {change.why}"
        if metric == next(iter(one.metrics)):  # the official one stands for the items of all
            for name, other, items in ((first, model, change.only_first), (model, first, change.only_this)):
                if items:
                    yield f"{one.title}: {_items_text(items)} a score of {name}, none of {other}"
    for one in comparison.benchmarks:
        for model, standing in zip(comparison.models, one.models, strict=True):
            if standing and standing.incomplete:
                reasons = ", ".join(f"{why}: {count}" for why, count in standing.invalid.items())
                why = f" ({reasons})" if reasons else ""
                yield f"{one.title}: {model} is incomplete: {standing.scored:,} of {standing.expected:,}{why}"


def _items_text(items: Sequence[str]) -> str:
    if len(items) == 1:
        return f"1 item ({items[0]}) has"
    more = f" and {len(items) - _NAMED:,} more, all in --json" if len(items) > _NAMED else ""
    return f"{len(items):,} items ({', '.join(items[:_NAMED])}{more}) have"
