"""Starts a module in several processes, as torchrun does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]


def start(module: str, processes: int, *arguments: Any, timeout: float = 120, **environment: str) -> None:
    """Run ``python -m MODULE ARGUMENTS`` in so many processes on the CPU; each has to end with exit code 0."""
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        port = own.getsockname()[1]
    shared = os.environ | {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    # FSDP2 takes a GPU where there is one, whatever the trainer is told.
    shared |= {"CUDA_VISIBLE_DEVICES": ""} | environment
    started = [
        subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            cwd=_ROOT, env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(processes)
    ]  # fmt: skip
    try:
        outputs = [process.communicate(timeout=timeout)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * processes, "\n".join(outputs)
