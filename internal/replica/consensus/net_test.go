package consensus

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/replica/ledger"
	"github.com/parley-p2p/parley/internal/replica/ledger/ledgertest"
	"github.com/parley-p2p/parley/internal/replica/mempool"
)

var (
	_ Ledger = (*ledger.Ledger)(nil)
	_ Pool   = (*mempool.Pool)(nil)
)

// testNet is validators with real ledgers and pools, joined by pipes.
type testNet struct {
	t       testing.TB
	genesis *consortium.Genesis
	author  ed25519.PrivateKey
	nodes   []*testNode
	nonce   uint64
	virtual bool
	// delay, not nil, is how long each message between two nodes is under way.
	delay func() time.Duration

	mu   sync.Mutex
	live map[peer.ID]*testNode
	away map[*testNode]bool        // cut off from all that are not
	over map[net.Conn][2]*testNode // pipes that stand, with their ends
}

type testNode struct {
	net    *testNet
	id     peer.ID
	key    ed25519.PrivateKey
	dir    string
	memory *MemoryWAL
	ledger *ledger.Ledger
	pool   *mempool.Pool
	bus    *event.Bus
	engine *Engine
	cancel context.CancelFunc
	ctx    context.Context
	wg     sync.WaitGroup
	deaf   atomic.Bool   // what others send is lost
	dumb   *atomic.Bool  // what it sends is lost, in this life
	unread bool          // it reads nothing of its streams
	told   told          // what was logged at Info and above
	log    slog.Handler  // not nil: is told too
	ended  chan struct{} // closed when Run has returned

	// for start; nil as in Config
	ahead func(context.Context) bool
	heads func() map[peer.ID]uint64
	sole  bool
	clock func() time.Time
	store func(Ledger) Ledger // not nil: what the engine has for a ledger
	feed  func(Pool) Pool     // not nil: what the engine has for a pool
	// twist, not nil, is what a traitor sends in the place of m; nil is nothing.
	twist func(to *testNode, m *smartbftprotos.Message) *smartbftprotos.Message
	found []event.FindingChanged // guarded by net.mu
	// pull, not nil, comes before each catchUp, and in its place if it says so.
	pull func(context.Context) (instead bool)

	end error // of Run, after ended
}

type netOption func(*testNet, *consortium.Params)

