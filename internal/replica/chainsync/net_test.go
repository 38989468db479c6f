package chainsync

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/replica/ledger"
	"github.com/parley-p2p/parley/internal/replica/ledger/ledgertest"
)

// lan connects nodes in one process: every node sees every other.
type lan struct {
	tb    testing.TB
	mu    sync.Mutex
	nodes []*node
	made  int
	wg    sync.WaitGroup // handlers
	pools bool           // nodes have records that wait for a block
}

// node is a Syncer with its ledger and what it did to others. It implements
// Peers, strictly: a fault of use fails the test.
type node struct {
	*Syncer
	lan    *lan
	id     peer.ID
	ledger *ledger.Ledger
	bus    *event.Bus
	handle func(ctx context.Context, st chain.Stream) error // how it serves
	narrow bool                                             // it sees none but these
	sees   []*node
	keeps  *node // it was told to keep this one

	mu        sync.Mutex
	pool      map[chain.Hash][]byte
	in, out   int64 // bytes of streams that it opened
	opened    map[peer.ID]int
	charges   map[peer.ID][]chain.Offence
	credits   map[peer.ID]int
	validated map[peer.ID]chain.Head
}

func testID(tb testing.TB, name string) peer.ID {
	tb.Helper()
	id, err := consortium.PublicKeyOf(ledgertest.Key(name)).PeerID()
	if err != nil {
		tb.Fatal(err)
	}
	return id
}

func openLedger(tb testing.TB, c *ledgertest.Chain, bus *event.Bus) *ledger.Ledger {
	tb.Helper()
	l, err := ledger.Open(ledger.Options{Dir: "ledger", FS: vfs.NewMem(), Bus: bus, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = l.Close() })
	if err := l.Init(c.Genesis()); err != nil {
		tb.Fatal(err)
	}
	return l
}

// join adds a node; l is nil for an empty ledger.
func (n *lan) join(c *ledgertest.Chain, l *ledger.Ledger) *node {
	n.tb.Helper()
	bus := event.NewBus(4096)
	if l == nil {
		l = openLedger(n.tb, c, bus)
	}
	return n.joinOn(l, bus)
}

// joinOn adds a node whose ledger tells bus.
func (n *lan) joinOn(l *ledger.Ledger, bus *event.Bus) *node {
	n.tb.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.made++
	nd := &node{
		lan: n, id: testID(n.tb, fmt.Sprint("node ", n.made)), ledger: l, bus: bus,
		opened: map[peer.ID]int{}, charges: map[peer.ID][]chain.Offence{}, credits: map[peer.ID]int{}, validated: map[peer.ID]chain.Head{},
	}
	nd.pool = map[chain.Hash][]byte{}
	cfg := Config{Net: "0badcafe"}
	if n.pools {
		cfg.Pending, cfg.Take = nd.pending, func(raw []byte, _ peer.ID) { nd.hold(raw) }
	}
	nd.Syncer = New(cfg, nd.ledger, nd, nd.bus, slog.New(slog.DiscardHandler), nil)
	nd.handle = nd.Syncer.Protocol().Handle
	n.nodes = append(n.nodes, nd)
	return nd
}

// drop takes a node away.
func (n *lan) drop(nd *node) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.nodes = slices.DeleteFunc(n.nodes, func(o *node) bool { return o == nd })
}

func (n *lan) node(id peer.ID) *node {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, nd := range n.nodes {
		if nd.id == id {
			return nd
		}
	}
	return nil
}

func (nd *node) pending(id chain.Hash) ([]byte, bool) {
	nd.mu.Lock()
	defer nd.mu.Unlock()
	raw, ok := nd.pool[id]
	return raw, ok
}

// hold puts records among those that wait for a block.
func (nd *node) hold(records ...[]byte) {
	nd.mu.Lock()
	defer nd.mu.Unlock()
	for _, raw := range records {
		nd.pool[consortium.RecordID(raw)] = raw
	}
}

// traffic is the bytes of all streams that the node opened, both ways.
func (nd *node) traffic() (in, out int64) {
	nd.mu.Lock()
	defer nd.mu.Unlock()
	return nd.in, nd.out
}

func (nd *node) Peers() []chain.Peer {
	nd.lan.mu.Lock()
	defer nd.lan.mu.Unlock()
	var peers []chain.Peer
	for _, o := range nd.lan.nodes {
		if o != nd && (!nd.narrow || slices.Contains(nd.sees, o)) {
			peers = append(peers, chain.Peer{ID: o.id, Kept: o == nd.keeps, Genesis: nd.Syncer.genesis, Claimed: chain.Head{Height: 1 << 50}})
		}
	}
	return peers
}

