# `make` alone lists what there is.
.DEFAULT_GOAL := help
UV := .tools/uv/bin/uv
RUN := $(UV) run --no-sync
BUILDBOT := 4.3.0

help:  ## list the commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: .venv/ready  ## install what is missing: the environment, and where none is reachable a Docker engine
	@scripts/engine

up: setup  ## run the whole system in the foreground; Ctrl-C stops it
	@exec .venv/bin/samebits up

demo: setup  ## run the main job once, end to end, and check that all of it held; TARGET=aws: on ECR and ECS
ifeq ($(TARGET),aws)
	@$(RUN) python -m tests.aws.demo
else
	@.venv/bin/samebits demo
endif

test: setup check  ## run every test
	@$(RUN) python -m tests.everything

faults: setup  ## run the full fault suite, and write .integrations/faults.json; TESTS=tests/blocks: a part
	@$(RUN) python -m tests.faults $(TESTS)

bench: setup .tools/buildbot/ready  ## measure against the floor and Buildbot, and write .integrations/bench.json; QUICK=1
	@$(if $(QUICK),,scripts/postgres)
	@$(RUN) python -m bench $(if $(QUICK),quick)

check: .venv/ready  ## ruff, mypy, import-linter and the fast tests
	@$(RUN) ruff format --check --quiet .
	@$(RUN) ruff check --quiet .
	@$(RUN) mypy
	@$(RUN) lint-imports --no-logo
	@$(RUN) pytest --quiet tests/domain

apply: .venv/ready  ## apply prefect.yaml to the running system
	@.venv/bin/samebits apply

doctor: .venv/ready  ## check everything that a run needs, and say what to do about what is wrong
	@.venv/bin/samebits doctor

clean:  ## remove the environment and the tools, not the data
	rm -rf .venv .tools .mypy_cache .ruff_cache .pytest_cache .hypothesis

# Bytecode is compiled here, once: where PYTHONDONTWRITEBYTECODE is set, as in many images, each
# process would else compile Prefect anew, which takes 3 s.
.venv/ready: pyproject.toml uv.lock Makefile $(UV)
	@$(UV) sync --locked --quiet --compile-bytecode
	@touch $@

.tools/buildbot/ready: $(UV) Makefile
	@$(UV) venv --quiet --clear .tools/buildbot
	@$(UV) pip install --quiet --python .tools/buildbot buildbot==$(BUILDBOT) buildbot-worker==$(BUILDBOT) \
		buildbot-www==$(BUILDBOT)
	@touch $@

$(UV):
	@scripts/uv .tools/uv

.PHONY: help setup up demo test faults bench check apply doctor clean
