"""The section "Guards": what fired, what followed, which policy is the run's."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from selfsteer.config import GuardAction, GuardSettings
from selfsteer.evaluation.guards import CRITERIA, GUARDS
from selfsteer.report.guards import _CRITERIA, _FOLLOWED, guards_section
from tests.report.example import full_summary, metrics_lines, recipe_text, write_run
from tests.report.reading import Page, read_report
from tests.report.test_hostile import HOSTILE


def page(folder: Path, guards: Any, rounds: int = 2) -> Page:
    summary = full_summary(rounds) | {"guards": guards}
    return read_report(write_run(folder, summary, metrics_lines(rounds), recipe_text()))


def finding(round: int, guard: str, standing: str = "quiet", action: str = "stop", detail: str = "as ever") -> Any:
    return {"round": round, "guard": guard, "standing": standing, "action": action, "detail": detail}


def found(*findings: Any, best: int | None = 1, **changes: Any) -> Any:
    return {"criterion": "last", "best": best, "good": [1], "ended": 2, "findings": list(findings)} | changes


def test_every_guard_action_and_criterion_has_its_words():
    meanings = guards_section({"guards": {"criterion": "last"}})["meanings"].rows
    assert {name for name, _ in meanings} == set(GUARDS) == set(GuardSettings.model_fields) - {"action", "best"}
    assert set(_FOLLOWED) == set(get_args(GuardAction)) - {"ignore"}
    assert set(_CRITERIA) == {"last", *CRITERIA} == set(get_args(GuardSettings.model_fields["best"].annotation))


def test_what_fired_is_told_with_what_followed(tmp_path):
    shown = page(tmp_path, found(finding(1, "length"), finding(2, "length", "fired", detail="5.00 times as long")))
    assert "The run hands out the policy of round 1: the last good round's." in shown.text
    (warning,) = shown.find("p", **{"class": "warning"})
    assert warning.text.strip() == "Round 2, length: 5.00 times as long. The round was rejected and the run ended."
    assert "Plain answers explode" in shown.text and shown.find("a", href="#guards")
    assert [cell.text for cell in shown.find("td") if cell.text in ("quiet", "fired")] == ["quiet", "fired"]


def test_samples_are_headed_by_the_policy_that_is_handed_out(tmp_path):
    assert "After round 1" in page(tmp_path / "one", found(finding(2, "length", "fired"))).text
    assert "After round 1" not in page(tmp_path / "two", found(best=2)).text


def test_no_good_round(tmp_path):
    assert "No round's policy is good, so the run hands out none." in page(tmp_path, found(best=None)).text


@pytest.mark.parametrize("guards", [None, "nonsense", {}])
def test_a_run_without_guards_has_no_such_section(tmp_path, guards):
    shown = page(tmp_path, guards)
    assert not shown.find("section", id="guards") and not shown.find("a", href="#guards")


def test_nothing_watched(tmp_path):
    assert "All guards are set to ignore" in page(tmp_path, found()).text


def test_hostile_texts_stay_texts(tmp_path):
    shown = page(tmp_path, found(finding(1, HOSTILE, "fired", HOSTILE, HOSTILE), criterion=HOSTILE))
    assert not shown.find("script") and shown.unclosed() == []
