"""The data files of benchmarks: found in a folder or downloaded at a pinned commit, counted, known by their hash."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import re
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

from selfsteer.errors import DataError, FetchError
from selfsteer.evaluation.benchmarks.table import BenchmarkFacts, FileVersion, model_benchmarks
from selfsteer.files import open_regular, write_atomic
from selfsteer.models import cache_folder
from selfsteer.queries.file_readers import Unreadable, read_file

State = Literal["verified", "unknown content", "missing"]

_GITHUB = "https://raw.githubusercontent.com"
_SOURCE = re.compile(r"(?P<kind>github|hub):(?P<name>[^@]+)@(?P<commit>[0-9a-f]{40}):(?P<path>.+)")
_LARGEST = 256 * 2**20
"""Bytes of a data file: more is none of these."""


@dataclass(frozen=True)
class FoundFile:
    """A data file of a benchmark, there or not.

    Attributes:
        name: In the table.
        version: What it was taken for; the first version where it is missing.
        path: Where it is, None where it is missing.
        sha256: Of its content, "" where it is missing.
        n: Rows in it, 0 where they aren't counted.
        state: "verified" where the content is that of the table.
    """

    name: str
    version: FileVersion
    path: Path | None = None
    sha256: str = ""
    n: int = 0

    @property
    def state(self) -> State:
        """How far it can be trusted."""
        if self.path is None:
            return "missing"
        return "verified" if self.sha256 == self.version.sha256 else "unknown content"


def find_data(facts: BenchmarkFacts, folder: Path | None, *, download: bool = False) -> list[FoundFile]:
    """Return every data file of a benchmark, missing ones too; optional ones only where they are there.

    A file is looked for in ``folder`` and then among the downloaded ones, its preferred version first.

    Args:
        download: Fetch what is required and missing, where its source can be fetched.

    Raises:
        DataError: A file can't be read.
        FetchError: A download arrived with another content.
    """
    found = []
    for name, versions in facts.files.items():
        one = _found(name, versions, folder)
        if one.path is None and download and not one.version.optional:
            one = _downloaded(name, versions) or one
        if one.path or not one.version.optional:
            found.append(one)
    return found


def data_problems(facts: BenchmarkFacts, found: Iterable[FoundFile], *, unverified: bool) -> Iterator[str]:
    """Yield what keeps a benchmark from being run with these files, one sentence a file.

    Args:
        unverified: Files of unknown content are accepted.
    """
    for one in found:
        if one.path is None:
            yield f"{facts.title}: {one.version.path} is missing; it comes from {one.version.source}"
        elif one.state != "verified" and not unverified:
            rows = f"{one.n:,} rows in place of {one.version.n:,}, " * (one.version.n not in (0, one.n))
            known = f"{one.version.sha256[:12]} is known" if one.version.sha256 else "no content of it is known"
            yield f"{facts.title}: {one.path} has an unknown content ({rows}sha256 {one.sha256[:12]}, {known})"


def read_rows(path: Path) -> list[Any]:
    """Return the rows of a .jsonl, .json or .csv file (.gz too); raises DataError at the line that is broken."""
    rows = []
    for where, row in read_file(path):
        if isinstance(row, Unreadable):
            raise DataError(row.reason, where=where, do=row.do or "get the file again")
        rows.append(row)
    return rows


def data_folder() -> Path:
    """Return the folder of downloaded data files."""
    return cache_folder() / "benchmarks"


def _found(name: str, versions: Iterable[FileVersion], folder: Path | None) -> FoundFile:
    versions = tuple(versions)
    for version in versions:
        for root in filter(None, (folder, data_folder())):
            for path in (root / version.path, root / f"{version.path}.gz"):
                if path.is_file():
                    return _read(name, version, path)
    return FoundFile(name, versions[0])


def _read(name: str, version: FileVersion, path: Path) -> FoundFile:
    return FoundFile(name, version, path, _content_hash(path), _count(path))


def _content_hash(path: Path) -> str:
    """Return the sha256 of a file's content, of what is inside a .gz."""
    digest, size = hashlib.sha256(), 0
    try:
        with open_regular(path) as raw, _opened(raw, path) as stream:
            while piece := stream.read(1 << 20):
                digest.update(piece)
                size += len(piece)
                if size > _LARGEST:
                    raise DataError(
                        "the file is too large for a benchmark's data", where=str(path), do="check its name"
                    )
    except (OSError, EOFError) as error:
        raise DataError(f"can't read the file: {error}", where=str(path), do="get the file again") from error
    return digest.hexdigest()


def _opened(raw: BinaryIO, path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if path.suffix == ".gz" else raw


def _count(path: Path) -> int:
    """Return a file's rows: an archive's are those of its .csv files in a folder `test`, a text has none."""
    if path.suffix == ".txt":
        return 0
    if path.suffix != ".zip":
        return sum(1 for _ in read_file(path))
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if "/test/" in f"/{name}" and name.endswith(".csv")]
            return sum(len(list(csv.reader(io.StringIO(archive.read(name).decode("utf-8"))))) for name in names)
    except (zipfile.BadZipFile, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"can't read the archive: {error}", where=str(path), do="get the file again") from error


def _downloaded(name: str, versions: Iterable[FileVersion]) -> FoundFile | None:
    """Return the first version that could be downloaded, None where there is none."""
    for version in versions:
        source = _SOURCE.fullmatch(version.source)
        content = _fetched(**source.groupdict()) if source else None
        if content is None:
            continue
        found = hashlib.sha256(content).hexdigest()
        if found != version.sha256:
            what = f"{version.source} arrived with the sha256 {found[:12]}, expected {version.sha256[:12]}"
            raise FetchError(what, where=version.source, do="run the same command again; else get the file by hand")
        write_atomic(data_folder() / version.path, content)
        return _read(name, version, data_folder() / version.path)
    return None


def _fetched(kind: str, name: str, commit: str, path: str) -> bytes | None:
    """Return the bytes of a file at a commit, None where the source can't be reached."""
    import httpx2
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    if kind == "hub":
        with suppress(OSError, HfHubHTTPError, ValueError):
            return Path(hf_hub_download(name, path, repo_type="dataset", revision=commit)).read_bytes()
        return None
    if constants.HF_HUB_OFFLINE:  # whoever sets it wants no request at all
        return None
    address, content = f"{_GITHUB}/{name}/{commit}/{path}", bytearray()
    with suppress(httpx2.HTTPError), httpx2.stream("GET", address, timeout=60, follow_redirects=True) as response:
        response.raise_for_status()
        for piece in response.iter_bytes():
            content += piece
            if len(content) > _LARGEST:
                return None
        return bytes(content)
    return None


def data_report(folder: Path | None) -> list[dict[str, Any]]:
    """Return one entry a data file of every benchmark: what it is, and whether and where it is there."""
    return [
        {
            "benchmark": facts.name,
            "file": one.name,
            "path": str(one.path or one.version.path),
            "version": one.version.source,
            "n": one.n,
            "expected": one.version.n,
            "sha256": one.sha256,
            "state": one.state,
            "fetchable": bool(_SOURCE.fullmatch(one.version.source)),
            "licence": facts.licence,
            "note": one.version.note,
        }
        for facts in model_benchmarks().values()
        for one in find_data(facts, folder)
    ]
