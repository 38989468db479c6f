package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"
	"golang.org/x/time/rate"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/p2p/host"
	"github.com/parley-p2p/parley/internal/replica/chainsync"
	"github.com/parley-p2p/parley/internal/replica/ledger"
	"github.com/parley-p2p/parley/internal/wire"
)

const (
	syncNet   = "benchnet"
	rawStream = protocol.ID("/parley-bench/raw/1")
	rawChunk  = 256 << 10
	throttled = 16 << 10 // bytes of one read through a throttle
)

// syncLab is nodes that hold a chain and one that comes for it, on loopback
// TCP with our own hosts, each with its ledger on disk.
type syncLab struct {
	dir      string
	full     *ledger.Ledger // of all that serve
	bytes    int64          // of the bodies
	records  int
	genesis  *consortium.Genesis
	newcomer *host.Host
	servers  []*host.Host // honest
	bad      []*host.Host // one stalls, one lies
	runs     int
	over     chan struct{} // closed at the end
}

// servedBy is how a host serves sync requests.
type servedBy func(ctx context.Context, st chain.Stream) error

func openSyncLab(dir string, total int64, size, honest int) (lab *syncLab, err error) {
	lab = &syncLab{dir: dir, over: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, lab.close())
		}
	}()
	m, err := newChainMaker()
	if err != nil {
		return nil, err
	}
	lab.genesis = m.genesis
	if lab.full, lab.bytes, lab.records, err = m.fill(filepath.Join(dir, "full"), total, size); err != nil {
		return lab, err
	}
	if lab.newcomer, err = newSyncHost("newcomer"); err != nil {
		return lab, err
	}
	y := chainsync.New(chainsync.Config{Net: syncNet}, lab.full, nobody{}, event.NewBus(64), slog.New(slog.DiscardHandler), nil)
	serve := servedBy(y.Protocol().Handle)
	for i := range honest {
		h, err := lab.server(fmt.Sprint("honest ", i), y.Protocol().ID, serve)
		if err != nil {
			return lab, err
		}
		lab.servers = append(lab.servers, h)
	}
	for name, serve := range map[string]servedBy{"stalling": stalls(serve, lab.over), "lying": lies(serve)} {
		h, err := lab.server(name, y.Protocol().ID, serve)
		if err != nil {
			return lab, err
		}
		lab.bad = append(lab.bad, h)
	}
	return lab, nil
}

func newSyncHost(name string) (*host.Host, error) {
	key, err := crypto.UnmarshalEd25519PrivateKey(benchKey(name))
	if err != nil {
		return nil, fmt.Errorf("key of %s: %w", name, err)
	}
	addr, err := ma.NewMultiaddr("/ip4/127.0.0.1/tcp/0")
	if err != nil {
		return nil, err
	}
	return host.New(host.Options{Key: key, Listen: []ma.Multiaddr{addr}})
}

// server is a host that serves, connected to the newcomer.
func (lab *syncLab) server(name, id string, serve servedBy) (*host.Host, error) {
	h, err := newSyncHost(name)
	if err != nil {
		return nil, err
	}
	h.SetStreamHandler(protocol.ID(id), func(s network.Stream) {
		if err := serve(context.Background(), stream{Stream: s}); err != nil {
			_ = s.Reset()
			return
		}
		_ = s.Close()
	})
	h.SetStreamHandler(rawStream, func(s network.Stream) {
		_ = pour(s, lab.bytes)
		_ = s.Close()
	})
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return h, lab.newcomer.Connect(ctx, peer.AddrInfo{ID: h.ID(), Addrs: h.Addrs()})
}

func (lab *syncLab) close() error {
	var errs []error
	close(lab.over)
	for _, h := range append(append([]*host.Host{lab.newcomer}, lab.servers...), lab.bad...) {
		if h != nil {
			errs = append(errs, h.Close())
		}
	}
	if lab.full != nil {
		errs = append(errs, lab.full.Close())
	}
	return errors.Join(errs...)
}

// pour writes n bytes.
func pour(w io.Writer, n int64) error {
	chunk := make([]byte, rawChunk)
	for n > 0 {
		k := min(n, int64(len(chunk)))
		if _, err := w.Write(chunk[:k]); err != nil {
			return err
		}
		n -= k
	}
	return nil
}

// stream is a libp2p stream as the replica sees it, through a throttle if there
// is one.
type stream struct {
	network.Stream
	limit *rate.Limiter
}

func (s stream) Peer() peer.ID { return s.Conn().RemotePeer() }

func (s stream) Read(p []byte) (int, error) { return throttle(s.Stream, s.limit, p) }

// throttle reads no faster than limit, which all readers of a node share, like
// a link does: what is not read fills the windows of the senders.
func throttle(r io.Reader, limit *rate.Limiter, p []byte) (int, error) {
	if limit == nil {
		return r.Read(p)
	}
	n, err := r.Read(p[:min(len(p), throttled)])
	if n > 0 {
		if bad := limit.WaitN(context.Background(), n); bad != nil {
			return n, bad
		}
	}
	return n, err
}

// linkOf is a throttle of so many bytes a second, nil for 0.
func linkOf(bytesPerSecond float64) *rate.Limiter {
	if bytesPerSecond == 0 {
		return nil
	}
	l := rate.NewLimiter(rate.Limit(bytesPerSecond), 4*throttled)
	l.AllowN(time.Now(), 4*throttled) // nothing is free at the start
	return l
}

