"""Data sets in the form that the hub has them: a README.md that lists configs, and a Parquet file for each split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from selfsteer.files import fill_folder, fingerprint
from selfsteer.models import cache_folder

Splits = Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]
"""Rows by config and split. All splits of a config need the same columns."""


def hub_folder(name: str, splits: Splits) -> Path:
    """Return a folder in the cache that ``datasets.load_dataset`` reads as it does the data set on the hub.

    Its name holds the hash of the rows, so that it is written once.
    """
    folder = cache_folder() / "benchmarks" / "hub" / f"{name}-{fingerprint(splits)}"
    fill_folder(folder, lambda empty: _write(empty, splits))
    return folder


def _write(folder: Path, splits: Splits) -> None:
    configs = []
    for config, own in splits.items():
        files = [{"split": split, "path": f"{config}/{split}.parquet"} for split in own]
        configs.append({"config_name": config, "data_files": files})
        (folder / config).mkdir()
        for split, rows in own.items():
            pq.write_table(pa.Table.from_pylist(list(rows)), folder / config / f"{split}.parquet")
    header = yaml.safe_dump({"configs": configs}, sort_keys=False)
    (folder / "README.md").write_text(f"---\n{header}---\n", encoding="utf-8")
