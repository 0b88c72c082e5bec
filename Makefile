# The few verbs that a person types; each is a script that says what it does, and each may be run again.
.DEFAULT_GOAL := help
.PHONY: help demo demo-down test e2e soak bench sim mutants model fuzz build images lint fmt crds audit tools

help: ## this list
	@printf 'Times are for 2 cores; the first run of anything also compiles RocksDB, AWS-LC and the local Kubernetes once (about 25 min).\n\n'
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | awk -F'\t' '{printf "  make %-10s %s\n", $$1, $$2}'
	@printf '\nCRETO_KUBECONFIG names a cluster to use instead of the local one; CRETO_IMAGE_REPOSITORY where it takes its images from.\n'

demo: ## a live quorum of 4 nodes on Kubernetes, shown step by step and left running (2 min; first time 30 min)
	@scripts/demo up

demo-down: ## removes what the demo made (5 s)
	@scripts/demo down

test: ## everything: format, lints, licences, tests, simulator, generated files, charts, e2e; ends with a count (20 min; first time about 65 min)
	@scripts/test

e2e: ## only the scenarios on a real Kubernetes; CRETO_KEEP=1 leaves it up (5 min)
	@scripts/e2e

soak: ## four nodes under load while pods are killed and cut off at random; a table of outages; MINUTES=30 (30 min)
	@scripts/soak

sim: ## the engine in the simulator, with faults and attackers; SEEDS=3000 SEED_BASE=0 name the runs (3 min)
	@scripts/sim $(or $(SEEDS),3000) $(or $(SEED_BASE),0)

mutants: ## the engine with each known fault built in: the simulator must notice every one (3 min)
	@scripts/sim mutants

model: ## the protocol as an explicit-state model, all states within bounds (8 min)
	@scripts/model

fuzz: ## mutated bytes for the decoders and the engine; MINUTES=5, shared by the targets (7 min)
	@scripts/fuzz

bench: ## four nodes on loopback under open load; a table and target/bench/bench.json (4 min)
	@scripts/bench

build: ## the three binaries in target/release (1 min; first time 20 min)
	@scripts/build

images: ## the images, with their sizes; loaded into the local Kubernetes when it is up (1 min)
	@scripts/build && scripts/images

lint: ## format, clippy with warnings denied, licences and sources of dependencies, charts, alerts, dashboards, documents (3 min)
	@scripts/lint

fmt: ## formats the Rust code (5 s)
	@scripts/cargo fmt --all

crds: ## writes the generated CustomResourceDefinitions (1 min)
	@scripts/cargo run --release -p cretoai-crds --bin crdgen -- --write

audit: ## known vulnerabilities of dependencies; fetches the RustSec database (1 min)
	@scripts/tools && scripts/cargo deny check advisories

tools: ## installs what the other verbs need (30 s; they do this themselves)
	@scripts/tools
