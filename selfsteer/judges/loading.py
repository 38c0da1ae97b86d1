"""Opening a judge's model on this machine."""

from __future__ import annotations

from selfsteer.backends.local_model import LocalModel
from selfsteer.config import JudgeSettings


def option_of(key: str) -> str:
    """Return the name of a setting in a recipe and on the command line."""
    return f"judge.{key} (--{key.replace('_', '-')})"


def local_model(settings: JudgeSettings, name: str) -> LocalModel:
    """Return a model that is loaded when it is needed; raises where it can't be found."""
    from selfsteer.models import resolve, silence_transformers

    silence_transformers()
    return LocalModel(settings, resolve(name), option_of("device"))


def scoring_model(settings: JudgeSettings, name: str) -> LocalModel:
    """Return a model whose precision "auto" is float32: its scores are compared, and may be nearly the same."""
    precise = settings.model_copy(update={"precision": "float32"}) if settings.precision == "auto" else settings
    return local_model(precise, name)
