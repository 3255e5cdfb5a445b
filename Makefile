# SPDX-License-Identifier: Apache-2.0
.DEFAULT_GOAL := help
SHELL := /bin/bash

VERSION ?= v0.1.0-dev
LDFLAGS := -s -w -X github.com/hyvve/vault-plugin-secrets-hyvve/internal/version.Version=$(VERSION)
GOBUILD := CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)'
FUZZTIME ?= 10s

.PHONY: help
help: ## Show this text
	@echo 'hyvve: key rotation that waits for evidence. Targets:'
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

.DEFAULT:
	@echo 'make: there is no target "$@"; "make help" lists those there are' >&2; exit 2

.PHONY: setup
setup: ## Install and build what tests and demo run on, where it is missing (the targets below do it themselves)
	@scripts/setup

.PHONY: setup-demo
setup-demo: # without Kubernetes, which takes long to build
	@scripts/setup without-kubernetes

.PHONY: build
build: ## Build the plugin (build/plugins/), the sidecar, the injector, the hyvve command and the demo (build/bin/)
	@$(GOBUILD) -o build/plugins/ ./plugin/cmd/vault-plugin-secrets-hyvve
	@$(GOBUILD) -o build/bin/ ./sidecar/cmd/hyvve-sidecar ./sidecar/cmd/hyvve-injector ./operator/cmd/hyvve
	@CGO_ENABLED=0 go build -o build/bin/ ./test/demo/cmd/hyvve-demo ./test/bed/cmd/hyvve-dev ./test/bed/cmd/hyvve-pause ./test/bench/cmd/hyvve-bench
	@CGO_ENABLED=0 go build -C test/images -trimpath -o "$(CURDIR)/build/bin/hyvve-images" .

IMAGES := hyvve-sidecar hyvve-injector
IMAGE_ARCHS := amd64 arm64

.PHONY: images
images: build ## Make container images of sidecar and injector, for amd64 and arm64, with bills of materials (build/images/); PUSH=REGISTRY pushes them
	@for image in $(IMAGES); do \
		for arch in $(IMAGE_ARCHS); do GOOS=linux GOARCH=$$arch $(GOBUILD) -o build/images/bin/$$arch/ ./sidecar/cmd/$$image || exit; done; \
		build/bin/hyvve-images --name=hyvve/$$image:$(VERSION) --layout=build/images/$$image --output=build/images/"$${image}_{arch}.tar" \
			--sbom=build/images/"$${image}_{arch}.spdx.json" $(if $(PUSH),--push=$(PUSH)/hyvve/$$image) \
			$(foreach arch,$(IMAGE_ARCHS),build/images/bin/$(arch)/$$image) || exit; \
	done

.PHONY: demo
demo: setup-demo build ## Rotate every key of a small HYVVE under load, on real parts; build/demo/summary.json has the result
	@build/bin/hyvve-demo

.PHONY: dev
dev: setup-demo build ## Run a Vault with the engine at hyvve/ in the foreground, and say what to try
	@build/bin/hyvve-dev

# Terraform is the one part that set-up does not bring: where it is not installed, the tests that run it, TestTerraform…, are left out.
WITHOUT_TERRAFORM = $(shell command -v terraform >/dev/null || echo "-skip '^TestTerraform'")

# These targets set up what tests need: a test that is skipped there fails. scripts/test-k8s sets the variable itself.
test test-e2e test-adversary test-ha test-soak test-rare test-mounts: export HYVVE_NO_SKIP = 1

# Tests in real pods need a node of Kubernetes, which "make test-k8s" starts.
WITHOUT_PODS = grep -v /test/e2e/pods

.PHONY: test
test: setup build ## Run every test, with the race detector, on real servers, then sim; no test may be skipped (half an hour on two cores)
	@command -v terraform >/dev/null || echo 'test: terraform is not on PATH: deploy/vault/terraform is parsed, and not run'
	scripts/go-test -race -timeout 45m $(WITHOUT_TERRAFORM) $$(go list ./... | $(WITHOUT_PODS))
	scripts/go-test -C test/images ./...
	@$(MAKE) --no-print-directory sim

.PHONY: test-unit
test-unit: ## Run the tests that need neither a server nor what setup fetches
	scripts/go-test -short -race ./...

