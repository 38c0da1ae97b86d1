"""Starts a job's processes by torch's elastic launcher: ``python -m selfsteer.jobs.elastic FOLDER``.

A process of its own, as the launcher takes over signals and waits; when a process dies it ends the others.
"""

from __future__ import annotations

import sys
from pathlib import Path

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from selfsteer.files import read_json, write_json


def main(folder: Path) -> int:
    """Start what FOLDER/launch.json says; return the exit code. Who died is written to FOLDER/died.json."""
    asked = read_json(folder / "launch.json")
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=asked["processes"], run_id=folder.name, rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", max_restarts=0, monitor_interval=0.2,
        logs_specs=DefaultLogsSpecs(log_dir=str(folder / "logs"), redirects=Std.ALL),
    )  # fmt: skip
    try:
        elastic_launch(config, sys.executable)(*asked["arguments"])
    except ChildFailedError as error:
        died = [
            {"rank": rank, "code": one.exitcode, "signal": one.signal_name() if one.exitcode < 0 else None,
             "time": one.timestamp}
            for rank, one in error.failures.items()
        ]  # fmt: skip
        write_json(folder / "died.json", died)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
