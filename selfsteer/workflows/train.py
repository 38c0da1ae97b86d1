"""`selfsteer train`: one training by its specification, in one process or in one of several."""

from __future__ import annotations

import faulthandler
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from selfsteer.errors import DataError, InputError
from selfsteer.files import storage_errors
from selfsteer.jobs.ranks import end_with_parent, is_main, local_rank, world_size
from selfsteer.jobs.scratch import JobDisplay
from selfsteer.jobs.spec import SUFFIX, JobSpec
from selfsteer.runs.progress import Display
from selfsteer.runs.store import locked
from selfsteer.stages.training import run_training
from selfsteer.workflows.reward_training import run_reward_training


def train(target: Path, display: Display, *, trusted: bool = False) -> Path:
    """Do a job by hand, also as one of several processes that a launcher started; return the folder of its results.

    Raises:
        InputError: There is no such job, it can't be done as it is, or a model's own code would be run and it is not
            ``trusted``.
        WorkFailed: The training failed, or another process works in the run directory.
    """
    spec = JobSpec.read(unfinished_job(target), display)
    if spec.runs_code and not trusted:
        do = "read the job and the model's code, then add --trust-recipe"
        raise InputError("this job would run Python code that comes with a model", where=str(target), do=do)
    run_dir = spec.space.run_dir
    with display, storage_errors(run_dir), locked(run_dir, "run directory", "job") if is_main() else nullcontext():
        _do(spec)
    return spec.space.folder


def train_for(spec: Path, folder: Path) -> None:
    """Do a job for the process that started it and holds the run directory; they talk through ``folder``.

    Raises as :func:`train`; what is raised is noted in that folder too.
    """
    display = JobDisplay(folder)
    with _followed(display):
        try:
            _do(JobSpec.read(spec, display))
        except Exception as error:
            display.failed(error, where=str(spec.parent))
            raise


def unfinished_job(target: Path) -> Path:
    """Return the specification that ``target`` is, or the newest one in that run directory whose training is not done.

    Raises:
        InputError: There is none.
    """
    if target.is_file():
        return target
    if not target.is_dir():
        raise InputError("there is no such job or run directory", where=str(target), do=f"name a *-{SUFFIX}")
    found = sorted(target.glob(f"**/*-{SUFFIX}"), key=lambda path: path.stat().st_mtime)
    left = [path for path in found if not _done(path)]
    if not left:
        what = "no training is left to do here" if found else "no training was begun here"
        raise InputError(what, where=str(target), do="`selfsteer run` writes the specification when it comes to it")
    return left[-1]


def _done(spec: Path) -> bool:
    """Whether a training's result is there: its weights, or the record of a generator whose weights have gone."""
    key = spec.name.removesuffix(f"-{SUFFIX}")
    return any(spec.parent.glob(f"*-{key}/config.json")) or spec.with_name(f"{key}-training.json").exists()


def _do(spec: JobSpec) -> None:
    trainings = {"policy": run_training, "generator": run_training, "reward": run_reward_training}
    if spec.kind not in trainings:
        raise DataError(f"unknown kind of training {spec.kind!r}", where="kind", do=f"known: {', '.join(trainings)}")
    import torch

    from selfsteer.models import silence_transformers

    silence_transformers()
    if world_size() > 1 and torch.cuda.is_available():
        torch.cuda.set_device(local_rank())
    trainings[spec.kind](spec)
    if torch.distributed.is_initialized():  # its threads would abort a process that ends before it
        torch.distributed.destroy_process_group()


@contextmanager
def _followed(display: JobDisplay) -> Iterator[None]:
    """Pass warnings on, print the stack at SIGUSR1, and end this process when the one that started it is gone."""
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    end_with_parent()
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: display.warn(str(message))
        yield
