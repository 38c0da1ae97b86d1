"""Why a stage has to be done again: what it depended on, against what it depends on now, in words of the recipe."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any

from selfsteer.runs.pipeline import PIPELINE

_MODEL = "the model (weights, tokenizer, chat template, end tokens)"

_NAMES: dict[str, str | dict[str, str]] = {
    "version": "selfsteer's code of this stage",
    "settings": {
        "queries": "queries",
        "principles": "principles",
        "preferences": "preferences",
        "generator": "generator",
        "policy": "train",
    },
    "checks": {"preferences": "queries"},
    "asked": "the queries of the round",
    "reader": "the model to train",
    "drawn": "principles.per_round",
    "top_p": "generation.top_p",
    "roles": "the responses asked for",
    "decay": "train.ema_decay",
    "views": "the views trained on",
    "set": "the text of the principle set",
    "templates": "prompt template",
    "engine.0": "generation.backend",
    "engine.1": _MODEL,
    "engine.2": "generation.precision",
    "engine.3": "generation.batch_size",
    "engine.4": "generation.vllm",
    "scorer.0": _MODEL,
    "scorer.1": "train.precision",
    "scorer.2": "train.max_length",
    "scorer": "the model to score with",
    "lengths": "how lengths are counted",
    "sampling.0": "generation.temperature",
    "sampling.1": "generation.top_p",
    "sampling.2": "generation.max_new_tokens",
    "own_sampling": "generation.roles",
    "limit": "train.max_length",
    "room": "generation.max_new_tokens (a writer that thinks)",
    "clean": "quality.clean",
    "thinking": "generation.thinking",
    "filters": "quality.filters",
    "files": "the file of filter",
    "judge": "the judge",
    "reward": "the model of quality.reward",
    "by": "judge.by",
    "model": "weights",
    "tokenizer": "the tokenizer or chat template",
}
"""What a dependency (a path of keys and places) is called; what is not here has its own name."""

_INPUTS = {stage.name: stage.makes for stage in PIPELINE if stage.makes} | {
    "queries.0": "the queries",
    "start": "the start's held-out rows",
    "heldout": "the held-out queries",
    "rows": "the rows",
    "examples": "the pairs to train on",
}
"""Dependencies that are the key of an earlier stage."""

_SHOWN = 60


def reasons(stage: str, before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> list[str]:
    """Return what has changed, one phrase each, settings first; ``before`` is None where nobody noted it.

    Args:
        before, now: What the ledger keeps of its dependencies (:func:`selfsteer.runs.store.recorded_dependencies`).
    """
    if before is None:
        return ["reason unknown: the ledger is of a version that did not note what a stage depended on"]
    found = list(dict.fromkeys(_phrases(stage, before, now)))
    return sorted(found, key=lambda phrase: phrase.endswith(_CHANGED)) or ["reason unknown: it has another key"]


_CHANGED = " changed"


def _phrases(stage: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for path, old, new in _differences(before, now, ""):
        name = _INPUTS.get(path) or _INPUTS.get(re.sub(r"(\.\d+)+$", "", path))  # one of several inputs has a place
        if name:
            yield f"{name}{_CHANGED}"
        elif "content" in path.split("."):
            whose = path.partition("content")[0].rstrip(".") or (
                "preferences" if stage == "preferences" else "the queries"
            )
            yield f"the content of {whose} changed"
        elif path == "set":
            yield f"{_NAMES['set']} has changed"
        else:
            yield f"{_named(stage, path)} {_short(old)} -> {_short(new)}"


def _differences(old: Any, new: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield path, old and new value wherever two trees of plain values differ; filters are compared as a whole."""
    if path == "filters" and old != new:
        yield path, old, new
    elif isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
    elif isinstance(old, list) and isinstance(new, list) and (len(old) == len(new) or path == "engine"):
        for place, pair in enumerate(zip_longest(old, new)):
            yield from _differences(*pair, f"{path}.{place}")
    elif old != new:
        yield path, old, new


def _named(stage: str, path: str) -> str:
    head, _, rest = path.partition(".")
    own = _NAMES.get(path) or _NAMES.get(head)
    if own is None:
        return path
    if isinstance(own, str):
        return own if path in _NAMES or not rest else f"{own} {rest}"
    return f"{own.get(stage, head)}.{rest}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
