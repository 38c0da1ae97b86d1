"""`selfsteer principles check` and what a run does with the same figures, on the scripted backend and a tiny model."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from pydantic import ValidationError

from selfsteer.commands.principles_check import CheckArguments, principles_check, trial_recipe
from selfsteer.config import Recipe
from selfsteer.errors import ConfigError, DataError, FetchError, PrincipleError, SelfsteerWarning
from selfsteer.evaluation.steerability import probe_figures
from selfsteer.files import read_json_lines
from selfsteer.judges import Answer
from selfsteer.loop import run
from selfsteer.models import resolve
from selfsteer.principles import load_set
from selfsteer.records import Query
from selfsteer.stages import judgements as judging
from selfsteer.workflows import principles_check as probing
from selfsteer.workflows.principles_check import probe, spread
from tests.printed import printed
from tests.run_helpers import small_recipe, write_queries

SHORT, LONG = "Be short and concise.", "Be very long and verbose."
"""What the scripted backend follows."""


def write_set(folder, *, backwards=False, direction="shorter", aspects=("Brevity", "Speed")):
    """A set that the scripted backend follows; ``backwards`` swaps its principles."""
    good, bad = (LONG, SHORT) if backwards else (SHORT, LONG)
    lines = ["name: own", "version: 1", "aspects_per_query: 1", "steering: direct"]
    lines += [f"direction: {direction}"] if direction else []
    lines += ["aspects:"]
    for number, name in enumerate(aspects):
        lines += [
            f"  - name: {name}",
            f"    positive: good{number}",
            f"    negative: bad{number}",
            "    meaning: ends early",
        ]
        lines += [f"    positive_principle: {good}", f"    negative_principle: {bad}"]
    path = folder / f"own-{backwards}-{direction}.yaml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def scripted(folder, principles, **changes):
    values = {
        "name": "scripted",
        "mode": "data-only",
        "queries": {"source": str(write_queries(folder)), "heldout": 4},
        "principles": {"set": str(principles)},
        "generation": {"backend": "scripted", "max_new_tokens": 400},
        "quality": {"filters": []},
    }
    for key, value in changes.items():
        values[key] = {**values.get(key, {}), **value} if isinstance(value, dict) else value
    return Recipe.model_validate(values)


def write_judge(folder, sign=1):
    """A program that counts how often it is asked and likes the shorter response (or the longer)."""
    path = folder / f"judge{sign}.py"
    path.write_text(
        "from pathlib import Path\n"
        "def prefers(pair):\n"
        f"    with Path({str(folder / 'asked')!r}).open('a') as log: log.write(pair.criterion + '|')\n"
        f"    return {sign} * (len(pair.second) - len(pair.first))\n"
    )
    return f"program:{path}:prefers"


def test_a_set_that_is_followed_steers_every_aspect(tmp_path):
    found = probe(scripted(tmp_path, write_set(tmp_path)), tmp_path / "p", pairs=8)
    assert [(aspect.aspect, aspect.n) for aspect in found.aspects] == [("Brevity", 4), ("Speed", 4)]
    assert found.standing == "steers" and found.direction.by == "shorter" and found.direction.n == 8
    assert found.margin is None, "the scripted backend has no log-probs"
    assert json.loads((tmp_path / "p/probe.json").read_text())["standing"] == "steers"


def test_a_set_that_is_followed_backwards_is_refused(tmp_path):
    found = probe(scripted(tmp_path, write_set(tmp_path, backwards=True)), tmp_path / "p", pairs=8)
    assert found.standing == "below chance" and found.refused


def test_without_a_program_a_judge_tells_by_the_aspect_and_is_asked_once(tmp_path):
    settings = {"name": write_judge(tmp_path), "by": "aspects"}
    recipe = scripted(tmp_path, write_set(tmp_path, direction=None), judge=settings)
    first = probe(recipe, tmp_path / "p", pairs=8)
    asked = (tmp_path / "asked").read_text()
    assert first.standing == "steers" and first.direction.by == "prefers"
    assert asked.count("|") == 16 and "ends early" in asked
    assert probe(recipe, tmp_path / "p", pairs=8) == first and (tmp_path / "asked").read_text() == asked


def test_without_program_and_judge_the_direction_is_unknown(tmp_path):
    found = probe(scripted(tmp_path, write_set(tmp_path, direction=None)), tmp_path / "p", pairs=4)
    assert found.standing == "unknown" and found.direction is None and not found.refused


def test_a_second_probe_computes_nothing(tmp_path, monkeypatch):
    recipe = scripted(tmp_path, write_set(tmp_path))
    first = probe(recipe, tmp_path / "p", pairs=4)
    lines = read_json_lines(tmp_path / "p/ledger.jsonl")
    monkeypatch.setattr(probing, "steered", lambda *values: pytest.fail("computed again"))
    assert probe(recipe, tmp_path / "p", pairs=4) == first
    assert read_json_lines(tmp_path / "p/ledger.jsonl") == lines


def test_aspects_get_different_queries_while_there_are_some():
    queries = [Query(f"q{i}", [{"role": "user", "content": str(i)}]) for i in range(5)]
    found = list(spread(["A", "B"], queries, 3))
    assert [query.id for _, query in found] == ["q0 A", "q1 A", "q2 A", "q3 B", "q4 B", "q0 B"]


def test_too_few_queries_are_said_before_anything_is_sampled(tmp_path):
    with pytest.raises(DataError, match="too few"):
        probe(scripted(tmp_path, write_set(tmp_path)), tmp_path / "p", pairs=40)


def test_a_model_is_scored_too(tmp_path, tiny_chat_model):
    recipe = small_recipe(tiny_chat_model, write_queries(tmp_path))
    found = probe(recipe, tmp_path / "p", pairs=3)
    assert found.margin is not None and len(found.aspects) == 3 and all(aspect.example for aspect in found.aspects)


def test_a_run_refuses_what_is_followed_backwards_and_keeps_what_it_made(tmp_path):
    recipe = scripted(tmp_path, write_set(tmp_path, backwards=True))
    with pytest.raises(PrincipleError, match=r"better than y- in 0% of 4 held-out pairs only \(by shorter\)") as error:
        run(recipe, tmp_path / "run")
    assert error.value.exit_code == 2 and "principles.below_chance=warn" in str(error.value)
    assert list((tmp_path / "run/round-00/heldout/responses").glob("*.parquet"))


def test_a_run_goes_on_when_told_to(tmp_path):
    principles = write_set(tmp_path, backwards=True)
    with pytest.raises(PrincipleError):
        run(scripted(tmp_path, principles), tmp_path / "run")
    recipe = scripted(tmp_path, principles)
    told = recipe.model_copy(update={"principles": recipe.principles.model_copy(update={"below_chance": "warn"})})
    with pytest.warns(SelfsteerWarning, match="does not follow these principles"):
        summary = run(told, tmp_path / "run")
    assert summary["rounds"][0]["quality"]["kept"] > 0
    assert [stage["reused"] for stage in summary["stages"]][:4] == [True] * 4, "what was made before serves on"


def test_without_held_out_queries_the_first_round_is_looked_at_before_it_is_trained_on(tmp_path):
    recipe = scripted(tmp_path, write_set(tmp_path, backwards=True))
    alone = recipe.model_copy(update={"queries": recipe.queries.model_copy(update={"heldout": 0})})
    with pytest.raises(PrincipleError, match="0% of 10 training pairs"):
        run(alone, tmp_path / "run")
    judged = {"name": write_judge(tmp_path, sign=-1)}
    untold = scripted(tmp_path, write_set(tmp_path, direction=None), judge=judged)
    with pytest.raises(PrincipleError, match=r"10 training pairs only \(by prefers\)"):
        run(untold.model_copy(update={"queries": alone.queries}), tmp_path / "judged")


def test_a_pair_that_the_judge_could_not_answer_is_unknown_and_no_tie(tmp_path, monkeypatch):
    recipe = scripted(tmp_path, write_set(tmp_path, direction=None), judge={"name": write_judge(tmp_path)})
    answer = judging.judge_pairs

    def half(judge, pairs, cache, **options):
        found = answer(judge, pairs, cache, **options)
        return [replace(one, forward=Answer(0, valid=False)) if i % 2 else one for i, one in enumerate(found)]

    monkeypatch.setattr(judging, "judge_pairs", half)
    found = probe(recipe, tmp_path / "p", pairs=8)
    assert (found.n, found.direction.n, found.direction.tied) == (8, 4, 0)


def test_an_unknown_program_is_said_before_anything_is_sampled(tmp_path):
    with pytest.raises(ConfigError, match="shortr"):
        probe(scripted(tmp_path, write_set(tmp_path, direction="shortr")), tmp_path / "p", pairs=4)
    assert not (tmp_path / "p").exists()


def test_settings_of_a_judge_that_is_not_named_are_refused(tmp_path):
    with pytest.raises(ValidationError, match="none is named"):
        scripted(tmp_path, write_set(tmp_path), judge={"mode": "text"})


@pytest.mark.parametrize(
    ("overrides", "by"),
    [([], "overall"), (["judge=program:shorter"], "aspects"), (["judge.name=program:shorter"], "aspects"),
     (["judge.by=overall", "judge.name=program:shorter"], "overall")],
)  # fmt: skip
def test_the_probe_asks_its_judge_by_the_aspect_unless_told_otherwise(tmp_path, overrides, by, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "selfsteer.workflows.principles_check.probe",
        lambda recipe, *_, **__: asked.append(recipe) or probe_figures({}, None),
    )
    printed(principles_check, CheckArguments("brief", overrides, "m", pairs=4, run_dir=tmp_path, examples=0))
    assert asked[0].judge.by == by


@pytest.mark.parametrize("idle", ["quality.filters=[identical]", "train.beta=0.5", "queries.min_chars=3", "rounds=1"])
def test_a_setting_that_trials_do_not_go_by_is_refused(idle):
    with pytest.raises(ConfigError, match="has no effect here"):
        trial_recipe("probe", ["seed=3", "generation.top_p=0.5", idle])


def test_the_probe_takes_as_many_queries_as_it_is_told_to(tmp_path):
    recipe = trial_recipe("probe", ["queries.limit=2", "generation.backend=scripted"])
    with pytest.raises(DataError, match="2 queries are too few"):
        probe(recipe, tmp_path, pairs=60)


def test_a_run_is_refused_by_its_judge_where_no_program_can_tell(tmp_path):
    principles = write_set(tmp_path, direction=None)
    judged = {"name": write_judge(tmp_path, sign=-1)}
    with pytest.raises(PrincipleError, match=r"\(by prefers\)"):
        run(scripted(tmp_path, principles, judge=judged), tmp_path / "run")
    assert run(scripted(tmp_path, principles), tmp_path / "unknown")["policies"][0]["judged"] is None


def test_a_runs_judge_is_in_its_summary_and_asked_once(tmp_path):
    recipe = scripted(tmp_path, write_set(tmp_path, direction=None), judge={"name": write_judge(tmp_path)})
    judged = run(recipe, tmp_path / "run")["policies"][0]["judged"]
    assert judged["judge"] == "prefers" and judged["n"] == 4 and judged["debiased"]["share"] == 1
    asked = (tmp_path / "asked").read_text()
    run(recipe, tmp_path / "run")
    assert (tmp_path / "asked").read_text() == asked


def test_an_unknown_judge_is_said_before_anything_is_computed(tmp_path):
    with pytest.raises(ConfigError, match="program"):
        run(scripted(tmp_path, write_set(tmp_path), judge={"name": "program:shortr"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_unknown_program_of_an_aspect_is_said_too(tmp_path):
    path = write_set(tmp_path)
    path.write_text(path.read_text().replace("    meaning: ends early", "    meaning: m\n    direction: shortr", 1))
    with pytest.raises(ConfigError, match="shortr"):
        run(scripted(tmp_path, path), tmp_path / "run")


@pytest.mark.weights
def test_the_embedded_model_is_refused_where_its_principles_stand_the_wrong_way_round(tmp_path):
    try:
        resolve("smollm2-135m")
    except FetchError as error:
        pytest.skip(f"no weights: {error.what}")
    brevity, path = load_set("brief").aspect("Brevity"), write_set(tmp_path, backwards=True, aspects=("Brevity",))
    text = path.read_text().replace(SHORT, brevity.positive_principle).replace(LONG, brevity.negative_principle)
    path.write_text(text)
    changes = {"principles": {"set": str(path)}, "train": {"max_length": 512}}
    found = probe(Recipe.model_validate({"generation": {"max_new_tokens": 96}, **changes}), tmp_path / "p", pairs=8)
    assert found.refused and found.standing == "below chance" and found.direction.by == "shorter"
    assert found.margin.matters, "it follows its prompts, only backwards: the margin can't tell, accuracy does"