func (nd *node) Open(ctx context.Context, p peer.ID, protocol string) (chain.Stream, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	o := nd.lan.node(p)
	if o == nil || protocol != o.Syncer.Protocol().ID {
		return nil, fmt.Errorf("open %s to %s: unknown", protocol, p)
	}
	nd.mu.Lock()
	nd.opened[p]++
	most := nd.opened[p]
	nd.mu.Unlock()
	if most > maxStreams {
		nd.lan.tb.Errorf("%d streams at once to one peer", most)
	}
	ours, theirs := streamPair(nd.id, p)
	ours.count = func(in, out int) {
		nd.mu.Lock()
		defer nd.mu.Unlock()
		nd.in += int64(in)
		nd.out += int64(out)
	}
	nd.lan.wg.Go(func() {
		defer func() {
			nd.mu.Lock()
			nd.opened[p]--
			nd.mu.Unlock()
		}()
		_ = theirs.SetReadDeadline(time.Now().Add(10 * time.Second))
		if err := o.handle(context.WithoutCancel(ctx), theirs); err != nil {
			_ = theirs.Reset()
			return
		}
		_ = theirs.Close()
	})
	return ours, nil
}

func (nd *node) Validated(p peer.ID, h chain.Head) {
	nd.mu.Lock()
	defer nd.mu.Unlock()
	nd.validated[p] = h
}

func (nd *node) Report(p peer.ID, o chain.Offence, detail string) {
	if len(detail) == 0 {
		nd.lan.tb.Error("a charge without a reason")
	}
	nd.mu.Lock()
	defer nd.mu.Unlock()
	nd.charges[p] = append(nd.charges[p], o)
}

func (nd *node) Credit(p peer.ID, _ chain.Credit) {
	nd.mu.Lock()
	defer nd.mu.Unlock()
	nd.credits[p]++
}

// charged lists what o was charged with, without repetition.
func (nd *node) charged(o *node) []chain.Offence {
	nd.mu.Lock()
	defer nd.mu.Unlock()
	list := slices.Clone(nd.charges[o.id])
	slices.Sort(list)
	return slices.Compact(list)
}

func (nd *node) height() uint64 { return nd.ledger.Tip().Head.Height }

// follow runs Follow until the test stops it; the func waits for its end.
func (nd *node) follow() (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	end := make(chan error, 1)
	go func() { end <- nd.Follow(ctx) }()
	return func() error {
		cancel()
		err := <-end
		nd.lan.wg.Wait()
		if errors.Is(err, context.Canceled) {
			return nil
		}
		return err
	}
}

// await waits for a height by events, and fails after a minute.
func (nd *node) await(height uint64) {
	nd.lan.tb.Helper()
	sub := nd.bus.Subscribe()
	defer sub.Close()
	limit := time.After(time.Minute)
	for nd.height() < height {
		select {
		case <-sub.Wake():
			sub.Take(1024)
		case <-limit:
			nd.lan.tb.Fatalf("height %d after a minute, want %d; charges %v", nd.height(), height, nd.charges)
		}
	}
}

var errReset = errors.New("stream reset")

// pipeStream is one end of a stream. Writing waits for the reader.
type pipeStream struct {
	peer  peer.ID
	r, w  net.Conn
	reset *atomic.Bool

	count func(in, out int) // bytes; nil: nobody counts

	once   sync.Once
	closed chan struct{} // when the other end is closed
	other  *pipeStream
}

func streamPair(client, server peer.ID) (ours, theirs *pipeStream) {
	reqR, reqW := net.Pipe()
	ansR, ansW := net.Pipe()
	reset := &atomic.Bool{}
	ours = &pipeStream{peer: server, r: ansR, w: reqW, reset: reset, closed: make(chan struct{})}
	theirs = &pipeStream{peer: client, r: reqR, w: ansW, reset: reset, closed: make(chan struct{}), other: ours}
	ours.other = theirs
	return ours, theirs
}

func (s *pipeStream) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if s.count != nil {
		s.count(n, 0)
	}
	if err != nil && s.reset.Load() {
		err = errReset
	}
	return n, err
}

func (s *pipeStream) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	if s.count != nil {
		s.count(0, n)
	}
	if errors.Is(err, io.ErrClosedPipe) || err != nil && s.reset.Load() {
		err = errReset
	}
	return n, err
}

func (s *pipeStream) Peer() peer.ID     { return s.peer }
func (s *pipeStream) CloseWrite() error { return s.w.Close() }
func (s *pipeStream) Close() error {
	s.once.Do(func() { close(s.other.closed) })
	return errors.Join(s.w.Close(), s.r.Close())
}
func (s *pipeStream) Reset() error {
	s.reset.Store(true)
	return s.Close()
}
func (s *pipeStream) SetDeadline(t time.Time) error {
	return errors.Join(s.r.SetReadDeadline(t), s.w.SetWriteDeadline(t))
}
func (s *pipeStream) SetReadDeadline(t time.Time) error  { return s.r.SetReadDeadline(t) }
func (s *pipeStream) SetWriteDeadline(t time.Time) error { return s.w.SetWriteDeadline(t) }
