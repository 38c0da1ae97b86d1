"""A tokenizer's chat template: messages to token ids; contents stay text."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Sequence, Set
from typing import Any, NamedTuple

from selfsteer.errors import ConfigError, ModelError, PromptRefused, did_you_mean
from selfsteer.models.bounded_template import apply_template
from selfsteer.records import Message

_MARK = "zq7 message mark"
_ANSWER = "zq7 answer mark"
_ANCHOR = "\n"  # text to tokenise before a piece of a text, so that no tokenizer takes the piece for a beginning


class Thought(NamedTuple):
    """Offsets of a thought at the front of a response: it is ``[start:end]``, and the answer begins at ``answer``."""

    start: int
    end: int
    answer: int


class ThinkingTags(NamedTuple):
    """The tags that a reasoning model writes before and after its thoughts."""

    open: str
    close: str

    def leading(self, text: str, *, opened: bool = False) -> Thought | None:
        """Return where the thought at the front of ``text`` is, None where there is none.

        The first closing tag ends it; without one it extends to the end. ``opened``: the prompt already opened it.
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
"""Known tags. In harmony (gpt-oss) a thought is one message of several, with headers: that is not split."""


class Rendered(NamedTuple):
    """Messages as the template writes them.

    Attributes:
        text: The text, control tokens spelled out.
        ids: Its token ids.
        foreign: Positions in the text that come from contents and could be taken for a control token's edge.
    """

    text: str
    ids: list[int]
    foreign: frozenset[int] = frozenset()


class TurnEnd(NamedTuple):
    """The text that a template writes from the end of an answer up to and with the token that ends the turn.

    ``text`` is "" where the template writes no such token.
    """

    text: str
    token: int


