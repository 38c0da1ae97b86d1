"""Several machines: node 0 does the run, the others wait for its trainings and give each one their processes.

They meet in the folder ``nodes`` of the run directory, which all of them see. leader.json says what node 0 is at, and
is written again every few seconds; node-N.json is what node N says of itself.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfsteer.errors import ConfigError, InputError, WorkFailed
from selfsteer.files import fingerprint, read_json, write_json
from selfsteer.jobs.ranks import node_rank
from selfsteer.version import __version__

FOLDER = "nodes"
_LEADER = "leader.json"
_BEAT = 2.0
_SILENT = 120.0
"""Seconds after which a node 0 that says nothing more is taken for dead; a shared file system may show a file late."""


@dataclass(frozen=True)
class Meeting:
    """Where and how long the launchers of all nodes wait for each other."""

    nodes: int = 1
    host: str = "localhost"
    port: int = 0
    timeout: float = 600.0


def meeting_of(nodes: int, rendezvous: str | None, timeout: float) -> Meeting:
    """Return where node 0 is reached.

    Raises :class:`ConfigError` where ``rendezvous`` is not HOST:PORT.
    """
    if nodes == 1:
        return Meeting()
    if rendezvous is None:
        return Meeting(nodes, socket.getfqdn(), _free_port(), timeout)
    host, _, port = rendezvous.rpartition(":")
    if not host or not port.isdigit():
        do = "give the name of node 0 and a free port, e.g. gpu-0:29500"
        raise ConfigError(f"{rendezvous!r} is not HOST:PORT", where="train.rendezvous", do=do)
    return Meeting(nodes, host, int(port), timeout)


def _free_port() -> int:
    with socket.socket() as own:
        own.bind(("", 0))
        return int(own.getsockname()[1])


class Leader:
    """Node 0 as the others see it."""

    def __init__(self, run_dir: Path, nodes: int, recipe: Mapping[str, Any]) -> None:
        self.folder, self.nodes = run_dir / FOLDER, nodes
        self._said: dict[str, Any] = {"session": uuid.uuid4().hex, "job": None, "end": None}
        self._said |= {"version": __version__, "recipe": fingerprint(recipe)}
        self._lock = threading.Lock()
        self._done = threading.Event()

    @contextmanager
    def leading(self) -> Iterator[None]:
        """Say that this node is at work; the others end when it does."""
        thread = threading.Thread(target=self._beat, daemon=True)
        thread.start()
        end = "failed"
        try:
            yield
            end = "done"
        finally:
            self._done.set()
            thread.join()
            self._say(end=end)

    def call(self, scratch: Path) -> None:
        """Have the other nodes start the processes of the job in ``scratch``."""
        self._say(job=str(scratch.relative_to(self.folder.parent)))

    def check(self) -> None:
        """Raise what another node can't take part for."""
        for path in sorted(self.folder.glob("node-*.json")):
            said = read_json(path) or {}
            if said.get("session") == self._said["session"] and said.get("refused"):
                raise InputError(said["refused"], where=f"node {path.stem.removeprefix('node-')}, {said['host']}",
                                 do="use the same version, recipe and settings on all nodes")  # fmt: skip

    @property
    def missing(self) -> list[int]:
        """The nodes that have not come."""
        told = {number: read_json(self.folder / f"node-{number}.json") or {} for number in range(1, self.nodes)}
        return [number for number, said in told.items() if said.get("session") != self._said["session"]]

    def _beat(self) -> None:
        while not self._done.is_set():
            self._say()
            self._done.wait(_BEAT)

    def _say(self, **changes: Any) -> None:
        with self._lock:
            self._said |= changes | {"beat": time.time()}
            write_json(self.folder / _LEADER, self._said)


def follow(run_dir: Path, recipe: Mapping[str, Any], timeout: float) -> None:
    """Give this machine's processes to each training of node 0, until that ends.

    Raises:
        InputError: Node 0 has another version, or another recipe.
        WorkFailed: Node 0 does not come within ``timeout`` seconds, dies, or its run fails.
    """
    folder, session, seen = run_dir / FOLDER, "", ""
    said, own, heard = read_json(folder / _LEADER) or {}, node_rank(), time.monotonic()
    while True:
        newest = read_json(folder / _LEADER) or {}
        if newest != said:  # what a run before left there does not change
            said, heard = newest, time.monotonic()
            if said["session"] != session:
                session = said["session"]
                _present(folder / f"node-{own}.json", said, fingerprint(recipe))
            if said["end"]:
                if said["end"] == "failed":
                    raise WorkFailed("the run of node 0 failed", where=str(run_dir), do="see the message of node 0")
                return
            if said["job"] and said["job"] != seen:
                seen = said["job"]
                _join(run_dir / seen)
        silent = time.monotonic() - heard
        if not session and silent > timeout:
            do = "check that node 0 runs the same command, and that --run-dir is one folder that all nodes see"
            raise WorkFailed(f"node 0 has not come within {timeout:g} s", where=str(folder), do=do)
        if session and silent > _SILENT:
            do = "run the same command again on all nodes: finished work is kept"
            raise WorkFailed(f"node 0 has said nothing for {_SILENT:g} s", where=str(folder), do=do)
        time.sleep(0.5)


def _present(path: Path, said: Mapping[str, Any], recipe: str) -> None:
    """Tell node 0 that this one is there, or why it can't take part."""
    refused = ""
    if said["version"] != __version__:
        refused = f"this node has selfsteer {__version__}, and node 0 has {said['version']}"
    elif said["recipe"] != recipe:
        refused = "this node has another recipe, or other settings, than node 0"
    write_json(path, {"session": said["session"], "host": socket.gethostname(), "refused": refused})
    if refused:
        raise InputError(refused, where=str(path), do="use the same version, recipe and settings on all nodes")


def _join(scratch: Path) -> None:
    """Start this node's processes of a job and wait for them; node 0 finds out what they failed with."""
    subprocess.run([sys.executable, "-P", "-m", "selfsteer.jobs.elastic", str(scratch)], check=False)
