"""The chunked head: the log-probs and gradients of log-softmax over the model's own logits, without holding those."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaForCausalLM

from selfsteer.errors import SelfsteerWarning
from selfsteer.logprobs import PromptRow, score_responses
from selfsteer.logprobs import chunked_head as head_module
from selfsteer.logprobs.chunked_head import CHUNK_LOGITS, LogitTransform, token_logps
from selfsteer.logprobs.packing import pack
from tests.logprobs.tiny import separate, tiny_model

ROWS = [PromptRow([5, 6, 7], [[8, 9, 2], [10]]), PromptRow([11], [[12, 13, 14, 15]])]
TRANSFORMS = [LogitTransform(), LogitTransform(scale=0.25), LogitTransform(2.0, softcap=1.5)]


@pytest.fixture(params=[1, 3, 100], ids=lambda tokens: f"{tokens} tokens a chunk")
def chunks(request: Any, monkeypatch: Any) -> int:
    monkeypatch.setitem(CHUNK_LOGITS, "cpu", request.param * 61)
    return request.param


def plain(hidden: Tensor, head: torch.nn.Linear, transform: LogitTransform, targets: Tensor) -> Tensor:
    logits = head(hidden) * transform.scale
    if transform.softcap is not None:
        logits = transform.softcap * torch.tanh(logits / transform.softcap)
    return torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), -1).gather(
        1, targets[:, None]
    )[:, 0]


@pytest.mark.parametrize("transform", TRANSFORMS, ids=["plain", "scaled", "scaled and capped"])
@pytest.mark.parametrize("bias", [False, True])
def test_values_and_gradients_are_those_of_log_softmax(chunks, transform, bias):
    torch.manual_seed(0)
    head = torch.nn.Linear(7, 61, bias=bias, dtype=torch.float64)
    hidden, targets = torch.randn(8, 7, dtype=torch.float64), torch.randint(0, 61, (8,))
    upstream = torch.randn(8, dtype=torch.float64)
    results = []
    for compute in (
        lambda h: token_logps(head, transform, h, targets, original=head.forward),
        lambda h: plain(h, head, transform, targets),
    ):
        own = hidden.clone().requires_grad_()
        logps = compute(own)
        results.append([logps, *torch.autograd.grad((logps * upstream).sum(), [own, *head.parameters()])])
    for one, other in zip(*results, strict=True):
        assert (one - other).abs().max() <= 1e-12 * other.abs().max()


def test_a_frozen_head_passes_gradients_on_and_takes_none(chunks):
    head = torch.nn.Linear(7, 61, bias=False).requires_grad_(False)
    hidden, targets = torch.randn(8, 7, requires_grad=True), torch.randint(0, 61, (8,))
    token_logps(head, LogitTransform(), hidden, targets, original=head.forward).sum().backward()
    assert head.weight.grad is None
    assert hidden.grad.abs().sum() > 0


def test_under_autocast_products_are_bfloat16_and_gradients_have_the_weights_precision(chunks):
    torch.manual_seed(0)
    head = torch.nn.Linear(16, 61, bias=False)
    hidden, targets = torch.randn(8, 16, requires_grad=True), torch.randint(0, 61, (8,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = token_logps(head, LogitTransform(), hidden, targets, original=head.forward)
        expected = plain(hidden, head, LogitTransform(), targets)
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, atol=1e-6)
    found.sum().backward()
    (gradient,) = torch.autograd.grad(plain(hidden.detach(), head, LogitTransform(), targets).sum(), [head.weight])
    assert head.weight.grad.dtype == torch.float32
    assert (head.weight.grad - gradient).abs().max() < 0.02 * gradient.abs().max()


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("gemma2", {"final_logit_softcapping": 1.5}),
        ("cohere", {"logit_scale": 0.25}),
        ("granite", {"logits_scaling": 4.0}),
        ("qwen2", {"tie_word_embeddings": True}),
        ("llama", {}),
    ],
)
def test_models_are_scored_with_their_own_cap_and_scale(chunks, name, overrides, all_float64):
    model = tiny_model(name, **overrides)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SelfsteerWarning)
        found = torch.cat(score_responses(model, ROWS))
    expected = torch.cat(separate(model, ROWS))
    assert (found - expected).abs().max() <= 1e-9 * expected.abs().max()
    weights = torch.linspace(0.5, 1.5, len(found), dtype=found.dtype)
    gradients = [torch.autograd.grad((sums * weights).sum(), list(model.parameters())) for sums in (found, expected)]
    for one, other in zip(*gradients, strict=True):
        assert (one - other).abs().max() <= 1e-9 * other.abs().max().clamp(min=1e-12)


def test_an_adapter_on_the_head_is_used_and_trained(chunks, all_float64):
    model = get_peft_model(tiny_model("llama"), LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights=False))
    model = model.double()
    found, expected = torch.cat(score_responses(model, ROWS)), torch.cat(separate(model, ROWS))
    assert (found - expected).abs().max() <= 1e-9 * expected.abs().max()
    trained = [p for p in model.parameters() if p.requires_grad]
    for one, other in zip(*(torch.autograd.grad(sums.sum(), trained) for sums in (found, expected)), strict=True):
        assert (one - other).abs().max() <= 1e-9 * other.abs().max()


class DoublesItsLogits(LlamaForCausalLM):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        output.logits = output.logits * 2
        return output


def test_a_model_with_logits_of_its_own_is_scored_by_them_with_one_warning():
    model = DoublesItsLogits(tiny_model("llama").config).double().eval()
    with pytest.warns(SelfsteerWarning, match="DoublesItsLogits changes its logits in a way that its configuration"):
        found = torch.cat(score_responses(model, ROWS))
    expected = torch.cat(separate(model, ROWS))
    assert (found - expected).abs().max() <= 1e-9 * expected.abs().max()


class LargestVocabularyTensor(TorchDispatchMode):
    """Records the most elements of any tensor with a dimension of the vocabulary's size."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary, self.found = vocabulary, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (list, tuple)) else [result]:
            if isinstance(tensor, Tensor) and self.vocabulary in tensor.shape:
                self.found = max(self.found, tensor.numel())
        return result