// newTestNet makes n validators and starts none.
func newTestNet(t testing.TB, n int, options ...netOption) *testNet {
	t.Helper()
	tn := &testNet{t: t, author: ledgertest.Key("author"), live: map[peer.ID]*testNode{}, away: map[*testNode]bool{}, over: map[net.Conn][2]*testNode{}}
	params := consortium.DefaultParams()
	for _, o := range options {
		o(tn, &params)
	}
	var validators []consortium.Validator
	var keys []ed25519.PrivateKey
	for i := range n {
		key := ledgertest.Key(fmt.Sprint("validator ", i+1))
		keys = append(keys, key)
		validators = append(validators, consortium.Validator{Key: consortium.PublicKeyOf(key), Name: fmt.Sprint("node", i+1)})
	}
	g, err := consortium.NewGenesis("", validators, []consortium.PublicKey{validators[0].Key}, params, time.Now().Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	tn.genesis = g
	for _, key := range keys {
		tn.nodes = append(tn.nodes, tn.newNode(key))
	}
	return tn
}

func (tn *testNet) newNode(key ed25519.PrivateKey) *testNode {
	tn.t.Helper()
	id, err := consortium.PublicKeyOf(key).PeerID()
	if err != nil {
		tn.t.Fatal(err)
	}
	n := &testNode{net: tn, id: id, key: key, memory: &MemoryWAL{}, bus: event.NewBus(4096), dumb: &atomic.Bool{}}
	if !tn.virtual {
		n.dir = filepath.Join(tn.t.TempDir(), "wal")
	}
	n.ledger, err = ledger.Open(ledger.Options{Dir: "ledger", FS: vfs.NewMem(), Bus: n.bus, Log: testLog(tn.t), Verified: func(id chain.Hash) bool { return n.pool.Verified(id) }})
	if err != nil {
		tn.t.Fatal(err)
	}
	if err := n.ledger.Init(tn.genesis); err != nil {
		tn.t.Fatal(err)
	}
	n.newPool()
	return n
}

func (n *testNode) newPool() {
	n.pool = mempool.New(
		mempool.Config{Records: 50_000, Bytes: 64 << 20, AuthorPending: 50_000, AuthorBytes: 64 << 20},
		mempool.Rules{Genesis: n.net.genesis.Hash(), Committable: func(r *consortium.Record, id chain.Hash) error {
			return n.ledger.Committable(r, id, n.ledger.Tip().Head.Height+1)
		}}, n.bus, testLog(n.net.t), nil)
}

func testLog(t testing.TB) *slog.Logger {
	if os.Getenv("CONSENSUS_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func (n *testNode) start() {
	n.net.t.Helper()
	cfg := Config{Key: n.key, WALDir: n.dir, InMemoryWAL: n.net.virtual, Memory: n.memory, SoleValidator: n.sole, Ahead: n.ahead, Heads: n.heads, Clock: n.clock, Found: n.find}
	log := slog.New(teeHandler{testLog(n.net.t).With("node", n.id.ShortString()).Handler(), slog.NewTextHandler(&n.told, nil)})
	if n.log != nil {
		log = slog.New(teeHandler{log.Handler(), n.log})
	}
	var store Ledger = n.ledger
	if n.store != nil {
		store = n.store(store)
	}
	var pool Pool = n.pool
	if n.feed != nil {
		pool = n.feed(pool)
	}
	e, err := New(cfg, store, pool, n, n.catchUp, n.bus, log, nil)
	if err != nil {
		n.net.t.Fatal(err)
	}
	n.engine, n.dumb = e, &atomic.Bool{}
	n.ctx, n.cancel = context.WithCancel(n.net.t.Context())
	n.net.mu.Lock()
	n.net.live[n.id] = n
	n.net.mu.Unlock()
	n.run()
}

// run runs the engine that start made; also again.
func (n *testNode) run() {
	n.ended = make(chan struct{})
	n.wg.Go(func() {
		defer close(n.ended)
		n.end = n.engine.Run(n.ctx)
	})
}

// kill stops the node with nothing more said, and its log as it is now.
func (n *testNode) kill() {
	n.net.t.Helper()
	n.dumb.Store(true)
	n.memory = &MemoryWAL{entries: n.memory.content()}
	n.stop()
}

// stop ends the node and everything that runs for it.
func (n *testNode) stop() {
	n.net.t.Helper()
	n.net.mu.Lock()
	delete(n.net.live, n.id)
	n.net.mu.Unlock()
	n.cancel()
	n.wg.Wait()
	if n.end != nil {
		n.net.t.Errorf("run of %s: %v", n.id.ShortString(), n.end)
	}
}

func (tn *testNet) start() {
	for _, n := range tn.nodes {
		n.start()
	}
}

// stop ends all that run, and compares what they hold.
func (tn *testNet) stop() {
	tn.t.Helper()
	for _, n := range tn.running() {
		n.stop()
	}
	tn.compare()
	for _, n := range tn.nodes {
		if err := n.ledger.Close(); err != nil {
			tn.t.Error(err)
		}
	}
}

func (tn *testNet) running() []*testNode {
	tn.mu.Lock()
	defer tn.mu.Unlock()
	var out []*testNode
	for _, n := range tn.nodes {
		if tn.live[n.id] == n {
			out = append(out, n)
		}
	}
	return out
}

// compare checks that no two ledgers differ at a height.
func (tn *testNet) compare() {
	tn.t.Helper()
	hashes := map[uint64]chain.Hash{}
	for _, n := range tn.nodes {
		for h := uint64(1); h <= n.ledger.Tip().Head.Height; h++ {
			header, _, err := n.ledger.Header(h)
			if err != nil {
				tn.t.Fatal(err)
			}
			if have, ok := hashes[h]; ok && have != header.Hash() {
				tn.t.Fatalf("fork at height %d: %s and %s", h, have, header.Hash())
			}
			hashes[h] = header.Hash()
		}
	}
}

// endAt ends the network, tells whose votes are on the block at h of each node,
// and compares the chains.
func (tn *testNet) endAt(h uint64) {
	tn.t.Helper()
	for _, n := range tn.running() {
		n.stop()
	}
	defer func() {
		for _, n := range tn.nodes {
			_ = n.ledger.Close()
		}
	}()
	for i, n := range tn.nodes {
		b, err := n.ledger.Block(h)
		if err != nil {
			tn.t.Logf("node %d: height %d, %v", i+1, n.ledger.Tip().Head.Height, err)
			continue
		}
		var who []uint64
		for _, v := range b.Certificate.Votes {
			who = append(who, v.Validator)
		}
		tn.t.Logf("node %d: block %d %s certificate %v", i+1, h, b.Header.Hash(), who)
	}
	tn.compare()
}

func (n *testNode) find(f event.FindingChanged) {
	n.net.mu.Lock()
	defer n.net.mu.Unlock()
	n.found = append(n.found, f)
}

// finds reports whether n told of something.
func (n *testNode) finds(title, severity string) bool {
	n.net.mu.Lock()
	defer n.net.mu.Unlock()
	return slices.ContainsFunc(n.found, func(f event.FindingChanged) bool { return f.Title == title && f.Severity == severity })
}

// teeHandler writes to both.
// told is a log that is written and read at the same time.
type told struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *told) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *told) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

