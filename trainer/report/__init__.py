"""One page about one or several runs: `python -m trainer report RUN ... --out FILE`."""
