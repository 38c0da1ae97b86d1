"""Writing files so that a reader never meets half of one, and naming contents by their hash."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Literal

from selfsteer.errors import StorageError

STORAGE_ADVICE = {
    errno.ENOSPC: "free some space and run the same command again; everything finished so far is kept",
    errno.EDQUOT: "free some quota and run the same command again; everything finished so far is kept",
    errno.EROFS: "choose a folder that can be written to",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.ENOTDIR: "there is a file where a folder is needed: choose another folder",
    errno.EEXIST: "there is a file where a folder is needed: choose another folder",
    errno.EISDIR: "there is a folder where a file is needed: move it away or choose another name",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "it is a symbolic link, which is not written through: replace it by a file or folder of its own",
    errno.ENXIO: "it is not a regular file: move it away or choose another name",
    errno.EFBIG: "the size of a file is limited (ulimit -f): raise the limit and run the same command again",
    errno.EMFILE: "too many files are open (ulimit -n): raise the limit and run the same command again",
    errno.EBUSY: "another program uses it: choose another name",
    errno.EIO: "the disk reports a fault: check it and run the same command again",
    errno.ENOENT: "check that the folder exists and has not been moved",
}
"""What to do about an error of the operating system, by its number."""


@contextmanager
def storage_errors(path: Path, doing: Literal["write", "read"] = "write") -> Iterator[None]:
    """Turn the operating system's "no space", "read-only" and the like into a :class:`StorageError`.

    A missing file passes: what it means depends on the file.
    """
    try:
        yield
    except OSError as error:
        advice = STORAGE_ADVICE.get(error.errno or 0)
        if advice is None or isinstance(error, FileNotFoundError):
            raise
        raise StorageError(f"can't {doing}: {error.strerror}", where=str(error.filename or path), do=advice) from error


@contextmanager
def atomic_path(path: Path, *, inside: Path | None = None, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary name; on success fsync it and rename it to ``path``, else remove it.

    Works for a file and for a folder; a folder replaces nothing (the target must not exist). Files can be read as the
    umask says, weights too.

    Args:
        inside: An existing folder of the same file system for the temporary; None is the folder of ``path``.
        sync: False leaves fsync to the caller (:class:`GroupSync`). A killed process then loses nothing; a power cut
            may leave a damaged file.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = (inside or path.parent) / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"
        try:
            yield temporary
            _readable(temporary)
            for item in () if temporary.is_symlink() or not sync else (temporary, *temporary.rglob("*")):
                if not item.is_symlink():
                    _fsync(item)
            temporary.replace(path)
            if sync:
                _fsync(path.parent)  # else a crash may lose the new name, though the content is on disk
        except BaseException:
            remove(temporary)
            raise


_UMASK = os.umask(0)
os.umask(_UMASK)


def _readable(path: Path) -> None:
    """Give files the access that the umask says: safetensors writes for the owner alone, where colleagues and servers
    of other users are to read the weights."""
    for item in (path, *path.rglob("*.safetensors")):
        if item.is_file() and not item.is_symlink() and stat.S_IMODE(item.stat().st_mode) == 0o600:
            item.chmod(0o666 & ~_UMASK)


def fill_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Let ``fill`` write into an empty folder that gets the name ``path`` when it is whole, unless it is there already.

    Two processes may do it at the same time: the folder of the first stays.
    """
    if path.is_dir():
        return
    try:
        with atomic_path(path) as folder:
            folder.mkdir()
            fill(folder)
    except (OSError, StorageError):
        if not path.is_dir():
            raise


def remove_torn(folder: Path, *, spare: Iterable[str] = ()) -> None:
    """Remove files that killed processes were writing into a folder by :func:`atomic_path`; the caller holds its lock.

    ``spare`` are names of files that are written without the lock.
    """
    spared = tuple(f".{name}." for name in spare)
    for left in folder.glob(".*.tmp"):
        if not left.name.startswith(spared):
            remove(left)


def write_atomic(path: Path, data: str | bytes, *, inside: Path | None = None) -> None:
    """Write a whole small file atomically; ``inside`` as for :func:`atomic_path`."""
    with atomic_path(path, inside=inside) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def write_json(path: Path, value: Any, *, inside: Path | None = None) -> None:
    """Write ``value`` as indented JSON, atomically; ``inside`` as for :func:`atomic_path`."""
    with atomic_path(path, inside=inside) as temporary, temporary.open("wb") as stream:
        # Piece by piece: the verdicts of many pairs would take several times their own size as one text.
        for piece in json.JSONEncoder(indent=2, ensure_ascii=False).iterencode(value):
            stream.write(_utf8(piece))
        stream.write(b"\n")


def read_json(path: Path) -> Any:
    """Return the content of a JSON file of our own, None where it is missing or damaged."""
    try:
        with storage_errors(path, "read"):
            return parse_json(_read_regular(path))
    except ValueError:
        return None


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text; raises ValueError, also where it is nested too deep or is not UTF-8."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _read_regular(path: Path) -> bytes:
    """Return a file's bytes, b"" where there is none."""
    try:
        with open_regular(path) as stream:
            return stream.read()
    except (FileNotFoundError, NotADirectoryError):
        return b""


