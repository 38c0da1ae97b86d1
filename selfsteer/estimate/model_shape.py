"""The shape of a model: the sizes that its costs follow from, read from its configuration without its weights."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from selfsteer.config import LoraSettings, ModelSettings
from selfsteer.errors import ModelError
from selfsteer.estimate.known_models import known_config
from selfsteer.models import CATALOGUE, is_fetched, resolve
from selfsteer.models.configs import outline

_ATTENDS = {"full_attention", "sliding_attention"}


class Linear(NamedTuple):
    """A linear layer: its name in the model, and its width on either side."""

    name: str
    inputs: int
    outputs: int


class Stored(NamedTuple):
    """Numbers and bytes of a folder's safetensors."""

    numbers: int
    size: int


@dataclass(frozen=True)
class ModelShape:
    """The sizes that the costs of a decoder-only transformer follow from.

    Attributes:
        parameters: Of the whole model; tied weights count once.
        tied: Whether the language-model head is the embedding.
        hidden, query_width, key_width, intermediate: Widths D, H * d, H' * d (of keys, and of values) and of the MLP.
        heads, norms: Query heads; norms of width D in a layer.
        vocabulary: K.
        windows: By layer, how many positions a token attends to; None for all before it.
        active: Weights that a token is multiplied with in the layers, without the head; of a mixture of experts, those
            of the experts that a token is routed to.
        linears: The linear layers without the head, and without experts that share one tensor.
        experts: How many experts a token is routed to, and of how many; (1, 1) for a dense model.
    """

    architecture: str
    parameters: int
    tied: bool
    hidden: int
    query_width: int
    key_width: int
    intermediate: int
    heads: int
    norms: int
    vocabulary: int
    windows: tuple[int | None, ...]
    active: int
    linears: tuple[Linear, ...]
    experts: tuple[int, int] = (1, 1)

    @property
    def layers(self) -> int:
        """Number of layers."""
        return len(self.windows)

    @property
    def head(self) -> int:
        """Weights of the language-model head."""
        return self.hidden * self.vocabulary

    def lora(self, settings: LoraSettings) -> int:
        """Return the parameters of an adapter, r * (inputs + outputs) a targeted layer; ModelError where none is."""
        from selfsteer.policy.adapters import is_target

        chosen = [linear for linear in self.linears if is_target(settings.target_modules, linear.name)]
        if not chosen:
            what = f"no linear layer of {self.architecture} is one of {settings.target_modules!r}"
            raise ModelError(what, where="train.lora.target_modules", do="take all-linear, or names of its layers")
        return sum(settings.r * (linear.inputs + linear.outputs) for linear in chosen)


def shape_of(model: Any) -> ModelShape:
    """Return the shape of a transformers model, which may be on the meta device.

    Raises :class:`ModelError` where it is no decoder-only transformer with full or sliding attention.
    """
    import torch

    config, head = model.config.get_text_config(), model.get_output_embeddings()
    kind = type(model).__name__
    windows, experts = _windows(config, kind), _experts(model, config, kind)
    linears = tuple(
        Linear(name, module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    )
    routed = sum(weight.numel() for name, weight in model.named_parameters() if _of_expert(name))
    plain = sum(linear.inputs * linear.outputs for linear in linears if not _of_expert(linear.name + "."))
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    layer = re.compile(r".*layers\.0\.[^.]*norm[^.]*")
    return ModelShape(
        architecture=kind, parameters=sum(weight.numel() for weight in model.parameters()),
        tied=head.weight is model.get_input_embeddings().weight, hidden=config.hidden_size,
        query_width=config.num_attention_heads * head_width,
        key_width=(getattr(config, "num_key_value_heads", None) or config.num_attention_heads) * head_width,
        intermediate=config.intermediate_size, heads=config.num_attention_heads,
        norms=sum(layer.fullmatch(name) is not None for name, _ in model.named_modules()),
        vocabulary=head.weight.shape[0], windows=windows, active=plain + routed * experts[0] // experts[1],
        linears=linears, experts=experts,
    )  # fmt: skip


def _of_expert(name: str) -> bool:
    return ".experts." in name


def _windows(config: Any, kind: str) -> tuple[int | None, ...]:
    window = getattr(config, "sliding_window", None)
    every = "sliding_attention" if window else "full_attention"
    types = getattr(config, "layer_types", None) or [every] * config.num_hidden_layers
    odd = sorted(set(types) - _ATTENDS)
    if odd or not getattr(config, "num_attention_heads", None) or getattr(config, "kv_lora_rank", None):
        what = f"{kind} has layers ({', '.join(odd) or 'latent attention'}) whose cost is not known here"
        raise ModelError(what, where="model", do="estimates are for transformers with full or sliding attention")
    return tuple(window if one == "sliding_attention" else None for one in types)


def _experts(model: Any, config: Any, kind: str) -> tuple[int, int]:
    if not any(_of_expert(name) for name, _ in model.named_parameters()):
        return 1, 1
    names = ("num_local_experts", "num_experts", "n_routed_experts")
    total = next((getattr(config, name) for name in names if getattr(config, name, None)), None)
    used = getattr(config, "num_experts_per_tok", None)
    if not total or not used:
        what = f"{kind} is a mixture of experts, and its configuration does not say how many a token is routed to"
        raise ModelError(what, where="model: num_experts_per_tok", do="add that number to its config.json")
    return used, total


def source_of(name: str) -> str:
    """Return the folder or hub name of a model, as the loader resolves it, but download nothing.

    Raises :class:`ModelError` where there is none, or it is a catalogue model that is not on this machine yet.
    """
    if name in CATALOGUE and not is_fetched(CATALOGUE[name]):
        do = f"fetch it first: selfsteer models fetch {name}"
        raise ModelError(f"{name} is not on this machine yet, and estimates download nothing", where="model", do=do)
    return resolve(name)


def read_shape(settings: ModelSettings) -> ModelShape:
    """Return the shape of a recipe's model from its configuration; weights are neither read nor allocated.

    An estimate runs no code that a recipe names, so a model that comes with code of its own is refused. Nothing is
    asked of the hub for a model of :mod:`selfsteer.estimate.known_models`.

    Raises as :func:`source_of` and :func:`shape_of`.
    """
    source = source_of(settings.name)
    return shape_of(outline(source, revision=settings.revision, known=known_config(source)))


def stored_weights(source: str) -> Stored | None:
    """Return what the safetensors of a local folder hold, by their headers; None where there are none.

    Raises :class:`ModelError` where a header can't be read.
    """
    from safetensors import SafetensorError, safe_open

    files = sorted(Path(source).glob("*.safetensors")) if Path(source).is_dir() else []
    numbers = 0
    for file in files:
        try:
            with safe_open(file, framework="np") as tensors:
                numbers += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
        except SafetensorError as error:
            raise ModelError("not a whole safetensors file", where=str(file), do="copy the model again") from error
    return Stored(numbers, sum(file.stat().st_size for file in files)) if numbers else None
