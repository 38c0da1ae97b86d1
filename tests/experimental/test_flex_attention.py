"""FlexAttention over rows equals attention segment by segment; its CUDA kernels can't run here, their inputs can."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selfsteer.errors import SelfsteerWarning
from selfsteer.experimental import flex_attention as flex
from selfsteer.logprobs import PromptRow, row_attention_on, score_responses
from selfsteer.logprobs.packing import Layout
from selfsteer.logprobs.row_attention import row_attention
from tests.logprobs.layouts import by_definition, layouts
from tests.logprobs.test_shared_rows import ROWS, close, gradients
from tests.logprobs.tiny import separate, tiny_model

LONG = Layout((100, 3), ((50, 0, 60), (90, 129)))
CASES = {
    "plain": {},
    "windowed": {"sliding_window": 70},
    "capped": {"softcap": 1.5},
    "scaled, windowed and capped": {"scaling": 0.7, "sliding_window": 5, "softcap": 2.0},
}


@pytest.fixture
def dense(monkeypatch):
    """Let FlexAttention compute densely without tracing, and with gradients, which torch refuses on a CPU."""
    monkeypatch.setattr(torch.nn.attention.flex_attention, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True, raising=False)
    monkeypatch.setattr(torch.nn.attention.flex_attention, "_validate_device", lambda *tensors: None, raising=False)


@pytest.fixture
def on_any_device(dense, monkeypatch):
    monkeypatch.setattr(
        "selfsteer.logprobs.row_attention._fused",
        lambda *tensors, dropout, **options: None if dropout else flex.flex_rows,
    )


@pytest.fixture
def compiled(on_any_device, monkeypatch):
    """Let it go through tracing and compilation as on CUDA, but for the kernels."""
    torch._dynamo.reset()
    monkeypatch.setattr(flex, "flex_attention", flex._compiled("aot_eager"))


@pytest.fixture
def graphs(monkeypatch):
    """What gets compiled, as it is compiled."""
    torch._dynamo.reset()
    made = []
    monkeypatch.setattr(flex, "flex_attention", flex._compiled(lambda graph, _inputs: made.append(graph) or graph))
    return made


def asked(layout, sliding_window):
    """(T, T) from the mask function."""
    tokens = torch.arange(sum(layout.sizes))
    return flex.row_mask(layout, "cpu", sliding_window)(tokens, tokens, tokens[:, None], tokens[None, :])


def inputs(dtype=torch.float64, heads=4, key_heads=2):
    torch.manual_seed(0)
    length = sum(LONG.sizes)
    return [torch.randn(1, n, length, 8, dtype=dtype, requires_grad=True) for n in (heads, key_heads, key_heads)]


@settings(max_examples=60, deadline=None)
@given(layouts, st.none() | st.integers(1, 9))
def test_the_mask_is_that_of_the_definition(layout, sliding_window):
    assert torch.equal(asked(layout, sliding_window), by_definition(layout, sliding_window))


@pytest.mark.parametrize("sliding_window", [None, 70])
def test_the_blocks_that_are_computed_are_those_with_something_allowed(sliding_window):
    length = sum(LONG.sizes)  # no multiple of the block
    allowed = torch.zeros(512, 512, dtype=torch.bool)
    allowed[:length, :length] = by_definition(LONG, sliding_window)
    blocks = flex._block_mask(LONG, sliding_window, torch.device("cpu")).to_dense()[0, 0].bool()
    assert torch.equal(blocks, allowed.view(4, 128, 4, 128).any(dim=3).any(dim=1))
    assert not blocks.all()


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (6, 2)])
@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_are_those_of_attention_by_segments(case, heads, dense):
    options = {"scaling": None, "sliding_window": None, "softcap": None} | CASES[case]
    tensors = inputs(heads=heads[0], key_heads=heads[1])
    found = flex.flex_rows(*tensors, LONG, **options)
    wanted, _ = row_attention(torch.nn.Module(), *tensors, None, selfsteer_layout=LONG, **options)
    assert found.shape == wanted.shape and found.is_contiguous()
    assert close(found, wanted, 1e-12)
    weights = torch.randn_like(wanted)
    pairs = (torch.autograd.grad((output * weights).sum(), tensors) for output in (found, wanted))
    assert all(close(one, other, 1e-12) for one, other in zip(*pairs, strict=True))


def test_it_runs_as_torch_means_it_to_run():
    """Through torch's own checks and tracing, which the other tests leave out."""
    tensors = [tensor.detach().float() for tensor in inputs()]
    options = {"scaling": None, "sliding_window": 70, "softcap": 2.0}
    wanted, _ = row_attention(torch.nn.Module(), *tensors, None, selfsteer_layout=LONG, **options)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "flex_attention called without torch.compile")
        assert close(flex.flex_rows(*tensors, LONG, **options), wanted, 1e-5)


