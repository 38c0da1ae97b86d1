"""Decontamination: finding queries that share a run of words with a benchmark.

The rule is that of GPT-3's data (arXiv 2005.14165, appendix C): a text is contaminated if a benchmark has any ``ngram``
consecutive words of it. A text of fewer words is contaminated if a question has just these words.
"""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Iterable
from typing import TYPE_CHECKING

from selfsteer.queries.words import words_of

if TYPE_CHECKING:
    import numpy as np

_FACTOR = 0x9E3779B97F4A7C15  # odd, so that no word's share is lost modulo 2**64


@dataclasses.dataclass(frozen=True)
class Contamination:
    """What a text shares with a benchmark (a source): the row's place there, and the first run of words; of a short
    text, all.
    """

    benchmark: str
    row: str
    words: str


class Benchmarks:
    """Benchmarks by the runs of words in them, for looking up any number of texts.

    A run is stored as a 64-bit hash and takes 12 bytes of memory: some 12 MB for a million words of benchmarks. So
    memory depends on the benchmarks alone, and matching words are read off the query. A run has ``ngram`` words.
    """

    def __init__(self, ngram: int) -> None:
        self.ngram = ngram
        self._runs, self._rows = array("Q"), array("I")
        self._short: dict[tuple[str, ...], int] = {}
        self._places: list[tuple[str, str]] = []
        self._sorted: tuple[np.ndarray, np.ndarray] | None = None

    def add(self, benchmark: str, texts: Iterable[tuple[str, str]]) -> int:
        """Add the texts of a benchmark, each with its place; return how many there were."""
        count = 0
        for where, text in texts:
            count += 1
            words = words_of(text)
            if not words:
                continue
            self._places.append((benchmark, where))
            row = len(self._places) - 1
            if len(words) < self.ngram:  # compared as a whole
                self._short.setdefault(tuple(words), row)
            else:
                runs = _hashes(words, self.ngram)
                self._runs.frombytes(runs.tobytes())
                self._rows.extend([row] * len(runs))
        self._sorted = None
        return count

    def find(self, text: str) -> Contamination | None:
        """Return the first run of words that a text shares with the benchmarks, None where there is none."""
        words = words_of(text)
        if len(words) < self.ngram:
            row = self._short.get(tuple(words))
            return None if row is None else Contamination(*self._places[row], " ".join(words))
        import numpy as np

        if self._sorted is None:  # the runs, each once, and the first row that has each
            runs, first = np.unique(np.frombuffer(self._runs, dtype=np.uint64), return_index=True)
            self._sorted = runs, np.frombuffer(self._rows, dtype=np.uint32)[first]
        runs, rows = self._sorted
        if not len(runs):
            return None
        wanted = _hashes(words, self.ngram)
        places = np.minimum(np.searchsorted(runs, wanted), len(runs) - 1)
        hits = np.flatnonzero(runs[places] == wanted)
        if not len(hits):
            return None
        start, row = int(hits[0]), int(rows[places[hits[0]]])
        return Contamination(*self._places[row], " ".join(words[start : start + self.ngram]))


def _hashes(words: list[str], ngram: int) -> np.ndarray:
    """Return a hash of each run of ``ngram`` words, (len(words) - ngram + 1,), as unsigned 64-bit numbers.

    It is a polynomial of the words' own hashes modulo 2**64, so words in another order give another hash.
    """
    import numpy as np
    import xxhash

    hashes = np.fromiter((xxhash.xxh3_64_intdigest(word.encode()) for word in words), dtype=np.uint64, count=len(words))
    count = len(words) - ngram + 1
    runs = np.zeros(count, dtype=np.uint64)
    for offset in range(ngram):
        runs = runs * np.uint64(_FACTOR) + hashes[offset : offset + count]
    return runs
