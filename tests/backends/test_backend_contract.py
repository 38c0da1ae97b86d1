"""What every backend promises (selfsteer/backends/base.py), tried on each. A new backend is one more line here."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch

from selfsteer.backends import Backend, Sampling, shared_prefix
from selfsteer.backends.endpoint import EndpointBackend
from selfsteer.backends.scripted import ScriptedBackend
from selfsteer.backends.transformers import TransformersBackend
from selfsteer.chat import Chat
from selfsteer.config import EndpointSettings
from tests.backends.chat_server import ChatServer, scripted
from tests.backends.tiny import tiny_llama
from tests.backends.vllm_engines import SMALL, copy_with_defaults, served
from tests.chat_templates import tokenizer_of, user

PROMPTS = [
    user("Hi"),
    user("Why is the sky blue, and why is it red in the evening?", "Answer in one short sentence."),
    user("Name three rivers.", "Be verbose."),
    user("Hi", "Be verbose."),
    [*user("Hi"), {"role": "assistant", "content": "Hello."}, *user("And now?")],
]
SAMPLING = Sampling(12, temperature=1.0, top_p=0.95)
GREEDY = Sampling(12, temperature=0.0, top_p=1.0)


def transformers_backend() -> Backend:
    tokenizer = tokenizer_of("chatml")
    letters = range(40, 60)  # a random model would hardly ever end by one token of 260
    return TransformersBackend(tiny_llama(tokenizer), Chat(tokenizer, letters))


def endpoint_backend() -> Backend:
    return EndpointBackend(EndpointSettings(model="scripted", base_url=ChatServer(scripted).url))


@contextmanager
def vllm_backend() -> Iterator[Backend]:
    from selfsteer.backends.vllm import VllmBackend
    from selfsteer.models import load_tokenizer, resolve

    source = resolve("smollm2-135m")
    tokenizer = load_tokenizer(source)
    with closing(VllmBackend(source, Chat(tokenizer, commas(tokenizer)), dtype="float32", options=SMALL)) as backend:
        yield backend


@contextmanager
def vllm_server() -> Iterator[Backend]:
    from selfsteer.models import load_tokenizer, resolve

    source = resolve("smollm2-135m")
    tokenizer = load_tokenizer(source)
    with TemporaryDirectory() as folder:
        ends = [tokenizer.eos_token_id, *commas(tokenizer)]
        model = copy_with_defaults(source, Path(folder, "model"), eos_token_id=ends)
        with served(model, Path(folder, "log"), name="small") as url:
            yield EndpointBackend(EndpointSettings(model="small", base_url=url))


def commas(tokenizer) -> list[int]:
    """Return tokens that end a sentence or a part of one: in a few words, the model hardly ever ends its turn."""
    return [tokenizer.convert_tokens_to_ids(sign) for sign in ".,!?:"]


BACKENDS: dict[str, Callable[[], AbstractContextManager[Backend]]] = {
    "scripted": lambda: nullcontext(ScriptedBackend()),
    "transformers": lambda: nullcontext(transformers_backend()),
    "endpoint": lambda: nullcontext(endpoint_backend()),
}
ENGINES = {"vllm": vllm_backend, "vllm-serve": vllm_server} if find_spec("vllm") else {}


@pytest.fixture(scope="module", params=[*BACKENDS, *(pytest.param(name, marks=pytest.mark.vllm) for name in ENGINES)])
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def backend(kind) -> Iterator[Backend]:
    with (BACKENDS | ENGINES)[kind]() as backend:
        yield backend


def certain(kind: str, completions) -> list:
    """Return what must be equal from call to call: of an engine's texts, only how they begin.

    Its rounding depends on what else is in a batch and in its prefix cache, and one token that turns out otherwise
    changes all that follow.
    """
    return [completion.text[:8] for completion in completions] if kind in ENGINES else list(completions)


def size(completion) -> int:
    """Tokens, or words where the backend has no tokens."""
    return len(completion.text.split() if completion.token_ids is None else completion.token_ids)


def test_it_has_a_name_for_provenance(backend):
    assert backend.name in BACKENDS | ENGINES


def test_one_completion_a_prompt(backend):
    for count in (0, 1, len(PROMPTS)):
        assert len(backend.generate(PROMPTS[:count], SAMPLING, seed=0)) == count


def test_completions_come_in_the_order_of_their_prompts(backend, kind):
    forth = backend.generate(PROMPTS, GREEDY, seed=0)
    back = backend.generate(PROMPTS[::-1], GREEDY, seed=0)
    assert certain(kind, forth) == certain(kind, back[::-1])
    assert len(set(map(str, certain(kind, forth)))) > 1


def test_the_same_seed_gives_the_same_completions_to_the_token(backend, kind):
    if kind in ENGINES:
        pytest.skip("an engine is promised the same requests, not to give the same texts (see test_vllm_backend.py)")
    first = backend.generate(PROMPTS, SAMPLING, seed=7)
    torch.rand(3), random.random()
    assert backend.generate(PROMPTS, SAMPLING, seed=7) == first


def test_another_seed_gives_other_texts(backend, kind):
    one, other = (backend.generate(PROMPTS, SAMPLING, seed=seed) for seed in (1, 2))
    # A trained model may well greet twice with the same word.
    enough = any if kind in ENGINES else all
    assert enough(a.text != b.text for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("limit", [1, 3, 30])
def test_no_completion_is_longer_than_asked_and_a_cut_one_is_just_as_long(backend, kind, limit):
    for seed in range(3):
        for completion in backend.generate(PROMPTS, Sampling(limit, 1.0, 1.0), seed=seed):
            assert size(completion) <= limit
            # The server's words are not its tokens, which it keeps to itself.
            assert size(completion) == limit or completion.finish == "stop" or kind == "vllm-serve"


def test_both_finishes_turn_up(backend):
    """Guards the tests around it: they would pass idly if every completion ended alike."""
    found = [completion for seed in range(3) for completion in backend.generate(PROMPTS, SAMPLING, seed=seed)]
    assert {completion.finish for completion in found} == {"stop", "length"}


def test_finish_is_stop_if_and_only_if_the_last_token_is_an_end_token(backend):
    ends = set(backend.chat.end_ids) if backend.chat else set()
    found = [completion for seed in range(4) for completion in backend.generate(PROMPTS, SAMPLING, seed=seed)]
    for completion in (completion for completion in found if completion.token_ids is not None):
        assert (completion.finish == "stop") == (completion.token_ids[-1] in ends)
        assert not ends & set(completion.token_ids[:-1])


def test_token_ids_and_text_go_together(backend):
    for prompt, completion in zip(PROMPTS, backend.generate(PROMPTS, SAMPLING, seed=3), strict=True):
        if backend.chat is None:
            assert (completion.token_ids, completion.prompt_token_ids) == (None, None)
        else:
            assert backend.chat.decode(completion.token_ids) == completion.text
            assert backend.chat.encode(prompt) == completion.prompt_token_ids


def test_a_stop_string_ends_a_completion_before_it(backend, kind):
    free = backend.generate(PROMPTS, GREEDY, seed=0)
    stop = max((one.text for one in free), key=len)[4:6]
    found = backend.generate(PROMPTS, replace(GREEDY, stop=(stop,)), seed=0)
    cut = [one.text.partition(stop)[0] for one in free]
    assert [one[:4] for one in cut] == [one.text[:4] for one in found]
    assert kind in ENGINES or [one.text for one in found] == cut != [one.text for one in free]
    assert not any(stop in one.text for one in found)
    assert all(one.finish == "stop" for one, whole in zip(found, free, strict=True) if stop in whole.text)


def test_a_shared_prefix_changes_nothing(backend, kind):
    prompts = [user(text, "Choose among these aspects: safety, accuracy.") for text in ("Hi", "Zebra?", "A B C D E")]
    prefix = shared_prefix(backend.chat, *prompts[:2])
    plain = certain(kind, backend.generate(prompts, GREEDY, seed=0))
    for _ in range(2):
        assert certain(kind, backend.generate(prompts, GREEDY, seed=0, shared_prefix=prefix)) == plain


def test_longer_prompts_are_longer_and_the_context_is_a_limit_or_none(backend):
    assert 0 < backend.length(user("Hi")) < backend.length(user("Hi there, how are you?"))
    assert backend.context is None or backend.context > backend.length(PROMPTS[1])


def test_it_leaves_the_prompts_and_the_global_random_states_alone(backend):
    prompts = copy.deepcopy(PROMPTS)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    backend.generate(prompts, SAMPLING, seed=5)
    assert prompts == PROMPTS
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]


def test_what_two_prompts_share_at_their_start():
    chat = Chat(tokenizer_of("chatml"))
    one, other = user("Apple", "Be brief."), user("Zebra", "Be brief.")
    prefix = shared_prefix(chat, one, other)
    assert chat.tokenizer.decode(prefix) == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"
    assert shared_prefix(chat, one, one) == chat.encode(one)
    assert shared_prefix(None, one, other) == []


def test_the_scripted_backend_does_what_the_principle_asks_for():
    """Its rows must show a direction, so that a dry run of a recipe keeps some."""
    asked = [[user(f"Question {i}?", f"Be {word}.") for i in range(20)] for word in ("concise", "verbose")]
    short, long = (ScriptedBackend().generate(prompts, Sampling(500, 1.0, 1.0), seed=0) for prompts in asked)
    assert max(map(size, short)) < min(map(size, long))
    assert {completion.finish for completion in short + long} == {"stop"}
