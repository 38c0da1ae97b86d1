"""A person as a judge: what is shown in which order, what is left, going back and skipping. No input or output here.

A reader sees two responses and never which is which: a :class:`Presentation` carries no label, id or subset. Every pair
is shown in both orders like to any judge, all pairs once before any comes again, and each answer is kept at once under
the same key that :func:`judge_pairs` uses, so a sitting can end anywhere and the next goes on there. How it looks is a
front-end's matter: ``human_terminal.ask_in_terminal`` and ``human_page.ask_on_page``.
"""

from __future__ import annotations

import unicodedata
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Literal

from selfsteer.errors import InputError
from selfsteer.judges.answer_cache import Answer, AnswerCache
from selfsteer.judges.base import Judgement, Pair, PresentedPair, answer_key
from selfsteer.records import Message
from selfsteer.sanitize import escape_controls

VOTES = {"1": 1, "2": -1, "=": 0}
SKIP, BACK = "s", "u"
KEYS = (*VOTES, SKIP, BACK)
"""What a reader can do with a presentation: say which is better, see it again later, or return to the one before."""


class HumanJudge:
    """A person. Answers are kept apart by name, so the same person should always give the same one.

    Args:
        name: Who reads; spaces around and between words don't matter, capitals do.

    Raises:
        InputError: The name is empty.
    """

    batch_size = 1

    def __init__(self, name: str) -> None:
        self.name = " ".join(unicodedata.normalize("NFC", name).split())
        if not self.name:
            raise InputError("a person who judges needs a name", do="give one: answers are kept under it")
        self.key = f"human {self.name}"

    def answer(self, shown: Sequence[PresentedPair]) -> list[Answer]:
        """Raise :class:`InputError`: :func:`judge_pairs` asks only for what :func:`collect` has not yet kept."""
        raise InputError(
            f"{self.name} has not judged all of these pairs in both orders",
            do="go on with the sitting; its command starts where it stopped",
        )

    def cost(self, shown: PresentedPair) -> int:
        """Return 1: a person has no batches."""
        return 1


@dataclass(frozen=True)
class Presentation:
    """What a reader sees: texts made safe to show, and nothing that tells the responses apart.

    Attributes:
        id: Names the presentation among those of a sitting; a hash.
        prompt: The conversation that both responses answer.
        criterion: What to judge by; "" is overall quality.
        responses: In the order of presentation.
        cut: Whether each response was cut off at a length limit.
        state: "skipped" or "answered" where the reader met it before in this sitting.
    """

    id: str
    prompt: list[Message]
    criterion: str
    responses: tuple[str, str]
    cut: tuple[bool, bool]
    state: Literal["new", "skipped", "answered"] = "new"


