"""The transformers backend: exact padding, an exact shared prefix, and samples of the policy itself."""

from __future__ import annotations

import pytest
import torch

from selfsteer.backends import Sampling, shared_prefix
from selfsteer.backends.transformers import TransformersBackend
from selfsteer.chat import Chat
from selfsteer.errors import ModelError
from tests.backends.tiny import tiny_llama, tiny_model
from tests.chat_templates import tokenizer_of, user

GREEDY = Sampling(8, temperature=0.0, top_p=1.0)
SAMPLED = Sampling(8, temperature=0.9, top_p=0.9)
SYSTEM = "Choose the aspects that matter most for an answer to this query."
PROMPTS = [user(text, SYSTEM) for text in ("Hi", "Zebra?", "Why is the sky blue, and the evening red?", "42")]


@pytest.fixture(scope="module")
def chat() -> Chat:
    return Chat(tokenizer_of("chatml"))


@pytest.fixture
def backend(chat) -> TransformersBackend:
    return TransformersBackend(tiny_llama(chat.tokenizer), chat)


@pytest.fixture
def forwards(backend):
    """The shape of each forward pass of the model, (batch, tokens)."""
    shapes: list[tuple[int, ...]] = []
    backend.model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    return shapes


def tokens(completions):
    return [completion.token_ids for completion in completions]


def greedy_by_hand(model, ids: list[int], count: int, ends: tuple[int, ...]) -> list[int]:
    """No cache, no padding, no batch: one whole forward pass a token."""
    made: list[int] = []
    while len(made) < count and not set(made) & set(ends):
        with torch.inference_mode():
            made.append(int(model(torch.tensor([ids + made])).logits[0, -1].argmax()))
    return made


def test_greedy_decoding_is_the_likeliest_token_step_by_step(backend, chat):
    expected = [greedy_by_hand(backend.model, chat.encode(prompt), 8, chat.end_ids) for prompt in PROMPTS]
    assert tokens(backend.generate(PROMPTS, GREEDY, seed=0)) == expected
    assert tokens(backend.generate(PROMPTS, GREEDY, seed=1)) == expected


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED, Sampling(8, temperature=0.9, top_p=1.0)])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_end_in_one_message(chat, backend, sampling, value):
    backend.model.config.name_or_path = "a/model"
    with torch.no_grad():
        backend.model.lm_head.weight[3] = value
    with pytest.raises(ModelError, match="the logits of a/model are NaN or infinite") as caught:
        backend.generate(PROMPTS, sampling, seed=0)
    assert "float16" in caught.value.do


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma2"])
def test_padding_is_exact(chat, architecture):
    backend = TransformersBackend(tiny_model(architecture, chat.tokenizer), chat)
    one_by_one = [backend.generate([prompt], GREEDY, seed=0)[0] for prompt in PROMPTS]
    assert backend.generate(PROMPTS, GREEDY, seed=0) == one_by_one


def test_a_completion_is_cut_after_its_end_token_whatever_the_others_do(chat):
    model = tiny_llama(chat.tokenizer)
    free = TransformersBackend(model, chat).generate(PROMPTS, GREEDY, seed=0)
    end = free[0].token_ids[2]  # now let a token end the first completion while others go on
    ended = TransformersBackend(model, Chat(chat.tokenizer, [end])).generate(PROMPTS, GREEDY, seed=0)
    cut = [ids[: ids.index(end) + 1] if end in ids else ids for ids in tokens(free)]
    assert tokens(ended) == cut
    assert [c.finish for c in ended] == ["stop" if end in ids else "length" for ids in cut]
    assert len({len(ids) for ids in cut}) > 1


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("shared", [False, True], ids=["alone", "shared prefix"])
def test_rows_that_have_ended_are_computed_no_further(chat, forwards, backend, sampling, shared):
    free = tokens(backend.generate(PROMPTS, sampling, seed=0))
    backend = TransformersBackend(backend.model, Chat(chat.tokenizer, [free[0][2]]))
    del forwards[:]
    prefix = shared_prefix(chat, PROMPTS[0], PROMPTS[1]) if shared else []
    found = tokens(backend.generate(PROMPTS, sampling, seed=0, shared_prefix=prefix))
    rows = [size for size, width in forwards if width == 1]
    # The first token comes of the prompt; a row is then computed once for every further token.
    assert sum(rows) == sum(len(ids) - 1 for ids in found) < len(PROMPTS) * 7
    assert found == tokens(backend.generate(PROMPTS, sampling, seed=0, shared_prefix=prefix))


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "mistral"])
def test_what_the_others_say_does_not_depend_on_rows_that_have_ended(chat, architecture):
    """Under a sliding window as well, and beyond it."""
    changes = {} if architecture == "llama" else {"sliding_window": 24}
    model = tiny_model(architecture, chat.tokenizer, **changes)
    free = tokens(TransformersBackend(model, chat).generate(PROMPTS, Sampling(40, 0.0, 1.0), seed=0))
    for end in (free[0][1], free[1][3], free[2][6]):
        backend = TransformersBackend(model, Chat(chat.tokenizer, [end]))
        found = tokens(backend.generate(PROMPTS, Sampling(40, 0.0, 1.0), seed=0))
        assert found == [ids[: ids.index(end) + 1] if end in ids else ids for ids in free]


