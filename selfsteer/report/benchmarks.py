"""The section "Benchmarks": the policies of a run on the benchmarks that its recipe names (benchmarks.json)."""

from __future__ import annotations

from collections.abc import Iterator

from selfsteer.report.figures.benchmarks import benchmark_figure, change_text, compared, digits_of
from selfsteer.report.formatting import count, interval, label, number, p_text
from selfsteer.report.read_run import Json, dig, dig_dict, dig_number
from selfsteer.report.tables import Table


def benchmarks_section(comparison: Json) -> Json:
    """Return everything that the section prints, of the JSON of a comparison."""
    models, benchmarks = compared(comparison)
    lead = (
        "Differences are paired: taken on the items that both policies have a score for, whole clusters of items "
        'resampled. p is the bootstrap\'s, "exact" McNemar\'s for scores of right or wrong; "Holm" adjusts official '
        'metrics for the number of benchmarks. "Could show" is the true difference that so many items find with 80 % '
        "power."
    )
    head = ["Benchmark", *models, "Difference", "p", "Exact", "Holm", "Items", "Could show"]
    rows = [row for one in benchmarks for row in _rows(one)]
    return {
        "lead": lead,
        "warnings": [text for one in benchmarks for text in _warnings(one, models)],
        "figure": benchmark_figure(comparison),
        "table": Table("Benchmarks, with 95 % intervals", head, rows, "No benchmark has a figure."),
    }


def _rows(one: Json) -> Iterator[list[str]]:
    title, digits = label(one.get("title")), digits_of(one)
    for metric, figures in dig_dict(one, "metrics").items():
        cells = []
        for figure in figures:
            value, ends = dig_number(figure, "value"), [dig_number(figure, end) for end in ("low", "high")]
            ranged = interval(ends, lambda end: number(end, digits))
            cells.append("-" if value is None else number(value, digits) + (f" ({ranged})" if ranged else ""))
        change = dig_dict(figures[-1], "change")
        p_values = [p_text(dig_number(change, name)) for name in ("p", "mcnemar", "holm")]
        n, smallest = dig_number(change, "n"), dig_number(change, "smallest")
        yield [
            f"{title}: {label(metric.replace('_', ' '))}",
            *cells,
            change_text(change, digits) or "-",
            *p_values,
            "-" if n is None else number(n),
            "-" if smallest is None else number(smallest, digits),
        ]
    lengths = [dig_number(standing, "length") for standing in one["models"]]
    if one.get("judge") and any(length is not None for length in lengths):
        shown = ["-" if length is None else number(length) for length in lengths]
        yield [f"{title}: characters an answer", *shown, *["-"] * 6]


def _warnings(one: Json, models: list[str]) -> Iterator[str]:
    title = label(one.get("title"))
    for model, standing in zip(models, one["models"], strict=True):
        if dig(standing, "incomplete"):
            scored, expected = dig_number(standing, "scored") or 0, dig_number(standing, "expected") or 0
            yield f"{title}, {model}: incomplete, {number(scored)} of {count(expected, 'item')} scored."
