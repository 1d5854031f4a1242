"""Hands a run to a cluster's scheduler: `python -m trainer submit slurm|ray|kubernetes [OPTIONS] -- ARGS`."""
