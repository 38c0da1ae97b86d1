"""Choices and principles that fell back: the sentences with their shares, and where they stand on the page."""

from __future__ import annotations

from pathlib import Path

from selfsteer.report.fallbacks import fallbacks_told
from tests.report.example import full_summary, write_run
from tests.report.reading import read_report


def test_shares_are_of_what_was_asked_for() -> None:
    choices, writings = {"model": 6, "fallback": 1, "cut": 1, "all": 9, "none": 4}, {"ok": 1, "repaired": 1, "cut": 2}
    (one, all_choices), (other, all_writings) = fallbacks_told(choices, writings)
    assert one.startswith(
        "2 of 8 choices of aspects fell back to the set's default (25 %): the model's answer named no"
    )
    assert "cut off before it named one: 1 (raise principles.choice_max_tokens" in one
    assert other.startswith("2 of 4 written principles fell back") and "principles.writing_max_tokens" in other
    assert not all_choices and not all_writings
    assert fallbacks_told({"cut": 2}, {})[0][1]
    assert fallbacks_told({"model": 3, "all": 2}, {"fixed": 5}) == [] == fallbacks_told({}, {})


def test_what_fell_back_for_every_row_is_a_warning_under_the_verdict(tmp_path: Path) -> None:
    summary = full_summary()
    summary["rounds"][0] |= {"choices": {"cut": 12}, "writings": {"ok": 3, "fallback": 1}}
    summary["policies"][1]["judged"] = {
        "judge": "small <judge>",
        "n": 4,
        "outcomes": {"invalid": 4, "consistent": 0},
        "why_invalid": {"names no verdict": 8},
    }
    page = read_report(write_run(tmp_path / "run", summary, None, None))
    warnings = [element.text for element in page.find("p", **{"class": "warning"})]
    assert len(warnings) == 2 and "12 of 12 choices of aspects fell back" in warnings[0] and "(100 %)" in warnings[0]
    assert "small <judge>: 4 of 4 pairs have no valid verdict (100%); replies names no verdict: 8." in warnings[1]
    assert "Round 1: 1 of 4 written principles fell back" in page.text
