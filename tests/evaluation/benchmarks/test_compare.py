"""Result files of several models: what is read, what is refused, and the differences on hand-worked scores."""

from __future__ import annotations

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selfsteer.confidence_intervals import resampled_statistic
from selfsteer.errors import ConfigError, DataError
from selfsteer.workflows.compare import compare_results, comparison_json
from tests.evaluation.benchmarks.result_files import benchmark, items, right_or_wrong, write_result

JUDGE = {"name": "a-judge", "key": "0123456789abcdef", "calibration": {"accuracy": 0.7}}


def gsm8k(scores, **options):
    return benchmark(items(scores, "flexible_extract"), **options)


def of(tmp_path, *models, names="abcdefg"):
    """Compare models, each its benchmarks by name."""
    return compare_results(
        [write_result(tmp_path / f"{name}.json", name, one) for name, one in zip(names, models, strict=False)]
    )


def change_of(comparison, name="gsm8k", metric=None, place=1):
    own = next(one for one in comparison.benchmarks if one.name == name)
    return own.metrics[metric or next(iter(own.metrics))][place].change


def test_a_result_against_itself_differs_by_exactly_nothing(tmp_path):
    rows = items(right_or_wrong(150, 0.4, 0), "acc", subset=lambda item: f"s{int(item[1:]) % 3}")
    ratings = {f"{question}:{turn}": 1.0 + (question * turn) % 9 for question in range(40) for turn in (1, 2)}
    mt_bench = benchmark(items(ratings, "rating", cluster=lambda item: item.partition(":")[0]), scale=1, judge=JUDGE)
    both = {"mmlu": benchmark(rows), "mt_bench": mt_bench}
    comparison = of(tmp_path, both, both)
    for name in both:
        change = change_of(comparison, name)
        assert (change.value, change.low, change.high, change.error, change.p) == (0.0, 0.0, 0.0, 0.0, 1.0)
        assert change.holm == 1.0 and change.smallest is None and not change.why
    assert change_of(comparison, "mmlu").mcnemar == 1.0 and change_of(comparison, "mt_bench").mcnemar is None
    assert (change_of(comparison, "mt_bench").n, change_of(comparison, "mt_bench").clusters) == (80, 40)


def test_right_and_wrong_answers_are_paired_and_in_percent(tmp_path):
    first = {f"q{place}": float(place < 40) for place in range(100)}
    second = {f"q{place}": float(5 <= place < 60) for place in range(100)}  # 20 better, 5 worse
    comparison = of(tmp_path, {"gsm8k": gsm8k(first)}, {"gsm8k": gsm8k(second)})
    change = change_of(comparison)
    error = 100 * math.sqrt((25 - 15**2 / 100) / 100 / 100)
    assert change.value == pytest.approx(15) and change.error == pytest.approx(error, rel=0.03)
    assert change.low < 15 < change.high and change.p < 0.01
    assert change.mcnemar == pytest.approx(0.00408, abs=1e-5)  # R: binom.test(5, 25)$p.value
    assert change.holm == change.mcnemar and change.smallest == pytest.approx(2.8016 * change.error, rel=1e-4)


def test_the_order_of_rows_and_files_changes_nothing(tmp_path):
    first, second = right_or_wrong(60, 0.3, 0), right_or_wrong(60, 0.5, 1)
    here = of(tmp_path, {"gsm8k": gsm8k(first)}, {"gsm8k": gsm8k(second)})
    shuffled = dict(sorted(second.items(), reverse=True))
    there = of(tmp_path / "other", {"gsm8k": gsm8k(first)}, {"gsm8k": gsm8k(shuffled)})
    assert change_of(here) == change_of(there)


def test_items_of_only_one_model_are_counted_named_and_left_out(tmp_path):
    first = right_or_wrong(50, 0.4, 0)
    second = {item: score for item, score in right_or_wrong(53, 0.6, 1).items() if item != "q7"} | {"q8": None}
    comparison = of(tmp_path, {"gsm8k": gsm8k(first)}, {"gsm8k": gsm8k(second)})
    change = change_of(comparison)
    assert change.only_first == ["q7", "q8"] and change.only_this == ["q50", "q51", "q52"] and change.n == 48
    common = [item for item in first if item not in ("q7", "q8")]
    assert change.value == pytest.approx(100 * np.mean([second[item] - first[item] for item in common]))
    standing = comparison.benchmarks[0].models[1]
    assert standing.incomplete and (standing.scored, standing.expected) == (51, 52)


