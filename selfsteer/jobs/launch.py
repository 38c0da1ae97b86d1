"""Starts a training in processes of its own, shows its progress, and ends all of them when one fails or hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfsteer.config.launch import LaunchSettings
from selfsteer.errors import ConfigError, SelfsteerError, WorkFailed
from selfsteer.files import parse_json, remove, write_json
from selfsteer.jobs.scratch import Scratch, SignOfLife
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
        processes: 0 for the process of the caller.
        strategy: How several share the work.
        hang_timeout: Seconds without a sign of life of any process.
        environment: Variables of the processes besides those of this one.
    """

    processes: int
    strategy: str = "single"
    hang_timeout: float = 1800.0
    environment: Mapping[str, str] | None = None


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
    gpus = _visible_gpus(device)
    if settings.processes == "auto":
        most = 1 if settings.strategy == "single" or gpus is None else gpus
        processes = max(count for count in range(1, max(most, 1) + 1) if batch_size % count == 0)
    else:
        processes = settings.processes
    if gpus is not None and processes > gpus:
        what = f"{processes} processes need as many GPUs, and {gpus} {'is' if gpus == 1 else 'are'} visible"
        do = f"set {where}.processes to {gpus} or less; CUDA_VISIBLE_DEVICES decides which GPUs are visible"
        raise ConfigError(what, where=f"{where}.processes", do=do)
    if processes and batch_size % processes:
        fits = [str(count) for count in range(1, processes) if batch_size % count == 0]
        what = f"{processes} processes can't share the {batch_size} examples of an optimiser step evenly"
        do = f"take {' or '.join(fits[-2:])} processes, or a batch_size that {processes} divides"
        raise ConfigError(what, where=f"{where}.processes", do=do)
    strategy = settings.strategy if settings.strategy != "auto" else "ddp" if processes > 1 else "single"
    if strategy == "single" and processes > 1:
        do = f"set {where}.strategy to ddp or fsdp, or {where}.processes to 1"
        raise ConfigError(f"{processes} processes need a strategy", where=f"{where}.strategy", do=do)
    if strategy != "single" and processes < 2:
        do = f"set {where}.processes to 2 or more, or {where}.strategy to single"
        raise ConfigError(f"{strategy} needs at least two processes", where=f"{where}.strategy", do=do)
    return Launch(processes, strategy, settings.hang_timeout)


def _visible_gpus(device: str) -> int | None:
    """Return how many GPUs a training on ``device`` may use; None on a CPU."""
    if device != "cuda":
        return None if device in ("cpu", "mps") else 1  # one that is named, cuda:1
    import torch

    return torch.cuda.device_count()


def run_job(spec: Path, key: str, launch: Launch, display: Display) -> None:
    """Run `selfsteer train` on a job's specification and return when it is done; its progress is shown here.

    Ctrl-C lets the processes finish their step and save a checkpoint. When it returns or raises, none is left.

    Args:
        key: The stage's key: what a killed process left behind is found by it.

    Raises:
        SelfsteerError: What the job itself failed with.
        WorkFailed: A process died or hung; the message has its rank and its last lines.
    """
    scratch = Scratch(spec.with_name(f".{key}-job.tmp"))
    arguments = ["-m", "selfsteer.cli", "train", str(spec), "--job-folder", str(scratch.folder)]
    if launch.processes > 1:
        write_json(scratch.folder / "launch.json", {"processes": launch.processes, "arguments": arguments})
        arguments = ["-m", "selfsteer.jobs.elastic", str(scratch.folder)]
    with (scratch.folder / "output.log").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            env=_environment(launch), start_new_session=True,
        )  # fmt: skip
    try:
        try:
            _follow(process, scratch, display, launch.hang_timeout)
        except KeyboardInterrupt:
            scratch.stop()
            _follow(process, scratch, display, launch.hang_timeout)
            raise
    finally:
        _end(process, scratch)
        scratch.show(display)
    if process.returncode:
        raise _failure(process.returncode, scratch)
    remove(scratch.folder)


def _environment(launch: Launch) -> dict[str, str]:
    environment = os.environ | dict(launch.environment or {})
    if launch.processes > 1:  # torch's launcher would give each one thread
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // launch.processes)))
    return environment


def _follow(process: subprocess.Popen[bytes], scratch: Scratch, display: Display, hang_timeout: float) -> None:
    """Show progress until the process ends; raise where none of the job's processes gives a sign of life."""
    while process.poll() is None:
        scratch.show(display)
        signs = scratch.signs()
        if signs and min(sign.seconds_ago for sign in signs) > hang_timeout:
            raise _hung(signs, scratch, hang_timeout)
        time.sleep(_POLL)


def _hung(signs: list[SignOfLife], scratch: Scratch, hang_timeout: float) -> WorkFailed:
    """Return the error of a job that makes no progress: the process with the fewest micro-batches holds the others."""
    least = min(sign.done for sign in signs)
    behind = [sign for sign in signs if sign.done == least]
    for sign in behind:
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
        for sign in scratch.signs():
            _send(sign.pid, signal.SIGKILL)
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _failure(code: int, scratch: Scratch) -> SelfsteerError:
    """Return what the job failed with: an error of the package, else the process that died first."""
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
    path = folder / "died.json"
    if not path.exists():
        return None
    died: list[dict[str, Any]] = parse_json(path.read_bytes())
    return min(died, key=lambda one: (one["signal"] in (None, "SIGTERM", "SIGABRT"), one["time"]), default=None)


def _last_lines(folder: Path, rank: int) -> str:
    """Return the end of a process's output."""
    logs = sorted(folder.glob(f"logs/**/{rank}/stderr.log")) or [folder / "output.log"]
    text = logs[-1].read_text(encoding="utf-8", errors="replace") if logs[-1].exists() else ""
    lines = [line for line in text.splitlines() if line.strip()][-LAST_LINES:]
    return f"rank {rank}; its last lines:\n" + "\n".join(f"    {line}" for line in lines) if lines else f"rank {rank}"
