"""How far a judge agrees with recorded GPT-4 preferences and with people, asked as AlpacaEval asks it.

The official judges of AlpacaEval 2, MT-Bench and Arena-Hard v0.1 are retired, so a judge's figures can't be put on the
published scales. What can be known of it is its agreement with what those judges said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from selfsteer.confidence_intervals import Interval, share_text, value_text, wilson
from selfsteer.evaluation.benchmarks.alpaca import BASELINE, GAMED, PROMPT, figures
from selfsteer.evaluation.benchmarks.alpaca_judge import TIE, Compared, ComparisonPrompt, Preference, preferences
from selfsteer.evaluation.benchmarks.judged import read_rows, spread
from selfsteer.evaluation.benchmarks.length_control import read_gamed_rows
from selfsteer.evaluation.benchmarks.model_benchmark import EvaluationContext
from selfsteer.evaluation.calibration import calibrate
from selfsteer.judges import Pair

RECORDED = "calibration"
"""The data file of recorded preferences, in AlpacaEval's part of the table of benchmarks."""
PUBLISHED = {
    "outputs_llama_3": ("Meta-Llama-3-8B-Instruct", 22.6, 22.9),
    "outputs_llama_3.1": ("Meta-Llama-3.1-8B-Instruct-Turbo", 21.8, 20.9),
    "outputs_infinity_qwen2": ("Infinity-Instruct-3M-0625-Qwen2-7B", 15.3, 21.9),
    RECORDED: ("FuseChat-Llama-3.1-8B-Instruct", 63.3, 65.4),
}
"""By data file: a model, its published win rate and its published length-controlled win rate, in percent."""


@dataclass(frozen=True)
class Agreement:
    """A judge's preferences against recorded ones, over N rows with both.

    Attributes:
        accuracy: Share of the rows with a recorded winner in which the judge prefers it; a tie of the judge is wrong.
        interval: Wilson's.
        auc: The chance that the judge's preference is higher where the recorded winner is the model than where it is
            the baseline; None where one of the two is missing.
        auc_interval: Percentile bootstrap over rows.
        spearman: Rank correlation of the preferences, None where one of them is always the same.
        length_slope: By how many percentage points the model's share rises with one standard deviation of the
            difference in length; None where the lengths do not differ.
    """

    n: int
    accuracy: float | None
    interval: Interval | None
    auc: float | None
    auc_interval: Interval | None
    spearman: float | None
    length_slope: float | None


@dataclass(frozen=True)
class Calibration:
    """A judge on the recorded preferences.

    Attributes:
        expected: Rows put before it.
        official, both: In the official order, over both orders; None without a preference.
        first_place: Share of the decided presentations that the output shown first won.
        recorded_slope: ``length_slope`` of the recorded preferences on the same rows.
        invalid: Rows without a preference over both orders, by the reason.
    """

    judge: str
    expected: int
    official: Agreement | None
    both: Agreement | None
    first_place: float | None
    recorded_slope: float | None
    invalid: Mapping[str, int] = field(default_factory=dict)

    def line(self) -> str:
        """Return it in one line, to be read beside every figure of the judge."""
        own = self.both
        if own is None:
            return f"{self.judge}: no preference on {self.expected} recorded comparisons"
        parts = [f"sign {share_text(own.accuracy, own.interval)}", f"AUC {value_text(own.auc, own.auc_interval)}"]
        if own.spearman is not None:
            parts.append(f"Spearman {own.spearman:.2f}")
        if self.first_place is not None:
            parts.append(f"first place {100 * self.first_place:.0f} %")
        if own.length_slope is not None and self.recorded_slope is not None:
            parts.append(
                f"length {own.length_slope:+.1f} points a standard deviation (GPT-4: {self.recorded_slope:+.1f})"
            )
        of = f"{own.n}" if own.n == self.expected else f"{own.n} of {self.expected}"
        return f"{self.judge} on {of} recorded preferences of GPT-4 turbo, both orders: {', '.join(parts)}"

    def as_json(self) -> dict[str, Any]:
        """Return all figures, and the line."""
        return {"line": self.line(), **asdict(self)}


def calibrate_judge(
    context: EvaluationContext, limit: int | None = None
) -> tuple[Calibration, list[Compared], list[Preference]]:
    """Put recorded comparisons before the context's judge, in both orders; return its calibration and preferences.

    ``context.files`` must have :data:`RECORDED` and AlpacaEval's prompt. ``limit`` takes so many rows, evenly spread.
    """
    rows = _some(read_rows(context.files[RECORDED], ["instruction", "output_1", "output_2", "preference"]), limit)
    compared = [Compared(row["instruction"], row["output_1"], row["output_2"]) for row in rows]
    found = preferences(compared, context, ComparisonPrompt(context.files[PROMPT]))
    recorded = [row["preference"] or TIE for row in rows]  # a tie may be written as 0
    differences = [len(one.output) - len(one.baseline) for one in compared]
    judge = context.judge or context.pair_judge
    return (
        Calibration(
            judge=judge.name if judge else "",
            expected=len(rows),
            official=agreement([one.official for one in found], recorded, differences),
            both=agreement([one.both for one in found], recorded, differences),
            first_place=first_place(found),
            recorded_slope=_slope(differences, recorded),
            invalid=dict(Counter(one.why for one in found if one.why)),
        ),
        compared,
        found,
    )


