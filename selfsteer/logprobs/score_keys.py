"""The key of stored scores: the weights, the settings and the token ids that they were computed from.

Scores are reference log-probs only for the model that gave them: a wrong reference trains without a complaint. So
training compares the key of its own start with that of the scores.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import xxhash
from torch import Tensor

from selfsteer.files import fingerprint
from selfsteer.records import PROMPTS, ROLES, Contrast

_COLUMN = "reference_key"
_CHUNK = 1 << 26
"""Bytes that are hashed at once: what a tensor on a GPU takes in main memory on its way."""


@dataclasses.dataclass(frozen=True)
class ScoreKey:
    """The key of one row's scores. Its parts are compared one by one, so that a refusal can say what differs.

    Attributes:
        weights: Of the model, :func:`weights_key`.
        settings: The length limit and the precision, in words: :func:`settings_key`.
        tokens: Of the row's three prompts and three responses, 16 hex digits.
    """

    weights: str
    settings: str
    tokens: str

    @classmethod
    def from_row(cls, row: Contrast, weights: str, settings: str) -> ScoreKey:
        """Return the key of scores computed from this row; :class:`DataError` where it has no token ids."""
        ids = [*map(row.prompt_ids, PROMPTS), *map(row.response_ids, ROLES)]
        return cls(weights, settings, fingerprint([list(own) for own in ids]))

    @classmethod
    def stored(cls, row: Contrast) -> ScoreKey | None:
        """Return the key that came with the row, None where there is none of this form."""
        parts = row.provenance.get(_COLUMN, "").split("; ")
        return cls(*parts) if len(parts) == 3 else None

    def put(self, row: Contrast) -> Contrast:
        """Return the row with this key in its provenance."""
        text = "; ".join(dataclasses.astuple(self))
        return dataclasses.replace(row, provenance={**row.provenance, _COLUMN: text})


def settings_key(*, max_length: int | None, dtype: str, autocast: str = "") -> str:
    """Return the settings in words, e.g. "max_length 2048 with the longest prompt, precision bfloat16 autocast".

    ``dtype`` is the model's :func:`weights_dtype`; ``autocast`` is the type that torch casts to, "" where it does not.
    """
    cut = "" if max_length is None else " with the longest prompt"  # earlier versions cut under each prompt by itself
    return f"max_length {max_length}{cut}, precision {f'{autocast} autocast' if autocast else dtype}"


def weights_dtype(model: Any) -> str:
    """Return the name of the type of a model's weights, e.g. "float32"."""
    dtype = next(parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    return str(dtype).removeprefix("torch.")


def weights_key(model: Any) -> str:
    """Return 32 hex digits that name every weight of ``model`` that acts in its forward pass.

    Parameters and persistent buffers count by name, type, shape and bytes, tied ones once. With peft's LoRA only the
    active, unmerged adapters count, with their scaling, and those not that are still zero (a fresh one): they change no
    number. So a model has the key that it had before a fresh adapter was put on it.

    What only the configuration says (a rope factor, an epsilon) is not in here.
    """
    digest = xxhash.xxh3_128()  # far faster than sha256, which a model of 7B would wait for
    seen, scales = _adapters(model)
    tensors = [
        # Without peft's wrappers in its name, a weight has the name that it had before a fresh adapter was put on it.
        (name.removeprefix("base_model.model.").replace(".base_layer.", "."), value)
        for name, value in model.state_dict(keep_vars=True).items()
        if isinstance(value, Tensor)
    ]
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        if id(tensor) not in seen:  # tied weights count once
            seen.add(id(tensor))
            digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)} {scales.get(id(tensor), '')}\n".encode())
            add_bytes(digest, tensor)
    return digest.hexdigest()


def _adapters(model: Any) -> tuple[set[int], dict[int, float]]:
    """Return which LoRA tensors change no number now, and the scaling of those that do, by the tensors' ``id``."""
    idle: set[int] = set()
    scales: dict[int, float] = {}
    for layer in model.modules():
        pairs = layer.lora_B.items() if isinstance(getattr(layer, "lora_B", None), torch.nn.ModuleDict) else ()
        for name, lora_b in pairs:
            active = name in layer.active_adapters and name not in layer.merged_adapters and not layer.disable_adapters
            # A fresh adapter's B is zero: it changes no number, so the model keeps its key.
            if active and any(parameter.any() for parameter in lora_b.parameters()):
                scales |= {id(parameter): layer.scaling[name] for parameter in lora_b.parameters()}
            else:
                idle |= {id(p) for half in (layer.lora_A[name], lora_b) for p in half.parameters()}
    return idle, scales


def add_bytes(digest: xxhash.xxh3_128, tensor: Tensor) -> None:
    """Add all bytes of a tensor to a digest."""
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)  # numpy has no bfloat16
    for chunk in flat.split(_CHUNK):
        digest.update(chunk.cpu().numpy())
