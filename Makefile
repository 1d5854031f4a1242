.PHONY: help test lint format docs gpu-check bench-peers
.DEFAULT_GOAL := help
SHELL := /bin/bash

help:  ## what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Two processes, each with whole files: what the tests of a file share is made once.
test:  ## run the tests (makes the environment if need be); a part: make test ARGS=tests/shards; the slow: ARGS="-m slow"
	@python=$$(./environment.sh dev) && "$$python" -m pytest -n 2 --dist loadfile $(ARGS)

lint:  ## check style, docstrings and types
	@python=$$(./environment.sh dev) && "$$python" -m ruff check . && "$$python" -m ruff format --check . && "$$python" -m mypy

format:  ## put the code in form
	@python=$$(./environment.sh dev) && "$$python" -m ruff check --fix . && "$$python" -m ruff format .

docs:  ## build the documentation site into build/site; a warning fails
	@python=$$(./environment.sh dev) && NO_MKDOCS_2_WARNING=1 "$$python" -m mkdocs build --strict

gpu-check:  ## test and time the CUDA kernels on this machine's GPU, with python3 as it is; needs nvcc, Triton
	@python3 -m bench.gpu_check

bench-peers:  ## make the environments of RecBole, RecTools and RePlay in .peers, for the benchmarks beside them
	@python3 -m venv .peers/recbole && .peers/recbole/bin/pip install -q -r bench/contestants/recbole.txt
	@.peers/recbole/bin/pip install -q --no-deps recbole==1.2.1
	@python3 -m venv .peers/rectools && .peers/rectools/bin/pip install -q -r bench/contestants/rectools.txt
	@python3 -m venv .peers/replay && .peers/replay/bin/pip install -q -r bench/contestants/replay.txt
