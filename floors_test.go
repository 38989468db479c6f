package parley_test

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/parley-p2p/parley"

// ground is what every room may import: words, no goroutines.
var ground = []string{"chain", "event", "config", "internal/wire", "internal/tracing", "internal/tally", "consortium"}

// floors names each room and what it imports of this module beside the ground,
// in code that is no test. A room that is not here stands on no floor, and the
// test is red; so it is for a room or an arrow of the table that is no more.
var floors = map[string][]string{
	// ground
	"internal/tracing": {},
	"internal/tally":   {},
	"chain":            {},
	"event":            {"chain"},
	"config":           {"event"},
	"internal/wire":    {"chain"},
	"consortium":       {"chain"},

	// left wing: keepers, then doers
	"internal/p2p/host":       {},
	"internal/p2p/reputation": {},
	"internal/p2p/addrbook":   {},
	"internal/p2p/history":    {},
	"internal/p2p/handshake":  {"internal/p2p/reputation"},
	"internal/p2p/dialer":     {"internal/p2p/addrbook", "internal/p2p/reputation"},
	"internal/p2p/gossip":     {"internal/p2p/reputation"},
	"internal/p2p/discovery":  {"internal/p2p/addrbook"},

	// right wing: one chain each
	"internal/replica/ledger":            {},
	"internal/replica/ledger/ledgertest": {},
	"internal/replica/mempool":           {},
	"internal/replica/chainsync":         {"internal/replica/ledger"},
	"internal/replica/consensus":         {"internal/replica/ledger"},
	"internal/replica": {"internal/replica/ledger", "internal/replica/mempool", "internal/replica/chainsync",
		"internal/replica/consensus"},

	"internal/sidecar": {},

	// the node: the only place where rooms are wired
	"": {"internal/p2p/addrbook", "internal/p2p/host", "internal/p2p/reputation", "internal/p2p/handshake", "internal/p2p/dialer", "internal/p2p/gossip", "internal/p2p/history",
		"internal/replica", "internal/replica/ledger", "internal/replica/consensus", "internal/replica/mempool", "internal/sidecar", "internal/p2p/discovery"},

	// roof
	"api/proto/parley/v1":                 {},
	"api/proto/parley/v1/parleyv1connect": {"api/proto/parley/v1"},
	"api/proto/p2p_api":                   {},
	"api/proto/p2p_api/p2papiconnect":     {"api/proto/p2p_api"},
	"api":                                 {"", "api/proto/parley/v1", "api/proto/parley/v1/parleyv1connect", "api/proto/p2p_api", "api/proto/p2p_api/p2papiconnect"},
	"examples/library":                    {""},
	"examples/sidecar-node":               {}, // its test runs the binary
	"cmd/parley":                          {"", "api", "api/proto/parley/v1", "api/proto/parley/v1/parleyv1connect", "api/sink", "internal/devnet"},
	"api/sink":                            {},

	// labs
	"internal/devnet":            {""},
	"internal/swarmtest/checker": {"internal/replica/ledger"},
	"internal/swarmtest":         {"", "internal/replica/consensus", "internal/swarmtest/checker"},
	"internal/swarmtest/attack":  {}, // its tests, with the tag attack, play with rooms
	"internal/pgtest":            {},
	"internal/soak":              {"", "internal/devnet", "internal/swarmtest/checker"},
	"bench":                      {"", "api", "api/proto/parley/v1", "api/proto/parley/v1/parleyv1connect", "internal/devnet", "internal/p2p/addrbook", "internal/p2p/discovery", "internal/p2p/host", "internal/p2p/reputation", "internal/replica/chainsync", "internal/replica/ledger"}, // measures rooms alone too
}

