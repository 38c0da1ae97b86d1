"""`selfsteer principles invent` on the scripted backend, and on a tiny model whose proposals are given to it."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
import yaml

from selfsteer.backends import Completion, Failure
from selfsteer.backends.scripted import ScriptedBackend
from selfsteer.backends.transformers import TransformersBackend
from selfsteer.commands.principles_check import CheckArguments, principles_check, trial_recipe
from selfsteer.commands.principles_invent import AmountArguments, InventArguments, principles_invent
from selfsteer.errors import ConfigError, DataError, InputError, NothingSurvived, WorkFailed
from selfsteer.experimental.principles_invent import InventOptions, invent
from selfsteer.experimental.proposals import read_proposals
from selfsteer.files import read_json_lines
from selfsteer.principles import load_set
from tests.conftest import build_model, build_tokenizer
from tests.printed import printed
from tests.run_helpers import QUERIES, write_queries
from tests.workflows.test_principles_check import write_judge

SMALL = InventOptions(sample=6, per_prompt=2, aspects=2, most=3, each=2)


def command(folder, *overrides, order=SMALL, **options):
    scripted = [] if "generation.backend" in str(overrides) else ["generation.backend=scripted"]
    values = {
        "model": "m",
        "queries": str(write_queries(folder)),
        "overrides": [*scripted, *overrides],
        "output": folder / "mine.yaml",
        "amounts": AmountArguments(**asdict(order)),
        "run_dir": folder / "run",
    }
    found, _, _ = printed(principles_invent, InventArguments(**(values | options)))
    return found


def proposal(name, requests=(1,), **changes):
    item = {"name": name, "positive": f"{name.lower()}ish", "negative": f"hardly {name.lower()[::-1]}"}
    item |= {"meaning": f"has {name}", "positive_principle": f"Give it {name} and more."}
    return item | {"negative_principle": f"Give it no {name} at all.", "requests": list(requests)} | changes


def answering(monkeypatch, *answers, kind=ScriptedBackend):
    """Let a backend answer the inventor's prompts, one after the other, by given proposals (or text)."""
    usual, left, asked = kind.generate, list(answers), []
    ids = () if kind is ScriptedBackend else ([1], [1])

    def generate(self, prompts, sampling, **options):
        if "JSON only." not in prompts[0][-1]["content"]:
            return usual(self, prompts, sampling, **options)
        asked.extend(prompts)
        found = [left.pop(0) for _ in prompts]
        texts = [one if isinstance(one, str | Failure) else json.dumps(one) for one in found]
        return [one if isinstance(one, Failure) else Completion(one, "stop", *ids) for one in texts]

    monkeypatch.setattr(kind, "generate", generate)
    return asked


def test_a_set_for_review_is_written_and_can_be_used(tmp_path, monkeypatch):
    answers = [[proposal("Tact", (1, 2)), proposal("Accuracy")], [proposal("Tact")], "I would rather not."]
    asked = answering(monkeypatch, *answers)
    found = command(tmp_path)
    assert len(asked) == 3 and all(asked[0][:-1] == prompt[:-1] for prompt in asked)
    made = load_set(tmp_path / "mine.yaml")
    assert [aspect.name for aspect in made.aspects] == made.fallback == ["Tact"]
    assert (made.name, made.aspects_per_query, made.direction, made.steering) == ("mine", 1, None, "full")
    assert [(example.query in QUERIES, example.aspects) for example in made.few_shot] == [(True, ["Tact"])]
    text = " ".join(line.strip("# ") for line in (tmp_path / "mine.yaml").read_text().splitlines())
    assert "Proposed in 2 of 3 answers; for 3 queries:" in text and found.queries[0].id in text
    assert "3 answers (ok 2, repaired 0, failed 1)" in text and "'quality' has it: Accuracy (1)" in text
    assert "no margin" in text and "Nearest in 'quality': " in text and "No judge decided" in text


