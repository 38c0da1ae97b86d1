"""A LoRA-wrapped model shares prompts and scores like the model that it is."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model

from selfsteer.errors import ModelError
from selfsteer.logprobs import PromptRow, row_attention_on, score_responses, shares_prompts
from tests.logprobs.tiny import separate, tiny_model

ROWS = [PromptRow([5, 6, 7, 8, 9], [[12, 13, 2], [20, 21], [12, 2]]), PromptRow([30], [[31, 32, 33]])]
PACKED = 5 + 2 + 1 + 1 + 1 + 2  # each prompt once, each response less its last token


def wrap(model, zero_init):
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=zero_init)
    torch.manual_seed(1)
    return get_peft_model(model, config).eval()


@pytest.mark.parametrize("zero_init", [True, False], ids=["fresh adapters", "trained adapters"])
def test_scores_are_those_of_the_wrapped_model_and_prompts_are_shared(zero_init):
    with torch.no_grad():
        plain = torch.cat(separate(tiny_model("llama", torch.float32), ROWS))
        model = wrap(tiny_model("llama", torch.float32), zero_init)
        assert shares_prompts(model)
        score_responses(model, ROWS[:1])  # the first time, a few tokens more show how the head is used
        lengths = []
        model.get_base_model().model.embed_tokens.register_forward_pre_hook(
            lambda _, args: lengths.append(args[0].shape[1])
        )
        found = torch.cat(score_responses(model, ROWS)).double()
        assert lengths == [PACKED]
        assert found == pytest.approx(torch.cat(separate(model, ROWS)), abs=1e-5)
    assert ((found - plain).abs().max() < 1e-5) == zero_init


def test_attention_is_switched_under_the_wrapper_and_given_back():
    model = wrap(tiny_model("llama", torch.float32), True)
    inner = model.get_base_model()
    before = inner.config._attn_implementation
    with row_attention_on(model):
        assert inner.config._attn_implementation != before
    assert inner.config._attn_implementation == before


@pytest.mark.parametrize("config", [PromptTuningConfig, PrefixTuningConfig])
def test_an_adapter_with_virtual_tokens_is_refused(config):
    model = get_peft_model(tiny_model("llama", torch.float32), config(task_type="CAUSAL_LM", num_virtual_tokens=3))
    with pytest.raises(ModelError, match="virtual tokens"):
        score_responses(model, ROWS)
