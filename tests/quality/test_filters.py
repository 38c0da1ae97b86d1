"""Every filter on hand-worked rows; refusals; what apply_filters promises."""

from __future__ import annotations

import dataclasses
import random
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfsteer.config import QualitySettings
from selfsteer.errors import ConfigError, InputError, SelfsteerWarning
from selfsteer.quality import (
    FILTERS,
    FilterChain,
    advice,
    apply_filters,
    few_kept,
    parse_filters,
    put_margin,
    steering_margin,
)
from selfsteer.quality.filters import FilterReport
from selfsteer.records import ROLES, Contrast

MakeRow = Callable[..., Contrast]
Scores = Callable[..., dict[str, dict[str, float]]]
GOOD = ((-1.0, -2.0, -3.0), (-1.5, -2.5, -3.5))  # falls on both sides


def reasons(rows: list[Contrast], *filters: Any) -> list[str]:
    """Drop reasons, with a row that always passes filters without scores added, so that no warning is due."""
    return [row.drop_reason for row in quietly(rows, *filters).rows]


def quietly(rows: list[Contrast], *filters: Any) -> FilterReport:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SelfsteerWarning)
        return apply_filters(rows, list(filters))


# ------------------------------------------------------------------------------------------ filters without scores
@pytest.mark.parametrize("role", ROLES)
def test_empty(make_row: MakeRow, role: str) -> None:
    row = make_row(**{f"{role}_response": " \n"})
    assert reasons([row, make_row()]) == [f"empty: no text in the {role} response", ""]


def test_empty_names_every_empty_response(make_row: MakeRow) -> None:
    row = make_row(positive_response="", original_response="")
    assert reasons([row]) == ["empty: no text in the positive response and the original response"]


def test_a_yo_that_was_not_sampled_passes_every_filter(make_row: MakeRow) -> None:
    """A generator answers under x+ and x- alone."""
    rows = [make_row(id, query=f"Name {id}?", original_response="", original_finish="absent") for id in ("a", "b")]
    rows[1] = dataclasses.replace(rows[1], positive_response="Bern.", negative_response="It is, after all, Bern.")
    rows = [put_margin(row, 1.0, "key") for row in rows]
    unscored = [name for name, kind in FILTERS.items() if not kind.scored and name not in ("direction", "empty")]
    assert {"identical", "refusal_mismatch", "duplicates", "language_mismatch", "repetition"} < set(unscored)
    filters = [name for name in unscored if not name.startswith("length")]  # those are about y+ and y- alone
    assert reasons(rows, *filters) == ["", ""]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"positive_response": "a  b", "negative_response": " a\nb"}, "y+ equals y-"),
        ({"positive_response": "a b", "original_response": "a b "}, "y+ equals yo"),
        ({"negative_response": "a b", "original_response": "a b"}, "y- equals yo"),
        ({"positive_response": "a b", "original_response": "A b"}, ""),
    ],
)
def test_identical(make_row: MakeRow, changes: dict[str, str], why: str) -> None:
    assert reasons([make_row(**changes)], "identical") == [f"identical: {why}" if why else ""]


def test_direction(make_row: MakeRow) -> None:
    rows = [
        make_row(positive_response="one two three", negative_response="one two three four"),
        make_row(positive_response="one two three four", negative_response="one two three"),
        make_row(positive_response="a b", negative_response="c d"),
    ]
    assert reasons(rows, {"direction": {"program": "shorter"}}) == [
        "",
        "direction: not shorter: y+ has length 4, y- 3",
        "direction: not shorter: y+ has length 2, y- 2 (a tie, or cut off)",
    ]
    longer = reasons(rows, {"direction": {"program": "longer"}})
    assert [bool(why) for why in longer] == [True, False, True]


def test_direction_min_ratio(make_row: MakeRow) -> None:
    row = make_row(positive_response=" ".join("a" * 9), negative_response=" ".join("a" * 10))
    assert reasons([row], {"direction": {"program": "shorter", "min_ratio": 0.9}}) == [""]
    assert reasons([row], {"direction": {"program": "shorter", "min_ratio": 0.89}}) == [
        "direction: shorter by too little (direction.min_ratio 0.89): y+ has length 9, y- 10"
    ]


