"""Which adapter is trained: a fresh one, or the one that the model brings."""

from __future__ import annotations

from typing import Any

from selfsteer.errors import ConfigError

_COMPARED = ("peft_type", "r", "lora_alpha", "lora_dropout", "target_modules")


def with_adapter(model: Any, peft_config: Any) -> Any:
    """Return ``model`` ready to train: with a fresh adapter, or with its own made trainable, or as it is.

    A second adapter on top of the first could not be saved: its folder would name a base that lacks the first one. So
    a model that brings an adapter (an earlier round's policy) goes on with that.

    Raises:
        ConfigError: The model's own adapter has other settings than ``peft_config``.
    """
    from peft import PeftModel, get_peft_model

    if not isinstance(model, PeftModel):
        return model if peft_config is None else get_peft_model(model, peft_config)
    if peft_config is not None:
        _check_alike(model.active_peft_config, peft_config)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        model.set_adapter(model.active_adapter)
    return model


def _check_alike(own: Any, asked: Any) -> None:
    for name in _COMPARED:
        has, wants = getattr(own, name, None), getattr(asked, name, None)
        open_choice = name == "target_modules" and (wants is None or isinstance(wants, str))  # peft expands these
        if has != wants and not open_choice:
            raise ConfigError(
                f"the model brings an adapter with {name}={has!r}, and {wants!r} is asked for",
                where="peft_config",
                do="ask for the adapter's own settings, or merge it into its base first (merge_and_unload)",
            )
