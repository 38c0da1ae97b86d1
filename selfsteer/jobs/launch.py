"""Starts a training in processes of its own, shows its progress, and ends all of them when one fails or hangs."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfsteer.config.launch import LaunchSettings
from selfsteer.errors import ConfigError, SelfsteerError, WorkFailed
from selfsteer.files import parse_json, read_json, remove, write_json
from selfsteer.jobs.nodes import Leader, Meeting, meeting_of
from selfsteer.jobs.scratch import Scratch, SignOfLife
from selfsteer.models.device import visible_gpus
from selfsteer.runs.progress import Display

_POLL = 0.1
_GRACE = 40.0
"""Seconds in which processes that were told to end can do so: torch's launcher gives its own 30."""

LAST_LINES = 15
"""Lines of a process's output that an error repeats."""


@dataclass(frozen=True)
class Launch:
    """How a training is started.

    Attributes:
        processes: On each node; 0 for the process of the caller.
        strategy: How several share the work.
        hang_timeout: Seconds without a sign of life of any process.
        meeting: Where the nodes meet.
        leader: Calls the other nodes.
    """

    processes: int
    strategy: str = "single"
    hang_timeout: float = 1800.0
    meeting: Meeting = field(default_factory=Meeting)
    leader: Leader | None = None

    @property
    def total(self) -> int:
        """Processes of all nodes."""
        return self.processes * self.meeting.nodes


IN_PROCESS = Launch(0)


def launch_of(settings: LaunchSettings, device: str, batch_size: int, where: str = "train") -> Launch:
    """Return how a training on ``device`` is started.

    Args:
        batch_size: Examples of an optimiser step, which the processes share evenly.
        where: The recipe's section, for messages.

    Raises:
        ConfigError: More processes than GPUs, a batch that they can't share evenly, or a strategy that does not go
            with their number.
    """
    gpus, nodes = _visible_gpus(device), settings.nodes
    if settings.processes == "auto":
        most = 1 if settings.strategy == "single" or gpus is None else gpus
        fitting = [count for count in range(1, max(most, 1) + 1) if batch_size % (count * nodes) == 0]
        processes = max(fitting, default=1)
    else:
        processes = settings.processes
    total = processes * nodes
    if nodes > 1 and not processes:
        do = f"set {where}.processes to auto, or leave {where}.nodes out"
        raise ConfigError("a training in the command's own process has one node", where=f"{where}.nodes", do=do)
    if gpus is not None and processes > gpus:
        what = f"{processes} processes need as many GPUs, and {gpus} {'is' if gpus == 1 else 'are'} visible"
        do = f"set {where}.processes to {gpus} or less; CUDA_VISIBLE_DEVICES decides which GPUs are visible"
        raise ConfigError(what, where=f"{where}.processes", do=do)
    if total and batch_size % total:
        fits = [str(count) for count in range(1, total) if batch_size % count == 0]
        what = f"{total} processes can't share the {batch_size} examples of an optimiser step evenly"
        do = f"take {' or '.join(fits[-2:])} processes, or a batch_size that {total} divides"
        raise ConfigError(what, where=f"{where}.processes", do=do)
    strategy = settings.strategy if settings.strategy != "auto" else "ddp" if total > 1 else "single"
    if strategy == "single" and total > 1:
        do = f"set {where}.strategy to ddp or fsdp, or {where}.processes to 1"
        raise ConfigError(f"{total} processes need a strategy", where=f"{where}.strategy", do=do)
    if strategy != "single" and total < 2:
        do = f"set {where}.processes to 2 or more, or {where}.strategy to single"
        raise ConfigError(f"{strategy} needs at least two processes", where=f"{where}.strategy", do=do)
    meeting = meeting_of(nodes, settings.rendezvous, settings.rendezvous_timeout)
    return Launch(processes, strategy, settings.hang_timeout, meeting)


def _visible_gpus(device: str) -> int | None:
    """Return how many GPUs a training on ``device`` may use; None on a CPU."""
    if device != "cuda":
        return None if device in ("cpu", "mps") else 1  # one that is named, cuda:1
    return len(visible_gpus())


def run_job(spec: Path, key: str, launch: Launch, display: Display) -> None:
    """Run `selfsteer train` on a job's specification and return when it is done; its progress is shown here.

    Ctrl-C lets the processes finish their step and save a checkpoint. When it returns or raises, none is left.

    Args:
        key: The stage's key: what a killed process left behind is found by it.

    Raises:
        SelfsteerError: What the job itself failed with.
        WorkFailed: A process died or hung; the message has its rank and its last lines.
    """
    scratch = Scratch(spec.with_name(f".{key}-{uuid.uuid4().hex[:8]}-job.tmp"))
    # -P: a file called random.py in the current folder must not replace a module.
    arguments = ["-P", "-m", "selfsteer.cli", "train", str(spec), "--job-folder", str(scratch.folder)]
    environment = _environment(launch)
    if launch.total > 1:
        asked = {"processes": launch.processes, "arguments": arguments, "environment": environment}
        write_json(scratch.folder / "launch.json", dataclasses.asdict(launch.meeting) | asked)
        arguments = ["-P", "-m", "selfsteer.jobs.elastic", str(scratch.folder)]
    with (scratch.folder / "output.log").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            env=os.environ | environment, start_new_session=True,
        )  # fmt: skip
    if launch.leader:
        launch.leader.call(scratch.folder)
    try:
        try:
            _follow(process, scratch, display, launch)
        except KeyboardInterrupt:
            scratch.stop()
            _follow(process, scratch, display, launch)
            raise
    finally:
        _end(process, scratch)
        scratch.show(display)
    if process.returncode:
        raise _failure(process.returncode, scratch, launch)
    remove(scratch.folder)


