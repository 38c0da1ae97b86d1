"""Loading reward models, and making one of a base; nothing is taken for a reward model that is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selfsteer.errors import ModelError
from selfsteer.models import resolve
from selfsteer.models.classifiers import missing_head, read_classifier
from selfsteer.models.configs import model_config
from selfsteer.models.load import check_complete, check_device, check_dtype, check_folder
from selfsteer.models.load_errors import loading_errors
from selfsteer.models.resolve import gguf_file, is_adapter

_OUTPUTS = 1


def reward_config(source: str, *, trust_remote_code: bool = False, revision: str | None = None) -> Any:
    """Return a reward model's configuration, once everything is checked that can be told without its weights.

    Args:
        source: A local folder or a hub name.
        trust_remote_code: Run Python code that the model brings.
        revision: Branch, tag or commit of a hub model.

    Raises:
        ModelError: It is no reward model, or can't be used as it is.
        FetchError: It can't be fetched.
    """
    check_form(source)
    if Path(source).is_dir():
        check_folder(Path(source))
    config = model_config(source, trust_remote_code=trust_remote_code, revision=revision)
    # A model of texts and images has two configurations, and only loading tells which of them counts.
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
        device: "cpu", "cuda", "cuda:1", ...
        dtype: "float32", "bfloat16" or "float16".
        trust_remote_code: Run Python code that the model brings.
        revision: Branch, tag or commit of a hub model.

    Raises:
        ModelError: It is no reward model, or can't be used as it is.
        FetchError: It can't be fetched.
        ConfigError: No such dtype or device.
    """
    check_dtype(dtype)
    check_device(device)
    source = resolve(name)
    check_form(source)
    with loading_errors(source):
        model, info = read_classifier(source, dtype, revision, trust_remote_code)
    _check_head(model, info, source)
    check_complete(info, source)
    _check_outputs(source, model.config.num_labels)
    model.config.use_cache = False  # one pass a text: there is nothing to keep keys and values for
    return model.to(device).eval()


def new_reward_model(
    name: str, *, seed: int, device: str = "cpu", trust_remote_code: bool = False, revision: str | None = None
) -> Any:
    """Return a model in float32 to train as a reward model: a base's layers under a score head of one output.

    Args:
        name: A catalogue name, a local folder or a hub name, of a language model or of a reward model.
        seed: Draws the head; a reward model's own head stays.
        device: "cpu", "cuda", "cuda:1", ...
        trust_remote_code: Run Python code that the model brings.
        revision: Branch, tag or commit of a hub model.

    Raises:
        ModelError: It can't be used as a base.
        FetchError: It can't be fetched.
        ConfigError: No such device.
    """
    from transformers import set_seed

    check_device(device)
    source = resolve(name)
    check_form(source)
    set_seed(seed)
    with loading_errors(source):
        model, info = read_classifier(source, "float32", revision, trust_remote_code, outputs=_OUTPUTS)
    head = set(missing_head(model, info))
    if any(key[0].startswith("score.") for key in info["mismatched_keys"]):
        do = "give a language model, or a reward model, which has one output"
        raise ModelError(f"{source} has a score head of several outputs", where=source, do=do)
    check_complete(info | {"missing_keys": set(info["missing_keys"]) - head}, source)
    model.config.use_cache = False
    return model.to(device)


def check_form(source: str) -> None:
    """Raise :class:`ModelError` for a source that no reward model is loaded from, or made of."""
    if is_adapter(source):
        do = "merge it into its base with peft (merge_and_unload, save_pretrained) and give that folder"
        raise ModelError("a reward model can't be loaded from an adapter", where=source, do=do)
    if gguf_file(source) is not None:
        do = "give the reward model's folder with *.safetensors"
        raise ModelError("a GGUF file holds a language model, not a reward model", where=source, do=do)


def _check_head(model: Any, info: dict[str, Any], source: str) -> None:
    """Raise for a checkpoint without the head: transformers would go on with a random one."""
    lacking = missing_head(model, info)
    if not lacking:
        return
    others = ", ".join(sorted(info["unexpected_keys"])[:3])
    held = f"; what it has besides its layers: {others}" if others else ""
    raise ModelError(
        f"{source} has no score head ({', '.join(lacking)}), so it is no reward model{held}",
        where=source,
        do="give a sequence-classification model with one output; a language model can judge by its log-probs",
    )


def _check_outputs(source: str, *outputs: int) -> None:
    if _OUTPUTS not in outputs:
        what = f"{source} gives {outputs[0]} numbers a text; a reward model gives one"
        do = "give a reward model; a language model can judge without reward:, by its log-probs"
        raise ModelError(what, where=f"{source}: config.json: num_labels (id2label)", do=do)
