# make test    what CI runs: build, vet, every test (without the race detector), and other people's programs in interop/
# make check   before a change lands: formatting, linters, race detector, tidy, known vulnerabilities
# make bench   figures, all in one run
# make proto   the Go code of the services in api/proto anew
# make licenses  cmd/parley/licenses.txt anew, after a change of go.mod
# make attack  NAME=E1: one attack experiment of internal/swarmtest/attack, its table on stdout and in docs/attack
#              ATTACK='-seeds 5' runs five seeds a column; E8 runs processes in network namespaces (internal/soak, root)
# make soak    long runs: processes, seeds and fuzzing, one after the other
#   make soak-processes  real processes under kill -9, cuts, bad disks, changes of the set, for FOR=10m; it goes on where the run
#                        before ended (soak.out/soak.json), Ctrl-C prints the table so far; needs root
#                        SOAK='-seed N' runs one round again, SOAK=-help tells the rest
#   make soak-seeds      the stories in virtual time and the engine's tests with COUNT=30 seeds each, then make faults
#   make faults          seeded faults in virtual time, SEEDS=1000 FROM=1; it goes on where it was stopped, runs what failed
#                        again, begins anew on another commit, and ends with sums
#                        FOR=1h, where it is given, ends the stories and the faults too, each after that time and the seed
#                        at work; the engine's tests and fuzzing are not bounded by it
#   make fuzz            every fuzz target for FUZZTIME=1m, those alone with FUZZ=wire in their name or room; a table at the end
GO       ?= go
export GOFLAGS ?= -buildvcs=false
BIN      := bin/parley
FUZZTIME ?= 1m
FUZZ     ?=
COUNT    ?= 30
SEEDS    ?= 1000
FROM     ?= 1
FOR      ?= 10m
SOAK     ?=
NAME     ?= E1
ATTACK   ?=
# of seeds: none by itself
LIMIT     = $(if $(filter file,$(origin FOR)),,$(FOR))
COMMIT    = $(shell git rev-parse --short HEAD 2>/dev/null || echo none)$(shell git diff --quiet HEAD 2>/dev/null || echo -dirty-$$(git diff HEAD 2>/dev/null | cksum | cut -d' ' -f1))
LINT     := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
VULN     := golang.org/x/vuln/cmd/govulncheck@v1.3.0

.PHONY: all build proto licenses test check race lint tidy vuln bench attack soak soak-processes soak-seeds faults fuzz clean

all: build

build:
	$(GO) build -trimpath -o $(BIN) ./cmd/parley

proto:
	scripts/proto

licenses:
	scripts/licenses

test: build
	$(GO) vet ./...
	$(GO) vet -tags attack ./internal/swarmtest/attack
	$(GO) build -modfile=tools/go.mod -o bin/ github.com/fullstorydev/grpcurl/cmd/grpcurl
	$(GO) test -timeout 20m ./...
	cd interop && $(GO) vet ./... && $(GO) test -timeout 20m ./...

check: tidy lint race vuln

race:
	$(GO) test -race -timeout 40m ./...

lint:
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo "run gofmt -w on these"; exit 1; }
	@command -v golangci-lint >/dev/null || $(GO) install $(LINT)
	PATH="$$($(GO) env GOPATH)/bin:$$PATH" golangci-lint run ./...

tidy:
	$(GO) mod tidy -diff
	$(GO) mod verify

vuln:
	@command -v govulncheck >/dev/null || $(GO) install $(VULN)
	@PATH="$$($(GO) env GOPATH)/bin:$$PATH" govulncheck ./... || { \
		[ $$? -eq 1 ] && echo "check: the vulnerability database was not reached; this step is skipped" || exit 1; }

bench: build
	$(GO) run ./bench

attack:
	$(GO) test -tags attack -v -count=1 -timeout 6h -run '^Test$(NAME)$$' $(if $(filter E8,$(NAME)),./internal/soak,./internal/swarmtest/attack) -args -commit '$(COMMIT)' $(or $(ATTACK),-out $(CURDIR)/docs/attack)

soak: soak-processes soak-seeds fuzz

soak-processes: build
	$(GO) build -trimpath -o bin/soak ./internal/soak
	bin/soak -parley $(BIN) -for $(FOR) $(SOAK)

soak-seeds:
	$(GO) test -c -o bin/stories/swarm.test ./internal/swarmtest
	internal/swarmtest/seeds.sh stories bin/stories/swarm.test bin/stories 1 $(COUNT) $(COMMIT) $(LIMIT)
	CONSENSUS_SEEDS=$(COUNT) $(GO) test -count=1 -timeout 24h ./internal/replica/consensus
	$(MAKE) faults

faults:
	$(GO) test -c -o bin/faults/swarm.test ./internal/swarmtest
	internal/swarmtest/seeds.sh faults bin/faults/swarm.test bin/faults $(FROM) $(SEEDS) $(COMMIT) $(LIMIT)

fuzz:
	scripts/fuzz.sh $(GO) $(FUZZTIME) bin/fuzz '$(FUZZ)'

clean:
	rm -rf bin