class ChatTemplate:
    """A tokenizer's chat template in which only the template itself can write control tokens.

    A message that holds the text of a control token (``<|im_end|>``) would end its turn and could speak for the system:
    as a query, and as a response that a judge reads. Here the contents of messages are text, whatever they hold; all
    other prompts give exactly the ids of ``apply_chat_template``.

    Control tokens are the tokenizer's special tokens and those of its other added tokens that the template names. A
    prompt with the same control tokens as harmless contents of the same roles needs nothing. In any other one the first
    and the last character of each control token are replaced in the contents while the template is rendered, so that a
    token which covers such a place was not written by the template, however it was assembled (the template may cut and
    join its input); its text is then tokenised in two parts.

    Not covered: control marks that are plain text to the tokenizer (Llama 2's ``[INST]``), and servers, which render
    prompts themselves. Thinking tags in an assistant's message are left to the template: it may strip them.

    Args:
        tokenizer: A tokenizer with a chat template.
        kwargs: Variables for the template, such as ``enable_thinking``.

    Attributes:
        controls: The control tokens, id to text.
        thinking: The tags around the model's thoughts, found in the template's source; None for other models.
    """

    def __init__(self, tokenizer: Any, kwargs: Mapping[str, Any] | None = None) -> None:
        self.tokenizer, self.kwargs = tokenizer, dict(kwargs or {})
        try:
            found = tokenizer.get_chat_template()
        except ValueError:
            found = None
        if not found or not isinstance(found, str):
            what = f"the tokenizer of {self.name} has no chat template"
            do = "give a chat (instruct) model, or add a chat_template to its tokenizer_config.json"
            raise ModelError(what, where=self.name, do=do)
        self._source = found
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

    def render(self, messages: Sequence[Message], *, cue: bool) -> Rendered:
        """Return messages as the template writes them; ``cue`` appends the cue for the assistant's turn.

        Raises:
            PromptRefused: The template refuses these messages (for instance two user turns in a row), or one holds a
                character that is a control token by itself.
        """
        text = self._apply(messages, cue)
        ids = self._plain(text)
        if self._controls_in(ids) == self._controls_of(tuple(message["role"] for message in messages), cue):
            return Rendered(text, ids)
        veil = self._veil([message["content"] for message in messages])
        text = self._apply([{**message, "content": self._veiled(message, veil)} for message in messages], cue)
        lifted = {stand_in: character for character, stand_in in veil.items()}
        foreign = frozenset(i for i, character in enumerate(text) if ord(character) in lifted)
        text = text.translate(lifted)
        return Rendered(text, self._ids(text, foreign), foreign)

    def around_answer(self, messages: Sequence[Message]) -> tuple[Rendered, str] | None:
        """Return the text that the template writes before the answer to these messages, and the text after it.

        None where it refuses, or does not write the answer as it is, once.
        """
        try:
            whole = self.render([*messages, {"role": "assistant", "content": _ANSWER}], cue=False)
        except PromptRefused:
            return None
        if whole.text.count(_ANSWER) != 1:
            return None
        head, _, tail = whole.text.partition(_ANSWER)
        return Rendered(head, self._ids(head, whole.foreign), whole.foreign), tail

    def turn_end(self, named: Container[int]) -> TurnEnd | None:
        """Return the end of an assistant's turn: the first control token after an answer; None where there is none.

        Configurations can't say it: their lists have no order, and some name the document's end alone. Where nothing
        follows the last answer it is the token between an answer and the next turn, if that token does not merely open
        the turn: it is one of ``named`` (GLM 4), or comes before no other user's turn.
        """
        for first in ((), ("system",)):
            around = self._around_mark(*first, "user", "assistant")
            if around is None:
                continue
            if end := self._first_control(around[1]):
                return end
            before, after = self._around_mark(*first, "user", "assistant", "user") or ("", "")
            header, end = before.partition(_MARK)[0], self._first_control(after.partition(_MARK)[0])
            return end if end and (end.token in named or self.controls[end.token] not in header) else None
        return None

    def check_kwargs(self) -> None:
        """Raise :class:`ConfigError` for a variable that the template's source does not mention."""
        for name in self.kwargs:
            if not re.search(rf"\b{re.escape(name)}\b", self._source):
                asked_about = sorted(set(re.findall(r"\b(\w+) is (?:not )?defined", self._source)))
                what = f"the chat template of {self.name} has no variable {name!r}"
                raise ConfigError(what, where=f"chat_template_kwargs.{name}", do=did_you_mean(name, asked_about))

    def encode_text(self, text: str, *, opened: bool = False) -> list[int]:
        """Return the token ids of a response; raises as :meth:`render`.

        Only the tags around a thought at its front may be control tokens.
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

    def continuation(self, prompt: Rendered, text: str, foreign: Set[int]) -> list[int]:
        """Return the ids of ``text`` after those of ``prompt``, the rendering that it begins with.

        Where a token of the whole would straddle the end of the prompt, the rest is tokenised separately: the prompt
        keeps the ids that responses are sampled under.
        """
        size = len(prompt.ids)
        whole = self._ids(text, foreign)
        if whole[:size] == prompt.ids:
            return whole[size:]
        at = len(prompt.text)
        return self._anchored(text[at:], {i - at for i in foreign if i >= at})

    def _anchored(self, text: str, foreign: Set[int] = frozenset()) -> list[int]:
        """Return the token ids of a continuation: without the blank that some tokenizers put first."""
        before = self._plain(_ANCHOR)
        both = self._ids(_ANCHOR + text, {i + len(_ANCHOR) for i in foreign})
        return both[len(before) :] if both[: len(before)] == before else self._ids(text, foreign)

    def _apply(self, messages: Sequence[Message], cue: bool) -> str:
        return apply_template(self.tokenizer, messages, cue=cue, kwargs=self.kwargs)

    def _around_mark(self, *roles: str) -> tuple[str, str] | None:
        """Return the texts before and after the answer in a dialogue of marks; None where it is not written."""
        marks = [{"role": role, "content": _ANSWER if role == "assistant" else _MARK} for role in roles]
        try:
            before, found, after = self._apply(marks, cue=False).rpartition(_ANSWER)
        except PromptRefused:
            return None
        return (before, after) if found else None

    def _first_control(self, text: str) -> TurnEnd | None:
        ids = {content: token for token, content in self.controls.items()}
        longest_first = sorted(ids, key=len, reverse=True)
        found = re.search("|".join(map(re.escape, longest_first)), text) if ids else None
        return TurnEnd(text[: found.end()], ids[found.group()]) if found else None

    def _controls_in(self, ids: Iterable[int]) -> list[int]:
        controls = self.controls
        return [i for i in ids if i in controls]

    def _controls_of(self, roles: tuple[str, ...], cue: bool) -> list[int] | None:
        """Return the control tokens that the template writes around messages of these roles, None if it refuses."""
        if (cue, roles) not in self._written:
            harmless = [{"role": role, "content": _MARK} for role in roles]
            try:
                self._written[cue, roles] = self._controls_in(self._plain(self._apply(harmless, cue)))
            except PromptRefused:  # it looks for something in the contents
                self._written[cue, roles] = None
        return self._written[cue, roles]

    def _veil(self, texts: Sequence[str]) -> dict[int, int]:
        """Return a stand-in for each character that may begin or end a control token: one that is used nowhere else."""
        characters = set().union(*texts)
        taken = characters.union(self._source)
        spare = (code for code in range(0x10FFFD, 0xFFFF, -1) if chr(code) not in taken)
        normalise = self._normalizer.normalize_str if self._normalizer else str
        edges = (one for one in sorted(characters) if not self._edges.isdisjoint({one, *normalise(one)}))
        return dict(zip(map(ord, edges), spare, strict=False))

    def _veiled(self, message: Message, veil: dict[int, int]) -> str:
        if message["role"] != "assistant" or self.thinking is None:
            return message["content"].translate(veil)
        parts = re.split(f"({'|'.join(map(re.escape, self.thinking))})", message["content"])
        return "".join(part if part in self.thinking else part.translate(veil) for part in parts)

    def _ids(self, text: str, foreign: Set[int]) -> list[int]:
        """Return the token ids of ``text``; control tokens that cover a ``foreign`` position are spelled out."""
        if not foreign:
            return self._plain(text)
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
        """As :meth:`_ids`, for a tokenizer that does not give the places of its tokens."""
        ids: list[int] = []
        at = 0
        longest_first = sorted(self.controls.values(), key=len, reverse=True)
        for match in re.finditer("|".join(map(re.escape, longest_first)), text):
            if not foreign.isdisjoint(range(*match.span())):
                ids += (self._anchored if at else self._plain)(text[at : match.start()])
                ids += self._spelled(match.group(), inside=match.start() > 0)
                at = match.end()
        return [*ids, *(self._anchored if at else self._plain)(text[at:])]

    def _spelled(self, text: str, *, inside: bool) -> list[int]:
        """Return ids without any control token: those of ``text`` up to its last character, and of that one.

        transformers' ``split_special_tokens`` leaves added tokens that are not special as they are, and is a switch of
        the tokenizer, which other threads use too.
        """
        ids = self._anchored(text) if inside else self._plain(text)
        if not any(self._stands_for(token, text) for token in ids):
            return ids
        if len(text) == 1:
            what = f"the character {text!r} of a message is a control token of this tokenizer and can't be split"
            raise PromptRefused(what, where=self.name, do="leave out the queries that hold it")
        return [*self._spelled(text[:-1], inside=inside), *self._spelled(text[-1:], inside=True)]

    def _stands_for(self, token: int, text: str) -> bool:
        """Whether ``token`` is a control token in ``text``; the unknown token may also be a character's."""
        if token not in self.controls:
            return False
        return token != self.tokenizer.unk_token_id or self.controls[token] in text

    def _plain(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    @property
    def name(self) -> str:
        """The folder or hub name that the tokenizer was loaded from."""
        return str(getattr(self.tokenizer, "name_or_path", ""))


def _is_mark(text: str, source: str) -> bool:
    """Return whether a template names an added token as a mark; words and white space in it are text."""
    return text in source and re.search(r"\w", text) is not None and re.search(r"[^\w\s]", text) is not None