def test_autocast_makes_the_inputs_of_one_type(dense):
    query, key, value = (tensor.detach().float() for tensor in inputs())
    options = {"scaling": None, "sliding_window": None, "softcap": None}
    wanted = flex.flex_rows(query.bfloat16(), key.bfloat16(), value.bfloat16(), LONG, **options)
    with torch.autocast("cpu", torch.bfloat16):  # as after rotary embeddings: float32 queries and keys
        found = flex.flex_rows(query, key, value.bfloat16(), LONG, **options)
    assert found.dtype == torch.bfloat16 and torch.equal(found, wanted)


def test_a_mask_made_in_inference_mode_serves_training(dense):
    flex._block_mask.cache_clear()
    options = {"scaling": None, "sliding_window": None, "softcap": None}
    with torch.inference_mode():
        flex.flex_rows(*inputs(), LONG, **options)
    tensors = inputs()
    flex.flex_rows(*tensors, LONG, **options).sum().backward()
    assert flex._block_mask.cache_info().misses == 1 and all(tensor.grad is not None for tensor in tensors)


@pytest.mark.parametrize("name", ["llama", "qwen3", "mistral", "gemma2", "gemma3_text"])
def test_a_model_gives_the_log_probs_and_gradients_of_separate_sequences(name, on_any_device):
    model = tiny_model(name, torch.float32)
    expected, found = separate(model, ROWS), score_responses(model, ROWS)
    assert close(torch.cat(found).double(), torch.cat(expected), 1e-5)
    wanted, got = gradients(model, expected), gradients(model, found)
    assert all(close(got[key], value, 1e-5) for key, value in wanted.items())


@pytest.mark.parametrize(("name", "windows"), [("llama", 1), ("mistral", 1), ("gemma2", 2)])
def test_a_mask_is_made_once_for_all_layers_that_look_equally_far(name, windows, on_any_device):
    model = tiny_model(name, torch.float32)
    with torch.no_grad():
        score_responses(model, ROWS)
        flex._block_mask.cache_clear()
        score_responses(model, ROWS)
    assert flex._block_mask.cache_info().misses == windows


def test_dropout_is_left_to_the_other_way(on_any_device, monkeypatch):
    monkeypatch.setattr(flex, "flex_rows", lambda *tensors, **options: pytest.fail("reached FlexAttention"))
    tensors = inputs()
    row_attention(torch.nn.Module(), *tensors, None, dropout=0.1, selfsteer_layout=LONG)
    with pytest.raises(pytest.fail.Exception, match="reached"):
        row_attention(torch.nn.Module(), *tensors, None, selfsteer_layout=LONG)


def test_gradient_checkpointing_recomputes_the_same_whatever_is_compiled_in_it(compiled, monkeypatch):
    model = tiny_model("gemma2", torch.float32).train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    for rows in (ROWS, [PromptRow([5, 6, 7] * 60, [[8, 9, 10, 2], [11] * 30])], ROWS[:2]):
        with row_attention_on(model):
            got = gradients(model, score_responses(model, rows))
            with monkeypatch.context() as patch:
                patch.setattr("selfsteer.logprobs.row_attention._fused", lambda *tensors, **options: None)
                wanted = gradients(model, score_responses(model, rows))
        assert all(close(got[key], value, 1e-5) for key, value in wanted.items())


def test_one_kernel_serves_any_rows_and_windows(graphs):
    for window, layout in enumerate([LONG, *flex._TRIALS, Layout((200, 9), ((7, 150), (0, 0, 40)))], start=50):
        tensors = [torch.randn(1, 2, sum(layout.sizes), 8) for _ in range(3)]
        window = None if window % 2 else window
        flex.flex_rows(*tensors, layout, scaling=8**-0.5, sliding_window=window, softcap=None)
    assert len(graphs) == 2  # the first length, then any