def _environment(launch: Launch) -> dict[str, str]:
    """Return the variables of a job's processes besides those of this one."""
    if launch.processes < 2 or "OMP_NUM_THREADS" in os.environ:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // launch.processes))}  # torch's launcher gives each 1


def _follow(process: subprocess.Popen[bytes], scratch: Scratch, display: Display, launch: Launch) -> None:
    """Show progress until the process ends; raise where none of the job's processes gives a sign of life."""
    while process.poll() is None:
        scratch.show(display)
        signs = scratch.signs()
        if signs and min(sign.seconds_ago for sign in signs) > launch.hang_timeout:
            raise _hung(signs, scratch, launch.hang_timeout)
        if launch.leader:
            launch.leader.check()
        time.sleep(_POLL)


def _hung(signs: list[SignOfLife], scratch: Scratch, hang_timeout: float) -> WorkFailed:
    """Return the error of a job that makes no progress: the process with the fewest micro-batches holds the others."""
    least = min(sign.done for sign in signs)
    behind = [sign for sign in signs if sign.done == least]
    for sign in filter(lambda sign: sign.here, behind):
        _send(sign.pid, signal.SIGUSR1)  # has its stack printed (selfsteer.workflows.train)
    time.sleep(1.0)
    names = " and ".join(str(sign.rank) for sign in behind)
    what = f"no process made progress for {hang_timeout:g} s; rank {names} came least far, {least} micro-batches"
    last = _last_lines(scratch.folder, behind[0].rank)
    do = "look at the stack below; run the same command again to resume from the last checkpoint. A step that takes "
    return WorkFailed(what, where=last, do=f"{do}longer needs a higher hang_timeout")


def _end(process: subprocess.Popen[bytes], scratch: Scratch) -> None:
    """End whatever is left of a job, its launcher first, which ends its own processes."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        for sign in filter(lambda sign: sign.here, scratch.signs()):
            _send(sign.pid, signal.SIGKILL)
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _failure(code: int, scratch: Scratch, launch: Launch) -> SelfsteerError:
    """Return what the job failed with: an error of the package, else the process that died first."""
    leader = launch.leader
    if leader and any(scratch.folder.glob("alone-*.json")):
        came = f"; node {' and '.join(map(str, leader.missing))} is missing" if leader.missing else ""
        what = f"the {leader.nodes} nodes did not meet within {launch.meeting.timeout:g} s{came}"
        do = "check that all nodes run the same command with the same --run-dir, that the port is open between them, "
        do += "and that train.rendezvous is a name of node 0 that the others can resolve"
        return WorkFailed(what, where=f"{launch.meeting.host}:{launch.meeting.port}", do=do)
    said = list(scratch.failures())
    died = _first_death(scratch.folder)
    if said and (said[0][0] or died is None or died["signal"] is None):
        return said[0][1]
    if died is None:
        died = {"rank": 0, "code": code, "signal": signal.Signals(-code).name if code < 0 else None}
    how = f"was ended by {died['signal']}" if died["signal"] else f"ended with code {died['code']}"
    what = f"process {died['rank']} of the training {how}"
    do = "run the same command again: it resumes from the last checkpoint"
    if died["signal"] == "SIGKILL":
        do += "; the system ends a process so when memory runs out (a smaller micro_batch_size, gradient_checkpointing)"
    return WorkFailed(what, where=_last_lines(scratch.folder, died["rank"]), do=do)


def _first_death(folder: Path) -> dict[str, Any] | None:
    """Return the process that torch's launcher saw die first; one that others took with them comes later."""
    died: list[dict[str, Any]] = [one for path in folder.glob("died-*.json") for one in parse_json(path.read_bytes())]
    return min(died, key=lambda one: (one["signal"] in (None, "SIGTERM", "SIGABRT"), one["time"]), default=None)


def _last_lines(folder: Path, rank: int) -> str:
    """Return the end of a process's output."""
    said = read_json(folder / f"rank-{rank}.json") or {"node": 0, "local": 0}
    logs = [*folder.glob(f"logs/node-{said['node']}/**/{said['local']}/stderr.log"), folder / "output.log"]
    text = logs[0].read_text(encoding="utf-8", errors="replace") if logs[0].exists() else ""
    lines = [line for line in text.splitlines() if line.strip()][-LAST_LINES:]
    return f"rank {rank}; its last lines:\n" + "\n".join(f"    {line}" for line in lines) if lines else f"rank {rank}"