class AnnotationSession:
    """What a person has to judge, and the way through it.

    Args:
        judge: Who reads.
        pairs: What is shown; pairs of the same content are shown once.
        cache: Where answers are; those it holds are not asked again.
    """

    def __init__(self, judge: HumanJudge, pairs: Sequence[Pair], cache: AnswerCache) -> None:
        self.judge = judge
        self._pairs, self._cache = pairs, cache
        self._shown = plan(judge, pairs)
        self._left = deque(key for key in self._shown if key not in cache)
        self._past: list[str] = []  # what was answered or skipped in this sitting, oldest first
        self._skipped: set[str] = set()

    @property
    def total(self) -> int:
        """How many presentations there are: two a pair."""
        return len(self._shown)

    @property
    def done(self) -> int:
        """How many of them are behind the reader."""
        return self.total - len(self._left)

    @property
    def can_go_back(self) -> bool:
        """Whether there is something in this sitting to go back to."""
        return bool(self._past)

    @property
    def open(self) -> Presentation | None:
        """The presentation that waits for an answer, None where all are answered."""
        return self._present(self._left[0]) if self._left else None

    def act(self, key: str) -> None:
        """Do what one of :data:`KEYS` stands for; an answer is kept before this returns.

        Going back opens the presentation before again, whether it was answered or skipped. An answer that is gone back
        to stands until another takes its place. A skipped presentation comes again after all others. Where nothing is
        open, or there is nothing to go back to, nothing happens.

        Raises:
            StorageError: The answer could not be kept; the presentation stays open.
        """
        if key == BACK:
            self._go_back()
        elif self._left and key == SKIP:
            self._skip()
        elif self._left:
            self._answer(VOTES[key])

    def judgements(self) -> list[Judgement]:
        """Return the judgements of the pairs that are answered in both orders, in the order of the pairs."""
        found = []
        for pair in self._pairs:
            keys = [answer_key(self.judge, PresentedPair(pair, swapped)) for swapped in (False, True)]
            if all(key in self._cache for key in keys):
                found.append(Judgement(pair, *(self._cache[key] for key in keys)))
        return found

    def so_far(self) -> str:
        """Return one sentence on what is kept."""
        answered = sum(key in self._cache for key in self._shown)
        return (
            f"{answered} of {self.total} answered; {len(self.judgements())} of {len(self._pairs)} pairs are complete "
            f"(both orders). Everything is kept under the name {escape_controls(self.judge.name)}."
        )

    def _answer(self, vote: int) -> None:
        key = self._left[0]
        self._cache.add({key: Answer(vote)}, self.judge.name)
        self._past.append(self._left.popleft())

    def _skip(self) -> None:
        key = self._left.popleft()
        self._left.append(key)
        self._past.append(key)
        self._skipped.add(key)

    def _go_back(self) -> None:
        if not self._past:
            return
        key = self._past.pop()
        if key in self._left:  # it was skipped and waits at the end
            self._left.remove(key)
        self._left.appendleft(key)

    def _present(self, key: str) -> Presentation:
        shown = self._shown[key]
        first, second = shown.responses
        cut = (shown.pair.first_finish == "length", shown.pair.second_finish == "length")
        return Presentation(
            id=key,
            prompt=[{name: escape_controls(text) for name, text in message.items()} for message in shown.pair.prompt],
            criterion=escape_controls(shown.pair.criterion),
            responses=(escape_controls(first), escape_controls(second)),
            cut=cut[::-1] if shown.swapped else cut,
            state="answered" if key in self._cache else "skipped" if key in self._skipped else "new",
        )


Ask = Callable[[AnnotationSession], None]
"""A front-end: shows what is open, passes on what the reader does, returns when the reader stops or all is answered.

Ctrl-C passes through it, like through any other command: stopping is a key or a button of its own.
"""


def collect(judge: HumanJudge, pairs: Sequence[Pair], cache: AnswerCache, ask: Ask) -> list[Judgement]:
    """Let a person judge through a front-end and return the judgements of the pairs complete so far.

    The same call again goes on where the last one stopped; where all is answered it asks nothing.

    Args:
        judge: Who reads.
        pairs: What is shown, in both orders.
        cache: Keeps every answer as soon as it is given.
        ask: The front-end.

    Raises:
        KeyboardInterrupt: Ctrl-C while the person judges.
    """
    sitting = AnnotationSession(judge, pairs, cache)
    if sitting.open:
        ask(sitting)
    return sitting.judgements()


def plan(judge: HumanJudge, pairs: Sequence[Pair]) -> dict[str, PresentedPair]:
    """Return all presentations by their answer keys, in the order of showing: all pairs once, then all the other way.

    The keys are hashes of reader and content, and they draw both which response stands first in the first showing and
    the sequence. Both halves have one sequence: then the two showings of a pair are as far apart as there are pairs.
    """
    both = []
    for pair in pairs:
        two = [(answer_key(judge, shown), shown) for shown in (PresentedPair(pair, False), PresentedPair(pair, True))]
        both.append(sorted(two, key=itemgetter(0)))
    both.sort(key=lambda two: two[0][0])
    return dict([two[0] for two in both] + [two[1] for two in both])
