"""A person as a judge: the order of presentations, going back and skipping. No input or output here.

A person sees two responses and never which is which: a :class:`Presentation` has no label, id or subset. As for any
judge, every pair is shown in both orders, all pairs once before any comes again. Each answer is kept at once under the
key that :func:`judge_pairs` uses, so a session can end anywhere and the next one resumes there. The front-ends are
``human_terminal.ask_in_terminal`` and ``human_page.ask_on_page``.
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
from selfsteer.judges.base import Judgement, Pair, PresentedPair, presentations
from selfsteer.records import Message
from selfsteer.sanitize import escape_controls

VOTES = {"1": 1, "2": -1, "=": 0}
SKIP, BACK = "s", "u"
KEYS = (*VOTES, SKIP, BACK)
"""Actions on a presentation: answer it, see it again later, or return to the one before."""


class HumanJudge:
    """A person. Answers are kept by name, in which extra spaces don't matter and capitals do; it must not be empty."""

    batch_size = 1

    def __init__(self, name: str) -> None:
        self.name = " ".join(unicodedata.normalize("NFC", name).split())
        if not self.name:
            raise InputError("the judging person has no name", do="give one: answers are kept under it")
        self.key = f"human {self.name}"

    def answer(self, shown: Sequence[PresentedPair]) -> list[Answer]:
        """Raise :class:`InputError`: :func:`judge_pairs` asks only for answers that are not kept yet."""
        what = f"{self.name} has not judged all of these pairs in both orders"
        raise InputError(what, do="run the session's command again: it resumes where it stopped")


@dataclass(frozen=True)
class Presentation:
    """The view of a person: texts made safe to show, and nothing that gives away which response is which.

    Attributes:
        id: A hash, unique within the session.
        responses: In the order of presentation.
        cut: Whether each response was cut off at a length limit.
        state: "skipped" or "answered" where it was shown before in this session.
    """

    id: str
    prompt: list[Message]
    criterion: str
    responses: tuple[str, str]
    cut: tuple[bool, bool]
    state: Literal["new", "skipped", "answered"] = "new"


class AnnotationSession:
    """The presentations that a person has to judge, and the position among them.

    Pairs of the same content are shown once; answers that the cache holds are not asked again.
    """

    def __init__(self, judge: HumanJudge, pairs: Sequence[Pair], cache: AnswerCache) -> None:
        self.judge = judge
        self._pairs, self._cache = pairs, cache
        self._shown = plan(judge, pairs)
        self._left = deque(key for key in self._shown if key not in cache)
        self._past: list[str] = []  # answered or skipped in this session, oldest first
        self._skipped: set[str] = set()

    @property
    def total(self) -> int:
        """Number of presentations: two a pair."""
        return len(self._shown)

    @property
    def done(self) -> int:
        """Number of presentations that are answered."""
        return self.total - len(self._left)

    @property
    def can_go_back(self) -> bool:
        """Whether a presentation was answered or skipped in this session."""
        return bool(self._past)

    @property
    def open(self) -> Presentation | None:
        """The presentation that waits for an answer, None where all are answered."""
        if not self._left:
            return None
        key = self._left[0]
        shown = self._shown[key]
        first, second = map(escape_controls, shown.responses)
        return Presentation(
            id=key,
            prompt=[{name: escape_controls(text) for name, text in message.items()} for message in shown.pair.prompt],
            criterion=escape_controls(shown.pair.criterion),
            responses=(first, second),
            cut=(shown.finishes[0] == "length", shown.finishes[1] == "length"),
            state="answered" if key in self._cache else "skipped" if key in self._skipped else "new",
        )

    def act(self, key: str) -> None:
        """Carry out one of :data:`KEYS`; an answer is kept before this returns, or else its presentation stays open.

        Going back opens the previous presentation again; its answer stays until another replaces it. A skipped
        presentation comes again after all others. Without an open or a previous one nothing happens.
        """
        if key == BACK:
            if self._past:
                last = self._past.pop()
                if last in self._left:  # it was skipped and waits at the end
                    self._left.remove(last)
                self._left.appendleft(last)
        elif self._left:
            shown = self._left[0]
            if key == SKIP:
                self._left.append(shown)
                self._skipped.add(shown)
            else:
                self._cache.add({shown: Answer(VOTES[key])}, self.judge.name)
            self._left.popleft()
            self._past.append(shown)

    def judgements(self) -> list[Judgement]:
        """Return the judgements of the pairs that are answered in both orders, in the order of the pairs."""
        found = []
        for pair in self._pairs:
            keys = [key for key, _ in presentations(self.judge, pair)]
            if all(key in self._cache for key in keys):
                found.append(Judgement(pair, *(self._cache[key] for key in keys)))
        return found

    def so_far(self) -> str:
        """Return a sentence on the answers kept so far."""
        answered = sum(key in self._cache for key in self._shown)
        return (
            f"{answered} of {self.total} answered; {len(self.judgements())} of {len(self._pairs)} pairs are complete "
            f"(both orders). All answers are kept under the name {escape_controls(self.judge.name)}."
        )


Ask = Callable[[AnnotationSession], None]
"""A front-end: shows the open presentation and carries out keys until the person stops or all is answered.

It lets Ctrl-C pass like any other command: stopping is a key or a button of its own.
"""


def collect(judge: HumanJudge, pairs: Sequence[Pair], cache: AnswerCache, ask: Ask) -> list[Judgement]:
    """Let a person judge through a front-end and return the judgements of the pairs that are complete.

    The cache keeps every answer as soon as it is given, also before a :class:`KeyboardInterrupt`. The same call again
    resumes where the last one stopped; once all is answered it asks nothing.
    """
    session = AnnotationSession(judge, pairs, cache)
    if session.open:
        ask(session)
    return session.judgements()


def plan(judge: HumanJudge, pairs: Sequence[Pair]) -> dict[str, PresentedPair]:
    """Return all presentations by their answer keys, in order: all pairs once, then all with the responses swapped."""
    # The keys are hashes of person and content: they draw the order of responses and the sequence at random. Both
    # halves have one sequence, so that the two presentations of a pair are as far apart as there are pairs.
    both = [sorted(presentations(judge, pair), key=itemgetter(0)) for pair in pairs]
    both.sort(key=lambda two: two[0][0])
    return dict([two[0] for two in both] + [two[1] for two in both])