def test_truncated(make_row: MakeRow) -> None:
    row = make_row(positive_finish="length", original_finish="length")
    assert reasons([row], "truncated") == ["truncated: y+ and yo ran into the length limit"]
    assert reasons([row], {"truncated": {"roles": ["negative"]}}) == [""]


@pytest.mark.parametrize("unit", ["哈", "我不知道这个问题的答案", "! "])
def test_loops_without_words_are_seen_by_their_characters(make_row: MakeRow, unit: str) -> None:
    row = make_row(negative_response=unit * 100)
    (why,) = reasons([row], "repetition")
    assert why.endswith("% of the runs of 12 characters of y- are repeats")
    prose = (
        "北京是中国的首都，也是全国的政治、文化和国际交往中心。这座城市有三千多年的历史，保存着许多著名的古迹，例如故宫、"
        "天坛和长城。每年春秋两季，来自世界各地的游客都会前来参观，并品尝当地的烤鸭与各种小吃。"
    )
    assert reasons([make_row(negative_response=prose)], "repetition") == [""]


def test_repetition(make_row: MakeRow) -> None:
    # 5 words 4 times: 20 words, 17 4-grams, 5 distinct: 12 / 17 = 71 % are repeats
    loop = make_row(negative_response="the cat sat down and " * 4)
    assert reasons([loop], "repetition") == ["repetition: 71% of the 4-grams of y- are repeats"]
    assert reasons([loop], {"repetition": {"max_share": 0.71}}) == [""]
    assert reasons([loop], {"repetition": {"min_ngrams": 18}}) == [""]
    assert reasons([loop], {"repetition": {"roles": ["positive"]}}) == [""]
    assert reasons([make_row()], "repetition") == [""]


def test_length_ratio(make_row: MakeRow) -> None:
    row = make_row(positive_response="a", negative_response="a b c d e")
    assert reasons([row], "length_ratio") == ["length_ratio: y+ has length 1, y- 5 (length_ratio.max_ratio 4)"]
    assert reasons([row], {"length_ratio": {"max_ratio": 5}}) == [""]
    swapped = make_row(positive_response="a b c d e", negative_response="a")
    assert reasons([swapped], "length_ratio") != [""]


# ---------------------------------------------------------------------------------------------------- filters on scores
def test_preference_order_passes_falling_scores(make_row: MakeRow, scores: Scores) -> None:
    assert reasons([make_row(scores=scores(*GOOD))], "preference_order") == [""]


@pytest.mark.parametrize(
    ("positive", "negative", "why"),
    [
        ((-2.0, -1.0, -3.0), GOOD[1], "m(y+|x+) = -2 is not above m(y+|x) = -1"),
        ((-1.0, -3.0, -2.0), GOOD[1], "m(y+|x) = -3 is not above m(y+|x-) = -2"),
        (GOOD[0], (-2.5, -1.5, -3.5), "m(y-|x-) = -2.5 is not above m(y-|x) = -1.5"),
        (GOOD[0], (-1.5, -3.5, -2.5), "m(y-|x) = -3.5 is not above m(y-|x+) = -2.5"),
        ((-1.0, -1.0, -3.0), GOOD[1], "m(y+|x+) = -1 is not above m(y+|x) = -1"),
    ],
)
def test_preference_order_fails(make_row: MakeRow, scores: Scores, positive: Any, negative: Any, why: str) -> None:
    assert reasons([make_row(scores=scores(positive, negative))], "preference_order") == [f"preference_order: {why}"]


