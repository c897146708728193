# make demo    convert a small network, run it, and print what came out
# make test    what CI runs: style, types and tests, on the built wheel
# make oldest  the tests on the oldest versions that pyproject.toml admits
# make dev     an editable install in .venv, for working on the code
# make format  let ruff mend what it can
# make clean   remove the environments and everything built
#
# Each keeps its own virtual environment and renews it when pyproject.toml
# changes. Another interpreter:  make test PYTHON=python3.13
# Some of the tests:             make unit PYTEST_ARGS='-k passes -x'

PYTHON ?= python3

FOLDERS := graphpass runtime exporters models
PACKAGES := graphpass graphpass_runtime graphpass_exporters graphpass_models

# Folders are listed too, so that a removed file counts as a change.
SOURCES := pyproject.toml README.md LICENSE \
	$(shell find $(FOLDERS) -name __pycache__ -prune -o -print)
DIRECTORIES := $(shell find $(FOLDERS) -name __pycache__ -prune -o -type d -print)

# setuptools never deletes from build/lib, so a removed module would go on
# shipping. What else build/ holds is the editable install: leave it.
DROP_STALE_BUILD := rm -rf build/lib build/bdist.*

# What checks the packages runs in an empty folder, where only the installed
# ones can be imported.
ELSEWHERE := tmp=$$(mktemp -d) && trap 'rm -rf "$$tmp"' EXIT && cd "$$tmp" &&
TEST_BIN := $(CURDIR)/.venv-test/bin

# Real networks and images, for the tests that use them when they are there.
ifdef GRAPHPASS_SHARED
export GRAPHPASS_SHARED
else ifneq ($(wildcard ../shared/data),)
export GRAPHPASS_SHARED := $(CURDIR)/../shared/data
endif

export PIP_DISABLE_PIP_VERSION_CHECK := 1
unexport PYTHONPATH

.PHONY: help demo test oldest lint types unit wheel dev format clean
.NOTPARALLEL:
.DELETE_ON_ERROR:

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' Makefile

demo: .venv-demo/installed
	@.venv-demo/bin/graphpass demo

test: lint types unit

lint: .venv-test/dependencies
	.venv-test/bin/ruff check .
	.venv-test/bin/ruff format --check .

types: wheel
	$(ELSEWHERE) "$(TEST_BIN)/mypy" --strict --config-file "$(CURDIR)/pyproject.toml" \
		--cache-dir "$(CURDIR)/.mypy_cache" $(PACKAGES:%=-p %)

unit: wheel
	$(ELSEWHERE) GRAPHPASS_EXPECT_INSTALLED=1 "$(TEST_BIN)/pytest" \
		--rootdir "$(CURDIR)" -c "$(CURDIR)/pyproject.toml" "$(CURDIR)/tests" $(PYTEST_ARGS)

wheel: .venv-test/dependencies
	$(DROP_STALE_BUILD)
	rm -rf .venv-test/wheel
	.venv-test/bin/python -m pip wheel --quiet --no-deps --no-build-isolation \
		--wheel-dir .venv-test/wheel .
	.venv-test/bin/python -m pip install --quiet --force-reinstall --no-deps .venv-test/wheel/*.whl

oldest: .venv-oldest/dependencies
	$(DROP_STALE_BUILD)
	.venv-oldest/bin/python -m pip install --quiet --force-reinstall --no-deps .
	$(ELSEWHERE) GRAPHPASS_EXPECT_INSTALLED=1 GRAPHPASS_OLDEST=1 \
		"$(CURDIR)/.venv-oldest/bin/pytest" \
		--rootdir "$(CURDIR)" -c "$(CURDIR)/pyproject.toml" "$(CURDIR)/tests" $(PYTEST_ARGS)

dev: .venv/installed

format: .venv-test/dependencies
	.venv-test/bin/ruff check --fix .
	.venv-test/bin/ruff format .

clean:
	rm -rf .venv .venv-demo .venv-test .venv-oldest build dist graphpass.egg-info
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find $(FOLDERS) tests -name __pycache__ -type d -prune -exec rm -rf {} +

# A changed pyproject.toml starts these two afresh: what it no longer asks for
# must not stay importable.
.venv-test/dependencies: EXTRAS := cpu,export,demo,dev
.venv-demo/dependencies: EXTRAS := cpu,demo
.venv-test/dependencies .venv-demo/dependencies: pyproject.toml
	rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	$(DROP_STALE_BUILD)
	$(@D)/bin/python -m pip install --quiet ".[$(EXTRAS)]"
	touch $@

.venv-oldest/dependencies: pyproject.toml tests/oldest.txt
	rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	$(DROP_STALE_BUILD)
	$(@D)/bin/python -m pip install --quiet --constraint tests/oldest.txt ".[cpu,demo,dev]"
	touch $@

.venv-demo/installed: .venv-demo/dependencies $(SOURCES)
	$(DROP_STALE_BUILD)
	.venv-demo/bin/python -m pip install --quiet --force-reinstall --no-deps .
	touch $@

# Strict editable mode links file by file, so a new file needs a new install.
.venv/installed: pyproject.toml $(DIRECTORIES)
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --config-settings editable_mode=strict \
		--editable ".[cpu,export,demo,dev]"
	touch $@
