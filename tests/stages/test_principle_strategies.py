"""The principles stage's work: the three strategies, what becomes of every answer, and a reasoning model's thoughts."""

from __future__ import annotations

import dataclasses
import json

import pytest

from selfsteer.backends import Completion, Failure
from selfsteer.backends.scripted import ScriptedBackend
from selfsteer.chat import Chat
from selfsteer.config import Recipe
from selfsteer.errors import ConfigError, WorkFailed
from selfsteer.principles import chooser_messages, load_set
from selfsteer.stages.principle_strategies import check_draws, principled, text_of
from tests.chat_templates import tokenizer_of
from tests.run_helpers import Answering, asked_queries, said

QUALITY, BRIEF = load_set("quality"), load_set("brief")


def recipe(strategy: str, **principles) -> Recipe:
    return Recipe.model_validate({"principles": {"strategy": strategy, "extra_rate": 0.0, **principles}})


def answer(**aspects: tuple[str, str]) -> str:
    """The JSON that is asked for."""
    return json.dumps({"principles": [{"aspect": a, "good": g, "bad": b} for a, (g, b) in aspects.items()]})


def done(text: str, finish="stop") -> Completion:
    return Completion(text, finish)


def test_aspects_that_a_model_merely_thought_of_are_not_chosen():
    chat = Chat(tokenizer_of("deepseek-r1"))
    answers = [
        said(chat, "Safety? No, rather</think>\nAccuracy, Logicality"),
        said(chat, "Safety, Engagement, and then I ran out of tok"),
    ]
    backend = Answering(chat, answers)
    done = principled(Recipe(), QUALITY, backend, [chat], asked_queries(2))
    assert [(row.aspects[:2], row.choice) for row in done.rows] == [
        (["Accuracy", "Logicality"], "model"),
        ([*QUALITY.fallback][:2], "fallback"),
    ]
    assert backend.samplings[0].max_new_tokens == 24 + Recipe().generation.max_new_tokens, "room to think"


def test_a_model_that_does_not_think_gets_few_tokens_to_choose():
    chat = Chat(tokenizer_of("chatml"))
    backend = Answering(chat, [said(chat, "Accuracy, Safety")])
    assert principled(Recipe(), QUALITY, backend, [chat], asked_queries(1)).rows[0].aspects[:2] == [
        "Accuracy",
        "Safety",
    ]
    assert backend.samplings[0].max_new_tokens < 100


def test_the_budgets_of_choosing_writing_and_thinking_are_settings():
    own = {"choice_max_tokens": 7, "writing_max_tokens": 11, "thinking_max_tokens": 500}
    for family, thoughts in (("chatml", 0), ("deepseek-r1", 500)):
        chat = Chat(tokenizer_of(family))
        writer = Answering(chat, [said(chat, "Accuracy")], [said(chat, "nothing")])
        principled(recipe("per_aspect", aspects_per_query=1, **own), QUALITY, writer, [chat], asked_queries(1))
        concision = 1  # the set's extra aspect may be written for as well
        assert [one.max_new_tokens for one in writer.samplings] == [7 + thoughts, 11 * (1 + concision) + thoughts]


def test_a_server_may_hide_a_model_that_thinks_so_it_gets_the_room():
    writer = Answering(None, [done("Accuracy")])
    writer.name = "endpoint"
    principled(Recipe(), QUALITY, writer, [], asked_queries(1))
    assert writer.samplings[0].max_new_tokens == 24 + Recipe().generation.max_new_tokens


def test_room_to_think_ends_where_the_context_does():
    chat = Chat(tokenizer_of("deepseek-r1"))
    writer = Answering(chat, [said(chat, "Accuracy")])
    prompt = chat.encode(chooser_messages(QUALITY, text_of(asked_queries(1)[0]), 2, chat.system_role))
    writer.context, writer.length = len(prompt) + 100, lambda prompt: len(chat.encode(prompt))
    principled(Recipe(), QUALITY, writer, [chat], asked_queries(1))
    assert writer.samplings[0].max_new_tokens == 100


