"""How a judge compares a model's output with AlpacaEval's baseline: prompt, order, and preferences in [1, 2].

The prompt (alpaca_eval_clf.txt, CC BY-NC 4.0) is read from the data folder.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from selfsteer.errors import DataError
from selfsteer.evaluation.benchmarks.judged import JudgeMarks, fill, judge_pairs_of, language_judge
from selfsteer.evaluation.benchmarks.model_benchmark import EvaluationContext
from selfsteer.files import fingerprint, storage_errors
from selfsteer.judges import Answer, Pair
from selfsteer.records import Message

LABELS = ("m", "M")
NO_LABEL = "judge: neither m nor M is among the likeliest replies"
TIE = 1.5
_TURN = re.compile(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>", re.DOTALL)
_FIELDS = ("{instruction}", "{output_1}", "{output_2}")
_SPOKEN = re.compile(r"MODEL_IDENTIFIER|<\|IM_(START|END)\|>|## (BEST MODEL IDENTIFIER|MODEL OUTPUTS)")
"""What only the judge's prompt says, in capitals."""


@dataclass(frozen=True)
class Compared:
    """An instruction with the outputs of the baseline and of a model."""

    instruction: str
    baseline: str
    output: str


@dataclass(frozen=True)
class Preference:
    """A judge's preferences in the two orders, from 1, the baseline's output, to 2, the model's.

    Attributes:
        official: In the order that the benchmark shows; None where there is none.
        reverse: In the other order.
        swapped: Whether the official order shows the model's output first.
        why: Why one of the two is missing, the official one first; "" where both are there.
    """

    official: float | None
    reverse: float | None
    swapped: bool
    why: str = ""

    @property
    def both(self) -> float | None:
        """The mean over both orders, in which a preference for a place cancels; None where one of them is missing."""
        return None if self.official is None or self.reverse is None else (self.official + self.reverse) / 2

    @property
    def firsts(self) -> list[float]:
        """For each order with a winner, 1 where it was shown first, else 0."""
        orders = ((self.official, self.swapped), (self.reverse, not self.swapped))
        return [float((one > TIE) == model_first) for one, model_first in orders if one is not None and one != TIE]


class ComparisonPrompt:
    """The judge's prompt: messages in ChatML with fields for the instruction and both outputs.

    A file without these is a :class:`DataError`.
    """

    def __init__(self, path: Path) -> None:
        with storage_errors(path, "read"):
            text = path.read_text(encoding="utf-8")
        # The turns are read before they are filled in: what an output says stays inside its turn.
        self._turns = [(role, content.strip()) for role, content in _TURN.findall(text)]
        if any(text.count(field) != 1 for field in _FIELDS) or not self._turns:
            do = "get alpaca_eval_clf.txt again from where `selfsteer evaluate data` says"
            raise DataError(f"the judge's prompt does not have {', '.join(_FIELDS)} once each", where=str(path), do=do)
        self.fingerprint = fingerprint(self._turns)

    def messages(self, instruction: str, first: str, second: str) -> list[Message]:
        """Return the prompt that shows two outputs in this order, the first as "m"."""
        values = {"instruction": instruction, "output_1": first, "output_2": second}
        return [{"role": role, "content": fill(content, values)} for role, content in self._turns]

    @property
    def marks(self) -> JudgeMarks:
        """What gives away an output that speaks to the judge."""
        return JudgeMarks([content for _, content in self._turns], _SPOKEN)


def is_swapped(instruction: str) -> bool:
    """Return whether the official order shows the model's output first: alpaca_eval's draw by the instruction."""
    return random.Random(f"is_switched_outputs{instruction}0").choices([False, True])[0]


def preferences(
    compared: Sequence[Compared], context: EvaluationContext, prompt: ComparisonPrompt, *, ask_equal: bool = False
) -> list[Preference]:
    """Return the judge's preferences in both orders.

    A language model is asked for the probabilities of "m" and "M" as its reply: the preference is
    2 - p(m) / (p(m) + p(M)) in the numbering of the order shown, a label that is not listed has probability 0, and
    without both there is no preference. A judge that only compares gives 1, 1.5 or 2 by its vote.

    Args:
        ask_equal: Put equal outputs before the judge as well. The benchmark does not: their preference is 1.5.
    """
    asked = [one for one in compared if ask_equal or one.baseline != one.output]
    found = iter((_by_labels if context.pair_judge is None else _by_votes)(asked, context, prompt))
    tie = Preference(TIE, TIE, swapped=False)
    return [next(found) if ask_equal or one.baseline != one.output else tie for one in compared]


def _by_labels(asked: Sequence[Compared], context: EvaluationContext, prompt: ComparisonPrompt) -> list[Preference]:
    judge = language_judge(context, "AlpacaEval")
    shown = [
        prompt.messages(one.instruction, *((one.output, one.baseline) if model_first else (one.baseline, one.output)))
        for one in asked
        for model_first in (is_swapped(one.instruction), not is_swapped(one.instruction))
    ]
    read = iter([_of_labels(one) for one in judge.label_probabilities(shown, LABELS)])
    return [_preference(next(read), next(read), is_swapped(one.instruction)) for one in asked]


def _of_labels(found: Sequence[float | None] | str) -> float | str:
    """Return the preference in the order shown, or why there is none."""
    if isinstance(found, str):
        return f"judge: {found}"
    first, second = (share or 0.0 for share in found)
    return 2 - first / (first + second) if first + second else NO_LABEL


def _by_votes(asked: Sequence[Compared], context: EvaluationContext, prompt: ComparisonPrompt) -> list[Preference]:
    pairs = [
        Pair(str(place), [{"role": "user", "content": one.instruction}], one.baseline, one.output)
        for place, one in enumerate(asked)
    ]
    found = []
    for one, judgement in zip(asked, judge_pairs_of(context, pairs), strict=True):
        forward, backward = _of_vote(judgement.forward), _of_vote(judgement.backward)
        swapped = is_swapped(one.instruction)
        found.append(_preference(*((backward, forward) if swapped else (forward, backward)), swapped))
    return found


def _of_vote(answer: Answer) -> float | str:
    return TIE - answer.vote / 2 if answer.valid else f"judge: {answer.why}"


def _preference(official: float | str, reverse: float | str, swapped: bool) -> Preference:
    """Return the preference in the numbering of baseline and model, from those in the orders shown."""
    numbered = [
        None if isinstance(one, str) else 3 - one if model_first else one
        for one, model_first in ((official, swapped), (reverse, not swapped))
    ]
    why = next((one for one in (official, reverse) if isinstance(one, str)), "")
    return Preference(numbered[0], numbered[1], swapped, why)