def open_regular(path: Path, mode: Literal["rb", "ab"] = "rb", buffering: int = -1) -> BinaryIO:
    """Open a regular file: reading follows symbolic links, writing doesn't.

    A run directory may come from someone else, and a link in it must not make this user write elsewhere.

    Raises:
        OSError: It is a pipe, a device or a socket, or a symbolic link that would be written through.
    """
    # Without O_NONBLOCK, opening a named pipe waits for its other end.
    flags = os.O_NONBLOCK | (os.O_RDONLY if mode == "rb" else os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket, whose own words are "No such device or address"
            error.strerror = "not a regular file"
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        folder = path.is_dir()
        number = errno.EISDIR if folder else errno.ENXIO
        raise OSError(number, os.strerror(number) if folder else "not a regular file", str(path))
    return os.fdopen(descriptor, mode if mode == "rb" else "ab+", buffering)


def append_json(path: Path, value: Any, *, sync: bool = True) -> None:
    """Append one JSON line; a line torn by a crash is closed first so that it spoils only itself.

    Without ``sync`` it does not wait for the disk: where the machine itself goes down, the last lines may be lost.
    """
    line = _utf8(json.dumps(value, ensure_ascii=False, sort_keys=True) + "\n")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_regular(path, "ab") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - 1))
            torn = size > 0 and stream.read(1) != b"\n"
            stream.write((b"\n" if torn else b"") + line)
            stream.flush()
            if sync:
                os.fsync(stream.fileno())


def cut_torn_line(path: Path) -> None:
    """Cut a torn line, which a crash left, off the end of a file, if the file exists."""
    whole = 0
    with suppress(FileNotFoundError), path.open("rb+") as stream:
        for line in stream:
            whole += len(line) if line.endswith(b"\n") else 0
        stream.truncate(whole)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of :func:`iter_json_lines`."""
    return list(iter_json_lines(path))


def iter_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the complete lines of a file of our own that :func:`append_json` wrote; torn lines are skipped."""
    with storage_errors(path, "read"), suppress(FileNotFoundError, NotADirectoryError), open_regular(path) as stream:
        for line in stream:
            try:
                row = parse_json(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                yield row


def link_atomic(link: Path, target: Path) -> None:
    """Point the symbolic link ``link`` at ``target`` (stored relative, so that the run directory can be moved)."""
    with atomic_path(link) as temporary:
        temporary.symlink_to(os.path.relpath(target, link.parent))


def clone(source: Path, target: Path) -> None:
    """Put a file or a folder at ``target`` too, atomically: hard links where the file system has them, else copies.

    Only for files that are never written again in place.
    """
    with atomic_path(target) as temporary:
        if source.is_dir():
            shutil.copytree(source, temporary, copy_function=_link_or_copy)
        else:
            _link_or_copy(source, temporary)


def _link_or_copy(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)


def remove(path: Path) -> None:
    """Remove a file or a folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def home_expanded(path: str | Path) -> Path:
    """Return a path with the home folder in place of ``~``; ``~nobody``, where there is none, stays as it is."""
    with suppress(RuntimeError):
        return Path(path).expanduser()
    return Path(path)


def is_inside(folder: Path, name: str) -> bool:
    """Return whether ``name``, from a file, is a relative path to something inside ``folder``, links followed."""
    parts = Path(name).parts
    if not parts or Path(name).is_absolute() or ".." in parts or "\0" in name:
        return False
    return Path(os.path.realpath(folder / name)).is_relative_to(os.path.realpath(folder))


def sha256_file(path: Path) -> str:
    """Return the hex sha256 of a file's content; raises as :func:`open_regular`."""
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]  # a BinaryIO that reads into


def fingerprint(value: Any) -> str:
    """Return 16 hex digits that name a JSON-serialisable value (canonical JSON, sha256)."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(_utf8(text)).hexdigest()[:16]


def _utf8(text: str) -> bytes:
    """Encode JSON; half of a surrogate pair (a file name that is not UTF-8 holds them) becomes JSON's own escape."""
    return text.encode(errors="backslashreplace")


class GroupSync:
    """Syncs files to disk in groups, so that many small files don't each wait for the disk.

    A file is synced with the next one that is added a second or more after the last sync, or by :meth:`sync`: a power
    cut costs at most one second of finished work besides the work in progress. A killed process costs nothing, as what
    it wrote is with the operating system.
    """

    INTERVAL = 1.0

    def __init__(self) -> None:
        self._waiting: list[Path] = []
        self._last = time.monotonic()

    def add(self, path: Path) -> None:
        """Take a file that was written without fsync."""
        self._waiting.append(path)
        if time.monotonic() - self._last >= self.INTERVAL:
            self.sync()

    def sync(self) -> None:
        """Sync the files that wait and their folders; a file that was removed since is passed over."""
        waiting, self._waiting = dict.fromkeys(self._waiting), []
        for path in [*waiting, *dict.fromkeys(path.parent for path in waiting)]:
            with suppress(FileNotFoundError), storage_errors(path):
                _fsync(path)
        self._last = time.monotonic()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
