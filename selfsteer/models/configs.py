"""A model's configurations, without its weights; settings that can't be used, or saved again, are left out."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfsteer.errors import ModelError
from selfsteer.files import parse_json
from selfsteer.models.load_errors import loading_errors
from selfsteer.models.resolve import base_of, gguf_file

if TYPE_CHECKING:
    from transformers import GenerationConfig, PretrainedConfig

CONFIG, GENERATION_CONFIG = "config.json", "generation_config.json"
_MOST_TOKENS = 2**31
_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
_COUNTS = (
    *(
        "attention_chunk_size",
        "head_dim",
        "intermediate_size",
        "n_routed_experts",
        "num_experts",
        "num_experts_per_tok",
    ),
    *("num_key_value_heads", "num_local_experts", "sliding_window"),
)
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def model_config(
    source: str, *, trust_remote_code: bool = False, revision: str | None = None, **changes: Any
) -> PretrainedConfig:
    """Return the configuration of a model, of an adapter's base where it is one; raises as :func:`loading_errors`.

    A padding id without an embedding is left out: padding is masked, and a model is not even built with such an id.
    ``revision`` yields to the one that an adapter names; ``changes`` are further settings of the configuration.
    """
    from transformers import AutoConfig

    source, revision = base_of(source, revision)
    where, options = source, {"trust_remote_code": trust_remote_code, **changes}
    gguf = gguf_file(source)
    if gguf is not None:
        where, options = str(gguf.parent), {**options, "gguf_file": gguf.name}
    elif not Path(source).is_dir():
        options |= {"revision": revision or "main"}
    with loading_errors(source, CONFIG):
        config = AutoConfig.from_pretrained(where, **options)
        text = config.get_text_config()
    _check_sizes(text, source)
    for part in (config, text):
        rows, pad = getattr(part, "vocab_size", None), getattr(part, "pad_token_id", None)
        if isinstance(rows, int) and isinstance(pad, int) and pad >= rows:
            part.pad_token_id = None
    return config


def _check_sizes(config: Any, source: str) -> None:
    """Raise :class:`ModelError` for a size that is none: a class may take it, and fail only when it computes."""
    for name in (*_SIZES, *_COUNTS):
        value = getattr(config, name, None)
        if value is None or isinstance(value, list):  # one number a layer
            continue
        least = 1 if name in _SIZES else -1  # -1 and 0 stand for "none" in some
        if not (isinstance(value, int) and least <= value < _MOST_TOKENS):
            what = f"{name} in the configuration of {source} is {str(value)[:40]!r}, which is not a valid value"
            raise ModelError(what, where=str(Path(source) / CONFIG), do="copy the model again")


def outline(
    source: str,
    *,
    trust_remote_code: bool = False,
    revision: str | None = None,
    outputs: int | None = None,
    known: Mapping[str, Any] | None = None,
) -> Any:
    """Return a model on the meta device: its modules and shapes, without a weight read or allocated.

    ``outputs`` are those of the head of a sequence-classification model; None makes a causal language model. ``known``
    are the values of its configuration, which is then not read. The rest, and the errors, are as of
    :func:`model_config`.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    changes: dict[str, Any] = {} if outputs is None else {"num_labels": outputs}
    if known:
        config = AutoConfig.for_model(**known, **changes)
    else:
        config = model_config(source, trust_remote_code=trust_remote_code, revision=revision, **changes)
    kind = AutoModelForCausalLM if outputs is None else AutoModelForSequenceClassification
    with loading_errors(source, CONFIG), torch.device("meta"):
        return kind.from_config(config, trust_remote_code=trust_remote_code)


def generation_values(source: str, revision: str | None = None) -> dict[str, Any]:
    """Return the content of generation_config.json, {} without one; :class:`ModelError` for other JSON."""
    from transformers import PretrainedConfig

    if not Path(source).exists():
        with loading_errors(source, GENERATION_CONFIG), contextlib.suppress(OSError):  # few models of the hub have none
            values: dict[str, Any]
            values, _ = PretrainedConfig.get_config_dict(
                source, revision=revision or "main", _configuration_file=GENERATION_CONFIG
            )
            return values
        return {}
    return json_object(Path(source) / GENERATION_CONFIG)


def json_object(file: Path) -> dict[str, Any]:
    """Return the content of a model's JSON file, {} where there is none; :class:`ModelError` for no JSON object."""
    if not file.is_file():
        return {}
    try:
        found = parse_json(file.read_bytes())
        if not isinstance(found, dict):
            raise ValueError("not an object")
    except ValueError as error:
        what = f"{file.name} is not a JSON object: {error}"
        raise ModelError(what, where=str(file), do="copy the model again") from error
    return found


def end_ids(values: Mapping[str, Any]) -> list[int]:
    """Return the end tokens of a configuration; of a model's generation_config.json only token ids act here."""
    ids: Any = values.get("eos_token_id")
    return [one for one in (ids if isinstance(ids, list) else [ids]) if _is_id(one)]


def savable(values: Mapping[str, Any]) -> GenerationConfig:
    """Return a generation configuration that transformers saves again: as it is, else its special tokens alone.

    Published ones set temperature beside ``do_sample: false``, which is refused when a trained model is saved. Their
    sampling defaults never act here.
    """
    from transformers import GenerationConfig

    with contextlib.suppress(ValueError, TypeError, AttributeError):  # raised by one setting or another
        config = GenerationConfig.from_dict(dict(values))
        config.validate(strict=True)
        hash(config)  # as saving does
        return config
    tokens = {name: values[name] for name in _TOKENS if _is_id(values.get(name))}
    return GenerationConfig(**tokens | ({"eos_token_id": ends} if len(ends := end_ids(values)) > 1 else {}))


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST_TOKENS
