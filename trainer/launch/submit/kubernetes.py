"""A Kubernetes job: a PyTorchJob of Kubeflow's training operator, or a RayJob of KubeRay, by kubectl."""

from __future__ import annotations

import argparse
import re
import shlex
from typing import Any

from trainer import run_directory
from trainer.command_line import encode
from trainer.errors import UserError
from trainer.launch.submit import ray
from trainer.launch.submit.job import Job, call

SOURCE = "/opt/mealrec"  # where the image of our Dockerfile has the source
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")  # the names of pods are made from a job's
# A pod that is started again continues the run; rank 0 decides for all.
_RESUMING = (
    f'[ -f "$0/{run_directory.CONFIG}" ] && set -- "$@" --resume; exec torchrun {SOURCE}/launch.sh "$@"'
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what is special to Kubernetes."""
    parser.add_argument("--kind", choices=("pytorchjob", "rayjob"), default="pytorchjob")
    parser.add_argument("--name", default="mealrec", help="of the job (default: mealrec)")
    parser.add_argument("--namespace", metavar="NAME")
    parser.add_argument("--image", required=True, help="built from our Dockerfile")
    parser.add_argument("--claim", required=True, help="PersistentVolumeClaim that all pods mount at --mount")
    parser.add_argument("--mount", default="/shared", help="where data and runs are (default: /shared)")
    parser.add_argument("--cpus", default="8", help="CPUs a pod (default: 8)")
    parser.add_argument("--memory", default="32Gi", help="memory a pod (default: 32Gi)")
    parser.add_argument(
        "--ray-version", default="2.60.0", help="of the image, for a RayJob (default: 2.60.0)"
    )


def render(job: Job, asked: argparse.Namespace) -> str:
    """Return the manifest as YAML.

    Raises:
        UserError: a path that is not shared, or a name that Kubernetes does not take.
    """
    import yaml

    job.need_shared_paths("kubernetes")
    for option in ("name", "namespace", "claim"):
        if (value := getattr(asked, option)) is not None and not _NAME.fullmatch(value):
            raise UserError(
                f"submit kubernetes: --{option} is {value!r}, expected at most 63 lower-case letters,"
                " digits, dots and dashes, a letter or digit first and last"
            )
    metadata = {"name": asked.name} | ({"namespace": asked.namespace} if asked.namespace else {})
    kind = {"pytorchjob": pytorch_job, "rayjob": ray_job}[asked.kind]
    manifest = {**kind(job, asked), "metadata": metadata}
    text: str = yaml.safe_dump(manifest, sort_keys=False, width=110)
    return text


def pytorch_job(job: Job, asked: argparse.Namespace) -> dict[str, Any]:
    """Return a PyTorchJob: torchrun in every pod finds the others by the operator's PET_* variables."""

    def replicas(count: int) -> dict[str, Any]:
        container = {"name": "pytorch", "command": ["bash", "-c", _RESUMING, job.run, *job.arguments]}
        return {
            "replicas": count,
            "restartPolicy": "OnFailure",
            "template": {"spec": pod(job, asked, container)},
        }

    specs = {"Master": replicas(1)} | ({"Worker": replicas(job.nodes - 1)} if job.nodes > 1 else {})
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {},
        "spec": {
            "nprocPerNode": str(job.ranks),
            "runPolicy": {"cleanPodPolicy": "Running", "backoffLimit": 3},
            "pytorchReplicaSpecs": specs,
        },
    }


def ray_job(job: Job, asked: argparse.Namespace) -> dict[str, Any]:
    """Return a RayJob with a Ray cluster of its own: a head that computes nothing, and a worker per node."""
    head = pod(Job(1, 1, False, (), None, None), asked, {"name": "ray-head"})
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {},
        "spec": {
            "entrypoint": f"env PYTHONPATH={SOURCE} {_entrypoint(job)}",
            "shutdownAfterJobFinishes": True,
            "backoffLimit": 3,
            "rayClusterSpec": {
                "rayVersion": asked.ray_version,
                "headGroupSpec": {"rayStartParams": {"num-cpus": "0"}, "template": {"spec": head}},
                "workerGroupSpecs": [
                    {
                        "groupName": "ranks",
                        "replicas": job.nodes,
                        "minReplicas": job.nodes,
                        "maxReplicas": job.nodes,
                        "rayStartParams": {},
                        "template": {"spec": pod(job, asked, {"name": "ray-worker"})},
                    }
                ],
            },
        },
    }


def _entrypoint(job: Job) -> str:
    """As `ray.entrypoint`, but KubeRay joins the arguments again without the quotes that a shell needs."""
    plain = all(shlex.quote(argument) == argument for argument in job.arguments)
    return ray.entrypoint(job, job.arguments if plain else [encode(job.arguments)])


def pod(job: Job, asked: argparse.Namespace, container: dict[str, Any]) -> dict[str, Any]:
    """Return a pod with the shared volume, and shared memory for NCCL: 64 MiB, the default, is too little."""
    limits = {"cpu": asked.cpus, "memory": asked.memory} | (
        {"nvidia.com/gpu": str(job.ranks)} if job.on_gpu else {}
    )
    variables = {"PYTHONPATH": SOURCE, "MEALREC_CACHE": "/tmp/mealrec"}
    variables |= {} if job.on_gpu else {"DS_ACCELERATOR": "cpu"}
    return {
        "containers": [
            {
                **container,
                "image": asked.image,
                "env": [{"name": name, "value": value} for name, value in variables.items()],
                "resources": {"limits": limits},
                "volumeMounts": [
                    {"name": "shared", "mountPath": asked.mount},
                    {"name": "memory", "mountPath": "/dev/shm"},
                ],
            }
        ],
        "volumes": [
            {"name": "shared", "persistentVolumeClaim": {"claimName": asked.claim}},
            {"name": "memory", "emptyDir": {"medium": "Memory"}},
        ],
    }


def submit(text: str, job: Job, asked: argparse.Namespace) -> None:
    """Apply the manifest.

    Raises:
        UserError: kubectl is missing or refuses.
    """
    print(call(["kubectl", "apply", "-f", "-"], text))
