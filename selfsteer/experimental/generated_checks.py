"""Faults of queries that a model wrote: refusals, answers, gaps and talk about the task. English phrases only.

Each test is a few patterns, tried on 6,206 queries of people and models (docs/queries.md): it flags what is certainly
wrong and leaves the rest.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from selfsteer.language_id import language
from selfsteer.queries.checks import Fault

_IMPERATIVES = """
act add advise alter analy[sz]e answer append argue arrange ask assess assume brainstorm break build calculate
categori[sz]e change characteri[sz]e check choose cite classify clean collect combine come compare compile complete
compose compress compute concoct conduct connect construct continue convert convince correct count craft create
critique debate debug decide decode define demonstrate derive describe design detect determine develop devise
differentiate discuss display distinguish divide do draft draw edit elaborate eliminate encode ensure entertain
enumerate estimate evaluate examine expand explain explicate explore express extract fill find finish fix follow
form format formulate generate get give go group guess help highlight hypothesi[sz]e identify illustrate implement
improve infer insert interpret introduce invent investigate justify label let link list look make match mention
modify name note obtain offer optimi[sz]e order organi[sz]e outline paint paraphrase parse perform pick plan point
predict prepare present pretend print produce proofread propose prove provide rank rate read rearrange recommend
reconstruct recover redact re-?design reduce refactor reflect regenerate relate rephrase replace report research
respond restate retrieve return reverse review revise re-?word rewrite role-?play say score search seek select
separate set share show simplify simulate sketch solve sort speak specify speculate spell state structure submit
substitute suggest sum summari[sz]e synthesi[sz]e take talk teach tell test think trace track transcribe transform
translate try turn unscramble update use verify visuali[sz]e work write
""".split()

_REFUSAL = re.compile(
    r"\A\W*(?:i(?:'m| am) (?:very )?sorry,? (?:but )?(?:i|as an)\b|sorry,? (?:but )?i (?:can|am|'m)"
    r"|i (?:cannot|can't|can not|won't|will not|am unable to|am not able to)"
    r" (?:help|assist|provide|fulfil|fulfill|comply|answer|create|generate|write|rewrite|do that|continue)\b"
    r"|i(?:'m| am) (?:unable|not able) to |as an? (?:ai|artificial|large language|language model)\b.{0,40}\bi\b"
    r"|unfortunately,? i (?:can|am|do|'m))",
    re.IGNORECASE,
)
_GAP = re.compile(
    r"\[(?:insert|your|the |a |an |add|name|topic|title|text|link|url|date|number|city|country|company|product|paste"
    r"|enter|choose|specify|fill|some|x)[^\]\n]{0,60}\](?!\()"
    r"|<(?:insert|your|paste|enter|add)\b[^>\n]{0,60}>"
    r"|\{\{.{0,80}?\}\}|\{(?:insert|your|paste|enter|topic|name|text)[\w ]{0,80}\}"
    r"|\b(?:insert|paste) (?:your )?(?:\w+ )?here\b|\blorem ipsum\b",
    re.IGNORECASE,
)
_MISSING = re.compile(
    r"\b(?:the )?(?:following|given|above|attached|provided)"
    r" (?:\w+ )?(?:text|passage|paragraph|article|sentences?|story|poem|code|function|list|table|data|email|letter"
    r"|essay|document|image|picture|audio|video|conversation|dialogue|review|program|equation|numbers|words|options)\b"
    r"|\b(?:text|passage|paragraph|article|code|list|table|data|email|image) (?:below|above)\b",
    re.IGNORECASE,
)
_THERE = re.compile(r"""\n|:\s*\S|["“«`(\[{<]|\d""")
_META = re.compile(
    r"\A\W*(?:here (?:is|are) (?:a|an|the|some|\d+|another|my)\b.{0,60}"
    r"\b(?:requests?|prompts?|quer(?:y|ies)|rewrit\w+|versions?|instructions?|questions?)\b"
    r"|(?:sure|certainly|of course)[!,.]|(?:new|rewritten|original|revised) (?:request|prompt|query)\b|request \d+\b)"
    r"|\b(?:rewritten|original|given|new|above|evolved) (?:request|prompt|query)\b"
    r"|\b(?:requests? above|prompts? above|examples? above|numbered list from 1 to)\b",
    re.IGNORECASE,
)
_ANSWER = re.compile(
    r"^\W{0,20}+(?:answer|solution|response|output|assistant|explanation)\W{0,20}:\s{0,20}\S"
    r"|\A\W*the answer (?:is|to)\b",
    re.IGNORECASE | re.MULTILINE,
)


_ASKS = re.compile(
    r"\?|(?:^|[.!:;,\n]|\band\b|\bto\b|\bthen\b|\bplease\b)[\W\d]{0,20}+"
    r"(?:please |now |then |first,? |also |next,? ){0,3}(?:"
    + "|".join(_IMPERATIVES)
    + r")\b|\bplease\b|\b(?:can|could|would|will) you\b"
    r"|\bi(?:'d| would)? (?:want|need|like|wish|am looking|am trying)\b"
    r"|\b(?:your (?:task|job|goal)|you (?:are|will|should|must|have))\b"
    r"|\A\W*(?:how|what|why|which|who|when|where|is|are|do|does|did|should|given|if|suppose|imagine|consider|let)\b",
    re.IGNORECASE | re.MULTILINE,
)


def _misses_something(text: str) -> bool:
    """Refers to something as if it were there ("the following text") and it is not; or ends with a colon."""
    if "\n" not in text.strip() and text.rstrip().endswith(":"):
        return True
    return bool(_MISSING.search(text) and not _THERE.search(text))


TESTS: dict[str, tuple[Callable[[str], object], str]] = {
    "refusal": (lambda text: _REFUSAL.search(text.replace("’", "'")), "a refusal"),
    "meta": (_META.search, "is about the task of writing queries"),
    "answer": (_ANSWER.search, "an answer, or a query with its answer"),
    # No question mark and no verb in the imperative, which only English texts are searched for.
    "statement": (
        lambda text: not _ASKS.search(text) and language(text) == "en",
        "asks for nothing: a statement, perhaps an answer",
    ),
    "placeholder": (_GAP.search, "a gap that was never filled"),
    "incomplete": (_misses_something, "refers to something that it does not contain"),
}
"""By name: the test of a text (true where it is at fault), and the reason."""


def grown_fault(text: str) -> Fault | None:
    """Return what is wrong with a query that a model wrote, None where the tests find nothing."""
    for name, (test, reason) in TESTS.items():
        if test(text):
            return Fault(name, reason)
    return None