// ask reads the request that st begins with, and gives a stream from which it
// can be read again.
func askedFor(st chain.Stream) (wire.SyncRequest, chain.Stream, error) {
	frame, err := wire.ReadFrame(st, wire.MaxSyncRequest)
	if err != nil {
		return wire.SyncRequest{}, nil, err
	}
	req, err := wire.DecodeSyncRequest(frame)
	r, w := io.Pipe()
	go func() { _ = w.CloseWithError(errors.Join(wire.WriteFrame(w, frame), io.EOF)) }()
	return req, reread{st, r}, err
}

type reread struct {
	chain.Stream
	r io.Reader
}

func (r reread) Read(p []byte) (int, error) { return r.r.Read(p) }

// stalls serves all but bodies, of which it never sends a byte.
func stalls(serve servedBy, until <-chan struct{}) servedBy {
	return func(ctx context.Context, st chain.Stream) error {
		req, again, err := askedFor(st)
		if err != nil {
			return err
		}
		if req.Kind == wire.SyncBodies {
			<-until
			return errors.New("stalled")
		}
		return serve(ctx, again)
	}
}

// lies serves bodies in which a byte of each frame is wrong.
func lies(serve servedBy) servedBy {
	return func(ctx context.Context, st chain.Stream) error {
		req, again, err := askedFor(st)
		if err != nil {
			return err
		}
		if req.Kind == wire.SyncBodies {
			again = falsified{again}
		}
		return serve(ctx, again)
	}
}

type falsified struct{ chain.Stream }

func (f falsified) Write(p []byte) (int, error) {
	if len(p) > 64 {
		p = append([]byte(nil), p...)
		p[len(p)-1] ^= 1
	}
	return f.Stream.Write(p)
}

// nobody is the peers of a node that only serves.
type nobody struct{}

func (nobody) Peers() []chain.Peer { return nil }
func (nobody) Open(context.Context, peer.ID, string) (chain.Stream, error) {
	return nil, errors.New("this node only serves")
}
func (nobody) Validated(peer.ID, chain.Head)         {}
func (nobody) Report(peer.ID, chain.Offence, string) {}
func (nobody) Credit(peer.ID, chain.Credit)          {}

// comer is the peers of the newcomer.
type comer struct {
	nobody
	host    *host.Host
	list    []chain.Peer
	limit   *rate.Limiter
	charges atomic.Int64
}

func (c *comer) Peers() []chain.Peer { return c.list }

func (c *comer) Open(ctx context.Context, p peer.ID, id string) (chain.Stream, error) {
	s, err := c.host.NewStream(network.WithNoDial(ctx, "bench"), p, protocol.ID(id))
	if err != nil {
		return nil, err
	}
	return stream{Stream: s, limit: c.limit}, nil
}

func (c *comer) Report(peer.ID, chain.Offence, string) { c.charges.Add(1) }

// sync is one whole sync of a new node from these peers. charges are those of
// peers that misbehaved.
func (lab *syncLab) sync(ctx context.Context, from []*host.Host, limit *rate.Limiter) (took time.Duration, charges int64, err error) {
	lab.runs++
	dir := filepath.Join(lab.dir, fmt.Sprint("new", lab.runs))
	bus := event.NewBus(1 << 12)
	l, err := ledger.Open(ledger.Options{Dir: dir, Bus: bus, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, l.Close(), os.RemoveAll(dir)) }()
	if err := l.Init(lab.genesis); err != nil {
		return 0, 0, err
	}
	head := lab.full.Tip().Head
	c := &comer{host: lab.newcomer, limit: limit}
	for _, h := range from {
		c.list = append(c.list, chain.Peer{ID: h.ID(), Genesis: lab.genesis.Hash(), Claimed: head})
	}
	y := chainsync.New(chainsync.Config{Net: syncNet}, l, c, bus, slog.New(slog.DiscardHandler), nil)
	sub := bus.Subscribe()
	defer sub.Close()
	ctx, cancel := context.WithCancel(ctx)
	end := make(chan error, 1)
	begin := time.Now()
	go func() { end <- y.Follow(ctx) }()
	for l.Tip().Head != head && err == nil {
		select {
		case <-sub.Wake():
			sub.Take(1 << 12)
		case err = <-end:
			end <- err
		}
	}
	took = time.Since(begin)
	cancel()
	if bad := <-end; !errors.Is(bad, context.Canceled) {
		err = errors.Join(err, bad)
	}
	return took, c.charges.Load(), err
}

// raw is the same bytes over one stream between the same hosts.
func (lab *syncLab) raw(ctx context.Context, limit *rate.Limiter) (time.Duration, error) {
	begin := time.Now()
	s, err := lab.newcomer.NewStream(network.WithNoDial(ctx, "bench"), lab.servers[0].ID(), rawStream)
	if err != nil {
		return 0, fmt.Errorf("raw stream: %w", err)
	}
	if err := s.CloseWrite(); err != nil {
		return 0, fmt.Errorf("raw stream: %w", err)
	}
	return drain(s, limit, lab.bytes, begin)
}

// drain reads n bytes and then the end.
func drain(r io.Reader, limit *rate.Limiter, n int64, begin time.Time) (time.Duration, error) {
	buf := make([]byte, rawChunk)
	var have int64
	for {
		k, err := throttle(r, limit, buf)
		have += int64(k)
		if errors.Is(err, io.EOF) && have == n {
			return time.Since(begin), nil
		}
		if err != nil {
			return 0, fmt.Errorf("%d of %d raw bytes: %w", have, n, err)
		}
	}
}
