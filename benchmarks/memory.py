"""Resident memory of this process (Linux), without torch, which would be most of it in one that needs none."""

from __future__ import annotations

from pathlib import Path

_PROCESS = Path("/proc/self")


def peak_gb() -> float:
    """Return the largest resident memory so far, or since :func:`forget_peak`, in 10^9 bytes."""
    return _read("VmHWM")


def resident_gb() -> float:
    """Return the resident memory now, in 10^9 bytes."""
    return _read("VmRSS")


def forget_peak() -> None:
    """Let :func:`peak_gb` begin anew from what is held now."""
    (_PROCESS / "clear_refs").write_text("5", encoding="utf-8")


def _read(name: str) -> float:
    lines = (_PROCESS / "status").read_text(encoding="utf-8").splitlines()
    (kib,) = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return int(kib) * 1024 / 1e9
