"""What the parts of benchmarks/gpu.py share: sizes, random models, measuring, which attention runs."""

from __future__ import annotations

import dataclasses
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from measuring import synchronize
from memory import forget_peak, peak_gb
from transformers import AutoConfig, AutoModelForCausalLM

from selfsteer.experimental import flex_attention
from selfsteer.logprobs import row_attention, view_cells
from selfsteer.views import SSO_VIEWS

Row = dict[str, Any]
"""What a case returns, all of it optional: seconds, memory_gb (the peak; in the parts head and attention above what is
held before, on a CPU the process's), tokens_s, share (of the bfloat16 matrix product's rate), logp_gap (nats), grad_gap
(largest difference over the largest entry), loss, gradient_norm, note; status where it is not "ok".
"""
Cases = Iterator[tuple[str, Callable[[], Row]]]
CELLS = view_cells(SSO_VIEWS)
PAD = SimpleNamespace(pad_token_id=0)
"""What ways.Plain needs of a tokenizer."""


@dataclasses.dataclass(frozen=True)
class Scale:
    """How large everything is; ``shapes`` are those of Qwen2.5-1.5B and Qwen2-7B, or tiny ones of the same names."""

    device: str
    shapes: dict[str, dict[str, Any]]
    attention: dict[str, Any]
    row: tuple[int, int]  # tokens of a prompt and of a response, for the attention alone
    head: tuple[int, int, int]  # tokens, width, vocabulary
    step: tuple[int, int, int]  # examples of a step, tokens of a prompt and of a response
    product: int  # rows of the matrix product
    repeats: int


def _shape(
    width: int, mlp: int, layers: int, heads: int, key_heads: int, vocabulary: int, tied: bool
) -> dict[str, Any]:
    return {
        "hidden_size": width, "intermediate_size": mlp, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": key_heads, "vocab_size": vocabulary, "tie_word_embeddings": tied,
        "max_position_embeddings": 32768,
    }  # fmt: skip


_SMALL = _shape(64, 128, 2, 4, 2, 512, True)
FULL = Scale(
    "cuda",
    {
        "1.5B": _shape(1536, 8960, 28, 12, 2, 151936, True),
        "7B": _shape(3584, 18944, 28, 28, 4, 152064, False),
    },
    # Wider weights than at a start, so that scores differ and a wrong mask would show.
    _shape(1536, 8960, 8, 12, 2, 32000, True) | {"initializer_range": 0.04},
    row=(400, 600), head=(8192, 1536, 151936), step=(4, 200, 300), product=8192, repeats=3,
)  # fmt: skip
TINY = Scale(
    "cpu", {"1.5B": _SMALL, "7B": _SMALL | {"tie_word_embeddings": False}}, _SMALL | {"initializer_range": 0.2},
    row=(40, 60), head=(256, 32, 1000), step=(2, 12, 16), product=256, repeats=1,
)  # fmt: skip


class Measured(NamedTuple):
    """The result of the last call, the median seconds of a call, and the peak memory in 10^9 bytes.

    ``memory_gb`` is the peak above what was held before the calls, ``peak_gb`` the whole of it.
    """

    result: Any
    seconds: float
    memory_gb: float
    peak_gb: float

    @property
    def figures(self) -> Row:
        """The time and the memory, as columns of a row."""
        return {"seconds": self.seconds, "memory_gb": self.memory_gb}


def measured(run: Callable[[], Any], scale: Scale) -> Measured:
    """Call ``run`` once to warm up (kernels are compiled then), then ``scale.repeats`` times."""
    run()
    held = 0.0
    if scale.device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated() / 1e9
    else:
        forget_peak()
    seconds = []
    for _ in range(scale.repeats):
        result = None  # the one before is not part of the next one's memory
        synchronize(scale.device)
        started = time.perf_counter()
        result = run()
        synchronize(scale.device)
        seconds.append(time.perf_counter() - started)
    peak = torch.cuda.max_memory_allocated() / 1e9 if scale.device == "cuda" else peak_gb()
    return Measured(result, statistics.median(seconds), peak - held, peak)


def random_model(shape: dict[str, Any], device: str) -> Any:
    """Build a Qwen2 of this shape with random float32 weights, drawn on the device."""
    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen2", **shape)).float()


def free() -> None:
    """Give back what a case left, also after an error."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def attending(how: str) -> Iterator[list[str]]:
    """Attend with "flex", by "segments", or as the package "chooses"; yields the names of the kernels that ran."""
    used: list[str] = []
    choose = {
        "flex": lambda *_, **__: flex_attention.flex_rows,
        "segments": lambda *_, **__: None,
        "chooses": row_attention._fused,
    }[how]

    def fused(*tensors: Any, **settings: Any) -> Any:
        found = choose(*tensors, **settings)
        used[:] = ["FlexAttention"] if found else []
        return found

    with ExitStack() as patches:
        patches.enter_context(patch.object(row_attention, "_fused", fused))
        if not torch.cuda.is_available():  # torch refuses gradients on a CPU, and computes them if it is let
            library = torch.nn.attention.flex_attention
            patches.enter_context(patch.object(library, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True, create=True))
            patches.enter_context(patch.object(library, "_validate_device", lambda *_: None, create=True))
        yield used
