"""Filters over a stream: the same as over a list, for any blocks, and no row is held; the shortcuts of ``leak``."""

from __future__ import annotations

import dataclasses
import statistics
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfsteer.errors import InputError, SelfsteerWarning
from selfsteer.quality import FILTERS, DropCounts, FilterChain, apply_filters, leak, parse_filters
from selfsteer.quality.base import Context, Filter
from selfsteer.quality.filters import FilterReport
from selfsteer.quality.score_filters import Averaged, averages
from selfsteer.records import ROLES, Contrast

MakeRow = Callable[..., Contrast]
Scores = Callable[..., dict[str, dict[str, float]]]
ADJECTIVES = {"Concision": ("concise", "verbose")}
NAMES = ["identical", "leak", "truncated", "repetition", "length_ratio", "preference_order"]
SPECS: list[Any] = [*NAMES, "near_onpolicy", "steering_gap", {"direction": {"program": "shorter"}}]
TEXTS = st.sampled_from(["", "Paris.", "It is Paris.", "Concise: Paris.", "the cat sat down and " * 4, "a b c d e f g"])
MEANS = st.tuples(*[st.one_of(st.floats(-9, 0), st.sampled_from([-1.0, -0.1, -3.0]))] * 3)


def on_a_list(rows: Sequence[Contrast], specs: Sequence[Any]) -> tuple[FilterReport, list[str]]:
    """The filters one after the other over the whole list, with the warnings that are due."""
    rows, warned = list(rows), []
    before, counts, thresholds = sum(not row.kept for row in rows), {}, {}
    for step in parse_filters(specs):
        alive = [i for i, row in enumerate(rows) if row.kept]
        numbers = [step.averaged(rows[i]) for i in alive] if isinstance(step, Averaged) else []
        fitted = {name: statistics.mean(row[name] for row in numbers) for name in (numbers[0] if numbers else ())}
        why = {i: step.reason(rows[i], Context(ADJECTIVES, fitted)) for i in alive}
        dropped = [i for i in alive if why[i]]
        for i in dropped:
            rows[i] = rows[i].drop(f"{step.name}: {why[i]}")
        counts[step.name] = len(dropped)
        thresholds |= {f"{step.name}.{name}": value for name, value in fitted.items()}
        if alive and len(dropped) == len(alive):
            warned.append(f"filter {step.name!r} dropped all {len(alive)} rows it was given; {step.relax}")
    counts["kept"] = sum(row.kept for row in rows)
    return FilterReport(rows, ({"dropped_before": before} if before else {}) | counts, thresholds), warned


