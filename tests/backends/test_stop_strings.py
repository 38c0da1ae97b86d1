"""Stop strings: a completion that is stopped early is the one that is cut afterwards."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfsteer.backends import Completion, Sampling, stop_place
from selfsteer.backends.base import cut_tokens_at_stop
from selfsteer.backends.transformers import TransformersBackend
from selfsteer.chat import Chat
from selfsteer.errors import SelfsteerWarning
from tests.backends.chat_server import completion, failure
from tests.backends.test_endpoint_backend import backend_on
from tests.backends.tiny import tiny_llama, tiny_model
from tests.chat_templates import tokenizer_of, user

PROMPTS = [user(text) for text in ("Hi", "Zebra?", "Why is the sky blue, and the evening red?", "42")]
LONG = Sampling(40, temperature=0.0, top_p=1.0)


@pytest.fixture(scope="module")
def chat() -> Chat:
    return Chat(tokenizer_of("chatml"))


def stops_of(texts: list[str]) -> list[tuple[str, ...]]:
    """Return stop strings that end some of the texts, of one character and of several, over token boundaries."""
    longest = max(texts, key=len)
    return [(longest[6],), (longest[3:6], longest[9:15]), ("never \u2603 there",), (texts[0][:2],)]


@pytest.mark.parametrize("architecture", ["llama", "mamba"])
def test_a_completion_stopped_early_is_the_one_cut_afterwards(chat, architecture):
    changes = {"intermediate_size": 64, "state_size": 4} if architecture == "mamba" else {}
    model = tiny_model(architecture, chat.tokenizer, **changes) if changes else tiny_llama(chat.tokenizer)
    backend = TransformersBackend(model, chat)
    free = backend.generate(PROMPTS, LONG, seed=0)
    for stop in stops_of([one.text for one in free]):
        found = backend.generate(PROMPTS, dataclasses.replace(LONG, stop=stop), seed=0)
        assert found == [cut_tokens_at_stop(one, stop, chat.decode) for one in free]
        for one, whole in zip(found, free, strict=True):
            place = stop_place(whole.text, stop)
            assert one.text == whole.text[:place]
            assert one.finish == (whole.finish if place is None else "stop")


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_a_sampled_completion_too(chat, top_p):
    backend = TransformersBackend(tiny_llama(chat.tokenizer), chat)
    sampling = Sampling(40, temperature=0.9, top_p=top_p)
    free = {seed: backend.generate(PROMPTS[:1], sampling, seed=seed)[0] for seed in range(8)}
    long = {seed: one for seed, one in free.items() if len(one.text) > 15}
    assert len(long) > 2
    for seed, one in long.items():
        for stop in stops_of([one.text]):
            stopping = dataclasses.replace(sampling, stop=stop)
            assert backend.generate(PROMPTS[:1], stopping, seed=seed) == [cut_tokens_at_stop(one, stop, chat.decode)]


def test_no_token_is_computed_after_a_stop_string(chat):
    backend = TransformersBackend(tiny_llama(chat.tokenizer), chat)
    steps: list[int] = []
    backend.model.register_forward_pre_hook(
        lambda module, args, kwargs: steps.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    [free] = backend.generate(PROMPTS[:1], LONG, seed=0)
    del steps[:]
    [found] = backend.generate(PROMPTS[:1], dataclasses.replace(LONG, stop=(free.text[5:7],)), seed=0)
    assert len(steps) == len(found.token_ids) < len(free.token_ids)


def test_ids_end_with_the_token_that_completes_the_string():
    decode = "".join
    words = ["one", " two", " thr", "ee", " four"]
    whole = Completion(decode(words), "length", words)
    cut = cut_tokens_at_stop(whole, ["o three"], decode)
    assert (cut.text, cut.token_ids, cut.finish) == ("one tw", words[:4], "stop")
    assert cut_tokens_at_stop(whole, ["five"], decode) == whole


def test_the_string_that_is_complete_first_ends_a_text():
    assert stop_place("xabcd", ["abcd", "bc"]) == 2
    assert stop_place("xabcd", ["bc", "abc"]) == 1  # both are complete at once
    assert stop_place("xabcd", []) is None


@given(st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=3), max_size=3))
def test_the_place_does_not_depend_on_what_follows(text, stop):
    places = [stop_place(text[:end], stop) for end in range(len(text) + 1)]
    known = [place for place in places if place is not None]
    assert len(set(known)) <= 1
    assert places == [None] * (len(places) - len(known)) + known


def test_a_server_gets_the_strings_and_its_answer_is_cut_all_the_same(serve):
    server = serve(lambda body, count: completion("one two three", "length"))
    sampling = dataclasses.replace(LONG, stop=(" two", "Q:"))
    [found] = backend_on(server).generate(PROMPTS[:1], sampling, seed=0)
    assert server.bodies[0]["stop"] == [" two", "Q:"]
    assert (found.text, found.finish) == ("one", "stop")


def test_a_server_that_takes_no_stop_strings_answers_without_them(serve):
    def answer(body, count):
        return failure(400, "Unsupported parameter: 'stop'.") if "stop" in body else completion("one two", "stop")

    with pytest.warns(SelfsteerWarning, match="refuses stop"):
        [found] = backend_on(serve(answer)).generate(PROMPTS[:1], dataclasses.replace(LONG, stop=(" two",)), seed=0)
    assert found.text == "one"
