"""Arena-Hard (Li et al. 2024, arXiv 2406.11939; arena-hard-auto@196f6b8): pairwise games against a baseline's answers.

A judge sees the model's and the baseline's answer in both orders. The model's score is the share of games that it wins:
a tie is half, "much better" counts as three games.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from selfsteer import judges
from selfsteer.backends import Sampling
from selfsteer.confidence_intervals import resampled_statistic
from selfsteer.evaluation.benchmarks.judged import (
    CONSTANT,
    JudgeMarks,
    clustered_mean,
    fill,
    half,
    judge_pairs_of,
    language_judge,
    picked,
    read_rows,
    spread,
    verdict_of,
)
from selfsteer.evaluation.benchmarks.model_benchmark import (
    BenchmarkScores,
    EvaluationContext,
    ItemScore,
    Metric,
    ModelAnswer,
    Question,
)
from selfsteer.evaluation.benchmarks.style_control import fit_style, style_differences, style_of
from selfsteer.judges import Judgement, Pair
from selfsteer.judges.bracket_verdicts import VERSION, Comparison, read_comparison
from selfsteer.records import Message

QUESTIONS, BASELINE = "questions", "baseline"
"""Data files in the table of benchmarks."""
SCORE, CONTROLLED = "score", "style_controlled"
ANSWERING = Sampling(4096, temperature=0.0, top_p=1.0)
JUDGING = Sampling(4096, temperature=0.0, top_p=1.0)
"""v0.1's limit. v2.0 allows 16,000, which is more than many judges' context; what is cut off is counted as invalid."""
NO_BASELINE = "no answer of the baseline"
ONE_SIDED = 0.8
"""Share of decided games won by the answer shown first, above which a reader is warned."""

_SPOKEN = re.compile(r"\[\[[AB][<>=]{1,2}[AB]\]\]")
_PROMPTS = Path(judges.__file__).parent / "templates" / "arena_hard.yaml"


@dataclass(frozen=True)
class Duel:
    """Two answers to one question."""

    id: str
    prompt: str
    baseline: ModelAnswer
    model: ModelAnswer


@dataclass(frozen=True)
class Games:
    """The verdicts on a duel: the baseline's answer shown first, then the model's.

    A text in place of a verdict says why there is none.
    """

    baseline_first: Comparison | str
    model_first: Comparison | str

    @property
    def why(self) -> str:
        """Why the duel has no score, "" where it has: both games need a verdict."""
        return next((one for one in (self.baseline_first, self.model_first) if isinstance(one, str)), "")

    @property
    def games(self) -> int:
        """As how many games the verdicts count."""
        return sum(one.games for one in (self.baseline_first, self.model_first) if isinstance(one, Comparison))

    @property
    def wins(self) -> float:
        """How many of these the model wins, ties as half."""
        assert isinstance(self.baseline_first, Comparison) and isinstance(self.model_first, Comparison)
        lost, won = self.baseline_first, self.model_first
        return lost.games * (1 - lost.first) + won.games * won.first


class ArenaHard:
    """A version of Arena-Hard.

    Args:
        category: The questions of the file that belong to it.
        baseline: The model whose answers are the baseline.
        system: The system prompt of its judge.
        style_control: Whether the style-controlled score is the official one.
    """

    def __init__(self, category: str, baseline: str, *, system: str = "hard_prompt", style_control: bool) -> None:
        self._category, self._baseline, self._system, self._style_control = category, baseline, system, style_control

    def evaluate(self, context: EvaluationContext) -> BenchmarkScores:
        """Return the score and the style-controlled score, in percent.

        Raises:
            ConfigError: No judge.
            DataError: A data file lacks a field.
        """
        if context.pair_judge is None:
            language_judge(context, "Arena-Hard")
        rows = read_rows(context.files[QUESTIONS], ["uid", "category", "prompt"])
        rows = picked([row for row in rows if row["category"] == self._category], context.sample)
        baseline = _answers_of_baseline(context.files[BASELINE])
        asked = [[Message(role="user", content=row["prompt"])] for row in rows]
        answers = context.answer([Question(messages, ANSWERING) for messages in asked])
        nothing = ModelAnswer("", "", error=NO_BASELINE)
        duels = [
            Duel(row["uid"], row["prompt"], baseline.get(row["uid"], nothing), answer)
            for row, answer in zip(rows, answers, strict=True)
        ]
        judged = self._play(duels, context)
        subsets = [row.get("subcategory", "") for row in rows]
        metrics, style = _metrics(duels, judged)
        resampled = style.pop("resampled", None)
        order = [CONTROLLED, SCORE] if self._style_control else [SCORE, CONTROLLED]
        first = first_place(judged)
        return BenchmarkScores(
            items=_items(duels, judged, subsets),
            metrics={name: metrics[name] for name in order if name in metrics},
            expected=len(rows),
            versions={"protocol": f"arena-hard-auto@196f6b8, {self._category}", "verdict reader": VERSION},
            notes=list(_notes(first, style)),
            details={
                "baseline": self._baseline,
                "first_place": first,
                "style": style,
                "resampled": {CONTROLLED: resampled} if resampled else {},
                "controls": self._controls(duels, context),
            },
        )

    def _play(self, duels: Sequence[Duel], context: EvaluationContext) -> list[Games]:
        """Return the verdicts on each duel; one without both answers is not judged."""
        played = [duel for duel in duels if not (duel.model.error or duel.baseline.error)]
        judge = self._compare if context.pair_judge is not None else self._read
        found = iter(judge(played, context))
        return [Games(why, why) if (why := duel.model.error or duel.baseline.error) else next(found) for duel in duels]

    def _compare(self, duels: Sequence[Duel], context: EvaluationContext) -> list[Games]:
        pairs = [
            Pair(
                id=duel.id,
                prompt=[{"role": "user", "content": duel.prompt}],
                first=duel.baseline.text,
                second=duel.model.text,
                first_finish=duel.baseline.finish,
                second_finish=duel.model.finish,
            )
            for duel in duels
        ]
        return [_games_of(one) for one in judge_pairs_of(context, pairs)]

    def _read(self, duels: Sequence[Duel], context: EvaluationContext) -> list[Games]:
        prompts = []
        for duel in duels:
            for first, second in ((duel.baseline, duel.model), (duel.model, duel.baseline)):
                prompts.append(judge_prompt(self._system, duel.prompt, first.text, second.text))
        replies = language_judge(context, "Arena-Hard").replies(prompts, JUDGING)
        verdicts = iter([verdict_of(reply, read_comparison) for reply in replies])
        return [Games(first, second) for first, second in zip(verdicts, verdicts, strict=True)]

    def _controls(self, duels: Sequence[Duel], context: EvaluationContext) -> list[dict[str, Any]]:
        """Return how answers fare that are known to be bad, equal, and cut in half."""
        some = spread([duel for duel in duels if not duel.baseline.error])
        texts = {
            "constant answer": [CONSTANT] * len(some),
            f"{self._baseline} against itself": [duel.baseline.text for duel in some],
            f"first half of {self._baseline}": [half(duel.baseline.text) for duel in some],
        }
        rows = []
        for name, answers in texts.items():
            played = [
                Duel(duel.id, duel.prompt, duel.baseline, ModelAnswer("", text))
                for duel, text in zip(some, answers, strict=True)
            ]
            found = self._play(played, context)
            valid = [one for one in found if not one.why]
            score = 100 * sum(one.wins for one in valid) / sum(one.games for one in valid) if valid else None
            rows.append(
                {
                    "answers": name,
                    "score": score,
                    "first_place": first_place(found),
                    "judged": len(valid),
                    "n": len(found),
                }
            )
        return rows


def judge_prompt(system: str, question: str, first: str, second: str) -> list[Message]:
    """Return the prompt that shows two answers in this order."""
    values = {"QUESTION": question, "ANSWER_A": first, "ANSWER_B": second}
    prompts = _prompts()
    return [{"role": "system", "content": prompts[system]}, {"role": "user", "content": fill(prompts["user"], values)}]


def first_place(judged: Sequence[Games]) -> float | None:
    """Return the share of decided games that the answer shown first won; None where none was decided."""
    verdicts = [one for games in judged for one in (games.baseline_first, games.model_first)]
    decided = [one.first for one in verdicts if isinstance(one, Comparison) and one.first != 0.5]
    return sum(decided) / len(decided) if decided else None


def _metrics(duels: Sequence[Duel], judged: Sequence[Games]) -> tuple[dict[str, Metric], dict[str, Any]]:
    """Return score and style-controlled score, and details of the latter; nothing without a judged duel."""
    valid = [place for place, games in enumerate(judged) if not games.why]
    mean = clustered_mean(
        [100 * judged[place].wins / judged[place].games for place in valid],
        [judged[place].games for place in valid],
        [duels[place].id for place in valid],
    )
    if mean is None:
        return {}, {}
    wins, games = np.zeros(len(duels)), np.zeros(len(duels))
    wins[valid] = [judged[place].wins for place in valid]
    games[valid] = [judged[place].games for place in valid]
    differences = style_differences(
        [style_of(duel.model.text) for duel in duels], [style_of(duel.baseline.text) for duel in duels]
    )
    fit = fit_style(differences, wins, games)
    # Duels without a verdict are drawn too, so that the resamples are the same ones for every model.
    values = 100 * resampled_statistic(
        lambda picks: fit_style(differences[picks], wins[picks], games[picks]).win_rate, len(duels)
    )
    defined = values[~np.isnan(values)]
    low, high = np.percentile(defined, [2.5, 97.5])
    method = f"percentile bootstrap over {len(valid)} questions, a new regression each time"
    controlled = Metric(100 * fit.win_rate, (float(low), float(high)), float(defined.std(ddof=1)), method)
    details = {
        "coefficients": fit.coefficients,
        "score_at_own_mean": 100 * fit.centred,
        "determined": not fit.separated,
        "resampled": [round(value, 4) for value in values.tolist()],
    }
    return {SCORE: mean, CONTROLLED: controlled}, details


def _items(duels: Sequence[Duel], judged: Sequence[Games], subsets: Sequence[str]) -> list[ItemScore]:
    """Return the items of both metrics: both are made of the same games."""
    marks = JudgeMarks([_prompts()["user"]], _SPOKEN)
    return [
        ItemScore(
            item=duel.id,
            cluster=duel.id,
            subset=subset,
            metric=metric,
            score=None if games.why else 100 * games.wins / games.games,
            why=games.why,
            length=len(duel.model.text),
            finish=duel.model.finish,
            answer=duel.model.key,
            flags=marks.flags(duel.model.text),
            weight=games.games or 1,
        )
        for metric in (SCORE, CONTROLLED)
        for duel, games, subset in zip(duels, judged, subsets, strict=True)
    ]


def _notes(first: float | None, style: Mapping[str, Any]) -> list[str]:
    notes = ["The published scores are those of other judges: only scores by one judge can be compared."]
    if first is not None and first >= ONE_SIDED:
        notes.append(f"The judge chose the answer shown first in {100 * first:.0f} % of the decided games.")
    if style and not style["determined"]:
        notes.append("Style alone tells won from lost games, so the style-controlled score is not determined.")
    return notes


def _games_of(judgement: Judgement) -> Games:
    """Return the games of a judge that only compares: each of its votes is one game."""
    answers = judgement.forward, judgement.backward
    return Games(*(Comparison((1 + one.vote) / 2) if one.valid else f"judge: {one.why}" for one in answers))


def _answers_of_baseline(path: Path) -> dict[str, ModelAnswer]:
    rows = read_rows(path, ["uid", "messages"])
    return {row["uid"]: ModelAnswer("", row["messages"][-1]["content"]["answer"]) for row in rows}


@functools.cache
def _prompts() -> dict[str, str]:
    prompts: dict[str, str] = yaml.safe_load(_PROMPTS.read_text(encoding="utf-8"))
    return prompts


ARENA_HARD_V01 = ArenaHard("arena-hard-v0.1", "gpt-4-0314", style_control=False)
ARENA_HARD_V2 = ArenaHard("hard_prompt", "o3-mini-2025-01-31", style_control=True)
ARENA_HARD_V2_CREATIVE = ArenaHard(
    "creative_writing", "gemini-2.0-flash-001", system="creative_writing", style_control=False
)
