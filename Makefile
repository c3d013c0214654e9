# Everything a user needs: `make demo` and `make test`. Both set up what they use.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
SEEDS  ?= 1
# Every worker and every process that the tests start would compile the same files again.
unexport PYTHONDONTWRITEBYTECODE
CHANNELS := runs/channels-$(shell date +%Y%m%d-%H%M%S)

.PHONY: demo channels playground test test-fast test-slow lint starter clean

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	touch $@

demo: $(VENV)/.installed  ## train the starter's student through the real services, evaluate it, write a report
	$(BIN)/psuedoptimal demo --seeds $(SEEDS)

channels: $(VENV)/.installed  ## a student of each channel, and the three of them in one figure (under half an hour)
	$(BIN)/psuedoptimal demo --seeds $(SEEDS) --runs $(CHANNELS)
	$(BIN)/psuedoptimal demo program --seeds $(SEEDS) --runs $(CHANNELS)
	$(BIN)/psuedoptimal demo latent --seeds $(SEEDS) --runs $(CHANNELS)
	$(BIN)/psuedoptimal compare $(CHANNELS)/demo-*-seed* --svg $(CHANNELS)/rates.svg --markdown

playground: $(VENV)/.installed  ## the lab's page over runs/, beside a decoder and a sandbox: it says where to look
	$(BIN)/psuedoptimal serve playground

test: $(VENV)/.installed  ## every test that needs no GPU, no Docker, no gVisor and no network
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not gpu and not docker and not gvisor and not network"

test-fast: $(VENV)/.installed  ## the same without those that are marked slow
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not slow and not gpu and not docker and not gvisor and not network"

test-slow: $(VENV)/.installed  ## the tests that need runsc or a Docker engine: both are installed and started where absent (root)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docker]'
	PYTHON=$(BIN)/python tests/stack/engine.sh $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "docker or gvisor"

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

starter: $(VENV)/.installed  ## train the committed starter weights again, from scratch (about half an hour)
	$(BIN)/python -m trainer.starter.build

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
