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
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/marcopolo/simnet"
	"github.com/multiformats/go-multiaddr"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/replica/consensus"
	"github.com/parley-p2p/parley/internal/swarmtest/checker"
)

const (
	latency = 20 * time.Millisecond // one way
	mbps    = 100                   // up = down
	port    = 9906
)

// Swarm is the nodes of one bubble. Its methods fail the test themselves.
type Swarm struct {
	T *testing.T
	// PowerCuts gives nodes that are added later a disk that can lose its power.
	PowerCuts bool

	nw    *simnet.Simnet
	links *links
	nodes []*Node
	seed  uint64
	cuts  atomic.Uint64 // of power, so far

	genesis *consortium.Genesis // the last that Genesis made
}

// Run runs f inside a bubble, and stops what f left running. SWARM_SEED is the
// seed of what the network and the disks do, 1 where it is not set; with another
// one each link has a latency of its own, so that things come in another order.
func Run(t *testing.T, f func(s *Swarm)) {
	t.Helper()
	seed := uint64(1)
	if v := os.Getenv("SWARM_SEED"); v != "" {
		var err error
		if seed, err = strconv.ParseUint(v, 10, 64); err != nil {
			t.Fatalf("SWARM_SEED=%s: want a number", v)
		}
	}
	RunSeed(t, seed, func(s *Swarm) {
		if seed != 1 {
			s.Uneven()
		}
		f(s)
	})
}

// Uneven gives each link a latency of its own, by the seed. Call it before
// nodes start.
func (s *Swarm) Uneven() { s.links.uneven = s.seed }

