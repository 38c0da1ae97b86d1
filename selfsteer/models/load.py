"""Loading a model and its tokenizer, from safetensors or GGUF; never from a pickle."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfsteer.errors import ConfigError, ModelError, SelfsteerWarning, did_you_mean
from selfsteer.models.configs import CONFIG, end_ids, generation_values, model_config, savable
from selfsteer.models.device import check_bits
from selfsteer.models.finite import check_finite, check_finite_files
from selfsteer.models.gguf_io import load_gguf_model, load_gguf_tokenizer, progress_bars_hidden
from selfsteer.models.load_errors import loading_errors, pickle_only
from selfsteer.models.resolve import base_of, gguf_file, is_adapter, resolve
from selfsteer.models.vocabulary import fit_vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = ("float32", "bfloat16", "float16")

_TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


def load_model(
    name_or_path: str,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    trust_remote_code: bool = False,
    revision: str | None = None,
    attn_implementation: str | None = None,
    bits: int | None = None,
) -> PreTrainedModel:
    """Return the causal language model in eval mode on ``device``; an adapter folder comes with its base under it.

    Args:
        name_or_path: Whatever :func:`resolve` takes.
        dtype: "float32", "bfloat16" or "float16".
        device: "cpu", "cuda", "cuda:1", ...; "meta" checks that the weights are whole, and keeps none.
        trust_remote_code: Run Python code that the model brings.
        revision: Branch, tag or commit of a hub model.
        attn_implementation: As in transformers; None leaves the choice to it.
        bits: 4 (NF4 with double quantisation, multiplied in bfloat16) or 8 (int8) for the weights of the base's linear
            layers, by bitsandbytes; the rest is in ``dtype``. None holds all of them in ``dtype``.

    Raises:
        ModelError: The model can't be used as it is.
        FetchError: It can't be fetched.
        ConfigError: No such dtype or device, or ``bits`` without a CUDA GPU or without bitsandbytes.
    """
    check_dtype(dtype)
    check_device(device)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation
    if bits is not None:
        check_bits(bits, device, where="bits")
        options |= {"quantization_config": _quantised(bits), "device_map": device}
    elif device == "meta":
        options["device_map"] = device
    source = resolve(name_or_path)
    with loading_errors(source):
        load = _load_adapter if is_adapter(source) else _load_whole
        model = load(source, dtype, revision, options)
    # Packed weights are loaded onto their device, and may refuse to move.
    model = (model if "device_map" in options else model.to(device)).eval()
    if bits is not None:  # packed, they are no floats any more
        base, base_revision = base_of(source, revision)
        check_finite_files(base, revision=base_revision)
    if device != "meta":
        check_finite(model, source)
    return model


def load_tokenizer(
    name_or_path: str, *, trust_remote_code: bool = False, revision: str | None = None
) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a chat model, with a pad token; raises as :func:`loading_errors`.

    A pad token that is missing, or has no embedding, is set to the end token (or the unknown token): no new id, so no
    embedding is resized. Tokens that the model beside it has no embedding for are a ModelError.
    """
    source = resolve(name_or_path)
    with loading_errors(source, "tokenizer_config.json or tokenizer.json"):
        tokenizer = _read_tokenizer(source, revision, trust_remote_code)
        tokenizer.decode(tokenizer.encode("a"))  # some settings are used only here
    base, _ = base_of(source, revision)
    # A GGUF file holds tokens and embeddings together; a folder of a tokenizer alone has no config.json.
    if not Path(base).exists() or (Path(base) / "config.json").is_file():
        config = model_config(source, trust_remote_code=trust_remote_code, revision=revision)
        rows = getattr(config.get_text_config(), "vocab_size", None)
        if rows is not None:
            fit_vocabulary(tokenizer, rows, source)
    set_pad_token(tokenizer, source)
    return tokenizer


def check_dtype(dtype: str) -> None:
    """Raise :class:`ConfigError` for a name that is none of :data:`DTYPES`."""
    if dtype not in DTYPES:
        raise ConfigError(f"unknown dtype {dtype!r}", where="dtype", do=did_you_mean(dtype, DTYPES))


def check_device(device: str) -> None:
    """Raise :class:`ConfigError` for a device that this machine lacks; torch would raise a traceback."""
    import torch

    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        do = did_you_mean(device, ["cpu", "cuda", "cuda:0", "mps"])
        raise ConfigError(f"no such device: {device!r}", where="device", do=do) from error
    if kind == "cuda" and not torch.cuda.is_available():
        do = "set model.device=cpu, or install a torch that was built for this machine's GPU"
        raise ConfigError("torch finds no GPU on this machine", where=f"device {device!r}", do=do)


