"""A tokenizer's chat template: rendering prompts to token ids, and what the template does with a system message."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, Literal

from selfsteer.errors import ModelError
from selfsteer.files import fingerprint
from selfsteer.records import Message

SystemRole = Literal["native", "folded"]
_MARK = "zq7 system mark"


class Chat:
    """Renders chat prompts with a model's own template.

    Attributes:
        system_role: "native" where a system message reaches the model; "folded" where the template refuses or drops
            it (Gemma 1 and 2, some Mistrals), so that a principle has to go into the user's turn.
        end_ids: Token ids that end a response, the template's own first.
    """

    def __init__(self, tokenizer: Any, end_ids: Iterable[int] = ()) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise ModelError(
                "the tokenizer has no chat template",
                where=str(getattr(tokenizer, "name_or_path", "")),
                do="choose a chat (instruct) model, or add chat_template to its tokenizer_config.json",
            )
        self.tokenizer = tokenizer
        own = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
        self.end_ids = tuple(dict.fromkeys([*end_ids, *own]))
        if not self.end_ids:
            raise ModelError("neither the tokenizer nor the generation config names an end token", do="set eos_token")
        self.system_role: SystemRole = self._probe_system_role()

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Return the token ids of a prompt, the cue for the assistant's turn included; one BOS if the template has one.

        Raises:
            ModelError: The template refuses these messages (for instance two user turns in a row).
        """
        from jinja2 import TemplateError

        try:
            ids: list[int] = self.tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=True, tokenize=True, return_dict=False
            )
        except (TemplateError, TypeError) as error:
            roles = ", ".join(message["role"] for message in messages)
            raise ModelError(
                f"the chat template refuses a prompt with the roles {roles}: {error}",
                where=str(getattr(self.tokenizer, "name_or_path", "")),
                do="bring the prompts into the form this model's template takes",
            ) from error
        return ids

    def encode_response(self, text: str, ended: bool) -> list[int]:
        """Tokenise a response that carries no sampled ids; ``ended`` appends the end token."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return [*ids, self.end_ids[0]] if ended else ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids without special tokens."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that name the vocabulary and the template: token ids are foreign where they differ."""
        vocabulary = sorted(self.tokenizer.get_vocab().items())
        return fingerprint([vocabulary, self.tokenizer.chat_template])

    def _probe_system_role(self) -> SystemRole:
        messages = [{"role": "system", "content": _MARK}, {"role": "user", "content": "hello"}]
        try:
            return "native" if _MARK in self.decode(self.encode(messages)) else "folded"
        except ModelError:
            return "folded"
