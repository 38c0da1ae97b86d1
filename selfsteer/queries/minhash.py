"""Near duplicates among any number of texts: MinHash signatures in an LSH index."""

from __future__ import annotations

import dataclasses
import functools
from array import array
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

import xxhash

from selfsteer.queries.words import words_of

if TYPE_CHECKING:
    from datasketch import MinHash

PERMUTATIONS = 128
"""Length of a signature: a similarity is estimated with a standard error of at most 0.044."""

_SHINGLE = 5  # characters
_SEED = 1
_SCHEME = "affine32"
_WEIGHTS = (0.2, 0.8)  # a candidate too many is thrown out by its signature, one that is missed stays missed


@dataclasses.dataclass(frozen=True)
class Near:
    """An earlier text that is nearly the same: its id, and the estimated similarity."""

    id: str
    similarity: float


class NearDuplicates:
    """Remembers texts and finds those that are nearly the same as a new one.

    Similarity is the Jaccard index of the sets of 5-character pieces of the texts' words (see
    :func:`selfsteer.queries.words.words_of`), estimated by MinHash. The index is in memory and grows by some kilobytes
    a text (docs/queries.md has the figure). The same texts in the same order give the same answers anywhere.

    ``threshold`` is the least similarity that counts as nearly the same, above 0, at most 1.
    """

    def __init__(self, threshold: float) -> None:
        from datasketch import MinHashLSH

        self.threshold = threshold
        self._index = MinHashLSH(threshold, PERMUTATIONS, weights=_WEIGHTS)
        self._ids: list[str] = []
        self._signatures = array("I")

    def add(self, name: str, text: str, apart: Collection[str] = ()) -> Near | None:
        """Return the text that ``text`` nearly repeats; where there is none, remember it under the id ``name``.

        ``apart`` are ids of texts that it may be near to.
        """
        signature = _signature(text)
        own = signature.hashvalues.tolist()
        similar = []
        for place in self._index.query(signature):  # candidates: the signatures decide
            if self._ids[place] not in apart:
                other = self._signatures[place * PERMUTATIONS : (place + 1) * PERMUTATIONS]
                similar.append((sum(a == b for a, b in zip(own, other, strict=True)) / PERMUTATIONS, -place))
        similarity, place = max(similar, default=(0.0, 0))  # the earliest of equally similar ones
        if similar and similarity >= self.threshold:
            return Near(self._ids[-place], similarity)
        self.remember(name, text, signature)
        return None

    def remember(self, name: str, text: str, signature: MinHash | None = None) -> None:
        """Remember a text whatever it repeats."""
        signature = signature or _signature(text)
        self._index.insert(len(self._ids), signature, check_duplication=False)
        self._ids.append(name)
        self._signatures.extend(signature.hashvalues.tolist())


@functools.cache
def _permutations(count: int) -> Any:
    from datasketch import MinHash

    return MinHash(count, _SEED, scheme=_SCHEME).permutations


def minhash(hashes: Iterable[int], permutations: int) -> MinHash:
    """Return the signature of a set: two sets agree in each of its places with the probability of their Jaccard index.

    ``hashes`` are the members of the set, each as a 32-bit hash.
    """
    from datasketch import MinHash

    signature = MinHash(permutations, _SEED, hashfunc=int, permutations=_permutations(permutations), scheme=_SCHEME)
    signature.update_batch(hashes)
    return signature


def _signature(text: str) -> MinHash:
    return minhash([xxhash.xxh32_intdigest(piece.encode()) for piece in pieces(text)], PERMUTATIONS)


def pieces(text: str) -> set[str]:
    """Return the 5-character pieces of a text's words, joined by blanks; a shorter text is one piece."""
    joined = " ".join(words_of(text)) or " ".join(text.split())
    return {joined[start : start + _SHINGLE] for start in range(max(1, len(joined) - _SHINGLE + 1))}
