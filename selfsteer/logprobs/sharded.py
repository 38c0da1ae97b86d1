"""Models whose weights are spread over processes: each forward pass is one that all of them do together."""

from __future__ import annotations

from typing import Any

import torch


def is_sharded(model: Any) -> bool:
    """Return whether a forward pass gathers weights from other processes (FSDP2, DeepSpeed's ZeRO-3)."""
    # DTensor (FSDP2) has to_local, a parameter of ZeRO-3 an id of DeepSpeed's.
    return any(hasattr(parameter, "to_local") or hasattr(parameter, "ds_id") for parameter in model.parameters())


def most_anywhere(count: int, device: torch.device) -> int:
    """Return the largest ``count`` of all processes; each of them has to call it."""
    most = torch.tensor(count, device=device)
    torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
    return int(most)
