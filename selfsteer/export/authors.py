"""The JSON of the paper's authors, both ways: an object a row, with one instruction and three system messages."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

from selfsteer.errors import SelfsteerWarning
from selfsteer.files import fingerprint
from selfsteer.queries.messages import Cells, Unusable, is_missing, is_text, kind
from selfsteer.queries.tally import Tally, check_share, in_words
from selfsteer.records import HARM_UNKNOWN, Contrast, Message

AUTHORS_FIELDS = ("instruction", "p_system", "n_system", "system", "chosen", "rejected", "raw")
"""In their names: x, the system messages of x+, x- and x ("" without one), y+, y-, yo."""
FLAG = "negative_harmful"
"""Our own key beside theirs: why y- counts as harmful, "" if it does not."""
_NEVER_EMPTY = ("instruction", "p_system", "n_system")
_ORIGIN = "the authors' JSON, which has no finish reasons: assumed finished"


def to_authors(row: Contrast) -> dict[str, str]:
    """Return a row without an :func:`authors_problem` in their form; their code ignores :data:`FLAG`."""
    return {
        "idx": row.id,
        "instruction": row.prompt[-1]["content"],
        "p_system": _system(row.positive_prompt),
        "n_system": _system(row.negative_prompt),
        "system": _system(row.prompt),
        "chosen": row.positive_response,
        "rejected": row.negative_response,
        "raw": row.original_response,
        FLAG: row.negative_harmful,
    }


def authors_problem(row: Contrast) -> str:
    """Return why their form can't represent a row, "" if it can."""
    # The instruction is one text, the same under all three system messages. Their rows may have a ``history``, but
    # their code neither samples nor trains with it.
    prompts = row.prompt, row.positive_prompt, row.negative_prompt
    if "original" not in row.roles:
        return "no original response (yo)"
    if any(len(prompt) > 1 + (prompt[0]["role"] == "system") for prompt in prompts):
        return "a prompt of several turns"
    if not (_system(row.positive_prompt) and _system(row.negative_prompt)):
        return "a principle in the user turn (its model has no system role)"
    texts = {prompt[-1]["content"] for prompt in prompts}
    return "" if len(texts) == 1 and row.prompt[-1]["role"] == "user" else "a user turn that differs between prompts"


def read_authors(rows: Iterable[tuple[str, Any]], source: str) -> Iterator[Contrast]:
    """Yield contrasts from rows in the authors' form; rows that can't be used are left out, with a warning at the end.

    Keys besides :data:`AUTHORS_FIELDS`, ``idx`` and :data:`FLAG` are ignored; without the flag y- may be harmful.
    ``rows`` come with their places, for messages.

    Raises:
        DataError: No row is left.
    """
    tally = Tally()
    for where, row in rows:
        tally.rows += 1
        try:
            yield _contrast(row)
        except Unusable as unusable:
            tally.add(where, str(unusable), unusable.do)
    check_share(tally.info, "row", source, most=None)
    if tally.unusable:
        what = f"{tally.unusable} of {tally.rows} rows are left out: {in_words(tally.reasons)}"
        warnings.warn(what, SelfsteerWarning, stacklevel=2)


def _contrast(row: Any) -> Contrast:
    values = _fields(row)
    flag = row.get(FLAG, HARM_UNKNOWN)
    if not isinstance(flag, str):
        raise _wrong(f"{FLAG!r} of this row is not text but {kind(flag)}")
    user: Message = {"role": "user", "content": values["instruction"]}

    def under(system: str) -> list[Message]:
        return [{"role": "system", "content": system}, user] if system else [user]

    return Contrast(
        id=str(row["idx"]) if row.get("idx") not in (None, "") else fingerprint(values),
        prompt=under(values["system"]),
        split="train",
        aspects=[],
        positive_principle=values["p_system"],
        negative_principle=values["n_system"],
        positive_prompt=under(values["p_system"]),
        negative_prompt=under(values["n_system"]),
        positive_response=values["chosen"],
        negative_response=values["rejected"],
        original_response=values["raw"],
        positive_finish="stop",  # see _ORIGIN
        negative_finish="stop",
        original_finish="stop",
        negative_harmful=flag,
        provenance={"source": _ORIGIN},
    )


def _fields(row: Any) -> dict[str, str]:
    """Return the seven texts of a row."""
    row = Cells(row).cells
    found = {name: row.get(name) for name in AUTHORS_FIELDS} | {
        "system": "" if is_missing(row.get("system")) else row["system"]
    }
    missing = [name for name, value in found.items() if value is None]
    if missing:
        raise _wrong(f"this row lacks {', '.join(missing)}")
    values = {name: value for name, value in found.items() if isinstance(value, str)}
    strange = [name for name in found if name not in values]
    if strange:
        raise _wrong(f"{strange[0]!r} of this row is not text but {kind(found[strange[0]])}")
    empty = [name for name in _NEVER_EMPTY if not values[name].strip()]
    if empty:
        raise _wrong(f"{empty[0]!r} of this row is empty")
    if not all(map(is_text, values.values())):  # Parquet and UTF-8 files could not hold it
        raise _wrong("this row holds half of a surrogate pair, which is not valid text")
    return values


def _wrong(what: str) -> Unusable:
    fields = ", ".join(AUTHORS_FIELDS)
    return Unusable(what, f"correct those rows, or leave them out; a row is an object of texts: {fields}")


def _system(prompt: list[Message]) -> str:
    return prompt[0]["content"] if prompt[0]["role"] == "system" else ""
