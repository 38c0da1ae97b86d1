"""A tokenizer's chat template: prompts to token ids, contents that stay text, a system message, a model's thoughts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence, Set
from functools import cached_property
from typing import Any, Literal, NamedTuple

from selfsteer.errors import ModelError
from selfsteer.files import fingerprint
from selfsteer.records import Message

SystemRole = Literal["native", "folded"]
_MARK = "zq7 system mark"
_ANCHOR = "\n"  # text to tokenise before a piece of a text, so that no tokenizer takes the piece for a beginning
_TAIL = 32  # tokens, more than an opening tag and the white space after it take up


class Thought(NamedTuple):
    """Offsets of a thought at the front of a response: it is ``[start:end]``, and the answer begins at ``answer``."""

    start: int
    end: int
    answer: int


class ThinkingTags(NamedTuple):
    """What a reasoning model writes before and after its thoughts."""

    open: str
    close: str

    def leading(self, text: str, *, opened: bool = False) -> Thought | None:
        """Return where the thought at the front of ``text`` is, None where there is none.

        The first closing tag ends it; without one it goes on to the end. ``opened``: the prompt already opened it.
        """
        begin = len(text) - len(text.lstrip())
        if text.startswith(self.open, begin):
            start = begin + len(self.open)
        elif opened:
            start = 0
        else:
            return None
        end = text.find(self.close, start)
        return Thought(start, len(text), len(text)) if end < 0 else Thought(start, end, end + len(self.close))


THINKING_TAGS = (
    ThinkingTags("<think>", "</think>"),  # DeepSeek R1, Qwen3, GLM 4.5, MiniMax, SmolLM3 and most others
    ThinkingTags("[THINK]", "[/THINK]"),  # Magistral
    ThinkingTags("<seed:think>", "</seed:think>"),  # Seed-OSS
    ThinkingTags("◁think▷", "◁/think▷"),  # Kimi
    ThinkingTags("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A
    ThinkingTags("<|channel>thought", "<channel|>"),  # Gemma 4
    ThinkingTags("<thought>", "</thought>"),  # EXAONE Deep
    ThinkingTags("<reasoning>", "</reasoning>"),  # Reka Flash
)
"""The tags known here. Of harmony (gpt-oss) a thought is one message of several, with headers: that is not split."""


class ChatTemplate:
    """A tokenizer's chat template whose control tokens only the template itself can write.

    A message that holds the text of a control token (``<|im_end|>``) would end its turn and could speak for the system:
    as a query, and as a response that is put before a judge. Here the contents of messages are text, whatever stands in
    them; all other prompts give exactly the ids of ``apply_chat_template``.

    Control tokens are the tokenizer's special tokens and those of its other added tokens that the template names. A
    prompt whose control tokens are those of the same roles with harmless contents needs nothing. In any other one the
    first and the last character of each control token are veiled in the contents while the template is rendered, so
    that a token which covers such a place was not written by the template, however it came together (the template may
    cut and join what it is given); its text is then tokenised in two parts.

    Out of reach: control marks that are plain text to the tokenizer (Llama 2's ``[INST]``), and servers, which render
    prompts by themselves. Thinking tags in an assistant's message are the template's affair: it may strip them.

    Attributes:
        controls: The control tokens, id to text.
        thinking: The tags around the model's thoughts, recognised by the template's source; None for other models.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._source: str = tokenizer.get_chat_template()
        added: dict[int, Any] = tokenizer.added_tokens_decoder
        self._added = frozenset(added)
        special = set(tokenizer.all_special_ids)
        self.controls = {
            i: token.content
            for i, token in added.items()
            if token.content.strip() and (i in special or token.special or _is_mark(token.content, self._source))
        }
        self.thinking = next((tags for tags in THINKING_TAGS if tags.close in self._source), None)
        self._edges = {text.strip()[i] for text in self.controls.values() for i in (0, -1)}
        matched_normalised = any(added[i].normalized for i in self.controls)
        self._normalizer = tokenizer.backend_tokenizer.normalizer if tokenizer.is_fast and matched_normalised else None
        self._tag_ids: dict[ThinkingTags, tuple[list[int], list[int]] | None] = {}
        self._written: dict[tuple[bool, tuple[str, ...]], list[int] | None] = {}

    def encode(self, messages: Sequence[Message], *, cue: bool = True) -> list[int]:
        """Return the token ids of messages; ``cue`` appends the cue for the assistant's turn.

        Raises:
            jinja2.TemplateError, TypeError: The template refuses these messages.
            ModelError: The tokenizer turns a single character into a control token.
        """
        options = {"add_generation_prompt": cue, "return_dict": False}
        ids: list[int] = self.tokenizer.apply_chat_template(list(messages), tokenize=True, **options)
        if self._controls_in(ids) == self._controls_of(tuple(message["role"] for message in messages), cue):
            return ids
        veil = self._veil([message["content"] for message in messages])
        veiled = [{**message, "content": self._veiled(message, veil)} for message in messages]
        text: str = self.tokenizer.apply_chat_template(veiled, tokenize=False, **options)
        lifted = {stand_in: character for character, stand_in in veil.items()}
        foreign = frozenset(i for i, character in enumerate(text) if ord(character) in lifted)
        return self._ids(text.translate(lifted), foreign)

    def encode_text(self, text: str, *, opened: bool = False) -> list[int]:
        """Return the token ids of a response. Only the tags around a thought at its front may be control tokens.

        Raises:
            ModelError: As :meth:`encode`.
        """
        ids = self._plain(text)
        if self.controls.keys().isdisjoint(ids):
            return ids
        thought = self.thinking.leading(text, opened=opened) if self.thinking else None
        own = {*range(thought.start), *range(thought.end, thought.answer)} if thought else set()
        return self._ids(text, frozenset(range(len(text))) - own)

    def tag_ids(self, tags: ThinkingTags) -> tuple[list[int], list[int]] | None:
        """Return the ids of a pair of tags, None where they are plain text (which tokenises by what is beside it)."""
        if tags not in self._tag_ids:
            start, end = (self._plain(tag) for tag in tags)
            plain = self._added.isdisjoint(start) or self._added.isdisjoint(end)
            self._tag_ids[tags] = None if plain else (start, end)
        return self._tag_ids[tags]

    def _controls_in(self, ids: Iterable[int]) -> list[int]:
        controls = self.controls
        return [i for i in ids if i in controls]

    def _controls_of(self, roles: tuple[str, ...], cue: bool) -> list[int] | None:
        """Return the control tokens that the template writes around messages of these roles, None if it refuses."""
        from jinja2 import TemplateError

        if (cue, roles) not in self._written:
            harmless = [{"role": role, "content": _MARK} for role in roles]
            try:
                ids = self.tokenizer.apply_chat_template(harmless, add_generation_prompt=cue, return_dict=False)
                self._written[cue, roles] = self._controls_in(ids)
            except (TemplateError, TypeError):  # it looks for something in the contents
                self._written[cue, roles] = None
        return self._written[cue, roles]

    def _veil(self, texts: Sequence[str]) -> dict[int, int]:
        """Return a stand-in for each character that may begin or end a control token: one that stands nowhere else."""
        characters = set().union(*texts)
        taken = characters.union(self._source)
        spare = (code for code in range(0x10FFFD, 0xFFFF, -1) if chr(code) not in taken)
        return dict(zip((ord(one) for one in sorted(characters) if self._is_edge(one)), spare, strict=False))

    def _is_edge(self, character: str) -> bool:
        normal = self._normalizer.normalize_str(character) if self._normalizer else ""
        return not self._edges.isdisjoint({character, *normal})

    def _veiled(self, message: Message, veil: dict[int, int]) -> str:
        if message["role"] != "assistant" or self.thinking is None:
            return message["content"].translate(veil)
        parts = re.split(f"({'|'.join(map(re.escape, self.thinking))})", message["content"])
        return "".join(part if part in self.thinking else part.translate(veil) for part in parts)

    def _ids(self, text: str, foreign: Set[int]) -> list[int]:
        """Return the token ids of ``text``; control tokens that cover a ``foreign`` position are spelled out."""
        if not self.tokenizer.is_fast:
            return self._ids_by_pieces(text, foreign)
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids: list[int] = []
        for token, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
            if self._stands_for(token, text[start:end]) and not foreign.isdisjoint(range(start, end)):
                ids += self._spelled(text[start:end], inside=start > 0)
            else:
                ids.append(token)
        return ids

    def _ids_by_pieces(self, text: str, foreign: Set[int]) -> list[int]:
        """As :meth:`_ids`, for a tokenizer that does not tell where its tokens stand."""
        ids: list[int] = []
        at = 0
        longest_first = sorted(self.controls.values(), key=len, reverse=True)
        for match in re.finditer("|".join(map(re.escape, longest_first)), text):
            if not foreign.isdisjoint(range(*match.span())):
                ids += self._plain(text[at : match.start()], inside=at > 0)
                ids += self._spelled(match.group(), inside=match.start() > 0)
                at = match.end()
        return [*ids, *self._plain(text[at:], inside=at > 0)]

    def _spelled(self, text: str, *, inside: bool) -> list[int]:
        """Return ids without any control token: those of ``text`` up to its last character, and of that one.

        transformers' ``split_special_tokens`` leaves added tokens that are not special as they are, and is a switch
        that other threads would find thrown.
        """
        ids = self._plain(text, inside=inside)
        if not any(self._stands_for(token, text) for token in ids):
            return ids
        if len(text) == 1:
            what = f"the character {text!r} of a message is a control token of this tokenizer, and can't be spelled out"
            raise ModelError(what, where=self._where, do="leave out the queries that hold it")
        return [*self._spelled(text[:-1], inside=inside), *self._spelled(text[-1:], inside=True)]

    def _stands_for(self, token: int, text: str) -> bool:
        """Whether ``token`` is a control token in ``text``; the unknown token also stands for characters."""
        if token not in self.controls:
            return False
        return token != self.tokenizer.unk_token_id or self.controls[token] in text

    def _plain(self, text: str, *, inside: bool = False) -> list[int]:
        """Return the token ids of a text; ``inside``: of one that goes on, without the blank some put before a text."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        if not inside:
            return ids
        before = self.tokenizer.encode(_ANCHOR, add_special_tokens=False)
        both: list[int] = self.tokenizer.encode(_ANCHOR + text, add_special_tokens=False)
        return both[len(before) :] if both[: len(before)] == before else ids

    @property
    def _where(self) -> str:
        return str(getattr(self.tokenizer, "name_or_path", ""))


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Return 16 hex digits that name all by which a tokenizer makes token ids of messages.

    Two tokenizers of one vocabulary still differ in merges, normalisation, special tokens or the chat template.
    """
    rules: Any = [type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())]
    if tokenizer.is_fast:
        rules = json.loads(tokenizer.backend_tokenizer.to_str())
        for left_by_a_call in ("truncation", "padding"):
            del rules[left_by_a_call]
    return fingerprint([rules, tokenizer.special_tokens_map, tokenizer.chat_template])


