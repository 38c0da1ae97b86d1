"""Finding, fetching, naming and loading models: a catalogue name, a local folder, a GGUF file or a hub name."""

from selfsteer.models.catalogue import CATALOGUE, cache_folder, is_fetched
from selfsteer.models.device import check_bits, pick_device, pick_dtype
from selfsteer.models.download import fetch
from selfsteer.models.fingerprint import model_fingerprint
from selfsteer.models.load import end_token_ids, load_model, load_tokenizer, silence_transformers
from selfsteer.models.resolve import resolve
