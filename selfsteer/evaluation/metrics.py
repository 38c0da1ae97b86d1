"""Measures of a policy on the contrasts of held-out queries, the same before and after training. No torch here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, median
from typing import Any

import numpy as np

from selfsteer.confidence_intervals import bootstrap, wilson
from selfsteer.evaluation.relevance import LOOP, answers, repetition
from selfsteer.quality import direction_of, steering_margin
from selfsteer.quality.direction import compare_lengths, words
from selfsteer.records import PROMPTS, ROLES, Contrast, is_full, is_scored, score
from selfsteer.views import SCALES

Measure = dict[str, Any]


def measure(
    contrasts: Sequence[Contrast],
    *,
    direction: str | None,
    implicit: Sequence[tuple[float, float]] | None,
    per_token: bool = True,
    drops: Sequence[float] | None = None,
) -> Measure:
    """Return the figures of one policy on its contrasts of the held-out queries.

    Args:
        contrasts: Cleaned rows, those with an empty response included.
        direction: Program that decides which way y+ must differ from y-, None where no program can.
        implicit: The values of :func:`implicit_changes`; None for the starting policy itself.
        per_token: Whether these are means per token, or sums.
        drops: The result of :func:`answer_drops`; None for the starting policy itself.
    """
    full = [row for row in contrasts if is_full(row)]  # an empty response has no direction and no log-prob
    scored = [row for row in full if is_scored(row)]
    directions = [direction_of(direction, row) for row in full] if direction else []
    margins = [margin for row in scored if (margin := steering_margin(row)) is not None]
    plain_scores = [[score(row, role, "prompt") for row in scored] for role in ("positive", "negative")]
    plain = [row.original_response for row in contrasts]
    loops = [repetition(text) for text in plain]
    answered = sum(answers(row.prompt[-1]["content"], row.original_response) for row in contrasts)
    return {
        "n": len(contrasts),
        "direction": {"program": direction, **counted(directions)} if directions else None,
        "steering_margin": _spread(margins) | {"values": margins} if margins else None,
        "mean_logps": {f"{role}_response": _mean_logps(scored, role) for role in ROLES} if scored else None,
        "onpolicyness": onpolicyness(*plain_scores) if scored else None,
        "implicit": _implicit(implicit, per_token) if implicit else None,
        "divergence": _spread(drops) | {"n": len(drops)} if drops else None,
        "length": {role: _length(contrasts, role) for role in ("original", "positive", "negative")},
        "distinct": {
            "repetition": fmean(loops),
            "looping": sum(share > LOOP for share in loops),
            "empty": sum(not text for text in plain),
        },
        "answered": {
            "share": answered / len(contrasts),
            "n": len(contrasts),
            "interval": wilson(answered, len(contrasts)),
        },
    }


def response_length(row: Contrast, role: str) -> int:
    """Return the length of a response in sampled tokens, or in words where the row carries no tokens."""
    ids = getattr(row, f"{role}_token_ids")
    return len(ids) if ids is not None else words(getattr(row, f"{role}_response"))


def implicit_changes(
    start: Sequence[Contrast], trained: Sequence[Contrast], *, per_token: bool = True, max_length: int | None = None
) -> dict[str, tuple[float, float]]:
    """Return by row id how much likelier y+ and y- of the start's pairs are under a policy, given the plain prompt.

    Args:
        start: The pairs, scored by the policy that wrote them.
        trained: The pairs among them that have scores, with those of the trained policy under the plain prompt.
        per_token: In nats per token, or in nats summed over the response, which takes rows with token ids.
        max_length: The length limit that the rows were scored with.
    """
    before = {row.id: row for row in start}

    # The scale of the loss that trained the policy: trained on means, it may lower its summed margin by short answers.
    def change(row: Contrast, role: str) -> float:
        mean = score(row, role, "prompt") - score(before[row.id], role, "prompt")
        return mean if per_token else mean * row.scored_tokens(role, max_length)

    return {row.id: (change(row, "positive"), change(row, "negative")) for row in trained}


def answer_drops(start: Sequence[Contrast], trained: Sequence[Contrast]) -> list[float]:
    """Return by how much the start's plain answers became less likely under a trained policy, nats per token.

    Each is m_start(yo|x) - m_trained(yo|x). The start wrote yo under x, so their mean estimates the divergence
    KL(start || trained) per token, restricted to what the start's temperature and top-p let it sample. The rows are as
    for :func:`implicit_changes`.
    """
    before = {row.id: row for row in start}
    return [score(before[row.id], "original", "prompt") - score(row, "original", "prompt") for row in trained]


def counted(verdicts: Sequence[int] | np.ndarray) -> Measure:
    """Return how many of one or more verdicts are 1 (right), 0 (tied), -1 (wrong), and the share right: no tie is."""
    right, tied, wrong = (int(np.count_nonzero(np.asarray(verdicts) == value)) for value in (1, 0, -1))
    return {
        "right": right,
        "tied": tied,
        "wrong": wrong,
        "share": right / len(verdicts),
        "interval": wilson(right, len(verdicts)),
    }


def _spread(values: Sequence[float]) -> Measure:
    return {"mean": fmean(values), "interval": bootstrap(values)}


def _mean_logps(rows: Sequence[Contrast], role: str) -> Measure:
    found = {prompt: [score(row, role, prompt) for row in rows] for prompt in PROMPTS}
    return {prompt: {"mean": fmean(values), "values": values} for prompt, values in found.items()}


def onpolicyness(positive: Sequence[float] | np.ndarray, negative: Sequence[float] | np.ndarray) -> Measure:
    """Return the mean over y+ and y- of exp(mean log-prob under the plain prompt) of some rows (v2, figure 3).

    Both are such mean log-probs (N,), nats per token, N > 0.
    """
    # As arrays, eight bytes a value; math.exp and fmean, as NumPy's own differ from them in the last digits.
    chosen, rejected = (np.fromiter(map(math.exp, values), float, len(values)) for values in (positive, negative))
    both = (chosen + rejected) / 2
    return {
        "positive_response": fmean(chosen.data),
        "negative_response": fmean(rejected.data),
        "mean": fmean(both.data),
        "interval": bootstrap(both),
    }


def _implicit(changes: Sequence[tuple[float, float]], per_token: bool) -> Measure:
    """Accuracy and margin of the implicit reward: does the policy now prefer y+ more than its start did?"""
    margins = [chosen - rejected for chosen, rejected in changes]
    right = sum(margin > 0 for margin in margins)
    return {
        "accuracy": right / len(margins),
        "accuracy_interval": wilson(right, len(margins)),
        "margin": fmean(margins),
        "margin_interval": bootstrap(margins),
        "ties": sum(margin == 0 for margin in margins),
        "n": len(margins),
        "scale": SCALES[per_token],
    }


def _length(rows: Sequence[Contrast], role: str) -> Measure:
    values = [response_length(row, role) for row in rows]
    finishes = [getattr(row, f"{role}_finish") for row in rows]
    return {
        "mean_tokens": fmean(values),
        "median_tokens": median(values),
        "capped_share": finishes.count("length") / len(values),  # their lengths are lower bounds
        "values": values,
        "finishes": finishes,
    }


def verdict(before: Measure, after: Measure) -> list[dict[str, str]]:
    """Say in words and numbers what training changed, question by question."""
    program = (after["direction"] or {}).get("program")
    found = [
        ("Does the policy now prefer y+ to y- more than its start did?", _implicit_verdict(after)),
        ("Did its own data stay on-policy?", _onpolicy_verdict(before, after)),
        ("Do the answers still answer?", _answered_verdict(before, after)),
    ]
    if program in ("shorter", "longer"):
        found.insert(0, (f"Did held-out answers become {program}?", _length_verdict(before, after, program)))
    return [{"question": question, "answer": answer, "detail": detail} for question, (answer, detail) in found]


def _length_verdict(before: Measure, after: Measure, program: str) -> tuple[str, str]:
    """Compare each query's two answers; of two that were both cut off at the token limit neither is the shorter."""
    # Means can't decide: of a cut-off answer they count the tokens up to the limit, not its length.
    old, new = before["length"]["original"], after["length"]["original"]
    lengths, finishes = (zip(new[name], old[name], strict=True) for name in ("values", "finishes"))
    longer = [compare_lengths(*both) for both in zip(lengths, finishes, strict=True)]
    right, other = (1, "shorter") if program == "longer" else (-1, "longer")
    low, high = bootstrap([sign * right for sign in longer])
    detail = (
        f"{program} for {longer.count(right)} of {len(longer)} queries, {other} for {longer.count(-right)}; "
        f"{old['mean_tokens']:.0f} -> {new['mean_tokens']:.0f} tokens on average, "
        f"{old['capped_share']:.0%} -> {new['capped_share']:.0%} cut off at the token limit"
    )
    return _answer(low > 0, high < 0), detail


