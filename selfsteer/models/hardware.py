"""What this machine computes on, and in which precision."""

from __future__ import annotations

from selfsteer.errors import ConfigError, did_you_mean

PRECISIONS = ("auto", "bfloat16", "float32")


def pick_device() -> str:
    """Return "cuda" where torch finds a GPU, else "cpu" (Apple's "mps" is taken when asked for by name)."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def pick_dtype(precision: str, device: str) -> str:
    """Return "bfloat16" or "float32"; "auto" takes bfloat16 where ``device`` is fast at it.

    Raises:
        ConfigError: No such precision.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"unknown precision {precision!r}", where="precision", do=did_you_mean(precision, PRECISIONS))
    if precision != "auto":
        return precision
    return "bfloat16" if _has_fast_bfloat16(device) else "float32"


def _has_fast_bfloat16(device: str) -> bool:
    import torch

    kind = device.partition(":")[0]
    if kind == "cuda":
        # Emulated bfloat16 (GPUs before Ampere) is slower than float32.
        return bool(torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False))
    if kind == "cpu":
        # Private helpers of torch: where they are gone, float32 is right, only slower.
        checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
        return any(check is not None and check() for check in checks)
    return False
