"""The built wheel, alone in a clean environment without torch: help and the scripted recipe work."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIGHT = ["filelock", "jinja2", "matplotlib", "pyarrow", "pydantic", "pyyaml", "rich", "typer", "xxhash"]


def call(*command, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_runs_the_scripted_recipe_without_torch(tmp_path):
    call(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path / "dist", ROOT)
    (wheel,) = (tmp_path / "dist").glob("selfsteer-*.whl")
    recipes = {str(path.relative_to(ROOT)) for path in (ROOT / "recipes").glob("**/*.*")}
    assert {f"selfsteer/{path}" for path in recipes} <= set(zipfile.ZipFile(wheel).namelist())
    venv.create(tmp_path / "env", with_pip=True)
    python, command = tmp_path / "env/bin/python", tmp_path / "env/bin/selfsteer"
    call(python, "-m", "pip", "install", "--quiet", "--no-deps", wheel)
    call(python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", *LIGHT)
    missing = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is not None)"
    call(python, "-c", missing)
    assert "principles" in call(command, "--help", cwd=tmp_path)
    call(command, "run", "scripted", "--run-dir", tmp_path / "run", cwd=tmp_path)
    summary = json.loads((tmp_path / "run/summary.json").read_text(encoding="utf-8"))
    assert summary["rounds"][0]["quality"]["kept"] > 0
    assert (tmp_path / "run/report.html").is_file()
