"""What the ledger keeps of a stage, read back as its type."""

from __future__ import annotations

import pytest

from selfsteer.errors import InputError
from selfsteer.runs.ledger import StageRecord
from selfsteer.stages.contrasts import ContrastsResult
from selfsteer.stages.responses import ResponsesResult


def record(**info: object) -> StageRecord:
    return StageRecord("responses", 2, "key", [], 0.0, dict(info))


def test_a_result_is_what_was_noted_and_nothing_that_is_none():
    found = ResponsesResult(responses=6, cut=1, left_out=2, dropped=[{"where": "q1", "reason": "too long"}])
    assert found.info == {"responses": 6, "cut": 1, "left_out": 2, "unusable": 0, "dropped": list(found.dropped)}
    assert ResponsesResult.of(record(**found.info)) == found


def test_what_another_version_noted_beside_it_is_ignored():
    assert ResponsesResult.of(record(responses=6, cut=1, batches=3)).responses == 6


def test_a_line_that_lacks_a_value_is_one_message():
    with pytest.raises(InputError, match=r"stage 'responses', round 2, lacks responses, cut") as caught:
        ResponsesResult.of(record(tokens=9))
    assert caught.value.where == "ledger.jsonl" and "remove that line" in caught.value.do


def test_a_ledger_of_early_versions_has_no_statistics_by_aspect():
    assert ContrastsResult.of(record(total=3, counts={"kept": 2, "leak": 1}, thresholds={})).aspects == {}
