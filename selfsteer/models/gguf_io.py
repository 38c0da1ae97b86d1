"""Reading GGUF files into plain float models and correct tokenizers.

transformers reads most of a GGUF file; what it leaves out (seen in 5.23: how SmolLM2 splits digits, Qwen's normaliser)
is corrected here, so that a text gets the ids the model was trained on.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selfsteer.errors import SelfsteerWarning

_UNDERSTOOD_BY_TRANSFORMERS = ("default", "gpt-2")
"""Names of pre-tokenizers for which GPT-2's own split, transformers' default, is the right one."""


def load_gguf_model(path: Path, *, dtype: str, **options: Any) -> Any:
    """Return the causal language model in a GGUF file, de-quantised to ``dtype``: it trains and saves as any other.

    Raises what transformers does where it can't read the file: OSError, ValueError.
    """
    import torch
    import transformers

    # Newer releases keep the weights packed where they find a kernel; packed weights neither train nor save.
    unpack = getattr(transformers, "GgufConfig", None)
    if unpack is not None:
        options["quantization_config"] = unpack(dequantize=True)
    # The de-quantising bar has no switch: it is written to standard error, while log messages have their own stream.
    with progress_bars_hidden(), contextlib.redirect_stderr(io.StringIO()):
        return transformers.AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=getattr(torch, dtype), **options
        )


def load_gguf_tokenizer(path: Path) -> Any:
    """Return the tokenizer in a GGUF file, with its pre-tokenizer and its longest context corrected.

    Raises what transformers does where it can't read the file: OSError, ValueError.
    """
    from gguf import GGUFReader, GGUFValueType
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    found = GGUFReader(path).fields.values()
    scalars = (field for field in found if field.types and field.types[0] != GGUFValueType.ARRAY)
    fields = {field.name: field.contents() for field in scalars}
    _set_pre_tokenizer(tokenizer, fields.get("tokenizer.ggml.pre", "default"), path)
    tokenizer.model_max_length = fields.get(f"{fields['general.architecture']}.context_length", int(1e30))
    for leaked in ("is_local", "local_files_only", "name_or_path", "vocab_file"):
        # Arguments of the call that transformers would write into tokenizer_config.json.
        tokenizer.init_kwargs.pop(leaked, None)
    return tokenizer


def _set_pre_tokenizer(tokenizer: Any, name: str, path: Path) -> None:
    """Split text as when the merges were learnt; ``name`` is llama.cpp's name for that."""
    from tokenizers import normalizers, pre_tokenizers

    backend = tokenizer.backend_tokenizer
    if name == "smollm":
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    elif name == "qwen2":
        backend.normalizer = normalizers.NFC()
    elif name not in _UNDERSTOOD_BY_TRANSFORMERS and name not in _splits_of_transformers():
        warnings.warn(
            f"{path.name}: its pre-tokenizer {name!r} is unknown here, so some texts may get other ids than the model "
            "was trained on; use the model's safetensors folder if you have it",
            SelfsteerWarning,
            stacklevel=3,
        )


def _splits_of_transformers() -> dict[str, str]:
    """Return the pre-tokenizers transformers itself knows; none where its (private) table has moved."""
    try:
        from transformers.integrations.gguf import gguf_tokenizer_mapping
    except ImportError:
        return {}
    return getattr(gguf_tokenizer_mapping, "GGUF_PRE_TOKENIZER_SPLITS", {})


@contextlib.contextmanager
def progress_bars_hidden() -> Iterator[None]:
    """Hide transformers' bars: the caller reports its own progress."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