def _implicit_verdict(after: Measure) -> tuple[str, str]:
    figures = after["implicit"]
    if figures is None:
        return "unclear", "not measured: no held-out pair has scores"
    (low, high), n = figures["margin_interval"], figures["n"]
    detail = (
        f"implicit reward right in {figures['accuracy']:.0%} of {n} held-out pairs, margin {figures['margin']:+.3f} "
        f"nats {figures['scale']} (95 % interval {low:+.3f} to {high:+.3f})"
    )
    return _answer(low > 0, high < 0), detail


def _onpolicy_verdict(before: Measure, after: Measure) -> tuple[str, str]:
    """No if onpolicyness fell by more than a tenth of its value, counted at the far end of the after interval."""
    old, new = before["onpolicyness"], after["onpolicyness"]
    if old is None or new is None:
        return "unclear", "not measured: no held-out pair has scores"
    floor = 0.9 * old["mean"]  # training on any data moves it a little
    detail = f"onpolicyness {old['mean']:.3f} -> {new['mean']:.3f} (stays at {floor:.3f} or above)"
    return _answer(new["mean"] >= floor, new["interval"][1] < floor), detail


def _answered_verdict(before: Measure, after: Measure) -> tuple[str, str]:
    """Yes while the share falls by at most a tenth; no only where the interval excludes that."""
    old, new = before["answered"], after["answered"]
    floor = old["share"] - 0.1 - 1e-9  # 0.4 - 0.1 is more than 0.3 in floats
    detail = (
        f"{old['share']:.0%} -> {new['share']:.0%} of {new['n']} answers are not empty, don't loop and share a word "
        "with the question (a word test)"
    )
    return _answer(new["share"] >= floor, new["interval"][1] < floor), detail


def _answer(yes: bool, no: bool) -> str:
    return "yes" if yes else "no" if no else "unclear"
