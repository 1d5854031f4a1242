.PHONY: help test lint format
.DEFAULT_GOAL := help
SHELL := /bin/bash

help:  ## what there is to make
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

test:  ## run all tests (makes the environment if need be); one part: make test ARGS=tests/shards
	@python=$$(./environment.sh dev) && "$$python" -m pytest $(ARGS)

lint:  ## check style and imports
	@python=$$(./environment.sh dev) && "$$python" -m ruff check . && "$$python" -m ruff format --check .

format:  ## put the code in form
	@python=$$(./environment.sh dev) && "$$python" -m ruff check --fix . && "$$python" -m ruff format .
