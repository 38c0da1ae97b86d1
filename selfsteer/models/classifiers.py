"""Reading sequence-classification models: reward models, and classifiers of texts."""

from __future__ import annotations

from typing import Any

from selfsteer.models.load import read_safetensors


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
