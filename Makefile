# `make demo` and `make test` set everything up by themselves. PYTHON picks the interpreter (3.10 to 3.12).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO_OUTPUT ?= output/demo

.PHONY: demo test browser lint format toyworld-check bench prometheus dashboards clean help

help: ## Show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 24

$(VENV)/.runtime: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(VENV)/.runtime ## Render a 145-frame video of the default prompt with the embedded model
	$(BIN)/python -m glc_ray.render --workers 2 --output $(DEMO_OUTPUT)

browser: ## Install Chromium for the tests of the report page, on Debian as root
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get install -qq -y --no-install-recommends chromium >/dev/null 2>&1 || \
	  { apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium >/dev/null; } || \
	  echo "no Chromium: the tests of the report page are skipped"; \
	fi

test: $(VENV)/.dev ## Run the tests
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/.dev ## Lint, check formatting, import directions and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy -p glc_ray

format: $(VENV)/.dev ## Format the code
	$(BIN)/ruff check --fix-only --exit-zero .
	$(BIN)/ruff format .

toyworld-check: $(VENV)/.runtime ## Does the embedded model show what its prompts say?
	$(BIN)/python pipelines/toyworld/check.py

bench: $(VENV)/.runtime ## Denoise in one process and on 1 and 2 workers: ratios
	$(BIN)/python -m glc_ray.bench denoise

prometheus: build/prometheus/usr/bin/promtool ## Fetch Prometheus for the tests of metrics (Debian, no root, no service)

build/prometheus/usr/bin/promtool:
	mkdir -p build/prometheus
	cd build/prometheus && (apt-get download prometheus || (apt-get update && apt-get download prometheus))
	cd build/prometheus && dpkg -x prometheus_*.deb . && rm prometheus_*.deb

dashboards: $(VENV)/.dev ## Write the JSON of the Grafana dashboards anew
	$(BIN)/python -m dashboards.build

clean: ## Remove the environment and build products
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
