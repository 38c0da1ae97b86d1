"""GPUs whose memory and speed are published, and planning as if this machine had some of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from selfsteer.errors import ConfigError, did_you_mean


class Gpu(NamedTuple):
    """A GPU by its published figures.

    Attributes:
        title: Its name in tables.
        memory: Bytes.
        flops: Of dense bfloat16 matrix products, FLOP/s.
        bandwidth: Of its memory, bytes/s.
    """

    title: str
    memory: float
    flops: float
    bandwidth: float


GPUS: dict[str, Gpu] = {
    "l4": Gpu("L4 24 GB", 24e9, 121e12, 0.30e12),
    "a10g": Gpu("A10G 24 GB", 24e9, 70e12, 0.60e12),
    "rtx3090": Gpu("RTX 3090 24 GB", 24e9, 71e12, 0.94e12),
    "rtx4090": Gpu("RTX 4090 24 GB", 24e9, 165e12, 1.01e12),
    "l40s": Gpu("L40S 48 GB", 48e9, 362e12, 0.86e12),
    "a6000": Gpu("RTX A6000 48 GB", 48e9, 155e12, 0.77e12),
    "a100-40gb": Gpu("A100 40 GB", 40e9, 312e12, 1.56e12),
    "a100": Gpu("A100 80 GB", 80e9, 312e12, 2.04e12),
    "h100": Gpu("H100 80 GB (SXM)", 80e9, 989e12, 3.35e12),
    "h200": Gpu("H200 141 GB", 141e9, 989e12, 4.80e12),
    "b200": Gpu("B200 180 GB", 180e9, 2250e12, 8.00e12),
}
"""By their name in ``--gpu``: figures of the makers' data sheets, without sparsity, rounded."""


def gpu_of(name: str) -> Gpu:
    """Return a GPU by its name; :class:`ConfigError` for an unknown one."""
    found = GPUS.get(name.lower().replace("_", "-").replace(" ", ""))
    if found is None:
        do = f"{did_you_mean(name, GPUS)}; of one that is not listed, take the nearest"
        raise ConfigError(f"nothing is known of a GPU {name!r}", where="--gpu", do=do)
    return found


_assumed: ContextVar[tuple[Gpu, int] | None] = ContextVar("assumed", default=None)


@contextmanager
def planning_for(gpu: Gpu, count: int) -> Iterator[None]:
    """Let this machine look as if it had ``count`` such GPUs, for an estimate; nothing can be computed meanwhile."""
    token = _assumed.set((gpu, count))
    try:
        yield
    finally:
        _assumed.reset(token)


def assumed_gpus() -> tuple[Gpu, int] | None:
    """Return the GPUs that :func:`planning_for` asks for, and how many; None for this machine's own."""
    return _assumed.get()