def test_near_onpolicy_keeps_rows_at_or_above_both_averages(make_row: MakeRow, scores: Scores) -> None:
    plain = [(-1.0, -1.0), (-2.0, -2.0), (-3.0, -1.0), (-2.0, -4.0)]  # averages -2 and -2
    rows = [make_row(scores=scores((-0.5, up, -9), (-0.5, down, -9))) for up, down in plain]
    report = quietly(rows, "near_onpolicy")
    assert [row.drop_reason for row in report.rows] == [
        "",
        "",
        "near_onpolicy: m(y+|x) = -3 is below the average -2",
        "near_onpolicy: m(y-|x) = -4 is below the average -2",
    ]
    assert report.thresholds == {"near_onpolicy.positive_response": -2.0, "near_onpolicy.negative_response": -2.0}


def test_near_onpolicy_keeps_rows_that_are_all_alike(make_row: MakeRow, scores: Scores) -> None:
    """A rounded mean may lie above every value: sum([0.1] * 3) / 3 > 0.1."""
    assert sum([0.1] * 3) / 3 > 0.1
    rows = [make_row(scores=scores((0, 0.1, -9), (0, 0.1, -9)))] * 3
    assert reasons(rows, "near_onpolicy") == ["", "", ""]


def test_steering_gap_must_exceed_both_averages(make_row: MakeRow, scores: Scores) -> None:
    gaps = [(4.0, 4.0), (2.0, 4.0), (3.0, 1.0), (3.5, 3.5), (2.5, 2.5)]  # averages 3 and 3
    rows = [make_row(scores=scores((0.0, -1.0, -up), (0.0, -1.0, -down))) for up, down in gaps]
    report = quietly(rows, "steering_gap")
    assert [row.drop_reason for row in report.rows] == [
        "",
        "steering_gap: the gap of y+, 2, does not exceed the average 3",
        "steering_gap: the gap of y+, 3, does not exceed the average 3",
        "",
        "steering_gap: the gap of y+, 2.5, does not exceed the average 3",
    ]
    assert report.thresholds == {"steering_gap.positive_response": 3.0, "steering_gap.negative_response": 3.0}


def test_averages_are_over_rows_still_kept(make_row: MakeRow, scores: Scores) -> None:
    """The badly ordered row would pull the average to -34; without it, it is -2."""
    rows = [make_row(scores=scores((-0.5, m, -200), (-0.5, m, -200))) for m in (-1.0, -3.0)]
    rows.append(make_row(scores=scores((-99.0, -98.0, -99.0), (-99.0, -98.0, -99.0))))
    report = quietly(rows, "preference_order", "near_onpolicy")
    assert report.thresholds["near_onpolicy.positive_response"] == -2.0
    assert report.counts == {"empty": 0, "preference_order": 1, "near_onpolicy": 1, "kept": 1}


@pytest.mark.parametrize("name", ["near_onpolicy", "steering_gap"])
def test_one_threshold_for_both_responses(make_row: MakeRow, scores: Scores, name: str) -> None:
    rows = [
        make_row(scores=scores((0.0, up, up - 1), (0.0, down, down - 1))) for up, down in ((1, 1), (1, -1), (-1, 1))
    ]
    same = {"thresholds": {"positive_response": 0.5, "negative_response": 0.5}}
    found = quietly(rows, {name: {"min": 0.5}})
    assert found == quietly(rows, {name: same}) and found.thresholds[f"{name}.negative_response"] == 0.5
    chain = FilterChain([{name: {"min": 0.5}}])  # no other row matters, so nothing has to be fitted
    assert [chain.apply(row) for row in rows] == found.rows
    with pytest.raises(ConfigError, match="thresholds or min, not both"):
        parse_filters([{name: {"min": 0.5, **same}}])


def test_with_a_least_gap_of_0_a_response_has_to_be_likelier_under_its_own_principle(
    make_row: MakeRow, scores: Scores
) -> None:
    """m(y+) under (x, x+, x-), then m(y-) under (x, x-, x+): the plain prompt says nothing."""
    cells = [
        ((-9.0, -1.0, -2.0), (-9.0, -1.0, -2.0)),
        ((-1.0, -2.0, -2.0), (-1.0, -1.0, -2.0)),
        ((-1.0, -1.0, -2.0), (-1.0, -2.0, -1.5)),
    ]
    rows = [make_row(scores=scores((own, plain, other), (own2, plain2, other2)))
            for (plain, own, other), (plain2, own2, other2) in cells]  # fmt: skip
    assert reasons(rows, {"steering_gap": {"min": 0}}) == [
        "",
        "steering_gap: the gap of y+, 0, does not exceed the given threshold 0",
        "steering_gap: the gap of y-, -0.5, does not exceed the given threshold 0",
    ]


