"""Which of a training's processes this is, as torchrun and accelerate's launcher set it in the environment."""

from __future__ import annotations

import os
import threading
import time


def rank() -> int:
    """Return the number of this process among all of the training; 0 where it is alone."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """Return the number of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world_size() -> int:
    """Return how many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process writes files and shows progress for all."""
    return rank() == 0


_NODE = ("SELFSTEER_NODE", "SLURM_NODEID", "JOB_COMPLETION_INDEX", "NODE_RANK")


def node_rank() -> int:
    """Return the number of this machine among those that train together: Slurm's, a Kubernetes Job's, or NODE_RANK."""
    return int(next((os.environ[name] for name in _NODE if os.environ.get(name)), "0"))


def end_with_parent() -> None:
    """End this process when the one that started it has: the run directory is free then, and another may work in it."""
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
