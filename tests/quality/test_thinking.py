"""Thoughts apart from answers: worked by hand token by token; text and ids agree, by property."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfsteer.chat import Chat
from selfsteer.chat_template import THINKING_TAGS
from selfsteer.errors import InputError
from selfsteer.quality import clean_response, think_apart
from selfsteer.records import Response
from tests.chat_templates import sentencepiece_of, tokenizer_of, user


@cache
def chat_of(family: str, plain: tuple[str, ...] | None = None) -> Chat:
    """``plain=()``: its tags are no tokens, but letters."""
    return Chat(tokenizer_of(family, plain=plain))


def letters(chat: Chat, text: str) -> list[int]:
    names = {" ": "Ġ", "\n": "Ċ"}
    return [chat.tokenizer.convert_tokens_to_ids(names.get(character, character)) for character in text]


def sampled(chat: Chat, ids: list[int], finish: str = "stop", **values: Any) -> Response:
    """Return a response as a backend gives it: text is what the ids decode to, with an end token if it stopped."""
    ids = [*ids, *chat.end_ids[:1]] if finish == "stop" else ids
    return Response("q1", "positive", chat.decode(ids), finish, ids, **values)  # type: ignore[arg-type]


def told(text: str, **values: Any) -> Response:
    return Response("q1", "positive", text, "stop", **values)


def parts(response: Response) -> tuple[str, str]:
    return response.thinking, response.text


# ------------------------------------------------------------------------------------------- ids, worked out by hand
def test_tags_that_are_tokens():
    chat = chat_of("qwen3")
    think, close = chat.tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
    answer = [*letters(chat, "The tag </think> ends it."), chat.end_ids[0]]
    ids = [think, *letters(chat, "\n2+2 is 4.\n"), close, *letters(chat, "\n\n"), *answer]
    before = Response("q1", "original", chat.decode(ids), "stop", ids, chat.encode(user("2+2?")))
    assert before.text == "<think>\n2+2 is 4.\n</think>\n\nThe tag </think> ends it."
    after = think_apart(before, chat)
    assert after == Response(
        "q1", "original", "The tag </think> ends it.", "stop", answer, before.prompt_token_ids, thinking="2+2 is 4."
    )
    cleaned = clean_response(after, chat.decode, ["concise"])
    assert (cleaned.text, cleaned.token_ids, cleaned.thinking) == (after.text, answer, "2+2 is 4.")


def test_tags_that_are_ordinary_text():
    chat = chat_of("qwen3", ())
    before = sampled(chat, letters(chat, "<think>\n2+2 is 4.\n</think>\n\nThe tag </think> ends it."))
    after = think_apart(before, chat)
    assert parts(after) == ("2+2 is 4.", "The tag </think> ends it.")
    assert after.token_ids == [*letters(chat, "The tag </think> ends it."), chat.end_ids[0]]
    assert clean_response(after, chat.decode, []).token_ids == [*letters(chat, after.text), chat.end_ids[0]]


def test_tags_that_decoding_skips():
    chat = chat_of("magistral")
    think, close = chat.tokenizer.convert_tokens_to_ids(["[THINK]", "[/THINK]"])
    before = sampled(chat, [think, *letters(chat, "hm"), close, *letters(chat, "Four.")])
    assert before.text == "hmFour."
    after = think_apart(before, chat)
    assert parts(after) == ("hm", "Four.") and after.token_ids == [*letters(chat, "Four."), chat.end_ids[0]]


def test_a_tag_of_a_token_and_a_word():
    chat = chat_of("gemma4")
    start, close = chat.tokenizer.convert_tokens_to_ids(["<|channel>", "<channel|>"])
    before = sampled(chat, [start, *letters(chat, "thought\nhm\n"), close, *letters(chat, "Four.")])
    after = think_apart(before, chat)
    assert parts(after) == ("hm", "Four.") and after.token_ids == [*letters(chat, "Four."), chat.end_ids[0]]
    other = sampled(chat, [start, *letters(chat, "analysis\nhm\n"), close, *letters(chat, "Four.")])
    assert think_apart(other, chat) == other


@pytest.mark.parametrize("plain", [None, ()])
def test_a_thought_that_the_prompt_opened_ends_with_the_first_closing_tag(plain):
    chat = chat_of("deepseek-r1", plain)
    close = chat.tokenizer.encode("</think>", add_special_tokens=False)
    assert len(close) == (8 if plain == () else 1)
    answer = [*letters(chat, "Four, not "), *close]
    ids = [*letters(chat, "2+2 <b>is</b> 4.\n"), *close, *letters(chat, "\n"), *answer]
    after = think_apart(sampled(chat, ids), chat)
    assert parts(after) == ("2+2 <b>is</b> 4.", "Four, not </think>")
    assert after.token_ids == [*answer, chat.end_ids[0]]


@pytest.mark.parametrize("plain", [None, ()])
def test_a_model_that_opens_again_what_the_prompt_opened(plain):
    chat = chat_of("deepseek-r1", plain)
    think, close = (chat.tokenizer.encode(tag, add_special_tokens=False) for tag in ("<think>", "</think>"))
    after = think_apart(sampled(chat, [*think, *letters(chat, "\nhm"), *close, *letters(chat, "4")]), chat)
    assert parts(after) == ("hm", "4")


def test_the_prompt_that_was_sampled_from_decides_whether_it_opened_a_thought():
    chat = chat_of("nemotron")
    close = chat.tokenizer.convert_tokens_to_ids("</think>")
    ids = [*letters(chat, "A "), close, *letters(chat, " B")]
    quiet = sampled(chat, ids, prompt_token_ids=chat.encode(user("Hi /no_think")))
    assert think_apart(quiet, chat) == quiet
    loud = sampled(chat, ids, prompt_token_ids=chat.encode(user("Hi")))
    assert parts(think_apart(loud, chat)) == ("A", "B")
    assert parts(think_apart(sampled(chat, ids), chat)) == ("A", "B")  # without a prompt: as the template has it


@pytest.mark.parametrize("plain", [None, ()])
@pytest.mark.parametrize(("family", "opening"), [("qwen3", "<think>"), ("deepseek-r1", "")])
def test_a_thought_that_is_never_closed_leaves_no_answer(plain, family, opening):
    chat = chat_of(family, plain)
    ids = chat.tokenizer.encode(opening + "\nLet me see. Perhaps", add_special_tokens=False)
    cut = think_apart(sampled(chat, ids, "length"), chat)
    assert parts(cut) == ("Let me see. Perhaps", "") and cut.token_ids == []
    ended = think_apart(sampled(chat, ids), chat)
    assert parts(ended) == ("Let me see. Perhaps", "") and ended.token_ids == [chat.end_ids[0]]
    for response in (cut, ended):
        assert clean_response(response, chat.decode, ["concise"]) == response


def test_an_answer_that_never_came_or_a_thought_that_never_was():
    chat = chat_of("qwen3")
    think, close = chat.tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
    after = think_apart(sampled(chat, [think, *letters(chat, "hm"), close], "length"), chat)
    assert parts(after) == ("hm", "") and after.token_ids == []
    after = think_apart(sampled(chat, [think, *letters(chat, "hm"), close]), chat)
    assert parts(after) == ("hm", "") and after.token_ids == [chat.end_ids[0]]
    after = think_apart(sampled(chat, [think, *letters(chat, "\n\n"), close, *letters(chat, "\n\nHi")]), chat)
    assert parts(after) == ("", "Hi") and after.token_ids == [*letters(chat, "Hi"), chat.end_ids[0]]


@pytest.mark.parametrize("finish", ["stop", "length"])
@pytest.mark.parametrize("text", ["Hi", "", "  Hi <think>no</think>", "a</think>b", "<b>think</b>", "<think", "think>"])
@pytest.mark.parametrize("plain", [None, ()])
def test_a_response_without_a_thought_at_its_front_stays_as_it_is(finish, text, plain):
    chat = chat_of("qwen3", plain)
    response = sampled(chat, chat.tokenizer.encode(text, add_special_tokens=False), finish)
    assert think_apart(response, chat) == response


def test_white_space_may_stand_before_the_tag():
    for plain in (None, ()):
        chat = chat_of("qwen3", plain)
        ids = chat.tokenizer.encode(" \n<think>hm</think> Hi", add_special_tokens=False)
        after = think_apart(sampled(chat, ids), chat)
        assert parts(after) == ("hm", "Hi") and after.token_ids == [*letters(chat, "Hi"), chat.end_ids[0]]


def test_a_tag_in_letters_counts_at_the_front_also_where_it_is_a_token():
    chat = chat_of("qwen3")
    after = think_apart(sampled(chat, letters(chat, "<think>hm</think>Hi")), chat)
    assert parts(after) == ("hm", "Hi") and after.token_ids == [*letters(chat, "Hi"), chat.end_ids[0]]


def test_in_a_thought_a_tag_in_letters_does_not_close_it():
    chat = chat_of("qwen3")
    think, close = chat.tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
    ids = [think, *letters(chat, "</think> is written so"), close, *letters(chat, "Hi")]
    assert parts(think_apart(sampled(chat, ids), chat)) == ("</think> is written so", "Hi")


def test_a_model_whose_template_names_no_tags():
    chat = chat_of("chatml")
    after = think_apart(sampled(chat, letters(chat, "<think>hm</think>Hi")), chat)
    assert parts(after) == ("hm", "Hi") and after.token_ids == [*letters(chat, "Hi"), chat.end_ids[0]]
    for text in ("hm</think>Hi", "Hi"):
        response = sampled(chat, letters(chat, text))
        assert think_apart(response, chat) == response


# ----------------------------------------------------------------------------------------- tokens across the tag's end
class PieceChat:
    """A chat whose tokens are given byte strings, where a tag is ordinary text."""

    thinking, opens_thinking = THINKING_TAGS[0], False

    def __init__(self, *pieces: str | bytes) -> None:
        self.pieces = [piece.encode() if isinstance(piece, str) else piece for piece in pieces]
        self.tokenizer = self.template = self

    def tag_ids(self, tags: Any) -> None:
        return None

    def decode(self, ids: list[int], **options: Any) -> str:
        return b"".join(self.pieces[i] for i in ids).decode("utf-8", errors="replace")


def test_white_space_in_one_token_with_the_tag_goes_with_it():
    chat: Any = PieceChat("<", "think", ">", "hm", "</", "think", ">\n\n", "Hi")
    after = think_apart(sampled_from(chat), chat)
    assert parts(after) == ("hm", "Hi") and after.token_ids == [7]


def test_ids_start_after_the_token_that_ends_the_tag_and_inside_no_character():
    first, rest = "Ü".encode()[:1], "Ü".encode()[1:]
    chat: Any = PieceChat("<think>", "hm", "</think", b"> " + first, rest + b"ber", "all", "")
    after = think_apart(sampled_from(chat), chat)
    assert parts(after) == ("hm", "all") and after.token_ids == [5, 6]


def sampled_from(chat: PieceChat, finish: str = "stop") -> Response:
    ids = list(range(len(chat.pieces)))
    return Response("q1", "positive", chat.decode(ids), finish, ids)  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------------------------- text alone
@pytest.mark.parametrize("tags", THINKING_TAGS)
def test_without_a_template_text_that_begins_with_a_known_tag_is_split(tags):
    after = think_apart(told(f" {tags.open}\nhm\n{tags.close}\n\nHi {tags.close}"), None)
    assert parts(after) == ("hm", f"Hi {tags.close}") and after.token_ids is None
    assert parts(think_apart(told(f"{tags.open}hm"), None)) == ("hm", "")
    for text in (f"Hi {tags.open}hm{tags.close}", f"hm{tags.close}Hi", "Hi"):
        assert think_apart(told(text), None) == told(text)


def test_what_a_server_gave_as_thinking_stays():
    assert parts(think_apart(told("Hi", thinking="first"), None)) == ("first", "Hi")
    assert parts(think_apart(told("<think>then</think>Hi", thinking="first"), None)) == ("first\n\nthen", "Hi")
    assert parts(think_apart(told("<think></think>Hi", thinking="first"), None)) == ("first", "Hi")


def test_text_of_a_model_whose_prompt_opens_the_thought():
    chat = chat_of("deepseek-r1")
    assert parts(think_apart(told("hm</think>Hi"), chat)) == ("hm", "Hi")
    assert parts(think_apart(told("hm"), chat)) == ("hm", "")
    given = told("Hi </think>", thinking="hm")  # the server took it apart: what is left is the answer
    assert think_apart(given, chat) == given


def test_ids_without_a_chat_are_refused():
    with pytest.raises(InputError, match="no chat was given"):
        think_apart(Response("q1", "positive", "hi", "stop", [1]), None)


# ---------------------------------------------------------------------------------------------------------- properties
PIECES = st.sampled_from(
    ["<think>", "</think>", "\n\n", " ", "hm", "Ü", "😀", "<", "think>", "</", "Helpful response: "]
)


@pytest.mark.parametrize("family", ["qwen3", "deepseek-r1", "qwen3 in letters", "deepseek-r1 in letters", "marked"])
@settings(max_examples=100, deadline=None)
@given(pieces=st.lists(PIECES, max_size=8), finish=st.sampled_from(["stop", "length"]))
def test_text_and_ids_agree_and_ids_are_a_suffix(family: str, pieces: list[str], finish: str) -> None:
    name, _, spelled = family.partition(" ")
    chat = marked() if family == "marked" else chat_of(name, () if spelled else None)
    text = "".join(pieces)
    before = sampled(chat, chat.tokenizer.encode(text, add_special_tokens=False), finish)
    after = think_apart(before, chat)
    expected = think_apart(told(chat.decode(before.token_ids or [])), chat)
    assert (after.text.strip(), after.thinking) == (expected.text.strip(), expected.thinking)
    assert before.token_ids is not None and after.token_ids is not None
    assert before.token_ids[len(before.token_ids) - len(after.token_ids) :] == after.token_ids
    assert after.text.strip() == chat.decode(after.token_ids).strip()
    assert (after.token_ids[-1:] == [chat.end_ids[0]]) is (finish == "stop")
    cleaned = clean_response(after, chat.decode, ["helpful"])
    assert cleaned.text == chat.decode(cleaned.token_ids or []).strip()
    assert cleaned.text == clean_response(expected, None, ["helpful"]).text or finish == "length"


@settings(max_examples=100, deadline=None)
@given(cuts=st.lists(st.integers(0, 60), max_size=20), lead=st.sampled_from(["", " "]), answer=st.text(max_size=6))
def test_any_tokens_across_any_boundary(cuts: list[int], lead: str, answer: str) -> None:
    data = f"{lead}<think>Ü\n</think>\n{answer}".encode()
    ends = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    chat: Any = PieceChat(*[data[a:b] for a, b in pairwise(ends)])
    after = think_apart(sampled_from(chat, "length"), chat)
    assert after.thinking == "Ü"
    assert after.text == chat.decode(after.token_ids or []).strip()
    assert answer.strip().endswith(after.text) and "\ufffd" not in after.text
    kept = len(b"".join(chat.pieces[i] for i in after.token_ids or []))
    after_tag = data.index(b"</think>") + len(b"</think>")
    assert kept <= len(data) - after_tag  # nothing of the tag is left


@cache
def marked() -> Chat:
    return Chat(sentencepiece_of("qwen3"))
