"""``generation.engines``: how many processes sample and score, and which GPUs each gets."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from selfsteer.backends import BACKENDS
from selfsteer.config import Recipe
from selfsteer.errors import ConfigError
from selfsteer.models.device import visible_gpus
from selfsteer.runs.ray_executor import WHERE as RAY
from selfsteer.runs.ray_executor import Node, Share, connect

WHERE = "generation.engines"
_PARALLEL = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")


def gpus_each(recipe: Recipe, backend: str) -> int:
    """Return how many GPUs an engine of this backend takes."""
    size = 1
    if BACKENDS[backend].runs == "engine":
        for name in _PARALLEL:
            given = recipe.generation.vllm.get(name, 1)
            size *= given if isinstance(given, int) and given > 0 else 1
    return size


def engine_count(recipe: Recipe, backend: str, device: str) -> int:
    """Return in how many processes models of this backend run.

    Args:
        device: Where the policy is computed, e.g. "cuda" or "cpu".

    Raises:
        ConfigError: The recipe asks for more than the GPUs allow, or for several engines where one is all there can be.
    """
    asked, kind = recipe.generation.engines, BACKENDS[backend]
    if asked == 1 or (asked == "auto" and (kind.weightless or device != "cuda")):
        return 1
    if kind.remote:
        return 1  # one process keeps the budget; `check` refuses a number
    each, gpus = gpus_each(recipe, backend), len(visible_gpus()) if device.startswith("cuda") else None
    if gpus is None or kind.weightless or recipe.executor == "ray":  # whose GPUs are elsewhere
        return 1 if asked == "auto" else asked
    if asked == "auto":
        return max(1, gpus // each)
    if ":" in device:
        what = f"{asked} engines use several GPUs, and model.device names one: {device}"
        raise ConfigError(what, where=WHERE, do="set model.device=cuda, and choose the GPUs by CUDA_VISIBLE_DEVICES")
    if asked * each > gpus:
        share = f" of {each} GPUs each" if each > 1 else ""
        what = f"{asked} engines{share} need {asked * each} GPUs, and {gpus} are visible"
        do = f"set generation.engines=auto or at most {gpus // each}" if gpus >= each else "lower tensor_parallel_size"
        raise ConfigError(what, where=WHERE, do=f"{do}; CUDA_VISIBLE_DEVICES says which GPUs are visible")
    return asked


def check_engines(recipe: Recipe, device: str) -> None:
    """Raise :class:`ConfigError` where there can't be as many engines as the recipe asks for.

    Args:
        device: As of :func:`engine_count`; "" where there is no model of the run's own.
    """
    backend = recipe.generation.backend
    if BACKENDS[backend].remote and recipe.generation.engines not in ("auto", 1) and not device:
        what = f"the backend {backend} has no engines on this machine"
        raise ConfigError(
            what, where=WHERE, do="leave it out; generation.endpoint.concurrency is about requests at once"
        )
    if recipe.executor == "ray":
        nodes = connect(recipe.ray.address)
        for name in {backend, "transformers"} if device else {backend}:
            if not BACKENDS[name].remote:
                share = ray_share(recipe, name, device, nodes)
                if recipe.generation.engines not in ("auto", share.actors):
                    each = f"{share.gpus} GPUs" if share.gpus else f"{share.cpus} CPUs"
                    what = f"{recipe.generation.engines} actors with {each} each don't fit in the cluster"
                    raise ConfigError(what, where=WHERE, do=f"set generation.engines=auto or at most {share.actors}")
        return
    engine_count(recipe, backend, device)
    if device:
        engine_count(recipe, "transformers", device)  # scoring


def ray_share(recipe: Recipe, backend: str, device: str, nodes: Sequence[Node]) -> Share:
    """Return how many actors run models of this backend in a Ray cluster, and what each takes.

    Without ``generation.engines`` there are as many as fit on the GPUs, or without GPUs one on each node. They share
    the CPUs of a node where there are no GPUs.

    Raises:
        ConfigError: No node has room for one, or this process computes on another kind of device.
    """
    asked, each, cuda = recipe.generation.engines, gpus_each(recipe, backend), device.startswith("cuda")
    gpus = [node.gpus // each for node in nodes]
    if device and cuda != any(node.gpus for node in nodes):
        what = "this machine has no GPU, and the Ray cluster has some" if not cuda else "the Ray cluster has no GPU"
        do = "run this command on a node like the others (its device decides the precision), or set model.device=cpu"
        if not (recipe.model.device == "cpu" and not cuda):
            raise ConfigError(what, where="model.device", do=do)
    if cuda and not BACKENDS[backend].weightless:
        if not sum(gpus):
            what = f"no node of the Ray cluster has the {each} GPUs of an engine"
            raise ConfigError(what, where=RAY, do="lower tensor_parallel_size, or add such a node")
        # Fewer than the recipe says after nodes were lost.
        return Share(sum(gpus) if asked == "auto" else min(asked, sum(gpus)), 1, each)
    computing = [node for node in nodes if node.cpus]
    if not computing:
        raise ConfigError("the Ray cluster has no CPUs to give", where=RAY, do="start its nodes with --num-cpus")
    count = len(computing) if asked == "auto" else min(asked, sum(node.cpus for node in computing))
    on_a_node = -(-count // len(computing))
    return Share(count, max(1, min(node.cpus for node in computing) // on_a_node), 0)


def environments(count: int, each: int, device: str) -> Sequence[Mapping[str, str]]:
    """Return the variables of each engine: its share of the GPUs, or of the cores."""
    if device.startswith("cuda"):
        gpus = visible_gpus()
        return [{"CUDA_VISIBLE_DEVICES": ",".join(gpus[at * each : (at + 1) * each])} for at in range(count)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // count))
    return [{"OMP_NUM_THREADS": threads}] * count
