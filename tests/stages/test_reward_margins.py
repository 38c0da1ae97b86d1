"""The filter reward_margin: a reward model asked once a pair, in a run, and where rows are filtered anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from selfsteer.errors import ConfigError, InputError, ModelError, NothingSurvived
from selfsteer.judges import Pair, PresentedPair, make_judge
from selfsteer.judges import reward as reward_judges
from selfsteer.loop import run
from selfsteer.loop.dry_run import plan
from selfsteer.quality import stored_margin
from selfsteer.records import Contrast, read_rows, write_rows
from selfsteer.runs.ledger import Ledger
from selfsteer.runs.plan_step import StepState
from selfsteer.runs.progress import Display
from selfsteer.runs.store import Store
from selfsteer.stages.context import RunContext
from selfsteer.workflows.filter import refilter_file, refilter_run
from tests.conftest import build_model, build_tokenizer
from tests.run_helpers import contrasts, scripted_recipe, without_reports


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    monkeypatch.setenv("SELFSTEER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("selfsteer.workflows.filter.write_report", lambda run_dir: run_dir)
    with without_reports():
        yield


@pytest.fixture(scope="session")
def reward_folder(tmp_path_factory) -> Path:
    import torch
    from transformers import AutoModelForSequenceClassification

    folder, tokenizer = tmp_path_factory.mktemp("rewards") / "tiny", build_tokenizer()
    config = build_model(tokenizer, num_labels=1).config
    torch.manual_seed(5)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def asked(monkeypatch) -> list[int]:
    """How many presentations the reward model was given at each call."""
    real, sizes = reward_judges.RewardJudge.answer, []

    def answer(self: Any, shown: Any) -> Any:
        sizes.append(len(shown))
        return real(self, shown)

    monkeypatch.setattr(reward_judges.RewardJudge, "answer", answer)
    return sizes


def recipe(queries: Path, model: Path | None, *filters: Any):
    quality: dict[str, Any] = {"filters": ["identical", *filters]}
    return scripted_recipe(queries, quality=quality | ({"reward": {"model": str(model)}} if model else {}))


def by_hand(folder: Path, row: Contrast) -> float:
    from selfsteer.config import JudgeSettings

    judge = make_judge(JudgeSettings(name=f"reward:{folder}", device="cpu"))
    (answer,) = judge.answer(
        [PresentedPair(Pair("x", row.prompt, row.positive_response, row.negative_response), False)]
    )
    assert answer.log_odds is not None
    return answer.log_odds


def test_a_run_keeps_the_pairs_that_the_reward_model_ranks_right_and_says_the_margin_of_others(
    tmp_path, queries, reward_folder, asked
):
    run(recipe(queries, reward_folder, {"reward_margin": {"top": 0.5}}), tmp_path / "run")
    rows = [row for row in contrasts(tmp_path / "run") if not row.drop_reason.startswith(("identical", "empty"))]
    margins = {row.id: by_hand(reward_folder, row) for row in rows}
    assert {row.id: float(stored_margin(row)) for row in rows} == pytest.approx(margins, abs=1e-5)
    least = sorted(margins.values(), reverse=True)[-(-len(rows) // 2) - 1]
    for row in rows:
        assert row.kept == (margins[row.id] >= least - 1e-5)
        if not row.kept:
            assert row.drop_reason.startswith("reward_margin: the reward margin, r(y+|x) - r(y-|x), ")
            assert f"is below {least:.4g}" in row.drop_reason
    assert 0 < sum(row.kept for row in rows) < len(rows)


def test_margins_are_a_stage_that_later_filters_find(tmp_path, queries, reward_folder, asked):
    folder, settings = tmp_path / "run", recipe(queries, reward_folder, {"reward_margin": {"min": -9.0}})
    run(settings, folder)
    first = sum(asked)
    assert first == sum(asked) > 0
    assert [entry.stage for entry in Ledger(folder).entries()][-2:] == ["rewards", "contrasts"]
    asked.clear()
    override = "quality.filters=[identical, {reward_margin: {top: 0.3}}]"
    dry = refilter_run(folder, [override], dry_run=True)
    assert refilter_run(folder, [override]).parts == dry.parts and asked == []
    assert dry.parts[0].after["dropped"]["reward_margin"] > 0
    without = ["quality.filters=[identical]", "quality.reward=null"]
    refilter_run(folder, without)
    refilter_run(folder, [override, f"quality.reward={{model: {reward_folder}}}"])
    assert asked == []
    steps = plan(stages_of(settings, folder), measure=False)
    assert [step.state for step in steps if step.slot[0] == "rewards"] == [StepState.DONE]


def stages_of(settings: Any, folder: Path) -> RunContext:
    return RunContext.from_recipe(settings, Store(folder, Display(quiet=True)))


def test_a_dry_run_asks_no_model(scripted_run, tmp_path, reward_folder, asked):
    import shutil

    folder = Path(shutil.copytree(scripted_run, tmp_path / "run"))
    settings = ["quality.filters=[reward_margin]", f"quality.reward={{model: {reward_folder}}}"]
    with pytest.raises(InputError, match="a dry run asks no model"):
        refilter_run(folder, settings, dry_run=True)
    assert asked == []


def test_rows_of_a_file_are_asked_about_once_and_bring_their_margins_along(tmp_path, queries, reward_folder, asked):
    run(recipe(queries, None), tmp_path / "run")
    rows = contrasts(tmp_path / "run")
    write_rows(tmp_path / "rows.parquet", Contrast, rows)
    settings = [f"quality.reward={{model: {reward_folder}}}"]
    settings += ["quality.filters=[{reward_margin: {top: 0.5}}, duplicates]"]
    refilter_file(tmp_path / "rows.parquet", settings, tmp_path / "one.parquet")
    full = [row for row in rows if row.positive_response and row.negative_response and row.original_response]
    assert sum(asked) == len({(row.positive_response, row.negative_response, str(row.prompt)) for row in full})
    asked.clear()
    refilter_file(tmp_path / "one.parquet", settings, tmp_path / "two.parquet")
    assert asked == []
    found = [list(read_rows([tmp_path / name], Contrast)) for name in ("one.parquet", "two.parquet")]
    assert found[0] == found[1]
    for row in found[0]:
        if row.kept:
            assert float(stored_margin(row)) == pytest.approx(by_hand(reward_folder, row), abs=1e-5)


def test_other_weights_are_asked_anew(tmp_path, queries, reward_folder, asked):
    from transformers import AutoModelForSequenceClassification

    other = tmp_path / "other"
    model = AutoModelForSequenceClassification.from_pretrained(reward_folder)
    model.score.weight.data.neg_()
    model.save_pretrained(other)
    build_tokenizer().save_pretrained(other)
    run(recipe(queries, reward_folder, {"reward_margin": {"top": 0.5}}), tmp_path / "run")
    first = {row.id: row for row in contrasts(tmp_path / "run")}
    rows = list(first.values())
    write_rows(tmp_path / "rows.parquet", Contrast, rows)
    asked.clear()
    settings = [f"quality.reward={{model: {other}}}", "quality.filters=[{reward_margin: {min: -99}}]"]
    refilter_file(tmp_path / "rows.parquet", settings, tmp_path / "out.parquet")
    assert sum(asked) > 0
    for row in read_rows([tmp_path / "out.parquet"], Contrast):
        if stored_margin(row):
            assert float(stored_margin(row)) == pytest.approx(-float(stored_margin(first[row.id])), abs=1e-5)


def test_filter_and_reward_model_must_go_together(tmp_path, queries, reward_folder, tiny_chat_model):
    with pytest.raises(ConfigError, match="none is named") as caught:
        run(recipe(queries, None, "reward_margin"), tmp_path / "a")
    assert caught.value.where == "quality.reward" and not (tmp_path / "a/round-01").exists()
    with pytest.raises(ConfigError, match="no filter uses the reward model"):
        run(recipe(queries, reward_folder), tmp_path / "b")
    with pytest.raises(ModelError, match="has 2 outputs; a reward model has one"):
        run(recipe(queries, tiny_chat_model, "reward_margin"), tmp_path / "c")
    assert not (tmp_path / "c/round-01").exists(), "it is told before anything is made"


def test_a_margin_that_no_pair_reaches_stops_the_run_with_advice(tmp_path, queries, reward_folder):
    with pytest.warns(match="dropped all"), pytest.raises(NothingSurvived) as caught:
        run(recipe(queries, reward_folder, {"reward_margin": {"min": 99.0}}), tmp_path / "run")
    assert "reward_margin.min" in caught.value.do
