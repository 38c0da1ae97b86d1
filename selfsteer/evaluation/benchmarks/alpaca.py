"""AlpacaEval 2 (Li et al. 2023; Dubois et al. 2024, arXiv 2404.04475): outputs to 805 instructions against GPT-4's.

The official figures are those of one order a comparison, drawn by the instruction. As many judges prefer a place, the
same figures over both orders are beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from selfsteer.confidence_intervals import bootstrap, resampled_statistic
from selfsteer.evaluation.benchmarks.alpaca_judge import Compared, ComparisonPrompt, Preference, preferences
from selfsteer.evaluation.benchmarks.judged import CONSTANT, half, language_judge, read_rows, spread
from selfsteer.evaluation.benchmarks.length_control import GamedRows, LengthControlled, read_gamed_rows, win_rate
from selfsteer.evaluation.benchmarks.model_benchmark import (
    BenchmarkScores,
    EvaluationContext,
    ItemScore,
    Metric,
    ModelAnswer,
    Question,
)
from selfsteer.evaluation.benchmarks.table import model_benchmarks

BASELINE, PROMPT, GAMED = "baseline", "prompt", "gamed"
"""Data files in the table of benchmarks."""
LC, WIN_RATE, DISCRETE = "length_controlled", "win_rate", "discrete_win_rate"
LC_BOTH, WIN_RATE_BOTH = "length_controlled_both_orders", "win_rate_both_orders"
RESAMPLES = 1000
"""Of an LC win rate: each is a regression of its own, of some 3 ms."""
ONE_SIDED = 0.8
"""Share of the first place from which on figures of one order say little of the outputs."""
RETIRED = "AlpacaEval 2's own judge (gpt-4-1106-preview) is retired: figures of another judge are on another scale."


class AlpacaEval:
    """AlpacaEval 2: the length-controlled win rate and the win rate against gpt4_1106_preview, in percent."""

    def evaluate(self, context: EvaluationContext) -> BenchmarkScores:
        """Return both win rates in the official order and over both orders.

        Raises:
            ConfigError: No judge.
            DataError: A data file has another form.
        """
        if context.pair_judge is None:
            language_judge(context, "AlpacaEval")
        facts = model_benchmarks()["alpaca_eval"]
        prompt, gamed = ComparisonPrompt(context.files[PROMPT]), read_gamed_rows(context.files[GAMED])
        rows = read_rows(context.files[BASELINE], ["instruction", "output", "dataset"])
        places = list(range(len(rows)) if context.sample is None else context.sample)
        asked = [
            Question([{"role": "user", "content": rows[place]["instruction"]}], facts.sampling) for place in places
        ]
        answers = context.answer(asked)
        compared = [
            Compared(rows[place]["instruction"], rows[place]["output"], answer.text.strip())
            for place, answer in zip(places, answers, strict=True)
        ]
        found = iter(
            preferences(
                [one for one, answer in zip(compared, answers, strict=True) if not answer.error], context, prompt
            )
        )
        judged = [Preference(None, None, False, answer.error) if answer.error else next(found) for answer in answers]
        metrics, details = figures(judged, compared, places, gamed)
        details["controls"] = controls(compared, context, prompt)
        return BenchmarkScores(
            items=_items(places, rows, judged, compared, answers, prompt),
            metrics=metrics,
            expected=len(places),
            versions={
                "protocol": "alpaca_eval 0.6.6, weighted_alpaca_eval_gpt4_turbo",
                "regression": "length_controlled_v1",
                "prompt": prompt.fingerprint,
                "regularisation rows": "reconstructed" if gamed.reconstructed else "official",
            },
            notes=_notes(details["first_place"], len(places), len(rows), gamed.reconstructed),
            details=details,
        )


def figures(
    judged: Sequence[Preference], compared: Sequence[Compared], places: Sequence[int], gamed: GamedRows
) -> tuple[dict[str, Metric], dict[str, Any]]:
    """Return the metrics, the official one first, and details of them; no metric of an order without a preference.

    ``places`` are the instructions' positions in the baseline's file.
    """
    lengths = [[len(one.baseline) for one in compared], [len(one.output) for one in compared]]
    metrics: dict[str, Metric] = {}
    strengths, resampled = {}, {}
    orders = {LC: [one.official for one in judged], LC_BOTH: [one.both for one in judged]}
    for (lc_name, values), rate_name in zip(orders.items(), (WIN_RATE, WIN_RATE_BOTH), strict=True):
        known = [value for value in values if value is not None]
        if not known:
            continue
        marked = [np.nan if value is None else value for value in values]
        fit = LengthControlled(marked, *lengths, gamed=gamed, rows=places)
        strengths[lc_name] = fit.strength
        draws = resampled_statistic(fit.on, len(places), RESAMPLES)
        resampled[lc_name] = [round(value, 4) for value in draws.tolist()]
        defined = draws[~np.isnan(draws)]
        low, high = np.percentile(defined, [2.5, 97.5])
        method = f"percentile bootstrap over {len(known)} instructions, a new regression each time"
        metrics[lc_name] = Metric(fit.value, (float(low), float(high)), float(defined.std(ddof=1)), method)
        shares = win_rate(known)
        error = shares.standard_error if len(known) > 1 else None
        interval = bootstrap(100 * (np.array(known) - 1))
        metrics[rate_name] = Metric(
            shares.win_rate, interval, error, f"percentile bootstrap over {len(known)} instructions"
        )
        if lc_name == LC:
            metrics[DISCRETE] = Metric(shares.discrete)
    firsts = [value for one in judged for value in one.firsts]
    baseline, model = (float(np.mean(own)) for own in lengths)
    details = {
        "first_place": sum(firsts) / len(firsts) if firsts else None,
        "penalty": strengths,
        "resampled": resampled,
        "mean_length": {"baseline": baseline, "model": model},
    }
    return metrics, details


def controls(
    compared: Sequence[Compared], context: EvaluationContext, prompt: ComparisonPrompt
) -> list[dict[str, Any]]:
    """Return how outputs fare that are known to be bad, equal, and cut in half.

    They depend on the judge and the instructions alone, so that they are judged once a judge: its answers are cached.
    """
    some = spread(compared)
    texts = {
        "constant answer": [CONSTANT] * len(some),
        "gpt4_1106_preview against itself": [one.baseline for one in some],
        "first half of gpt4_1106_preview": [half(one.baseline) for one in some],
    }
    rows = []
    for name, outputs in texts.items():
        own = [Compared(one.instruction, one.baseline, text) for one, text in zip(some, outputs, strict=True)]
        found = preferences(own, context, prompt, ask_equal=True)
        official, both = ([one for one in values if one is not None] for values in _orders(found))
        firsts = [value for one in found for value in one.firsts]
        rows.append(
            {
                "answers": name,
                "win_rate": win_rate(official).win_rate if official else None,
                "win_rate_both_orders": win_rate(both).win_rate if both else None,
                "first_place": sum(firsts) / len(firsts) if firsts else None,
                "judged": len(both),
                "n": len(own),
            }
        )
    return rows


def _orders(found: Sequence[Preference]) -> tuple[list[float | None], list[float | None]]:
    return [one.official for one in found], [one.both for one in found]


def _items(
    places: Sequence[int],
    rows: Sequence[Mapping[str, Any]],
    judged: Sequence[Preference],
    compared: Sequence[Compared],
    answers: Sequence[ModelAnswer],
    prompt: ComparisonPrompt,
) -> list[ItemScore]:
    """Return the items of the metrics that have scores of single items; length control has those of its win rate."""
    official, both = _orders(judged)
    marks = prompt.marks
    return [
        ItemScore(
            item=str(place),
            cluster=str(place),
            subset=rows[place]["dataset"],
            metric=metric,
            score=None if value is None else 100 * (value - 1),
            why="" if value is not None else own.why,
            length=len(one.output),
            finish=answer.finish,
            answer=answer.key,
            flags=marks.flags(one.output),
        )
        for metric, values in ((LC, official), (WIN_RATE, official), (LC_BOTH, both), (WIN_RATE_BOTH, both))
        for place, value, own, one, answer in zip(places, values, judged, compared, answers, strict=True)
    ]


def _notes(first: float | None, sampled: int, count: int, reconstructed: bool) -> list[str]:
    notes = [RETIRED]
    if sampled < count:
        notes.append(f"Length control is fitted to {sampled} of {count} instructions.")
    if reconstructed:
        notes.append("The regularisation rows of length control are reconstructed: it may be off by up to 0.15.")
    if first is not None and max(first, 1 - first) >= ONE_SIDED:
        place = "first" if first > 0.5 else "second"
        share = f"{100 * max(first, 1 - first):.0f} %"
        notes.append(f"The judge prefers the output shown {place} in {share} of its verdicts: see both orders.")
    return notes


ALPACA_EVAL = AlpacaEval()
