"""The paper's models without their weights: shapes of the real configurations, prompts by their templates' forms."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from selfsteer.chat import Chat
from selfsteer.config import LoraSettings
from selfsteer.estimate import memory
from selfsteer.estimate.known_models import known_config
from selfsteer.estimate.model_shape import shape_of
from selfsteer.models.configs import outline
from selfsteer.principles import load_set, pair_for, steer, steering_message
from tests.chat_templates import tokenizer_of, user

MODELS = {"meta-llama/Llama-3.1-8B-Instruct": "llama3.1", "Qwen/Qwen2-7B-Instruct": "qwen2.5"}
ENDS = {"llama3.1": ["<eos>", "<|eom_id|>", "<|eot_id|>"], "qwen2.5": ["<|im_end|>", "<eos>"]}
"""By their generation_config.json; <eos> stands for Llama's <|end_of_text|> and Qwen's <|endoftext|>."""


@pytest.fixture(scope="module", params=MODELS)
def model(request, tmp_path_factory) -> tuple[str, Path]:
    """A folder with the real sizes, the form of the real template, and no weights."""
    name, family = request.param, MODELS[request.param]
    folder = tmp_path_factory.mktemp(family)
    last = {"llama3.1": "<|eot_id|>", "qwen2.5": "<|im_end|>"}[family]
    extra = ("<|eom_id|>",) if family == "llama3.1" else ()
    tokenizer = tokenizer_of(family, extra=extra, eos_token=last)
    tokenizer.save_pretrained(folder)
    ends = tokenizer.convert_tokens_to_ids(ENDS[family])
    (folder / "config.json").write_text(json.dumps({**known_config(name), "eos_token_id": ends[0]}))
    (folder / "generation_config.json").write_text(
        json.dumps({"eos_token_id": ends, "temperature": 0.6, "do_sample": True})
    )
    return name, folder


def test_its_shape_is_that_of_the_real_model(model):
    name, folder = model
    shape = shape_of(outline(str(folder)))
    llama = "Llama" in name
    assert (shape.parameters, shape.tied) == (8_030_261_248 if llama else 7_615_616_512, False)
    d, kv, inner, layers, vocabulary = (4096, 1024, 14336, 32, 128256) if llama else (3584, 512, 18944, 28, 152064)
    assert (shape.hidden, shape.key_width, shape.intermediate, shape.layers, shape.vocabulary) == (
        d, kv, inner, layers, vocabulary,
    )  # fmt: skip
    # q and o are d x d, k and v d x kv, three products of the MLP d x inner.
    assert shape.active == layers * (2 * d * d + 2 * d * kv + 3 * d * inner)
    assert shape.lora(LoraSettings(r=16)) == layers * 16 * (2 * 2 * d + 2 * (d + kv) + 3 * (d + inner))
    assert shape.lora(LoraSettings(r=8, target_modules=["q_proj", "v_proj"])) == layers * 8 * (2 * d + d + kv)


def test_its_memory_in_a_full_fine_tuning(model):
    """Masters, gradients and two Adam states in float32: 16 bytes a weight, a share of it on each GPU."""
    _, folder = model
    shape = shape_of(outline(str(folder)))
    full = memory.tuning(shape, None)
    found = {
        (strategy, devices): memory.training_memory(
            shape, full, strategy, devices, tokens=4096, predicted=2048, precision="bfloat16", checkpointing=True,
            device="cuda",
        )
        for strategy, devices in (("ddp", 1), ("fsdp", 8), ("zero-2", 8))
    }  # fmt: skip
    states = {key: one.weights + one.gradients + one.optimiser for key, one in found.items()}
    assert states["ddp", 1] == 16 * shape.parameters and states["fsdp", 8] == 2 * shape.parameters
    assert states["zero-2", 8] == (4 + 12 / 8) * shape.parameters
    assert found["ddp", 1].total > 120e9 > 80e9 > found["fsdp", 8].total


def test_its_prompts_begin_and_end_as_its_template_says(model):
    name, folder = model
    chat = Chat.load(str(folder))
    assert chat.system_role == "native" and chat.thinking is None
    text = chat.tokenizer.decode(chat.encode(user("Hi", system="Be brief.")))
    if "Llama" in name:
        assert text.startswith("<bos><|start_header_id|>system<|end_header_id|>\n\n") and text.count("<bos>") == 1
        assert text.endswith("<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n")
    else:
        assert (
            text == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        )
    names = [chat.tokenizer.convert_ids_to_tokens(id) for id in chat.end_ids]
    assert names[0] == ("<|eot_id|>" if "Llama" in name else "<|im_end|>"), "what ends a turn comes first"
    assert set(names) == set(ENDS[MODELS[name]])


def test_its_answers_end_with_the_end_of_a_turn_and_a_cut_one_does_not(model):
    _, folder = model
    chat = Chat.load(str(folder))
    prompt, (whole, cut) = chat.encode_answers(user("Hi"), [("Hello", True), ("Hel", False)])
    assert prompt == chat.encode(user("Hi"))
    assert whole[-1] == chat.end_ids[0] and chat.decode(whole) == "Hello"
    assert chat.decode(cut) == "Hel" and not set(cut) & set(chat.end_ids)


def test_its_three_prompts_share_the_query_and_differ_in_the_principle(model):
    _, folder = model
    chat, principles = Chat.load(str(folder)), load_set("quality")
    pair = pair_for(principles, [principles.choosable[0].name])
    plain = user("How do I boil an egg?")
    texts = [chat.tokenizer.decode(chat.encode(plain))]
    for sign in ("positive", "negative"):
        steered = steer(plain, steering_message(pair, sign), chat.system_role)
        texts.append(chat.tokenizer.decode(chat.encode(steered)))
        assert steered[0]["role"] == "system" and steered[0]["content"] in texts[-1]
    assert len(set(texts)) == 3 and all("How do I boil an egg?" in text for text in texts)
