"""Starts a job's processes on this node by torch's elastic launcher: ``python -m selfsteer.jobs.elastic FOLDER``.

A process of its own, as the launcher takes over signals and waits; when a process dies it ends the others.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from selfsteer.files import read_json, write_json
from selfsteer.jobs.ranks import end_with_parent, node_rank


def main(folder: Path) -> int:
    """Start what FOLDER/launch.json says; return the exit code. Who died is written to FOLDER/died-NODE.json."""
    asked, node = read_json(folder / "launch.json"), node_rank()
    os.environ.update(asked["environment"])
    end_with_parent()  # and with it the processes, which watch this one
    config = LaunchConfig(
        min_nodes=asked["nodes"], max_nodes=asked["nodes"], nproc_per_node=asked["processes"], run_id=folder.name,
        rdzv_backend="c10d", rdzv_endpoint=f"{asked['host']}:{asked['port']}", max_restarts=0, monitor_interval=0.2,
        rdzv_configs={"is_host": node == 0, "join_timeout": asked["timeout"], "read_timeout": asked["timeout"]},
        logs_specs=DefaultLogsSpecs(log_dir=str(folder / "logs" / f"node-{node}"), redirects=Std.ALL),
    )  # fmt: skip
    try:
        elastic_launch(config, sys.executable)(*asked["arguments"])
    except ChildFailedError as error:
        died = [
            {"rank": rank, "code": one.exitcode, "signal": one.signal_name() if one.exitcode < 0 else None,
             "time": one.timestamp}
            for rank, one in error.failures.items()
        ]  # fmt: skip
        write_json(folder / f"died-{node}.json", died)
        return 1
    except RendezvousError as error:
        write_json(folder / f"alone-{node}.json", {"reason": str(error)})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
