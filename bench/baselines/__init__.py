"""Peers' models, trained to convergence and evaluated as ours are: `python -m bench.baselines`."""
