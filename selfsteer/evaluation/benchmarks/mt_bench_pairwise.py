"""MT-Bench in its pairwise mode: each turn of the model's answers against a baseline's, shown in both orders.

The prompts and rules are FastChat's (0.2.36). A turn is won if both orders say so; orders that disagree are a tie. The
adjusted win rate counts a tie as half.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from selfsteer.evaluation.benchmarks.judged import language_judge, picked, verdict_of
from selfsteer.evaluation.benchmarks.model_benchmark import BenchmarkScores, EvaluationContext, TextJudgeModel
from selfsteer.evaluation.benchmarks.mt_bench import (
    JUDGING,
    PROMPTS,
    RETIRED,
    Asked,
    JudgePrompts,
    Turns,
    ask_two_turns,
    means_by_category,
    means_of,
    read_answers,
    read_questions,
    turn_items,
)
from selfsteer.judges.bracket_verdicts import VERSION, WINNER, read_winner

BASELINE = "baseline"
METRIC = "adjusted_win_rate"
NO_BASELINE = "no answer of the baseline"


class MTBenchPairwise:
    """MT-Bench's pairwise mode against GPT-3.5's recorded answers; the win rate is in percent."""

    def evaluate(self, context: EvaluationContext) -> BenchmarkScores:
        """Return the adjusted win rate over both turns of all questions.

        Raises:
            ConfigError: No judge, or one that only compares two answers: it sees one turn.
            DataError: A data file lacks a field.
        """
        judge = language_judge(context, "MT-Bench (pairwise)")
        prompts, questions = JudgePrompts(context.files[PROMPTS]), picked(read_questions(context.files), context.sample)
        baseline = read_answers(context.files[BASELINE])
        answers = ask_two_turns(questions, context.answer)
        items = turn_items(
            questions,
            answers,
            lambda asked: compare_turns(judge, prompts, asked, baseline),
            METRIC,
            prompts.marks("pair", WINNER),
        )
        return BenchmarkScores(
            items=items,
            metrics=means_of(items, METRIC),
            expected=2 * len(questions),
            versions={"protocol": "FastChat 0.2.36, pairwise mode", "verdict reader": VERSION},
            notes=[RETIRED],
            details={"baseline": "gpt-3.5-turbo", "categories": means_by_category(items)},
        )


def compare_turns(
    judge: TextJudgeModel, prompts: JudgePrompts, asked: Sequence[Asked], baseline: Mapping[str, Turns]
) -> list[float | str]:
    """Return 100 for each turn that the model wins, 50 for a tie, 0 for a lost one, or why there is no verdict."""
    shown = []
    for question, own, turn in asked:
        if question.id in baseline:
            for first, second in ((own, baseline[question.id]), (baseline[question.id], own)):
                shown.append(prompts.messages("pair", question, turn, {"answer_a": first, "answer_b": second}))
    replies = iter(judge.replies(shown, JUDGING))
    scores: list[float | str] = []
    for question, _, _ in asked:
        if question.id not in baseline:
            scores.append(NO_BASELINE)
            continue
        own_first, baseline_first = verdict_of(next(replies), read_winner), verdict_of(next(replies), read_winner)
        if isinstance(own_first, str) or isinstance(baseline_first, str):
            scores.append(own_first if isinstance(own_first, str) else str(baseline_first))
        else:
            agreed = own_first.first == 1 - baseline_first.first
            scores.append(100 * own_first.first if agreed else 50.0)
    return scores


MT_BENCH_PAIRWISE = MTBenchPairwise()
