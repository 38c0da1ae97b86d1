"""The formats of an export: the rows of each, and which contrasts it can't represent.

A new format is a function and an entry in :data:`FORMATS`. A format of one view holds a prompt, its chosen and its
rejected response, as :mod:`selfsteer.views` assigns them. The others hold all prompts and responses of a row, and the
trainer that reads them makes the views.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from selfsteer.export.authors import AUTHORS_FIELDS, FLAG, authors_problem, to_authors
from selfsteer.quality import steering_margin
from selfsteer.records import ROLES, Contrast, Message, schema
from selfsteer.views import PAIRINGS, View

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Layout:
    """The choices within a format.

    Attributes:
        view: Which prompt, chosen and rejected response; base if the format holds all of them.
        full: Whether to add the columns on a row's origin, if the format has room for them.
    """

    view: View = View.BASE
    full: bool = True


@dataclasses.dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        schema: Returns the Arrow schema of those rows; None if the format can't be Parquet.
        suffixes: The file types it supports; the first is that of a folder's shards.
        problem: Returns why it can't represent a row, "" if it can.
        one_view: Whether it holds one view, or all prompts and responses.
        extras: Whether :attr:`Layout.full` makes a difference.
        finishes: Whether it records which responses were cut off.
    """

    summary: str
    make: Callable[[Contrast, Layout], list[Row]]
    schema: Callable[[Layout], pa.Schema] | None
    suffixes: tuple[str, ...]
    problem: Callable[[Contrast, Layout], str] = lambda row, layout: ""
    one_view: bool = True
    extras: bool = False
    finishes: bool = False
    tags: tuple[str, ...] = ()

    def roles(self, layout: Layout) -> tuple[str, ...]:
        """Return the roles of its responses."""
        pairing = PAIRINGS[layout.view]
        return (pairing.chosen, pairing.rejected) if self.one_view else ROLES


def _prompt(row: Contrast, layout: Layout) -> list[Message]:
    messages: list[Message] = getattr(row, PAIRINGS[layout.view].prompt)
    return messages


def _pair(row: Contrast, layout: Layout, column: str = "response") -> tuple[str, str]:
    """Return the chosen and the rejected response of the view, or their finish reasons."""
    pairing = PAIRINGS[layout.view]
    return getattr(row, f"{pairing.chosen}_{column}"), getattr(row, f"{pairing.rejected}_{column}")


def _assistant(text: str) -> list[Message]:
    return [{"role": "assistant", "content": text}]


def _trl(row: Contrast, layout: Layout) -> list[Row]:
    chosen, rejected = map(_assistant, _pair(row, layout))
    values: Row = {"prompt": _prompt(row, layout), "chosen": chosen, "rejected": rejected}
    if layout.full:
        values["chosen_finish"], values["rejected_finish"] = _pair(row, layout, "finish")  # TRL can't tell otherwise
        values |= _origin(row, layout)
    return [values]


def _trl_unpaired(row: Contrast, layout: Layout) -> list[Row]:
    rows = []
    for text, finish, label in zip(_pair(row, layout), _pair(row, layout, "finish"), (True, False), strict=True):
        values: Row = {"prompt": _prompt(row, layout), "completion": _assistant(text), "label": label}
        if layout.full:
            values |= {"completion_finish": finish} | _origin(row, layout)
        rows.append(values)
    return rows


def _origin(row: Contrast, layout: Layout) -> Row:
    """Return the columns on a row's origin."""
    return {name: getattr(row, name, None) for name, _ in _ORIGIN} | {
        "view": str(layout.view),
        "scores": _finite(row.scores),
        "steering_margin": _finite(steering_margin(row)),
        "provenance": json.dumps(row.provenance, sort_keys=True, ensure_ascii=False),
    }


