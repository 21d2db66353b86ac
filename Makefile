# Every target makes the environment that it needs: nothing but Python and make has to be there before.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SHELL := /bin/bash

.PHONY: install demo test test-slow kill fuzz check format pages docs lab results preserve preserve-text promise bench clean help

help:  ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

install: $(STAMP)  ## make .venv and install Holdfast in it with every extra

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all,dev]'
	touch $@

demo: $(STAMP)  ## teach a small multimodal model a skill and see what it forgot (5 minutes)
	$(BIN)/holdfast demo

test: $(STAMP)  ## the tests, without the slow ones
	$(BIN)/python -m pytest -n 2

test-slow: $(STAMP)  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

kill: $(STAMP)  ## kill a run a hundred times, and see that it ends bit for bit as one never killed
	$(BIN)/python tests/e2e/kills.py --kills 100

fuzz: $(STAMP)  ## at least 10,000 drawn cases of hostile input, anew each time (10 minutes)
	HOLDFAST_FUZZ=5 HOLDFAST_FUZZ_CASES=10000 $(BIN)/python -m pytest tests/fuzz

check: $(STAMP)  ## format, lint, types, tests
	$(BIN)/ruff format --check src tests
	$(BIN)/ruff check src tests
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2

format: $(STAMP)  ## put the source in the common form
	$(BIN)/ruff format src tests
	$(BIN)/ruff check --fix src tests

pages: $(STAMP)  ## write the pages of docs/ that are computed from the registry and the results
	$(BIN)/python docs/generated.py

docs: $(STAMP)  ## build the documentation site into site/
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	$(BIN)/mkdocs build --strict

lab: $(STAMP)  ## pre-train the lab's two models again, from a seed (under 60 minutes on two cores)
	$(BIN)/holdfast lab build

results: $(STAMP)  ## run the narrow-tuning comparison and write docs/results (under 90 minutes on two cores)
	$(BIN)/holdfast bench narrow --docs docs/results

preserve: $(STAMP)  ## methods against forgetting at matched learning, docs/results/preserve (an hour on two cores)
	$(BIN)/holdfast bench preserve --docs docs/results/preserve -r full -r gate-up -r keep

preserve-text: $(STAMP)  ## the same on skills of text, docs/results/preserve (two hours on two cores)
	$(BIN)/holdfast bench preserve --section text --docs docs/results/preserve -r full -r gate-up -r keep \
		-r 'full + er' -r 'full + der' -r 'full + gere' -r 'full + lwf' -r 'full + wise-ft' -r lora

promise: $(STAMP)  ## whole searches within a budget, judged on fresh questions (an hour on two cores)
	$(BIN)/python -m benchmarks.promise --docs docs/results

bench: $(STAMP)  ## speed and memory beside TRL, PEFT and lm-eval (under 15 minutes on two cores)
	$(BIN)/python -m benchmarks

clean:  ## remove what the targets made
	rm -rf $(VENV) site build .pytest_cache .mypy_cache .ruff_cache
