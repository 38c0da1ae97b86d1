"""A model's chat: token ids of prompts and answers as its template writes them, ends of turns, a model's thoughts.

The template is the authority: the text that it writes around an assistant's message decides how an answer begins and
ends.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, Self

from selfsteer.chat_template import ChatTemplate, Rendered, ThinkingTags, TurnEnd
from selfsteer.errors import ModelError, PromptRefused, SelfsteerWarning
from selfsteer.files import fingerprint
from selfsteer.records import Message

SystemRole = Literal["native", "folded"]
_MARK = "zq7 system mark"
_TAIL = 32  # tokens, more than an opening tag and the white space after it take up
_SHOWN = 60  # characters of an answer in a message
_HELLO = ({"role": "user", "content": "hello"},)


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Return 16 hex digits that name everything that the token ids of messages depend on.

    Two tokenizers of one vocabulary may differ in merges, normalisation, special tokens or the chat template.
    """
    rules: Any = [type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())]
    if tokenizer.is_fast:
        rules = json.loads(tokenizer.backend_tokenizer.to_str())
        for left_by_a_call in ("truncation", "padding"):
            del rules[left_by_a_call]
    return fingerprint([rules, tokenizer.special_tokens_map, tokenizer.chat_template])


class Chat:
    """Renders chat prompts and answers with a model's own template. The contents of messages and responses stay text.

    :class:`ChatTemplate` names what can't be protected.

    Args:
        tokenizer: The model's, with a chat template.
        end_ids: Tokens that the model's configurations name as ends.
        template_kwargs: Variables for the template, such as ``enable_thinking``.

    Attributes:
        template: The template.
        system_role: "native" where a system message reaches the model; "folded" where the template refuses or drops
            it (Gemma 1 and 2, some Mistrals), so that a principle has to go into the user's turn.
        end_ids: Token ids that end a response. The first is the token that the template writes after an answer,
            whatever the configurations say; where it writes none, the tokenizer's eos, with one warning.
    """

    def __init__(
        self, tokenizer: Any, end_ids: Iterable[int] = (), template_kwargs: Mapping[str, Any] | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self.template = ChatTemplate(tokenizer, template_kwargs)
        named = list(end_ids)
        if (eos := tokenizer.eos_token_id) is not None:
            named.insert(0 if eos in named else len(named), eos)  # the order of a configuration's list means nothing
        self._warned: set[str] = set()
        self._end = self._turn_end(named)
        self.end_ids = tuple(dict.fromkeys([self._end.token, *named]))
        self.system_role: SystemRole = self._probe_system_role()

    @classmethod
    def load(
        cls, source: str, *, template_kwargs: Mapping[str, Any] | None = None, strict: bool = True, **options: Any
    ) -> Self:
        """Return the chat of a model's folder or hub name; ``options`` are :func:`selfsteer.models.load_tokenizer`'s.

        Raises as that does; ``strict`` refuses variables that the template does not mention.
        """
        from selfsteer.models import end_token_ids, load_tokenizer

        chat = cls(load_tokenizer(source, **options), end_token_ids(source, **options), template_kwargs)
        if strict:
            chat.template.check_kwargs()
        return chat

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Return the token ids of a prompt, the cue for the assistant's turn included; one BOS if the template has one.

        Raises as :meth:`ChatTemplate.render`.
        """
        ids = self.template.render(messages, cue=True).ids
        if not ids:
            what = "the chat template writes nothing for a prompt"
            do = "take the chat template of the original model"
            raise PromptRefused(what, where=self.template.name, do=do)
        return ids

    def encode_answers(
        self, prompt: Sequence[Message], answers: Sequence[tuple[str, bool]]
    ) -> tuple[list[int], list[list[int]]]:
        """Return the token ids of a prompt and of answers to it that were not sampled: prompt + answer is the dialogue.

        The template decides where an answer begins, how it is written and what ends it. So the prompt holds the text
        that the template writes before an answer, such as Qwen3's empty thought; for answers with a thought of their
        own it is the prompt that a model is sampled under.

        ``answers`` are texts, each with whether it ended; one that was cut off gets no end token. Raises as ``encode``.
        """
        cue, around = self.template.render(prompt, cue=True), self.template.around_answer(prompt)
        head, tail = around or (cue, None)
        own = [self._brings_thought(text) for text, _ in answers]
        # The same tokens for the policy, reward models and implicit judges, as TRL cuts answers out of a dialogue.
        place = self._place(cue, head) if answers and not any(own) else cue
        ids: list[list[int]] = []
        for (text, ended), has_thought in zip(answers, own, strict=True):
            lacks_thought = any(own) and not has_thought  # it gets an empty one, so that both follow the same prompt
            written = self._written(prompt, place, tail, text, lacks_thought)
            if written is None:
                ids.append(self._as_given(place, text, ended, lacks_thought))
            else:
                end = self._end if ended else TurnEnd("", -1)
                found = self.template.continuation(place, written.text + end.text, written.foreign)
                ids.append([*found, end.token] if ended and not end.text else found)
        return place.ids, ids

    def encode_response(self, text: str, ended: bool) -> list[int]:
        """Tokenise a response by itself, as it is given; ``ended`` appends the end of a turn."""
        ids = self.template.encode_text(text, opened=self.opens_thinking)
        return [*ids, *self._closing] if ended else ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids without special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    @property
    def thinking(self) -> ThinkingTags | None:
        """The tags around a reasoning model's thoughts, None for other models."""
        return self.template.thinking

    @cached_property
    def opens_thinking(self) -> bool:
        """Whether the cue for the assistant's turn opens a thought, so that a response holds the closing tag only."""
        if self.thinking is None:
            return False
        try:
            return self.ends_in_thought(self.encode(_HELLO))
        except ModelError:
            return False

    def ends_in_thought(self, prompt_ids: Sequence[int]) -> bool:
        """Whether this prompt opens a thought; some templates leave that to a word in the query (``/no_think``)."""
        return self.thinking is not None and self._tail(prompt_ids).rstrip().endswith(self.thinking.open)

    def without_thought(self, prompt_ids: Sequence[int]) -> list[int]:
        """Return a prompt with the thought that it opens closed again, empty: an answer alone follows it.

        Templates do the same where thinking is switched off. Where the template puts an empty thought before an answer
        without the prompt opening one (Qwen3), that thought is appended. Other prompts are returned as they are.
        """
        if self.thinking is None:
            return list(prompt_ids)
        tail = self._tail(prompt_ids)
        if tail.rstrip().endswith(self.thinking.open):
            gap = "" if tail.endswith("\n") else "\n"
            closing: list[int] = self.tokenizer.encode(f"{gap}\n{self.thinking.close}\n\n", add_special_tokens=False)
            return [*prompt_ids, *closing]
        return [*prompt_ids, *([] if tail.rstrip().endswith(self.thinking.close) else self._empty_thought)]

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that name vocabulary, template and its variables: token ids are foreign where they differ."""
        vocabulary = sorted(self.tokenizer.get_vocab().items())
        kwargs = [self.template.kwargs] if self.template.kwargs else []
        return fingerprint([vocabulary, self.tokenizer.chat_template, *kwargs])

    def _place(self, cue: Rendered, head: Rendered) -> Rendered:
        """Return the prompt of an answer: the cue, unless the template writes something else before an answer.

        White space alone before an answer (Llama 2) belongs to the answer, as where one is sampled.
        """
        lead = head.text.removeprefix(cue.text) if head.text.startswith(cue.text) else None
        if lead is not None and not lead.strip():
            return cue
        if self.thinking is None:
            before, asked = (one.text[-_SHOWN:] for one in (head, cue))
            what = f"writes {before!r} before an answer, but ends a prompt with {asked!r}"
            self._warn("cue", f"{what}: answers that were not sampled follow the former")
        return head

    def _written(
        self, prompt: Sequence[Message], place: Rendered, tail: str | None, text: str, lacks_thought: bool
    ) -> Rendered | None:
        """Return the dialogue up to the end of the answer; None where it does not hold this answer behind ``place``."""
        own_thought = self._brings_thought(text)
        try:
            whole = self.template.render([*prompt, {"role": "assistant", "content": text}], cue=False)
        except PromptRefused:
            whole = Rendered("", [])
        end = len(whole.text) - len(tail or "")
        around = whole.text.startswith(place.text) and whole.text.endswith(tail or "")
        if tail is None or end < len(place.text) or not around:
            if not own_thought and not lacks_thought:  # else the template cuts thoughts out, as many do
                self._warn("answer", f"does not write the answer {_short(text)}: the answer is used as it is given")
            return None
        body = whole.text[len(place.text) : end]
        thought = self.thinking.leading(body) if lacks_thought and self.thinking else None
        if _letters(body[thought.answer :] if thought else body) != _letters(text):
            if own_thought:  # the template cuts it out, but it was written to be trained on
                return None
            self._warn("answer", f"writes the answer {_short(text)} as {_short(body)}: it is used as written there")
        return whole._replace(text=whole.text[:end])

    def _as_given(self, place: Rendered, text: str, ended: bool, lacks_thought: bool) -> list[int]:
        """Return the ids of an answer as it is given, behind an empty thought where others bring one of their own."""
        if lacks_thought:
            return [*self.without_thought(place.ids)[len(place.ids) :], *self.encode_response(text, ended)]
        if self.thinking is not None and self.ends_in_thought(place.ids):  # which opens the thought already
            text = text.lstrip().removeprefix(self.thinking.open)
        return self.encode_response(text, ended)

    def _brings_thought(self, text: str) -> bool:
        if self.thinking is None:
            return False
        return text.lstrip().startswith(self.thinking.open) or (self.opens_thinking and self.thinking.close in text)

    def _warn(self, about: str, what: str) -> None:
        """Warn of something that this template does to answers, once of each kind."""
        if about not in self._warned:
            self._warned.add(about)
            warnings.warn(f"the chat template of {self.template.name} {what}", SelfsteerWarning, stacklevel=2)

    def _turn_end(self, named: Sequence[int]) -> TurnEnd:
        """Return the end of a turn; one warning where the template has no token of its own for that."""
        end = self.template.turn_end(named)
        if end is not None and end.text.removesuffix(self.template.controls[end.token]).strip():
            self._warn("end", f"ends an answer with {end.text!r}: sampling stops at the last token of that alone")
        if end is not None:
            return end
        if not named:
            what = "neither the chat template, the tokenizer nor a configuration names an end token"
            raise ModelError(what, where=self.template.name, do="set eos_token in tokenizer_config.json")
        token = self.tokenizer.convert_ids_to_tokens(named[0])
        self._warn("end", f"ends an answer with no token, so {token!r} ends responses")
        return TurnEnd("", named[0])

    @cached_property
    def _closing(self) -> list[int]:
        """The ids of the end of a turn, by themselves."""
        written = self.template.continuation(Rendered("", []), self._end.text, frozenset())
        return written or [self._end.token]

    @cached_property
    def _empty_thought(self) -> list[int]:
        """The ids of the empty thought that the template writes before an answer; [] where it writes none."""
        try:
            cue, around = self.template.render(_HELLO, cue=True), self.template.around_answer(_HELLO)
        except ModelError:
            return []
        if self.thinking is None or around is None or not around[0].text.startswith(cue.text):
            return []
        head = around[0]
        written = self.thinking.close in head.text[len(cue.text) :]
        return self.template.continuation(cue, head.text, head.foreign) if written else []

    def _tail(self, prompt_ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(prompt_ids[-_TAIL:]), clean_up_tokenization_spaces=False))

    def _probe_system_role(self) -> SystemRole:
        messages = [{"role": "system", "content": _MARK}, *_HELLO]
        try:
            return "native" if _MARK in self.decode(self.encode(messages)) else "folded"
        except ModelError:
            return "folded"


def _letters(text: str) -> str:
    return "".join(text.split())


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
