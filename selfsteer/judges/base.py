"""The interface of a pairwise judge, and the verdicts from its answers: both orders always, two verdicts.

A judge sees two responses, one shown first. Small judges answer "the first" whatever the responses are, so every pair
is shown in both orders and gets two verdicts: strict, where the same response won in both, and debiased, the sign of
the judge's log-odds averaged over the orders, in which a constant preference for the first place cancels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from selfsteer.backends import Failure
from selfsteer.files import fingerprint
from selfsteer.judges.answer_cache import Answer, AnswerCache
from selfsteer.records import Finish, Message

Outcome = Literal["consistent", "inconsistent", "tie", "invalid"]


@dataclass(frozen=True)
class Pair:
    """Two responses to one prompt.

    Attributes:
        id: Names the pair within its set.
        prompt: The conversation that both answer.
        first, second: The responses, as numbered in the data; a judge also sees them the other way round.
        label: Which one people (or a program) prefer: 1 the first, -1 the second, 0 neither; None is unknown.
        subset: The part of a set that has figures of its own.
        criterion: The criterion to judge by, one sentence; "" is overall quality.
        first_finish, second_finish: "length" where a response was cut off.
        group: The row that it comes from, where that gives several pairs: "set/id of the row".
    """

    id: str
    prompt: list[Message]
    first: str
    second: str
    label: int | None = None
    subset: str = ""
    criterion: str = ""
    first_finish: Finish = "stop"
    second_finish: Finish = "stop"
    group: str = ""

    @property
    def content(self) -> str:
        """A hash of prompt, criterion, responses and label, the same whichever response is numbered first."""
        sides = sorted([(self.first, self.label), (self.second, self.label and -self.label)], key=lambda side: side[0])
        return fingerprint([self.prompt, self.criterion, sides])


@dataclass(frozen=True)
class PresentedPair:
    """A pair in one of its two orders."""

    pair: Pair
    swapped: bool

    @property
    def responses(self) -> tuple[str, str]:
        """The two responses in the order of presentation."""
        return (self.pair.second, self.pair.first) if self.swapped else (self.pair.first, self.pair.second)

    @property
    def finishes(self) -> tuple[Finish, Finish]:
        """Their finish reasons."""
        own = self.pair.first_finish, self.pair.second_finish
        return own[::-1] if self.swapped else own

    @property
    def characters(self) -> int:
        """The length of the prompt and both responses."""
        return sum(map(len, self.responses)) + sum(len(message["content"]) for message in self.pair.prompt)


class Judge(Protocol):
    """Compares two responses to one prompt.

    Attributes:
        name: For tables, e.g. "qwen2.5-coder-1.5b (log-probs)".
        key: Identifies everything that its answers depend on besides the presentation: weights, template, mode. Answers
            are cached under it.
        batch_size: Presentations in one call of :meth:`answer`.
    """

    name: str
    key: str
    batch_size: int

    def answer(self, shown: Sequence[PresentedPair]) -> Sequence[Answer | Failure]:
        """Return one answer a presentation, in order, or the failure of a request that got none."""
        ...


@dataclass(frozen=True)
class Judgement:
    """Both answers on one pair; verdicts are in the pair's own numbering: 1 the first, -1 the second, 0 neither."""

    pair: Pair
    forward: Answer
    backward: Answer

    @property
    def votes(self) -> tuple[int, int]:
        """The votes of the two answers, in the pair's numbering."""
        return self.forward.vote, -self.backward.vote

    @property
    def strict(self) -> int:
        """The winner in both orders, 0 where there is none."""
        forward, backward = self.votes
        return forward if forward == backward else 0

    @property
    def log_odds(self) -> float | None:
        """Log-odds for the first response, averaged over the orders, nats; None where the judge gives words only."""
        forward, backward = self.forward.log_odds, self.backward.log_odds
        return None if forward is None or backward is None else (forward - backward) / 2

    @property
    def debiased(self) -> int:
        """The sign of the averaged log-odds, or else of the sum of the two votes; 0 if an answer is invalid."""
        if self.outcome == "invalid":  # in one order alone a preference for a place does not cancel
            return 0
        total = sum(self.votes) if self.log_odds is None else self.log_odds
        return (total > 0) - (total < 0)

    @property
    def outcome(self) -> Outcome:
        """Whether the two answers agree."""
        if not (self.forward.valid and self.backward.valid):
            return "invalid"
        if 0 in self.votes:
            return "tie"
        return "consistent" if self.strict else "inconsistent"


def judge_pairs(
    judge: Judge,
    pairs: Sequence[Pair],
    cache: AnswerCache | None = None,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Judgement]:
    """Show every pair to a judge in both orders and return the judgements in the order of ``pairs``.

    Args:
        pairs: Pairs of the same content are shown once.
        cache: Cached answers are not asked again, and each batch is cached at once. A judge without a key is always
            asked.
        progress: Is called with (presentations answered, all presentations).

    Raises:
        SelfsteerError: As the judge raises it; or the first failure in a batch, the answers of which are kept.
    """
    cache = cache if cache is not None and judge.key else AnswerCache(None)  # no key: unknown weights
    keyed = [presentations(judge, pair) for pair in pairs]
    asked = {key: shown for both in keyed for key, shown in both}
    wanted = [(key, shown) for key, shown in asked.items() if key not in cache]
    # By size, so that a batch has little padding; the largest first, as one that does not fit in memory fails at once.
    wanted.sort(key=lambda item: item[1].characters, reverse=True)
    done = len(asked) - len(wanted)
    progress(done, len(asked))
    for start in range(0, len(wanted), judge.batch_size):
        batch = wanted[start : start + judge.batch_size]
        answers = judge.answer([shown for _, shown in batch])
        cache.add(
            {key: one for (key, _), one in zip(batch, answers, strict=True) if isinstance(one, Answer)}, judge.name
        )
        for one in answers:  # only now: the answers beside a failure are paid for
            if isinstance(one, Failure):
                raise one.error
        done += len(batch)
        progress(done, len(asked))
    return [Judgement(pair, *(cache[key] for key, _ in both)) for pair, both in zip(pairs, keyed, strict=True)]


def answer_key(judge: Judge, shown: PresentedPair) -> str:
    """Return the key of a cached answer: the judge and the content shown, not the pair's id or label."""
    return fingerprint([judge.key, [shown.pair.prompt, shown.responses, shown.pair.criterion, shown.finishes]])


def presentations(judge: Judge, pair: Pair) -> list[tuple[str, PresentedPair]]:
    """Return a pair in both orders, each with the key of its answer."""
    return [(answer_key(judge, shown), shown) for shown in (PresentedPair(pair, False), PresentedPair(pair, True))]
