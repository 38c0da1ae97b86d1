"""Which queries of a set are kept: length, language, benchmarks and near duplicates, each drop with its reason."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Collection, Iterator, Sequence

from selfsteer.config import MAX_LEFT_OUT, BenchmarkSettings, CheckSettings
from selfsteer.errors import ConfigError, DataError, SelfsteerWarning, did_you_mean
from selfsteer.language_id import known_languages, language
from selfsteer.queries.decontamination import Benchmarks
from selfsteer.queries.load import check_dataset_split, source_rows
from selfsteer.queries.messages import Unusable
from selfsteer.queries.minhash import NearDuplicates
from selfsteer.queries.prompt_forms import to_texts
from selfsteer.queries.tally import Tally, check_share, in_words
from selfsteer.records import Message

NGRAM = 13
"""Words in a row that a query may not share with a benchmark, unless a recipe says otherwise."""


@dataclasses.dataclass(frozen=True)
class Fault:
    """Why a query is left out: the name of the check, a sentence, and what it found, by name."""

    check: str
    reason: str
    found: dict[str, str] = dataclasses.field(default_factory=dict)


class Checks:
    """The checks that the settings name, on one query after the other.

    They hold the benchmarks' runs of words and, where near duplicates are dropped, an index of the kept queries
    (:class:`selfsteer.queries.minhash.NearDuplicates`), but no query.

    Args:
        languages: The languages to keep, None for any. A text without a certain language is kept: detectors are wrong
            too often about short texts.

    Raises:
        ConfigError: A language is unknown, or ``dataset_split`` is set for a benchmark without splits.
        DataError: A benchmark is missing, or has rows that hold no question.
    """

    def __init__(self, settings: CheckSettings, languages: Sequence[str] | None = None) -> None:
        check_languages(languages or ())
        self.settings, self.languages = settings, languages
        self._benchmarks = Benchmarks(settings.decontaminate_ngram or NGRAM)
        for benchmark in settings.decontaminate:
            if not self._benchmarks.add(benchmark.source, _texts(benchmark)):
                do = "check queries.decontaminate: file and field"
                raise DataError("the benchmark holds no text", where=benchmark.source, do=do)
        self._near = NearDuplicates(settings.near_duplicates) if settings.near_duplicates else None

    def fault(self, name: str, prompt: Sequence[Message], apart: Collection[str] = ()) -> Fault | None:
        """Return why a query is left out, None where it is kept: then later ones are compared with it.

        Args:
            apart: Ids of queries that it may be near to.
            prompt: Its messages. Lengths count the characters of all of them; the language is that of the user's.
        """
        text = "\n".join(message["content"] for message in prompt)
        least, most = self.settings.min_chars, self.settings.max_chars
        if least is not None and len(text) < least:
            return Fault("too_short", f"too short: {len(text)} characters, fewer than {least}")
        if most is not None and len(text) > most:
            return Fault("too_long", f"too long: {len(text)} characters, more than {most}")
        if self.languages is not None:
            code = language("\n".join(message["content"] for message in prompt if message["role"] == "user"))
            if code is not None and code not in self.languages:
                return Fault("language", f"language {code}, not {' or '.join(self.languages)}", {"language": code})
        for message in prompt if self.settings.decontaminate else ():
            if found := self._benchmarks.find(message["content"]):
                reason = f"shares words with the benchmark {found.benchmark} ({found.row}): {found.words!r}"
                return Fault("contaminated", reason, dataclasses.asdict(found))
        if self._near and (near := self._near.add(name, text, apart)):
            reason = f"near duplicate of {near.id} (similarity {near.similarity:.2f})"
            return Fault("near_duplicate", reason, {"of": near.id})
        return None

    def remember(self, name: str, prompt: Sequence[Message]) -> None:
        """Let later queries be compared with this one, which is not checked itself.

        Held-out queries are remembered so: nothing is trained on them, so they are not decontaminated, but no training
        query may be a near duplicate of one.
        """
        if self._near:
            self._near.remember(name, "\n".join(message["content"] for message in prompt))


def _texts(settings: BenchmarkSettings) -> Iterator[tuple[str, str]]:
    check_dataset_split(settings.source, settings.dataset_split, "queries.decontaminate")
    tally = Tally()
    for where, row, _ in source_rows(settings.source, settings.dataset_split):
        tally.rows += 1
        try:
            texts = to_texts(row, settings.field)
        except Unusable as unusable:
            tally.add(where, str(unusable), unusable.do)
            continue
        yield from ((where, text) for text in texts)
    if tally.rows:
        check_share(tally.info, "question", settings.source, most=MAX_LEFT_OUT, key=f"a benchmark ({settings.source})")
    if tally.unusable:
        what = f"{tally.unusable} of {tally.rows} rows of the benchmark {settings.source} can't be compared with"
        warnings.warn(f"{what}: {in_words(tally.reasons)}", SelfsteerWarning, stacklevel=2)


def check_languages(languages: Sequence[str]) -> None:
    """Raise :class:`ConfigError` where a language is not known."""
    known = known_languages() if languages else []
    for code in languages:
        if code not in known:
            raise ConfigError(f"unknown language {code!r}", where="queries.languages", do=did_you_mean(code, known))
