"""`evaluate signal` on runs: what it reads, whom it asks, what it leaves behind."""

from __future__ import annotations

import json
import shutil
from importlib import import_module

import pytest

from selfsteer.commands import evaluate_signal as signal_command
from selfsteer.config import JudgeSettings
from selfsteer.errors import ConfigError
from selfsteer.judges import Answer, PresentedPair
from selfsteer.loop import run
from selfsteer.report import write_report
from selfsteer.stages.reader import RunReader
from selfsteer.workflows import evaluate_signal as signal_module
from selfsteer.workflows.evaluate_signal import evaluate_signal, settings_for
from selfsteer.workflows.judge import read_pairs
from tests.printed import printed
from tests.run_helpers import scripted_recipe, small_recipe, without_reports


class FakeJudge:
    """Finds the shorter response better, by its length in letters; counts what it is asked, and may die."""

    name, key, batch_size = "fake", "fake-key", 4

    def __init__(self, dies_after: int = 10**6, bias: float = 0.0) -> None:
        self.asked: list[PresentedPair] = []
        self.dies_after, self.bias = dies_after, bias

    def answer(self, shown):
        if len(self.asked) + len(shown) > self.dies_after:
            raise KeyboardInterrupt
        self.asked += shown
        odds = [len(one.responses[1]) - len(one.responses[0]) + self.bias for one in shown]
        return [Answer((value > 0) - (value < 0), log_odds=value) for value in odds]


@pytest.fixture
def fake(monkeypatch):
    """Let every judge be a fake one; the fixture sets which."""

    def use(judge: FakeJudge) -> FakeJudge:
        monkeypatch.setattr(signal_module, "make_judge", lambda settings: judge)
        return judge

    return use


@pytest.fixture(scope="module", autouse=True)
def no_reports():
    with without_reports():
        yield


@pytest.fixture(scope="module")
def online_run(tmp_path_factory, tiny_chat_model, queries):
    run_dir = tmp_path_factory.mktemp("runs") / "online"
    run(small_recipe(tiny_chat_model, queries, train__epochs=1), run_dir)
    return run_dir


@pytest.fixture
def copied(scripted_run, tmp_path):
    return shutil.copytree(scripted_run, tmp_path / "run")


@pytest.fixture
def online(online_run, tmp_path):
    return shutil.copytree(online_run, tmp_path / "run", symlinks=True)


NAMED = {"name": "any"}


# --- a run without log-probs


def test_a_program_needs_no_judge(copied):
    found = evaluate_signal(copied)
    assert found["judge"] is None and found["warnings"] == []
    (part,) = found["parts"]
    told = part["before"]["program"]
    assert (told["program"], told["n"]) == ("shorter", 7) and part["kept"]["program"]["share"] == 1
    assert part["before"]["n"] == 7 and part["kept"]["n"] == told["right"]
    assert found["notes"] == [
        "The rows have no log-probs (the scripted backend gives none): on-policyness and margins unknown.",
        "The filter 'direction' keeps only rows that are shorter: kept rows are right by construction.",
    ]
    assert json.loads((copied / "signal.json").read_text()) == json.loads(json.dumps(found))


def test_without_program_and_judge_the_accuracy_is_unknown(tmp_path, queries, fake):
    recipe = scripted_recipe(queries, principles={"set": "quality", "extra_rate": 0.0}, quality={"filters": []})
    run(recipe, tmp_path / "run")
    found = evaluate_signal(tmp_path / "run")
    assert found["notes"][0].startswith("No judge named, and no program for the set 'quality': accuracy unknown.")
    assert found["parts"][0]["before"]["program"] is None and found["parts"][0]["candidates"] == []
    fake(FakeJudge())
    judged = evaluate_signal(tmp_path / "run", overrides=NAMED)
    assert judged["notes"][0] == ("No program checks fake here: `selfsteer judge` does, on labelled pairs.")


def test_a_second_call_asks_the_judge_nothing(copied, fake):
    first = fake(FakeJudge())
    found = evaluate_signal(copied, overrides=NAMED)
    assert len(first.asked) == 14 and {shown.swapped for shown in first.asked} == {False, True}
    second = fake(FakeJudge())
    assert evaluate_signal(copied, overrides=NAMED) == found
    assert second.asked == [] and (copied / "judgements/fake-key.jsonl").is_file()