def test_a_recurrent_model_keeps_its_ended_rows(chat):
    """Its states can't be taken apart by row here; what it says must be right all the same."""
    model = tiny_model("mamba", chat.tokenizer, intermediate_size=64, state_size=4)
    free = TransformersBackend(model, chat).generate(PROMPTS, GREEDY, seed=0)
    end = free[0].token_ids[2]
    found = TransformersBackend(model, Chat(chat.tokenizer, [end])).generate(PROMPTS, GREEDY, seed=0)
    assert tokens(found) == [ids[: ids.index(end) + 1] if end in ids else ids for ids in tokens(free)]


def test_temperature_and_top_p_have_their_say(backend):
    greedy = tokens(backend.generate(PROMPTS, GREEDY, seed=0))
    assert tokens(backend.generate(PROMPTS, Sampling(8, temperature=1e-4, top_p=1.0), seed=0)) == greedy
    assert tokens(backend.generate(PROMPTS, Sampling(8, temperature=1.0, top_p=1e-6), seed=0)) == greedy
    assert tokens(backend.generate(PROMPTS, Sampling(8, temperature=1.0, top_p=1.0), seed=0)) != greedy


def test_no_token_is_out_of_reach_at_top_p_1(chat):
    """transformers would keep the 50 likeliest only, unless told otherwise."""
    backend = TransformersBackend(tiny_llama(chat.tokenizer), chat)
    with torch.no_grad():
        backend.model.lm_head.weight.mul_(1e-3)  # every token is about as likely as every other
    found = {ids[0] for seed in range(6) for ids in tokens(backend.generate([PROMPTS[0]] * 64, SAMPLED, seed=seed))}
    assert len(found) > 150


# --- the shared prefix


def test_the_shared_prefix_is_computed_once_and_gives_the_same_tokens(backend, chat, forwards):
    prefix = shared_prefix(chat, PROMPTS[0], PROMPTS[1])
    assert len(prefix) > 60
    plain = backend.generate(PROMPTS, GREEDY, seed=0)
    for expected in ([(1, len(prefix))], [], []):
        del forwards[:]
        assert backend.generate(PROMPTS, GREEDY, seed=0, shared_prefix=prefix) == plain
        widest = max(len(chat.encode(prompt)) for prompt in PROMPTS) - len(prefix)
        assert [shape for shape in forwards if shape[1] > 1] == [*expected, (len(PROMPTS), widest)]


def test_the_kept_prefix_serves_batches_of_any_size_and_another_prefix_takes_its_place(backend, chat):
    other = [user(text, "Quite another instruction.") for text in ("Hi", "Zebra?")]
    for prompts in (PROMPTS, PROMPTS[:1], other, PROMPTS[:2]):
        prefix = shared_prefix(chat, prompts[0], [*prompts[0][:1], *user("~")])
        plain = backend.generate(prompts, GREEDY, seed=0)
        assert backend.generate(prompts, GREEDY, seed=0, shared_prefix=prefix) == plain


def test_samples_with_a_shared_prefix_are_reproducible(backend, chat):
    prefix = shared_prefix(chat, PROMPTS[0], PROMPTS[1])
    one, two = (backend.generate(PROMPTS, SAMPLED, seed=4, shared_prefix=prefix) for _ in range(2))
    assert one == two