.PHONY: test-e2e
test-e2e: setup build ## Run the scenarios of test/e2e, and the tests that talk to real servers
	scripts/go-test -race -timeout 45m $(WITHOUT_TERRAFORM) $$(go list -test -f '{{if not .ForTest}}{{.ImportPath}} {{join .Deps " "}}{{end}}' ./... | sed -n 's,\.test .* [^ ]*/test/bed\( .*\|$$\),,p' | $(WITHOUT_PODS))

.PHONY: test-adversary
test-adversary: setup build ## Attack real components with what one token, one pod or one neighbour may do; no attack may do harm
	scripts/go-test -count=1 -timeout 45m -run '^TestAdversary' $$(go list ./... | $(WITHOUT_PODS))

.PHONY: test-ha
test-ha: setup-demo build ## Kill a cluster's leader in each move, the plugin a hundred times, and do without Vault for ten minutes (some twenty minutes in all)
	HYVVE_LONG=1 scripts/go-test -count=1 -v -timeout 60m -run '^(TestHighAvailability|TestPluginKilledAHundredTimes|TestVaultIsGoneForLong|TestAdversaryWaitsHoldAStepDownUp)$$' ./test/e2e

.PHONY: test-k8s
test-k8s: setup build ## Run the scenarios in real pods, on a Kubernetes of one node in namespaces of its own; takes root
	@scripts/test-k8s

ROTATIONS ?= 50

.PHONY: test-soak
test-soak: setup-demo build ## Rotate DATABASE_URL and REDIS_URL together, then AGENT_SERVICE_TOKEN and METRICS_API_KEY, ROTATIONS (50) times each under load; nothing may fail
	HYVVE_ROTATIONS=$(ROTATIONS) scripts/go-test -count=1 -v -timeout 60m -run '^(TestServerURLs|TestWholeRotationUnderLoad)$$' ./test/e2e

.PHONY: test-rare
test-rare: setup-demo build ## Rotate ROTATIONS (50) times while clients log in for 20 ms each second and each five; none may be refused (some half an hour)
	HYVVE_ROTATIONS=$(ROTATIONS) scripts/go-test -count=1 -v -timeout 90m -run '^TestRareLogins$$' ./test/e2e

.PHONY: test-mounts
test-mounts: ROTATIONS = 20
test-mounts: setup-demo build ## Rotate the same keys of two mounts, on one PostgreSQL and one Redis, ROTATIONS (20) times each under load; nothing may fail
	HYVVE_ROTATIONS=$(ROTATIONS) scripts/go-test -count=1 -v -timeout 60m -run '^TestTwoMounts$$' ./test/e2e

SEED ?=
SEEDS ?= 10000

.PHONY: sim
sim: ## Run the engine in SEEDS (10000) simulated worlds, or tell the story of the one of SEED
	go test ./test/sim -run TestSimulation -count 1 -timeout 0 -v -args $(if $(SEED),-seed $(SEED),-seeds $(SEEDS)) $(if $(FROM),-from $(FROM)) $(SIMFLAGS)

.PHONY: sim-agent
sim-agent: ## Run the sidecar's machine in SEEDS (10000) simulated worlds, or print the story of the one of SEED
	go test ./sidecar/agent/machine -run 'TestSimulation$$' -count 1 -timeout 0 -v -args $(if $(SEED),-seed $(SEED),-seeds $(SEEDS)) $(if $(FROM),-from $(FROM))

.PHONY: sim-liar
sim-liar: SIMFLAGS = -liars
sim-liar: sim ## Run simulated worlds in which one instance of each workload reports anything at any time

.PHONY: sim-long
sim-long: ## Run the engine in a million simulated worlds (some three hours on two cores)
	@$(MAKE) --no-print-directory sim SEEDS=1000000

