"""A small fault matrix, as ``python -m tests.fault_matrix`` runs a large one; its checks are checked too."""

from __future__ import annotations

import pytest

from tests.fault_matrix import FAULTS, Report, check_rows, matrix


def test_no_query_is_lost_doubled_or_answered_by_a_fault_when_requests_fail_in_every_way(tmp_path):
    report = matrix(tmp_path / "faults", queries=60, share=0.3, seed=0, failed="drop")

    assert report.problems == []
    assert report.outcomes.keys() == FAULTS.keys() and len(FAULTS) >= 24
    assert report.rows + report.dropped == 60 and report.rows > 30


@pytest.mark.slow
@pytest.mark.parametrize("failed", ["stop", "drop"])
def test_the_same_at_500_queries(tmp_path, failed):
    report = matrix(tmp_path / "faults", queries=500, share=0.3, seed=1, failed=failed)

    assert report.problems == []
    assert report.rows + report.dropped == 500


def test_a_lost_row_is_a_problem(tmp_path):
    report = Report()
    check_rows(report, tmp_path, {"00001"}, {})
    assert report.problems == ["query 00001 is in no row, and not named"]