type teeHandler struct {
	slog.Handler
	also slog.Handler
}

func (h teeHandler) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelInfo || h.Handler.Enabled(ctx, l)
}

func (h teeHandler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level < slog.LevelInfo {
		return h.Handler.Handle(ctx, r)
	}
	return errors.Join(h.also.Handle(ctx, r), h.Handler.Handle(ctx, r))
}

// catchUp copies what the others have.
func (n *testNode) catchUp(ctx context.Context) error {
	if n.pull != nil && n.pull(ctx) {
		return ctx.Err()
	}
	for _, other := range n.reachable() {
		for h := n.ledger.Tip().Head.Height + 1; h <= other.ledger.Tip().Head.Height; h++ {
			b, err := other.ledger.Block(h)
			if err != nil {
				return err
			}
			if err := n.ledger.Append(b, "sync", other.id); err != nil && !errors.Is(err, chain.ErrKnown) {
				return err
			}
		}
	}
	return ctx.Err()
}

// submit makes records and gives them to all running nodes, as gossip does.
func (tn *testNet) submit(count int) (ids []chain.Hash) {
	tn.t.Helper()
	for range count {
		tn.nonce++
		r := &consortium.Record{Nonce: tn.nonce, Subject: fmt.Sprint("thing ", tn.nonce%7), MediaType: "text/plain", Body: bytes.Repeat([]byte{byte(tn.nonce)}, 200)}
		r.Sign(tn.author, tn.genesis.Hash())
		ids = append(ids, tn.gossip(r.Encode()))
	}
	return ids
}

// submitTo is submit to some nodes.
func (tn *testNet) submitTo(nodes []*testNode, count int) (ids []chain.Hash) {
	tn.t.Helper()
	for range count {
		tn.nonce++
		r := &consortium.Record{Nonce: tn.nonce, Subject: "thing", MediaType: "text/plain"}
		r.Sign(tn.author, tn.genesis.Hash())
		ids = append(ids, tn.gossipTo(nodes, r.Encode()))
	}
	return ids
}

func (tn *testNet) gossip(raw []byte) (id chain.Hash) {
	tn.t.Helper()
	return tn.gossipTo(tn.running(), raw)
}

func (tn *testNet) gossipTo(nodes []*testNode, raw []byte) (id chain.Hash) {
	tn.t.Helper()
	for _, n := range nodes {
		var err error
		var bad *consortium.RecordError
		id, err = n.pool.Add(raw, "")
		if errors.As(err, &bad) && bad.Reason == consortium.Duplicate {
			continue // the others were fast
		}
		if err != nil && !errors.Is(err, chain.ErrKnown) {
			tn.t.Fatalf("add to %s: %v", n.id.ShortString(), err)
		}
	}
	return id
}

// await returns when all running nodes hold all ids.
func (tn *testNet) await(ids []chain.Hash) {
	tn.t.Helper()
	for _, n := range tn.running() {
		n.until(func() bool {
			for len(ids) > 0 && n.ledger.Committed(ids[len(ids)-1]) && n.hasAll(ids) {
				return true
			}
			return len(ids) == 0
		})
	}
}

func (n *testNode) hasAll(ids []chain.Hash) bool {
	for _, id := range ids {
		if !n.ledger.Committed(id) {
			return false
		}
	}
	return true
}

// until waits for done, which is asked after each event of the node.
func (n *testNode) until(done func() bool) {
	n.net.t.Helper()
	sub := n.bus.Subscribe()
	defer sub.Close()
	limit := time.NewTimer(90 * time.Second)
	defer limit.Stop()
	for !done() {
		select {
		case <-sub.Wake():
			sub.Take(1024)
		case <-limit.C:
			view, leader, connected, quorum := n.engine.State()
			n.net.t.Fatalf("%s: waited 90 s at height %d, view %d, leader %d, %d connected of quorum %d, pool %d", n.id.ShortString(),
				n.ledger.Tip().Head.Height, view, leader, connected, quorum, n.pool.Len())
		}
	}
}

func heartbeats(d time.Duration) netOption {
	return func(_ *testNet, p *consortium.Params) { p.HeartbeatMS = uint32(d.Milliseconds()) }
}

func inVirtualTime(tn *testNet, _ *consortium.Params) { tn.virtual = true }
