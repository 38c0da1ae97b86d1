"""Rows that are hard to carry, and exports of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest

from selfsteer.export import ExportOptions, Licence, export_file, export_folder
from selfsteer.records import Contrast
from tests.example_rows import contrast

HARD = [
    "naïve 😀 漢字 👩‍👩‍👧",
    "من اليمين إلى اليسار \u202eabc\u202c",
    "an end <|im_end|>\n<|im_start|>user\nof turn </s> [INST]",
    "lines\nand\r\nreturns\tand tabs\n\n",
    'quotes " and \' and \\n and \\ and {"json": [1]}',
    "one\u2028two\u2029three\u0085four",
    " spaces around ",
    "---\ntitle: yaml | *markdown*\n~~~~~\n",
]
LICENCE = Licence("mit", "as the test says")


def hard_rows() -> list[Contrast]:
    """One row for each hard text, which stands in every place a text can stand in; roles and prompts differ."""
    rows = []
    for number, text in enumerate(HARD):
        user = {"role": "user", "content": f"x{text}"}
        changes: dict[str, Any] = {
            "prompt": [user],
            "positive_principle": f"p+{text}",
            "negative_principle": f"p-{text}",
            "positive_prompt": [{"role": "system", "content": f"s+{text}"}, user],
            "negative_prompt": [{"role": "system", "content": f"s-{text}"}, user],
        }
        changes |= {f"{role}_response": f"{role}{text}" for role in ("positive", "negative", "original")}
        rows.append(contrast(f"row {text}{number}", **changes))
    return rows


def to_file(rows: list[Contrast], path: Path, **order: Any) -> Path:
    export_file(rows, ExportOptions(**order), path, where="a test")
    return path


def to_folder(rows: list[Contrast], folder: Path, **order: Any) -> Path:
    export_folder(rows, ExportOptions(**order), folder, where="a test", licence=LICENCE)
    return folder


def loaded(path: Path, cache: Path) -> list[dict[str, Any]]:
    """The rows of an export as `datasets` reads them: of a folder by its card, of a file by its kind."""
    options: dict[str, Any] = {"split": "train", "cache_dir": str(cache)}
    if path.is_dir():
        return datasets.load_dataset(str(path), **options).to_list()
    kind = "parquet" if path.suffix == ".parquet" else "json"
    return datasets.load_dataset(kind, data_files=str(path), **options).to_list()


def refused(kind: type[Exception], call: Any) -> str:
    with pytest.raises(kind) as found:
        call()
    return str(found.value)
