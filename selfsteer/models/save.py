"""Writing a model's weights as safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selfsteer.errors import StorageError
from selfsteer.models.gguf_io import progress_bars_hidden


def save_weights(model: Any, folder: Path) -> None:
    """Write configuration and weights into a new ``folder``; raises :class:`StorageError` where the disk is full."""
    from safetensors import SafetensorError

    folder.mkdir()
    try:
        with progress_bars_hidden():
            model.save_pretrained(folder)
    except SafetensorError as error:
        do = "free some space and run the same command again"
        raise StorageError(f"can't write the weights: {error}", where=str(folder.parent), do=do) from error
