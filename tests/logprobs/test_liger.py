"""Liger's cross-entropy kernel gives plain torch's log-probs and gradients.

Without a GPU it runs in Triton's interpreter: ``TRITON_INTERPRET=1 pytest tests/logprobs/test_liger.py``.
"""

from __future__ import annotations

import importlib
import os
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec

import pytest
import torch

from selfsteer.logprobs import liger
from selfsteer.logprobs.chunked_head import CHUNK_LOGITS, LogitTransform, token_logps

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
runs = pytest.mark.skipif(
    not (find_spec("liger_kernel") and find_spec("triton") and (INTERPRETED or torch.cuda.is_available())),
    reason="needs liger-kernel with triton, and a GPU or TRITON_INTERPRET=1",
)
DEVICE = "cpu" if INTERPRETED else "cuda"
tl = importlib.import_module("triton.language") if find_spec("triton") else None


def tanh(x):
    return 2.0 * tl.sigmoid(2.0 * x) - 1.0


@pytest.fixture
def softcap(monkeypatch):
    """A cap that the interpreter takes: it knows no float arguments, nor CUDA's tanh."""
    if not INTERPRETED:
        return 2.0
    compiled = importlib.import_module("triton").jit(tanh)
    monkeypatch.setattr(importlib.import_module("liger_kernel.ops.cross_entropy"), "tanh", compiled)
    return 2


def expected(logits, targets, upstream, softcap=None, scale=1.0):
    """Log-probs and gradient by torch, float64."""
    raw = logits.double().requires_grad_()
    capped = scale * raw if softcap is None else softcap * torch.tanh(scale * raw / softcap)
    logps = capped.log_softmax(dim=1).gather(1, targets[:, None])[:, 0]
    return logps.detach(), torch.autograd.grad((logps * upstream).sum(), raw)[0]


def chunk(tokens, vocabulary):
    torch.manual_seed(0)
    logits = torch.randn(tokens, vocabulary) * 3
    return [t.to(DEVICE) for t in (logits, torch.randint(vocabulary, (tokens,)), torch.randn(tokens))]


def check(logits, targets, upstream, **options):
    wanted, wanted_gradient = expected(logits, targets, upstream, **options)
    before, scale = logits.clone(), options.get("scale", 1.0)
    found = liger.logps(scale * logits, targets, softcap=options.get("softcap"))
    assert found.shape == wanted.shape and torch.allclose(found.double(), wanted, rtol=1e-5, atol=1e-5)
    assert torch.equal(logits, before)
    gradient = liger.gradient(logits, targets, upstream, **options)
    assert torch.allclose(gradient.double(), wanted_gradient, rtol=1e-5, atol=1e-6)
    assert gradient.data_ptr() == logits.data_ptr() and not gradient.requires_grad


@runs
@pytest.mark.parametrize("shape", [(1, 2), (5, 37), (3, 1000), (2, 40_000)])  # the last needs two blocks a row
def test_log_probs_and_the_gradient_in_place(shape):
    check(*chunk(*shape))


@runs
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_a_soft_cap_and_a_scale(softcap, scale):
    check(*chunk(4, 37), softcap=softcap, scale=scale)
    check(*chunk(4, 37), scale=scale)


@runs
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_the_chunked_head_computes_with_it(monkeypatch, scale):
    monkeypatch.setattr(liger, "usable", lambda logits: True)
    for device in CHUNK_LOGITS:
        monkeypatch.setitem(CHUNK_LOGITS, device, 3 * 37)
    hidden, targets, upstream = chunk(8, 16)
    targets = targets + 21
    head = torch.nn.Linear(16, 37, bias=False).to(DEVICE)
    leaf = hidden.clone().requires_grad_()
    found = token_logps(head, LogitTransform(scale), leaf, targets, original=head.forward)
    (found * upstream).sum().backward()
    wanted, logits_gradient = expected(head(hidden).detach(), targets, upstream, scale=scale)
    assert torch.allclose(found.double(), wanted, rtol=1e-5, atol=1e-5)
    for gradient, other in (
        (leaf.grad, logits_gradient @ head.weight.double()),
        (head.weight.grad, logits_gradient.T @ hidden.double()),
    ):
        assert torch.allclose(gradient.double(), other, rtol=1e-4, atol=1e-5)


@runs
def test_a_row_of_a_larger_buffer():
    logits, targets, upstream = chunk(6, 50)
    check(logits[2:5], targets[2:5], upstream[2:5])


@runs
def test_half_precision_is_computed_in_float32():
    logits, targets, upstream = chunk(5, 37)
    half = logits.bfloat16()
    wanted, wanted_gradient = expected(half, targets, upstream)
    with torch.inference_mode():
        found = liger.logps(half, targets)
    assert found.dtype == torch.float32 and torch.allclose(found.double(), wanted, rtol=1e-5, atol=1e-5)
    gradient = liger.gradient(half, targets, upstream)
    assert gradient.dtype == torch.bfloat16
    assert torch.allclose(gradient.double(), wanted_gradient, rtol=2**-6, atol=1e-6)  # rounded twice


@runs
def test_it_serves_in_the_backward_pass_of_a_function():
    class Logps(torch.autograd.Function):
        @staticmethod
        def forward(ctx, logits, targets):
            ctx.save_for_backward(logits, targets)
            return liger.logps(logits, targets)

        @staticmethod
        def backward(ctx, upstream):
            logits, targets = ctx.saved_tensors
            return liger.gradient(logits.clone(), targets, upstream), None

    logits, targets, upstream = chunk(5, 37)
    _, wanted = expected(logits, targets, upstream)
    (Logps.apply(logits.requires_grad_(), targets) * upstream).sum().backward()
    assert torch.allclose(logits.grad.double(), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_without_a_gpu_it_is_not_available():
    liger.available.cache_clear()
    assert not liger.available() and not liger.usable(torch.zeros(2, 3))


@pytest.mark.parametrize(("installed", "expected"), [(None, False), ("0.6.0", False), ("0.8.5", True), ("0.10", True)])
def test_with_a_gpu_it_is_available_where_the_package_is_new_enough(installed, expected, monkeypatch):
    def version(name):
        if installed is None:
            raise PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(liger, "version", version)
    liger.available.cache_clear()
    assert liger.available() is expected
    liger.available.cache_clear()
