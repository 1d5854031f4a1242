"""A Slurm job: one task a rank. It saves and queues again when it is preempted or its time is up."""

from __future__ import annotations

import argparse
import shlex

from trainer import run_directory
from trainer.launch.submit.job import Job, call
from trainer.source import ROOT

WARNING_SECONDS = 120  # between SIGUSR1 and the end of the job's time

_BODY = r"""
cd {cwd} || exit 1
run={run}
arguments=({arguments})
if [ "${{SLURM_RESTART_COUNT:-0}}" -gt 0 ] && [ -f "$run/{config}" ]; then
    arguments+=(--resume)
fi
{root}/environment.sh >/dev/null || exit 1    # makes the environment, once, if there is none
export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 9000))
export PYTHONPATH={root}${{PYTHONPATH:+:$PYTHONPATH}}{accelerator}

# Slurm sends SIGUSR1 here before the time is up, and before preemption where its SlurmctldParameters have
# preempt_send_user_signal. srun passes it on, the ranks save after the step, and the job queues again.
preempted=
trap 'preempted=1; kill -USR1 "$step" 2>/dev/null' USR1
export WORLD_SIZE=$SLURM_NTASKS LOCAL_WORLD_SIZE={ranks}
srun --kill-on-bad-exit=1 bash -c 'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID exec "$@"' \
    rank {root}/launch.sh "${{arguments[@]}}" &
step=$!
wait "$step"
code=$?
while kill -0 "$step" 2>/dev/null; do    # a signal ends `wait` before the step has ended
    wait "$step"
    code=$?
done
if [ -n "$preempted" ] && [ ! -f "$run/{results}" ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what is special to Slurm."""
    parser.add_argument(
        "--time", metavar="LIMIT", help="time limit, as sbatch has it: 90, 12:00:00, 2-00:00:00"
    )
    parser.add_argument("--partition", metavar="NAME")
    parser.add_argument("--account", metavar="NAME")
    parser.add_argument(
        "--sbatch",
        action="append",
        default=[],
        metavar="OPTION",
        help="any other option of sbatch, as --sbatch=--qos=low; may be repeated",
    )


def render(job: Job, asked: argparse.Namespace) -> str:
    """Return the batch script."""
    lines = ["job-name=mealrec", f"nodes={job.nodes}", f"ntasks-per-node={job.ranks}"]
    lines += [f"gpus-per-node={job.ranks}"] if job.on_gpu else []
    lines += [
        f"{name}={getattr(asked, name)}" for name in ("time", "partition", "account") if getattr(asked, name)
    ]
    lines += ["requeue", "open-mode=append", "output=mealrec-%j.log", f"signal=B:USR1@{WARNING_SECONDS}"]
    options = [f"--{line}" for line in lines] + asked.sbatch
    run = shlex.quote(job.run) if job.run else '"$PWD/runs/slurm-$SLURM_JOB_ID"'
    return (
        "#!/bin/bash\n"
        + "".join(f"#SBATCH {option}\n" for option in options)
        + _BODY.format(
            cwd='"$SLURM_SUBMIT_DIR"',
            run=run,
            arguments=shlex.join(job.arguments) + ("" if job.run else ' --run "$run"'),
            config=run_directory.CONFIG,
            results=run_directory.RESULTS,
            root=shlex.quote(str(ROOT)),
            ranks=job.ranks,
            accelerator="" if job.on_gpu else "\nexport DS_ACCELERATOR=cpu",
        )
    )


def submit(text: str, job: Job, asked: argparse.Namespace) -> None:
    """Give the script to sbatch.

    Raises:
        UserError: sbatch is missing or refuses.
    """
    number = call(["sbatch", "--parsable"], text).split(";")[0]
    print(f"submitted as job {number}, log mealrec-{number}.log; squeue -j {number}, scancel {number}")
