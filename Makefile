# SPDX-License-Identifier: MIT
# A thin front door: meson builds, the scripts in tools/ and tests/ do the rest.
BUILD ?= build
SAN_BUILD ?= build-san
DEMO_MB ?= 64
DEMO_STRATEGY ?= post-copy
N ?= 50
CHAOS_N ?= 10

.PHONY: all parent-image build deps test-deps bench-deps vm-deps criu demo check e2e-scenarios soak chaos e2e-network e2e-refusals e2e-matrix e2e-programs vm-check bench bench-quick bench-phases bench-monitor bench-forecast format install clean help

all: build

help: ## this text
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

deps: ## install missing Debian packages (root)
	@tools/setup/install-packages.sh --group build --group run

test-deps:
	@tools/setup/install-packages.sh --group build --group run --group test

bench-deps:
	@tools/setup/install-packages.sh --group build --group run --group test --group bench

vm-deps:
	@tools/setup/install-packages.sh --group build --group run --group test --group vm

criu: ## provide a CRIU that works on this kernel (root)
	@tools/setup/install-criu.sh

$(BUILD)/build.ninja:
	@meson setup $(BUILD) >/dev/null || { meson setup $(BUILD); exit 1; }

build: deps $(BUILD)/build.ninja ## build the program
	@ninja -C $(BUILD) --quiet

demo: test-deps criu build ## three hosts, a Redis with a live client, one migration (DEMO_MB=, DEMO_STRATEGY=)
	@BUILD=$(BUILD) tools/demo.py --mb $(DEMO_MB) --strategy $(DEMO_STRATEGY)

check: test-deps criu build ## every test; ends with "N passed, N failed, N skipped"
	@BUILD=$(BUILD) SAN_BUILD=$(SAN_BUILD) tests/run.py

e2e-scenarios: test-deps criu build ## the six scenarios of docs/LIFECYCLE.md
	@BUILD=$(BUILD) tests/e2e/scenarios.py

soak: test-deps criu build ## N migrations back and forth (N=50)
	@BUILD=$(BUILD) tests/e2e/soak.py --count $(N)

e2e-network: N = 500
e2e-network: test-deps criu build ## N switch-overs through bridge, Open vSwitch, VXLAN and routed networks (N=500)
	@BUILD=$(BUILD) tests/integration/test_lab_kinds.py all
	@BUILD=$(BUILD) tests/e2e/network.py --count $(N)

e2e-refusals: test-deps criu build ## moves that a switch, a controller, a router, a name server or another machine refuses; names, balancers, webhooks and old connections that follow
	@BUILD=$(BUILD) tests/e2e/refusals.py

e2e-programs: N = 20
e2e-programs: test-deps criu build ## real programs moved N times each under load, what cannot move refused; writes docs/compatibility.md (N=20)
	@BUILD=$(BUILD) tests/e2e/programs.py --count $(N) --write-docs

chaos: test-deps criu build ## kill -9 of manager and agents at every fault point and CHAOS_N random instants each (10)
	@BUILD=$(BUILD) tests/e2e/chaos.py --points --count $(CHAOS_N)

e2e-matrix: N = 20
e2e-matrix: test-deps criu build ## a Redis with a live client moves N times between all pairs of runtimes: Docker, containerd, runc (N=20)
	@BUILD=$(BUILD) N=$(N) tests/e2e/matrix.py

vm-check: vm-deps criu build ## the tests for which the kernel matters on Debian's own kernel with cgroup v2, in an emulated machine (half an hour); VM="--only throttling" picks
	@BUILD=$(BUILD) tests/vm/vm.py $(VM)

bench: bench-deps criu build ## our strategies next to stock tools: all workloads, sizes, loads, links (days); BENCH="--mb 512 ..." picks
	@BUILD=$(BUILD) bench/compare.py $(BENCH)

bench-quick: test-deps criu build ## the same for a Redis of 64 and 512 MB, 50 % writes, 5 moves each (under 5 minutes)
	@BUILD=$(BUILD) bench/compare.py --quick

bench-forecast: test-deps criu build ## predicted and real cost of moves over a grid, and the choice of auto (20 minutes)
	@BUILD=$(BUILD) bench/forecast.py

bench-phases: test-deps criu build ## our downtime by size of memory, phase by phase
	@BUILD=$(BUILD) bench/switchover.py

bench-monitor: build ## what the Resource Monitor costs with 100 containers; fails at half a percent of a core
	@BUILD=$(BUILD) bench/monitor.py

parent-image: build ## the image fleximigrate/parent for Docker, Podman and containerd, and its SPDX document (both in build/)
	@tools/parent-image.py --nest $(BUILD)/fleximigrate-nest --out $(BUILD)

format: ## clang-format all sources
	@git ls-files '*.c' '*.h' | xargs clang-format -i

install: build ## install below PREFIX
	@meson install -C $(BUILD)

clean: ## remove build folders
	@rm -rf $(BUILD) $(SAN_BUILD) build-fuzz