@pytest.mark.parametrize(
    ("text", "finish", "aspects", "outcome"),
    [
        ("<think>Safety? No", "length", QUALITY.fallback, "cut"),
        ("Let me see what matters", "length", QUALITY.fallback, "cut"),
        ("I can't say", "stop", QUALITY.fallback, "fallback"),
        ("<think>Safety?</think>Accuracy, Logicality", "stop", ["Accuracy", "Logicality"], "model"),
        ("Safety? No.</think>Accuracy, Logicality", "stop", ["Accuracy", "Logicality"], "model"),
        ("Accuracy, Logicality, and", "length", ["Accuracy", "Logicality"], "model"),
    ],
)
def test_what_came_of_a_choice_is_told_by_its_row(text, finish, aspects, outcome):
    """A server's template may open the thought, so that only its end stands in the text."""
    (row,) = principled(recipe("fixed"), QUALITY, Answering(None, [done(text, finish)]), [], asked_queries(1)).rows
    assert (row.aspects, row.choice) == (list(aspects)[:2], outcome)


def test_a_choice_is_greedy_unless_the_recipe_gives_it_a_temperature():
    texts = [done("Accuracy, Safety")] * 2
    for settings, sampling in (({}, (0.0, 1.0)), ({"choice_temperature": 0.7}, (0.7, 0.8))):
        backend = Answering(None, list(texts), list(texts), list(texts))
        for seed in (1, 1, 2):
            principled(recipe("fixed", **settings), QUALITY, backend, [], asked_queries(2), seed)
        assert {(asked.temperature, asked.top_p) for asked in backend.samplings} == {sampling}
        assert backend.seeds[0] == backend.seeds[1] != backend.seeds[2]


def test_what_is_written_stays_greedy_where_the_choice_is_sampled():
    pair = answer(Accuracy=("State facts.", "Make facts up."), Safety=("Warn.", "Do not warn."))
    backend = Answering(None, [done("Accuracy, Safety")], [done(pair)])
    principled(recipe("per_aspect", choice_temperature=0.7), QUALITY, backend, [], asked_queries(1))
    assert [asked.temperature for asked in backend.samplings] == [0.7, 0.0]


def test_a_shuffled_choice_depends_on_the_seed_and_the_query_alone():
    def aspects(seed, queries):
        backend = Answering(None, [done("Accuracy, Safety, Helpfulness, Engagement")] * len(queries))
        found = principled(recipe("fixed", choice="shuffled"), QUALITY, backend, [], queries, seed).rows
        return {row.id: row.aspects for row in found}

    queries = asked_queries(12)
    first = aspects(1, queries)
    assert aspects(1, queries[::-1]) == first
    assert aspects(1, queries[5:6]) == {"q5": first["q5"]}
    assert aspects(2, queries) != first
    assert len(set(map(tuple, first.values()))) > 3


ONE_ASPECT = QUALITY.model_copy(
    update={"aspects": QUALITY.aspects[:1], "aspects_per_query": 1, "few_shot": [], "fallback": []}
)


@pytest.mark.parametrize(
    ("principle_set", "settings", "key"),
    [
        (QUALITY, {"choice": "shuffled", "aspects_per_query": 7}, "choice"),
        (BRIEF, {"choice_temperature": 0.5, "aspects_per_query": 3}, "choice_temperature"),
        (ONE_ASPECT, {"choice": "shuffled"}, "choice"),
        (BRIEF, {"per_round": "redrawn"}, "per_round"),
        (QUALITY, {"per_round": "redrawn", "extra_rate": 0.0}, "per_round"),
        (QUALITY, {"per_round": "redrawn", "extra_rate": 1.0}, "per_round"),
    ],
)
def test_a_setting_of_draws_where_nothing_is_drawn_is_refused(principle_set, settings, key):
    with pytest.raises(ConfigError) as caught:
        check_draws(recipe("fixed", **settings), principle_set)
    assert caught.value.where == f"principles.{key}" and caught.value.do


@pytest.mark.parametrize(
    ("principle_set", "settings"),
    [
        (QUALITY, {"choice": "shuffled", "choice_temperature": 0.7, "per_round": "redrawn"}),
        (QUALITY, {"per_round": "redrawn", "extra_rate": 0.2, "aspects_per_query": 7}),
        (BRIEF, {"per_round": "redrawn", "choice": "shuffled"}),
        (ONE_ASPECT, {}),
    ],
)
def test_a_setting_of_draws_that_acts_is_taken(principle_set, settings):
    check_draws(recipe("fixed", **settings), principle_set)


