"""Naming a model by the content of its files, so that results computed with it can be found again."""

from __future__ import annotations

import contextlib
import hashlib
import time
from pathlib import Path

from selfsteer.errors import ModelError, StorageError
from selfsteer.files import fingerprint, sha256_file, write_atomic
from selfsteer.models.catalogue import cache_folder
from selfsteer.models.configs import end_ids, generation_values, json_object
from selfsteer.models.load_errors import loading_errors
from selfsteer.models.resolve import ADAPTER_CONFIG, base_of, gguf_file, is_adapter, resolve

_CHAT_FILES = (
    "added_tokens.json",
    "additional_chat_templates/*",
    "chat_template*",
    "merges.txt",
    "special_tokens_map.json",
    "tekken.json",
    "tokenizer*",
    "vocab*",
    "*.model",
    "*.tiktoken",
)
"""Files that token ids of a prompt depend on; of generation_config.json the end tokens alone act."""

_INERT = ("_name_or_path", "dtype", "torch_dtype", "transformers_version", "use_cache")
"""Keys of config.json that change nothing here: precision and caching are ours to choose."""

_SETTLED_SECONDS = 2.0
"""A file younger than this may still change without its time stamp showing it; its hash is not kept."""


def model_fingerprint(
    path_or_name: str, revision: str | None = None, *, chat: bool = False, trust_remote_code: bool = False
) -> str:
    """Return 16 hex digits that name the weights: another weight, shard or config.json gives another name.

    With ``chat`` they name its tokenizer, chat template and end tokens too, on which its output depends. Sampling
    defaults in generation_config.json never act, and leave the name as it is. With ``trust_remote_code`` they name the
    Python code in its folder as well, and that it is run.

    A folder or a GGUF file is named by its content (an adapter with its base), a hub name by its commit. Hashes of
    files are kept in the cache folder by path, size and time, so that a second call reads nothing. The price is that an
    edit of such a file changes the name, even where it changes no token.

    Raises:
        ModelError: No such model, or no weights in the folder.
        FetchError: A catalogue or hub model can't be fetched.
    """
    source = resolve(path_or_name)
    own_code = ["its own code is run"] if trust_remote_code else []
    if not Path(source).exists():
        from huggingface_hub import hf_hub_download

        with loading_errors(source):  # the hub's commit, or the cached one without a network
            commit = Path(hf_hub_download(source, "config.json", revision=revision)).parent.name
        return fingerprint(["hub", source, commit, *own_code])
    config = {k: value for k, value in json_object(Path(source) / "config.json").items() if k not in _INERT}
    folder, gguf = Path(source), gguf_file(source)
    files = [gguf] if gguf is not None else sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"no weights in {source}", where=source, do="give a folder with *.safetensors or a .gguf file")
    files += [folder / ADAPTER_CONFIG] if is_adapter(source) else []
    # A GGUF file holds its tokenizer itself, so it has no chat files beside it.
    chat_files = {path for pattern in _CHAT_FILES for path in folder.glob(pattern) if path.is_file()}
    files += sorted(chat_files) if chat else []
    files += sorted(folder.rglob("*.py")) if trust_remote_code else []
    named: list[object] = [*([path.name, _content_hash(path)] for path in files), *own_code]
    named += [["config.json", config]] if config else []
    named += [["eos_token_id", end_ids(generation_values(source))]] if chat else []
    if is_adapter(source):
        base, revision = base_of(source, revision)
        own = model_fingerprint(base, revision, chat=chat, trust_remote_code=trust_remote_code)
        named.append(["base", own])
    return fingerprint(named)


def _content_hash(path: Path) -> str:
    """Return the sha256 of a file, from the cache where size, times and inode are the same as before."""
    stat = path.stat()
    state = f"{path}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ctime_ns}|{stat.st_ino}"
    kept = cache_folder() / "fingerprints" / hashlib.sha256(state.encode()).hexdigest()[:32]
    if kept.exists():
        return kept.read_text()
    found = sha256_file(path)
    if time.time() - stat.st_mtime > _SETTLED_SECONDS:
        # A cache that can't be written costs time, not correctness.
        with contextlib.suppress(StorageError):
            write_atomic(kept, found)
    return found