def test_disjoint_samples_have_no_difference(tmp_path):
    second = {f"other {item}": score for item, score in right_or_wrong(50, 0.6, 1).items()}
    change = change_of(of(tmp_path, {"gsm8k": gsm8k(right_or_wrong(50, 0.4, 0))}, {"gsm8k": gsm8k(second)}))
    assert (change.n, change.value, change.low, change.p) == (0, None, None, None)
    assert change.why == "no item has a score of both"


def test_questions_count_by_each_models_own_weights(tmp_path):
    """Arena-Hard: a verdict of "much better" counts as three games."""

    def arena(scores, weights):
        rows = items(scores, "score", weight=lambda item: weights[item])
        return {"arena_hard_v0.1": benchmark(rows, judge=JUDGE)}

    scores = {"a": 1.0, "b": 0.0, "c": 0.5}
    heavy, light = {"a": 6.0, "b": 2.0, "c": 2.0}, dict.fromkeys(scores, 2.0)
    change = change_of(of(tmp_path, arena(scores, light), arena(scores, heavy)), "arena_hard_v0.1")
    assert change.value == pytest.approx(100 * (7 / 10 - 3 / 6)) and change.mcnemar is None


def test_differences_of_fitted_metrics_are_those_of_their_resamples(tmp_path):
    wins = np.random.default_rng(0).random((2, 40))
    names = [f"i{place}" for place in range(40)]

    def alpaca(own, drop=0):
        rows = items(dict(zip(names[drop:], own[drop:].tolist(), strict=True)), "win_rate")
        values = resampled_statistic(lambda picks: 100 * np.median(own[picks]), 40, 1000)
        one = benchmark(rows, judge=JUDGE, details={"resampled": {"length_controlled": values.tolist()}})
        median = {"value": float(100 * np.median(own)), "low": None, "high": None, "error": None}
        return {"alpaca_eval": one | {"metrics": {"length_controlled": median, **one["metrics"]}}}

    comparison = of(tmp_path, alpaca(wins[0]), alpaca(wins[1]), alpaca(wins[0]), alpaca(wins[1], drop=1))
    change = change_of(comparison, "alpaca_eval")
    assert change.value == pytest.approx(100 * (np.median(wins[1]) - np.median(wins[0]))) and change.n == 40
    paired = resampled_statistic(lambda picks: 100 * (np.median(wins[1][picks]) - np.median(wins[0][picks])), 40, 1000)
    assert change.error == pytest.approx(paired.std(ddof=1)) and change.low < change.value < change.high
    same = change_of(comparison, "alpaca_eval", place=2)
    assert (same.value, same.low, same.high, same.p) == (0.0, 0.0, 0.0, 1.0)
    other = change_of(comparison, "alpaca_eval", place=3)
    assert other.low is None and "other items" in other.why and other.only_first == ["i0"]


def test_a_figure_that_is_no_mean_of_its_items_has_no_interval(tmp_path):
    one = gsm8k(right_or_wrong(50, 0.4, 0))
    other = gsm8k(right_or_wrong(50, 0.6, 1))
    for own in (one, other):
        own["metrics"]["flexible_extract"]["value"] += 1
        own["metrics"]["numeric"] = {"value": 50.0}
    comparison = of(tmp_path, {"gsm8k": one}, {"gsm8k": other})
    change = change_of(comparison)
    assert (
        change.value == pytest.approx(20) and change.low is None and change.why == "it is no mean of the items' scores"
    )
    assert change_of(comparison, metric="numeric").why == "the files hold no scores of single items"