# ----------------------------------------------------------------------------------------------------- small sets
PAPER = ["identical", "leak", "preference_order", "near_onpolicy", "steering_gap"]
_WORDS = ("river garden teacher window history market engine language winter harbour kitchen forest mountain letter "
          "doctor railway painter orchestra library carpenter").split()  # fmt: skip


def follows(make_row: MakeRow, scores: Scores, count: int, pull: float, seed: int) -> list[Contrast]:
    """Rows of a model that follows its principles: a response is likelier under its own principle than under none, and
    than under the opposite, by ``pull`` nats per token on average, with deviations of 0.1 from row to row.
    """
    source = random.Random(seed)

    def cells() -> tuple[float, float, float]:
        plain = source.gauss(-0.9, 0.25)
        return plain + source.gauss(pull, 0.1), plain, plain - source.gauss(pull, 0.1)

    rows = []
    for number in range(count):
        one, other, third = source.sample(_WORDS, 3)
        query = f"Question {number}: what does the {one} have to do with the {other} and with the {third}?"
        texts = {
            "positive_response": f"The {one} and the {other} are both parts of the answer to question {number}.",
            "negative_response": f"There is so much that could be said about the {third}, and about number {number}.",
            "original_response": f"In question {number} the {third} stands for the {one} that people remember.",
        }
        prompt = [{"role": "user", "content": query}]
        rows.append(make_row(f"r{number}", prompt=prompt, scores=scores(cells(), cells()), **texts))
    return rows


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("count", [20, 200])
def test_the_default_filters_keep_a_third_of_a_small_set(
    make_row: MakeRow, scores: Scores, count: int, seed: int
) -> None:
    rows = follows(make_row, scores, count, 0.08, seed)
    report = quietly(rows, *QualitySettings().filters)
    assert len(report.kept) > count / 3, report.counts
    assert few_kept(report.counts) == ""
    paper = quietly(rows, *PAPER)
    assert len(paper.kept) < 0.15 * count, "the averages of the paper's leave a few rows of a hundred"
    assert few_kept(paper.counts)


def test_the_default_filters_drop_rows_that_the_principles_pulled_the_wrong_way(
    make_row: MakeRow, scores: Scores
) -> None:
    report = quietly(follows(make_row, scores, 200, -0.2, 0), *QualitySettings().filters)
    assert report.counts["steering_gap"] > 190


@pytest.mark.parametrize("name", ["preference_order", "near_onpolicy", "steering_gap"])
def test_missing_scores_are_refused(make_row: MakeRow, scores: Scores, name: str) -> None:
    holes = scores(*GOOD)
    del holes["negative_response"]
    nan = scores((-1.0, float("nan"), float("nan")), GOOD[1])
    for bad in (None, holes, nan, {"positive_response": None}):
        with pytest.raises(
            InputError, match=f"(?s)filter '{name}' needs log-probs.*row 'r1'.*score the rows first"
        ) as caught:
            apply_filters([make_row(scores=bad)], [name])
        assert not isinstance(caught.value, ConfigError)


def test_a_dropped_row_needs_no_scores(make_row: MakeRow, scores: Scores) -> None:
    rows = [make_row(positive_response=""), make_row(scores=scores(*GOOD))]
    assert apply_filters(rows, ["preference_order"]).counts == {"empty": 1, "preference_order": 0, "kept": 1}


