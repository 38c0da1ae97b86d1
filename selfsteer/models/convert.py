"""From a catalogue model's GGUF file to the folder that everything else loads: safetensors, tokenizer, manifest."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

from selfsteer.errors import FetchError
from selfsteer.files import atomic_path, remove, write_json
from selfsteer.models.catalogue import MANIFEST, CatalogueEntry, file_sizes, manifest
from selfsteer.models.gguf_io import load_gguf_model, load_gguf_tokenizer
from selfsteer.models.save import save_weights

_GARBAGE = -6.0
"""Mean log-prob in nats per token below which the weights can't be right: chance is -10.8 or less,
SmolLM2 has -3.5 on the exchange below."""


def convert(entry: CatalogueEntry, gguf: Path, folder: Path) -> None:
    """Write ``folder`` from the verified ``gguf`` file, atomically, after checking the result.

    Raises :class:`FetchError` where the result is not the right model: another transformers reads GGUF differently.
    """
    from transformers import GenerationConfig

    model, tokenizer = load_gguf_model(gguf, dtype=entry.dtype), load_gguf_tokenizer(gguf)
    model.config._name_or_path = entry.original
    # The end and pad tokens alone: sampling is decided by the recipe.
    ends = tokenizer.convert_tokens_to_ids(list(entry.end_tokens))
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=ends if len(ends) > 1 else ends[0],
        pad_token_id=tokenizer.pad_token_id,
    )
    remove(folder)  # one of an older conversion, or with a file missing
    with atomic_path(folder) as temporary:
        save_weights(model, temporary)
        tokenizer.save_pretrained(temporary)
        _check(entry, model, temporary)
        write_json(temporary / MANIFEST, {**manifest(entry), "files": file_sizes(temporary)})


def _check(entry: CatalogueEntry, model: Any, folder: Path) -> None:
    """Raise FetchError unless the saved tokenizer and the weights are the original's."""
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    if not tokenizer.chat_template:
        raise _wrong(entry, "the chat template is lost")
    if tokenizer.eos_token != entry.end_tokens[0]:
        raise _wrong(entry, f"a turn ends with {tokenizer.eos_token!r}, not {entry.end_tokens[0]!r}")
    for text, ids in entry.probes:
        found = tokenizer.encode(text, add_special_tokens=False)
        if found != list(ids):
            raise _wrong(entry, f"{text!r} gives the ids {found}, not {list(ids)}")
    messages = [
        {"role": "user", "content": "What is the capital of France?"},
        {"role": "assistant", "content": "The capital of France is Paris."},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    probe = torch.tensor([tokenizer.encode(text, add_special_tokens=False)])  # (1, T)
    with torch.inference_mode():
        score = -float(model(input_ids=probe, labels=probe).loss)  # mean log-prob, nats per token
    if not score > _GARBAGE:
        raise _wrong(entry, f"the weights are wrong (mean log-prob {score:.1f} on a plain exchange)")


def _wrong(entry: CatalogueEntry, what: str) -> FetchError:
    where = f"transformers {version('transformers')}"
    do = "this release of transformers reads GGUF files differently: use 5.23, and run the same command again"
    return FetchError(f"{entry.name} was converted wrongly: {what}", where=where, do=do)