def test_killed_it_goes_on_where_it_stopped(copied, fake):
    whole = [fake(FakeJudge()), evaluate_signal(copied, overrides=NAMED)][1]
    shutil.rmtree(copied / "judgements")
    (copied / "signal.json").unlink()
    dying = fake(FakeJudge(dies_after=8))
    with pytest.raises(KeyboardInterrupt):
        evaluate_signal(copied, overrides=NAMED)
    assert len(dying.asked) == 8 and not (copied / "signal.json").exists()
    rest = fake(FakeJudge())
    assert evaluate_signal(copied, overrides=NAMED) == whole
    assert len(rest.asked) == 14 - 8


def test_the_judge_is_asked_by_aspects_or_for_overall_quality(copied, fake):
    for by, criterion in (("overall", ""), ("aspects", "Brevity (says it in few words and then stops)")):
        judge = fake(FakeJudge())
        assert evaluate_signal(copied, overrides=NAMED | {"by": by})["judge"]["by"] == by
        assert criterion in {shown.pair.criterion for shown in judge.asked}


def test_a_sample_is_seeded_and_part_of_any_larger_one(copied, fake):
    asked = []
    for limit in (3, 3, 5):
        shutil.rmtree(copied / "judgements", ignore_errors=True)
        judge = fake(FakeJudge())
        found = evaluate_signal(copied, overrides=NAMED, limit=limit)
        assert found["parts"][0]["before"]["n"] == limit
        assert found["notes"][0] == f"A sample of the rows (round 1: {limit} of 7)."
        asked.append({shown.pair.id for shown in judge.asked})
    assert asked[0] == asked[1] < asked[2]
    assert evaluate_signal(copied, limit=99)["limit"] == 99


def test_judge_and_evaluate_signal_draw_the_same_rows_of_a_run(tmp_path, queries, fake):
    run(scripted_recipe(queries, quality={"filters": []}), tmp_path / "run")
    judge = fake(FakeJudge())
    evaluate_signal(tmp_path / "run", overrides=NAMED, limit=3)
    pairs = read_pairs([tmp_path / "run"], limit=3)[0]
    assert {pair.id.rpartition(", ")[2] for pair in pairs} == {shown.pair.id for shown in judge.asked}


def test_a_judge_that_goes_by_the_order_is_warned_of(copied, fake):
    fake(FakeJudge(bias=10_000))
    found = evaluate_signal(copied, overrides=NAMED)
    (warning,) = found["warnings"]
    assert warning.startswith("round 1: fake votes for the first response shown in 100% of its answers: its strict")
    figures = found["parts"][0]["before"]["judge"]
    assert figures["strict"]["share"] == 0 and figures["debiased"]["share"] > 0.5
    fake(FakeJudge())
    shutil.rmtree(copied / "judgements")
    assert evaluate_signal(copied, overrides=NAMED)["warnings"] == []


def test_a_judge_that_contradicts_the_program_on_its_own_question_is_warned_of(copied, fake):
    class Contrary(FakeJudge):
        def answer(self, shown):
            return [Answer(-answer.vote, -answer.log_odds) for answer in super().answer(shown)]

    fake(Contrary())
    (warning,) = evaluate_signal(copied, overrides=NAMED | {"by": "aspects"})["warnings"]
    assert "agrees with the program 'shorter' in 0% of" in warning and "no better than chance" in warning
    assert evaluate_signal(copied, overrides=NAMED)["warnings"] == []  # asked another question, it may well differ


def test_a_program_may_be_the_judge(copied):
    found = evaluate_signal(copied, overrides={"name": "program:longer"})
    assert found["judge"]["name"] == "longer"
    before = found["parts"][0]["before"]
    assert before["judge"]["strict"]["right"] == before["program"]["wrong"]  # no token ids: both count words


# --- a run with log-probs


def test_a_round_has_its_figures_and_the_implicit_reward_of_its_policy(online, fake):
    judge = fake(FakeJudge())
    found = evaluate_signal(online, overrides=NAMED)
    (part,) = found["parts"]
    assert 0 < part["before"]["onpolicyness"]["mean"] < 1
    scores = {one["score"] for one in part["candidates"] if one["truth"] == "fake, debiased"}
    assert "steering margin" in scores and "implicit reward, held-out, per token" in scores
    held = {row.id for row in RunReader(online).heldout().parts[0].rows}
    assert held < {shown.pair.id for shown in judge.asked}
    stages = [(one["stage"], one["round"]) for one in found["made_from"]]
    assert stages == [("implicit", 1), ("scores", 0), ("contrasts", 1)]


def test_the_implicit_reward_is_what_the_summary_says(online):
    summary = json.loads((online / "summary.json").read_text())
    implicit = RunReader(online).train().parts[0].implicit
    rewards = list(implicit.rewards.values())
    assert sum(rewards) / len(rewards) == pytest.approx(summary["policies"][1]["implicit"]["margin"])


