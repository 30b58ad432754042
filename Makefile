# Everything from nothing: needs Python 3.11 or newer, make and a package index.
#   make demo    install, then run the main job on a small real model
#   make test    install, then run every check
#   make bench   run the benchmarks
#   make docs    build the documentation and serve it on this machine
#   make notebooks     run every notebook and write its outputs into it
#   make test-lowest   run the tests on the oldest releases that pyproject.toml allows
#                      (downloads several GB)
#   make venv    only install

PYTHON ?= python3
VENV := .venv
SAELENS_VENV := .venv-saelens
PEER_VENV := .venv-dictionary-learning
TRACER_VENV := .venv-circuit-tracer
LOWEST_VENV := .venv-lowest
PIP := -m pip install --quiet --disable-pip-version-check --no-compile
RUN := $(VENV)/bin

# Hundreds of processes start below; each would compile torch and transformers again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test bench bench-circuit-tracer docs notebooks venv lint types unit site test-saelens test-lowest wheel clean

demo: venv
	$(RUN)/sae-lens-ext demo

# What keeps one core busy runs side by side, what takes longest first; the tests then
# have all cores.
test: venv
	@$(MAKE) --no-print-directory --jobs=2 types $(SAELENS_VENV)/.installed site wheel lint
	@$(MAKE) --no-print-directory unit test-saelens
	@echo "make test: all green"

bench: $(SAELENS_VENV)/.installed $(PEER_VENV)/.installed
	$(RUN)/python -m benchmarks all --peer-python $(SAELENS_VENV)/bin/python --peer-python $(PEER_VENV)/bin/python

bench-circuit-tracer: $(TRACER_VENV)/.installed
	$(RUN)/python -m benchmarks circuit_tracer

# Strictly: a warning, or a link inside the site that leads nowhere, is an error.
site: venv
	$(RUN)/python -m sphinx --quiet --fail-on-warning --keep-going docs build/site

docs: site
	@echo "http://127.0.0.1:8000 (interrupt to stop)"
	@$(RUN)/python -m http.server --bind 127.0.0.1 --directory build/site 8000

notebooks: venv
	$(RUN)/python .ci/run_notebooks.py

venv: $(VENV)/.installed

# The stamp is written last, so an install that was interrupted starts again.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sae-lens-ext needs Python 3.11 or newer; this is " + sys.version.split()[0] + ": set PYTHON=...")'
	@echo "installing into $(VENV) (a few minutes)"
	@$(PYTHON) -m venv $(VENV)
	@$(RUN)/python $(PIP) -c constraints.txt --upgrade pip
# All versions are known, so pip need not find any. torch, the largest, is unpacked
# beside the others; the last line adds what a system needs beside them.
	@grep -v '^torch==' constraints.txt > $(VENV)/others.txt
	@$(RUN)/python $(PIP) --no-deps -c constraints.txt torch & \
	$(RUN)/python $(PIP) --no-deps -r $(VENV)/others.txt && wait $$!
	@$(RUN)/python $(PIP) -c constraints.txt -e '.[dev]'
	@touch $@

lint: venv
	$(RUN)/ruff format --check .
	$(RUN)/ruff check .

types: venv
	$(RUN)/basedpyright

# Workers of one thread each are faster than one of many: most tests are small. Which of
# them share a worker, and in which order they start, is in tests/conftest.py.
unit: venv
	OMP_NUM_THREADS=1 $(RUN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadgroup --no-loadscope-reorder

# SAELens needs TransformerLens 3, this package's tests TransformerLens 4. The second
# environment holds what differs and sees the rest of the first one.
$(SAELENS_VENV)/.installed: $(VENV)/.installed constraints-saelens.txt
	@echo "installing SAELens into $(SAELENS_VENV)"
	@$(PYTHON) -m venv --clear --without-pip $(SAELENS_VENV)
	@$(RUN)/python -c 'import site; print(site.getsitepackages()[0])' > "$$($(SAELENS_VENV)/bin/python -c 'import site; print(site.getsitepackages()[0])')/first-environment.pth"
	@$(SAELENS_VENV)/bin/python $(PIP) -c constraints-saelens.txt sae-lens transformer-lens
	@$(SAELENS_VENV)/bin/python $(PIP) --no-deps -c constraints-saelens.txt circuit-tracer
	@touch $@

# SAELens and TransformerLens 3 warn about their own deprecations; every other warning is
# an error here too.
test-saelens: $(SAELENS_VENV)/.installed
	OMP_NUM_THREADS=1 $(SAELENS_VENV)/bin/python -m pytest tests/saelens tests/based/test_bridge.py tests/claims/test_based_analysis.py tests/claims/test_based_on_hosts.py --numprocesses=auto --maxprocesses=4 -p no:cacheprovider -W default::DeprecationWarning

# The library that `python -m benchmarks train_step` compares with beside SAELens; it sees
# the rest of the first environment too.
$(PEER_VENV)/.installed: $(VENV)/.installed
	@$(PYTHON) -m venv --clear --without-pip $(PEER_VENV)
	@$(RUN)/python -c 'import site; print(site.getsitepackages()[0])' > "$$($(PEER_VENV)/bin/python -c 'import site; print(site.getsitepackages()[0])')/first-environment.pth"
	@$(PEER_VENV)/bin/python $(PIP) --no-deps dictionary-learning==0.1.0
	@touch $@

# circuit-tracer as a user installs it: it needs transformers 4, and modules of nnsight
# that 0.8 has moved. It sees torch in the first environment.
$(TRACER_VENV)/.installed: $(VENV)/.installed
	@$(PYTHON) -m venv --clear --without-pip $(TRACER_VENV)
	@$(RUN)/python -c 'import site; print(site.getsitepackages()[0])' > "$$($(TRACER_VENV)/bin/python -c 'import site; print(site.getsitepackages()[0])')/first-environment.pth"
	@$(TRACER_VENV)/bin/python $(PIP) circuit-tracer==0.5.0 nnsight==0.7.0 transformer-lens==3.2.1 transformers==4.57.3
	@touch $@

# Old releases warn about newer ones, and not all of their annotations can be checked, so
# neither is an error here. This stays out of `make test` because the oldest torch comes
# with its GPU libraries, some 4 GB.
test-lowest: venv
	$(RUN)/uv venv --quiet --clear --python $(RUN)/python $(LOWEST_VENV)
	$(RUN)/uv pip install --quiet --python $(LOWEST_VENV) --resolution lowest-direct -e '.[all]'
	$(RUN)/uv pip install --quiet --python $(LOWEST_VENV) -c constraints.txt pytest hypothesis nbclient
	$(LOWEST_VENV)/bin/python -m pytest -p no:cacheprovider -o addopts=--doctest-modules -o filterwarnings=default

wheel: venv
	rm -rf build/wheel
	$(RUN)/python -m build --wheel --no-isolation --outdir build/wheel . > /dev/null
	$(RUN)/python .ci/check_wheel.py build/wheel

clean:
	rm -rf $(VENV) $(SAELENS_VENV) $(PEER_VENV) $(TRACER_VENV) $(LOWEST_VENV) build runs .pytest_cache .ruff_cache .hypothesis
