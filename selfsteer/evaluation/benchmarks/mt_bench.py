"""MT-Bench (Zheng et al. 2023, arXiv 2306.05685; FastChat 0.2.36): 80 questions of two turns, answers rated 1 to 10.

The judge's prompts and reference answers are FastChat's (Apache-2.0) and are read from the data folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfsteer.backends import Sampling
from selfsteer.evaluation.benchmarks.judged import (
    CONSTANT,
    CONTROL_ITEMS,
    JudgeMarks,
    clustered_mean,
    fill,
    half,
    language_judge,
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
    TextJudgeModel,
)
from selfsteer.judges.bracket_verdicts import RATING, VERSION, read_rating
from selfsteer.records import Message

QUESTIONS, PROMPTS, REFERENCES, RECORDED = "questions", "judge_prompts", "references", "recorded"
"""Data files in the table of benchmarks; the recorded answers of GPT-4 are only for control rows."""

WITH_REFERENCE = ("math", "reasoning", "coding")
_TEMPERATURES = {"writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1}
ANSWER_TOKENS, JUDGE_TOKENS = 1024, 2048
METRIC = "rating"
NO_FIRST, NO_REFERENCE = "no answer to the first turn", "no reference answer"
RETIRED = "MT-Bench's own judge (gpt-4-0613) is retired: ratings of another judge are not on the published scale."

Turns = tuple[str, str]


@dataclass(frozen=True)
class TwoTurns:
    """A question of MT-Bench; ``references`` are GPT-4's answers, None where it has none."""

    id: str
    category: str
    turns: Turns
    references: Turns | None

    @property
    def needs_references(self) -> bool:
        """Whether the judge of its category sees reference answers."""
        return self.category in WITH_REFERENCE

    @property
    def sampling(self) -> Sampling:
        """How it is answered: by its category's temperature."""
        return Sampling(ANSWER_TOKENS, temperature=_TEMPERATURES.get(self.category, 0.0), top_p=1.0)


class JudgePrompts:
    """The prompts of judge_prompts.jsonl by name, e.g. "single-math-v1-multi-turn"."""

    def __init__(self, path: Path) -> None:
        rows = read_rows(path, ["name", "system_prompt", "prompt_template"])
        self._system = {row["name"]: row["system_prompt"] for row in rows}
        self.templates = {row["name"]: row["prompt_template"] for row in rows}

    def messages(self, kind: str, question: TwoTurns, turn: int, answers: Mapping[str, Turns]) -> list[Message]:
        """Return the prompt for one turn, 1 or 2.

        Args:
            kind: "single" or "pair": the first part of the prompt's name.
            answers: By their fields' names: {"answer": ...} or {"answer_a": ..., "answer_b": ...}.
        """
        version = "math-v1" if question.needs_references else "v2" if kind == "pair" else "v1"
        name = f"{kind}-{version}" + ("-multi-turn" if turn == 2 else "")
        values = {"question": question.turns[0], "question_1": question.turns[0], "question_2": question.turns[1]}
        for field, (first, second) in answers.items():
            values |= {field: first, f"{field}_1": first, f"{field}_2": second}
        if question.references is not None:
            values |= {"ref_answer_1": question.references[0], "ref_answer_2": question.references[1]}
        return [
            {"role": "system", "content": self._system[name]},
            {"role": "user", "content": fill(self.templates[name], values)},
        ]

    def marks(self, kind: str, verdict: Any) -> JudgeMarks:
        """Return what gives away an answer that speaks to the judge of this kind."""
        return JudgeMarks((text for name, text in self.templates.items() if name.startswith(kind)), verdict)


def read_questions(files: Mapping[str, Path]) -> list[TwoTurns]:
    """Return the questions in the order of their file.

    References are those of GPT-4's file alone: the questions' own ``reference`` field is another text in 11 of them.
    """
    references = read_answers(files[REFERENCES])
    questions = []
    for row in read_rows(files[QUESTIONS], ["question_id", "category", "turns"]):
        name = str(row["question_id"])
        first, second = row["turns"]
        questions.append(TwoTurns(name, row["category"], (first, second), references.get(name)))
    return questions


def read_answers(path: Path) -> dict[str, Turns]:
    """Return recorded answers by the id of their question."""
    rows = read_rows(path, ["question_id", "choices"])
    return {str(row["question_id"]): tuple(row["choices"][0]["turns"]) for row in rows}


def ask_two_turns(
    questions: Sequence[TwoTurns], answer: Callable[[Sequence[Question]], list[ModelAnswer]]
) -> list[tuple[ModelAnswer, ModelAnswer]]:
    """Return the model's answers to both turns; the second sees the model's own answer to the first."""
    opened: list[list[Message]] = [[{"role": "user", "content": question.turns[0]}] for question in questions]
    firsts = answer([Question(messages, one.sampling) for messages, one in zip(opened, questions, strict=True)])
    continued = [
        Question([*messages, *_exchange(first.text.strip(), one.turns[1])], one.sampling)
        for messages, first, one in zip(opened, firsts, questions, strict=True)
        if not first.error
    ]
    seconds = iter(answer(continued))
    return [(one, ModelAnswer("", "", error=NO_FIRST) if one.error else next(seconds)) for one in firsts]


