"""What guards make of a run on the tiny model: warn, stop, roll back, the best round, a training that fails."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from selfsteer import cli
from selfsteer.api import RunResult
from selfsteer.commands.run_summary import show
from selfsteer.config import Recipe
from selfsteer.errors import ConfigError, GuardStopped, InputError, NothingSurvived, SelfsteerWarning, TrainingDiverged
from selfsteer.loop import guards as guarding
from selfsteer.loop import run
from selfsteer.loop.dry_run import changed, plan
from selfsteer.loop.guards import stopped
from selfsteer.loop.run import open_stages
from selfsteer.reward.recipe import SetSettings
from selfsteer.runs.ledger import Ledger
from selfsteer.runs.plan_step import PlanStep, StepState
from selfsteer.runs.progress import Display
from selfsteer.stages import contrasts as contrasts_module
from selfsteer.stages.reader import RunReader
from selfsteer.workflows import reward_sets
from selfsteer.workflows.row_source import open_source
from tests.guard_figures import N, measures
from tests.run_helpers import contrasts, scripted_recipe, small_recipe, stages, without_reports

EXPLODED = {"lengths": [500] * N}


@pytest.fixture(scope="module")
def done(tmp_path_factory, tiny_chat_model, queries):
    """A run of two rounds, each begun from the one before, that tests copy and go on with."""
    run_dir = tmp_path_factory.mktemp("runs") / "done"
    with without_reports():
        return run_dir, run(recipe(tiny_chat_model, queries), run_dir)


def recipe(model: Path, queries: Path, rounds: int = 2, **changes: Any):
    return small_recipe(model, queries, rounds=rounds, train__epochs=1, **changes)


@pytest.fixture
def again(done, tmp_path, tiny_chat_model, queries, monkeypatch):
    """Return a function that runs a copy of the finished run, with made-up held-out figures of its policies."""
    run_dir = shutil.copytree(done[0], tmp_path / "run", symlinks=True)

    def go(figures: dict[int, dict[str, Any]], **changes: Any):
        def found(state):
            return measures(**figures.get(state.number, {}))

        with monkeypatch.context() as patch, without_reports():
            patch.setattr(guarding, "heldout_measures", found)
            return run(recipe(tiny_chat_model, queries, **changes), run_dir)

    go.run_dir = run_dir
    go.recipe = partial(recipe, tiny_chat_model, queries)
    return go


def planned(run_dir: Path, settings: Recipe) -> list[PlanStep]:
    return plan(open_stages(settings, run_dir, Display(quiet=True)), measure=True)


def check_nothing_to_do(steps: list[PlanStep], summary: dict[str, Any]) -> None:
    """The plan has the stages of a finished run, all of them done, and announces nothing."""
    assert [step.title for step in steps] == [stage["stage"] for stage in summary["stages"]]
    assert {step.state for step in steps} == {StepState.DONE} and not list(changed(steps))


def policy_of(run_dir: Path) -> str | None:
    link = run_dir / "policy"
    return link.resolve().parent.name if link.exists() else None


def test_a_usual_run_is_quiet_and_hands_out_the_last_round(done):
    run_dir, summary = done
    found = summary["guards"]
    assert (found["best"], found["good"], found["ended"]) == (2, [1, 2], None)
    assert not [one for one in found["findings"] if one["standing"] == "fired"]
    assert {one["round"] for one in found["findings"]} == {1, 2}
    assert policy_of(run_dir) == "round-02" and stopped(summary, run_dir) is None
    assert all(policy["divergence"] for policy in summary["policies"][1:])
    assert summary["policies"][0]["divergence"] is None


def test_a_warning_changes_nothing_but_is_said(again):
    with pytest.warns(SelfsteerWarning, match=r"round 1, guard length: answers are 5\.00 times"):
        summary = again({1: EXPLODED}, guards__action="warn")
    assert summary["guards"]["good"] == [1, 2] and len(summary["rounds"]) == 2
    assert stopped(summary, again.run_dir) is None and policy_of(again.run_dir) == "round-02"


def test_a_stop_ends_the_run_and_hands_out_the_last_good_round(again):
    before = stages(again.run_dir)
    with pytest.warns(SelfsteerWarning, match="the round is rejected and the run ends"):
        summary = again({2: EXPLODED}, rounds=3)
    assert (summary["guards"]["ended"], summary["guards"]["best"]) == (2, 1)
    assert len(summary["rounds"]) == 2 and stages(again.run_dir) == before, "no third round"
    check_nothing_to_do(planned(again.run_dir, again.recipe(rounds=3)), summary)
    assert policy_of(again.run_dir) == "round-01"
    assert all(line["question"] != "Is there a policy to hand out?" for line in summary["verdict"])
    pending = RunReader(again.run_dir).train().pending
    assert pending == ["the stage 'scores' of round 3 was not made: a guard ended the run in round 2"]
    error = stopped(summary, again.run_dir)
    assert isinstance(error, GuardStopped) and error.exit_code == 1
    assert "a guard ended the run in round 2 (length: answers are 5.00 times" in error.what
    assert "policy is round 1's" in error.what and "guards.length.action=warn" in error.do


def test_a_stopped_run_that_is_run_again_does_nothing_and_says_the_same(again):
    with pytest.warns(SelfsteerWarning):
        first = again({1: EXPLODED})
    before = (again.run_dir / "ledger.jsonl").read_bytes()
    with pytest.warns(SelfsteerWarning):
        second = again({1: EXPLODED})
    assert (again.run_dir / "ledger.jsonl").read_bytes() == before
    assert second["guards"] == first["guards"] and all(stage["reused"] for stage in second["stages"])
    assert str(stopped(second, again.run_dir)) == str(stopped(first, again.run_dir))
    assert policy_of(again.run_dir) is None, "no round is good"
    assert "there is no good policy" in str(stopped(second, again.run_dir))


def test_what_was_stopped_goes_on_when_the_threshold_changes(again):
    with pytest.warns(SelfsteerWarning):
        assert again({1: {"lengths": [200] * N}})["guards"]["ended"] == 1
    summary = again({1: {"lengths": [200] * N}}, guards__length={"max_ratio_per_round": 2.5})
    assert summary["guards"]["good"] == [1, 2] and policy_of(again.run_dir) == "round-02"


def test_a_rollback_gives_the_round_up_and_begins_the_next_from_the_last_good_policy(again):
    with pytest.warns(SelfsteerWarning, match="the next one begins from round 1's policy"):
        summary = again({2: EXPLODED}, rounds=3, guards__action="rollback")
    assert (summary["guards"]["good"], summary["guards"]["best"]) == ([1, 3], 3)
    assert weights(again.run_dir, 2) == weights(again.run_dir, 3), "both rounds' data are of round 1's policy"
    assert responses(again.run_dir, 2) != responses(again.run_dir, 3), "but sampled anew"
    assert policy_of(again.run_dir) == "round-03" and stopped(summary, again.run_dir) is None
    check_nothing_to_do(planned(again.run_dir, again.recipe(rounds=3, guards__action="rollback")), summary)


def test_rows_of_a_rejected_round_are_not_trained_on_again(again):
    with pytest.warns(SelfsteerWarning):
        again({2: EXPLODED}, rounds=3, guards__action="rollback", train__older_rounds="all")
    newest = {(entry.stage, entry.round): entry for entry in Ledger(again.run_dir).entries() if not entry.heldout}
    trained_on = [key for key, _ in newest["reference", 3].depends["rows"]]
    assert trained_on == [newest["contrasts", 1].key, newest["contrasts", 3].key]


def test_a_round_that_is_given_up_is_not_used(again, tmp_path, capsys):
    with pytest.warns(SelfsteerWarning):
        summary = again({2: EXPLODED, 3: EXPLODED}, rounds=3, guards__action="rollback")
    result = RunResult(again.run_dir, summary)
    assert {row.round for row in result.rows()} == {1}
    with pytest.raises(ConfigError, match="there is no round 2") as caught:
        result.rows(2)
    assert "it has: 1 (rejected by a guard: 2, 3)" in str(caught.value)
    assert reward_sets.open_source("s", SetSettings(source=str(again.run_dir))).what == "self-made pairs of round 1"
    with pytest.raises(ConfigError, match="has no rows of round 2"):
        reward_sets.open_source("s", SetSettings(source=str(again.run_dir), rounds=[2]))
    exported = open_source(again.run_dir)
    assert {row.round for row in exported.rows} == {1}
    assert exported.notes == tuple(f"round {n} was rejected by a guard and is left out" for n in (2, 3))
    with pytest.raises(InputError, match="round 2 has no rows"):
        open_source(again.run_dir, 2)
    show(summary, again.run_dir, Console())
    assert "round-01/contrasts " in capsys.readouterr().out


def test_rows_of_a_round_that_another_training_has_made_good_are_used_again(again):
    with pytest.warns(SelfsteerWarning):
        again({1: EXPLODED}, rounds=1)
    with pytest.raises(InputError, match="every round was rejected by a guard"):
        open_source(again.run_dir)
    summary = again({}, rounds=1, train__learning_rate=2e-3)
    assert {row.round for row in RunResult(again.run_dir, summary).rows()} == {1}


def test_rounds_that_the_recipe_has_no_more_are_not_used(again):
    result = RunResult(again.run_dir, again({}, rounds=1))
    assert {row.round for row in result.rows()} == {1}
    with pytest.raises(ConfigError, match="there is no round 2"):
        result.rows(2)
    assert reward_sets.open_source("s", SetSettings(source=str(again.run_dir))).what == "self-made pairs of round 1"


def test_behind_guards_that_have_not_judged_nothing_is_announced(again):
    with pytest.warns(SelfsteerWarning):
        again({1: {"lengths": [200] * N}})
    steps = planned(again.run_dir, again.recipe(guards__length={"max_ratio_per_round": 2.5}))
    second = next(place for place, step in enumerate(steps) if step.title == "choose aspects, round 2")
    assert {step.state for step in steps[:second]} == {StepState.DONE} and not list(changed(steps))
    waiting = {(step.state, step.why) for step in steps[second:]}
    assert waiting == {(StepState.AFTER, "the guards have to judge round 1 first")}
    warned = again.recipe(guards__length={"max_ratio_per_round": 2.5}, guards__action="warn")
    assert {step.state for step in planned(again.run_dir, warned)} == {StepState.DONE}, "no guard gives a round up"


def test_rounds_that_are_all_rolled_back_leave_no_policy(again):
    with pytest.warns(SelfsteerWarning, match="the next one begins from the start"):
        summary = again({1: EXPLODED, 2: EXPLODED}, guards__action="rollback")
    assert summary["guards"]["good"] == [] and policy_of(again.run_dir) is None
    assert (summary["verdict"][0]["question"], summary["verdict"][0]["answer"]) == (
        "Is there a policy to hand out?",
        "no",
    )
    assert "no round's policy is good" in str(stopped(summary, again.run_dir))
    assert weights(again.run_dir, 1) < weights(again.run_dir, 2), "round 2 began from the start as well"


def test_the_best_round_is_handed_out_and_shown(again):
    summary = again({1: {"right": 15}, 2: {"right": 12}}, guards__best="signal_accuracy")
    assert summary["guards"]["best"] == 1 and policy_of(again.run_dir) == "round-01"
    first = summary["policies"][1]["length"]["original"]["mean_tokens"]
    assert f"-> {first:.0f} tokens" in summary["verdict"][0]["detail"]


def test_ignored_guards_are_not_asked(again):
    summary = again({1: EXPLODED, 2: EXPLODED}, guards__action="ignore")
    assert summary["guards"]["findings"] == [] and summary["guards"]["best"] == 2


# --- a training that fails


def test_a_training_that_diverges_ends_the_run_once_and_for_all(tmp_path, tiny_chat_model, queries, monkeypatch):
    wild = recipe(tiny_chat_model, queries, train__learning_rate=1e39, train__batch_size=2, queries__heldout=0)
    with pytest.warns(SelfsteerWarning, match="round 1, guard not_finite"):
        summary = run(wild, tmp_path / "run")
    assert summary["guards"]["ended"] == 1 and policy_of(tmp_path / "run") is None
    assert (tmp_path / "run/report.html").is_file()
    monkeypatch.setattr("selfsteer.policy.SSOTrainer.train", lambda *_: pytest.fail("it trained again"))
    with pytest.warns(SelfsteerWarning):
        second = run(wild, tmp_path / "run")
    assert str(stopped(second, tmp_path)) == str(stopped(summary, tmp_path))
    steps = planned(tmp_path / "run", wild)
    assert [step.title for step in steps[:-1]] == [stage["stage"] for stage in second["stages"]]
    assert steps[-1].title == "train, round 1" and {step.state for step in steps} == {StepState.DONE}
    assert steps[-1].why == "it failed, and the guards rejected the round"


def test_a_training_that_diverges_is_an_error_where_no_guard_acts(tmp_path, tiny_chat_model, queries):
    wild = recipe(tiny_chat_model, queries, train__learning_rate=1e39, train__batch_size=2, queries__heldout=0,
                  guards__action="warn")  # fmt: skip
    with pytest.raises(TrainingDiverged):
        run(wild, tmp_path / "run")
    with pytest.raises(TrainingDiverged, match=r"diverged\.json"):
        run(wild, tmp_path / "run")


def test_a_later_round_without_rows_is_the_guards_and_a_first_one_the_recipes(again, monkeypatch):
    def nothing(*arguments):
        raise NothingSurvived("quality control kept no row of 7", where="round-03")

    real = guarding.Guards.run_round

    def run_round(self, number, work):
        real(self, number, work if len(self._rounds) < rounds else nothing)

    monkeypatch.setattr(guarding.Guards, "run_round", run_round)
    rounds = 0
    with pytest.raises(NothingSurvived):
        again({})
    rounds = 2
    with pytest.warns(SelfsteerWarning, match=r"round 3, guard kept: quality control kept no row of 7 \(round-03\)"):
        summary = again({}, rounds=3)
    assert (summary["guards"]["ended"], summary["guards"]["best"]) == (3, 2)


def test_a_round_whose_rows_are_all_dropped_is_planned_to_its_failure(again, monkeypatch, capsys):
    real = contrasts_module._fitted

    def fitted(context, files):
        if "round-02" in str(files[0]):
            raise NothingSurvived("quality control kept no row", where="round-02")
        return real(context, files)

    settings = {"rounds": 3, "guards__action": "rollback", "quality__filters": []}
    monkeypatch.setattr(contrasts_module, "_fitted", fitted)
    with pytest.warns(SelfsteerWarning, match="round 2, guard kept"):
        summary = again({}, **settings)
    assert [made["round"] for made in summary["rounds"]] == [1, 3]
    show(summary, again.run_dir, Console())
    assert "round-03/contrasts " in capsys.readouterr().out
    steps = planned(again.run_dir, again.recipe(**settings))
    assert {step.state for step in steps} == {StepState.DONE}
    failed = [step for step in steps if step.why]
    assert [step.title for step in failed] == ["quality control, round 2"]
    assert [step.title for step in steps if step not in failed] == [stage["stage"] for stage in summary["stages"]]


# --- settings and the command line


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"guards__best": "signal_accuracy", "principles__set": "quality"},
            "nobody says",
        ),
        ({"guards__best": "onpolicyness", "queries__heldout": 0}, "nothing to compare rounds by"),
    ],
)
def test_a_criterion_that_nothing_will_measure_is_refused(tmp_path, tiny_chat_model, queries, changes, words):
    with pytest.raises(ConfigError, match=words) as caught:
        run(recipe(tiny_chat_model, queries, **changes), tmp_path / "run")
    assert "guards.best=" in caught.value.where


def test_the_command_line_shows_the_outcome_and_ends_with_1(again, capsys, monkeypatch):
    with pytest.warns(SelfsteerWarning):
        summary = again({2: EXPLODED})
    monkeypatch.setattr("selfsteer.workflows.benchmarked_run.run", lambda *_, **__: summary)
    monkeypatch.setattr("sys.argv", ["selfsteer", "run", "quickstart", "--run-dir", str(again.run_dir)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    shown = capsys.readouterr()
    assert end.value.code == 1
    assert "round 2, length: answers are 5.00 times" in shown.out and "of round 1: safetensors" in shown.out
    assert shown.err.startswith("error: a guard ended the run in round 2")


def weights(run_dir: Path, number: int) -> set[str]:
    """The names of the weights that wrote a round's rows, of whatever settings."""
    return {row.provenance["weights"] for row in contrasts(run_dir, number)}


def responses(run_dir: Path, number: int) -> set[str]:
    return {row.original_response for row in contrasts(run_dir, number)}


def test_a_run_of_ones_own_ends_with_what_to_do_with_it(queries, tmp_path, capsys):
    for name, said in (("mine", "selfsteer export"), ("scripted", "For a model and queries of your own")):
        recipe = scripted_recipe(queries, name=name)
        show(run(recipe, tmp_path / name), tmp_path / name, Console())
        out = capsys.readouterr().out
        assert said in out and ("quickstart" in out or "of your own" in out) == (name == "scripted")
        assert "evaluate model" not in out  # nothing was trained
