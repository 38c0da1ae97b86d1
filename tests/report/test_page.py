"""The page as a whole: what stands on it, what is left out and why, and that it needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from selfsteer.errors import InputError, StorageError
from selfsteer.report import write_report
from tests.report.example import data_only_summary, full_summary, metrics_lines, recipe_text, write_full_run, write_run
from tests.report.reading import Page, read_report

_FIGURES = {
    *("length-plain", "length-roles", "logps-positive", "logps-original", "logps-negative"),
    *("loss", "weight", "grad-norm", "rewards-base", "rewards-positive", "rewards-negative", "quality-1"),
}


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return read_report(write_full_run(tmp_path_factory.mktemp("runs") / "full"))


@pytest.fixture(scope="module")
def data_only(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return read_report(write_run(tmp_path_factory.mktemp("runs") / "data", data_only_summary(), None, recipe_text()))


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return read_report(write_full_run(tmp_path_factory.mktemp("runs") / "three", rounds=3))


def _figures(page: Page) -> set[str]:
    return {svg.attributes["aria-labelledby"].removesuffix("-title") for svg in page.find("svg")}


def test_full_run_has_every_section_and_figure(full: Page) -> None:
    headings = [element.text.strip() for element in full.find("h2")]
    assert headings == ["Verdict", "Before and after", "Answers", "Training", "Data", "Samples", "Reproduce"]
    assert _figures(full) == _FIGURES
    assert not [element for element in full.find("p") if element.attributes.get("class") == "missing"]
    assert len(full.find("article", **{"class": "sample"})) == 3


def test_numbers_of_the_summary_stand_in_the_table(full: Page) -> None:
    summary = full_summary()
    before, after = (policy["length"]["original"]["mean_tokens"] for policy in summary["policies"])
    for text in (f"{before:.1f}", f"{after:.1f}", f"−{before - after:.1f}", "62\u202f%", "+19\u202fpoints"):
        assert re.search(rf'<span class="value">{re.escape(text)}</span>', full.source), text
    assert "38 to 81\u202f%" in full.text
    assert "10\u00a0right, 3\u00a0tied, 3\u00a0wrong" in full.text
    assert "It shows only that the prompts matter; it's never accuracy." in full.text


def test_verdict_is_a_word_and_a_symbol(full: Page) -> None:
    kinds = [element.attributes["class"] for element in full.find("li") if "class" in element.attributes]
    assert kinds == ["verdict yes", "verdict unclear", "verdict yes", "verdict no"]
    for symbol, answer in (("✓", "yes"), ("?", "unclear"), ("✗", "no")):
        assert f'<span aria-hidden="true">{symbol}</span> {answer}</span>' in full.source


def test_implicit_reward_before_training_is_not_measured(full: Page) -> None:
    row = full.source.split("Implicit-reward accuracy (per token)")[1].split("</tr>")[0]
    assert row.count("not measured") == 2  # before, and the difference
    assert ">70\u202f%<" in row


def test_data_only_run_says_why_training_is_left_out(data_only: Page) -> None:
    assert "This run made the data only: nothing was trained." in data_only.text
    assert "Nothing was trained in this run." not in data_only.text  # said once, above
    assert not data_only.find("section", id="training")
    assert "not measured" not in data_only.text
    assert "Not measured in this run: Implicit-reward accuracy, Implicit-reward margin." in data_only.text
    assert _figures(data_only) == {name for name in _FIGURES if name.startswith(("length", "logps", "quality"))}
    assert "Difference" not in data_only.text
    assert not data_only.find("section", **{"class": "side after"})


def test_three_rounds_have_a_column_and_a_panel_each(three: Page) -> None:
    columns = [element.text.strip() for element in three.find("th", role="columnheader")]
    labels = ["before", "after round 1", "after round 2", "after round 3"]
    assert columns == ["Metric", *labels, "Difference, last − first"]
    assert {"quality-1", "quality-2", "quality-3"} <= _figures(three)
    assert "Dotted lines mark where a round begins" in three.text
    assert "in 3 rounds" in three.text


def test_what_was_kept_is_shown_by_aspect_and_flags_of_harm_are_counted(tmp_path: Path) -> None:
    summary = full_summary()
    quality = summary["rounds"][0]["quality"]
    quality["aspects"] = {
        "Safety": {"empty": 0, "identical": 1, "leak": 0, "direction": 7, "kept": 12},
        "Pace": {"identical": 0, "direction": 5, "kept": 14},
    }
    quality["harmful"] = {"classifier": 3, "principle": 20, "unknown": 2}
    quality["few_kept"] = "only 2 of 39 rows (5%) are kept: <b>leak</b>"
    summary["refiltered"] = ["round 1"]
    write_run(tmp_path, summary, metrics_lines(), recipe_text())
    page = read_report(tmp_path)
    table = page.source.split("kept and dropped by aspect")[2].split("</table>")[0]
    assert re.findall(r'<th scope="col" dir="auto">(.*?)</th>', table) == [
        "Aspect", "Pairs", "Kept", "identical", "direction",
    ]  # fmt: skip
    assert re.findall(r'<td dir="auto">(.*?)</td>', table) == ["20", "12", "1", "7", "19", "14", "0", "5"]
    assert "y⁻ is flagged as harmful in 3 by classifier, 20 by principle" in page.text
    assert "Round 1: only 2 of 39 rows (5%) are kept: <b>leak</b>." in page.text
    assert "it is unknown whether y⁻ was asked to do harm in 2;" in page.text
    assert "The rows of round 1 were filtered again later" in page.text


@pytest.mark.parametrize("name", ["full", "data_only", "three"])
def test_page_is_well_formed_and_accessible(name: str, request: pytest.FixtureRequest) -> None:
    page: Page = request.getfixturevalue(name)
    assert page.unclosed() == []
    levels = [int(element.tag[1]) for element in page.elements if re.fullmatch("h[1-6]", element.tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert len(page.find("caption")) == len(page.find("table")) > 0
    assert all(element.attributes.get("scope") for element in page.find("th"))
    ids = [element.attributes["id"] for element in page.elements if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    for svg in page.find("svg"):
        assert {svg.attributes["aria-labelledby"], svg.attributes["aria-describedby"]} <= set(ids)
    inner = set(re.findall(r'(?:href="#|url\(#)([^")]+)', page.source))
    assert inner <= set(ids)


@pytest.mark.parametrize("name", ["full", "data_only", "three"])
def test_page_asks_the_network_for_nothing(name: str, request: pytest.FixtureRequest) -> None:
    page: Page = request.getfixturevalue(name)
    (policy,) = page.find("meta", **{"http-equiv": "Content-Security-Policy"})
    digest = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
    assert policy.attributes["content"] == (
        f"default-src 'none'; style-src-elem 'sha256-{digest}'; style-src-attr 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    assert "http:" not in page.source and "https:" not in page.source
    assert not re.search(r"@import|@font-face|url\((?!#)", page.source)
    assert page.tags().isdisjoint(
        {"script", "link", "img", "iframe", "object", "embed", "form", "base", "video", "audio"}
    )
    links = [
        element.attributes[key] for element in page.elements for key in ("href", "src") if key in element.attributes
    ]
    assert links and all(link.startswith("#") for link in links)


def test_same_input_same_bytes_whatever_the_matplotlib_settings(tmp_path: Path, full: Page) -> None:
    run_dir = write_full_run(tmp_path)
    assert write_report(run_dir).read_text() == full.source
    with matplotlib.rc_context({"svg.fonttype": "path", "font.size": 30, "axes.facecolor": "red"}):
        assert write_report(run_dir).read_text() == full.source
        assert matplotlib.rcParams["font.size"] == 30


def test_writes_only_the_report(tmp_path: Path) -> None:
    write_run(tmp_path, {"schema_version": 1}, None, None)
    assert write_report(tmp_path) == tmp_path / "report.html"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "summary.json"]


def test_missing_summary_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no summary") as caught:
        write_report(tmp_path)
    assert caught.value.where == str(tmp_path / "summary.json")
    assert "selfsteer run" in caught.value.do
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe", b""])
def test_damaged_summary(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "summary.json").write_bytes(content)
    with pytest.raises(StorageError, match="damaged"):
        write_report(tmp_path)


def test_summary_of_another_version(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(json.dumps({"schema_version": 2}))
    with pytest.raises(InputError, match="schema version 2"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("metrics", "sentence"),
    [
        (None, "the run directory has no metrics.jsonl"),
        ([], "metrics.jsonl holds no training step"),
        ([{"stage": "evaluate", "step": 1, "loss": 2.0}], "metrics.jsonl holds no training step"),
        ([{"stage": "train", "step": 1, "round": 1}], "The training log holds no step that could be drawn."),
    ],
)
def test_missing_training_log_says_why(tmp_path: Path, metrics: list[dict[str, Any]] | None, sentence: str) -> None:
    page = read_report(write_run(tmp_path, {**full_summary(), "policies": []}, metrics, None))
    assert sentence in page.text
    assert "the run directory has no recipe.yaml" in page.text
    assert "loss" not in _figures(page)


def test_torn_and_repeated_steps(tmp_path: Path) -> None:
    summary = {**full_summary(), "policies": []}
    run_dir = write_run(tmp_path, summary, [*metrics_lines(), {**metrics_lines()[-1], "weight": 0.5}], None)
    with (run_dir / "metrics.jsonl").open("a") as stream:
        stream.write('{"stage": "train", "step": 99, "los')
    page = read_report(run_dir)
    assert "0.500 at the last" in page.text  # the newer line of the repeated step; the torn one is passed over


def test_bare_summary_still_makes_a_page(tmp_path: Path) -> None:
    page = read_report(write_run(tmp_path, {"schema_version": 1}, None, None))
    for sentence in (
        "This run has no verdict.",
        "No policy was measured in this run.",
        "No response length was measured in this run.",
        "No log-probs were measured in this run.",
        "Nothing was trained in this run.",
        "Quality control recorded no counts for this run.",
        "No stage times were recorded.",
        "This run kept no samples.",
    ):
        assert sentence in page.text, sentence
    assert page.find("svg") == [] and page.unclosed() == []


def _blank(value: Any) -> Any:
    """Return ``value`` with every number null, as a run writes what it could not measure."""
    if isinstance(value, dict):
        return {
            key: _blank(item) if key not in ("round", "schema_version", "n") else item for key, item in value.items()
        }
    if isinstance(value, list):
        return [_blank(item) for item in value]
    return None if isinstance(value, int | float) and not isinstance(value, bool) else value


def test_nulls_never_turn_into_zeros(tmp_path: Path) -> None:
    page = read_report(write_run(tmp_path, _blank(full_summary()), metrics_lines(), None))
    assert page.find("span", **{"class": "value"}) == []
    assert "Answer length, mean" in page.text.split("Not measured in this run:")[1]
    data = page.source.split('id="data"')[1].split('id="samples"')[0]
    cells = set(re.findall(r"<td[^>]*>([^<]*)</td>", data))
    counted = {"1", "queries.jsonl:3", "empty query"}  # the one dropped query is listed, not measured
    assert cells == {"not measured", "not measured (reused)", *counted}


def test_nan_and_infinity_are_not_measured(tmp_path: Path) -> None:
    summary, lines = full_summary(), metrics_lines()
    length = summary["policies"][1]["length"]["original"]
    length["mean_tokens"], length["values"] = float("nan"), [float("nan")] * 16
    summary["policies"][1]["onpolicyness"]["mean"] = float("inf")
    lines[-1]["loss"] = float("nan")
    page = read_report(write_run(tmp_path, summary, lines, None))
    row = page.source.split("Answer length, mean")[1].split("</tr>")[0]
    assert row.count("not measured") == 2
    assert "after round 1 not measured (tokens on average)" in page.text
    assert "total: 5." in page.text and "not measured at the last" in page.text
    assert not re.search(r"\b(nan|inf)\b", page.source, re.IGNORECASE)


def test_many_queries_and_rounds(tmp_path: Path) -> None:
    summary = full_summary(rounds=6, queries=500)
    summary["rounds"][0]["queries"]["dropped"] *= 50
    path = write_report(write_run(tmp_path, summary, metrics_lines(6, 100), None))
    page = Page(path.read_text())
    assert path.stat().st_size < 4_000_000
    assert "Of 500 queries 200 or fewer are drawn; the means are over all." in page.text
    assert "35 more" in page.text


def test_rounds_are_told_side_by_side(three: Page) -> None:
    _, *rows = three.rows("What each round trained on")
    assert [row[0] for row in rows] == ["1", "2", "3"]
    for number, row in enumerate(rows, 1):
        assert row[1:6] == ["24 (62\u202f%)", "61.5", "101.2", "0.291", "0.382"]
        assert row[6] == f"{0.15 + number / 100:.3f}"


def test_a_generator_has_rows_of_its_own(tmp_path: Path) -> None:
    summary = full_summary()
    summary["mode"] = "generator"
    made = summary["rounds"][0]
    made["generator"] = {"quality": {"total": 8, "kept": 4}, "data": made["data"], "training": made["training"]}
    lines = metrics_lines()
    lines += [line | {"stage": "generator"} for line in lines]
    page = read_report(write_run(tmp_path / "run", summary, lines, recipe_text()))
    data = page.rows("What each round trained on")[1:]
    assert [row[:2] for row in data] == [["1, for the generator", "4 (50\u202f%)"], ["1", "24 (62\u202f%)"]]
    assert [row[0] for row in page.rows("What was trained")[1:]] == ["1, the generator", "1"]
    assert "a generator trained from the model wrote" in page.text
    assert "The generator's training: what each view has learned" in page.text
