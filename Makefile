# make demo: the main job on the embedded default; make test: every check. Both set up .venv first.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: demo test lint setup clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --upgrade-strategy only-if-needed -c constraints.txt -e '.[dev,optuna]'
	touch $@

setup: $(VENV)/.installed

# none / plain reuse / GOC at 25, 50, 75 %; then, at DDIM-50, what gating at inflections is worth
demo: setup
	$(RUN) run.py -m name=demo method=none,reuse,goc cache_ratio=0.25,0.5,0.75 num_samples=2000
	$(RUN) run.py -m name=demo_gating method=none,reuse steps=50 num_samples=500
	$(RUN) run.py -m name=demo_gating steps=50 num_samples=500 gradient_weights=[1.2] inflection_threshold=null,0,0.3,0.6
	@echo
	@echo 'Image quality against cost: outputs/demo/tradeoff.png and outputs/demo/tradeoff.csv'
	@echo 'Gating at inflections:      outputs/demo_gating/tradeoff.png and outputs/demo_gating/tradeoff.csv'
	@echo 'Each run below them:        result.json, samples.png, alignment.png'

test: lint
	$(RUN) -m pytest -n 2

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean:
	rm -rf $(VENV)