@pytest.mark.parametrize("kind", ["foreign", "a whole prompt"])
def test_a_prefix_that_some_prompt_does_not_go_on_from_is_left_aside(backend, chat, forwards, kind):
    prefix = [5, 6, 7] if kind == "foreign" else chat.encode(PROMPTS[0])
    plain = backend.generate(PROMPTS[:1], GREEDY, seed=0)
    del forwards[:]
    assert backend.generate(PROMPTS[:1], GREEDY, seed=0, shared_prefix=prefix) == plain
    assert forwards[0] == (1, len(chat.encode(PROMPTS[0])))


@pytest.mark.parametrize("window", [24, 400])
def test_a_shared_prefix_is_exact_under_a_sliding_window(chat, window):
    """The window counts the padding between prefix and rest, which would hide part of the prefix."""
    backend = TransformersBackend(tiny_model("mistral", chat.tokenizer, sliding_window=window), chat)
    prefix = shared_prefix(chat, PROMPTS[0], PROMPTS[1])
    plain = backend.generate(PROMPTS, GREEDY, seed=0)
    assert backend.generate(PROMPTS, GREEDY, seed=0, shared_prefix=prefix) == plain
    alone = backend.generate(PROMPTS[1:2], GREEDY, seed=0, shared_prefix=prefix)
    assert alone == plain[1:2]


# --- the policy itself is sampled from


LEAKY = {
    "top_k": 1,
    "repetition_penalty": 5.0,
    "no_repeat_ngram_size": 1,
    "min_new_tokens": 8,
    "suppress_tokens": list(range(100, 260)),
}


def test_a_models_own_generation_defaults_do_not_leak_into_the_samples(chat):
    plain, leaky = tiny_llama(chat.tokenizer), tiny_llama(chat.tokenizer)
    leaky.generation_config.update(**LEAKY)
    for sampling in (GREEDY, SAMPLED):
        one, other = (TransformersBackend(m, chat).generate(PROMPTS, sampling, seed=3) for m in (plain, leaky))
        assert one == other


def test_a_model_keeps_its_generation_defaults(chat, monkeypatch):
    """They are saved with the policy later: its end tokens stand there."""
    model = tiny_llama(chat.tokenizer)
    model.generation_config.update(**LEAKY)
    own, before = model.generation_config, model.generation_config.to_dict()
    backend = TransformersBackend(model, chat)
    backend.generate(PROMPTS, SAMPLED, seed=0)
    assert model.generation_config is own and own.to_dict() == before
    monkeypatch.setattr(model, "forward", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        backend.generate(PROMPTS, SAMPLED, seed=0)
    assert model.generation_config is own


def test_a_lora_policy_answers_with_its_adapter_and_keeps_its_defaults_too(chat):
    from peft import LoraConfig, get_peft_model

    model = tiny_llama(chat.tokenizer)
    start = TransformersBackend(model, chat).generate(PROMPTS, GREEDY, seed=0)
    model.generation_config.update(**LEAKY)
    own = model.generation_config
    policy = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"])).eval()
    backend = TransformersBackend(policy, chat)
    assert backend.generate(PROMPTS, GREEDY, seed=0) == start  # a fresh adapter changes nothing
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.5)
    assert backend.generate(PROMPTS, GREEDY, seed=0) != start
    assert model.generation_config is own and policy.generation_config is own


def test_a_tokenizer_without_a_pad_token_is_padded_with_an_end_token(chat):
    bare = Chat(tokenizer_of("chatml", pad_token=None))
    model = tiny_llama(chat.tokenizer)
    found, expected = (TransformersBackend(model, c).generate(PROMPTS, GREEDY, seed=0) for c in (bare, chat))
    assert found == expected


def test_the_context_is_what_the_configuration_says(chat):
    assert TransformersBackend(tiny_llama(chat.tokenizer, max_position_embeddings=99), chat).context == 99


def test_a_batch_does_not_depend_on_longer_ones_before_it_where_positions_depend_on_the_length(chat):
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}

    def fresh() -> TransformersBackend:
        model = tiny_model("llama", chat.tokenizer, max_position_embeddings=8, rope_parameters=rope)
        return TransformersBackend(model, chat)

    used = fresh()
    used.generate([user("A long query. " * 20)], GREEDY, seed=0)
    assert tokens(used.generate(PROMPTS[:1], SAMPLED, seed=3)) == tokens(fresh().generate(PROMPTS[:1], SAMPLED, seed=3))
