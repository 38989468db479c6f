// Package swarmtest owns virtual time: real nodes, made by parley.New, over
// simulated links inside one testing/synctest bubble.
package swarmtest

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/x/simlibp2p"
	"github.com/marcopolo/simnet"
	"github.com/multiformats/go-multiaddr"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/replica/consensus"
)

const (
	latency = 20 * time.Millisecond // one way
	mbps    = 100                   // up = down
	port    = 9906
)

// Swarm is the nodes of one bubble. Its methods fail the test themselves.
type Swarm struct {
	T     *testing.T
	nw    *simnet.Simnet
	nodes []*Node
}

// Run runs f inside a bubble, and stops what f left running.
func Run(t *testing.T, f func(s *Swarm)) {
	t.Helper()
	// Timers of a bubble that fire on several processors at once corrupt the
	// race detector's state, golang/go#78156.
	old := runtime.GOMAXPROCS(1)
	defer runtime.GOMAXPROCS(old)
	slog.SetDefault(slog.New(slog.DiscardHandler)) // simnet logs each packet
	synctest.Test(t, func(t *testing.T) {
		s := &Swarm{T: t, nw: &simnet.Simnet{LatencyFunc: simnet.StaticLatency(latency)}}
		s.nw.Start()
		defer func() {
			for _, n := range s.nodes {
				n.Stop()
			}
			time.Sleep(time.Minute) // QUIC drains
			s.nw.Close()
		}()
		f(s)
	})
}

// Node is one node with its disk, which outlives the process.
type Node struct {
	*parley.Node // of the present or last run
	Name         string
	Key          ed25519.PrivateKey
	Log          *Log
	Registry     *prometheus.Registry // of the present or last run

	swarm *Swarm
	ip    string
	mbps  int // up = down
	cfg   config.Config
	disk  *vfs.MemFS
	wal   *consensus.MemoryWAL
	stop  context.CancelFunc // nil while it does not run
	done  chan error
}

// Add makes node i of the swarm, with an own address group. It does not start.
func (s *Swarm) Add(edit ...func(*config.Config)) *Node {
	i := len(s.nodes) + 1
	name := "node" + strconv.Itoa(i)
	seed := sha256.Sum256([]byte(name))
	n := &Node{
		Name: name, Key: ed25519.NewKeyFromSeed(seed[:]), Log: &Log{}, swarm: s,
		ip: fmt.Sprintf("1.%d.0.1", i), mbps: mbps, disk: vfs.NewMem(), wal: &consensus.MemoryWAL{},
	}
	n.cfg = config.Default()
	n.cfg.Node.Name, n.cfg.DataDir = name, filepath.Join(s.T.TempDir(), name)
	n.cfg.P2P.OnAPIPort = false
	for _, e := range edit {
		e(&n.cfg)
	}
	s.nodes = append(s.nodes, n)
	return n
}

// Addr is where others dial the node, as in PEERS.
func (n *Node) Addr() string { return n.ip + ":" + strconv.Itoa(port) }

// PublicKey is the node's key as validator.
func (n *Node) PublicKey() consortium.PublicKey { return consortium.PublicKeyOf(n.Key) }

// Peers names static peers.
func Peers(addrs ...string) func(*config.Config) {
	return func(c *config.Config) { c.P2P.StaticPeers = addrs }
}

// Start runs the node, again after a Stop, on the disk that it has.
func (n *Node) Start() {
	t := n.swarm.T
	t.Helper()
	n.saveKey()
	link := simnet.LinkSettings{BitsPerSecond: n.mbps * simlibp2p.OneMbps}
	listen, err := multiaddr.NewMultiaddr(fmt.Sprintf("/ip4/%s/udp/%d/quic-v1", n.ip, port))
	if err != nil {
		t.Fatal(err)
	}
	n.Registry = prometheus.NewRegistry()
	n.Node, err = parley.New(n.cfg, parley.Env{
		Registry: n.Registry,
		Log:      slog.New(slog.NewTextHandler(n.Log, &slog.HandlerOptions{Level: logLevel()})), NoListeners: true, Resolve: resolve,
		Host: []libp2p.Option{
			simlibp2p.QUICSimnet(n.swarm.nw, simnet.NodeBiDiLinkSettings{Downlink: link, Uplink: link}),
			libp2p.ResourceManager(&network.NullResourceManager{}),
		},
		LedgerFS: n.disk, MemoryWAL: n.wal, Listen: []multiaddr.Multiaddr{listen},
	})
	if err != nil {
		t.Fatalf("%s: %v", n.Name, err)
	}
	synctest.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	n.stop, n.done = cancel, make(chan error, 1)
	go func() { n.done <- n.Run(ctx) }()
}