class Chat:
    """Renders chat prompts with a model's own template. What stands in messages and responses stays text.

    What can't be protected is named at :class:`ChatTemplate`.

    Attributes:
        template: The template.
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
        self.template = ChatTemplate(tokenizer)
        self.system_role: SystemRole = self._probe_system_role()

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Return the token ids of a prompt, the cue for the assistant's turn included; one BOS if the template has one.

        Raises:
            ModelError: The template refuses these messages (for instance two user turns in a row), or one holds a
                character that is a control token by itself.
        """
        from jinja2 import TemplateError

        try:
            return self.template.encode(messages)
        except (TemplateError, TypeError) as error:
            roles = ", ".join(message["role"] for message in messages)
            raise ModelError(
                f"the chat template refuses a prompt with the roles {roles}: {error}",
                where=str(getattr(self.tokenizer, "name_or_path", "")),
                do="bring the prompts into the form this model's template takes",
            ) from error

    def encode_response(self, text: str, ended: bool) -> list[int]:
        """Tokenise a response that carries no sampled ids; ``ended`` appends the end token."""
        ids = self.template.encode_text(text, opened=self.opens_thinking)
        return [*ids, self.end_ids[0]] if ended else ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids without special tokens."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

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
            return self.ends_in_thought(self.encode([{"role": "user", "content": "hello"}]))
        except ModelError:
            return False

    def ends_in_thought(self, prompt_ids: Sequence[int]) -> bool:
        """Whether this prompt opens a thought; some templates leave that to a word in the query (``/no_think``)."""
        if self.thinking is None:
            return False
        tail: str = self.tokenizer.decode(list(prompt_ids[-_TAIL:]), clean_up_tokenization_spaces=False)
        return tail.rstrip().endswith(self.thinking.open)

    def without_thought(self, prompt_ids: Sequence[int]) -> list[int]:
        """Return a prompt with the thought that it opens closed again, empty: what an answer alone goes on from.

        So do templates themselves where thinking is switched off. Other prompts are returned as they are.
        """
        if self.thinking is None or not self.ends_in_thought(prompt_ids):
            return list(prompt_ids)
        tail: str = self.tokenizer.decode(list(prompt_ids[-_TAIL:]), clean_up_tokenization_spaces=False)
        gap = "" if tail.endswith("\n") else "\n"
        closing: list[int] = self.tokenizer.encode(f"{gap}\n{self.thinking.close}\n\n", add_special_tokens=False)
        return [*prompt_ids, *closing]

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


def _is_mark(text: str, source: str) -> bool:
    """Whether a template names an added token as a mark. Words and white space are text, also in templates."""
    return text in source and re.search(r"\w", text) is not None and re.search(r"[^\w\s]", text) is not None