def test_the_aspects_are_tried_on_the_queries_that_they_are_for(tmp_path, monkeypatch):
    answering(monkeypatch, [proposal("Tact", (2,)), proposal("Wit", ())], [proposal("Tact", (1,))], [])
    found = command(tmp_path)
    tact = found.probes["Tact"]
    assert tact.n == found.probes["Wit"].n == 2
    own = {found.queries[1].prompt[-1]["content"], found.queries[2].prompt[-1]["content"]}
    assert tact.example.query in own and found.candidates[0].queries == (found.queries[1].id, found.queries[2].id)


def test_proposals_are_sampled_as_all_is_and_trials_as_their_roles_are(tmp_path, monkeypatch):
    usual, samplings = ScriptedBackend.generate, {}

    def generate(self, prompts, sampling, **options):
        proposes = "JSON only." in prompts[0][-1]["content"]
        samplings.setdefault(proposes, set()).add(sampling.temperature)
        return usual(self, prompts, sampling, **options)

    monkeypatch.setattr(ScriptedBackend, "generate", generate)
    command(tmp_path, "generation.roles={original: {temperature: 0.1}, negative: {temperature: 0.2}}")
    assert samplings == {True: {0.7}, False: {0.1, 0.2, 0.7}}


def test_a_judge_says_which_way_an_aspect_steers(tmp_path, monkeypatch):
    changes = {"positive_principle": "Be short and concise.", "negative_principle": "Be very long and verbose."}
    answering(monkeypatch, [proposal("Brevity", (1, 2), **changes)], [], [])
    found = command(tmp_path, judge=write_judge(tmp_path))
    assert found.probes["Brevity"].direction.right == 2
    text = (tmp_path / "mine.yaml").read_text()
    assert "y+ is better in 100 % (34-100) of 2 pairs, by prefers." in text
    assert "has Brevity" in (tmp_path / "asked").read_text(), "the judge is asked about the aspect"


def test_the_same_command_again_does_nothing(tmp_path, monkeypatch):
    first = command(tmp_path)
    ledger, written = read_json_lines(tmp_path / "run/ledger.jsonl"), (tmp_path / "mine.yaml").stat()
    monkeypatch.setattr(ScriptedBackend, "generate", lambda *_, **__: pytest.fail("asked again"))
    assert command(tmp_path) == first
    assert read_json_lines(tmp_path / "run/ledger.jsonl") == ledger
    assert (tmp_path / "mine.yaml").stat().st_mtime_ns == written.st_mtime_ns
    command(tmp_path, output=tmp_path / "other.yaml")
    assert command(tmp_path) == first, "each file is known by its own name"


def test_what_a_person_changed_is_never_overwritten_unless_told_so(tmp_path, monkeypatch):
    command(tmp_path)
    output = tmp_path / "mine.yaml"
    made = output.read_text()
    output.write_text(made + "# mine\n")
    with monkeypatch.context() as patch:
        patch.setattr(ScriptedBackend, "generate", lambda *_, **__: pytest.fail("asked before the refusal"))
        with pytest.raises(InputError, match="already exists"):
            command(tmp_path)
    assert output.read_text() == made + "# mine\n"
    command(tmp_path, overwrite=True)
    assert output.read_text() == made


def test_another_result_does_not_replace_an_earlier_one(tmp_path):
    command(tmp_path)
    made = (tmp_path / "mine.yaml").read_text()
    with pytest.raises(InputError, match="already exists"):
        command(tmp_path, "seed=1")
    assert (tmp_path / "mine.yaml").read_text() == made
    command(tmp_path, "seed=1", overwrite=True)
    assert (tmp_path / "mine.yaml").read_text() != made


def test_a_killed_command_goes_on_with_the_batch_it_was_in(tmp_path, monkeypatch):
    whole = command(tmp_path, "generation.batch_size=1")
    (tmp_path / "broken").mkdir()
    usual, asked = ScriptedBackend.generate, []

    def generate(self, prompts, sampling, **options):
        asked.append(len(prompts))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return usual(self, prompts, sampling, **options)

    monkeypatch.setattr(ScriptedBackend, "generate", generate)
    with pytest.raises(KeyboardInterrupt):
        command(tmp_path / "broken", "generation.batch_size=1")
    found = command(tmp_path / "broken", "generation.batch_size=1")
    assert found == whole
    assert len(asked) == 3 + 1 + 3 * sum(probe.n for probe in found.probes.values())