// RunSeed is Run with a seed of what the network and the disks lose.
func RunSeed(t *testing.T, seed uint64, f func(s *Swarm)) {
	t.Helper()
	// Timers of a bubble that fire on several processors at once corrupt the
	// race detector's state, golang/go#78156.
	old := runtime.GOMAXPROCS(1)
	defer runtime.GOMAXPROCS(old)
	defer func() { forgiveHung(t, recover()) }()
	slog.SetDefault(slog.New(slog.DiscardHandler)) // simnet logs each packet
	synctest.Test(t, func(t *testing.T) {
		s := &Swarm{T: t, links: newLinks(seed), seed: seed}
		s.nw = &simnet.Simnet{LatencyFunc: s.links.latency}
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
	KeepBans     bool                 // in a file, over its lives

	// Resolve looks up names; nil = it knows addresses alone.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)

	swarm *Swarm
	ip    string
	port  int
	mbps  int // up = down
	cfg   config.Config
	disk  *vfs.MemFS
	wal   *consensus.MemoryWAL
	life  atomic.Pointer[life] // nil while it does not run
	runs  []checker.Run        // what ended lives told

	limits   network.ResourceManager // what it grants to others
	outgoing consensus.Outgoing      // what a traitor sends, nil for an honest node
}

// Add makes node i of the swarm, with an own address group. It does not start.
func (s *Swarm) Add(edit ...func(*config.Config)) *Node {
	i := len(s.nodes) + 1
	name := "node" + strconv.Itoa(i)
	seed := sha256.Sum256([]byte(name))
	n := &Node{
		Name: name, Key: ed25519.NewKeyFromSeed(seed[:]), Log: &Log{}, swarm: s,
		ip: fmt.Sprintf("%d.%d.0.1", 1+i>>8, i&255), port: port, mbps: mbps, disk: vfs.NewMem(), wal: &consensus.MemoryWAL{},
		limits: &network.NullResourceManager{},
	}
	n.cfg = config.Default()
	n.cfg.Node.Name, n.cfg.DataDir = name, filepath.Join(s.T.TempDir(), name)
	n.cfg.P2P.OnAPIPort = false
	if s.PowerCuts {
		n.disk = vfs.NewCrashableMem()
	}
	for _, e := range edit {
		e(&n.cfg)
	}
	s.nodes = append(s.nodes, n)
	return n
}

// Addr is where others dial the node, as in PEERS.
func (n *Node) Addr() string { return n.ip + ":" + strconv.Itoa(n.port) }

func (n *Node) listenAddr() string { return fmt.Sprintf("/ip4/%s/udp/%d/quic-v1", n.ip, n.port) }

// PublicKey is the node's key as validator.
func (n *Node) PublicKey() consortium.PublicKey { return consortium.PublicKeyOf(n.Key) }

// Alone has a node look for nobody: it keeps to whom it is told of.
func Alone(c *config.Config) {
	c.P2P.TargetPeers, c.Discovery.DHT, c.Discovery.PEX = 0, config.DHTOff, false
}

// Peers names static peers.
func Peers(addrs ...string) func(*config.Config) {
	return func(c *config.Config) { c.P2P.StaticPeers = addrs }
}

// Start runs the node, again after a Stop, on the disk that it has.
func (n *Node) Start() {
	t := n.swarm.T
	t.Helper()
	if old := n.life.Load(); old != nil {
		if !old.dead.Load() {
			t.Fatalf("%s runs already", n.Name)
		}
		<-old.ended
	}
	n.saveKey()
	listen, err := multiaddr.NewMultiaddr(n.listenAddr())
	if err != nil {
		t.Fatal(err)
	}
	l := &life{node: n, done: make(chan error, 1), ending: make(chan struct{}), ended: make(chan struct{})}
	env := parley.Env{
		Registry: prometheus.NewRegistry(),
		Log:      slog.New(slog.NewTextHandler(n.Log, &slog.HandlerOptions{Level: logLevel()})), NoListeners: true, NoHistory: true, NoBans: !n.KeepBans, Resolve: n.Resolve,
		ListenUDP: l.listenUDP, Host: []libp2p.Option{libp2p.ResourceManager(n.limits)},
		LedgerFS: n.disk, MemoryWAL: n.wal, Outgoing: n.outgoing, Listen: []multiaddr.Multiaddr{listen},
	}
	if env.Resolve == nil {
		env.Resolve = resolve
	}
	if n.swarm.PowerCuts {
		env.LedgerFS = errorfs.Wrap(n.disk, l)
		n.wal.Died = func(string) { l.die(100) }
	}
	if l.run, err = parley.New(n.cfg, env); err != nil {
		t.Fatalf("%s: %v", n.Name, err)
	}
	n.Node, n.Registry = l.run, env.Registry
	l.sub = l.run.Events().Subscribe()
	if head := l.run.Status().Head; head != nil {
		l.told.Start = head.Height
	}
	synctest.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	l.cancel = cancel
	n.life.Store(l)
	go l.listen(ctx)
	go func() {
		err := l.run.Run(ctx)
		l.done <- err
		if err != nil && n.swarm.PowerCuts { // a process that ends by itself leaves its disk as it is
			l.die(100)
		}
	}()
}

func logLevel() slog.Level {
	if os.Getenv("SWARM_DEBUG") != "" {
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

// Stop ends the run cleanly; of a dead node it waits for the end.
func (n *Node) Stop() {
	n.swarm.T.Helper()
	l := n.life.Swap(nil)
	switch {
	case l == nil:
	case l.dead.Load():
		<-l.ended
	default:
		err := l.end()
		if err != nil && !n.swarm.PowerCuts { // else it ends with the process
			n.swarm.T.Errorf("%s: %v", n.Name, err)
		}
	}
}

// End waits for the run to end by itself and returns its error.
func (n *Node) End() error {
	l := n.life.Swap(nil)
	err := <-l.done
	l.cancel()
	return l.close(err)
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
		vs = append(vs, n.validator())
	}
	g, err := consortium.NewGenesis(chainID, vs, []consortium.PublicKey{nodes[0].PublicKey()}, consortium.DefaultParams(), time.Now())
	if err != nil {
		s.T.Fatal(err)
	}
	s.genesis = g
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

// validator is the node as a member of the set, without an id.
func (n *Node) validator() consortium.Validator {
	id, err := n.PublicKey().PeerID()
	if err != nil {
		n.swarm.T.Fatal(err)
	}
	return consortium.Validator{Key: n.PublicKey(), Name: n.Name, Addresses: []string{n.listenAddr() + "/p2p/" + id.String()}}
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
	mu  sync.Mutex
	b   strings.Builder
	tee io.Writer // nil: nobody else reads it
}

// Write implements [io.Writer].
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tee != nil {
		if _, err := l.tee.Write(p); err != nil {
			return 0, err
		}
	}
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