def test_steering_margin(make_row: MakeRow, scores: Scores) -> None:
    assert steering_margin(make_row(scores=scores((-1.0, -2.0, -4.0), (-1.5, -2.5, -2.0)))) == 3.0 + 0.5
    assert steering_margin(make_row()) is None
    assert steering_margin(make_row(scores={"positive_response": scores(*GOOD)["positive_response"]})) is None


# ----------------------------------------------------------------------------------------------------------- parsing
def test_every_filter_parses_and_bears_its_name() -> None:
    for name, kind in FILTERS.items():
        given = {"program": "shorter"} if name == "direction" else {}
        assert parse_filters([{name: given}])[-1].name == name == kind.name
        assert kind.relax


def test_empty_comes_first_and_once() -> None:
    assert [step.name for step in parse_filters([])] == ["empty"]
    assert [step.name for step in parse_filters(["identical", "empty"])] == ["empty", "identical"]
    assert [step.name for step in parse_filters(parse_filters(["identical"]))] == ["empty", "identical"]


def test_yaml_with_nothing_after_the_colon() -> None:
    assert parse_filters([{"leak": None}]) == parse_filters(["leak"])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (["leek"], r"unknown filter 'leek'\n  where: filters\[0\]\n  do:    Did you mean 'leak'\? Available: d"),
        (["leak", {"identicle": {}}], r"filters\[1\]\n  do:    Did you mean 'identical'"),
        ([{"leak": {"ngrams": 5}}], r"no setting 'ngrams'\n  where: filters\[0\].leak.ngrams\n.*Did you mean 'ngram'"),
        ([{"identical": {"x": 1}}], "'identical' has no settings"),
        ([{"leak": {"ngram": 2}}], r"where: filters\[0\].leak.ngram"),
        ([{"leak": {"share": float("nan")}}], "leak.share"),
        ([{"truncated": {"roles": ["positiv"]}}], "'positive', 'negative' or 'original'"),
        ([{"truncated": {"roles": []}}], "truncated.roles"),
        (["direction"], r"Field required\n  where: filters\[0\].direction.program"),
        ([{"direction": {"program": "shoter"}}], "unknown direction program 'shoter'.*Did you mean 'shorter'"),
        ([{"direction": {"program": "shorter", "min_ratio": 0}}], "direction.min_ratio"),
        (["leak", "leak"], "named twice: leak"),
        ([{"leak": {}, "empty": {}}], "can't read the filter"),
        ([{"leak": 5}], "can't read the filter"),
        ([5], "can't read the filter"),
        ("leak", "must be a list"),
        ({"leak": {}}, "must be a list"),
    ],
)  # fmt: skip
def test_wrong_configurations_are_refused(spec: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        parse_filters(spec)


# ----------------------------------------------------------------------------------------------------------- applying
def test_rows_dropped_before_stay_as_they_are(make_row: MakeRow) -> None:
    before = dataclasses.replace(make_row(positive_response=""), kept=False, drop_reason="too long")
    report = apply_filters([before, make_row()], [])
    assert report.rows == [before, make_row()]
    assert report.counts == {"dropped_before": 1, "empty": 0, "kept": 1}
    assert report.kept == [make_row()]


def test_the_input_is_left_alone(make_row: MakeRow) -> None:
    rows = [make_row(positive_response=""), make_row()]
    report = apply_filters(rows, [])
    assert rows[0].kept and not report.rows[0].kept


def test_the_first_filter_that_fails_gives_the_reason(make_row: MakeRow) -> None:
    row = make_row(positive_response="a", negative_response="a", positive_finish="length")
    assert quietly([row], "truncated", "identical").counts == {"empty": 0, "truncated": 1, "identical": 0, "kept": 0}
    assert quietly([row], "identical", "truncated").counts == {"empty": 0, "identical": 1, "truncated": 0, "kept": 0}


def test_dropping_everything_warns(make_row: MakeRow) -> None:
    rows = [make_row(positive_finish="length")] * 2
    with pytest.warns(SelfsteerWarning, match="'truncated' dropped all 2 rows it was given; raise the limit") as caught:
        apply_filters(rows, ["truncated", "identical", "near_onpolicy"])
    assert len(caught) == 1  # the filters after it were given nothing


def test_no_rows_no_warning() -> None:
    assert apply_filters([], ["leak", "near_onpolicy"]) == FilterReport(
        [], {"empty": 0, "leak": 0, "near_onpolicy": 0, "kept": 0}, {}
    )


def test_advice() -> None:
    assert advice({"empty": 1, "direction": 7, "kept": 0}) == (
        "'direction' dropped most (7 of 8 rows): raise or remove direction.min_ratio, or take direction out"
    )
    assert "no row reached" in advice({"empty": 0, "kept": 0})
    assert "read their drop_reason" in advice({"dropped_before": 3, "empty": 0, "kept": 0})


@pytest.mark.parametrize("counts", [
    {"empty": 40, "kept": 10}, {"empty": 0, "kept": 1}, {"empty": 0, "kept": 0}, {},
    {"dropped_before": 900, "empty": 8, "kept": 2},
])  # fmt: skip
def test_a_fifth_of_the_rows_is_no_warning(counts: dict[str, int]) -> None:
    assert few_kept(counts) == ""


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"empty": 41, "kept": 10}, "only 10 of 51 rows (20%) are kept: 'empty' dropped most (41"),
        ({"leak": 1, "steering_gap": 8, "kept": 0}, "only 0 of 9 rows (0%) are kept: 'steering_gap' dropped most (8"),
        ({"dropped_before": 900, "leak": 9, "kept": 1}, "only 1 of 10 rows (10%) are kept: 'leak' dropped most (9"),
    ],
)  # fmt: skip
def test_fewer_are_told_with_what_to_relax(counts: dict[str, int], words: str) -> None:
    assert few_kept(counts).startswith(words)
    worst = words.partition(": '")[2].partition("'")[0]
    assert few_kept(counts).endswith(FILTERS[worst].relax)