def test_a_choice_that_failed_is_a_failure_of_its_query():
    failure = Failure(WorkFailed("the server answers with status 500"))
    backend = Answering(None, [failure, Completion("Accuracy, Safety", "stop")])
    done = principled(Recipe(), QUALITY, backend, [], asked_queries(2))
    assert [row.id for row in done.rows] == ["q1"] and done.failures == {"q0": failure}


def test_a_pair_is_written_for_each_chosen_aspect_and_the_adjectives_are_still_stated():
    written = answer(Safety=("Warn of the sun.", "Stare at it."), Accuracy=("Say Rayleigh.", "Say it is paint."))
    writer = Answering(None, [done("Accuracy, Safety")], [done(written)])
    (row,) = principled(recipe("per_aspect"), QUALITY, writer, [], asked_queries(1)).rows
    assert (row.aspects, row.choice, row.writing) == (["Accuracy", "Safety"], "model", "ok")
    assert row.positive_principle == "Say Rayleigh.\nWarn of the sun."
    assert row.negative_principle == "Say it is paint.\nStare at it."
    steering = row.negative_prompt[0]["content"]
    adjectives = [QUALITY.aspect(name).negative for name in row.aspects]
    assert all(word in steering for word in adjectives) and "Say it is paint.\nStare at it." in steering


def test_what_was_not_written_is_the_sets_own():
    one, other = answer(Accuracy=("Say Rayleigh.", "Say it is paint.")), "I can't do that."
    chosen = [done("Accuracy, Safety")] * 2
    writer = Answering(None, chosen, [done(one), done(other)])
    rows = principled(recipe("per_aspect"), QUALITY, writer, [], asked_queries(2)).rows
    safety, accuracy = QUALITY.aspect("Safety"), QUALITY.aspect("Accuracy")
    assert [row.writing for row in rows] == ["fallback", "fallback"]
    assert rows[0].positive_principle == f"Say Rayleigh.\n{safety.positive_principle}"
    assert rows[1].negative_principle == f"{accuracy.negative_principle}\n{safety.negative_principle}"


def test_extra_aspects_are_written_for_too():
    written = answer(Accuracy=("A.", "B."), Concision=("C.", "D."))
    writer = Answering(None, [done("Accuracy")], [done(written)])
    (row,) = principled(
        recipe("per_aspect", extra_rate=1.0, aspects_per_query=1), QUALITY, writer, [], asked_queries(1)
    ).rows
    assert (row.aspects, row.positive_principle, row.writing) == (["Accuracy", "Concision"], "A.\nC.", "ok")
    assert "- Concision (" in writer.prompts[1][0][-1]["content"]


def test_a_failure_to_choose_or_to_write_is_one_of_its_query():
    lost, late = Failure(WorkFailed("no choice")), Failure(WorkFailed("no pair"))
    chosen = [done("Accuracy, Safety"), lost, done("Accuracy, Safety")]
    written = answer(Accuracy=("A.", "B."), Safety=("C.", "D."))
    writer = Answering(None, chosen, [late, done(written)])
    found = principled(recipe("per_aspect"), QUALITY, writer, [], asked_queries(3))
    assert [row.id for row in found.rows] == ["q2"] and found.failures == {"q0": late, "q1": lost}


def test_a_guideline_stands_alone():
    writer = Answering(None, [done('{"good": "Say Rayleigh.", "bad": "Say it is paint."}')])
    (row,) = principled(recipe("guideline"), BRIEF, writer, [], asked_queries(1)).rows
    assert (row.aspects, row.choice, row.writing) == ([], "none", "ok")
    assert row.positive_prompt[0] == {"role": "system", "content": "Say Rayleigh."}
    assert row.negative_prompt[0] == {"role": "system", "content": "Say it is paint."}


def test_with_full_steering_a_guideline_is_to_be_kept_to_and_not_told():
    writer = Answering(None, [done('{"good": "Say Rayleigh.", "bad": "Say it is paint."}')])
    (row,) = principled(recipe("guideline"), QUALITY, writer, [], asked_queries(1)).rows
    said_to = row.positive_prompt[0]["content"]
    assert said_to.splitlines()[:2] == ["Keep to the following:", "Say Rayleigh."] and "Do not mention" in said_to


