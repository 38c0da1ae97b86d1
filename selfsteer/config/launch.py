"""How many processes train together, and how they share the work."""

from __future__ import annotations

from typing import Literal

from selfsteer.config.base import Natural, Positive, Section

Strategy = Literal["auto", "single", "ddp", "fsdp", "deepspeed-zero2", "deepspeed-zero3"]


class LaunchSettings(Section):
    """Processes and strategy of a training. They change speed and memory; the weights up to rounding."""

    processes: Natural | Literal["auto"] = "auto"
    """Processes of each node that train together, one per GPU; auto: all visible GPUs (as many as divide
    ``batch_size``), one on a CPU. 0 trains inside the process of the command, which then keeps the
    memory that torch does not give back."""
    nodes: Positive = 1
    """Machines that train together; the same command runs on each, with one run directory that all of them see. Node 0
    does everything else."""
    rendezvous: str | None = None
    """HOST:PORT at which the other nodes reach node 0 (default: its host name and a free port)."""
    rendezvous_timeout: Positive = 600
    """Seconds that nodes wait for each other."""
    strategy: Strategy = "auto"
    """single: one process; ddp: each process holds everything; fsdp: weights, gradients and optimiser states are
    sharded (FSDP2); deepspeed-zero2, deepspeed-zero3: the same by DeepSpeed. auto: single, ddp, or fsdp where ddp does
    not fit."""
    hang_timeout: Positive = 1800
    """Seconds without progress of any process after which a training is ended as hung."""


LAUNCH_KEYS = frozenset(LaunchSettings.model_fields)
"""Keys that the weights do not depend on."""