def test_subjects_are_strata_where_each_has_enough_questions(tmp_path):
    def exam(seed, size):
        rng = np.random.default_rng(seed)
        scores = {f"{subject}-{place}": float(rng.random() < 0.2 + 0.3 * seed * subject) for subject in (0, 1)
                  for place in range(size)}  # fmt: skip
        return {"mmlu": benchmark(items(scores, "acc", subset=lambda item: item[0]))}

    large = change_of(of(tmp_path / "large", exam(0, 400), exam(1, 400)), "mmlu")
    rows = [exam(seed, 400)["mmlu"]["rows"] for seed in (0, 1)]
    gains = np.array([two["score"] - one["score"] for one, two in zip(*rows, strict=True)]).reshape(2, 400)
    within = 100 * math.sqrt(gains.var(axis=1).sum() / 400) / 2
    assert large.error == pytest.approx(within, rel=0.02) and large.error < 0.99 * 100 * gains.std() / math.sqrt(800)
    small = change_of(of(tmp_path / "small", exam(0, 10), exam(1, 10)), "mmlu")
    rows = [exam(seed, 10)["mmlu"]["rows"] for seed in (0, 1)]
    gains = np.array([two["score"] - one["score"] for one, two in zip(*rows, strict=True)])
    assert small.error == pytest.approx(100 * gains.std() / math.sqrt(20), rel=0.03)


def test_holm_adjusts_the_official_metrics_of_the_benchmarks(tmp_path):
    def model(seed):
        rows = items(right_or_wrong(200, 0.3 + 0.1 * seed, seed), "flexible_extract")
        rows += items(right_or_wrong(200, 0.3 + 0.1 * seed, seed), "numeric")
        mmlu = benchmark(items(right_or_wrong(200, 0.5 + 0.05 * seed, seed), "acc"))
        return {"gsm8k": benchmark(rows), "mmlu": mmlu}

    comparison = of(tmp_path, model(0), model(1))
    two = {name: change_of(comparison, name) for name in ("gsm8k", "mmlu")}
    low, high = sorted(two.values(), key=lambda change: change.mcnemar)
    assert low.holm == pytest.approx(2 * low.mcnemar) and high.holm == max(low.holm, high.mcnemar)
    assert change_of(comparison, metric="numeric").holm is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": {"test": "cd" * 32}}, "gsm8k: the data files 'test' of a and b differ (sha256 abababababab, cdcd"),
        ({"data": {}}, "gsm8k: the data files 'test' of a and b differ (sha256 abababababab, none)"),
        ({"protocol": "another"}, "gsm8k: the protocols of a and b differ ('a protocol', 'another')"),
        ({"versions": {"task": "4"}}, "gsm8k: the versions of the task of a and b differ (3, 4)"),
        ({"judge": JUDGE}, "gsm8k: the judges of a and b differ (none, a-judge, key 0123456789ab)"),
        ({"sampling": {"max_new_tokens": 16}}, "gsm8k: the answers of a and b were drawn differently"),
    ],
)  # fmt: skip
def test_results_that_were_made_differently_are_refused(tmp_path, change, said):
    scores = right_or_wrong(20, 0.5, 0)
    with pytest.raises(DataError) as raised:
        of(tmp_path, {"gsm8k": gsm8k(scores)}, {"gsm8k": gsm8k(scores, **change)})
    assert said in raised.value.what and raised.value.exit_code == 2


def test_a_judges_calibration_and_optional_data_may_differ(tmp_path):
    scores = right_or_wrong(20, 0.5, 0)
    one = gsm8k(scores, judge=JUDGE)
    other = gsm8k(scores, judge=JUDGE | {"calibration": None}, data={"test": "ab" * 32, "train": "ef" * 32})
    assert change_of(of(tmp_path, {"gsm8k": one}, {"gsm8k": other})).value == 0


def test_benchmarks_of_only_one_model_have_a_figure_and_no_difference(tmp_path):
    scores = right_or_wrong(20, 0.5, 0)
    mmlu = benchmark(items(scores, "acc"))
    comparison = of(tmp_path, {"gsm8k": gsm8k(scores)}, {"mmlu": mmlu, "gsm8k": gsm8k(scores)})
    own = comparison.benchmarks[1]
    assert own.name == "mmlu" and own.models[0] is None and own.metrics["acc"][0] is None
    assert own.metrics["acc"][1].change is None
    json.dumps(comparison_json(comparison), allow_nan=False)