def _exchange(answer: str, question: str) -> list[Message]:
    return [{"role": "assistant", "content": answer}, {"role": "user", "content": question}]


def rate(
    judge: TextJudgeModel, prompts: JudgePrompts, asked: Sequence[tuple[TwoTurns, Turns, int]]
) -> list[float | str]:
    """Return the rating of each (question, both answers, turn), or why there is none."""
    judged = [one for one in asked if one[0].references or not one[0].needs_references]
    shown = [prompts.messages("single", question, turn, {"answer": answers}) for question, answers, turn in judged]
    replies = iter(judge.replies(shown, Sampling(JUDGE_TOKENS, temperature=0.0, top_p=1.0)))
    return [
        verdict_of(next(replies), read_rating) if question.references or not question.needs_references else NO_REFERENCE
        for question, _, _ in asked
    ]


class MTBench:
    """MT-Bench in its single-answer mode: the mean of all ratings, of both turns of all questions."""

    def evaluate(self, context: EvaluationContext) -> BenchmarkScores:
        """Return the ratings of both turns.

        Raises:
            ConfigError: No judge, or one that only compares two answers.
            DataError: A data file lacks a field.
        """
        judge = language_judge(context, "MT-Bench")
        prompts, questions = JudgePrompts(context.files[PROMPTS]), read_questions(context.files)
        if context.sample is not None:
            questions = [questions[place] for place in context.sample]
        items = _items(questions, ask_two_turns(questions, context.answer), judge, prompts)
        rated = [item for item in items if item.score is not None]
        metrics = {METRIC: rating_of(rated)}
        metrics |= {
            f"turn_{turn}": rating_of([one for one in rated if one.item.endswith(f":{turn}")]) for turn in (1, 2)
        }
        return BenchmarkScores(
            items=items,
            metrics={name: metric for name, metric in metrics.items() if metric is not None},
            expected=2 * len(questions),
            versions={"protocol": "FastChat 0.2.36, single-answer mode", "rating reader": VERSION},
            notes=[RETIRED],
            details={
                "categories": _categories(rated),
                "controls": _controls(questions, judge, prompts, context.files),
            },
        )


def rating_of(rated: Sequence[ItemScore]) -> Metric | None:
    """Return the mean rating, with an interval over questions; None without a rating."""
    scores = [one.score for one in rated if one.score is not None]
    return clustered_mean(scores, [1.0] * len(scores), [one.cluster for one in rated])


def _items(
    questions: Sequence[TwoTurns],
    answers: Sequence[tuple[ModelAnswer, ModelAnswer]],
    judge: TextJudgeModel,
    prompts: JudgePrompts,
) -> list[ItemScore]:
    asked = []
    for question, both in zip(questions, answers, strict=True):
        texts = both[0].text.strip(), both[1].text.strip()
        asked += [(question, texts, turn) for turn in (1, 2) if not both[turn - 1].error]
    ratings = iter(rate(judge, prompts, asked))
    marks = prompts.marks("single", RATING)
    items = []
    for question, both in zip(questions, answers, strict=True):
        for turn, answer in enumerate(both, 1):
            rating = answer.error or next(ratings)
            items.append(
                ItemScore(
                    item=f"{question.id}:{turn}",
                    cluster=question.id,
                    subset=question.category,
                    metric=METRIC,
                    score=None if isinstance(rating, str) else rating,
                    why=rating if isinstance(rating, str) else "",
                    length=len(answer.text),
                    finish=answer.finish,
                    answer=answer.key,
                    flags=marks.flags(answer.text),
                )
            )
    return items


def _categories(rated: Sequence[ItemScore]) -> dict[str, Any]:
    """Return mean rating and number of ratings by category."""
    found: dict[str, list[float]] = {}
    for one in rated:
        found.setdefault(one.subset, []).append(one.score or 0.0)
    return {name: {"rating": sum(scores) / len(scores), "n": len(scores)} for name, scores in found.items()}


def _controls(
    questions: Sequence[TwoTurns], judge: TextJudgeModel, prompts: JudgePrompts, files: Mapping[str, Path]
) -> list[dict[str, Any]]:
    """Return what the judge rates answers that are known to be bad, good, and cut in half."""
    some = spread(questions, CONTROL_ITEMS // 2)
    recorded = read_answers(files[RECORDED]) if RECORDED in files else {}
    rows = {"constant answer": {question.id: (CONSTANT, CONSTANT) for question in some}}
    if recorded:
        rows["gpt-4, recorded"] = recorded
        rows["gpt-4, recorded, first half"] = {name: (half(one), half(two)) for name, (one, two) in recorded.items()}
    controls = []
    for name, answers in rows.items():
        asked = [(question, answers[question.id], turn) for question in some for turn in (1, 2)]
        ratings = [one for one in rate(judge, prompts, asked) if not isinstance(one, str)]
        mean = sum(ratings) / len(ratings) if ratings else None
        controls.append({"answers": name, "rating": mean, "rated": len(ratings), "n": len(asked)})
    return controls


MT_BENCH = MTBench()
