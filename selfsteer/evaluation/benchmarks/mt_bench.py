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
    TextJudgeModel,
)
from selfsteer.judges.bracket_verdicts import RATING, VERSION, read_rating
from selfsteer.records import Message

QUESTIONS, PROMPTS, REFERENCES, RECORDED = "questions", "judge_prompts", "references", "recorded"
"""Data files in the table of benchmarks; the recorded answers of GPT-4 are only for control rows."""

WITH_REFERENCE = ("math", "reasoning", "coding")
_TEMPERATURES = {"writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1}
ANSWER_TOKENS = 1024
JUDGING = Sampling(2048, temperature=0.0, top_p=1.0)
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
    def judgeable(self) -> bool:
        """Whether the references that its judge needs are there."""
        return self.references is not None or not self.needs_references

    @property
    def sampling(self) -> Sampling:
        """How it is answered: by its category's temperature."""
        return Sampling(ANSWER_TOKENS, temperature=_TEMPERATURES.get(self.category, 0.0), top_p=1.0)


Asked = tuple[TwoTurns, Turns, int]
"""What a judge is asked about: a question, the answers to both turns, and the turn, 1 or 2."""


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

    References are those of GPT-4's file alone: 11 questions have a ``reference`` of their own where it has none, or the
    other way round.
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


def rate(judge: TextJudgeModel, prompts: JudgePrompts, asked: Sequence[Asked]) -> list[float | str]:
    """Return the rating of each turn, or why there is none."""
    shown = [prompts.messages("single", question, turn, {"answer": answers}) for question, answers, turn in asked]
    return [verdict_of(reply, read_rating) for reply in judge.replies(shown, JUDGING)]


class MTBench:
    """MT-Bench in its single-answer mode: the mean of all ratings, of both turns of all questions."""

    def evaluate(self, context: EvaluationContext) -> BenchmarkScores:
        """Return the ratings of both turns.

        Raises:
            ConfigError: No judge, or one that only compares two answers.
            DataError: A data file lacks a field.
        """
        judge = language_judge(context, "MT-Bench")
        prompts, questions = JudgePrompts(context.files[PROMPTS]), picked(read_questions(context.files), context.sample)
        answers = ask_two_turns(questions, context.answer)
        items = turn_items(
            questions, answers, lambda asked: rate(judge, prompts, asked), METRIC, prompts.marks("single", RATING)
        )
        return BenchmarkScores(
            items=items,
            metrics=means_of(items, METRIC),
            expected=2 * len(questions),
            versions={"protocol": "FastChat 0.2.36, single-answer mode", "rating reader": VERSION},
            notes=[RETIRED],
            details={
                "categories": means_by_category(items),
                "controls": _controls(questions, judge, prompts, context.files),
            },
        )


def means_of(items: Sequence[ItemScore], name: str) -> dict[str, Metric]:
    """Return the mean score over both turns under a name, and over each turn, with intervals over questions."""
    parts = {name: "", "turn_1": ":1", "turn_2": ":2"}
    scored = {
        part: [one for one in items if one.score is not None and one.item.endswith(end)] for part, end in parts.items()
    }
    return {
        part: metric
        for part, own in scored.items()
        if (metric := clustered_mean([one.score for one in own], [1.0] * len(own), [one.cluster for one in own]))  # type: ignore[misc]
    }


def turn_items(
    questions: Sequence[TwoTurns],
    answers: Sequence[tuple[ModelAnswer, ModelAnswer]],
    score: Callable[[Sequence[Asked]], Sequence[float | str]],
    metric: str,
    marks: JudgeMarks,
) -> list[ItemScore]:
    """Return an item for each turn; ``score`` judges the turns that were answered, and says why where it can't."""
    turns = [(question, both, turn) for question, both in zip(questions, answers, strict=True) for turn in (1, 2)]
    reasons = [both[turn - 1].error or ("" if question.judgeable else NO_REFERENCE) for question, both, turn in turns]
    asked: list[Asked] = [
        (question, (both[0].text.strip(), both[1].text.strip()), turn)
        for (question, both, turn), why in zip(turns, reasons, strict=True)
        if not why
    ]
    scores = iter(score(asked))
    found = [why or next(scores) for why in reasons]
    return [
        ItemScore(
            item=f"{question.id}:{turn}",
            cluster=question.id,
            subset=question.category,
            metric=metric,
            score=None if isinstance(one, str) else one,
            why=one if isinstance(one, str) else "",
            length=len(both[turn - 1].text),
            finish=both[turn - 1].finish,
            answer=both[turn - 1].key,
            flags=marks.flags(both[turn - 1].text),
        )
        for (question, both, turn), one in zip(turns, found, strict=True)
    ]


def means_by_category(items: Sequence[ItemScore]) -> dict[str, Any]:
    """Return mean and number of the scores by category."""
    found: dict[str, list[float]] = {}
    for one in items:
        if one.score is not None:
            found.setdefault(one.subset, []).append(one.score)
    return {name: {"mean": sum(scores) / len(scores), "n": len(scores)} for name, scores in found.items()}


def _controls(
    questions: Sequence[TwoTurns], judge: TextJudgeModel, prompts: JudgePrompts, files: Mapping[str, Path]
) -> list[dict[str, Any]]:
    """Return what the judge rates answers that are known to be bad, good, and cut in half."""
    some = spread([question for question in questions if question.judgeable], CONTROL_ITEMS // 2)
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