def agreement(
    judged: Sequence[float | None], recorded: Sequence[float], differences: Sequence[int]
) -> Agreement | None:
    """Return how far preferences in [1, 2] agree with recorded ones; None without any.

    ``differences`` are the model's characters less the baseline's.
    """
    known = [place for place, one in enumerate(judged) if one is not None]
    if not known:
        return None
    own = np.array([judged[place] for place in known], dtype=float)
    truth = np.array([recorded[place] for place in known])
    decided = truth != TIE
    right, n = int((np.sign(own - TIE) == np.sign(truth - TIE))[decided].sum()), int(decided.sum())
    ranked = calibrate(own - TIE, truth > TIE)
    return Agreement(
        n=len(known),
        accuracy=right / n if n else None,
        interval=wilson(right, n) if n else None,
        auc=ranked["auc"],
        auc_interval=ranked["auc_interval"],
        spearman=_spearman(own, truth),
        length_slope=_slope([differences[place] for place in known], own),
    )


def first_place(found: Iterable[Preference]) -> float | None:
    """Return the share of decided presentations that the output shown first won, None where none is decided."""
    firsts = [value for one in found for value in one.firsts]
    return sum(firsts) / len(firsts) if firsts else None


def against_people(pairs: Sequence[Pair], context: EvaluationContext, limit: int | None = None) -> list[dict[str, Any]]:
    """Return, by subset, how often the judge prefers the response that people prefer; a tie is not right.

    Pairs without a winner by their label are left out. ``limit`` takes so many pairs of each subset, evenly spread.
    """
    subsets: dict[str, list[Pair]] = {}
    for pair in pairs:
        if pair.label:
            subsets.setdefault(pair.subset, []).append(pair)
    subsets = {name: _some(own, limit) for name, own in subsets.items()}
    taken = [pair for own in subsets.values() for pair in own]
    compared = [Compared(pair.prompt[-1]["content"], pair.first, pair.second) for pair in taken]
    found = iter(preferences(compared, context, ComparisonPrompt(context.files[PROMPT])))
    rows = []
    for name, own in subsets.items():
        judged = [next(found) for _ in own]
        row: dict[str, Any] = {"subset": name, "n": len(own), "first_place": first_place(judged)}
        for order, values in (("official", [one.official for one in judged]), ("both", [one.both for one in judged])):
            known = [(pair.label, value) for pair, value in zip(own, values, strict=True) if value is not None]
            right = sum((value < TIE) if label == 1 else (value > TIE) for label, value in known)
            share, interval = (right / len(known), wilson(right, len(known))) if known else (None, None)
            row[order] = {"judged": len(known), "accuracy": share, "interval": interval}
        rows.append(row)
    return rows


def beside_published(
    context: EvaluationContext, limit: int | None, recorded: tuple[Sequence[Compared], Sequence[Preference]]
) -> list[dict[str, Any]]:
    """Return the judge's win rates of the models whose outputs are here, beside the published ones.

    ``recorded`` are comparisons and preferences of :func:`calibrate_judge` with the same ``limit``.
    """
    baseline = read_rows(context.files[BASELINE], ["instruction", "output"])
    places = {row["instruction"]: place for place, row in enumerate(baseline)}
    some = _some(baseline, limit)
    gamed, prompt = read_gamed_rows(context.files[GAMED]), ComparisonPrompt(context.files[PROMPT])
    rows = []
    for file, (model, win_rate, controlled) in PUBLISHED.items():
        if file not in context.files:
            continue
        compared, found = recorded
        if file != RECORDED:
            outputs = {
                row["instruction"]: row["output"] for row in read_rows(context.files[file], ["instruction", "output"])
            }
            shared = [row for row in some if row["instruction"] in outputs]
            compared = [Compared(row["instruction"], row["output"], outputs[row["instruction"]]) for row in shared]
            found = preferences(compared, context, prompt)
        known = [(own, one) for own, one in zip(compared, found, strict=True) if own.instruction in places]
        metrics, _ = figures(
            [one for _, one in known], [own for own, _ in known], [places[own.instruction] for own, _ in known], gamed
        )
        values = {
            name: {"value": one.value, "interval": one.interval, "error": one.error} for name, one in metrics.items()
        }
        published = {"win_rate": win_rate, "length_controlled": controlled}
        rows.append({"model": model, "n": len(known), "published": published, "judge": values})
    return rows


def _some(rows: Sequence[Any], limit: int | None) -> list[Any]:
    return spread(rows, limit or len(rows))


def _spearman(one: np.ndarray, other: np.ndarray) -> float | None:
    from scipy.stats import spearmanr

    return float(spearmanr(one, other).statistic) if np.ptp(one) and np.ptp(other) else None


def _slope(differences: Sequence[int], judged: Sequence[float] | np.ndarray) -> float | None:
    """Return percentage points of the model's share for one standard deviation of the difference in length."""
    lengths = np.asarray(differences, dtype=float)
    if len(lengths) < 2 or not np.ptp(lengths):
        return None
    return float(np.polyfit(lengths / lengths.std(ddof=1), 100 * (np.asarray(judged) - 1), 1)[0])
