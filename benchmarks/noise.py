"""What bfloat16 adds to the log-prob of a token, which part of the model adds it, and what float32 there would save.

    python benchmarks/noise.py                                    # made-up examples, a policy off its reference by 1 %
    python benchmarks/noise.py --examples FILE --policy FOLDER    # examples in the authors' format, a trained policy

Errors are against float32, in nats per token of a response: their mean and their root mean square (RMS), of the
policy's log-probs and of the difference between policy and reference, which the losses take.

1. The training's own arithmetic, under autocast.
2. All in float32, but the values named are rounded to bfloat16: what goes into linear layers (inputs), their weights,
   what comes out of them (outputs).
3. Autocast again, but the head, then one kind of linear layer after the other as well, in float32.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from train_step import load_pair

from selfsteer.logprobs import chunked_head, score_responses, view_cells
from selfsteer.logprobs.cells import PromptRow, rows_of
from selfsteer.models import silence_transformers
from selfsteer.views import SSO_VIEWS

HEAD, LAYERS = "head", "layers"
INPUTS, WEIGHTS, OUTPUTS = "inputs", "weights", "outputs"
ALL = (INPUTS, WEIGHTS, OUTPUTS)


def main() -> None:
    settings = _arguments()
    silence_transformers()
    policy, reference, _, examples = load_pair(settings, settings.count)
    rows = [row for one in examples for row in rows_of(one, view_cells(SSO_VIEWS))][: settings.rows]
    models = policy.eval(), reference
    exact = [scored(model, rows) for model in models]
    tokens = sum(len(row.prompt) + sum(map(len, row.responses)) for row in rows)
    print(
        f"{len(rows)} rows of {tokens} tokens, {len(exact[0])} of them scored; policy and reference differ by ", end=""
    )
    print(f"{rms(exact[0] - exact[1]):.3f} nats per token (RMS)")
    print(f"{'rounded to bfloat16':32s}{'policy: mean':>14s}{'RMS':>9s}{'difference: mean':>19s}{'RMS':>9s}")
    report("as in training (autocast)", exact, [scored(model, rows, autocast=True) for model in models])
    for part in (HEAD, LAYERS):
        for what in (ALL, *((one,) for one in ALL)):
            found = []
            for model in models:
                with rounded(model, part, what):
                    found.append(scored(model, rows))
            report(f"{part}: {', '.join(what)}", exact, found)
    names = linear_names(policy)
    print("autocast, in float32")
    for count in range(len(names) + 1):
        found = []
        for model in models:
            with in_float32(model, names[:count]):
                found.append(scored(model, rows, autocast=True, wide_head=True))
        report(f"+ {names[count - 1]}" if count else HEAD, exact, found)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--policy", type=Path, help="the folder of a policy that was trained from --model")
    parser.add_argument("--examples", type=Path, help="a JSON-lines file in the authors' format")
    parser.add_argument("--count", type=int, default=1, help="examples")
    parser.add_argument("--rows", type=int, help="rows of the examples, of which each has three (all)")
    parser.add_argument("--prompt", type=int, default=200, help="tokens of each made-up principle")
    parser.add_argument("--response", type=int, default=200, help="tokens of each made-up response")
    return parser.parse_args()


def scored(model: Any, rows: Sequence[PromptRow], *, autocast: bool = False, wide_head: bool = False) -> Tensor:
    """Return the (N,) log-probs of all response tokens, as a training computes them; float64."""
    seen: list[Tensor] = []
    compute = chunked_head.token_logps

    def kept(*arguments: Any, **options: Any) -> Tensor:
        seen.append(compute(*arguments, **options))
        return seen[-1]

    with (
        mock.patch.object(chunked_head, "token_logps", kept),
        torch.no_grad(),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast),
    ):
        score_responses(model, rows, wide_head=wide_head)
    return torch.cat(seen).double()


@contextmanager
def rounded(model: Any, part: str, what: Sequence[str]) -> Iterator[None]:
    """Round inputs, weights or outputs of the head, or those of all other linear layers."""
    if part == HEAD:
        with mock.patch.object(chunked_head._LinearLogps, "apply", _rounding_head(what)):
            yield
    else:
        with _replaced(model, lambda layer: _rounding(layer.weight, layer.bias, what)):
            yield


@contextmanager
def in_float32(model: Any, names: Sequence[str]) -> Iterator[None]:
    """Compute the linear layers with these names in float32 under autocast."""

    def wide(layer: torch.nn.Linear) -> Callable[[Tensor], Tensor]:
        def forward(inputs: Tensor) -> Tensor:
            with torch.autocast("cpu", enabled=False):
                return torch.nn.functional.linear(inputs.float(), layer.weight, layer.bias)

        return forward

    with _replaced(model, wide, names):
        yield


@contextmanager
def _replaced(
    model: Any, forward_of: Callable[[torch.nn.Linear], Callable[[Tensor], Tensor]], names: Sequence[str] | None = None
) -> Iterator[None]:
    """Replace the forward of the linear layers but the head: all, or those with ``names``."""
    layers = [layer for name, layer in _linear_layers(model) if names is None or name in names]
    for layer in layers:
        layer.forward = forward_of(layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _rounding(weight: Tensor, bias: Tensor | None, what: Sequence[str]) -> Callable[[Tensor], Tensor]:
    def forward(inputs: Tensor) -> Tensor:
        w = weight.bfloat16().float() if WEIGHTS in what else weight
        x = inputs.bfloat16().float() if INPUTS in what else inputs
        outputs = torch.nn.functional.linear(x, w, bias)
        return outputs.bfloat16().float() if OUTPUTS in what else outputs

    return forward


def _rounding_head(what: Sequence[str]) -> Callable[..., Tensor]:
    def apply(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, settings: Any) -> Tensor:
        transform, size, _ = settings
        head = _rounding(weight, bias, what)
        parts = zip(hidden.split(size), targets.split(size), strict=True)
        return torch.cat([chunked_head.gather_logps(transform.apply(head(h)), wanted) for h, wanted in parts])

    return apply


def linear_names(model: Any) -> list[str]:
    """Return the names that linear layers have within a decoder layer, without repeats."""
    return list(dict.fromkeys(name for name, _ in _linear_layers(model)))


def _linear_layers(model: Any) -> list[tuple[str, torch.nn.Linear]]:
    head = model.get_output_embeddings()
    named = [(n.rsplit(".", 1)[-1], m) for n, m in model.named_modules() if type(m) is torch.nn.Linear]
    return [(name, layer) for name, layer in named if layer is not head]


def rms(errors: Tensor) -> float:
    return errors.square().mean().sqrt().item()


def report(title: str, exact: Sequence[Tensor], found: Sequence[Tensor]) -> None:
    policy, reference = (one - other for one, other in zip(found, exact, strict=True))
    both = policy - reference
    print(f"{title:32s}{policy.mean():+14.4f}{rms(policy):9.4f}{both.mean():+19.4f}{rms(both):9.4f}", flush=True)


if __name__ == "__main__":
    main()
