"""Which adapter is trained: a fresh one, or the one that the model brings."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any

from selfsteer.config import LoraSettings
from selfsteer.errors import ConfigError, did_you_mean
from selfsteer.models.load_errors import loading_errors
from selfsteer.models.resolve import ADAPTER_CONFIG, is_adapter

_COMPARED = ("peft_type", "r", "lora_alpha", "lora_dropout", "target_modules")


def lora_config(lora: LoraSettings, task: str = "CAUSAL_LM") -> Any:
    """Return peft's configuration for a recipe's ``lora``; ``task`` is peft's name of the model's purpose."""
    from peft import LoraConfig

    return LoraConfig(
        task_type=task, r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=lora.target_modules
    )


def is_target(asked: str | Sequence[str], name: str) -> bool:
    """Return whether peft puts an adapter on a module: a text is a regular expression for the whole of its name."""
    if asked == "all-linear":
        return True
    if isinstance(asked, str):
        return re.fullmatch(asked, name) is not None
    return any(name == one or name.endswith(f".{one}") for one in asked)


def check_adapter(model: Any, source: str, lora: LoraSettings | None, *, where: str, task: str = "CAUSAL_LM") -> None:
    """Raise :class:`ConfigError` where a recipe's adapter can't be put on a model, or is not the one that it brings.

    ``model`` is on the meta device (:func:`selfsteer.models.configs.outline`), and is changed; ``source`` is its
    folder, ``where`` names the recipe's section, for messages; ``task`` is as of :func:`lora_config`.
    """
    if lora is None:
        return
    if is_adapter(source):
        from peft import PeftConfig

        with loading_errors(source, ADAPTER_CONFIG):
            held = PeftConfig.from_pretrained(source)
        check_alike(held, lora_config(lora, task))
        return
    key, asked = f"{where}.target_modules", lora.target_modules
    modules = dict(model.named_modules())
    linear = {name.rpartition(".")[2] for name, module in modules.items() if hasattr(module, "in_features")}
    try:
        # A target that matches nothing is refused even if others match: peft would train an adapter that lacks it.
        for one in [asked] if isinstance(asked, str) else asked:
            if not any(is_target(one if isinstance(asked, str) else [one], name) for name in modules):
                what = f"{type(model).__name__} has no module of the name {one!r}"
                raise ConfigError(what, where=key, do=did_you_mean(one, {*linear, "all-linear"}))
        _with_fresh(model, lora_config(lora, task))
    except (ValueError, TypeError, re.error) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        what = f"no adapter can be put on {asked!r} of {type(model).__name__}: {reason}"
        raise ConfigError(what, where=key, do=f"take some of: all-linear, {', '.join(sorted(linear))}") from error


def with_adapter(model: Any, peft_config: Any) -> Any:
    """Return ``model`` ready to train: with a fresh adapter, or with its own made trainable, or as it is.

    A second adapter on top of the first could not be saved: its folder would name a base that lacks the first one. So
    the training of a model that brings an adapter (an earlier round's policy) continues with that one. Weights in 4 or
    8 bits stay as they are; the rest of the base becomes float32. Raises as :func:`check_alike`.
    """
    from peft import PeftModel

    if not isinstance(model, PeftModel):
        return model if peft_config is None else _with_fresh(_prepared(model), peft_config)
    if peft_config is not None:
        check_alike(model.active_peft_config, peft_config)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        model = _prepared(model)
        model.set_adapter(model.active_adapter)
    return model


def _with_fresh(model: Any, peft_config: Any) -> Any:
    from peft import get_peft_model

    with warnings.catch_warnings():
        # peft uses a name that transformers deprecates; a reader of the warning could do nothing about it.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        return get_peft_model(model, peft_config)


def check_trainable(model: Any) -> None:
    """Raise :class:`ConfigError` where all of a model's weights are frozen; torch would fail in the first step."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(
            "none of the model's weights can be trained: all are frozen",
            where="model",
            do="give a peft_config for a fresh adapter, or call model.requires_grad_(True) first "
            "(merge_and_unload leaves weights frozen)",
        )


def is_quantised(model: Any) -> bool:
    """Return whether bitsandbytes holds the model's weights, in 4 or 8 bits."""
    return bool(getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False))


def _prepared(model: Any) -> Any:
    if not is_quantised(model):
        return model
    from peft import prepare_model_for_kbit_training

    # Gradient checkpointing is switched on by the trainer's own setting.
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)


def check_alike(own: Any, asked: Any) -> None:
    """Raise :class:`ConfigError` where the adapter that a model brings has other settings than ``asked``."""
    for name in _COMPARED:
        has, wants = getattr(own, name, None), getattr(asked, name, None)
        open_choice = name == "target_modules" and (wants is None or isinstance(wants, str))  # peft expands these
        if has != wants and not open_choice:
            what = f"the model brings an adapter with {name}={has!r}, but the settings say {wants!r}"
            do = "set the adapter's own values, or merge it into its base first (merge_and_unload)"
            raise ConfigError(what, where="peft_config", do=do)