// outside limits who may import a module that is not ours: a chain never sees
// a socket, and only a few know a library. Who is here and does not import it
// turns the test red, too.
var outside = map[string][]string{
	"github.com/libp2p/go-libp2p-pubsub":        {"internal/p2p/gossip", "bench"},
	"github.com/libp2p/go-libp2p-kad-dht":       {"internal/p2p/discovery", "bench"},
	"github.com/libp2p/go-libp2p-kbucket":       {"internal/p2p/discovery"},
	"github.com/hyperledger-labs/SmartBFT":      {"internal/replica/consensus"},
	"github.com/cockroachdb/pebble/v2":          {"internal/replica/ledger", "internal/replica", "", "internal/swarmtest", "internal/swarmtest/checker", "bench"},
	"github.com/jackc/pgx/v5":                   {"internal/p2p/reputation"},
	"modernc.org/sqlite":                        {"internal/p2p/history", "internal/p2p/reputation"},
	"github.com/pressly/goose/v3":               {"internal/p2p/history", "internal/p2p/reputation"},
	"github.com/coder/websocket":                {"api", "cmd/parley"},
	"github.com/lxzan/gws":                      {"bench"}, // what our fan-out is measured against
	"google.golang.org/grpc":                    {"bench"}, // how programs attach
	"github.com/danielgtaylor/huma/v2":          {"api"},
	"github.com/ethereum/go-ethereum":           {"api"}, // rpc alone, of which the licence is LGPL-3.0: unmodified, by its version in go.mod
	"github.com/gorilla/websocket":              {},      // comes with it, and is nobody's
	"connectrpc.com/connect":                    {"api", "api/proto/parley/v1/parleyv1connect", "api/proto/p2p_api/p2papiconnect", "cmd/parley"},
	"connectrpc.com/grpchealth":                 {"api"},
	"connectrpc.com/grpcreflect":                {"api"},
	"go.opentelemetry.io/otel/sdk":              {"cmd/parley"}, // rooms know the API of traces alone
	"go.opentelemetry.io/otel/exporters":        {"cmd/parley"},
	"github.com/nats-io/nats.go":                {"api/sink"},
	"github.com/twmb/franz-go":                  {"api/sink"},
	"github.com/libp2p/go-libp2p/core/host":     {"internal/p2p/host", "internal/p2p/handshake", "internal/p2p/dialer", "internal/p2p/discovery", "internal/p2p/gossip", "bench"},
	"github.com/libp2p/go-libp2p/core/network":  {"internal/p2p/host", "internal/p2p/reputation", "internal/p2p/handshake", "internal/p2p/dialer", "internal/p2p/discovery", "internal/p2p/gossip", "", "internal/swarmtest", "bench"},
	"github.com/libp2p/go-libp2p/core/connmgr":  {"internal/p2p/host", "internal/p2p/reputation", "internal/p2p/discovery"},
	"github.com/libp2p/go-libp2p/core/protocol": {"internal/p2p/host", "internal/p2p/handshake", "internal/p2p/discovery", "internal/p2p/gossip", "", "bench"},
}

type goPackage struct {
	ImportPath string
	Doc        string
	Imports    []string
}

// arrow is an import of a room.
type arrow struct{ from, to string }

// TestFloors holds the table of rooms: calls go down, wings meet in node.go.
func TestFloors(t *testing.T) {
	used, rooms := map[arrow]bool{}, map[string]bool{}
	for _, p := range packages(t) {
		room := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
		may, known := floors[room]
		if !known {
			t.Errorf("room %q stands on no floor: add it to the table and to ARCHITECTURE.md", room)
			continue
		}
		rooms[room] = true
		if p.Doc == "" {
			t.Errorf("room %q has no package comment that says what it owns", room)
		}
		isGround := slices.Contains(ground, room)
		for _, imp := range p.Imports {
			checkOutside(t, room, imp, used)
			below, ours := strings.CutPrefix(imp, module)
			below = strings.TrimPrefix(below, "/")
			used[arrow{room, below}] = true
			if !ours || slices.Contains(may, below) || !isGround && slices.Contains(ground, below) {
				continue
			}
			t.Errorf("room %q imports %q: the table does not allow this arrow", room, below)
		}
	}
	for room, may := range floors {
		if !rooms[room] {
			t.Errorf("room %q is no more: take it out of the table and of ARCHITECTURE.md", room)
		}
		for _, below := range may {
			if !used[arrow{room, below}] {
				t.Errorf("room %q does not import %q: take the arrow out of the table", room, below)
			}
		}
	}
	for prefix, rooms := range outside {
		for _, room := range rooms {
			if !used[arrow{room, prefix}] {
				t.Errorf("room %q does not import %s: take it out of the table", room, prefix)
			}
		}
	}
}

func checkOutside(t *testing.T, room, imp string, used map[arrow]bool) {
	t.Helper()
	for prefix, rooms := range outside {
		if imp != prefix && !strings.HasPrefix(imp, prefix+"/") {
			continue
		}
		used[arrow{room, prefix}] = true
		if !slices.Contains(rooms, room) {
			t.Errorf("room %q imports %s: only %q may", room, imp, rooms)
		}
	}
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Doc,Imports", "./...").Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			t.Fatalf("go list: %s", exit.Stderr)
		}
		t.Fatal(err)
	}
	var list []goPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
}

// TestNotice holds NOTICE to what is linked: the LGPL asks for the version.
func TestNotice(t *testing.T) {
	notice, err := os.ReadFile("NOTICE")
	if err != nil {
		t.Fatal(err)
	}
	mod, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"github.com/ethereum/go-ethereum"} {
		_, rest, ok := strings.Cut(string(mod), "\t"+name+" ")
		version, _, _ := strings.Cut(rest, "\n")
		if !ok || !strings.Contains(string(notice), name+" "+version+",") {
			t.Errorf("NOTICE does not name %s %s", name, version)
		}
	}
}
