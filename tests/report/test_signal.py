"""The section "Is the data right?": there when signal.json is, as text whatever it holds."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

from selfsteer.files import append_json
from tests.report.example import full_summary, metrics_lines, recipe_text, write_run
from tests.report.reading import Page, read_report
from tests.report.test_hostile import HOSTILE, _poison

Json = dict[str, Any]


def _shares(right: int, tied: int, wrong: int) -> Json:
    n = right + tied + wrong
    return {"right": right, "tied": tied, "wrong": wrong, "share": right / n, "interval": [0.123, 0.876]}


def _figures(n: int) -> Json:
    cell = {
        "n": n,
        "mean": -1.5,
        "interval": [-1.75, -1.25],
        "quantiles": {"5": -3.0, "25": -2.0, "50": -1.5, "75": -1.1, "95": -0.625},
    }
    prompts = ("prompt", "positive_prompt", "negative_prompt")
    return {
        "n": n,
        "program": {"program": "shorter", "n": n - 4, **_shares(n - 12, 4, 4)},
        "judge": {
            "n": n,
            "strict": _shares(n - 20, 18, 2),
            "debiased": _shares(n - 10, 0, 10),
            "outcomes": {"consistent": n - 18, "inconsistent": 17, "tie": 1, "invalid": 0},
        },
        "onpolicyness": {"positive_response": 0.3, "negative_response": 0.4, "mean": 0.35, "interval": [0.31, 0.39]},
        "steering_margin": cell | {"mean": 0.25, "interval": [0.2, 0.3]},
        "logps": {f"{role}_response": dict.fromkeys(prompts, cell) for role in ("positive", "negative", "original")},
    }


def _candidate(score: str, auc: float | None) -> Json:
    calibration = {"n": 28, "accuracy": 0.75, "auc": auc, "auc_interval": auc and [auc - 0.1, auc + 0.1]}
    return {
        "score": score,
        "truth": "program shorter",
        "n": 28,
        "wrong": 7,
        "left_out": {"unknown": 0, "tied": 4, "unscored": 0},
        "calibration": calibration | {"accuracy_as_judge": 0.6},
        "kept": [
            {"share": share, "accuracy": accuracy}
            for share, accuracy in ((0.25, 1.0), (0.5, 0.9), (0.75, 0.8), (1.0, 0.75))
        ],
        "worth": "worth filtering by: AUC 0.80 (95 % interval 0.70 to 0.90) over 28 pairs",
    }


def _part(number: int) -> Json:
    passed = {"n": 36, "kept": 24, "share": 2 / 3, "interval": [0.5, 0.8]}
    group = {"n": 32, "chosen": 40, "passed": passed, "before": _figures(32), "kept": _figures(24)}
    return {
        "round": number,
        "label": f"round {number}",
        "empty": 0,
        "before": _figures(32),
        "kept": _figures(24),
        "judge_check": {"n": 28, "program": "shorter", **_shares(20, 0, 8)},
        "aspects": [{"name": "Brevity", **group}, {"name": "Focus", "n": 3, "chosen": 7, "passed": None}],
        "principles": [{"name": f"Be brief, way {place}.", **group} for place in range(24)],
        "candidates": [_candidate("steering margin", 0.8), _candidate("plain likelihood", None)],
    }


def signal(rounds: int = 1) -> Json:
    return {
        "schema_version": 1,
        "split": "train",
        "limit": None,
        "judge": {"name": "small-judge", "key": "k", "by": "aspects"},
        "made_from": [{"stage": "contrasts", "round": 1, "heldout": False, "key": "abc"}],
        "notes": ["Not there yet: something."],
        "warnings": ["round 1: small-judge votes for the first response shown"],
        "parts": [_part(number) for number in range(1, rounds + 1)],
    }


def page_of(run_dir: Path, document: Any, *, whole: bool = False) -> Page:
    """Write a run with a signal.json and read its page; ``whole`` draws all other sections too."""
    summary = full_summary() if whole else {"schema_version": 1}
    write_run(run_dir, summary, metrics_lines() if whole else None, recipe_text())
    if document is not None:
        (run_dir / "signal.json").write_text(document if isinstance(document, str) else json.dumps(document))
    return read_report(run_dir)


def section(page: Page) -> str:
    return page.source.split('<section id="signal">')[1].split('<section id="samples">')[0]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return page_of(tmp_path_factory.mktemp("runs"), signal(rounds=2), whole=True)


def test_without_signal_json_the_page_knows_nothing_of_it(tmp_path: Path, page: Page) -> None:
    without = page_of(tmp_path, None, whole=True)
    assert (
        'id="signal"' not in without.source
        and not without.find("p", **{"class": "warning"})
        and "#signal" not in without.source
    )
    rest = page.source.replace(section(page), "").replace(", recipe.yaml and signal.json of", " and recipe.yaml of")
    for line in without.source.splitlines():
        assert line in rest, line
    assert "recipe.yaml and signal.json of this run" in page.text


def test_the_section_stands_after_the_data_and_in_the_contents(page: Page) -> None:
    headings = [element.text.strip() for element in page.find("h2")]
    assert headings[headings.index("Is the data right?") - 1] == "Data"
    assert page.find("a", href="#signal")[0].text.strip() == "Is the data right?"


def test_the_numbers_stand_in_the_tables(page: Page) -> None:
    text = section(page)
    for words in (
        "shorter: 71\u202f% (12 to 88\u202f%) of 28",
        "0.350 (0.310 to 0.390)",
        "0.250 (0.200 to 0.300)",
        "17, 1, 0",
        "0.80 (0.70\u00a0to\u00a00.90)",
        "Round 1: the judge agrees with the program (shorter) in 71\u202f% (12 to 88\u202f%) of the 28 pairs",
        "judged by small-judge (criterion: aspects)",
    ):
        assert words in text, words
    cells = (
        r'<th scope="row" dir="auto">Focus</th><td dir="auto">7</td><td dir="auto">3</td>(<td dir="auto"></td>)+</tr>'
    )
    assert re.search(cells, text)
    assert '<td dir="auto">40</td><td dir="auto">32</td><td dir="auto">67\u202f% (50 to 80\u202f%)</td>' in text
    assert "… 4 more, in signal.json" in text and "Be brief, way 19." in text and "Be brief, way 20." not in text


def test_notes_and_warnings_are_told_apart(page: Page) -> None:
    assert "small-judge votes" in page.find("p", **{"class": "warning"})[0].text
    assert "Not there yet: something." in [element.text.strip() for element in page.find("p", **{"class": "soft"})]


def test_the_figure_has_accuracy_beside_on_policyness(page: Page) -> None:
    assert 'aria-labelledby="signal-accuracy-title"' in page.source
    assert "judge, debiased: round 1 69\u202f% (12 to 88\u202f%); round 2 69\u202f%" in page.text
    assert "On-policyness: round 1 0.350 (0.310 to 0.390); round 2 0.350" in page.text
    assert "All pairs before the filters" in page.text


def test_the_page_stays_well_formed(page: Page) -> None:
    assert page.unclosed() == []
    assert len(page.find("caption")) == len(page.find("table"))
    ids = [element.attributes["id"] for element in page.elements if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    levels = [int(element.tag[1]) for element in page.elements if re.fullmatch("h[1-6]", element.tag)]
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_what_is_not_known_has_no_column_and_no_panel(tmp_path: Path) -> None:
    document = signal() | {"judge": None}
    for figures in (document["parts"][0]["before"], document["parts"][0]["kept"]):
        figures |= {"program": None, "judge": None, "logps": None}
    document["parts"][0] |= {"judge_check": None, "aspects": [], "candidates": []}
    found = page_of(tmp_path, document)
    text = section(found)
    assert "no judge was named" in text and "neither a program nor a judge says which pairs are right" in text
    assert "By program" not in text.split("Aspect by aspect")[0] and "signal-accuracy" not in text
    assert "signal-onpolicy" in text


@pytest.mark.parametrize(("key", "stale"), [("abc", False), ("def", True)])
def test_figures_of_earlier_data_are_said_to_be_stale(tmp_path: Path, key: str, stale: bool) -> None:
    for name, heldout in (("abc", False), (key, False), ("xyz", True)):
        files = [f"round-01/{'heldout/' if heldout else ''}contrasts/{name}.parquet"]
        append_json(tmp_path / "ledger.jsonl", {"stage": "contrasts", "round": 1, "key": name, "files": files})
    assert ("with other settings since" in section(page_of(tmp_path, signal()))) == stale


@pytest.mark.parametrize(
    ("document", "words"),
    [("{", "damaged"), ("[]", "damaged"), ({"schema_version": 7}, "of another version"), ("{}", "of another version")],
)
def test_a_file_that_cannot_be_shown_says_so(tmp_path: Path, document: Any, words: str) -> None:
    text = section(page_of(tmp_path, document))
    assert words in text and "selfsteer evaluate signal" in text and "<table" not in text


def test_hostile_text_stays_text(tmp_path: Path, page: Page) -> None:
    hostile = page_of(tmp_path, _poison(signal(rounds=2)))
    assert hostile.tags() <= page.tags() and hostile.style == page.style and hostile.comments == []
    assert hostile.unclosed() == []
    assert hostile.text.count("</script><script>alert(1)</script>") > 20
    assert not [name for element in hostile.elements for name in element.attributes if name.startswith("on")]
    assert HOSTILE[:9] not in section(hostile)


@pytest.mark.parametrize("key", ["parts", "judge", "notes", "warnings", "made_from", "split"])
@pytest.mark.parametrize(
    "value", ["text", 7, {"a": [1]}, [1, None, "x", {"label": 3, "before": [], "aspects": 2}], None]
)
def test_a_part_of_the_wrong_kind_breaks_nothing(tmp_path: Path, key: str, value: Any) -> None:
    write_run(tmp_path, {"schema_version": 1}, None, None)
    (tmp_path / "signal.json").write_text(json.dumps(signal() | {"parts": []} | {key: value}))
    assert read_report(tmp_path).unclosed() == []
