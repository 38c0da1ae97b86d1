"""recipes/cluster/: each file is what its tool takes, and starts a run that these settings exist for."""

from __future__ import annotations

import copy
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from selfsteer.cli import STORY
from selfsteer.config import dump_recipe, load_recipe
from selfsteer.jobs.nodes import meeting_of
from selfsteer.loop import run
from tests.jobs.test_launch import difference
from tests.run_helpers import small_recipe, without_reports, write_queries

CLUSTER = Path(__file__).parents[1] / "recipes" / "cluster"
SLURM = CLUSTER / "slurm.sh"
VERSION = "1.37"


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((CLUSTER / name).read_text(encoding="utf-8")))


def check_pods(template: dict[str, Any]) -> None:
    pods = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pods"}, "template": template}
    kubernetes_validate.validate(pods, VERSION, strict=True)


def check_ray(job: dict[str, Any]) -> None:
    schema = yaml.safe_load((Path(__file__).parent / "rayjob.schema.yaml").read_text(encoding="utf-8"))
    jsonschema.validate(job, schema)
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        check_pods(group["template"])
    check_pods(job["spec"]["submitterPodTemplate"])


def recipe_of(command: list[str]) -> Any:
    """Load the recipe that a command names, with its overrides: a command or a key that is gone is refused."""
    program, name, recipe, *rest = command
    assert program == "selfsteer" and name in STORY
    return load_recipe(recipe, [word for word in rest if "=" in word])


def test_kubernetes_takes_the_manifests():
    service, claim, job = documents("kubernetes.yaml")
    for one in (service, claim, job):
        kubernetes_validate.validate(one, VERSION, strict=True)
    wrong = copy.deepcopy(job)
    wrong["spec"]["template"]["spec"]["containers"][0]["voluemMounts"] = []
    with pytest.raises(kubernetes_validate.ValidationError, match="voluemMounts"):
        kubernetes_validate.validate(wrong, VERSION, strict=True)


def test_the_nodes_of_the_kubernetes_job_find_each_other():
    service, claim, job = documents("kubernetes.yaml")
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    recipe = recipe_of(container["command"] + container["args"])
    assert recipe.train.nodes == job["spec"]["completions"] == job["spec"]["parallelism"]
    name, own = job["metadata"]["name"], service["metadata"]["name"]
    assert recipe.train.rendezvous == f"{name}-0.{own}:29500" and pod["subdomain"] == own
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    assert service["spec"]["clusterIP"] == "None"
    claims = [volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"] if "emptyDir" not in volume]
    assert claims == [claim["metadata"]["name"]] and claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert "/dev/shm" in [mount["mountPath"] for mount in container["volumeMounts"]]


def test_kuberay_takes_the_job():
    (job,) = documents("ray-job.yaml")
    check_ray(job)
    recipe_of(shlex.split(job["spec"]["entrypoint"]))
    for damage in (
        lambda spec: spec.update(entrypiont="x"),
        lambda spec: spec["rayClusterSpec"]["workerGroupSpecs"][0]["rayStartParams"].update({"num-gpus": 8}),
    ):
        wrong = copy.deepcopy(job)
        damage(wrong["spec"])
        with pytest.raises(jsonschema.ValidationError):
            check_ray(wrong)


def test_the_slurm_script_is_sound():
    checker = Path(sys.executable).with_name("shellcheck")
    for command in (["bash", "-n", SLURM], [checker, SLURM]):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run(["bash", SLURM, "sso-v1"], capture_output=True, text=True)
    assert done.returncode == 2 and "usage: sbatch slurm.sh RECIPE RUN_DIR" in done.stderr


SRUN = """#!/bin/bash
# As Slurm's: the command once on each node, which knows its number.
while [[ $1 == --* ]]; do shift; done
for ((node = 0; node < SLURM_NNODES; node++)); do SLURM_NODEID=$node "$@" & done
for ((node = 0; node < SLURM_NNODES; node++)); do wait -n; done
"""


@pytest.mark.slow
def test_the_slurm_script_trains_on_two_nodes(tiny_chat_model, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    small = small_recipe(tiny_chat_model, write_queries(tmp_path), queries__heldout=0, train__processes=1)
    recipe.write_text(dump_recipe(small))
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("srun", SRUN), ("selfsteer", f'#!/bin/bash\nexec {sys.executable} -m selfsteer.cli "$@"\n')):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "SLURM_NNODES": "2", "OMP_NUM_THREADS": "1"}
    command = ["bash", SLURM, recipe, tmp_path / "run", f"train.rendezvous=localhost:{meeting_of(2, None, 60).port}"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    with without_reports():
        run(small.model_copy(update={"train": small.train.model_copy(update={"processes": 0})}), tmp_path / "alone")
    assert difference(tmp_path / "run", tmp_path / "alone") < 1e-5
