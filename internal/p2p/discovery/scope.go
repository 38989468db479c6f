package discovery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"golang.org/x/time/rate"
	"google.golang.org/protobuf/proto"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/internal/wire"
)

// What one peer may ask of the DHT (DEFENCE 11).
const (
	maxRequest   = 16 << 10 // bytes: a value of 4 KiB or one peer with its addresses
	peerStreams  = 16
	peerRate     = 20 // requests a second; more of them wait
	peerBurst    = 100
	refusedRate  = 2 * peerRate // refused streams a second, for ten seconds, before it is spam
	refusedBurst = 10 * refusedRate
)

// scope is the host as the library of the DHT sees it. It stands between peers
// and the library: it bounds each request before the library reads it, tells
// whose fault a bad one is, and ends the streams that the library would leave.
type scope struct {
	host.Host
	k *kad

	running sync.WaitGroup
	ended   chan struct{}

	mu     sync.Mutex // guards below
	closed bool
	served []protocol.ID
	held   map[network.Stream]struct{}
	askers map[peer.ID]*asker
}

// asker is one peer with open streams, or one that was refused lately.
type asker struct {
	streams int
	budget  *rate.Limiter
	refused *rate.Limiter
	last    time.Time
	offered time.Time // for the table
}

func newScope(k *kad) *scope {
	return &scope{Host: k.d.host, k: k, ended: make(chan struct{}), held: map[network.Stream]struct{}{}, askers: map[peer.ID]*asker{}}
}

// ConnManager keeps the library from protecting peers of its table: it would
// count as somebody who wants the connection.
func (s *scope) ConnManager() connmgr.ConnManager { return connmgr.NullConnMgr{} }

// SetStreamHandler implements [host.Host].
func (s *scope) SetStreamHandler(id protocol.ID, handle network.StreamHandler) {
	s.mu.Lock()
	s.served = append(s.served, id)
	s.mu.Unlock()
	s.Host.SetStreamHandler(id, func(st network.Stream) { s.serve(st, handle) })
}

func (s *scope) serve(st network.Stream, handle network.StreamHandler) {
	p := st.Conn().RemotePeer()
	if !s.k.admits(p) {
		s.k.d.metrics.refuse("not_ready")
		_ = st.Reset()
		return
	}
	a, spam := s.hold(st, p)
	if a == nil {
		s.k.d.metrics.refuse("streams")
		_ = st.Reset()
		if spam {
			s.k.d.fns.Report(p, chain.Spam, "DHT: more streams than anybody needs")
		}
		return
	}
	defer s.drop(st, a)
	if s.offerDue(a) { // who asks us lives: it may have a place in our table
		s.k.newcomers.offer(p)
	}
	handle(&guarded{Stream: st, s: s, budget: a.budget})
}

// hold counts a stream in; nil = refused. A refused one may be the one too many.
func (s *scope) hold(st network.Stream, p peer.ID) (_ *asker, spam bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, false
	}
	a := s.askers[p]
	if a == nil {
		a = &asker{budget: rate.NewLimiter(peerRate, peerBurst), refused: rate.NewLimiter(refusedRate, refusedBurst)}
		s.askers[p] = a
	}
	a.last = time.Now()
	if a.streams >= peerStreams {
		return nil, !a.refused.Allow()
	}
	a.streams++
	s.held[st] = struct{}{}
	s.running.Add(1)
	return a, false
}

// offerDue reports, once in a while, that a is to be looked at for the table.
func (s *scope) offerDue(a *asker) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if now.Sub(a.offered) < offerEvery {
		return false
	}
	a.offered = now
	return true
}

func (s *scope) drop(st network.Stream, a *asker) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.held, st)
	a.streams--
	s.running.Done()
}

// forget drops what is kept of peers that are gone, and takes banned ones out of
// the table: they are not given out either.
func (k *kad) forget(now time.Time) {
	k.scope.forget(now)
	k.newcomers.forget()
	for _, p := range k.table().ListPeers() {
		if k.d.fns.Banned(p, k.d.lastIP(p)) {
			k.table().RemovePeer(p)
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	maps.DeleteFunc(k.fails, func(p peer.ID, _ int) bool { return k.table().Find(p) == "" })
}

// forget drops the budgets of peers that asked nothing for a minute: theirs are
// full again by then.
func (s *scope) forget(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.askers, func(_ peer.ID, a *asker) bool { return a.streams == 0 && now.Sub(a.last) > time.Minute })
}

// close resets every stream and returns when the library's handlers have ended.
func (s *scope) close() {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.closed = true
	streams, served := slices.Collect(maps.Keys(s.held)), s.served
	s.mu.Unlock()
	close(s.ended)
	for _, id := range served {
		s.Host.RemoveStreamHandler(id)
	}
	for _, st := range streams {
		_ = st.Reset()
	}
	s.running.Wait()
}

// guarded is a stream whose requests are looked at one by one before the
// library gets them.
type guarded struct {
	network.Stream
	s      *scope
	budget *rate.Limiter
	left   bytes.Buffer // of the frame that was let through
}

// Read implements [network.Stream].
func (g *guarded) Read(b []byte) (int, error) {
	if g.left.Len() == 0 {
		frame, err := wire.ReadFrame(g.Stream, maxRequest)
		if err == nil {
			err = g.look(frame)
		}
		if err != nil {
			g.s.k.charge(g.Conn().RemotePeer(), err)
			return 0, err
		}
		if err := wire.WriteFrame(&g.left, frame); err != nil {
			return 0, err
		}
	}
	return g.left.Read(b)
}

// look waits for the peer's budget and judges a request.
func (g *guarded) look(frame []byte) error {
	if wait := g.budget.Reserve().Delay(); wait > 0 {
		select {
		case <-time.After(wait):
		case <-g.s.ended:
			return context.Canceled
		}
	}
	var m pb.Message
	if err := proto.Unmarshal(frame, &m); err != nil {
		return chain.Invalid(chain.Malformed, "a request does not decode")
	}
	switch m.GetType() {
	case pb.Message_PUT_VALUE:
		return g.s.k.judgePut(g.Conn().RemotePeer(), &m)
	case pb.Message_ADD_PROVIDER:
		if n := len(m.GetProviderPeers()); n > 1 {
			return chain.Invalid(chain.Violation, "%d providers in one request, a peer speaks for itself alone", n)
		}
	}
	return nil
}

// judgePut finds values that nobody may store. An old record is no offence.
func (k *kad) judgePut(from peer.ID, m *pb.Message) error {
	key, data := string(m.GetRecord().GetKey()), m.GetRecord().GetValue()
	_, err := k.open(key, data)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errOldValue):
		k.d.metrics.refuse("old_record")
		return err
	case errors.Is(err, wire.ErrTooLarge):
		return chain.Invalid(chain.Oversize, "value: %v", err)
	}
	if _, author, kerr := ParseKey(key); kerr == nil && author == from {
		return chain.Invalid(chain.BadRecord, "its own value %s: %v", key, err)
	}
	return chain.Invalid(chain.Malformed, "value: %v", err)
}

// charge counts what a peer did wrong, and reports it.
func (k *kad) charge(p peer.ID, err error) {
	if bad, ok := errors.AsType[*chain.InvalidError](wire.Fault(err)); ok {
		k.d.metrics.refuse(string(bad.Offence))
		k.d.fns.Report(p, bad.Offence, fmt.Sprintf("DHT: %s", bad.Detail))
	}
}
