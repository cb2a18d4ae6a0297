# Everything a person or a machine runs. `make` alone lists it.
#
# Needs Python 3.11 or later, make and - where RabbitMQ or Redis is missing - apt; everything else is set up in .venv
# and .run. With RABBITMQ_URL and REDIS_URL set, those servers are used and none is started.

SHELL := /bin/sh
.DEFAULT_GOAL := help

PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
VENV := .venv
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
AUDIT := $(VENV)/audit
COMPOSE_FILE := docker-compose.gpu.yml
COMPOSE = $(shell if docker compose version >/dev/null 2>&1; then echo docker compose; \
	else command -v docker-compose || command -v podman-compose; fi)
URL ?= http://127.0.0.1:5000
N ?= 3
OVERLAY ?= demo-cpu
ARGS ?=

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ready ## show the whole system for a minute: real and synthetic jobs, a table, a sample result
	@$(PY) -m deploy.local.demo --stop-with-parent $(ARGS)

.PHONY: run
run: ready ## keep the system up in the foreground (WORKERS=3 and every setting of .env.example are honoured)
	@$(PY) -m deploy.local.run --stop-with-parent $(ARGS)

# Debian packages that only these need, installed with the servers.
test monitor: EXTRAS := prometheus
test pictures: EXTRAS += chromium
test-deploy: EXTRAS := podman runc netavark aardvark-dns catatonit debootstrap

.PHONY: test
test: ready ## run all tests that need no accelerator (ARGS="-k name" for some)
	@$(PY) -m pytest $(ARGS)

.PHONY: test-chaos
test-chaos: ready ## faults at random while jobs run, then a reckoning (ARGS="--jobs 20000 --faults 200 --seed 0")
	@$(PY) -m tests.chaos $(ARGS)

.PHONY: fuzz
fuzz: ready ## send a real dispatcher whatever its OpenAPI document allows or forbids (ARGS="--examples 50 --seed 0")
	@$(PY) -m tests.fuzz $(ARGS)

.PHONY: mutants
mutants: $(INSTALLED) ## break the policy in one place at a time: do its tests notice? (ARGS="eta ledger" for some files)
	@$(PY) -m tests.support.mutants $(ARGS)

.PHONY: check
check: $(INSTALLED) ## lint, format, types, import contracts
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

# Not a part of check: what is known of a package's flaws is on the network, so without it there is nothing to compare.
.PHONY: audit
audit: python-there ## look up known flaws of the packages in constraints.txt (needs the network: asks PyPI)
	@test -x $(AUDIT)/bin/pip-audit || { $(PYTHON) -m venv $(AUDIT) && $(AUDIT)/bin/python -m pip install --quiet \
		--disable-pip-version-check pip-audit; } || { echo "audit: pip-audit cannot be installed; nothing was checked" >&2; exit 1; }
	@$(AUDIT)/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --progress-spinner off || { \
		echo "audit: not passed. Without a table above, the network failed and nothing was checked" >&2; exit 1; }

.PHONY: bench
bench: ready ## measure what the dispatcher adds to a bare publish and consume
	@$(PY) -m bench overhead $(ARGS)

.PHONY: system-test
system-test: $(INSTALLED) ## check and load a running system (URL=http://127.0.0.1:5000)
	@$(PY) -m bench system-test --url $(URL) $(ARGS)

.PHONY: up
up: compose-there ## start the compose stack: RabbitMQ, Redis, dispatcher, a worker for every GPU of this host
	$(COMPOSE) -f $(COMPOSE_FILE) up --detach --build

.PHONY: down
down: compose-there ## stop the compose stack; its volumes stay
	$(COMPOSE) -f $(COMPOSE_FILE) down --remove-orphans

.PHONY: logs
logs: compose-there ## follow the logs of the compose stack
	$(COMPOSE) -f $(COMPOSE_FILE) logs --follow --tail 100

.PHONY: scale-worker
scale-worker: compose-there ## run N worker containers (N=3); each takes the GPUs that nobody serves yet
	$(COMPOSE) -f $(COMPOSE_FILE) up --detach --no-recreate --scale worker=$(N) worker

.PHONY: test-deploy
test-deploy: ready ## build the images, bring the compose stack up with simulated GPUs, use it, kill a worker, take it down
	@$(PY) -m tests.deploy $(ARGS)

.PHONY: k8s
k8s: python-there ## put an overlay of deploy/k8s on the cluster kubectl points at (OVERLAY=gpu or demo-cpu, ARGS=--dry-run)
	@$(PYTHON) -m deploy.k8s.apply $(OVERLAY) $(ARGS)

.PHONY: pictures
pictures: ready ## draw docs/pictures anew, from the live demo in a browser without a window
	@$(PY) -m deploy.local.pictures $(ARGS)

.PHONY: monitor
monitor: ready ## start Prometheus, with our rules and alerts, on a running system (URL=http://127.0.0.1:5000)
	@$(PY) -m deploy.local.monitor --url $(URL) $(ARGS)

.PHONY: watch
watch: $(INSTALLED) ## show workers and models of a running system as text (URL=http://127.0.0.1:5000), Ctrl-C ends it
	@while clear; do \
		$(VENV)/bin/affinity workers --url $(URL) && $(VENV)/bin/affinity models --url $(URL) || exit 1; sleep 2; done

.PHONY: lock
lock: $(INSTALLED) ## write constraints.txt from what is installed in .venv
	@{ sed -n '/^#/p' constraints.txt; $(PY) -m pip freeze --all --exclude-editable | sed -e '/^pip==/d' -e 's/+[a-z0-9.]*$$//'; } > constraints.new
	@mv constraints.new constraints.txt

.PHONY: clean
clean: ## remove .venv, .run and every cache
	rm -rf $(VENV) .run .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# What demo, run and tests need. apt and pip side by side: each is about a minute on a bare machine.
.PHONY: ready
ready:
	@$(MAKE) --no-print-directory -j2 $(INSTALLED) servers EXTRAS="$(EXTRAS)"

.PHONY: servers
servers: python-there
	@$(PYTHON) -m deploy.local.install $(EXTRAS)

.PHONY: python-there
python-there:
	@test -n "$(PYTHON)" || { echo "Affinity needs Python 3.11 or later: install it, or name one with PYTHON=..." >&2; exit 1; }

.PHONY: compose-there
compose-there:
	@test -n "$(COMPOSE)" || { echo "No docker compose, docker-compose or podman-compose on this machine: install one," \
		"or use 'make run', which needs no containers." >&2; exit 1; }

# The stamp makes every later run quick. An interrupted installation leaves none and is begun again.
$(INSTALLED): pyproject.toml constraints.txt | python-there
	@echo "[venv] installing Python packages into $(VENV) (one to two minutes the first time)"
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || $(PYTHON) -m deploy.local.install
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(PY) -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[dispatcher,worker,tracing,bench,dev]'
	@touch $@
	@echo "[venv] ready"
