"""A job of a running Ray cluster: one worker a rank, in the cluster's own environment."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer.errors import UserError, line_of
from trainer.launch.submit.job import Job
from trainer.source import ROOT

# What is sent to the cluster is the source alone.
EXCLUDED = ("/.*", "/data", "/runs", "/tests", "/docs", "/bench", "**/__pycache__")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what is special to Ray."""
    parser.add_argument(
        "--address", default="http://127.0.0.1:8265", help="of the dashboard (default: http://127.0.0.1:8265)"
    )
    parser.add_argument(
        "--runtime-env",
        type=Path,
        metavar="FILE",
        help="YAML of a Ray runtime environment to add to: packages that the cluster lacks, variables",
    )


def entrypoint(job: Job, arguments: Sequence[str]) -> str:
    """Return the command that runs on the cluster, quoted for a shell; `arguments` are the run's."""
    driver = [
        "python",
        "-m",
        "trainer.rank.ray",
        "--nodes",
        str(job.nodes),
        "--ranks-per-node",
        str(job.ranks),
    ]
    return shlex.join([*driver, *(["--gpu"] if job.on_gpu else []), "--", *arguments])


def runtime_env(extra: Path | None) -> dict[str, Any]:
    """Return the runtime environment: the source, and what the user's file adds.

    Raises:
        UserError: the file cannot be read or is not a mapping.
    """
    environment: dict[str, Any] = {"working_dir": str(ROOT), "excludes": list(EXCLUDED)}
    if extra is None:
        return environment
    import yaml

    try:
        added = yaml.safe_load(extra.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"--runtime-env {extra} cannot be read: {line_of(error)}") from None
    if not isinstance(added, dict):
        raise UserError(f"--runtime-env {extra}: expected a mapping of names to values, found {added!r}")
    return {**environment, **added}


def render(job: Job, asked: argparse.Namespace) -> str:
    """Return the submission as JSON, as Ray's REST interface takes it."""
    job.need_shared_paths("ray")
    submission = {
        "entrypoint": entrypoint(job, job.arguments),
        "runtime_env": runtime_env(asked.runtime_env),
    }
    return json.dumps(submission, indent=2) + "\n"


def submit(text: str, job: Job, asked: argparse.Namespace) -> None:
    """Submit the job.

    Raises:
        UserError: the package ray is missing, or the cluster cannot be reached or refuses.
    """
    try:
        from ray.job_submission import JobSubmissionClient
    except ImportError:
        raise UserError("submit ray needs the package ray: pip install 'mealrec[tune]'") from None
    try:
        number = JobSubmissionClient(asked.address).submit_job(**json.loads(text))
    except Exception as error:  # of requests, of Ray, of the cluster's answer
        raise UserError(f"Ray at {asked.address} does not take the job: {line_of(error)}") from None
    ask = f"--address {asked.address}"
    print(f"submitted as {number}: ray job logs {ask} --follow {number}, ray job stop {ask} {number}")
