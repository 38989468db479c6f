package replica

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/replica/chainsync"
	"github.com/parley-p2p/parley/internal/replica/consensus"
	"github.com/parley-p2p/parley/internal/replica/ledger/ledgertest"
	"github.com/parley-p2p/parley/internal/wire"
)

// world is the p2p wing of one node: it has the peers that it is given, and
// they serve their genesis.
type world struct {
	mu        sync.Mutex
	peers     []chain.Peer
	genesis   map[peer.ID]*consortium.Genesis
	opened    []peer.ID
	published map[string]int // by topic
	topics    []chain.Topic
	serving   chan struct{}
}

func newWorld() *world {
	return &world{genesis: map[peer.ID]*consortium.Genesis{}, published: map[string]int{}, serving: make(chan struct{})}
}

// meet makes p a ready peer; g is nil where it has no chain.
func (w *world) meet(p chain.Peer, g *consortium.Genesis) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if g != nil {
		p.Genesis = g.Hash()
		w.genesis[p.ID] = g
	}
	w.peers = append(w.peers, p)
}

func (w *world) Self() peer.ID { return "self" }
func (w *world) Serve(_ context.Context, topics []chain.Topic, _ []chain.Protocol) error {
	w.topics = topics
	close(w.serving)
	return nil
}
func (w *world) Publish(_ context.Context, topic string, _ []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.published[topic]++
	return nil
}
func (w *world) PublishAll(ctx context.Context, topic string, all iter.Seq[[]byte]) (n int, err error) {
	for data := range all {
		if err := w.Publish(ctx, topic, data); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}
func (w *world) Open(_ context.Context, p peer.ID, protocol string) (chain.Stream, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.opened = append(w.opened, p)
	if strings.HasSuffix(protocol, "/sync/1") {
		return &memStream{}, nil // it has no block, and says so
	}
	g := w.genesis[p]
	if g == nil || protocol != protocolGenesis {
		return nil, errors.New("unknown protocol")
	}
	st := &memStream{}
	_ = wire.WriteFrame(&st.in, g.Encode())
	return st, nil
}
func (w *world) Peers() []chain.Peer {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.peers)
}
func (w *world) Keep([]peer.AddrInfo)                  {}
func (w *world) Withdraw([]string, []string) error     { return nil }
func (w *world) Greet()                                {}
func (w *world) Validated(peer.ID, chain.Head)         {}
func (w *world) Report(peer.ID, chain.Offence, string) {}
func (w *world) Credit(peer.ID, chain.Credit)          {}

// memStream answers out of memory.
type memStream struct{ in bytes.Buffer }

func (s *memStream) Read(p []byte) (int, error)       { return s.in.Read(p) }
func (s *memStream) Write(p []byte) (int, error)      { return len(p), nil }
func (s *memStream) Peer() peer.ID                    { return "" }
func (s *memStream) CloseWrite() error                { return nil }
func (s *memStream) Close() error                     { return nil }
func (s *memStream) Reset() error                     { return nil }
func (s *memStream) SetDeadline(time.Time) error      { return nil }
func (s *memStream) SetReadDeadline(time.Time) error  { return nil }
func (s *memStream) SetWriteDeadline(time.Time) error { return nil }

// idle is an engine that leads where it is told, and fails as it is told.
type idle struct {
	leader            uint64
	connected, quorum int
	runs              []error // what Run returns, one call each; then it waits
	times             []time.Time
	running           atomic.Bool // while Run waits
}

func (e *idle) Run(ctx context.Context) error {
	e.times = append(e.times, time.Now())
	if n := len(e.times); n <= len(e.runs) {
		return e.runs[n-1]
	}
	e.running.Store(true)
	defer e.running.Store(false)
	<-ctx.Done()
	return ctx.Err()
}
func (e *idle) Handle(context.Context, chain.Stream) error { return nil }
func (e *idle) Leader() uint64                             { return e.leader }
func (e *idle) State() (view, leader uint64, connected, quorum int) {
	return 0, e.leader, e.connected, e.quorum
}

// text is what a replica logs.
type text struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *text) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *text) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), s)
}

// busSize is how many events a slow reader may lag behind.
const busSize = 64

// open makes a replica in memory; edit, which may be nil, changes its config.
func open(t testing.TB, key ed25519.PrivateKey, log *text, edit func(*Config)) *Replica {
	t.Helper()
	cfg := Config{
		Chain: config.Default().Consortium, Name: "node", Key: key, DataDir: t.TempDir(),
		LedgerFS: vfs.NewMem(), MemoryWAL: &consensus.MemoryWAL{},
	}
	if edit != nil {
		edit(&cfg)
	}
	r, err := New(cfg, event.NewBus(busSize), slog.New(slog.NewTextHandler(log, nil)), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

// member is an edit that starts a node from the genesis of c.
func member(t testing.TB, c *ledgertest.Chain) func(*Config) {
	t.Helper()
	b, err := json.Marshal(c.Genesis())
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "genesis.json")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return func(cfg *Config) { cfg.Chain.GenesisFile = file }
}

// atWork is validator 1 of c as Run makes it, with an engine that does nothing.
func atWork(t testing.TB, c *ledgertest.Chain) (*running, *world, *idle) {
	t.Helper()
	r := open(t, ledgertest.Key("validator 1"), &text{}, member(t, c))
	s, e := newWorld(), &idle{leader: 1, connected: 1, quorum: 1}
	p := r.live.Load()
	w := &running{Replica: r, parts: p, services: s, engine: e, limits: newLimits(), hints: make(chan wire.Subtree, 1)}
	w.syncer = chainsync.New(chainsync.Config{Net: p.net}, r.ledger, s, r.bus, r.log, nil)
	r.work.Store(w)
	return w, s, e
}
