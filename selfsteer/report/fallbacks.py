"""Requests to models that fell back on the set: choices of aspects, and written principles."""

from __future__ import annotations

from collections.abc import Mapping

_CHOICES = {
    "fallback": "the model's answer named no aspect: {}",
    "cut": "its answer was cut off before it named one: {} (raise principles.choice_max_tokens, or "
    "principles.thinking_max_tokens where the model thinks)",
}
_WRITINGS = {
    "fallback": "the answer lacked a usable principle: {}",
    "cut": "the answer was cut off: {} (raise principles.writing_max_tokens, or principles.thinking_max_tokens where "
    "the model thinks)",
}


def fallbacks_told(choices: Mapping[str, int], writings: Mapping[str, int]) -> list[tuple[str, bool]]:
    """Return for each kind of request that fell back a sentence with its share, and whether all its rows fell back.

    The counts are rows by the outcome of a :class:`selfsteer.principles.Choice` or ``Written``.
    """
    return [
        *_sentence("choices of aspects fell back to the set's default", choices, ("model",), _CHOICES),
        *_sentence(
            "written principles fell back, in part or whole, to the set's", writings, ("ok", "repaired"), _WRITINGS
        ),
    ]


def _sentence(
    what: str, counts: Mapping[str, int], good: tuple[str, ...], reasons: Mapping[str, str]
) -> list[tuple[str, bool]]:
    bad = {name: counts[name] for name in reasons if counts.get(name)}
    lost = sum(bad.values())
    total = lost + sum(counts.get(name, 0) for name in good)
    if not lost:
        return []
    why = "; ".join(reasons[name].format(count) for name, count in bad.items())
    return [(f"{lost} of {total} {what} ({100 * lost / total:.0f} %): {why}", lost == total)]