def test_folders_and_several_files_of_a_model(tmp_path):
    scores = right_or_wrong(20, 0.5, 0)
    results = tmp_path / "out" / "results"
    write_result(results / "a-gsm8k.json", "a", {"gsm8k": gsm8k(scores)})
    write_result(results / "a-mmlu.json", "a", {"mmlu": benchmark(items(scores, "acc"))})
    write_result(results / "b.json", "b", {"gsm8k": gsm8k(scores)})
    comparison = compare_results([tmp_path / "out"])
    assert comparison.models == ["a", "b"] and [one.name for one in comparison.benchmarks] == ["gsm8k", "mmlu"]
    again = write_result(tmp_path / "again.json", "a", {"gsm8k": gsm8k(scores)})
    models = compare_results([results / "a-gsm8k.json", again]).models
    assert models == [f"a ({results / 'a-gsm8k.json'})", f"a ({again})"], "the same benchmark twice: two results"
    assert compare_results(sorted(results.iterdir())) == comparison, (
        "a shell's results/* has the item scores among them"
    )
    assert [one.name for one in compare_results([results], "mmlu").benchmarks] == ["mmlu"]
    with pytest.raises(DataError, match="no result has math500"):
        compare_results([results], "math500")
    with pytest.raises(ConfigError, match="no benchmark or suite is named 'gsm9k'"):
        compare_results([results], "gsm9k")
    with pytest.raises(ConfigError, match="only one model to compare: a"):
        compare_results([results / "a-gsm8k.json", results / "a-mmlu.json"])


def damage(file, kind):
    parquet = file.with_suffix(".parquet")
    stored = json.loads(file.read_text())
    own = stored["benchmarks"]["gsm8k"]
    rows = pq.read_table(parquet)
    if kind == "absent":
        file.unlink()
    elif kind == "torn":
        file.write_text(file.read_text()[:-9])
    elif kind == "a list":
        file.write_text("[]")
    elif kind == "another JSON":
        file.write_text('{"judges": []}')
    elif kind == "newer":
        file.write_text(json.dumps(stored | {"schema_version": 2}))
    elif kind == "no number":
        own["metrics"]["flexible_extract"]["value"] = "high"
        file.write_text(json.dumps(stored))
    elif kind == "no items":
        parquet.unlink()
    elif kind == "torn items":
        parquet.write_bytes(parquet.read_bytes()[:-30])
    elif kind == "other items":
        pq.write_table(pa.table({"x": [1]}), parquet)
    elif kind == "twice":
        pq.write_table(pa.concat_tables([rows, rows[:1]]), parquet)
    elif kind == "of another benchmark":
        pq.write_table(
            rows.set_column(rows.column_names.index("benchmark"), "benchmark", pa.array(["x"] * len(rows))), parquet
        )
    elif kind == "text for a score":
        pq.write_table(rows.set_column(rows.column_names.index("score"), "score", pa.array(["x"] * len(rows))), parquet)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("absent", "there is no such file or folder"),
        ("torn", "the file is not valid JSON"),
        ("a list", "no result of `selfsteer evaluate model`"),
        ("another JSON", "no result of `selfsteer evaluate model`: schema_version: Field required"),
        ("newer", "newer version of selfsteer"),
        ("no number", "benchmarks.gsm8k.metrics.flexible_extract.value: Input should be a valid number"),
        ("no items", "the item scores beside the result are missing"),
        ("torn items", "can't read the item scores"),
        ("other items", "the item scores lack benchmark"),
        ("twice", "gsm8k has item q0 twice"),
        ("of another benchmark", "the item scores of gsm8k are missing"),
        ("text for a score", "the item scores hold no numbers"),
    ],
)
def test_a_file_that_is_no_result_is_said_to_be_none(tmp_path, kind, said):
    files = [
        write_result(tmp_path / f"{name}.json", name, {"gsm8k": gsm8k(right_or_wrong(20, 0.5, 0))}) for name in "ab"
    ]
    damage(files[1], kind)
    with pytest.raises(DataError) as raised:
        compare_results(files)
    assert said in raised.value.what and str(files[1].with_suffix("")) in raised.value.where and raised.value.do


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(DataError, match="there is no result in the folder"):
        compare_results([tmp_path])