func logLevel() slog.Level {
	if os.Getenv("SWARM_DEBUG") != "" {
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

// Stop ends the run cleanly.
func (n *Node) Stop() {
	n.swarm.T.Helper()
	if n.stop == nil {
		return
	}
	n.stop()
	n.stop = nil
	if err := errors.Join(<-n.done, n.Close()); err != nil {
		n.swarm.T.Errorf("%s: %v", n.Name, err)
	}
}

// End waits for the run to end by itself and returns its error.
func (n *Node) End() error {
	err := <-n.done
	n.stop()
	n.stop = nil
	return errors.Join(err, n.Close())
}

func (n *Node) saveKey() {
	t := n.swarm.T
	path := filepath.Join(n.cfg.DataDir, n.cfg.Node.KeyFile)
	if _, err := os.Stat(path); err == nil {
		return
	}
	der, err := x509.MarshalPKCS8PrivateKey(n.Key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(n.cfg.DataDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// resolve knows addresses only: a bubble has no DNS.
func resolve(_ context.Context, host string) ([]netip.Addr, error) {
	a, err := netip.ParseAddr(host)
	if err != nil {
		return nil, fmt.Errorf("look up %s: no such host", host)
	}
	return []netip.Addr{a}, nil
}

// Genesis writes a genesis file with the given validators and lets all of them
// start from it. The first is the admin.
func (s *Swarm) Genesis(chainID string, nodes ...*Node) {
	s.T.Helper()
	var vs []consortium.Validator
	for _, n := range nodes {
		pub, err := crypto.UnmarshalEd25519PublicKey(n.Key.Public().(ed25519.PublicKey))
		if err != nil {
			s.T.Fatal(err)
		}
		id, err := peer.IDFromPublicKey(pub)
		if err != nil {
			s.T.Fatal(err)
		}
		vs = append(vs, consortium.Validator{Key: n.PublicKey(), Name: n.Name,
			Addresses: []string{fmt.Sprintf("/ip4/%s/udp/%d/quic-v1/p2p/%s", n.ip, port, id)}})
	}
	g, err := consortium.NewGenesis(chainID, vs, []consortium.PublicKey{nodes[0].PublicKey()}, consortium.DefaultParams(), time.Now())
	if err != nil {
		s.T.Fatal(err)
	}
	b, err := json.Marshal(g)
	if err != nil {
		s.T.Fatal(err)
	}
	file := filepath.Join(s.T.TempDir(), "genesis.json")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		s.T.Fatal(err)
	}
	for _, n := range nodes {
		n.cfg.Consortium.GenesisFile = file
	}
}

// Until waits, in virtual time, for a condition that others bring about.
func (s *Swarm) Until(what string, within time.Duration, done func() bool) {
	s.T.Helper()
	for end := time.Now().Add(within); !done(); {
		if time.Now().After(end) {
			for _, n := range s.nodes {
				s.T.Logf("--- %s\n%s", n.Name, n.Log.Tail(tailLines()))
			}
			s.T.Fatalf("not within %v: %s", within, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Submit hands a record in and waits for its block.
func (n *Node) Submit(subject, body string, ack parley.Ack) parley.Record {
	t := n.swarm.T
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r, err := n.Node.Submit(ctx, parley.Draft{Subject: subject, Body: json.RawMessage(body)}, ack)
	if err != nil {
		t.Fatalf("%s: submit %s: %v", n.Name, subject, err)
	}
	if ack == parley.Committed && r.Status != "committed" {
		t.Fatalf("%s: record %s is %s after 30 s", n.Name, subject, r.Status)
	}
	return r
}

// Records lists the ids of all records in their order, and checks that blocks
// follow each other.
func (n *Node) Records() []string {
	t := n.swarm.T
	t.Helper()
	var ids []string
	prev := ""
	for cursor := ""; ; {
		blocks, next, err := n.Blocks(parley.Range{After: cursor, Limit: 1000})
		if err != nil {
			t.Fatalf("%s: %v", n.Name, err)
		}
		for _, b := range blocks {
			if b.Height > 0 && b.PrevHash.String() != prev {
				t.Fatalf("%s: block %d follows %s, want %s", n.Name, b.Height, b.PrevHash, prev)
			}
			prev = b.Hash.String()
			records, err := n.BlockRecords(strconv.FormatUint(b.Height, 10))
			if err != nil {
				t.Fatalf("%s: %v", n.Name, err)
			}
			for _, r := range records {
				ids = append(ids, r.ID.String())
			}
		}
		if cursor = next; cursor == "" {
			return ids
		}
	}
}

// Agree waits until all nodes have the same head.
func (s *Swarm) Agree(within time.Duration, nodes ...*Node) {
	s.T.Helper()
	s.Until("all nodes have one head", within, func() bool {
		for _, n := range nodes {
			a, b := nodes[0].Node.Status().Head, n.Node.Status().Head
			if a == nil || b == nil || a.Hash != b.Hash {
				return false
			}
		}
		return true
	})
}

// Log keeps what a node logged.
type Log struct {
	mu sync.Mutex
	b  strings.Builder
}

// Write implements [io.Writer].
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// Has tells whether a line holds all parts.
func (l *Log) Has(parts ...string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
lines:
	for line := range strings.Lines(l.b.String()) {
		for _, p := range parts {
			if !strings.Contains(line, p) {
				continue lines
			}
		}
		return true
	}
	return false
}

// Tail is the last n lines.
func (l *Log) Tail(n int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(l.b.String()), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// tailLines is how much of each log a failure shows.
func tailLines() int {
	if n, err := strconv.Atoi(os.Getenv("SWARM_TAIL")); err == nil {
		return n
	}
	return 40
}