def test_more_kernels_are_compiled_than_torch_would(graphs):
    with torch._dynamo.config.patch(cache_size_limit=2):
        for heads in range(1, 5):
            tensors = [torch.randn(1, heads, sum(LONG.sizes), 8) for _ in range(3)]
            flex.flex_rows(*tensors, LONG, scaling=None, sliding_window=None, softcap=None)
    assert len(graphs) == 4


class OnGPU:
    """What supports() asks a tensor, without a GPU."""

    is_cuda = True
    device = torch.device("cuda", 0)

    def __init__(self, heads=8, length=300, dim=64, dtype=torch.bfloat16):
        self.shape, self.dtype = (1, heads, length, dim), dtype


@pytest.mark.parametrize(
    ("changed", "dropout", "supported"),
    [
        ({}, 0.0, True),
        ({"dim": 96, "heads": 7}, 0.0, True),
        ({"dtype": torch.float16}, 0.0, True),
        ({}, 0.1, False),
        ({"dim": 8}, 0.0, False),
        ({"dim": 320}, 0.0, False),
        ({"length": 128}, 0.0, False),
        ({"dtype": torch.float32}, 0.0, False),
        ({"dtype": torch.float64}, 0.0, False),
    ],
)
def test_what_is_supported_on_cuda(changed, dropout, supported, monkeypatch):
    monkeypatch.setattr(flex, "_capable", lambda device: True)
    monkeypatch.setattr(flex, "_passes_trial", lambda *asked: True)
    tensors = [OnGPU(**changed) for _ in range(3)]
    assert flex.supports(*tensors, scaling=None, softcap=None, dropout=dropout) is supported


@pytest.mark.parametrize("name", ["_capable", "_passes_trial"])
def test_a_board_that_is_too_old_or_fails_the_trial_is_not_supported(name, monkeypatch):
    monkeypatch.setattr(flex, "_capable", lambda device: name != "_capable")
    monkeypatch.setattr(flex, "_passes_trial", lambda *asked: name != "_passes_trial")
    assert not flex.supports(*(OnGPU() for _ in range(3)), scaling=None, softcap=None, dropout=0.0)


def test_nothing_is_supported_on_a_cpu():
    assert not flex.supports(*inputs(torch.bfloat16), scaling=None, softcap=None, dropout=0.0)


TRIAL = (torch.device("cpu"), torch.bfloat16, (4, 2, 16, 16), 0.3, 2.0)


def test_the_trial_passes_in_the_middle_of_inference_and_of_checkpointing(dense):
    flex._passes_trial.cache_clear()
    state = torch.get_rng_state()

    def inside(x):
        assert flex._passes_trial(*TRIAL)
        return x.sin()

    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert flex._passes_trial(*TRIAL)
    flex._passes_trial.cache_clear()
    x = torch.ones(2, requires_grad=True)
    torch.utils.checkpoint.checkpoint(inside, x, use_reentrant=False).sum().backward()
    assert torch.equal(state, torch.get_rng_state()) and flex._passes_trial.cache_info().misses == 1


@pytest.mark.parametrize("wrong", ["raises", "is off", "is not a number"])
def test_a_kernel_that_fails_the_trial_is_left_alone_with_one_warning(wrong, dense, monkeypatch):
    right = flex.flex_rows

    def kernel(*tensors, **options):
        if wrong == "raises":
            raise RuntimeError("out of resource: shared memory\nand more")
        return right(*tensors, **options) * (1.1 if wrong == "is off" else float("nan"))

    flex._passes_trial.cache_clear()
    monkeypatch.setattr(flex, "flex_rows", kernel)
    told = r"RuntimeError: out of resource: shared memory\) on cpu" if wrong == "raises" else "is off by"
    with pytest.warns(SelfsteerWarning, match=told):
        assert not flex._passes_trial(*TRIAL)
    assert not flex._passes_trial(*TRIAL)
    flex._passes_trial.cache_clear()


def test_it_is_imported_only_for_tensors_on_a_gpu():
    code = "import sys, selfsteer.policy; print('selfsteer.experimental.flex_attention' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