def test_the_held_out_rows_of_each_policy(online):
    found = evaluate_signal(online, split="heldout")
    assert [part["label"] for part in found["parts"]] == ["before", "after round 1"]
    assert all(part["kept"] is None for part in found["parts"])
    summary = json.loads((online / "summary.json").read_text())
    told = [policy["onpolicyness"]["mean"] for policy in summary["policies"]]
    assert [part["before"]["onpolicyness"]["mean"] for part in found["parts"]] == pytest.approx(told)


def test_other_settings_change_the_figures_and_the_old_ones_bring_them_back(copied, queries):
    def figures():
        return evaluate_signal(copied)["parts"]

    a = figures()
    run(scripted_recipe(queries, seed=1), copied)
    assert figures() != a
    run(scripted_recipe(queries), copied)
    assert figures() == a


# --- the report and the terminal


def test_the_report_shows_the_signal_and_says_when_it_is_stale(copied, queries, monkeypatch):
    for module in ("loop.run", "workflows.evaluate_signal"):
        monkeypatch.setattr(import_module(f"selfsteer.{module}"), "write_report", write_report)
    write_report(copied)
    assert "Is the data right?" not in (copied / "report.html").read_text()
    evaluate_signal(copied)
    page = (copied / "report.html").read_text()
    assert "Is the data right?" in page and "made again with other settings" not in page
    run(scripted_recipe(queries, seed=1), copied)
    assert "made again with other settings" in (copied / "report.html").read_text()
    run(scripted_recipe(queries), copied)
    section = page[(start := page.index('<section id="signal">')) : page.index("</section>", start)]
    assert section in (copied / "report.html").read_text()


def test_a_run_in_progress_has_no_report_yet(copied, monkeypatch):
    monkeypatch.setattr(signal_module, "write_report", write_report)
    (copied / "summary.json").unlink()
    evaluate_signal(copied)
    assert (copied / "signal.json").is_file() and not (copied / "report.html").exists()


def shown(run_dir, overrides, **options):
    judge = {"judge" if name == "name" else name: value for name, value in overrides.items()}
    arguments = signal_command.EvaluateSignalArguments(run_dir, **judge, **options)
    return printed(signal_command.evaluate_signal, arguments, width=200)[1]


def test_what_is_printed(online, fake):
    fake(FakeJudge(bias=10_000))
    text = shown(online, NAMED)
    for part in ("round 1", "round 1, kept", "by program", "strict", "debiased", "steering margin", "implicit reward"):
        assert part in text, part
    assert "judged by fake" in text and "7, 0, 0" in text and "inconsistent," in text
    assert "Round 1: share right when only the best by a free score are kept, by" in text and "AUC" in text
    assert "its strict verdicts mean nothing" in text
    assert f"written  {online / 'signal.json'}" in text


def test_what_is_unknown_is_printed_and_its_columns_are_left_out(copied):
    text = shown(copied, {})
    assert "on-policyness and margins unknown" in text
    assert "debiased" not in text.split("no judge was named")[0]


# --- settings


def test_the_command_line_goes_before_the_recipe():
    recipe = JudgeSettings(name="a", mode="text", by="aspects", revision="main", base_url="http://here")
    assert settings_for(recipe, {"name": None, "mode": None}, trusted=True) == recipe
    assert settings_for(recipe, {"mode": "logprobs"}, trusted=True) == recipe.model_copy(update={"mode": "logprobs"})
    other = settings_for(recipe, {"name": "b", "by": "overall"})
    assert other == JudgeSettings(name="b", mode="text", by="overall")  # neither revision nor server of "a"
    server = settings_for(recipe, {"name": "endpoint:b"}, trusted=True)
    assert server == JudgeSettings(name="endpoint:b", mode="text", by="aspects", base_url="http://here")


@pytest.mark.parametrize(
    ("overrides", "options", "words"),
    [
        ({"mode": "text"}, {}, "--mode needs a judge"),
        ({"name": "program:shorter", "mode": "words"}, {}, "logprobs"),
        ({"name": "program:shortr"}, {}, "shortr"),
        ({}, {"limit": 0}, "--limit is 0"),
        ({}, {"split": "all"}, "unknown split 'all'"),
    ],
)
def test_wrong_options(copied, overrides, options, words):
    with pytest.raises(ConfigError, match=words):
        shown(copied, overrides, **options)
    assert not (copied / "signal.json").exists()
