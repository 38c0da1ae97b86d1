"""What the data stages compute: a reasoning model's thoughts in the choice of aspects, and beside its answers."""

from __future__ import annotations

import pytest

from selfsteer.backends import Completion, Failure
from selfsteer.chat import Chat
from selfsteer.config import Recipe
from selfsteer.errors import WorkFailed
from selfsteer.loop import work
from selfsteer.principles import load_set
from selfsteer.records import ROLES, Query, Response

from ..chat_templates import tokenizer_of, user

QUALITY = load_set("quality")


class Answering:
    """A backend that gives prepared outcomes, and remembers how many tokens it was asked for."""

    name, context = "answering", None

    def __init__(self, chat, *outcomes):
        self.chat, self.outcomes, self.samplings = chat, outcomes, []

    def generate(self, prompts, sampling, *, seed, shared_prefix=()):
        self.samplings.append(sampling)
        return self.outcomes

    def length(self, prompt):
        return len(prompt)


def queries(count):
    return [Query(f"q{number}", user("Why is the sky blue?")) for number in range(count)]


def said(chat, text, family_prompt=None):
    ids = chat.tokenizer.encode(text, add_special_tokens=False)
    return Completion(text, "stop", [*ids, chat.end_ids[0]], chat.encode(family_prompt or user("Hi")))


def test_aspects_that_a_model_merely_thought_of_are_not_chosen():
    chat = Chat(tokenizer_of("deepseek-r1"))
    answers = [
        said(chat, "Safety? No, rather</think>\nAccuracy, Logicality"),
        said(chat, "Safety, Engagement, and then I ran out of tok"),
    ]
    backend = Answering(chat, *answers)
    done = work.principled(Recipe(), QUALITY, backend, queries(2))
    assert [(row.aspects[:2], row.choice) for row in done.rows] == [
        (["Accuracy", "Logicality"], "model"),
        ([*QUALITY.fallback][:2], "fallback"),
    ]
    assert backend.samplings[0].max_new_tokens == Recipe().generation.max_new_tokens, "room to think"


def test_a_model_that_does_not_think_gets_few_tokens_to_choose():
    chat = Chat(tokenizer_of("chatml"))
    backend = Answering(chat, said(chat, "Accuracy, Safety"))
    assert work.principled(Recipe(), QUALITY, backend, queries(1)).rows[0].aspects[:2] == ["Accuracy", "Safety"]
    assert backend.samplings[0].max_new_tokens < 100


def test_a_choice_that_failed_is_a_failure_of_its_query():
    failure = Failure(WorkFailed("the server answers with status 500"))
    backend = Answering(None, failure, Completion("Accuracy, Safety", "stop"))
    done = work.principled(Recipe(), QUALITY, backend, queries(2))
    assert [row.id for row in done.rows] == ["q1"] and done.failures == {"q0": failure}


@pytest.mark.parametrize("apart", [True, False])
def test_thoughts_are_kept_apart_from_the_answer_and_their_opening_is_closed(apart):
    chat = Chat(tokenizer_of("deepseek-r1"))
    (row,) = work.principled(Recipe(), QUALITY, Answering(chat, said(chat, "Accuracy, Safety")), queries(1)).rows
    found = said(chat, "It scatters.</think>\n\nBlue light scatters most.")
    responses = {
        (row.id, role): Response(row.id, role, found.text, "stop", found.token_ids, found.prompt_token_ids)
        for role in ROLES
    }
    (contrast,) = work.joined(
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
