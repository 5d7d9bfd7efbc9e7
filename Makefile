GO ?= go
STATICCHECK ?= honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOLANGCI    ?= github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

# What --version says, and the tag of the images.
VERSION      ?= $(shell git describe --tags --always --dirty 2>/dev/null | sed 's/^v//' | grep . || echo dev)
IMAGE_PREFIX ?= ghcr.io/osism/skopeo-worker

MODULES  := planner worker shared
PACKAGES := $(MODULES:%=./%/...)
LDFLAGS  := $(foreach module,planner worker,-X github.com/osism/skopeo-worker/$(module)/command.Version=$(VERSION))

# COPY_ENGINE=builtin checks signatures with containers/image, which needs cgo and gpgme
# without this tag. A program without it does not enforce signature policies: it does not
# start where there is one.
PLAINFLAGS     := $(GOFLAGS)
export GOFLAGS := $(GOFLAGS) -tags=containers_image_openpgp

.DEFAULT_GOAL := build
# Two installations at once would meet in apt-get's lock.
.NOTPARALLEL:
.PHONY: build check test test-builtin fuzz chaos demo mirror bench fmt lint tidy images dist dist-test chart-test chart-docs help require-go require-cc require-skopeo require-chromium require-urls

build: require-go ## build bin/planner and bin/worker
	$(GO) build -ldflags "$(LDFLAGS)" -o bin/ ./planner ./worker

check: lint tidy test chart-test ## all that a change must pass: format, linters, tidy, tests, chart

# Most tests wait for processes, registries and brokers, so more of them run at once than
# there are cores. A link of a test with the race detector takes up to a GB of memory: one
# more package than cores. Without debugging information (-w), a link takes half as long. Vet belongs
# to make lint. The collector of a test may wait: GOGC=400 saves an eighth of the processor time. By
# default, a program with the race detector waits for a second when it ends. regexp and path share
# nothing that changes; the registries of the tests spend a quarter of their time there if the race
# detector watches it. (encoding/json is no such package: it has maps that goroutines share.) Nothing
# here uses unsafe, which -d=checkptr would check.
CORES     := $(shell nproc)
AT_ONCE   := -p $(shell expr $(CORES) + 1) -parallel $(shell expr 2 '*' $(CORES))
RACEFLAGS := -race -ldflags=-w -gcflags=all=-d=checkptr=0 -gcflags=regexp...=-race=false -gcflags=path=-race=false
RACE      := GOGC=400 GORACE=atexit_sleep_ms=0 $(GO) test $(RACEFLAGS) -vet=off -timeout 50m $(AT_ONCE)

test: require-go require-cc require-skopeo require-chromium ## run all tests, with the race detector
	$(RACE) $(PACKAGES)

test-builtin: require-go require-cc require-skopeo require-chromium ## run the acceptance tests with COPY_ENGINE=builtin
	COPY_ENGINE=builtin $(RACE) ./planner/acceptance -skip '^TestChaos$$'

# How long each target of make fuzz runs, which, a pattern, and whether with the race detector.
FUZZTIME ?= 5s
FUZZ     ?= .
FUZZRACE ?=

fuzz: require-go ## fuzz every parser of outside data, each for FUZZTIME
	@GO='$(GO)' FUZZTIME='$(FUZZTIME)' FUZZ='$(FUZZ)' FUZZFLAGS='$(if $(FUZZRACE),$(RACEFLAGS))' scripts/fuzz

# How long make chaos makes things go wrong, and the seed of a run to repeat; 0: a new one.
CHAOS_FOR ?= 2m
SEED      ?= 0

chaos: require-go require-skopeo ## let every part fail at random for CHAOS_FOR, and check that nothing is lost; SEED= repeats one
	$(GO) test -count=1 -v -timeout 60m ./planner/acceptance -run '^TestChaos$$' -chaos.for $(CHAOS_FOR) -chaos.seed $(SEED)

demo: require-skopeo build ## mirror a small catalogue between two registries on this machine
	$(GO) run ./planner/demo

mirror: require-urls require-skopeo build ## mirror the list at MIRROR_SOURCE_URL to MIRROR_DEST_URL
	bin/planner mirror

# What is measured: a pattern of benchmarks, one of the names of programs, the repositories
# of each kind, the round trip to the source, whether registries speak HTTP/2, and how long a
# program may take.
BENCH              ?= .
BENCH_PROGRAMS     ?=
BENCH_REPOSITORIES ?= 5
BENCH_LARGE        ?= 2
BENCH_SCALE        ?= 8
BENCH_MANY         ?= 100
BENCH_ROUND_TRIP   ?= 40ms
BENCH_HTTP2        ?= true
BENCH_LIMIT        ?= 15s
BENCHMARK           = $(GO) test -count=1 -p 1 -run '^$$' -benchtime 1x -timeout 60m
BENCH_SIZES         = -bench.repositories=$(BENCH_REPOSITORIES) -bench.large=$(BENCH_LARGE) -bench.scale=$(BENCH_SCALE) \
	-bench.many=$(BENCH_MANY) -bench.source=$(BENCH_ROUND_TRIP) -bench.http2=$(BENCH_HTTP2) \
	-bench.limit=$(BENCH_LIMIT) -bench.programs='$(BENCH_PROGRAMS)'

