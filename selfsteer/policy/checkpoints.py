"""Checkpoints that can be trusted: a manifest with every file's sha256 is written last and verified before resuming."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from selfsteer.errors import Terminated
from selfsteer.files import read_json, sha256_file, write_json
from selfsteer.policy.distributed import anywhere

_MANIFEST = "selfsteer_manifest.json"


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint in ``folder`` whose manifest verifies, else None."""
    found = [path for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.name.rpartition("-")[2].isdigit()]
    # The newest first: a process that was killed while it wrote one leaves the one before.
    ordered = sorted(found, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    return next((path for path in ordered if verifies(path)), None)


def verifies(checkpoint: Path) -> bool:
    """Return whether a checkpoint has its manifest and every file in it has the recorded sha256."""
    manifest = read_json(checkpoint / _MANIFEST)
    if not isinstance(manifest, dict) or not manifest:
        return False
    files = {name: checkpoint / name for name in manifest}
    return all(path.is_file() and sha256_file(path) == manifest[name] for name, path in files.items())


class ManifestCallback(TrainerCallback):
    """Writes the manifest of each checkpoint after everything else of it is on disk.

    Keep ``save_total_limit`` at 2 or more: older checkpoints are removed before the new one has its manifest.
    """

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Hash the files of the checkpoint just written, once every process has written its own."""
        anywhere(False)  # waits for all
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            write_json(folder / _MANIFEST, {str(path.relative_to(folder)): sha256_file(path) for path in files})


class InterruptCallback(TrainerCallback):
    """As a context: a first Ctrl-C or SIGTERM finishes the step, saves a checkpoint and stops; a second stops at once.

    Stopping inside a step would leave weights that are half old and half new. ``stop_asked`` says whether the process
    that started this one got the signal.
    """

    def __init__(self, say: Callable[[str], None], stop_asked: Callable[[], bool] = lambda: False) -> None:
        self.asked = False
        self.error: type[KeyboardInterrupt] = KeyboardInterrupt
        """What to raise once training has stopped."""
        self._say, self._stop_asked = say, stop_asked
        self._previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def __enter__(self) -> None:
        """Take over the signals; Python lets only the main thread do that, elsewhere nothing changes."""
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._ask) for number in self._previous}

    def __exit__(self, *_: object) -> None:
        """Give the signals back."""
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._previous.items():
                signal.signal(number, handler)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save and stop where Ctrl-C was pressed during the step, in any of the processes, or outside of them."""
        self.asked = anywhere(self.asked or self._stop_asked())
        if self.asked:
            control.should_save = control.should_training_stop = True

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.error = Terminated if number == signal.SIGTERM else KeyboardInterrupt
        if self.asked:
            raise self.error
        self.asked = True
        self._say("interrupted: finishing this step and saving a checkpoint (Ctrl-C again stops at once) ...")
