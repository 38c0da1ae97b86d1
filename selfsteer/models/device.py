"""Device and precision that this machine computes with."""

from __future__ import annotations

import os
from importlib.util import find_spec

from selfsteer.errors import ConfigError
from selfsteer.models.gpus import assumed_gpus


def pick_device() -> str:
    """Return "cuda" where torch finds a GPU, else "cpu" (Apple's "mps" is used only if it is named)."""
    import torch

    return "cuda" if assumed_gpus() or torch.cuda.is_available() else "cpu"


def visible_gpus() -> list[str]:
    """Return the CUDA GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    if assumed := assumed_gpus():
        return [str(number) for number in range(assumed[1])]
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:count] if named else [str(number) for number in range(count)]


def pick_dtype(precision: str, device: str) -> str:
    """Return "bfloat16" or "float32"; "auto" takes bfloat16 where ``device`` is fast at it."""
    import torch

    if precision != "auto":
        return precision
    kind, fast = device.partition(":")[0], False
    if kind == "cuda" and assumed_gpus():
        fast = True  # all that are known are
    elif kind == "cuda" and torch.cuda.is_available():
        # Emulated bfloat16 (GPUs before Ampere) is slower than float32.
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif kind == "cpu":
        # Private helpers of torch: where they are gone, float32 is right, only slower.
        checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
        fast = any(check is not None and check() for check in checks)
    return "bfloat16" if fast else "float32"


def check_bits(bits: int, device: str, *, where: str) -> None:
    """Raise :class:`ConfigError` where weights can't be held in so many bits (4 or 8, by the key ``where``) here."""
    import torch

    if bits not in (4, 8):
        raise ConfigError(f"weights can be held in 4 or 8 bits, not in {bits}", where=where, do="give 4 or 8")
    if device.partition(":")[0] != "cuda" or not torch.cuda.is_available():
        found = f"the device is {device!r}" if torch.cuda.is_available() else "torch finds none on this machine"
        do = f"leave {where} out (LoRA over whole weights needs no GPU), or run this on a machine with a CUDA GPU"
        raise ConfigError(f"{where}={bits} needs a CUDA GPU, and {found}", where=where, do=do)
    if find_spec("bitsandbytes") is None:
        do = f"pip install 'selfsteer[qlora]', or leave {where} out"
        raise ConfigError(f"{where}={bits} needs bitsandbytes, which is not installed", where=where, do=do)
