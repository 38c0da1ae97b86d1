"""Damaged model folders: a field of one of their files is of a wrong type, huge, deep or missing."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

Damage = Callable[[Path], object]
_DEEP: Any = json.loads('{"a":' * 400 + "1" + "}" * 400)
_MISSING = object()


def field(file: str, key: str, value: Any) -> tuple[str, Damage]:
    """Replace one field of a JSON file; dots lead into objects, numbers into lists."""

    def change(folder: Path) -> None:
        path = folder / file
        content = json.loads(path.read_text(encoding="utf-8"))
        *way, last = key.split(".")
        part = content
        for step in way:
            part = part[int(step) if isinstance(part, list) else step]
        if value is _MISSING:
            del part[last]
        else:
            part[int(last) if isinstance(part, list) else last] = value
        path.write_text(json.dumps(content), encoding="utf-8")
        if key == "chat_template":  # else the one in the file of its own is used
            (folder / "chat_template.jinja").unlink()

    shown = "(missing)" if value is _MISSING else json.dumps(value)
    return f"{file}: {key}={shown if len(shown) < 40 else shown[:30] + '...'}", change


def text(file: str, content: str | bytes, name: str = "") -> tuple[str, Damage]:
    """Replace a whole file."""
    data = content.encode() if isinstance(content, str) else content
    return f"{file} is {name or repr(data[:20].decode(errors='replace'))}", lambda folder: (folder / file).write_bytes(
        data
    )


def template(source: str) -> tuple[str, Damage]:
    """Replace the chat template."""
    name = f"template {source if len(source) < 60 else source[:50] + '...'}"
    return name, lambda folder: (folder / "chat_template.jinja").write_text(source, encoding="utf-8")


def header(change: Callable[[dict[str, Any]], Any], name: str) -> tuple[str, Damage]:
    """Change the header of the weights."""

    def spoil(folder: Path) -> None:
        path = folder / "model.safetensors"
        data = path.read_bytes()
        (size,) = struct.unpack("<Q", data[:8])
        content = json.loads(data[8 : 8 + size])
        content = change(content) or content
        written = json.dumps(content).encode()
        path.write_bytes(struct.pack("<Q", len(written)) + written + data[8 + size :])

    return f"model.safetensors: {name}", spoil


def _fifo(file: str) -> tuple[str, Damage]:
    def change(folder: Path) -> None:
        (folder / file).unlink(missing_ok=True)
        os.mkfifo(folder / file)

    return f"{file} is a pipe", change


def _weights(fill: float) -> Damage:
    def change(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        held = load_file(folder / "model.safetensors")
        held["model.layers.1.mlp.up_proj.weight"][3, 5] = fill
        save_file(held, folder / "model.safetensors", metadata={"format": "pt"})

    return change


def _first(header: dict[str, Any]) -> dict[str, Any]:
    return header["model.norm.weight"]


_LOOPS = "{% for a in range(99999) %}" * 6 + "x" + "{% endfor %}" * 6
_CONFIG, _GENERATION = "config.json", "generation_config.json"
_TOKENIZER_CONFIG, _TOKENIZER, _SPECIAL = "tokenizer_config.json", "tokenizer.json", "special_tokens_map.json"

MODELS: list[tuple[str, Damage]] = [
    *(text(_CONFIG, value) for value in ("[]", "5", "null", '"a"', "", "{", "[" * 100_000, "\xff\xfe")),
    text(_CONFIG, '{"model_type": "llama", "a": "' + "a" * 11_000_000 + '"}', "larger than 10 MB"),
    *(_fifo(file) for file in (_CONFIG, _TOKENIZER_CONFIG, _TOKENIZER, _GENERATION, "model.safetensors")),
    field(_CONFIG, "quantization_config", 0),
    field(_CONFIG, "quantization_config", {}),
    field(_CONFIG, "quantization_config", {"quant_method": "gptq", "bits": "x"}),
    field(_CONFIG, "auto_map", True),
    field(_CONFIG, "auto_map", {"AutoConfig": 5}),
    field(_CONFIG, "id2label", 5),
    field(_CONFIG, "id2label", {"x": "y"}),
    *(field(_CONFIG, "model_type", value) for value in (5, None, [], {}, "", "a." * 100_000, "../x")),
    *(field(_CONFIG, "architectures", value) for value in (5, "x", [5], [], None, ["NoSuchModel"])),
    *(field(_CONFIG, "vocab_size", value) for value in (0, -1, 1.5, "x", None, 10**30, True)),
    *(field(_CONFIG, "hidden_size", value) for value in (0, -8, "x", None, 10**12, 33)),
    *(field(_CONFIG, "num_hidden_layers", value) for value in (0, -1, "x", None)),
    *(field(_CONFIG, "num_attention_heads", value) for value in (0, 3, -4, "x", None)),
    *(field(_CONFIG, "num_key_value_heads", value) for value in (0, 3, -2, "x", None, 10**9)),
    *(field(_CONFIG, "head_dim", value) for value in (0, 7, "x", None)),
    *(field(_CONFIG, "max_position_embeddings", value) for value in (0, -1, "x", None, 1.5, 10**30)),
    *(field(_CONFIG, "pad_token_id", value) for value in (10**9, 10**30, -5, "x", [], 1.5)),
    *(field(_CONFIG, "eos_token_id", value) for value in (10**9, 10**30, -5, "x", {}, [[]], [None])),
    *(field(_CONFIG, "intermediate_size", value) for value in (0, "x", None)),
    *(field(_CONFIG, "rope_parameters", value) for value in (5, [], {}, {"rope_type": "x"}, {"rope_type": "yarn"})),
    *(field(_CONFIG, "hidden_act", value) for value in ("x", 5, None)),
    *(field(_CONFIG, "dtype", value) for value in ("x", 5, [], "int8", {})),
    *(field(_CONFIG, "layer_types", value) for value in (5, ["x", "x"], [[]], ["full_attention"])),
    *(field(_CONFIG, key, value) for key in ("rms_norm_eps", "attention_dropout") for value in ("x", None, [], 1e400)),
    *(field(_CONFIG, key, 5) for key in ("text_config", "transformers_version", "_name_or_path", "label2id")),
    *(field(_CONFIG, key, "x") for key in ("tie_word_embeddings", "attention_bias", "num_labels", "use_cache")),
    *(field(_CONFIG, key, "x") for key in ("sliding_window", "problem_type", "_attn_implementation", "is_decoder")),
    field(_CONFIG, "deep", _DEEP),
    field(_CONFIG, "text_config", _DEEP),
    *(text(_GENERATION, value) for value in ("[]", "5", "null", "", "{", "[" * 100_000, "\xff")),
    *(field(_GENERATION, key, "x") for key in ("eos_token_id", "temperature", "max_length", "top_k", "pad_token_id")),
    *(
        field(_GENERATION, key, {})
        for key in ("eos_token_id", "temperature", "cache_implementation", "suppress_tokens")
    ),
    *(field(_GENERATION, key, 10**30) for key in ("eos_token_id", "max_length", "num_beams", "bos_token_id")),
    *(text(_TOKENIZER_CONFIG, value) for value in ("[]", "5", "null", "", "{", "[" * 100_000, "\xff")),
    *(
        field(_TOKENIZER_CONFIG, "tokenizer_class", value)
        for value in (5, "x", None, [], "LlamaTokenizer", "os.system")
    ),
    *(field(_TOKENIZER_CONFIG, "eos_token", value) for value in (5, [], {}, "nowhere", None, {"content": 5}, "")),
    *(field(_TOKENIZER_CONFIG, "pad_token", value) for value in (5, [], {}, "nowhere", None)),
    *(field(_TOKENIZER_CONFIG, "model_max_length", value) for value in ("x", -1, None, 10**400)),
    *(field(_TOKENIZER_CONFIG, "added_tokens_decoder", value) for value in (5, {"x": {}}, {"1": 5}, {"1": {}})),
    *(field(_TOKENIZER_CONFIG, "chat_template", value) for value in (5, [], [{}], {"a": "b"}, [{"name": 1}], None)),
    *(field(_TOKENIZER_CONFIG, "extra_special_tokens", value) for value in (5, {"a": 5}, [5], "x")),
    *(field(_TOKENIZER_CONFIG, key, 5) for key in ("auto_map", "backend", "padding_side", "name_or_path")),
    *(text(_SPECIAL, value) for value in ("[]", "5", "", "{", '{"eos_token": 5}', '{"eos_token": {"a": []}}')),
    *(text(_TOKENIZER, value) for value in ("[]", "5", "null", "", "{", "{}", "[" * 100_000, "\xff")),
    *(field(_TOKENIZER, "model", value) for value in (5, None, {}, {"type": "x"}, {"type": "BPE", "vocab": 5})),
    field(_TOKENIZER, "model.vocab", {}),
    field(_TOKENIZER, "model.merges", [["no", "where"]]),
    field(_TOKENIZER, "model.merges", 5),
    *(field(_TOKENIZER, key, 5) for key in ("added_tokens", "normalizer", "pre_tokenizer", "decoder", "truncation")),
    *(field(_TOKENIZER, "added_tokens.0.id", value) for value in (-1, 10**6, "x", 2**32)),
    *(field(_TOKENIZER, "added_tokens.0.content", value) for value in ("", 5, "a" * 1000)),
    field(_TOKENIZER, "normalizer", {"type": "Replace", "pattern": {"Regex": "(a*)*b"}, "content": "a"}),
    field(_TOKENIZER, "normalizer", {"type": "Replace", "pattern": {"Regex": "("}, "content": "a"}),
    field(_TOKENIZER, "decoder", None),
    template(_LOOPS),
    template("{{ 'a' * 10**10 }}"),
    template("{{ 'a' * 900000 }}"),
    template("{{ 1 / 0 }}"),
    template("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"),
    template("{{ messages.foo.bar }}"),
    template("{{ messages[0].content.index('zq7 nowhere') }}"),
    template("{{ [] | first | length }}"),
    template("{% for"),
    template(""),
    template("no messages at all"),
    template("{{ raise_exception('no') }}"),
    template("{" * 300_000),
    header(lambda content: [], "a list"),
    header(lambda content: {}, "cut"),
    header(lambda content: _first(content).update(dtype="X9"), "unknown dtype"),
    header(lambda content: _first(content).update(dtype="I64"), "wrong dtype"),
    header(lambda content: _first(content).update(shape="x"), "shape is a text"),
    header(lambda content: _first(content).update(shape=[-1]), "negative shape"),
    header(lambda content: _first(content).update(shape=[2**62, 4]), "huge shape"),
    header(lambda content: _first(content).update(shape=[[32]]), "nested shape"),
    header(lambda content: _first(content).update(data_offsets=[0, 10**15]), "offsets beyond the end"),
    header(lambda content: _first(content).update(data_offsets=[-4, 4]), "negative offsets"),
    header(lambda content: content.update(__metadata__={"format": "tf"}), "another framework"),
    header(lambda content: content.update(__metadata__=5), "metadata is a number"),
    header(lambda content: content.update(__metadata__={"format": 5}), "format is a number"),
    header(lambda content: content.pop("__metadata__") and None, "no metadata"),
    header(lambda content: content.update(deep=_DEEP), "a deep value"),
    ("model.safetensors: NaN", _weights(float("nan"))),
    ("model.safetensors: infinity", _weights(float("inf"))),
    text("model.safetensors", struct.pack("<Q", 2**60), "a huge header"),
    text("model.safetensors.index.json", "[]"),
    text("model.safetensors.index.json", '{"weight_map": {"a": "../../x"}}'),
    text("added_tokens.json", "[]"),
    text("added_tokens.json", '{"x": "y"}'),
    text("processor_config.json", "[]"),
    text("README.md", "---\n[[[\n---\n"),
]
ADAPTER = "adapter_config.json"
ADAPTERS: list[tuple[str, Damage]] = [
    *(text(ADAPTER, value) for value in ("[]", "5", "null", "", "{", "[" * 100_000, "\xff")),
    *(field(ADAPTER, "peft_type", value) for value in (5, "x", None, [], "IA3", "PROMPT_TUNING")),
    *(field(ADAPTER, "r", value) for value in (0, -1, "x", None, 10**12, 1.5)),
    *(field(ADAPTER, "lora_alpha", value) for value in ("x", None, [])),
    *(field(ADAPTER, "target_modules", value) for value in (5, "(", None, [], [5], "(a*)*b", ["nowhere"])),
    *(field(ADAPTER, "base_model_name_or_path", value) for value in (5, "", None, [], "nowhere/x", "/no/where", ".")),
    *(field(ADAPTER, "task_type", value) for value in (5, "x", None, "SEQ_CLS")),
    *(field(ADAPTER, "modules_to_save", value) for value in (5, ["nowhere"], [5])),
    *(field(ADAPTER, "rank_pattern", value) for value in (5, {"(": 4}, {"q_proj": "x"})),
    *(field(ADAPTER, key, 5) for key in ("auto_mapping", "layers_pattern", "loftq_config", "layer_replication")),
    *(field(ADAPTER, key, "x") for key in ("bias", "lora_dropout", "use_dora", "fan_in_fan_out", "revision")),
    *(field(ADAPTER, key, 10**30) for key in ("lora_alpha", "layers_to_transform", "megatron_config")),
    field(ADAPTER, "deep", _DEEP),
    _fifo(ADAPTER),
    _fifo("adapter_model.safetensors"),
    text("adapter_model.safetensors", struct.pack("<Q", 2**60), "a huge header"),
    text("adapter_model.safetensors", b"", "empty"),
]
