# make test    what CI runs: build, vet, every test (without the race detector)
# make check   before a change lands: formatting, linters, race detector, tidy, known vulnerabilities
# make bench   figures, all in one run
# make soak    long runs: processes, seeds and fuzzing, one after the other
#   make soak-processes  real processes under kill -9, cuts, bad disks, changes of the set, for FOR=10m; it goes on where the run
#                        before ended (soak.out/soak.json), Ctrl-C prints the table so far; needs root
#                        SOAK='-seed N' runs one round again, SOAK=-help tells the rest
#   make soak-seeds      the stories in virtual time, COUNT=30 times, then make faults
#   make faults          seeded faults in virtual time, SEEDS=1000 FROM=1; it goes on where it was stopped, and ends with sums
#   make fuzz            every fuzz target for FUZZTIME=1m
GO       ?= go
export GOFLAGS ?= -buildvcs=false
BIN      := bin/parley
FUZZTIME ?= 1m
COUNT    ?= 30
SEEDS    ?= 1000
FROM     ?= 1
FOR      ?= 10m
SOAK     ?=
LINT     := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
VULN     := golang.org/x/vuln/cmd/govulncheck@v1.3.0

.PHONY: all build test check race lint tidy vuln bench soak soak-processes soak-seeds faults fuzz clean

all: build

build:
	$(GO) build -trimpath -o $(BIN) ./cmd/parley

test: build
	$(GO) vet ./...
	$(GO) test -timeout 20m ./...

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

soak: soak-processes soak-seeds fuzz

soak-processes: build
	$(GO) build -trimpath -o bin/soak ./internal/soak
	bin/soak -parley $(BIN) -for $(FOR) $(SOAK)

soak-seeds:
	$(GO) test -count=$(COUNT) -timeout 24h ./internal/swarmtest/...
	$(MAKE) faults

# One process a seed: a panic of the engine ends its own seed only. What is in
# bin/faults/seeds is not run again; a seed that failed leaves its directory.
faults:
	@mkdir -p bin/faults && touch bin/faults/seeds
	$(GO) test -c -o bin/faults/swarm.test ./internal/swarmtest
	@for k in $$(seq $(FROM) $$(($(FROM) + $(SEEDS) - 1))); do \
		grep -q "^seed $$k:" bin/faults/seeds && continue; \
		(cd internal/swarmtest && SWARM_SEED=$$k SWARM_DIR=../../bin/faults ../../bin/faults/swarm.test \
			-test.run '^TestFaults$$' -test.timeout 1h -test.v) > bin/faults/out 2>&1 && how=good || { how=FAILED; mv bin/faults/out bin/faults/seed-$$k.out; }; \
		sum=$$(cat bin/faults/out bin/faults/seed-$$k.out 2>/dev/null | sed -n 's/.*\(acknowledged [0-9]*, .*disagreements [0-9]*\).*/\1/p' | head -1); \
		echo "seed $$k: $$how $$sum" | tee -a bin/faults/seeds; \
	done
	@awk '{ n++; bad += $$3 == "FAILED"; for (i = 4; i < NF; i += 2) sum[$$i] += $$(i+1) } \
		END { printf "%d seeds, %d failed: acknowledged %d, committed %d, rejected %d, lost %d, duplicated %d, disagreements %d\n", \
		n, bad, sum["acknowledged"], sum["committed"], sum["rejected"], sum["lost"], sum["duplicated"], sum["disagreements"]; exit bad > 0 }' bin/faults/seeds

fuzz:
	@for f in $$(grep -rl --include='*_test.go' '^func Fuzz' .); do \
		for name in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\).*/\1/p' $$f); do \
			echo "== $$name in $$(dirname $$f)"; \
			$(GO) test -run '^$$' -fuzz "^$$name$$" -fuzztime $(FUZZTIME) ./$$(dirname $$f) || exit 1; \
		done; \
	done

clean:
	rm -rf bin