.PHONY: bench
bench: setup build ## Run every benchmark and print ours against the peer's; build/bench.json has the result
	@build/bin/hyvve-bench

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME (10s) each
	go test -run '^$$' -fuzz '^FuzzParse$$' -fuzztime $(FUZZTIME) ./internal/envelope
	go test -run '^$$' -fuzz '^FuzzParse$$' -fuzztime $(FUZZTIME) ./internal/dsn
	go test -run '^$$' -fuzz '^FuzzURL$$' -fuzztime $(FUZZTIME) ./internal/dsn
	go test -run '^$$' -fuzz '^FuzzDecode$$' -fuzztime $(FUZZTIME) ./internal/key
	go test -run '^$$' -fuzz '^FuzzPublicText$$' -fuzztime $(FUZZTIME) ./internal/kind
	go test -run '^$$' -fuzz '^FuzzSettings$$' -fuzztime $(FUZZTIME) ./internal/pgsession
	go test -run '^$$' -fuzz '^FuzzDecode$$' -fuzztime $(FUZZTIME) ./internal/rotation
	go test -run '^$$' -fuzz '^FuzzJournal$$' -fuzztime $(FUZZTIME) ./internal/engine/journal
	go test -run '^$$' -fuzz '^FuzzReport$$' -fuzztime $(FUZZTIME) ./internal/engine
	go test -run '^$$' -fuzz '^FuzzAnswer$$' -fuzztime $(FUZZTIME) ./internal/client
	go test -run '^$$' -fuzz '^FuzzNodes$$' -fuzztime $(FUZZTIME) ./internal/kind/redis
	go test -run '^$$' -fuzz '^FuzzUser$$' -fuzztime $(FUZZTIME) ./internal/kind/redis
	go test -run '^$$' -fuzz '^FuzzKeys$$' -fuzztime $(FUZZTIME) ./internal/pbkdf2
	go test -run '^$$' -fuzz '^FuzzEnvFiles$$' -fuzztime $(FUZZTIME) ./sidecar/render
	go test -run '^$$' -fuzz '^FuzzExposition$$' -fuzztime $(FUZZTIME) ./sidecar/health
	go test -run '^$$' -fuzz '^FuzzText$$' -fuzztime $(FUZZTIME) ./sidecar/mask
	go test -run '^$$' -fuzz '^FuzzTranslate$$' -fuzztime $(FUZZTIME) ./sidecar/proxy
	go test -run '^$$' -fuzz '^FuzzReview$$' -fuzztime $(FUZZTIME) ./sidecar/inject/webhook
	go test -run '^$$' -fuzz '^FuzzAnnotations$$' -fuzztime $(FUZZTIME) ./sidecar/inject
	go test -run '^$$' -fuzz '^FuzzPod$$' -fuzztime $(FUZZTIME) ./sidecar/inject

.PHONY: test-arm64
test-arm64: ## Run the assembly for arm64 in an emulator, qemu-aarch64-static of Debian's package qemu-user-static
	GOARCH=arm64 go test -count=1 -v -exec qemu-aarch64-static -run '^(TestVectors|FuzzKeys)$$' ./internal/pbkdf2

.PHONY: generate
generate: ## Regenerate what is made from something else: assembly, pages and tables of docs, golden responses, messages, pods and charts, deploy/manifests
	go run -C internal/pbkdf2/asm .
	go test -count=1 -run '^(TestGoldenResponses|TestAPIPage)$$' ./plugin -update
	go test -count=1 -run '^TestDocsDrawTheTable$$' ./internal/rotation -update
	go test -count=1 -run '^TestDocsDrawTheTable$$' ./sidecar/agent/machine -update
	go test -count=1 -run '^TestPageShowsWhatIsCompiled$$' ./test/kindtest -update
	go test -count=1 -run '^(TestShapes|TestDocumentation)$$' ./sidecar/inject -update
	go test -count=1 -run '^TestReference$$' ./sidecar/config -update
	go test -count=1 -run '^TestReference$$' ./operator/command -update
	go test -count=1 -run '^TestScreens$$' ./operator/live -update
	go test -count=1 -run '^(TestGolden|TestManifest)$$' ./deploy/helm -update
	go test -count=1 -run '^TestMessages$$' ./test/messages -update

.PHONY: lint
lint: ## Check formatting, vet, import rules and the rest of .golangci.yml, the language of docs, comments and messages, known vulnerabilities, and that assembly is what its generator makes
	@scripts/lint run ./...
	@scripts/prose
	@go vet -C test/images ./...
	@go test -C scripts/vulnerabilities ./...
	@go build -C scripts/vulnerabilities -o "$(CURDIR)/build/tools/vulnerabilities" . && build/tools/vulnerabilities -allowed=scripts/vulnerabilities/allowed.txt ./...
	@go test -C internal/pbkdf2/asm -count=1 ./... # a cached result would stand though the .s files, outside of that module, have changed

.PHONY: fmt
fmt: ## Format all Go files
	@scripts/lint fmt ./...

.PHONY: clean
clean: ## Remove what was built, but not the tools that took long to build
	rm -rf build/bin build/images build/plugins build/run build/demo build/bench.json
