# make demo    from nothing to a served, benchmarked student
# make test    fast tests; SLOW=1 adds the slow ones and those that need the network
# make check   lint, format, types, docs
# make fix     what lint and format can mend by themselves
# make bench   measure ARTEFACT=folder against its teacher; OPTIONS="--threads 2 --json report.json"
# make serve   answer over HTTP with ARTEFACT=folder; OPTIONS="--port 8000 --workers 2"
# make lock    resolve pyproject.toml anew and write constraints.txt
#
# The virtual environment is made when it is missing and installed into again when pyproject.toml, constraints.txt or
# the sources of the engine change. PYTHON=... names the interpreter to make it with; package indices are pip's own configuration.

SHELL := /bin/bash
NATIVE := setup.py serve/engine/build.py $(wildcard serve/engine/source/*)
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
DEMO := $(VENV)/.installed-demo
DEV := $(VENV)/.installed-dev
NEW_ENOUGH := import sys, venv; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c '$(NEW_ENOUGH)' >/dev/null 2>&1 && { echo $$p; break; }; done)
# One thread: quicker on small models, and the same numbers on every machine.
test check: export OMP_NUM_THREADS ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test check fix bench serve lock

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

demo: $(DEMO)
	$(BIN)/bantam demo $(OPTIONS)

test: $(DEV)
	$(BIN)/python -m pytest $(if $(SLOW),-m "",) $(OPTIONS)

check: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_docs.py

fix: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(DEMO)
	@test -n "$(ARTEFACT)" || { echo "error: name the student to measure: make bench ARTEFACT=folder" >&2; exit 2; }
	$(BIN)/bantam bench $(ARTEFACT) $(OPTIONS)

serve: $(DEMO)
	@test -n "$(ARTEFACT)" || { echo "error: name the student to serve: make serve ARTEFACT=folder" >&2; exit 2; }
	$(BIN)/bantam serve $(ARTEFACT) $(OPTIONS)

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "error: Bantam needs Python 3.11 or newer: install it, or name it: PYTHON=..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(DEMO): pyproject.toml constraints.txt $(NATIVE) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo]'
	@touch $@

$(DEV): pyproject.toml constraints.txt $(NATIVE) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo,openvino,dev]'
	@touch $@ $(DEMO)

# Versions only. A local part (2.13.0+cpu) is the build that this machine's index offers and is left out.
lock:
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet '.[demo,openvino,dev]'
	build/lock/bin/python -m pip freeze --exclude bantam | sed 's/+.*//; s/ @ .*//' > constraints.txt
	rm -rf build/lock
