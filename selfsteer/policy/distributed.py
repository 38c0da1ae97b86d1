"""Figures and decisions that the processes of one training share; a single process keeps its own.

Each function is a collective: every process has to call it, and equally often, or the others wait forever. So a wrong
reference, a loss that is not finite and Ctrl-C are decided together, where one process alone would leave the others
waiting.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from selfsteer.errors import ConfigError


def gathered(values: Tensor) -> Tensor:
    """Return (P, N): the (N,) ``values`` of each of P processes."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return values[None]
    from accelerate import PartialState
    from accelerate.utils import gather

    rows: Tensor = gather(values[None].to(PartialState().device))
    return rows.cpu()


def anywhere(flag: bool) -> bool:
    """Return whether ``flag`` is set in any process, so that all of them take the same turn; waits for all."""
    return bool(gathered(torch.tensor([float(flag)])).any())


def from_main(value: str) -> str:
    """Return the text that the first process gives; the others' is not used."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    from accelerate.utils import broadcast_object_list

    return str(broadcast_object_list([value])[0])


def summed(figures: Mapping[str, float]) -> dict[str, float]:
    """Return each figure summed over the processes, which all hold the same names in the same order."""
    if not figures:
        return {}
    sums = gathered(torch.tensor(list(figures.values()), dtype=torch.float64)).sum(dim=0)
    return dict(zip(figures, sums.tolist(), strict=True))


def shared_out(count: int) -> range:
    """Return which of ``count`` pieces of work this process does: every P-th."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return range(count)
    return range(torch.distributed.get_rank(), count, torch.distributed.get_world_size())


def joined(values: Tensor) -> Tensor:
    """Return the sum of the processes' ``values``, of which all but one process' are 0 at each place."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return values
    from accelerate import PartialState

    whole = values.to(PartialState().device)
    torch.distributed.all_reduce(whole)
    return whole.cpu()


def own_part(tensor: Any) -> Tensor:
    """Return this process's part of a tensor that may be sharded."""
    with torch.no_grad():
        part: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part


def check_even(accelerator: Any) -> None:
    """Raise :class:`ConfigError` where some processes would get more micro-batches than others and wait for them."""
    if accelerator.num_processes > 1 and not accelerator.even_batches:
        what = "several processes need equally many micro-batches"
        do = "leave even_batches out: an example that is repeated to even them out weighs nothing the second time"
        raise ConfigError(what, where="accelerator_config, even_batches", do=do)


def first_time(accelerator: Any, size: int, *, drop_last: bool = False) -> int:
    """Return how many of a micro-batch's ``size`` examples, its first ones, were not in this pass over the data before.

    Accelerate gives all processes equally many full micro-batches: where the examples run out, it repeats those from
    the beginning of the pass, in the last micro-batch of each process, unless the loader drops the last ones. Of all
    processes' examples, position ``process * size + i`` is such a repeat from the remainder on. (accelerate's own count
    of the remainder is lost when a training is resumed.)
    """
    state, processes = accelerator.gradient_state, accelerator.num_processes
    if processes == 1 or drop_last or not state.end_of_dataloader:
        return size
    remainder = len(state.active_dataloader.dataset) % (processes * size)
    return min(max(remainder - accelerator.process_index * size, 0), size) if remainder else size
