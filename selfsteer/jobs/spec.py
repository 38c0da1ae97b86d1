"""The written specification of a job: everything that its processes need, in a file of the run directory."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfsteer.errors import DataError
from selfsteer.files import is_inside, read_json, write_json
from selfsteer.runs.progress import Display
from selfsteer.runs.store import Workspace
from selfsteer.version import __version__

SUFFIX = "job.json"


@dataclass(frozen=True)
class JobSpec:
    """A training as its processes read it.

    Attributes:
        kind: "policy", "generator" or "reward".
        space: Where it works.
        recipe: All settings.
        work: What is the kind's own: rows, start, reference.
    """

    kind: str
    space: Workspace
    recipe: dict[str, Any]
    work: dict[str, Any]

    @property
    def runs_code(self) -> bool:
        """Whether a model's own Python would be run."""
        start = self.work.get("start") or {}
        options = [self.recipe.get("model") or {}, start.get("options") or {}, self.work.get("loading") or {}]
        return any(one.get("trust_remote_code") for one in options)

    def write(self) -> Path:
        """Write the specification into the workspace and return its file."""
        path = self.space.path(SUFFIX)
        folder = str(self.space.folder.relative_to(self.space.run_dir))
        said = {"selfsteer": __version__, "kind": self.kind, "folder": folder, "key": self.space.key}
        write_json(path, said | {"recipe": self.recipe, "work": self.work})
        return path

    @classmethod
    def read(cls, path: Path, display: Display) -> JobSpec:
        """Return the specification in a file.

        Raises:
            DataError: It is not one, or another version's, or it names a folder outside of its run directory.
        """
        said = read_json(path)
        names = {"selfsteer", "kind", "folder", "key", "recipe", "work"}
        if not isinstance(said, dict) or said.keys() != names:
            raise DataError("this is not the specification of a training", where=str(path), do=f"name a *-{SUFFIX}")
        if not all(re.fullmatch(r"[\w.-]+", str(name)) for name in (said["key"], said["work"].get("name", "model"))):
            do = "a job's files are named by its key; let `selfsteer run` write the job"
            raise DataError("the job's names can't be those of files", where=str(path), do=do)
        if said["selfsteer"] != __version__:
            what = f"the job was written by selfsteer {said['selfsteer']}, and this is {__version__}"
            raise DataError(what, where=str(path), do="use the same version on all machines")
        folder = Path(said["folder"])
        run_dir = path.absolute().parents[len(folder.parts)]
        if not is_inside(run_dir, said["folder"]) or path.absolute().parent != run_dir / folder:
            do = "a job's specification stays in its run directory; name it there"
            raise DataError("the job is not where it says", where=str(path), do=do)
        return cls(said["kind"], Workspace(run_dir, said["folder"], said["key"], display), said["recipe"], said["work"])
