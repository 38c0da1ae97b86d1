"""Opening a judge's model on this machine."""

from __future__ import annotations

from selfsteer.backends.local_model import LocalModel
from selfsteer.config import LocalModelSettings

_DEVICE = "judge.device (--device)"


def local_model(settings: LocalModelSettings, name: str, key: str = _DEVICE) -> LocalModel:
    """Return a model that is loaded when it is needed, and found now; ``key`` names the setting of its device."""
    from selfsteer.models import resolve, silence_transformers

    silence_transformers()
    return LocalModel(settings, resolve(name), key)


def scoring_model(settings: LocalModelSettings, name: str, key: str = _DEVICE) -> LocalModel:
    """Return a model whose precision "auto" is float32: its scores are compared, and may be nearly the same."""
    precise = settings.model_copy(update={"precision": "float32"}) if settings.precision == "auto" else settings
    return local_model(precise, name, key)