TEXTS = st.sampled_from(
    ["", "Paris.", "It is Paris.", "Concise: Paris.", "the cat sat down and " * 4, "a b c d e f g h i"]
)
MEANS = st.tuples(*[st.floats(-9, 0)] * 3)
CHOICES: list[Any] = ["identical", "leak", "truncated", "repetition", "length_ratio", "preference_order"]
CHOICES += ["near_onpolicy", "steering_gap", {"direction": {"program": "shorter"}}]


@st.composite
def drawn_rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    one = st.fixed_dictionaries(
        {f"{role}_response": TEXTS for role in ROLES}
        | {f"{role}_finish": st.sampled_from(["stop", "length"]) for role in ROLES}
        | {"kept": st.booleans(), "means": st.tuples(MEANS, MEANS)}
    )
    return draw(st.lists(one, max_size=8))


@settings(max_examples=150, deadline=None)
@given(drawn=drawn_rows(), chosen=st.lists(st.sampled_from(CHOICES), unique_by=str, max_size=5))
def test_order_number_and_sums(
    make_row: MakeRow, scores: Scores, drawn: list[dict[str, Any]], chosen: list[Any]
) -> None:
    rows = []
    for i, changes in enumerate(drawn):
        changes = dict(changes)
        rows.append(make_row(str(i), scores=scores(*changes.pop("means")), **changes))
    report = quietly(rows, *chosen)
    names = [step.name for step in parse_filters(chosen)]
    assert [row.id for row in report.rows] == [row.id for row in rows]
    assert sum(report.counts.values()) == len(rows)
    assert [name for name in report.counts if name not in ("kept", "dropped_before")] == names
    assert len(report.kept) == report.counts["kept"]
    for before, after in zip(rows, report.rows, strict=True):
        if before.kept and not after.kept:
            assert after.drop_reason.split(": ")[0] in names
            after = dataclasses.replace(after, kept=True, drop_reason="")
        assert after == before
    again = quietly(report.rows, *[name for name in chosen if name not in ("near_onpolicy", "steering_gap")])
    assert again.rows == report.rows  # filters that look at one row each drop nothing on a second pass
