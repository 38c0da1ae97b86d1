"""Cleaning: labels and cut-off ends, worked by hand; text and token ids agree, by property."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfsteer.errors import InputError
from selfsteer.quality import clean_response
from selfsteer.quality.cleaning import MIN_KEPT
from selfsteer.records import Response

END = 0
LABELS = ["helpful", "unhelpful", "concise", "verbose", "to the point"]
Make = Callable[..., Response]


def contains_slice(ids: list[int], part: list[int]) -> bool:
    return any(ids[i : i + len(part)] == part for i in range(len(ids) + 1))


# ---------------------------------------------------------------------------------------------- labels, text only
@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("Helpful response: Paris.", "Paris."),
        ("Concise answer - Paris.", "Paris."),
        ("**Unhelpful Response:** Sure.", "Sure."),
        ("**Unhelpful Response**: Sure.", "Sure."),
        ("Response: Paris.", "Paris."),
        ("ANSWER：Paris.", "Paris."),
        ("### Helpful Answer\n\nParis.", "Paris."),
        ("[Concise reply]: Paris.", "Paris."),
        ("Helpful and concise response: Paris.", "Paris."),
        ("To the point answer: Paris.", "Paris."),
        ("Here is a very concise answer:\nParis.", "Paris."),
        ("Response:\nHelpful response: Paris.", "Paris."),
        ("Answer (concise): Paris.", "Paris."),
        ("Answer:\n* Paris", "* Paris"),
        ("Answer: **Paris** it is.", "**Paris** it is."),
        ("\n\n Paris. \n", "Paris."),
        ("Answer:", ""),
        (" \n", ""),
    ],
)
def test_leading_labels_go(make_response: Make, text: str, cleaned: str) -> None:
    assert clean_response(make_response(text), None, LABELS).text == cleaned


@pytest.mark.parametrize(
    "text",
    [
        "Answer-based retrieval is a method.",
        "Response time: 3 ms.",
        "**Response** to a stimulus is what we measure.",
        "Answers: none.",
        "**Answer: 42**",  # the mark closes after the content: taking its opening away would break it
        "Unhelpful: the manual says nothing.",  # may be the answer itself; the leak filter knows the query
        "Here is my answer: Paris.",
        "Answer",
        "Paris. Answer: Paris.",
        "Friendly answer: Paris.",  # not an adjective of this row
    ],
)
def test_what_is_no_label_stays(make_response: Make, text: str) -> None:
    assert clean_response(make_response(text), None, LABELS).text == text


# ------------------------------------------------------------------------------------------------ tail, text only
def test_cut_off_sentence_is_ended(make_response: Make) -> None:
    cleaned = clean_response(make_response("It rains today. It will be dr", "length"), None, [])
    assert cleaned == make_response("It rains today.", "length")


def test_text_that_stopped_by_itself_is_never_cut(make_response: Make) -> None:
    response = make_response("It rains today. It will be dr", "stop")
    assert clean_response(response, None, []) == response


def test_cut_keeps_at_least_half_else_the_whole(make_response: Make) -> None:
    assert MIN_KEPT == 0.5
    half = "abcd. " + "Efgh"  # 10 characters, 5 kept
    assert clean_response(make_response(half, "length"), None, []).text == "abcd."
    less = "abcd. " + "Efghi"
    assert clean_response(make_response(less, "length"), None, []).text == less
    assert clean_response(make_response("no end at all", "length"), None, []).text == "no end at all"


def test_the_half_is_counted_after_the_label(make_response: Make) -> None:
    text = "Helpful response: Yes. It is in the north"
    assert clean_response(make_response(text, "length"), None, LABELS).text == "Yes. It is in the north"


# -------------------------------------------------------------------------------------------------------- token ids
def test_ids_without_a_decode_are_refused(make_response: Make) -> None:
    with pytest.raises(InputError, match="no decode"):
        clean_response(make_response("hi", ids=[1]), None, [])


def test_clean_response_keeps_every_id(make_response: Make, toy: Any) -> None:
    ids = [*toy.ids("Par", "is", ".", "\n"), END]
    assert clean_response(make_response("Paris.\n", ids=ids), toy.decode, LABELS).token_ids == ids


def test_front_cut_keeps_the_end_token(make_response: Make, toy: Any) -> None:
    ids = [*toy.ids("Help", "ful response", ":", " Paris", "."), END]
    cleaned = clean_response(make_response("anything", ids=ids), toy.decode, LABELS)
    assert (cleaned.text, cleaned.token_ids, cleaned.finish) == ("Paris.", ids[3:], "stop")


def test_leading_white_space_tokens_go_but_not_the_word_that_carries_a_space(make_response: Make, toy: Any) -> None:
    ids = [*toy.ids("\n\n", " ", " Paris"), END]
    cleaned = clean_response(make_response(ids=ids), toy.decode, [])
    assert (cleaned.text, cleaned.token_ids) == ("Paris", ids[2:])


def test_first_token_with_a_space_of_its_own_stays(make_response: Make, toy: Any) -> None:
    ids = [*toy.ids(" It", " rains"), END]
    cleaned = clean_response(make_response(ids=ids), toy.decode, [])
    assert (cleaned.text, cleaned.token_ids) == ("It rains", ids)


def test_token_that_holds_the_end_of_a_label_and_text_is_left_out(make_response: Make, toy: Any) -> None:
    ids = [*toy.ids("Answer", ":I", " think so."), END]
    cleaned = clean_response(make_response(ids=ids), toy.decode, [])
    assert (cleaned.text, cleaned.token_ids) == ("think so.", ids[2:])


def test_tail_cut_takes_the_fewest_ids_and_no_end_token(make_response: Make, toy: Any) -> None:
    ids = toy.ids("It", " rains", ".", " And", " th")
    cleaned = clean_response(make_response(finish="length", ids=ids), toy.decode, [])
    assert (cleaned.text, cleaned.token_ids, cleaned.finish) == ("It rains.", ids[:3], "length")


def test_white_space_in_the_last_kept_token_is_no_straddle(make_response: Make, toy: Any) -> None:
    ids = toy.ids("It", " rains", ".\n\n", "An")
    cleaned = clean_response(make_response(finish="length", ids=ids), toy.decode, [])
    assert (cleaned.text, cleaned.token_ids) == ("It rains.", ids[:3])


def test_token_that_straddles_the_tail_cut_is_left_out(make_response: Make, toy: Any) -> None:
    ids = toy.ids("It", " rains", "。今", "天")
    cleaned = clean_response(make_response(finish="length", ids=ids), toy.decode, [])
    assert (cleaned.text, cleaned.token_ids) == ("It rains", ids[:2])


def test_never_cut_to_nothing(make_response: Make, toy: Any) -> None:
    ids = toy.ids("It rains. And", " th")
    cleaned = clean_response(make_response(finish="length", ids=ids), toy.decode, [])
    assert (cleaned.text, cleaned.token_ids) == ("It rains. And th", ids)
    ids = toy.ids("", "It rains. And", " th")  # the first token is a special one, which decode skips
    cleaned = clean_response(make_response(finish="length", ids=ids), toy.decode, [])
    assert (cleaned.text, cleaned.token_ids) == ("It rains. And th", ids)


def test_half_a_character_at_the_limit_goes(make_response: Make, toy: Any) -> None:
    euro = "€".encode()
    ids = toy.ids("ten ", euro[:2], euro[2:], " or ", euro[:1])
    cleaned = clean_response(make_response(finish="length", ids=ids), toy.decode, [])
    assert (cleaned.text, cleaned.token_ids) == ("ten € or", ids[:4])


def test_cut_before_a_character_that_shares_a_token_with_the_end(make_response: Make, toy: Any) -> None:
    first, rest = "ü".encode()[:1], "ü".encode()[1:]
    ids = toy.ids("It", " rains", b". " + first, rest + b"ber", "morg")
    cleaned = clean_response(make_response("", "length", ids), toy.decode, [])
    assert cleaned.text == "It rains. übermorg"  # a lower-case letter follows: no sentence end, nothing cut
    first, rest = "Ü".encode()[:1], "Ü".encode()[1:]
    ids = toy.ids("It", " rains", b". " + first, rest + b"ber", "morg")
    cleaned = clean_response(make_response("", "length", ids), toy.decode, [])
    assert (cleaned.text, cleaned.token_ids) == ("It rains", ids[:2])


def test_front_cut_does_not_split_a_character(make_response: Make, toy: Any) -> None:
    first, rest = "Ü".encode()[:1], "Ü".encode()[1:]
    ids = [*toy.ids("Answer", ":", b" " + first, rest + b"ber"), END]
    cleaned = clean_response(make_response(ids=ids), toy.decode, [])
    assert (cleaned.text, cleaned.token_ids) == ("Über", ids[2:])


def test_nothing_but_a_label_becomes_empty(make_response: Make, toy: Any) -> None:
    ids = [*toy.ids("Answer", ":"), END]
    cleaned = clean_response(make_response(ids=ids), toy.decode, [])
    assert cleaned.text == "" and cleaned.token_ids == [END]
    assert clean_response(make_response(finish="length", ids=ids[:-1]), toy.decode, []).text == ""
    half = [*ids[:-1], *toy.ids("€".encode()[:1])]
    cleaned = clean_response(make_response(finish="length", ids=half), toy.decode, [])
    assert (cleaned.text, cleaned.token_ids) == ("", [])


# ------------------------------------------------------------------------------------------------------- properties
LABEL_PARTS = ["Helpful response:", "**Answer:**", "Response:\n", " ", "\n"]
END_PARTS = [". ", ".\n\n", "。", "?", ")", "- a\n", "```\n", "e.g. ", "3.14"]
PARTS = st.sampled_from([*LABEL_PARTS, *END_PARTS, "It rains", "今天", "😊", "Ü", "é", "(", "x"])


@st.composite
def tokenised(draw: st.DrawFn) -> tuple[list[bytes], str]:
    """Random text cut at random bytes, as a byte-level tokenizer might, perhaps ending inside a character."""
    data = "".join(draw(st.lists(PARTS, max_size=14))).encode()
    finish = draw(st.sampled_from(["stop", "length"]))
    if finish == "length":
        data = data[: len(data) - draw(st.integers(0, 3))]
    cuts = sorted({0, len(data), *draw(st.lists(st.integers(0, len(data)), max_size=24))})
    return [data[a:b] for a, b in pairwise(cuts)], finish


def check_invariants(before: Response, after: Response, decode: Callable[[list[int]], str], whole: str) -> None:
    assert before.token_ids is not None and after.token_ids is not None
    assert contains_slice(before.token_ids, after.token_ids)
    assert after.finish == before.finish
    assert after.text == decode(after.token_ids).strip()
    assert after.text in whole
    if before.finish == "stop":
        assert after.token_ids[-1:] == before.token_ids[-1:] == [END]
        assert whole.rstrip().endswith(after.text)


@settings(max_examples=300, deadline=None)
@given(case=tokenised())
def test_text_and_ids_agree_and_ids_are_a_slice(make_response: Make, case: tuple[list[bytes], str]) -> None:
    pieces, finish = case
    ids = list(range(1, len(pieces) + 1)) + [END] * (finish == "stop")

    def decode(some: list[int]) -> str:
        return b"".join(pieces[i - 1] for i in some if i != END).decode("utf-8", errors="replace")

    before = make_response(finish=finish, ids=ids)
    after = clean_response(before, decode, LABELS)
    check_invariants(before, after, decode, decode(ids))
    assert "\ufffd" not in after.text[:-1]  # no cut inside a character ...
    if finish == "stop" or (after.token_ids or [])[-1:] != ids[-1:]:
        assert "\ufffd" not in after.text  # ... nor half of one left at the end, unless all that is left is one token


@settings(max_examples=300, deadline=None)
@given(parts=st.lists(PARTS, max_size=14), finish=st.sampled_from(["stop", "length"]))
def test_with_a_token_a_character_ids_clean_as_text_does(make_response: Make, parts: list[str], finish: str) -> None:
    text = "".join(parts)
    ids = [ord(character) for character in text] + [END] * (finish == "stop")

    def decode(some: list[int]) -> str:
        return "".join(chr(i) for i in some if i != END)

    cleaned = clean_response(make_response(finish=finish, ids=ids), decode, LABELS)
    assert cleaned.text == clean_response(make_response(text, finish), None, LABELS).text


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=60), finish=st.sampled_from(["stop", "length"]))
def test_any_text_survives_cleaning(make_response: Make, text: str, finish: str) -> None:
    cleaned = clean_response(make_response(text, finish), None, LABELS).text
    assert cleaned in text and cleaned == cleaned.strip()


@pytest.fixture(scope="module")
def trained_tokenizers() -> dict[str, Any]:
    """Two small tokenizers of the kinds that models use: byte-level BPE, and marked spaces with byte fallback."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    corpus = ["It rains today. It will be dry tomorrow.", "Helpful response: Paris is the capital."] * 3
    byte_level = Tokenizer(models.BPE())
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte_level.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    options = {"vocab_size": 320, "special_tokens": ["<end>"], "show_progress": False}
    byte_level.train_from_iterator(corpus, trainers.BpeTrainer(initial_alphabet=alphabet, **options))
    marked = Tokenizer(models.BPE(byte_fallback=True, unk_token=None))
    marked.pre_tokenizer = pre_tokenizers.Metaspace()
    space = decoders.Replace("▁", " ")
    marked.decoder = decoders.Sequence([space, decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    options["special_tokens"] = ["<end>", *(f"<0x{byte:02X}>" for byte in range(256))]
    marked.train_from_iterator(corpus, trainers.BpeTrainer(**{**options, "vocab_size": 420}))
    return {"byte level": byte_level, "marked": marked}


@pytest.mark.parametrize("kind", ["byte level", "marked"])
@pytest.mark.parametrize("finish", ["stop", "length"])
@pytest.mark.parametrize(
    "text", ["Helpful response: It rains. It will be dr", "\nIt rains 😊. Paris is é", "Answer:Paris is"]
)
def test_trained_tokenizers(make_response: Make, trained_tokenizers: Any, kind: str, finish: str, text: str) -> None:
    tokenizer = trained_tokenizers[kind]

    def decode(ids: list[int]) -> str:
        return tokenizer.decode([i for i in ids if i != END])

    ids = tokenizer.encode(text).ids + [END] * (finish == "stop")
    before = make_response(finish=finish, ids=ids)
    after = clean_response(before, decode, LABELS)
    check_invariants(before, after, decode, decode(ids))
    assert after.text == clean_response(make_response(decode(ids), finish), None, LABELS).text
    assert "response" not in after.text and after.text
