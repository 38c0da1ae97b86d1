"""Parses the verdict in a judge's reply."""

from __future__ import annotations

import re
from collections.abc import Sequence

from selfsteer.judges.answer_cache import Answer

VERSION = 2
"""Version of the rules below, in the keys of cached answers: a change of the rules asks again."""

_END = r"(?![^\W_]|['’][^\W_])"
"""End of a word: "A" is not in "Also" or "A's"; Markdown's underscores are no letters."""

_NEUTRAL = """
the my final overall better best correct preferred answer answers response responses option choice verdict reply winner
label two both number one is are be would should must say call it it['’]s they i i['’]d i['’]ll think believe choose
prefer pick select go with for that sure okay ok
""".split()
_OPENING = rf"(?:(?:{'|'.join(_NEUTRAL)}){_END}|[\W_])*"
"""Words that may come before a verdict."""

_TIE = rf"(?:(?:an?\s+)?(?:tied?|equal(?:ly)?){_END}(?!-)|neither{_END}(?!.*\b(?:but|however){_END}))"

_VERB = rf"(?:[a-z]+ly[ \t]+)?(?:[a-z]*[^\Wus]s|because|since|for|over|would|will|can|did|gave|and|or|nor){_END}"
_NOUN = rf"[ \t]+(?!{_VERB})[a-z]"
"""The word after an "A" that is an article, as in "A good answer is B": any but a verb."""

# Gaps are bounded: where a repetition may begin anywhere in the reply, an unbounded one reads it again and again.
_GAP = r"\s{1,20}"
_DEGREE = rf"(?:(?:the|an?|bit|also|just|much|far|slightly|somewhat|clearly|generally|overall){_GAP}){{0,5}}"
_NOT_BETTER = rf"[\s*_]{{1,20}}(?:is|was|does)(?:n['’]t|{_GAP}{_DEGREE}(?:not|as|worse|less|wrong|incorrect|equal))"
_BETTER = (
    rf"[\s*_]{{1,20}}(?:is|was|seems|would{_GAP}be){_GAP}{_DEGREE}"
    rf"(?:better|best|preferable|preferred|superior|winner){_END}"
)
_GIVEN = (
    r"(?:is|be|:|with|for|boxed|(?<!not )(?<!n['’]t )(?:choose|pick|prefer|select))"
    rf"[\W_]{{0,20}}+(?:the{_GAP})?(?:answer|response|option|choice)?[\W_]{{0,20}}"
)
_DONE = rf"(?=[\W_]*\Z|[*_\"')\]}}]*(?:[.!?;\n]|,?\s+(?:because|since|as|over|due){_END}))"


def read_verdict(text: str, labels: Sequence[str]) -> Answer:
    """Return the answer in a reply: one label, or a tie; anything else is invalid.

    A verdict comes first in the reply, after nothing but neutral words ("B", "**Answer: B**. It is ...", "I think
    answer B is better"). In other replies, it is the one label that a later phrase gives as the verdict ("... so the
    better answer is B."). The text comes without a reasoning model's thoughts (:func:`selfsteer.quality.answer_of`).
    """
    reply = text.strip()
    label = _label(labels)
    start = re.match(rf"(?i:{_OPENING})(?:(?is:{_TIE})|(?P<label>{label}))", reply)
    if start:
        found = {start["label"]}
    else:
        # A label that is merely mentioned is no verdict: replies are cut after a few tokens, and a comparison that has
        # just begun has mentioned the first response.
        found = {*re.findall(rf"(?<![^\W_])({label})(?i:{_BETTER})", reply)}
        found |= {*re.findall(rf"(?<![^\W_])(?i:{_GIVEN})({label}){_DONE}", reply)}
        # In lower case "a" is an article more often than a label, unless the reply is nothing else.
        found |= {name for name in labels if re.fullmatch(rf"(?i:{_OPENING}{re.escape(name)}[\W_]*)", reply)}
    votes = {{labels[0]: 1, labels[1]: -1}.get(name, 0) for name in found}
    if len(votes) == 1:
        return Answer(votes.pop(), text=text)
    return Answer(0, text=text, valid=False, why="names no verdict")


def _label(labels: Sequence[str]) -> str:
    """Return a pattern for a label that may be a verdict: no article, not called worse, not one of two."""
    either = "|".join(map(re.escape, labels))
    single = "|".join(re.escape(label) + (rf"(?!{_NOUN})" if label == "A" else "") for label in labels)
    other = rf"(?:/|&|={{1,3}}|and|or|nor|vs\.?|versus)[\s*_]{{0,20}}(?:answer{_GAP}|response{_GAP})?(?:{either}){_END}"
    both = rf"\s{{0,20}},[\s*_]{{0,20}}(?:{either})[\W_]*\Z"
    return rf"(?:{single}){_END}(?![\s*_]{{0,20}}(?i:{other}))(?!{both})(?!(?i:{_NOT_BETTER}))"
