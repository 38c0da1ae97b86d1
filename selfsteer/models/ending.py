"""Which tokens a model's configurations name as ends of a response."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selfsteer.models.configs import end_ids, generation_values
from selfsteer.models.resolve import adapter_base, is_adapter, resolve


def end_token_ids(name_or_path: str, *, trust_remote_code: bool = False, revision: str | None = None) -> list[int]:
    """Return the end tokens that generation_config.json and config.json name; an adapter's are those of its base.

    What ends a turn is said by the chat template (:class:`selfsteer.chat.Chat`). These are further tokens to stop at,
    and their order means nothing: Llama 3 lists the end of a document first.
    """
    from transformers import PretrainedConfig

    source = resolve(name_or_path)
    if Path(source).is_file():  # GGUF: the tokenizer that it holds names its end
        return []
    if is_adapter(source):
        base, own_revision = adapter_base(source)
        return end_token_ids(base, trust_remote_code=trust_remote_code, revision=own_revision or revision)
    options: dict[str, Any] = {"revision": revision} if revision else {}
    try:  # the file as it is: what it leaves out a configuration's class would fill in with another model's id
        values, _ = PretrainedConfig.get_config_dict(source, **options)
    except OSError:  # a folder of GGUF files
        values = {}
    named = (generation_values(source, revision), values, values.get("text_config") or {})
    return list(dict.fromkeys(id for one in named for id in end_ids(one)))
