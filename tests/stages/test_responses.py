"""What the data stages compute: a reasoning model's thoughts beside its answers."""

from __future__ import annotations

import pytest

from selfsteer.backends import Completion, Failure
from selfsteer.chat import Chat
from selfsteer.config import Recipe
from selfsteer.contrast import Request
from selfsteer.errors import WorkFailed
from selfsteer.principles import load_set
from selfsteer.records import ROLES, Response
from selfsteer.stages.principle_strategies import principled
from selfsteer.stages.responses import sample
from selfsteer.stages.scores import joined
from tests.chat_templates import tokenizer_of, user
from tests.run_helpers import Answering, asked_queries, said

QUALITY = load_set("quality")


def _recipe(**roles):
    return Recipe.model_validate({"generation": {"temperature": 0.5, "top_p": 0.9, "roles": roles}})


def test_a_batch_of_several_roles_is_one_call_for_each_way_of_sampling():
    batch = [
        Request("a", "positive", user("p")),
        Request("b", "original", user("o")),
        Request("a", "negative", user("n")),
    ]
    recipe = _recipe(original={"temperature": 0}, negative={"temperature": 0.5})
    backend = Answering(None, [Completion("p", "stop"), Completion("n", "stop")], [Completion("o", "stop")])
    done = sample(recipe, backend, batch, seed=7)
    assert [(one.temperature, one.top_p) for one in backend.samplings] == [(0.5, 0.9), (0.0, 0.9)]
    assert {(row.id, row.role): row.text for row in done.rows} == {
        ("a", "positive"): "p", ("a", "negative"): "n", ("b", "original"): "o",
    }  # fmt: skip
    assert backend.seeds[0] == 7 != backend.seeds[1]


def test_a_batch_that_is_sampled_alike_is_one_call_with_the_batchs_seed():
    batch = [Request("a", role, user(role)) for role in ROLES]
    backend = Answering(None, [Completion(role, "stop") for role in ROLES])
    sample(_recipe(), backend, batch, seed=7, shared_prefix=[1])
    assert (backend.seeds, backend.prefixes) == ([7], [[1]])


def test_a_failure_keeps_its_role_where_roles_are_sampled_apart():
    batch = [Request("a", "positive", user("p")), Request("a", "original", user("o"))]
    failure = Failure(WorkFailed("no"))
    backend = Answering(None, [Completion("p", "stop")], [failure])
    done = sample(_recipe(original={"top_p": 1.0}), backend, batch, seed=7)
    assert done.failures == {("a", "original"): failure} and [row.role for row in done.rows] == ["positive"]


@pytest.mark.parametrize("apart", [True, False])
def test_thoughts_are_kept_apart_from_the_answer_and_their_opening_is_closed(apart):
    chat = Chat(tokenizer_of("deepseek-r1"))
    writer = Answering(chat, [said(chat, "Accuracy, Safety")])
    (row,) = principled(Recipe(), QUALITY, writer, [chat], asked_queries(1)).rows
    found = said(chat, "It scatters.</think>\n\nBlue light scatters most.")
    responses = {
        (row.id, role): Response(row.id, role, found.text, "stop", found.token_ids, found.prompt_token_ids)
        for role in ROLES
    }
    (contrast,) = joined(
        [row], responses, principle_set=QUALITY, chat=chat, thinking_apart=apart, round=1, provenance={}
    )
    assert found.prompt_token_ids is not None and contrast.prompt_token_ids is not None
    added = chat.tokenizer.decode(contrast.prompt_token_ids[len(found.prompt_token_ids) :])
    if apart:
        assert contrast.positive_thinking == "It scatters."
        assert contrast.positive_response == "Blue light scatters most."
        assert chat.decode(contrast.response_ids("positive")) == "Blue light scatters most."
        assert added == "\n</think>\n\n"
    else:
        assert contrast.positive_thinking == "" and contrast.positive_response.startswith("It scatters.")
        assert contrast.positive_token_ids == found.token_ids and added == ""


@pytest.mark.parametrize("apart", [True, False])
def test_the_prompt_of_a_response_that_was_not_sampled_is_made_like_those_of_the_others(apart):
    chat = Chat(tokenizer_of("qwen3"))
    writer = Answering(chat, [said(chat, "Accuracy, Safety")])
    (row,) = principled(Recipe(), QUALITY, writer, [chat], asked_queries(1)).rows
    found = said(chat, "<think>\nhm\n</think>\n\nHi")
    responses = {
        (row.id, role): Response(row.id, role, found.text, "stop", found.token_ids, chat.encode(row.positive_prompt))
        for role in ("positive", "negative")
    }
    (contrast,) = joined(
        [row], responses, roles=("positive", "negative"), principle_set=None, chat=chat, thinking_apart=apart,
        round=1, provenance={},
    )  # fmt: skip
    for ids in (contrast.prompt_token_ids, contrast.positive_prompt_token_ids):
        assert chat.tokenizer.decode(ids).endswith("<think>\n\n</think>\n\n" if apart else "assistant\n")
    assert contrast.original_finish == "absent" and contrast.original_token_ids == []
