"""Loads reward models, and makes new ones from a base; refuses any other model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selfsteer.errors import ModelError
from selfsteer.models import resolve
from selfsteer.models.configs import model_config
from selfsteer.models.finite import check_finite
from selfsteer.models.load import check_complete, check_device, check_dtype, check_folder, missing_head, read_classifier
from selfsteer.models.load_errors import loading_errors
from selfsteer.models.resolve import gguf_file, is_adapter

_OUTPUTS = 1


def reward_config(source: str, *, trust_remote_code: bool = False, revision: str | None = None) -> Any:
    """Return a reward model's configuration after all checks that don't need its weights.

    The arguments and errors are those of :func:`load_reward_model`; ``source`` is a folder or a hub name.
    """
    check_form(source)
    if Path(source).is_dir():
        check_folder(Path(source))
    config = model_config(source, trust_remote_code=trust_remote_code, revision=revision)
    # A model of texts and images has two configurations; which of them counts is known only after loading.
    _check_outputs(source, config.num_labels, config.get_text_config().num_labels)
    return config


def load_reward_model(
    name: str,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> Any:
    """Return a reward model in eval mode on ``device``: a sequence-classification model with one output.

    Args:
        name: A catalogue name, a local folder or a hub name.
        dtype: "float32", "bfloat16" or "float16".
        trust_remote_code: Run Python code that the model brings.

    Raises:
        ModelError, FetchError: It is not a reward model, or can't be used as it is, or can't be fetched.
        ConfigError: No such dtype or device.
    """
    check_dtype(dtype)
    check_device(device)
    source = resolve(name)
    check_form(source)
    with loading_errors(source):
        model, info = read_classifier(source, dtype, revision, trust_remote_code)
    lacking = missing_head(model, info)
    if lacking:  # transformers would continue with a random head
        others = ", ".join(sorted(info["unexpected_keys"])[:3])
        held = f"; besides its layers it has: {others}" if others else ""
        what = f"{source} has no score head ({', '.join(lacking)}), so it is not a reward model{held}"
        do = "give a sequence-classification model with one output; a language model can judge by its log-probs"
        raise ModelError(what, where=source, do=do)
    check_complete(info, source)
    _check_outputs(source, model.config.num_labels)
    model.config.use_cache = False  # one pass a text needs no cache of keys and values
    model = model.to(device).eval()
    check_finite(model, source)
    return model


def new_reward_model(
    name: str, *, seed: int, device: str = "cpu", trust_remote_code: bool = False, revision: str | None = None
) -> Any:
    """Return a float32 model to train as a reward model: a base with a score head of one output.

    Args:
        name: A catalogue name, a local folder or a hub name, of a language model or of a reward model.
        seed: Of a new head; a reward model keeps its own.

    Raises:
        ModelError, FetchError, ConfigError: It can't be used as a base, or as :func:`load_reward_model` does.
    """
    from transformers import set_seed

    check_device(device)
    source = resolve(name)
    check_form(source)
    set_seed(seed)  # the new head is drawn while the weights are read
    with loading_errors(source):
        model, info = read_classifier(source, "float32", revision, trust_remote_code, outputs=_OUTPUTS)
    head = set(missing_head(model, info))
    if any(key[0].startswith("score.") for key in info["mismatched_keys"]):
        do = "give a language model, or a reward model, which has one output"
        raise ModelError(f"{source} has a score head of several outputs", where=source, do=do)
    check_complete(info | {"missing_keys": set(info["missing_keys"]) - head}, source)
    model.config.use_cache = False
    check_finite(model, source)
    return model.to(device)


def check_form(source: str) -> None:
    """Raise :class:`ModelError` for an adapter or a GGUF file, which can't be a reward model or its base."""
    if is_adapter(source):
        do = "merge it into its base with peft (merge_and_unload, save_pretrained) and give that folder"
        raise ModelError("a reward model can't be loaded from an adapter", where=source, do=do)
    if gguf_file(source) is not None:
        do = "give the reward model's folder with *.safetensors"
        raise ModelError("a GGUF file holds a language model, not a reward model", where=source, do=do)


def _check_outputs(source: str, *outputs: int) -> None:
    if _OUTPUTS not in outputs:
        what = f"{source} has {outputs[0]} outputs; a reward model has one"
        do = "give a reward model; a language model can judge without reward:, by its log-probs"
        raise ModelError(what, where=f"{source}: config.json: num_labels (id2label)", do=do)
