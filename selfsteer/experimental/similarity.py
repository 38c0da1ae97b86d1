"""Merging proposals of the same aspect, and recognising existing aspects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from selfsteer.experimental.proposals import Proposal
from selfsteer.principles.principle_set import Aspect

if TYPE_CHECKING:
    from numpy import ndarray

THRESHOLD = 0.5
"""Least similarity of two aspects that count as the same. In the shipped sets the nearest two are Concision and Brevity
(0.45), the next reach 0.14; "Accuracy" and "Factual accuracy" have 0.80, "Engaging tone" and "Engagement" 0.70."""

_GRAMS = (2, 4)


@dataclass(frozen=True)
class Candidate:
    """A new aspect.

    Attributes:
        nearest: Name of the most similar aspect of the given set.
        similarity: To that aspect, from 0 to 1.
    """

    aspect: Aspect
    proposals: tuple[Proposal, ...]
    nearest: str
    similarity: float

    @property
    def answers(self) -> int:
        """Number of answers that propose it."""
        return len({proposal.prompt for proposal in self.proposals})

    @property
    def queries(self) -> tuple[str, ...]:
        """Ids of the queries that it matters for, each once."""
        return tuple(dict.fromkeys(name for proposal in self.proposals for name in proposal.queries))


def similarities(ones: Sequence[Aspect], others: Sequence[Aspect]) -> ndarray:
    """Return the similarity of the names and adjectives of aspects, (len(ones), len(others)), 0 to 1.

    It is the cosine of the counts of their character 2- to 4-grams, within words (Cavnar and Trenkle's n-grams in the
    vector space of Salton), and 1 for the same name. It finds "Completeness" in "Comprehensiveness", but it can't know
    that "Correctness" is "Accuracy". Meanings and principles are not compared: all of them share words.
    """
    import numpy as np
    from sklearn.feature_extraction.text import HashingVectorizer

    # Hashing needs no vocabulary, so the similarity of two aspects does not depend on the others.
    vectors = HashingVectorizer(analyzer="char_wb", ngram_range=_GRAMS, norm="l2", alternate_sign=False)
    rows, columns = (
        vectors.transform([f"{aspect.name} {aspect.positive} {aspect.negative}" for aspect in aspects])
        for aspects in (ones, others)
    )
    same = [[one.name.casefold() == other.name.casefold() for other in others] for one in ones]
    return np.where(same, 1.0, np.clip((rows @ columns.T).toarray(), 0.0, 1.0))


def merged(
    proposals: Sequence[Proposal], known: Sequence[Aspect], threshold: float = THRESHOLD
) -> tuple[list[Candidate], dict[str, int]]:
    """Group similar proposals.

    Each joins the most similar aspect, by its first proposal, if the similarity is at least ``threshold``; otherwise it
    is a new aspect. So no two aspects of the result have the same name.

    Args:
        known: The aspects of the given set, at least one.

    Returns:
        The new aspects, the most proposed first, then those for most queries; and by name of an aspect of the given
        set, the number of proposals similar to it.
    """
    firsts: list[Proposal] = []
    groups: list[list[Proposal]] = []
    existing: dict[str, int] = {}
    for proposal in proposals:
        places = [*known, *(first.aspect for first in firsts)]
        likeness = similarities([proposal.aspect], places)[0]
        best = int(likeness.argmax())
        if likeness[best] < threshold:
            firsts.append(proposal)
            groups.append([proposal])
        elif best < len(known):
            existing[known[best].name] = existing.get(known[best].name, 0) + 1
        else:
            groups[best - len(known)].append(proposal)
    candidates = []
    for group in groups:
        likeness = similarities([group[0].aspect], known)[0]
        best = int(likeness.argmax())
        candidates.append(Candidate(group[0].aspect, tuple(group), known[best].name, float(likeness[best])))
    return sorted(candidates, key=lambda one: (-one.answers, -len(one.queries))), existing