def _quantised(bits: int) -> Any:
    import torch
    from transformers import BitsAndBytesConfig

    packed = {"quant_type": "nf4", "use_double_quant": True, "compute_dtype": torch.bfloat16} if bits == 4 else {}
    options = {f"bnb_4bit_{name}": value for name, value in packed.items()}
    return BitsAndBytesConfig(load_in_8bit=bits == 8, load_in_4bit=bits == 4, **options)


def _load_whole(source: str, dtype: str, revision: str | None, options: dict[str, Any]) -> Any:
    from transformers import AutoModelForCausalLM

    gguf = gguf_file(source)
    if defaults := generation_values(str(gguf.parent) if gguf else source, revision):
        options = {**options, "generation_config": savable(defaults)}
    if gguf is not None and "quantization_config" in options:
        do = "give the model's safetensors, or leave bits (train.lora.bits) out"
        raise ConfigError("the weights of a GGUF file can't be held in 4 or 8 bits", where=source, do=do)
    if gguf is not None:
        return load_gguf_model(gguf, dtype=dtype, **options)
    model, info = read_safetensors(AutoModelForCausalLM, source, dtype, revision, options)
    check_complete(info, source)
    if unused := info["unexpected_keys"]:  # with fewer layers in config.json, for one, it would be another model
        what = f"{len(unused)} weights of {source} are not part of the model that its config.json describes"
        do = "check that the two belong together"
        warnings.warn(f"{what}: {_some(unused)}; {do}", SelfsteerWarning, stacklevel=2)
    if model.can_generate():  # the sampling defaults of config.json, where there is no generation_config.json
        model.generation_config = savable(model.generation_config.to_dict())
    return model


def read_safetensors(
    kind: Any, source: str, dtype: str, revision: str | None, options: Mapping[str, Any], **changes: Any
) -> tuple[Any, dict[str, Any]]:
    """Return a model as transformers reads it from a folder or the hub, and its loading info.

    ``kind`` is one of transformers' AutoModel classes, ``options`` are arguments of its ``from_pretrained``, with
    ``trust_remote_code``, ``changes`` settings of the configuration. Raises :class:`ModelError` where the folder holds
    no safetensors; what transformers raises passes through.
    """
    if Path(source).is_dir():
        check_folder(Path(source))
    config = model_config(source, trust_remote_code=options["trust_remote_code"], revision=revision, **changes)
    arguments = {**options, "config": config, "dtype": dtype, "use_safetensors": True}
    # Missing and misshapen weights are reported by our own errors.
    arguments |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    if not Path(source).is_dir():  # bars stay on: a hub model may take its time to arrive
        return kind.from_pretrained(source, revision=revision or "main", **arguments)
    with progress_bars_hidden():
        return kind.from_pretrained(source, **arguments)


def read_classifier(
    source: str, dtype: str, revision: str | None = None, trust_remote_code: bool = False, *, outputs: int | None = None
) -> tuple[Any, dict[str, Any]]:
    """Return a sequence-classification model and its loading info, as :func:`read_safetensors`.

    ``outputs`` are those of the head; None takes what the configuration says.
    """
    from transformers import AutoModelForSequenceClassification as Classifier

    changes: dict[str, Any] = {} if outputs is None else {"num_labels": outputs}
    return read_safetensors(Classifier, source, dtype, revision, {"trust_remote_code": trust_remote_code}, **changes)


def missing_head(model: Any, info: dict[str, Any]) -> list[str]:
    """Return the weights of the head that the checkpoint lacks: transformers would use random ones."""
    return sorted(key for key in info["missing_keys"] if not key.startswith(f"{model.base_model_prefix}."))


def check_folder(folder: Path) -> None:
    """Raise :class:`ModelError` where a folder lacks what a model needs."""
    if not (folder / "config.json").is_file():
        do = "give the folder that save_pretrained wrote: config.json, *.safetensors and the tokenizer"
        raise ModelError(f"no config.json in {folder}", where=str(folder), do=do)
    if any(folder.glob("*.safetensors")):
        return
    if any(path.suffix in (".bin", ".pt", ".pth") for path in folder.iterdir()):
        raise pickle_only(str(folder))
    do = "give a folder with *.safetensors (save_pretrained) or a .gguf file"
    raise ModelError(f"no weights in {folder}", where=str(folder), do=do)


