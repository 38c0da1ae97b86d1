"""`selfsteer evaluate judge`: what is printed and written, and what ends it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from selfsteer.evaluation.benchmarks import alpaca
from tests.backends.chat_server import with_logprobs
from tests.backends.conftest import environment, serve  # noqa: F401
from tests.evaluation.benchmarks.alpaca_data import DATA, needs_data

SHARED = DATA.parent


@pytest.fixture(autouse=True)
def _small(tmp_path, monkeypatch):
    monkeypatch.setattr(alpaca, "RESAMPLES", 5)
    monkeypatch.setattr("selfsteer.confidence_intervals._RESAMPLES", 20)
    monkeypatch.setenv("SELFSTEER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@needs_data
def test_a_judge_is_calibrated_on_recorded_preferences_people_and_models(command_line, tmp_path):
    path = tmp_path / "out.json"
    arguments = ("program:longer", "--data-dir", SHARED, "--limit", "30", "--json", path)
    code, shown, _ = command_line("evaluate", "judge", *arguments)
    assert code == 0
    found = json.loads(path.read_text())
    assert found["judge"]["name"] == "longer" and found["calibration"]["expected"] == 30
    assert found["calibration"]["line"].split(",")[0] in " ".join(shown.split())
    assert found["calibration"]["both"]["n"] == 30 and found["calibration"]["first_place"] == 0.5
    names = [row["subset"] for row in found["human_labels"]]
    assert names[0] == "Natural" and len(names) == 5 and all(row["n"] == 30 for row in found["human_labels"])
    assert [row["published"]["win_rate"] for row in found["published_models"]] == [22.6, 21.8, 15.3, 63.3]
    assert all(one["state"] == "verified" for one in found["data"].values())
    assert any("too few" in note for note in found["notes"]) and any("reconstructed" in note for note in found["notes"])
    again = tmp_path / "again.json"
    assert command_line("evaluate", "judge", *arguments[:-1], again)[0] == 0
    assert again.read_bytes() == path.read_bytes()


@needs_data
def test_a_judge_without_any_preference_ends_with_1_after_the_figures(command_line, tmp_path, serve):  # noqa: F811
    server = serve([with_logprobs({"Neither": -0.1})])
    path = tmp_path / "out.json"
    arguments = ("--data-dir", SHARED, "--limit", "2", "--base-url", server.url, "--json", path)
    code, _, errors = command_line("evaluate", "judge", "endpoint:m", *arguments)
    assert code == 1 and "gave no preference" in errors and "neither m nor M" in errors
    found = json.loads(path.read_text())["calibration"]
    assert found["both"] is None and found["invalid"] == {"judge: neither m nor M is among the likeliest replies": 2}


def test_missing_data_end_it_before_the_judge_is_asked(command_line, tmp_path):
    code, _, errors = command_line("evaluate", "judge", "program:longer", "--data-dir", tmp_path)
    assert code == 2 and "model_outputs.json is missing" in errors and "annotations.json is missing" in errors


@needs_data
def test_data_of_unknown_content_end_it_unless_they_are_accepted(command_line, tmp_path):
    folder = tmp_path / "data" / "alpaca_eval"
    for source in DATA.rglob("*"):
        own = folder / source.relative_to(DATA)
        if source.is_file():
            own.parent.mkdir(parents=True, exist_ok=True)
            own.symlink_to(source)
    baseline = folder / "gpt4_1106_preview" / "model_outputs.json"
    rows = json.loads(baseline.read_text())
    baseline.unlink()
    baseline.write_text(json.dumps(rows[:-1]))
    arguments = ("evaluate", "judge", "program:longer", "--data-dir", Path(folder).parent, "--limit", "5")
    code, _, errors = command_line(*arguments)
    assert code == 2 and "804 rows in place of 805" in errors
    code, shown, _ = command_line(*arguments, "--unverified-data")
    assert code == 0 and "No human labels" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("program:no-such",), "program"),
        (("endpoint:m", "--per-token"), "no setting"),
        (("nonsense:x",), "unknown kind"),
        (("program:longer", "--mode", "text"), "no setting mode"),
        (("program:longer", "--limit", "0"), "limit"),
    ],
)
@needs_data
def test_wrong_settings_end_it(command_line, arguments, message):
    code, _, errors = command_line("evaluate", "judge", *arguments, "--data-dir", SHARED)
    assert code == 2 and message in errors


@needs_data
def test_the_calibration_beside_other_figures_is_that_of_the_same_rows(tmp_path):
    from selfsteer.config import JudgeSettings
    from selfsteer.evaluation.benchmarks.judge_model import open_benchmark_judge
    from selfsteer.workflows.evaluate_judge import calibration_beside

    judge, pair_judge = open_benchmark_judge(JudgeSettings(name="program:longer"), tmp_path)
    found = calibration_beside(judge, pair_judge, SHARED, tmp_path)
    assert found["expected"] == found["both"]["n"] == 100 and found["line"].startswith("longer on 100 recorded")
    nothing = calibration_beside(judge, pair_judge, tmp_path, tmp_path)
    assert list(nothing) == ["line"] and nothing["line"].startswith("longer is not calibrated")
