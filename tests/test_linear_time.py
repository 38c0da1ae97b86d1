"""No text of a model, a server or a user may take time that grows faster than its length."""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import pytest

from selfsteer.backends.openai_response import read_answer
from selfsteer.backends.rejections import Rejection
from selfsteer.chat_template import THINKING_TAGS
from selfsteer.evaluation.relevance import answers, repetition
from selfsteer.experimental.generated_checks import grown_fault
from selfsteer.experimental.parse_generated import read_list, read_one
from selfsteer.experimental.proposals import read_proposals
from selfsteer.export.redaction import public_text
from selfsteer.files import parse_json
from selfsteer.judges.verdict_parser import read_verdict
from selfsteer.language_id import language
from selfsteer.models.load_errors import without_addresses
from selfsteer.principles.choose import shortened
from selfsteer.principles.json_answers import read_json_answer
from selfsteer.principles.write import parse_guideline, parse_pairs
from selfsteer.principles.yaml_reader import load_set
from selfsteer.quality.direction import words
from selfsteer.quality.leak import Guidance, repeated_run, repeated_share, self_reference, surviving_label
from selfsteer.quality.leaked_labels import labels_end
from selfsteer.quality.refusals import refusal
from selfsteer.quality.sentences import last_sentence_end
from selfsteer.queries.load import content_hash
from selfsteer.queries.minhash import pieces
from selfsteer.queries.words import changed_words, words_of
from selfsteer.sanitize import escape_controls

LONG = 1_000_000
SET = load_set("brief")
ASPECT = SET.aspects[0].name
GUIDANCE = Guidance(
    "Be concise and helpful in every answer you give.", ("Be concise.",), ("Hello",), ("concise", "helpful")
)

READERS: dict[str, Callable[[str], object]] = {
    "verdict": lambda text: read_verdict(text, ("A", "B")),
    "sentence end": last_sentence_end,
    "JSON answer": read_json_answer,
    "JSON answer, cut": lambda text: read_json_answer(text, cut=True),
    "JSON": lambda text: _or_none(parse_json, text),
    "pairs": lambda text: parse_pairs(text, SET, [ASPECT]),
    "guideline": lambda text: parse_guideline(text, SET.steering, cut=True),
    "labels": lambda text: labels_end(text, ("concise", "helpful")),
    "label left": lambda text: surviving_label(text, GUIDANCE),
    "self reference": lambda text: self_reference(text, GUIDANCE),
    "repeated run": lambda text: repeated_run(text, GUIDANCE, 8),
    "repeated share": lambda text: repeated_share(text, GUIDANCE),
    "refusal": refusal,
    "language": language,
    "words": words,
    "words of a query": words_of,
    "changed words": lambda text: changed_words(text, text[1:]),
    "content hash": lambda text: content_hash([{"role": "user", "content": text.replace("\ud800", "")}]),
    "near duplicates": pieces,
    "list of queries": lambda text: read_list(text, "stop"),
    "one query": lambda text: read_one(text, "stop"),
    "checks of a query": grown_fault,
    "proposals": lambda text: read_proposals(text, 0, [], cut=False),
    "repetition": repetition,
    "relevance": lambda text: answers(text, text),
    "thoughts": lambda text: [tags.leading(text) for tags in THINKING_TAGS],
    "shortened": shortened,
    "addresses": without_addresses,
    "public text": public_text,
    "escape": escape_controls,
    "answer's body": lambda text: read_answer(text.encode(errors="surrogatepass")),
    "rejection": lambda text: _rejection(Rejection(text)),
}

# What a pattern repeats or pairs: each token of its text alone, with a gap, and never closed.
UNITS = [
    ".", "!", ":", ": ", "://", ",", "-", "- a  ", "_", "*", "**a", "#", "# ", "`", "```\n", "```json", "```json\n",
    "~~~\n", "\n", " ", "\t", " \n", "\r\n", "a", "A", "a ", "a.", "a. ", "A. ", "a.a", "1", "1. ", "1.\n", "1) a\n",
    "\n1. ", "{", "[", "{{", "[[", '"', '"a', '"a"', '{"a":', '["a",', "[1],", "\\", '\\"', "<", "<a", "<|",
    "<|im_end|>", "[INST]", "</", "<request>", "<request>a</request>", "<think>", "</think>", "concise\n", "concise ",
    "concise, ", "concise and ", "**concise ", "Concise response: ", "Answer: ", "as a ", "my response should ",
    "the guidelines ", "is the answer ", "is A ", "A is ", "A and ", "B, ", "A, B", "not choose ", "for the ",
    "sorry, ", "I cannot ", "please ", "and ", "to ", "http://", "a@", "host='", "org.", "127.", "~", "~a", "/", "/a",
    "C:\\", "$", "$a", "\u0316\u0301", "a\u0301", "\u202e", "\u2067", "\x1b[", "\x1b]0;", "\ud800", "\u3042",
    "\u3002", "\u1100\u1161", "\ufdfa", "\xdf", "'", "\u2019", "a'", "a-", "(", ")", "token ", "max_tokens ",
    "context ", "violated a ",
]  # fmt: skip


def _rejection(found: Rejection) -> object:
    parameters = {"temperature": ("temp",), "max_tokens": ()}
    return found.content, found.length, found.unknown, found.categories, found.blames(parameters), found.bound(64)


def _or_none(read: Callable[[str], object], text: str) -> object:
    try:
        return read(text)
    except ValueError:
        return None


class TooSlow(Exception):
    """The alarm went off."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise ``TooSlow`` after so many seconds of the process, as they are measured: other work doesn't count."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def growth(read: Callable[[str], object], unit: str, tail: str, longest: int) -> str:
    """Return where the time grows faster than the length, "" where it does not up to ``longest`` characters.

    Lengths grow fivefold from 8,000 on (40,000, 200,000, 1,000,000); so does the time of a linear function.
    """
    length, before = 8_000, 0.0
    while length <= longest:
        text = (unit * (length // len(unit) + 1))[:length] + tail
        started = time.process_time()
        try:
            with within(20):
                read(text)
        except TooSlow:
            return f"{length} characters took more than 20 s, a fifth of them {before:.3f} s"
        took = time.process_time() - started
        if before > 0.03 and took > 11 * before:
            return f"{length} characters took {took:.2f} s, a fifth of them {before:.2f} s"
        before, length = took, length * 5
        if took > 0.03:  # a quadratic pattern takes half a second for 8,000 characters: worth a longer look
            longest = max(longest, min(length, LONG))
    return ""


def slow_texts(name: str, tails: Sequence[str], longest: int) -> dict[str, str]:
    read = READERS[name]
    return {
        repr((unit, tail)): found for unit in UNITS for tail in tails if (found := growth(read, unit, tail, longest))
    }


@pytest.mark.parametrize("name", READERS)
def test_time_grows_with_the_length(name):
    assert not slow_texts(name, ("", "x"), 8_000)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_a_million_characters(name):
    assert not slow_texts(name, ("x",), LONG)
