# `make demo` and `make test` need Python 3.11 or later and a package registry, nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PROTOS := mlserve/wire/proto

# Every install, and every build that an install starts, takes the versions of constraints.txt.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Each of the thousand processes that the suite starts would compile mlserve anew.
unexport PYTHONDONTWRITEBYTECODE
MANIFESTS := pyproject.toml constraints.txt $(wildcard plugins/*/pyproject.toml tests/*/pyproject.toml)
SCRIPTS = .ci/run $(shell find docker examples tests -name '*.sh')
# The suite in one process more than there are CPUs (`conftest.py`), and at most four. ALONE is what
# nothing may run beside, in the files that have such a test. FAST leaves out the files whose every test
# is slow: to read them takes longer than all fast tests, as they import the frameworks.
PYTEST := $(BIN)/python -m pytest
SPREAD := -n logical --maxprocesses 4 --dist loadscope --no-loadscope-reorder
ALONE = -m alone $$(grep -rl --include='test_*.py' mark.alone tests plugins | sort)
FAST = -m 'not server and not tensorflow and not framework and not alone and not slow' $$(grep -rLE --include='test_*.py' \
	'^(pytestmark = .*|    )pytest\.mark\.(server|tensorflow|framework)\>' tests plugins | sort)
# What `make demo` needs. A part that another one needs comes first, so that pip takes it from here.
RUNTIME := -e '.[server]' -e 'plugins/models[all]' -e 'plugins/tfserving[export]' \
	-e 'plugins/onnxruntime[export]' -e plugins/model-server
ALL := -e '.[server,images,signing,otlp,s3,gcs,hf,mlflow,test,lint]' -e 'plugins/models[all]' -e 'plugins/sklearn[export]' \
	-e 'plugins/torch[export]' -e 'plugins/tfserving[export]' \
	-e 'plugins/onnxruntime[export,sklearn,torch]' \
	-e 'plugins/openvino[export,onnx,torch]' -e plugins/model-server \
	-e plugins/ray -e tests/echo

.DEFAULT_GOAL := help
.PHONY: help install demo foreign test coverage test-docker test-fast fuzz lint format bench bench-peers \
	bench-overload policies parity pictures reference protos changelog clean

# A line that begins with `##@` is a heading of the help.
help: ## List the targets
	@awk -F ':.*## ' '/^##@ / { print "\n" substr($$0, 5) } /^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' \
		$(MAKEFILE_LIST)

$(VENV)/installed-runtime: $(MANIFESTS)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mlserve needs Python 3.11 or later: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(RUNTIME)
	touch $@

$(VENV)/installed-dev: $(VENV)/installed-runtime
	$(BIN)/pip install --quiet $(ALL)
	touch $@

##@ Start

install: $(VENV)/installed-dev ## Make the virtual environment with everything for development

demo: $(VENV)/installed-runtime ## Export, serve, predict examples/horse.jpg, stop
	@PATH="$(abspath $(BIN)):$$PATH" ./examples/demo.sh

##@ Test

# Envoy, Triton, MLServer, KServe, TorchServe, and kubectl with Helm, each in an environment of its own, in
# the folder that MLSERVE_TEST_FOREIGN names, if set. What cannot be had is said, and its tests are skipped.
foreign: $(VENV)/installed-dev ## Build the environments of the third-party servers of the tests
	$(BIN)/python tests/foreign/build.py

test: $(VENV)/installed-dev foreign ## Run the whole suite
	$(PYTEST) $(SPREAD) -m 'not alone' $(ARGS)
	$(PYTEST) $(ALONE) $(ARGS)

coverage: $(VENV)/installed-dev foreign ## Run the whole suite and print what it covers: half as long again
	$(PYTEST) $(SPREAD) -m 'not alone' --cov --cov-report= $(ARGS)
	$(PYTEST) $(ALONE) --cov --cov-append --cov-report=term $(ARGS)

test-docker: $(VENV)/installed-dev ## Run what needs a Docker engine: build the images, run them
	$(PYTEST) -m docker $(ARGS)

test-fast: $(VENV)/installed-dev ## Run what needs no framework, starts no server and is not slow
	$(PYTEST) $(SPREAD) $(FAST) $(ARGS)

fuzz: $(VENV)/installed-dev ## Compare both decoders on 10,000 damaged images (ARGS='--seed 1')
	$(BIN)/python tests/fuzz/compare_decoders.py $(ARGS)

##@ Check

lint: $(VENV)/installed-dev ## Check style, types, imports, Dockerfiles, the compose file and scripts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint docker/*/Dockerfile tests/docker/*/Dockerfile
	$(BIN)/docker-compose --file docker/compose.yaml config --quiet
	$(BIN)/shellcheck $(SCRIPTS)

format: $(VENV)/installed-dev ## Format the code, and fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

##@ Measure

bench: $(VENV)/installed-dev ## Measure start-up, latency, the image pipeline and overload: prints tables
	$(BIN)/pip install --quiet -e '.[bench]'
	$(BIN)/python benchmarks/start.py
	$(BIN)/python benchmarks/cold_start.py
	$(BIN)/python benchmarks/latency.py
	$(BIN)/python benchmarks/pipeline.py
	$(BIN)/python benchmarks/onnx_server.py
	$(BIN)/python benchmarks/overload/run.py --quick

bench-overload: $(VENV)/installed-dev ## Overload servers in every way of docs/overload.md: half an hour
	$(BIN)/pip install --quiet -e '.[bench]'
	$(BIN)/python benchmarks/overload/run.py $(ARGS)

policies: $(VENV)/installed-dev ## Simulate admission beside other policies, and write its part of docs/overload.md
	$(BIN)/python benchmarks/policies/run.py --page $(ARGS)

# In the folder that MLSERVE_BENCH_PEERS names, else under the user's cache. Left out is what cannot be had.
bench-peers: $(VENV)/installed-dev ## Measure seven other servers beside mlserve, and write docs/benchmarks.md
	$(BIN)/python benchmarks/peers/environments.py
	$(BIN)/python benchmarks/peers/compare.py $(ARGS)

parity: $(VENV)/installed-dev ## Compare both backends on the parity images and write docs/parity.md
	$(BIN)/python benchmarks/parity.py

##@ Generate

reference: $(VENV)/installed-dev ## Write docs/reference from the commands, settings and errors
	$(BIN)/python docs/reference/generate.py

pictures: $(VENV)/installed-dev ## Film the README's first commands, and take the pictures of the page and of a report
	$(BIN)/python docs/film.py
	$(BIN)/python docs/take_pictures.py

protos: $(VENV)/installed-dev ## Write the descriptors and type stubs of the .proto files
	$(BIN)/python -m grpc_tools.protoc -I. --include_imports --pyi_out=. \
		--descriptor_set_out=$(PROTOS)/descriptors.binpb $(PROTOS)/*.proto

changelog: $(VENV)/installed-dev ## Show the next release's changes; VERSION=0.2.0 writes them to CHANGELOG.md
	$(BIN)/towncrier build $(if $(VERSION),--yes --version $(VERSION),--draft --version unreleased)

##@ Clean up

clean: ## Remove the virtual environment and everything that was built
	rm -rf $(VENV) .foreign build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache \
		.hypothesis .coverage*