def test_a_request_that_failed_is_asked_again(tmp_path, monkeypatch):
    lost = Failure(WorkFailed("the line was cut"))
    asked = answering(monkeypatch, [proposal("Tact")], lost, [proposal("Wit")], [proposal("Pace")])
    found = command(tmp_path)
    assert len(asked) == 4 and asked[1] == asked[3]
    assert [one.aspect.name for one in found.candidates] == ["Tact", "Pace", "Wit"]
    assert read_json_lines(tmp_path / "run/failures.jsonl")[0]["reason"] == "the line was cut"


def test_an_extended_set_keeps_the_given_one(tmp_path, monkeypatch):
    answering(monkeypatch, [proposal("Tact", (1, 2)), proposal("Wit", (2,))], [], [])
    command(tmp_path, given="brief", extend=True)
    made, given = load_set(tmp_path / "mine.yaml"), load_set("brief")
    assert [aspect.name for aspect in made.aspects] == ["Brevity", "Directness", "Focus", "Tact", "Wit"]
    assert [aspect.direction for aspect in made.aspects] == ["shorter"] * 3 + [None] * 2 and made.direction is None
    assert made.few_shot[: len(given.few_shot)] == given.few_shot and made.fallback == given.fallback
    assert [example.aspects for example in made.few_shot[len(given.few_shot) :]] == [["Tact"], ["Wit"]]
    assert (made.aspects_per_query, made.steering) == (given.aspects_per_query, given.steering)


def test_examples_name_as_many_aspects_as_a_query_gets(tmp_path, monkeypatch):
    answering(monkeypatch, [proposal("Tact", (1,)), proposal("Wit", (1,))], [], [])
    command(tmp_path, extend=True)
    examples = load_set(tmp_path / "mine.yaml").few_shot[-1:]
    assert examples[0].aspects == ["Tact", "Wit"], "one query, so one example"
    answering(monkeypatch, [proposal("Tact", (1,))], [], [])
    command(tmp_path, "seed=1", extend=True, overwrite=True)
    assert load_set(tmp_path / "mine.yaml").few_shot[-1].aspects == ["Tact", "Helpfulness"]


def test_how_many_are_kept(tmp_path, monkeypatch):
    names = ["Tact", "Wit", "Pace"]
    answers = [[proposal(name) for name in names], [proposal("Pace")], [proposal("Wit")]]
    answering(monkeypatch, *answers)
    found = command(tmp_path, order=replace(SMALL, support=2))
    assert [one.aspect.name for one in found.candidates] == ["Wit", "Pace"] and found.passed_over == ["Tact"]
    assert "# Left out: Tact." in (tmp_path / "mine.yaml").read_text()
    with pytest.raises(NothingSurvived, match="fewer than 4 answers propose: 3") as error:
        command(tmp_path, order=replace(SMALL, support=4), overwrite=True)
    assert error.value.do == "lower --support"
    found = command(tmp_path, order=replace(SMALL, most=1, each=0), overwrite=True)
    assert [one.aspect.name for one in found.candidates] == ["Wit"] and not found.probes
    assert "# Not tried." in (tmp_path / "mine.yaml").read_text()


def test_nothing_new_is_a_failure_that_says_why(tmp_path, monkeypatch):
    answering(monkeypatch, [proposal("Accuracy"), proposal("Tact", meaning="")], "No.", [])
    with pytest.raises(NothingSurvived) as error:
        command(tmp_path)
    assert error.value.exit_code == 1 and not (tmp_path / "mine.yaml").exists()
    for words in ("object, of 3: 2", "in 'quality' already: 1", "rejected, meaning is missing: 1"):
        assert words in error.value.what
    assert "larger model" in error.value.do
    account = json.loads((tmp_path / "run/proposals.json").read_text())
    assert account["answers"][0]["refused"] == [{"name": "Tact", "reason": "meaning is missing"}]


