# Every target makes its own environment first: .venv, filled from pyproject.toml, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUN ?= demo
PYTHON_VERSIONS := 3.10 3.11 3.12 3.13

# Idle threads of OpenMP sleep instead of spinning, in kernels that load torch before pmm, too.
export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := help
.PHONY: help demo smoke test test-all bench lint lab explore explorer clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  Another interpreter: make demo PYTHON=python3.12"

demo: $(STAMP) ## run all notebooks on the sample scenes; then open runs/demo/report.html
	$(BIN)/pmm run params/demo.yaml

smoke: $(STAMP) ## run all notebooks on a few tiny scenes, to see that everything works
	$(BIN)/pmm run params/smoke.yaml

test: $(STAMP) ## run the tests that take seconds
	$(BIN)/python -m pytest

test-all: $(STAMP) ## run all tests, the slow ones too
	$(BIN)/python -m pytest -m "slow or not slow"

bench: $(STAMP) ## measure speed and memory; writes docs/speed.md (twenty minutes on 2 quiet cores)
	$(BIN)/python tests/benchmarks/bench.py

lint: $(STAMP) ## check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lab: $(STAMP) ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks

explore: $(STAMP) ## open the sliders as a web page, of runs/demo or: make explore RUN=mine
	@test -f runs/$(RUN)/report.html || { echo "make: no runs/$(RUN) to explore; run it first (make demo), or name another: make explore RUN=mine" >&2; exit 1; }
	$(BIN)/voila runs/$(RUN)/notebooks/08_explorer.ipynb --Voila.root_dir=runs/$(RUN) --token --show_tracebacks=True \
	  --VoilaExporter.filters=markdown2html=pmm.run.pages.voila_html --VoilaConfiguration.file_allowlist='.*\.html'

explorer: $(STAMP) ## write docs/explorer.html, the sliders that need no Python, of runs/demo; make demo first
	@test -f runs/demo/report.html || { echo "make: no runs/demo to show; make demo first" >&2; exit 1; }
	$(BIN)/pmm explorer runs/demo --out docs/explorer.html $(addprefix --scene train_,0045 0189 0014 0056 0018 0137)

clean: ## delete caches and runs/smoke; other runs and .venv stay
	rm -rf runs/smoke .pytest_cache .ruff_cache .hypothesis .benchmarks build dist *.egg-info
	find pmm tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found; name one: make PYTHON=python3.12" >&2; exit 1; }
	@version=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	case " $(PYTHON_VERSIONS) " in \
	  *" $$version "*) ;; \
	  *) echo "make: $(PYTHON) is Python $$version, this needs one of $(PYTHON_VERSIONS); name one: make PYTHON=python3.12" >&2; exit 1 ;; \
	esac
	@echo "make: filling $(VENV), once, which takes some minutes"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet -e ".[lab,dev,coco,fast,gpus,cluster]"
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet -e ".[reference]" || \
	  echo "make: pydensecrf2 does not build here (no C++ compiler?); tests against it will skip, nothing else needs it"
	@$(BIN)/python -c "from pmm.method.crf import compile_lattice; compile_lattice()"
	@touch $@
