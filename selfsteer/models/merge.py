"""An adapter becomes part of its base's weights, for servers and converters that load whole models."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from selfsteer.errors import InputError, ModelError
from selfsteer.files import atomic_path, home_expanded
from selfsteer.models.configs import model_config
from selfsteer.models.load import DTYPES, check_dtype, load_model, load_tokenizer
from selfsteer.models.resolve import base_of, is_adapter, resolve
from selfsteer.models.save import save_weights

CARD = "README.md"


def merge(policy: str, output: Path, *, dtype: str = "auto", trust_remote_code: bool = False) -> Path:
    """Write the model that ``policy``, an adapter, makes of its base: safetensors, tokenizer and model card.

    The sum W + (alpha / r) B A is taken in float32, as in training, and rounded once.

    Args:
        policy: A folder with an adapter of peft's, as of a run with ``train.lora``.
        output: The folder to write; it must not exist.
        dtype: Type of the written weights; "auto" is that of the base, float32 where its config.json names none.
        trust_remote_code: Run Python code that the base brings.

    Raises:
        InputError: ``policy`` has no adapter, or ``output`` exists.
        ConfigError: Unknown ``dtype``.
        ModelError: The base is stored in 4 or 8 bits, the adapter is of a kind that adds no weights, or the two can't
            be loaded.
        StorageError: The folder can't be written.
    """
    if dtype != "auto":
        check_dtype(dtype)
    source, output = resolve(policy), home_expanded(output)
    if not is_adapter(source):
        do = "use it as it is: a policy without an adapter is whole already"
        raise InputError("there is no adapter to merge", where=source, do=do)
    if output.exists():
        raise InputError("the output exists", where=str(output), do="give a folder that does not exist")
    base, revision = base_of(source, None)
    config = model_config(base, trust_remote_code=trust_remote_code, revision=revision)
    if getattr(config, "quantization_config", None):
        do = "serve base and adapter side by side (docs/serving.md), or name the base's unquantised original in "
        do += "adapter_config.json"
        raise ModelError("the base's weights are quantised: a sum with them would be rounded again", where=base, do=do)
    stored = str(getattr(config, "dtype", None)).removeprefix("torch.") if dtype == "auto" else dtype
    merged = _merged(source, stored if stored in DTYPES else "float32", trust_remote_code)
    tokenizer = load_tokenizer(source, trust_remote_code=trust_remote_code)
    with atomic_path(output) as temporary:
        save_weights(merged, temporary)
        tokenizer.save_pretrained(temporary)
        if (Path(source) / CARD).is_file():
            shutil.copyfile(Path(source) / CARD, temporary / CARD)
    return output


def _merged(source: str, dtype: str, trust_remote_code: bool) -> Any:
    import torch

    model: Any = load_model(source, dtype="float32", trust_remote_code=trust_remote_code)
    if not hasattr(model, "merge_and_unload"):
        kind = model.active_peft_config.peft_type.value
        do = "serve it with peft: prompts that it learnt are no weights"
        raise ModelError(f"an adapter of the kind {kind} can't be merged", where=source, do=do)
    _untie(model.get_base_model())
    return model.merge_and_unload().to(getattr(torch, dtype))


def _untie(model: Any) -> None:
    """Give the head weights of its own where an adapter changes it or the embedding, whose weights it may share."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from torch.nn import Parameter

    head = model.get_output_embeddings()
    if isinstance(head, BaseTunerLayer) or isinstance(model.get_input_embeddings(), BaseTunerLayer):
        layer = head.get_base_layer() if isinstance(head, BaseTunerLayer) else head
        layer.weight = Parameter(layer.weight.detach().clone())
        model.config.tie_word_embeddings = False