@pytest.mark.parametrize("override", ["queries=x", "model.name=x", "principles.set=brief", "judge=x"])
def test_a_setting_that_has_an_option_is_not_taken_twice(tmp_path, override):
    with pytest.raises(ConfigError, match="option of its own"):
        command(tmp_path, override)


def test_an_unknown_program_is_said_before_anything_is_sampled(tmp_path):
    with pytest.raises(ConfigError, match="shortr"):
        command(tmp_path, "evaluation.direction=shortr")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["mine.txt", "quality.yaml"])
def test_names_that_load_set_would_not_find_are_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="can't be the name"):
        command(tmp_path, output=tmp_path / name)
    assert not (tmp_path / "run").exists()


def test_the_scripted_backend_proposes_what_can_be_read(tmp_path):
    found = command(tmp_path, order=InventOptions(each=0))
    assert found.outcomes == {"ok": 3} and len(found.candidates) >= 2, "10 queries, 4 a prompt"
    assert yaml.safe_load((tmp_path / "mine.yaml").read_text())["name"] == "mine"
    settings = ["generation.backend=scripted", f"queries={write_queries(tmp_path)}"]
    wanted = CheckArguments(str(tmp_path / "mine.yaml"), settings, "m", pairs=4, run_dir=tmp_path / "c", examples=0)
    checked, _, _ = printed(principles_check, wanted)
    assert [aspect.aspect for aspect in checked.aspects] == [one.aspect.name for one in found.candidates]


def test_the_command_line_has_the_defaults_of_an_order():
    assert asdict(AmountArguments()) == asdict(InventOptions())


def test_prompts_that_do_not_fit_are_said(tmp_path, tiny_chat_model):
    options = {"model": str(tiny_chat_model), "order": SMALL}
    with pytest.raises(DataError, match=r"no prompt is left: it needs \d+ tokens .* context is 512"):
        command(tmp_path, "generation.backend=transformers", "model.device=cpu", **options)


def test_a_model_gives_margins(tmp_path, monkeypatch):
    tokenizer = build_tokenizer()
    build_model(tokenizer, max_position_embeddings=8192).save_pretrained(tmp_path / "tiny")
    tokenizer.save_pretrained(tmp_path / "tiny")
    answering(monkeypatch, [proposal("Tact", (1, 2))], [], [], kind=TransformersBackend)
    overrides = ["generation.backend=transformers", "model.device=cpu", "generation.max_new_tokens=6"]
    found = command(tmp_path, *overrides, "generation.precision=float32", model=str(tmp_path / "tiny"))
    margin = found.probes["Tact"].margin
    text = " ".join(line.strip("# ") for line in (tmp_path / "mine.yaml").read_text().splitlines())
    assert (
        f"Tried on 2 pairs: margin {margin.mean:+.3f} nats per token (95 % interval {margin.interval[0]:+.3f}" in text
    )


def test_the_sample_is_that_of_the_seed(tmp_path):
    source = write_queries(tmp_path)
    overrides = ["generation.backend=scripted", f"queries={source}", "principles.set=quality"]
    order = replace(SMALL, each=0)
    seeds = {"0": 0, "again": 0, "1": 1}
    recipes = {name: trial_recipe("t", [*overrides, f"seed={seed}"]) for name, seed in seeds.items()}
    found = [invent(recipe, order, tmp_path / name) for name, recipe in recipes.items()]
    ids = [[query.id for query in one.queries] for one in found]
    assert ids[0] == ids[1] != ids[2] and len(set(ids[0])) == 6
    source.write_text("\n".join(reversed(QUERIES)) + "\n")
    again = invent(trial_recipe("t", overrides), order, tmp_path / "0")
    assert [query.id for query in again.queries] == ids[0], "whatever the order of the source"


def test_proposals_are_read_against_the_queries_of_their_own_prompt(tmp_path, monkeypatch):
    answering(monkeypatch, [], [proposal("Tact", (2,))], [])
    found = command(tmp_path)
    assert found.candidates[0].queries == (found.queries[3].id,)
    assert read_proposals("[]", 0, found.queries[:2], cut=False).outcome == "failed"
