# `make` lists the targets. All of them set up .venv first, if it is not there.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

# where it is set, as in containers, each of the tests' processes would compile the same modules again
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help demo test test-nightly test-kernels compatibility docs check lint setup clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 22

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --upgrade-strategy only-if-needed -c constraints.txt -e '.[dev,optuna]'
	touch $@

setup: $(VENV)/.installed ## install the project and its tools into .venv

# what ten and five network evaluations buy: fewer steps, and caches on 20 and 50 steps
demo: setup ## the main job on the embedded default: 4 minutes on 2 quiet cores
	$(RUN) run.py -m experiment=digits_budget name=demo num_samples=500 batch_size=125 cache_ratio=0.5,0.75,0.8 latency_repeats=1
	@echo
	$(RUN) experiments/digits_budget.py outputs/demo --picture outputs/demo/distance.png
	@echo 'Distance against evaluations:   outputs/demo/distance.png'
	@echo 'Image quality against cost:     outputs/demo/tradeoff.png, the page outputs/demo/report.html'
	@echo 'The table, with paired errors:  outputs/demo/table.md'
	@echo 'Each run below:                 result.json, samples.png, alignment.png'

LINT := $(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy

# pytest with these arguments, and lint beside it, which speaks last; each can fail
define beside_lint
@said=$$(mktemp); { $(LINT); } >$$said 2>&1 & lint=$$!; \
$(RUN) -m pytest $(1); tests=$$?; \
wait $$lint; lint=$$?; cat $$said; rm $$said; exit $$((tests | lint))
endef

test: setup ## lint, types and the tests, side by side
	$(call beside_lint,-n 4) # more than the cores, as some tests wait

test-nightly: setup ## the long tests, whose claims shorter ones hold too
	$(RUN) -m pytest -n 4 --nightly

# the folders that compute: what is new in them is tested so as well
NUMERIC := $(addprefix tests/unit/,caching metrics models pipelines sampling test_golden.py test_oracles.py)
test-kernels: setup ## their tests again, as other processors add up: without vector instructions, and with MKL's oldest
	ATEN_CPU_CAPABILITY=default $(RUN) -m pytest -n 2 -q -m 'not slow' $(NUMERIC)
	MKL_CBWR=COMPATIBLE $(RUN) -m pytest -n 2 -q -m 'not slow' $(NUMERIC)

compatibility: setup ## the caches on all that diffusers has, tiny; writes docs/compatibility.md
	$(RUN) scripts/compatibility.py

docs: setup ## the site, built strictly and with its notebooks run: outputs/site/index.html
	$(VENV)/bin/pip install --quiet -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build -f docs/site/mkdocs.yml

check: setup ## lint, types and the quick tests, side by side: no application, no pipeline
	$(call beside_lint,tests/unit --ignore=tests/unit/pipelines -n 2 -m 'not slow' -q)

lint: setup ## ruff (lint and format) and mypy
	$(LINT)

clean: ## remove .venv
	rm -rf $(VENV)