def test_a_query_without_a_guideline_is_made_as_with_fixed_principles():
    answers = [done("Blue light scatters."), done('{"good": "Say Rayleigh.", "bad": "Say it is paint."}')]
    writer = Answering(None, answers, [done("Logicality, Safety")])
    fallen, written = principled(recipe("guideline"), QUALITY, writer, [], asked_queries(2)).rows
    assert (fallen.id, fallen.aspects, fallen.choice) == ("q0", ["Logicality", "Safety"], "model")
    assert fallen.positive_principle.splitlines()[0] == QUALITY.aspect("Logicality").positive_principle
    assert (fallen.writing, written.writing, written.aspects) == ("fallback", "ok", [])


def test_a_failed_guideline_is_a_failure_and_so_is_a_failed_choice_in_its_place():
    lost, late = Failure(WorkFailed("no guideline")), Failure(WorkFailed("no choice"))
    writer = Answering(None, [lost, done("nothing")], [late])
    found = principled(recipe("guideline"), QUALITY, writer, [], asked_queries(2))
    assert found.rows == [] and found.failures == {"q0": lost, "q1": late}


def test_what_an_answer_that_was_cut_off_leaves_open_is_no_guideline():
    writer = Answering(None, [done('{"good": "Say Rayleigh.", "bad": "Say it is', "length")], [done("Safety")])
    (row,) = principled(recipe("guideline"), QUALITY, writer, [], asked_queries(1)).rows
    assert row.writing == "cut" and "Say it is" not in row.negative_principle


def test_a_reasoning_models_thoughts_are_no_principles_and_it_is_held_to_no_schema():
    chat = Chat(tokenizer_of("deepseek-r1"))
    text = '{"good": "A draft.", "bad": "B."} no</think>{"good": "Say Rayleigh.", "bad": "Say it is paint."}'
    writer = Answering(chat, [said(chat, text)])
    (row,) = principled(recipe("guideline"), QUALITY, writer, [chat], asked_queries(1)).rows
    assert row.positive_principle == "Say Rayleigh."
    assert writer.samplings[0].json_schema is None
    assert writer.samplings[0].max_new_tokens == 240 + Recipe().generation.max_new_tokens, "room to think"


@pytest.mark.parametrize("strategy", ["per_aspect", "guideline"])
def test_all_that_prompts_have_in_common_is_computed_once(strategy):
    chat = Chat(tokenizer_of("chatml"))
    writer = Answering(chat, *[[said(chat, "Safety")] * 2 for _ in range(2)])
    principled(recipe(strategy), QUALITY, writer, [chat], asked_queries(2))
    asked = 1 if strategy == "per_aspect" else 0
    prompt, prefix = chat.encode(writer.prompts[asked][0]), writer.prefixes[asked]
    assert prompt[: len(prefix)] == prefix
    rest = chat.tokenizer.decode(prompt[len(prefix) :])
    assert rest.lstrip().startswith("Why is the sky blue?"), "everything before the query"


def test_steered_prompts_have_the_form_of_the_policy_and_not_of_the_writer():
    policy, writer = Chat(tokenizer_of("gemma")), Answering(None, [done('{"good": "A.", "bad": "B."}')])
    assert policy.system_role == "folded"
    (row,) = principled(recipe("guideline"), BRIEF, writer, [policy], asked_queries(1)).rows
    assert [message["role"] for message in row.positive_prompt] == ["user"]


@pytest.mark.parametrize("strategy", ["per_aspect", "guideline"])
def test_the_scripted_backend_writes_what_is_asked_for(strategy):
    found = principled(recipe(strategy), QUALITY, ScriptedBackend(), [], asked_queries(3))
    assert [row.writing for row in found.rows] == ["ok"] * 3
    assert all("short" in row.positive_principle and "long" in row.negative_principle for row in found.rows)


def test_a_row_says_where_its_query_comes_from_in_few_words():
    query = asked_queries(1)[0]
    found = dataclasses.replace(query, source="x" * 999, provenance={"model": "m", "seeds": "s1, s2"})
    rows = principled(recipe("fixed"), BRIEF, ScriptedBackend(), [], [query, found]).rows
    assert [row.provenance for row in rows] == [
        {},
        {"source": "x" * 200, "query_model": "m", "query_seeds": "s1, s2"},
    ]
