"""Finding, fetching, naming and loading models: a catalogue name, a local folder, a GGUF file or a hub name."""

from selfsteer.models.catalogue import CATALOGUE, CatalogueEntry, ModelRow, cache_folder, list_models
from selfsteer.models.device import check_bits, pick_device, pick_dtype
from selfsteer.models.download import fetch
from selfsteer.models.fingerprint import model_fingerprint
from selfsteer.models.load import end_token_ids, load_model, load_tokenizer, silence_transformers
from selfsteer.models.resolve import resolve

__all__ = [
    "CATALOGUE",
    "CatalogueEntry",
    "ModelRow",
    "cache_folder",
    "check_bits",
    "end_token_ids",
    "fetch",
    "list_models",
    "load_model",
    "load_tokenizer",
    "model_fingerprint",
    "pick_device",
    "pick_dtype",
    "resolve",
    "silence_transformers",
]
