"""From a query with its principle pair to three responses, and from those to one :class:`Contrast`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from selfsteer.chat import Chat
from selfsteer.errors import DataError, ModelError
from selfsteer.files import parse_json
from selfsteer.records import PROMPTS, ROLES, Contrast, Message, Response, Role, SteeredQuery

PROMPT_OF_ROLE = {"positive": "positive_prompt", "negative": "negative_prompt", "original": "prompt"}
"""Which prompt each response is sampled under: y+ under x+, y- under x-, yo under x."""
_COLUMNS = {field.name: field for field in dataclasses.fields(Contrast)}
_MISSING = (dataclasses.MISSING, dataclasses.MISSING)
_REQUIRED = [name for name, field in _COLUMNS.items() if (field.default, field.default_factory) == _MISSING]


class Request(NamedTuple):
    """One response to sample."""

    id: str
    role: str
    prompt: list[Message]


def requests(rows: Sequence[SteeredQuery], roles: Sequence[str] = ROLES) -> list[Request]:
    """Return the requests of each row, one a role."""
    return [Request(row.id, role, getattr(row, PROMPT_OF_ROLE[role])) for row in rows for role in roles]


def check_prompts_differ(row: SteeredQuery, chat: Chat | None) -> None:
    """Raise :class:`ModelError` where two of the three prompts reach the model as the same text.

    A template that drops the system message would make y+ and y- samples of one distribution: noise as preference.
    """
    prompts = [getattr(row, name) for name in PROMPTS]
    rendered = [chat.encode(prompt) if chat else prompt for prompt in prompts]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        if rendered[i] == rendered[j]:
            what = f"{PROMPTS[i]} and {PROMPTS[j]} of query {row.id!r} render the same: the principle is lost"
            do = "use a model with a template that keeps a system message, or fix the template"
            raise ModelError(what, where="the model's chat template", do=do)


def assemble(
    row: SteeredQuery, responses: Mapping[str, Response], *, round: int, provenance: dict[str, str]
) -> Contrast:
    """Join a query's responses (by role) into one row; its provenance keeps the origin of query and principles.

    A response that was not sampled is marked as absent.
    """
    values: dict[str, object] = {}
    for role in ROLES:
        response = responses.get(role) or Response(row.id, cast(Role, role), "", "absent", [])
        values[f"{role}_response"] = response.text
        values[f"{role}_finish"] = response.finish
        values[f"{role}_token_ids"] = response.token_ids
        values[f"{role}_thinking"] = response.thinking
        values[f"{PROMPT_OF_ROLE[role]}_token_ids"] = response.prompt_token_ids
    shared = {
        field.name: getattr(row, field.name)
        for field in dataclasses.fields(row)
        if field.name not in ("choice", "writing", "provenance")
    }
    origin = provenance | row.provenance | {"choice": row.choice, "writing": row.writing}
    return Contrast(**shared, **values, round=round, provenance=origin)  # type: ignore[arg-type]


def contrast_of(row: Contrast | Mapping[str, Any]) -> Contrast:
    """Return a row of a data set, with the columns of :class:`Contrast` by name, as one; other columns are left out.

    Raises :class:`DataError` where a column without a default is missing.
    """
    if isinstance(row, Contrast):
        return row
    missing = [name for name in _REQUIRED if name not in row]
    if missing:
        what = f"the data set lacks the columns {', '.join(missing)}"
        do = "give rows of selfsteer.records.Contrast, as a run's contrasts/*.parquet have them"
        raise DataError(what, where=f"row {row.get('id', '')!r}", do=do)
    values = {name: value for name, value in row.items() if name in _COLUMNS}
    provenance = values.get("provenance") or {}
    values["provenance"] = parse_json(provenance) if isinstance(provenance, str) else provenance  # JSON on disk
    return Contrast(**values)


def with_token_ids(contrast: Contrast, chat: Chat) -> Contrast:
    """Tokenise prompts and responses without ids, or with ids of another tokenizer, and note that in the provenance.

    Ids that were sampled by this tokenizer stay as they are: re-tokenised text can differ from the sample.
    """
    own = contrast.provenance.get("tokenizer") == chat.fingerprint
    lacking = {name for name in (*PROMPTS, *ROLES) if not own or getattr(contrast, f"{name}_token_ids") is None}
    if not lacking:
        return contrast
    answers = {
        role: (getattr(contrast, f"{role}_response"), getattr(contrast, f"{role}_finish") == "stop")
        for role in contrast.roles
        if role in lacking
    }
    plain, responses = chat.encode_answers(contrast.prompt, list(answers.values()))
    ids: dict[str, list[int]] = {role: [] for role in ROLES} | dict(zip(answers, responses, strict=True))
    for prompt in PROMPTS:
        messages = getattr(contrast, prompt)
        same = messages == contrast.prompt  # annotated pairs have one prompt three times
        ids[prompt] = plain if same else chat.encode_answers(messages, list(answers.values()))[0]
    made = {f"{name}_token_ids": ids[name] for name in lacking}
    provenance = {**contrast.provenance, "tokenizer": chat.fingerprint, "tokenised": ",".join(sorted(made))}
    return dataclasses.replace(contrast, **made, provenance=provenance)  # type: ignore[arg-type]
