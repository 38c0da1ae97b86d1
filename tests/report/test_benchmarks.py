"""The section "Benchmarks" of a report: its figures, and names that try to be more than text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from selfsteer.report import write_report
from tests.report.example import full_summary, write_full_run, write_run
from tests.report.reading import Page, read_report
from tests.report.test_hostile import HOSTILE

CHANGE = {
    "n": 90,
    "value": 4.0,
    "low": 1.0,
    "high": 7.0,
    "p": 0.0104,
    "mcnemar": 0.02,
    "holm": 0.0004,
    "smallest": 4.25,
}


def comparison(mark: str = "") -> dict[str, Any]:
    standing = {"expected": 100, "scored": 100, "incomplete": False, "length": 512.4}
    judged = {
        "title": f"Judged{mark}", "unit": "1-10", "chance": None, "judge": f"a judge{mark}",
        "models": [standing, standing | {"scored": 90, "incomplete": True}],
        "metrics": {
            f"rating_of_all{mark}": [
                {"value": 5.0, "low": 4.5, "high": 5.5, "change": None},
                {"value": 5.25, "low": None, "high": None, "change": CHANGE},
            ]
        },
    }  # fmt: skip
    program = judged | {"title": "Program", "unit": "%", "chance": 25.0, "judge": "", "models": [standing, None]}
    program["metrics"] = {"accuracy": [{"value": 40.0, "low": 30.0, "high": 50.0, "change": None}, None]}
    return {
        "run": full_summary()["created"], "models": [f"before{mark}", "after round 1"], "benchmarks": [judged, program]
    }  # fmt: skip


def page_of(run_dir: Path, found: dict[str, Any]) -> Page:
    (run_dir / "benchmarks.json").write_text(json.dumps(found))
    return read_report(run_dir)


def test_the_table_has_figures_differences_and_lengths(tmp_path):
    page = page_of(write_full_run(tmp_path / "run"), comparison())
    head, *rows = page.rows("Benchmarks, with 95 % intervals")
    assert head[1:4] == ["before", "after round 1", "Difference"]
    assert rows == [
        ["Judged: rating of all", "5.00 (4.50 to 5.50)", "5.25", "+4.00 (1.00 to 7.00)", "0.010", "0.020", "<0.001",
         "90", "4.25"],
        ["Judged: characters an answer", "512", "512", *["-"] * 6],
        ["Program: accuracy", "40.0 (30.0 to 50.0)", "-", *["-"] * 6],
    ]  # fmt: skip
    assert "Judged, after round 1: incomplete, 90 of 100 items scored." in page.text
    assert "summary.json, metrics.jsonl, recipe.yaml and benchmarks.json of this run" in page.text


def test_names_in_the_file_stay_text(tmp_path):
    harmless = page_of(write_full_run(tmp_path / "harmless"), comparison())
    hostile = page_of(write_run(tmp_path / "hostile", full_summary(), [], None), comparison(HOSTILE))
    assert hostile.tags() <= harmless.tags() and hostile.unclosed() == []
    assert not [name for one in hostile.elements for name in one.attributes if name.startswith("on")]
    assert "Judged</script><script>alert(1)</script>" in hostile.text


def test_a_run_without_benchmarks_has_no_such_section(tmp_path):
    assert 'id="benchmarks"' not in write_report(write_full_run(tmp_path / "run")).read_text()