bench: require-go require-skopeo ## measure speed, CPU time and memory beside regsync, crane and skopeo; BENCH_* set the sizes
	$(BENCHMARK) -bench '$(BENCH)' ./planner/bench $(BENCH_SIZES)
	$(BENCHMARK) -bench '$(BENCH)' ./shared/budget ./shared/redact

# The sizes are such that it takes less than half an hour on an idle machine of two cores.
# BENCH_MANY=5000 BENCH_LIMIT=3m are a million tags, with one request for each at the destination.
bench-report: BENCH               = ^Benchmark(Quay|Hub|Unlimited|Large|Narrow|Scale|ManyTags)$$
bench-report: BENCH_REPOSITORIES  = 60
bench-report: BENCH_LARGE         = 4
bench-report: BENCH_SCALE         = 64
bench-report: BENCH_MANY          = 1000
bench-report: BENCH_LIMIT         = 90s
bench-report: require-go require-skopeo ## write docs/benchmarks.md and docs/benchmarks.json
	$(BENCHMARK) -bench '$(BENCH)' ./planner/bench $(BENCH_SIZES) -bench.report '$(CURDIR)/docs'

fmt: require-go ## format the code
	gofmt -w $(MODULES) charts

lint: require-go ## check format and code
	@unformatted=$$(gofmt -l $(MODULES) charts); test -z "$$unformatted" || { echo "gofmt would change:" $$unformatted >&2; exit 1; }
	GOFLAGS='$(PLAINFLAGS)' $(GO) vet $(PACKAGES)
	$(GO) vet $(PACKAGES)
	$(GO) vet -tags packages,containers_image_openpgp ./planner/packages
	$(GO) run $(STATICCHECK) $(PACKAGES)
	$(GO) run $(GOLANGCI) run $(PACKAGES)
	$(CHART_TEST) vet ./... && GOWORK=off $(GO) run $(STATICCHECK) ./...

tidy: require-go ## check that each go.mod names what its module needs, and nothing else
	@for module in $(MODULES); do echo "$(GO) mod tidy -diff ($$module)"; (cd $$module && $(GO) mod tidy -diff) || exit 1; done
	$(CHART_TEST) mod tidy -diff

# Helm, and what knows the API of Kubernetes, are in a module of their own, so that
# the others stay free of them.
CHART_TEST := cd charts/test && GOWORK=off $(GO)
CHART_DOCS := $(CHART_TEST) tool helm-docs --chart-search-root ../skopeo-worker \
	--sort-values-order file --skip-version-footer --log-level warning

# The chart is outside of the module, so Go does not see that it has changed: -count=1.
chart-test: require-go ## lint, render and check the Helm chart
	$(CHART_TEST) test -count=1 -vet=off -ldflags=-w -timeout 14m $(AT_ONCE) ./...
	@$(CHART_DOCS) --dry-run | diff ../skopeo-worker/README.md - || { echo "the chart's README is not that of its values: run make chart-docs" >&2; exit 1; }

chart-docs: require-go ## write the chart's README and the descriptions of its schema from the comments of its values
	$(CHART_TEST) run ./describe ../skopeo-worker
	$(CHART_DOCS)

images: ## build both container images, with docker, podman or buildah
	@VERSION='$(VERSION)' IMAGE_PREFIX='$(IMAGE_PREFIX)' scripts/images

dist: require-go ## make dist/: archives, deb and rpm packages, a Homebrew formula, checksums and SBOMs
	@VERSION='$(VERSION)' LDFLAGS='$(LDFLAGS)' GO='$(GO)' scripts/dist

# As root, who installs the packages into a folder.
dist-test: require-go require-skopeo ## install and run once what make dist has made
	@scripts/require rpm
	@scripts/require ruby
	@scripts/require groff
	@scripts/require busybox busybox-static
	$(GO) test -count=1 -tags packages,containers_image_openpgp ./planner/packages

help: ## show the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

require-go:
	@scripts/require-go

# The race detector is linked with the C compiler.
require-cc:
	@scripts/require "$$($(GO) env CC)" gcc libc6-dev

require-skopeo:
	@scripts/require "$${SKOPEO_PATH:-skopeo}" skopeo

# The pages are tried in a browser.
require-chromium:
	@scripts/require chromium chromium

require-urls:
	@test -n "$$MIRROR_SOURCE_URL" || echo "MIRROR_SOURCE_URL is not set: the list, an http(s) URL or a file" >&2
	@test -n "$$MIRROR_DEST_URL" || echo "MIRROR_DEST_URL is not set: the destination, host[:port][/prefix]" >&2
	@test -n "$$MIRROR_SOURCE_URL" && test -n "$$MIRROR_DEST_URL"