def _finite(value: Any) -> Any:
    """Return numbers, alone or in a dict, with None for those that JSON can't hold."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return value if value is None or math.isfinite(value) else None


def _llama_factory(row: Contrast, layout: Layout) -> list[Row]:
    prompt, (chosen, rejected) = _prompt(row, layout), _pair(row, layout)
    system, turns = _system_and_turns(prompt)
    speakers = {"user": "human", "assistant": "gpt"}
    return [
        {
            "conversations": [{"from": speakers[turn["role"]], "value": turn["content"]} for turn in turns],
            "system": system,
            "chosen": {"from": "gpt", "value": chosen},
            "rejected": {"from": "gpt", "value": rejected},
            FLAG: row.negative_harmful,  # in no entry of dataset_info.json, so its loader drops it
        }
    ]


def _system_and_turns(prompt: Sequence[Message]) -> tuple[str, list[Message]]:
    """Return the text of a leading system message, "" without one, and the turns after it."""
    leading = prompt[:1] if prompt and prompt[0]["role"] == "system" else []
    return "".join(message["content"] for message in leading), list(prompt[len(leading) :])


def _llama_factory_problem(row: Contrast, layout: Layout) -> str:
    # LLaMA-Factory skips other turns, with no more than a warning in its log.
    _, turns = _system_and_turns(_prompt(row, layout))
    wanted = ["user", "assistant"] * len(turns)
    alternate = [turn["role"] for turn in turns] == wanted[: len(turns)]
    return "" if alternate and len(turns) % 2 else "turns that are not user, assistant, ..., user"


def _contrast(row: Contrast, layout: Layout) -> list[Row]:
    values = {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
    return [values | {"provenance": json.dumps(row.provenance, sort_keys=True)}]  # as stored: Arrow has no free dicts


_OWN = schema(Contrast)
_MESSAGES = _OWN.field("prompt").type
_SPOKEN = pa.struct([("from", pa.string()), ("value", pa.string())])
# None has a name that TRL's trainers read (margin, images, tools, ref_*_logps, *_ids).
_ORIGIN = [
    (name, _OWN.field(name).type if name in _OWN.names else pa.string())
    for name in (
        "id view aspects positive_principle negative_principle scores steering_margin negative_harmful round kept "
        "drop_reason provenance"
    ).split()
]


def _trl_schema(layout: Layout) -> pa.Schema:
    pair = [("prompt", _MESSAGES), ("chosen", _MESSAGES), ("rejected", _MESSAGES)]
    finishes = [("chosen_finish", pa.string()), ("rejected_finish", pa.string())]
    return pa.schema([*pair, *([*finishes, *_ORIGIN] if layout.full else [])])


def _trl_unpaired_schema(layout: Layout) -> pa.Schema:
    labelled = [("prompt", _MESSAGES), ("completion", _MESSAGES), ("label", pa.bool_())]
    return pa.schema([*labelled, *([("completion_finish", pa.string()), *_ORIGIN] if layout.full else [])])


def _llama_factory_schema(layout: Layout) -> pa.Schema:
    spoken = [("chosen", _SPOKEN), ("rejected", _SPOKEN)]
    return pa.schema([("conversations", pa.list_(_SPOKEN)), ("system", pa.string()), *spoken, (FLAG, pa.string())])


FORMATS: dict[str, Format] = {
    "trl": Format(
        "TRL's preference format, conversational: prompt, chosen, rejected",
        _trl,
        _trl_schema,
        (".parquet", ".jsonl", ".json"),
        extras=True,
        tags=("trl", "dpo"),
    ),
    "trl-unpaired": Format(
        "TRL's unpaired preference format, conversational: prompt, completion, label",
        _trl_unpaired,
        _trl_unpaired_schema,
        (".parquet", ".jsonl", ".json"),
        extras=True,
        tags=("trl", "kto"),
    ),
    "llama-factory": Format(
        "LLaMA-Factory's preference format, sharegpt style: conversations, system, chosen, rejected",
        _llama_factory,
        _llama_factory_schema,
        (".jsonl", ".json", ".parquet"),
        problem=_llama_factory_problem,
        tags=("llama-factory", "dpo"),
    ),
    "authors": Format(
        f"the JSON of the paper's authors: {', '.join(AUTHORS_FIELDS)}",
        lambda row, layout: [to_authors(row)],
        None,
        (".json", ".jsonl"),
        problem=lambda row, layout: authors_problem(row),
        one_view=False,
    ),
    "contrast": Format(
        "selfsteer's own rows, for SSOTrainer: all prompts, responses, token ids and scores",
        _contrast,
        lambda layout: _OWN,
        (".parquet",),
        one_view=False,
        finishes=True,
    ),
}