def check_complete(info: dict[str, Any], source: str) -> None:
    """Raise where weights are missing: transformers would use random numbers in their place."""
    misshapen = {name if isinstance(name, str) else name[0] for name in info["mismatched_keys"]}
    lacking = {*info["missing_keys"], *misshapen}
    if lacking:
        what = f"{len(lacking)} weights are missing from {source}, or have another shape than config.json says"
        do = "copy the model again, or check that config.json belongs to these weights"
        raise ModelError(f"{what}: {_some(lacking)}", where=source, do=do)


def _some(names: Iterable[str]) -> str:
    first = sorted(names)[:4]
    return ", ".join(first[:3]) + ", ..." * (len(first) > 3)


def _load_adapter(source: str, dtype: str, revision: str | None, options: dict[str, Any]) -> Any:
    """Load base and adapter; ``revision`` is the base's and yields to the one the adapter names."""
    from peft import PeftModel

    base, revision = base_of(source, revision)
    if not (Path(source) / "adapter_model.safetensors").is_file():
        if (Path(source) / "adapter_model.bin").is_file():
            raise pickle_only(source)
        raise ModelError(f"no adapter weights in {source}", where=source, do="save the adapter again")
    with loading_errors(base):
        model = _load_whole(base, dtype, revision, options)
    with warnings.catch_warnings():
        # peft only warns and continues with an adapter that is part random.
        warnings.filterwarnings("error", message="Found missing adapter keys")
        warnings.filterwarnings("ignore", message=".*copying from a non-meta parameter")  # on "meta", as intended
        # peft uses a name that transformers deprecates; a reader of the warning could do nothing about it.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        try:
            return PeftModel.from_pretrained(model, source, is_trainable=False)
        except UserWarning as warning:
            what = f"weights are missing from the adapter: {str(warning)[:200]}"
            do = "save the adapter again, or check that it belongs to this base model"
            raise ModelError(what, where=source, do=do) from warning


def _read_tokenizer(source: str, revision: str | None, trust_remote_code: bool) -> Any:
    from transformers import AutoTokenizer

    folder = Path(source)
    has_files = any((folder / name).is_file() for name in _TOKENIZER_FILES)
    if folder.is_dir() and not has_files and is_adapter(source):
        return _read_tokenizer(*base_of(source, revision), trust_remote_code)
    gguf = None if has_files else gguf_file(source)
    if gguf is not None:
        return load_gguf_tokenizer(gguf)
    if folder.is_dir() and not has_files:
        do = "copy the tokenizer of the model into the folder (save_pretrained)"
        raise ModelError(f"no tokenizer in {source}", where=source, do=do)
    return AutoTokenizer.from_pretrained(source, revision=revision or "main", trust_remote_code=trust_remote_code)


def set_pad_token(tokenizer: Any, source: str) -> None:
    """Let a tokenizer without a pad token pad with its end token or its unknown one; ModelError if it has neither."""
    if tokenizer.pad_token_id is not None:
        return
    stand_in = tokenizer.eos_token or tokenizer.unk_token
    if stand_in is None:
        do = "name an eos_token in tokenizer_config.json: generation needs one to end"
        raise ModelError(f"the tokenizer of {source} has no end token and no pad token", where=source, do=do)
    tokenizer.pad_token = stand_in


def silence_transformers() -> None:
    """Keep the terminal free for the run's own display: transformers' bars and advice off, its errors on."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def end_token_ids(name_or_path: str, *, trust_remote_code: bool = False, revision: str | None = None) -> list[int]:
    """Return the end tokens that generation_config.json and config.json name; an adapter's are those of its base.

    The end of a turn comes from the chat template (:class:`selfsteer.chat.Chat`). These are further tokens to stop at,
    and their order means nothing: Llama 3 lists the end of a document first.
    """
    from transformers import PretrainedConfig

    source = resolve(name_or_path)
    if Path(source).is_file():  # GGUF: the tokenizer that it holds names its end
        return []
    if is_adapter(source):
        base, revision = base_of(source, revision)
        return end_token_ids(base, trust_remote_code=trust_remote_code, revision=revision)
    options: dict[str, Any] = {"revision": revision} if revision else {}
    values: dict[str, Any] = {}
    # The file as it is: a configuration's class would fill a missing id in with another model's.
    with loading_errors(source, CONFIG), contextlib.suppress(OSError):  # a folder of GGUF files
        values, _ = PretrainedConfig.get_config_dict(source, **options)
    part = values.get("text_config")
    named = (generation_values(source, revision), values, part if isinstance(part, dict) else {})
    return list(dict.fromkeys(id for one in named for id in end_ids(one)))
