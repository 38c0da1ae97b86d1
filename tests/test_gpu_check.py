"""benchmarks/gpu.sh with tiny sizes on a CPU: its table, and what it does without packages, time or a GPU."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks/gpu.sh"


def check(*options, **variables):
    variables = {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1", **variables}
    command = [str(part) for part in (SCRIPT, *options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, **variables})


@pytest.fixture(scope="module")
def gpu():
    spec = importlib.util.spec_from_file_location("gpu_check", ROOT / "benchmarks/gpu.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def wheel(folder, name, files):
    """A wheel for any Python, which pip would install."""
    package, version = name.split("-")
    meta = f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
    with zipfile.ZipFile(folder / f"{name}-py3-none-any.whl", "w") as archive:
        for path, text in (files | {f"{name}.dist-info/METADATA": meta}).items():
            archive.writestr(path, text)
        archive.writestr(f"{name}.dist-info/RECORD", "".join(f"{path},,\n" for path in files))


@pytest.mark.slow
def test_tiny_sizes_give_a_whole_table_and_a_wheel_that_is_carried_is_used(tmp_path):
    modules = {
        "__init__": "from . import nn",
        "nn": "class Linear8bitLt: ...\nclass Linear4bit: ...",  # peft looks whether a layer is one of these
        "optim": "import torch\nclass AdamW8bit(torch.optim.AdamW): ...",
    }
    wheel(tmp_path, "bitsandbytes-9.9", {f"bitsandbytes/{name}.py": text for name, text in modules.items()})
    started = time.monotonic()
    done = check("--tiny", "--strict", "--wheels", tmp_path, OUT=str(tmp_path / "out"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - started < 180  # under a minute where it has a core for itself
    found = json.loads((tmp_path / "out/gpu.json").read_text(encoding="utf-8"))
    assert found["versions"]["bitsandbytes"] == "9.9" and "torch" in found["versions"]
    rows = {row["case"]: row for row in found["rows"]}
    assert all(f"| {row['part']} | {name} |" in done.stdout for name, row in rows.items())
    assert {name for name, row in rows.items() if row["status"] != "ok"} == {
        "chunked, Liger's kernel, float32",
        "chunked, Liger's kernel, bfloat16",
    }
    for name in ("chunked, float32", "flex, float32", "six padded sequences, SDPA, float32"):
        assert 0 < rows[name]["logp_gap"] < 2e-4 and 0 < rows[name]["grad_gap"] < 1e-5
    for name in ("chunked, bfloat16", "flex, bfloat16"):
        assert rows[name]["logp_gap"] > 1e-3  # bfloat16 it was
    for kind in ("1.5B AdamW", "1.5B LoRA", "1.5B 8-bit Adam", "7B LoRA", "7B 8-bit Adam"):
        ours, padded = rows[f"{kind}, prompt-sharing rows"], rows[f"{kind}, padded sequences, full logits"]
        assert ours["loss"] == pytest.approx(padded["loss"], rel=1e-3)
        assert ours["gradient_norm"] == pytest.approx(padded["gradient_norm"], rel=0.1) and ours["gradient_norm"] > 0
        assert ours["tokens_s"] > 0 and 0 < ours["share"] < 1
    assert "activation checkpointing" in rows["7B 8-bit Adam, prompt-sharing rows"]["note"]
    assert "step 0: ipo base 6.25" in rows["SSOTrainer, two steps of a small model"]["note"]


def test_a_process_that_overstays_is_stopped_and_is_a_row():
    done = check("--tiny", "--budget", 0.5, "--parts", "product", "head")
    assert done.returncode == 0, done.stderr
    assert "| product, head | after these |" in done.stdout and "error: stopped: the time was over" in done.stdout


def test_a_case_that_fails_or_lacks_a_package_or_time_is_a_row(gpu, monkeypatch):
    def broken():
        raise RuntimeError("CUDA error:\n  no kernel image")

    later = time.monotonic() + 60
    assert gpu._attempt("flex", broken, later, 1) == {
        "status": "error",
        "note": "RuntimeError: CUDA error: no kernel image",
    }
    assert gpu._attempt("flex", broken, later, 100)["status"] == "skip"
    monkeypatch.setitem(gpu.NEEDS, "LoRA", "no_such_package")
    assert gpu._attempt("7B LoRA, rows", broken, later, 1) == {"status": "skip", "note": "no_such_package is not there"}
    row = {"part": "head", "case": "x", "status": "ok", "seconds": 0.25, "logp_gap": 1e-6}
    assert gpu.table([row]).splitlines()[-1] == "| head | x | 0.25 |  |  |  | 1.0e-06 |  |  |"


def test_what_a_part_wrote_before_it_crashed_is_kept(gpu, tmp_path, monkeypatch):
    script = tmp_path / "part.py"
    script.write_text(
        "import sys, json, os, signal\n"
        "open(sys.argv[2], 'w').write(json.dumps({'part': 'head', 'case': 'first', 'status': 'ok'}) + '\\n')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(gpu, "__file__", str(script))
    rows = gpu._run(["head"], tmp_path / "rows.jsonl", time.monotonic() + 100, False)
    assert [(row["case"], row["status"]) for row in rows] == [("first", "ok"), ("after these", "error")]
    assert rows[1]["note"] == "its process ended with code -9"
    (skipped,) = gpu._run(["head"], tmp_path / "none.jsonl", time.monotonic() + 5, False)
    assert skipped["status"] == "skip"


def test_bad_wheels_are_refused_before_anything_runs(tmp_path):
    done = check("--tiny", "--wheels", tmp_path / "none")
    assert done.returncode == 2 and "no such folder" in done.stderr
    (tmp_path / "peft-1.0-cp27-cp27m-win32.whl").write_bytes(b"")
    done = check("--tiny", "--wheels", tmp_path)
    assert done.returncode == 2 and "not for Python 3" in done.stderr
