"""What the sections of a recipe share."""

from __future__ import annotations

import json
from collections.abc import Collection
from contextlib import suppress
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from selfsteer.errors import did_you_mean
from selfsteer.limits import LARGEST

Positive = Annotated[int, Field(ge=1, le=LARGEST)]
Natural = Annotated[int, Field(ge=0, le=LARGEST)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
MAX_LEFT_OUT = 0.5
"""Share of a source's rows that can't be used and may be left out, unless a recipe says otherwise."""


NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""A name that can be a folder's, everywhere."""


class Section(BaseModel):
    """A part of a recipe: an unknown key is an error, and nothing is changed after it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def whole_micro_batches(batch_size: int, micro_batch_size: int) -> None:
    """Raise where an optimiser step is not a whole number of micro-batches."""
    if batch_size % min(micro_batch_size, batch_size):
        what = f"micro_batch_size {micro_batch_size} must divide batch_size {batch_size}"
        raise conflict(what, "micro_batch_size", "batch_size")


_GIVEN_TO_TEMPLATES = frozenset(
    """messages conversation tools documents chat_template add_generation_prompt continue_final_message tokenize padding
    truncation max_length return_tensors return_dict return_assistant_tokens_mask tokenizer_kwargs bos_token eos_token
    unk_token sep_token pad_token cls_token mask_token""".split()
)
"""What a chat template gets from the conversation, the tokenizer and the call."""


def _template_kwargs(values: dict[str, Any]) -> dict[str, Any]:
    for name, value in values.items():
        if name in _GIVEN_TO_TEMPLATES:
            raise conflict(f"{name!r} can't be set: a template gets it from the conversation or the tokenizer")
        if not name.isidentifier():
            raise conflict(f"{name!r} can't be the name of a template's variable")
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise conflict(f"the value of {name!r} can't be sent as JSON (a date needs quotes)") from error
    return values


TemplateKwargs = Annotated[dict[str, Any], AfterValidator(_template_kwargs)]
"""Variables of a chat template, e.g. {enable_thinking: false}; one that the template does not mention is an error."""


def known_name(what: str, registry: Collection[str]) -> AfterValidator:
    """Return the check that a value is a name of a registry, with a suggestion where it is not."""

    def check(name: str) -> str:
        if name not in registry:
            context = {"what": f"unknown {what} {name!r}", "do": did_you_mean(name, registry)}
            raise PydanticCustomError("unknown_name", "{what}", context)
        return name

    return AfterValidator(check)


def _base_url(address: str) -> str:
    """Refuse what would be written into files of the run with the address, or would be joined to a path wrongly."""
    secret = False
    with suppress(ValueError):  # an invalid address is reported where it is used
        parts = urlsplit(address)
        secret = bool(parts.username or parts.password or parts.query or parts.fragment)
    if secret:
        what = "an address with a user, a password or a query would be written into files of the run"
        do = "leave them out; a key comes from the variable that api_key_env names"
        raise PydanticCustomError("secret", "{what}", {"what": what, "do": do})
    return address


BaseUrl = Annotated[str, AfterValidator(_base_url)]
"""The address of a server, without secrets in it."""


def conflict(what: str, *keys: str) -> PydanticCustomError:
    """An error about several ``keys`` of a section (dotted) that don't go together."""
    return PydanticCustomError("conflict", "{what}", {"what": what, "keys": keys})