def in_blocks(rows: Sequence[Contrast], specs: Sequence[Any], cuts: list[int]) -> tuple[FilterReport, list[str]]:
    chain = FilterChain(specs, adjectives=ADJECTIVES)
    chain.fit(lambda: iter(rows))
    bounds = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    blocks = [[chain.apply(row) for row in rows[i:j]] for i, j in pairwise(bounds)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        chain.finish()
    found = [row for block in blocks for row in block]
    return FilterReport(found, chain.counts, chain.thresholds), [str(warning.message) for warning in caught]


@st.composite
def drawn_rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    one = st.fixed_dictionaries(
        {f"{role}_response": TEXTS for role in ROLES}
        | {f"{role}_finish": st.sampled_from(["stop", "length"]) for role in ROLES}
        | {"kept": st.sampled_from([True, True, True, False]), "means": st.tuples(MEANS, MEANS)}
    )
    return draw(st.lists(one, max_size=8))


@settings(max_examples=200, deadline=None)
@given(drawn_rows(), st.lists(st.sampled_from(SPECS), unique_by=str, max_size=5), st.lists(st.integers(0, 8)))
def test_blocks_of_any_size_give_what_the_list_gives(
    make_row: MakeRow, scores: Scores, drawn: list[dict[str, Any]], specs: list[Any], cuts: list[int]
) -> None:
    rows = [
        make_row(str(i), scores=scores(*row["means"]), **{key: row[key] for key in row if key != "means"})
        for i, row in enumerate(drawn)
    ]
    expected, due = on_a_list(rows, specs)
    assert in_blocks(rows, specs, cuts) == (expected, due)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert apply_filters(rows, specs, adjectives=ADJECTIVES) == expected
    assert [str(warning.message) for warning in caught] == due
    tally = DropCounts([step.name for step in parse_filters(specs)])
    for row in expected.rows:
        tally.read(row.kept, row.drop_reason, row.aspects)
    assert tally.counts == expected.counts


# --------------------------------------------------------------------------------------------------------- the passes
@pytest.mark.parametrize(
    ("specs", "passes"),
    [
        ([], 0),
        (["identical", "leak", "preference_order"], 0),
        (["near_onpolicy", "leak"], 1),
        (["steering_gap", "leak", "near_onpolicy"], 2),
    ],
)
def test_one_pass_for_each_filter_with_averages(
    make_row: MakeRow, scores: Scores, specs: list[str], passes: int
) -> None:
    started: list[int] = []

    def rows() -> Iterator[Contrast]:
        started.append(1)
        yield from [
            make_row(scores=scores((-1, -2, -3), (-1, -2, -4))),
            make_row(scores=scores((-1, -2, -5), (-1, -2, -6))),
        ]

    FilterChain(specs).fit(rows)
    assert len(started) == passes


def test_each_filter_looks_at_each_row_once(make_row: MakeRow, scores: Scores, monkeypatch: Any) -> None:
    """Two filters by averages and duplicates: four passes over the rows, one look of each other filter."""
    looked: list[str] = []

    def count(kind: type[Filter], method: str) -> None:
        real = getattr(kind, method)

        def counting(self: Any, row: Contrast, *context: Context) -> str:
            looked.append(f"{self.name} {row.id}")
            return str(real(self, row, *context))

        monkeypatch.setattr(kind, method, counting)

    rows = [
        make_row(str(i), query=f"What is the {name} number?", positive_response=f"The {name} one.",
                 scores=scores((-1, -2, -3 - i), (-1, -2, -3 - i)), positive_finish="length" if i == 2 else "stop")
        for i, name in enumerate(["first", "second", "third", "fourth"])
    ]  # fmt: skip
    specs = ["truncated", "duplicates", "leak", "near_onpolicy", "repetition", "steering_gap"]
    expected, _ = on_a_list_with_repeats(rows, specs)
    for name in (*specs, "empty"):
        count(FILTERS[name], "reason")
    chain = FilterChain(specs, adjectives=ADJECTIVES)
    chain.fit(lambda: rows)
    # quality control fills these columns between fitting and filtering
    found = [chain.apply(dataclasses.replace(row, steering_margin=1.0, negative_harmful="x")) for row in rows[::-1]]
    assert [row.drop_reason for row in found[::-1]] == expected
    kept = [row.id for row in rows if row.id != "2"]
    wanted = [f"{name} {row.id}" for name in ("empty", "truncated") for row in rows]
    wanted += [f"{name} {id}" for name in specs[1:] for id in kept]
    assert sorted(looked) == sorted(wanted)
    looked.clear()
    chain.fit(lambda: rows)
    assert looked, "another set is looked at anew"


def on_a_list_with_repeats(rows: Sequence[Contrast], specs: Sequence[str]) -> tuple[list[str], FilterReport]:
    """Drop reasons by one chain a filter, over what the filters before it left."""
    left: list[Contrast] = list(rows)
    for spec in specs:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            report = apply_filters(left, [spec], adjectives=ADJECTIVES)
        left = report.rows
    return [row.drop_reason for row in left], report


def test_rows_that_differ_have_verdicts_of_their_own_whatever_they_are_called(make_row: MakeRow) -> None:
    rows = [make_row("same"), make_row("same", positive_response=""), make_row("same", positive_finish="length")]
    rows.append(make_row("same", positive_response="Paris, " * 30))
    report = apply_filters(rows, ["truncated", {"length_bias": {"max_share": 0.9}}])
    assert [row.drop_reason.partition(":")[0] for row in report.rows] == ["", "empty", "truncated", ""]


def test_no_row_is_held(make_row: MakeRow, scores: Scores) -> None:
    made: list[weakref.ref[Contrast]] = []

    def rows() -> Iterator[Contrast]:
        for i in range(20):
            row = make_row(str(i), scores=scores((-1, -2, -3 - i), (-1, -2, -3 - i)))
            made.append(weakref.ref(row))
            yield row
            del row
            assert sum(ref() is not None for ref in made) <= 1

    chain = FilterChain(["identical", "leak", "near_onpolicy", "steering_gap"])
    chain.fit(rows)
    assert len(made) == 2 * 20
    assert sum(chain.apply(row).kept for row in rows()) == 10  # the gaps 2 to 21 exceed 11.5 ten times


def test_averages_come_from_the_rows_that_earlier_filters_keep(make_row: MakeRow, scores: Scores) -> None:
    # near_onpolicy drops the row at -9 (average -4), so steering_gap averages over the gaps 2 and 7 alone
    means = [(-1, -1), (-2, -6), (-9, -50)]
    rows = [make_row(scores=scores((0, plain, gap - 1), (0, plain, gap - 1))) for plain, gap in means]
    chain = FilterChain(["near_onpolicy", "steering_gap"])
    chain.fit(lambda: rows)
    assert chain.thresholds == {
        "near_onpolicy.positive_response": -4.0,
        "near_onpolicy.negative_response": -4.0,
        "steering_gap.positive_response": (2 + 7) / 2,
        "steering_gap.negative_response": (2 + 7) / 2,
    }
    assert [chain.apply(row).kept for row in rows] == [False, True, False]
    assert chain.counts == {"empty": 0, "near_onpolicy": 1, "steering_gap": 1, "kept": 1}


def test_a_filter_with_averages_must_be_fitted(make_row: MakeRow, scores: Scores) -> None:
    row, empty = make_row(scores=scores((-1, -2, -3), (-1, -2, -3))), make_row(positive_response="")
    chain = FilterChain(["near_onpolicy"])
    assert chain.apply(empty).drop_reason == "empty: no text in the positive response"
    with pytest.raises(RuntimeError, match=r"'near_onpolicy' has no thresholds: call FilterChain\.fit"):
        chain.apply(row)
    chain.fit(lambda: [empty])  # no row comes that far
    assert chain.thresholds == {}
    with pytest.raises(RuntimeError, match="'near_onpolicy'"):
        chain.apply(row)


def test_missing_scores_are_refused_while_fitting(make_row: MakeRow) -> None:
    with pytest.raises(InputError, match="'near_onpolicy' needs log-probs"):
        FilterChain(["near_onpolicy"]).fit(lambda: [make_row()])


def test_a_filter_of_ones_own_needs_one_class(make_row: MakeRow) -> None:
    class ShorterThanMost(Filter):
        name = "shorter_than_most"
        relax = "write more"

        @property
        def given(self) -> None:
            return None

        def fit(self, rows: Iterable[Contrast], context: Context) -> Context:
            return dataclasses.replace(
                context, thresholds={"characters": statistics.mean(len(row.positive_response) for row in rows)}
            )

        def reason(self, row: Contrast, context: Context) -> str:
            return "short" if len(row.positive_response) < context.thresholds["characters"] else ""

    rows = [make_row(positive_response="x" * size) for size in (1, 2, 6)]
    report = apply_filters(rows, [ShorterThanMost()])
    assert report.thresholds == {"shorter_than_most.characters": 3.0}
    assert [row.drop_reason for row in report.rows] == ["shorter_than_most: short"] * 2 + [""]


# ---------------------------------------------------------------------------------------------------------- averages
@given(st.lists(st.floats(-1e300, 1e300, allow_subnormal=True), min_size=1))
def test_averages_are_those_of_the_statistics_module(values: list[float]) -> None:
    found = averages({"a": value, "b": -value} for value in values)
    assert found == {"a": statistics.mean(values), "b": -statistics.mean(values)}


def test_the_average_of_equal_values_is_that_value() -> None:
    assert sum([0.1] * 3) / 3 != 0.1
    assert averages({"a": 0.1} for _ in range(3)) == {"a": 0.1}
    assert averages([]) == {}


# ------------------------------------------------------------------------------------------------------------- counts
def test_rows_filtered_before_are_counted_by_their_reasons() -> None:
    stored = [
        (True, ""),
        (False, "leak: y+ repeats"),
        (False, "too long"),
        (False, "leak"),
        (False, "empty: no text: at all"),
    ]
    # "leak" without a colon is no reason of the filter's
    tally = DropCounts(["empty", "identical", "leak"])
    for kept, reason in stored:
        tally.read(kept, reason, [])
    assert tally.counts == {
        "dropped_before": 2,
        "empty": 1,
        "identical": 0,
        "leak": 1,
        "kept": 1,
    }


def test_a_resumed_chain_counts_and_warns_by_what_is_stored(make_row: MakeRow) -> None:
    rows = [make_row(positive_finish="length"), make_row(positive_response=""), make_row().drop("too long")]
    first, resumed = FilterChain(["truncated"]), FilterChain(["truncated"])
    stored = [first.apply(row) for row in rows[:2]]
    stored += [resumed.apply(row) for row in rows[2:]]
    assert resumed.counts == {"dropped_before": 1, "empty": 0, "truncated": 0, "kept": 0}
    expected = {"dropped_before": 1, "empty": 1, "truncated": 1, "kept": 0}
    columns = [(row.kept, row.drop_reason, row.aspects, "") for row in stored]
    assert resumed.count(columns).counts == expected == resumed.counts
    with pytest.warns(SelfsteerWarning, match="'truncated' dropped all 1 rows it was given; raise the limit") as caught:
        resumed.finish()
    assert len(caught) == 1 and caught[0].filename == __file__


def test_words_do_not_depend_on_the_form_of_the_apostrophe() -> None:
    assert leak.words("’Tis DON’T don't a’’b x’") == ["tis", "don't", "don't", "a", "b", "x"]


def test_a_row_may_change_after_its_words_were_looked_up(make_row: MakeRow) -> None:
    principle = "Give the name of the city and then stop at once, with no other word."
    row = make_row(positive_principle=principle, positive_response="Paris.")
    leaking = dataclasses.replace(row, positive_response=principle)
    report = apply_filters([row, leaking, row], ["leak"])
    assert [bool(row.drop_reason) for row in report.rows] == [False, True, False]
