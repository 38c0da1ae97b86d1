"""Peak memory of a process, without torch, which would be most of it in one that needs none."""

from __future__ import annotations

from pathlib import Path


def peak_gb() -> float:
    """Largest resident memory of this process, 10^9 bytes (Linux)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (kib,) = [line.split()[1] for line in lines if line.startswith("VmHWM")]
    return int(kib) * 1024 / 1e9