def test_trying_a_models_logits_out_draws_nothing_from_trainings_random_numbers():
    """It happens once a model: a resumed training would else drop other units than an unbroken one."""
    model = tiny_model("llama", attention_dropout=0.5).train()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with head_module.head_in_chunks(model) as chunked:
        assert chunked
    assert torch.equal(torch.get_rng_state(), before)


def test_logits_are_never_held_for_more_than_a_chunk(monkeypatch):
    monkeypatch.setitem(CHUNK_LOGITS, "cpu", 4 * 997)
    model = tiny_model("llama", torch.float32, vocab_size=997)
    row = PromptRow([5, 6, 7], [list(range(10, 100)), list(range(50, 120))])
    score_responses(model, [row])[0].sum().backward()
    with LargestVocabularyTensor(997) as watched:
        score_responses(model, [row])[0].sum().backward()
    weight = model.lm_head.weight.numel()
    assert 4 * 997 <= watched.found <= max(weight, 4 * 997)
    assert watched.found < len(row.responses[0]) * 997


def test_the_models_own_forward_is_given_back():
    model = tiny_model("llama")
    score_responses(model, ROWS)
    assert "forward" not in model.__dict__
    assert "forward" not in model.lm_head.__dict__
    wrapped = model.forward
    model.forward = wrapped  # as accelerate leaves it
    score_responses(model, ROWS)
    assert model.forward is wrapped


def test_training_follows_scoring_in_inference_mode(monkeypatch):
    monkeypatch.setattr(head_module._buffers, "held", {})  # as in a process that scores first
    model = tiny_model("llama", torch.float32)
    with torch.inference_mode():
        score_responses(model, ROWS)
    torch.cat(score_responses(model, ROWS)).sum().backward()
    assert model.lm_head.weight.grad.abs().sum() > 0


# --- a wide head


@pytest.mark.parametrize("bias", [False, True])
def test_a_wide_head_is_float32_arithmetic_on_the_models_bfloat16_hidden_states(chunks, bias):
    model = tiny_model("llama", torch.bfloat16)
    if bias:
        model.lm_head.bias = torch.nn.Parameter(torch.linspace(-1, 1, 61, dtype=torch.bfloat16))
    seen: list[Tensor] = []
    model.model.register_forward_hook(lambda _module, _inputs, output: seen.append(output.last_hidden_state[0]))
    packed, head = pack(ROWS, torch.device("cpu")), copy.deepcopy(model.lm_head).float()
    with torch.no_grad():
        wide = torch.cat(score_responses(model, ROWS, wide_head=True))
        logps = plain(seen[-1][packed.predictors].float(), head, LogitTransform(), packed.targets)
        narrow = torch.cat(score_responses(model, ROWS))
    expected = torch.stack([part.sum() for part in logps.split(packed.counts)])
    assert wide.dtype == narrow.dtype == torch.float32
    assert torch.allclose(wide, expected, rtol=0, atol=1e-5)
    assert (wide - narrow).abs().min() > 1e-4
    assert model.lm_head.weight.dtype == torch.bfloat16


def test_a_wide_head_changes_nothing_in_float32(chunks):
    model = tiny_model("gemma2", torch.float32, final_logit_softcapping=1.5)
    wide, plain = (torch.cat(score_responses(model, ROWS, wide_head=wide)) for wide in (True, False))
    assert torch.equal(wide, plain)


def test_a_wide_head_has_gradients_in_the_weights_precision(chunks):
    torch.manual_seed(0)
    head = torch.nn.Linear(16, 61, dtype=torch.bfloat16)
    hidden = torch.randn(8, 16).bfloat16().requires_grad_()
    targets, transform = torch.randint(0, 61, (8,)), LogitTransform(softcap=1.5)
    token_logps(head, transform, hidden, targets, original=head.forward, wide=True).sum().backward()
    wide = copy.deepcopy(head).float()
    own = hidden.detach().float().requires_grad_()
    plain(own, wide, transform, targets).sum().backward()
    for found, expected in ((hidden, own), (head.weight, wide.weight), (head.bias, wide.bias)):
        assert found.grad.dtype == torch.bfloat16
        assert (found.grad.float() - expected.grad).abs().max() <= 0.02 * expected.grad.abs().max()


def test_under_autocast_a_wide_head_stays_float32(chunks):
    torch.manual_seed(0)
    head = torch.nn.Linear(16, 61, bias=False)
    hidden, targets = torch.randn(8, 16), torch.randint(0, 61, (8,))
    expected = plain(hidden, head, LogitTransform(), targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = token_logps(head, LogitTransform(), hidden, targets, original=head.forward, wide=True)
    assert torch.allclose(found, expected, atol=1e-6)
