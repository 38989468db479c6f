# make test    what CI runs: build, vet, every test (without the race detector)
# make check   before a change lands: formatting, linters, race detector, tidy, known vulnerabilities
# make bench   figures, all in one run
# make soak    long runs: fuzzing and repeated stories, FUZZTIME=1m COUNT=30
GO       ?= go
export GOFLAGS ?= -buildvcs=false
BIN      := bin/parley
FUZZTIME ?= 1m
COUNT    ?= 30
LINT     := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
VULN     := golang.org/x/vuln/cmd/govulncheck@v1.3.0

.PHONY: all build test check race lint tidy vuln bench soak fuzz clean

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

soak: fuzz
	$(GO) test -count=$(COUNT) -timeout 24h ./internal/swarmtest/...

fuzz:
	@for f in $$(grep -rl --include='*_test.go' '^func Fuzz' .); do \
		for name in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\).*/\1/p' $$f); do \
			echo "== $$name in $$(dirname $$f)"; \
			$(GO) test -run '^$$' -fuzz "^$$name$$" -fuzztime $(FUZZTIME) ./$$(dirname $$f) || exit 1; \
		done; \
	done

clean:
	rm -rf bin
