// Package gossip owns the topics: who hears what, which messages are relayed
// and who is charged for the others.
package gossip

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/crypto"
	levent "github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/p2p/reputation"
	"github.com/parley-p2p/parley/internal/wire"
)

// Config is what gossip needs to know beside its topics.
type Config struct {
	// Names maps our name of a topic to its name on the wire (gossip.topics).
	// A topic that is not named here keeps its own name.
	Names map[string]string
	// Key signs claims; it is the node's own.
	Key crypto.PrivKey
	// MaxBytes bounds the data of every topic, for the limit on the wire is
	// set before the topics are known. 0 means 1 MiB.
	MaxBytes int
	// PeerRate is how many messages a second are read of one peer. 0 means 4,000.
	PeerRate int
	// Takes says whether p is sent a topic, by our name of it, and may have us in
	// its mesh; it is asked often, in pubsub's loop, and MUST be quick. It may not
	// change its mind while p is connected. Nil: everybody is sent everything.
	Takes func(p peer.ID, topic string) bool
	// Tracer makes a span of each block that arrives; nil = none.
	Tracer trace.Tracer
}

const defaultMaxBytes = 1 << 20 // DEFENCE 11

// maxRPC is the largest RPC that is read, in bytes.
func (g *Gossip) maxRPC() int { return g.cfg.MaxBytes + claimOverhead + rpcOverhead }

// Gossip runs one GossipSub instance, and a second one for large messages once
// a topic needs it. All methods are safe for concurrent use.
type Gossip struct {
	cfg     Config
	kind    kind
	self    peer.ID
	rep     *reputation.Book
	bus     *event.Bus
	log     *slog.Logger
	metrics *metrics
	scope   *scope
	credit  *credit
	pace    *pace
	guard   *guard
	tracer  *tracer

	delivered func(id string) // what was accepted is sent on; nil = nobody asks
	opened    chan *relay     // holds one

	ran     atomic.Bool
	started chan struct{} // closed once ps is set
	stopped chan struct{} // closed when Run returns
	renew   chan struct{} // holds one
	batches chan struct{} // holds one, while a batch is on its way to pubsub's loop
	ps      *pubsub.PubSub

	mu     sync.RWMutex // guards below; nothing blocks under it
	byName map[string]*topic
	byWire map[string]*topic
	relay  *relay            // of large messages; nil before a topic needs it
	scores map[peer.ID]score // replaced whole
	gave   map[peer.ID]gifts // of connected peers
}

// New starts nothing; reg may be nil.
func New(cfg Config, h host.Host, rep *reputation.Book, bus *event.Bus, log *slog.Logger, reg prometheus.Registerer) (*Gossip, error) {
	if cfg.Key == nil {
		return nil, errors.New("gossip: no key to sign claims: give the node's key")
	}
	if id, err := peer.IDFromPrivateKey(cfg.Key); err != nil || id != h.ID() {
		return nil, fmt.Errorf("gossip: the key signs for %s, the host is %s: give the host's key", id, h.ID())
	}
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = defaultMaxBytes
	}
	m, err := newMetrics(reg)
	if err != nil {
		return nil, fmt.Errorf("register gossip metrics: %w", err)
	}
	return newGossip(cfg, mainKind(), h, rep, bus, log, m), nil
}

func newGossip(cfg Config, k kind, h host.Host, rep *reputation.Book, bus *event.Bus, log *slog.Logger, m *metrics) *Gossip {
	g := &Gossip{
		cfg: cfg, kind: k, opened: make(chan *relay, 1), self: h.ID(), rep: rep, bus: bus, log: log, metrics: m,
		credit: newCredit(), pace: newPace(cfg.PeerRate),
		started: make(chan struct{}), stopped: make(chan struct{}), renew: make(chan struct{}, 1), batches: make(chan struct{}, 1),
		byName: map[string]*topic{}, byWire: map[string]*topic{}, gave: map[peer.ID]gifts{},
	}
	g.pace.ahead = k.ahead
	g.guard = newGuard(m, g.pace, g.takes)
	g.scope = newScope(h, g.credit, g.pace, g.maxRPC(), func(p peer.ID, o chain.Offence, detail string) {
		g.guard.forget(p) // pubsub forgets its topics too
		if o != "" {
			g.guard.report(charge{p, o, detail})
		}
	})
	g.tracer = &tracer{g: g, repeats: newRepeats(), seen: newSeen(), mesh: map[string]map[peer.ID]struct{}{}}
	return g
}

// Run carries gossip until ctx ends, once. When it returns, every stream is
// reset and no validator runs any more.
func (g *Gossip) Run(ctx context.Context) error {
	if !g.ran.CompareAndSwap(false, true) {
		return errors.New("gossip: Run was called twice")
	}
	defer close(g.stopped)
	ctx, cancel := context.WithCancel(ctx)
	var large sync.WaitGroup
	defer large.Wait()    // after cancel
	defer g.scope.close() // after cancel: a reset stream must not be opened again
	defer cancel()

	sub := g.bus.Subscribe()
	defer sub.Close()
	ps, err := pubsub.NewGossipSub(ctx, g.scope, g.options()...)
	if err != nil {
		return fmt.Errorf("start gossipsub: %w", err)
	}
	g.ps = ps
	close(g.started)
	news, err := g.scope.EventBus().Emitter(new(levent.EvtPeerProtocolsUpdated))
	if err != nil {
		return fmt.Errorf("gossip: %w", err)
	}
	defer news.Close()
	failed := make(chan error, 1)
	large.Go(func() {
		if err := g.runLarge(ctx); err != nil {
			failed <- err
		}
	})
	return g.watch(ctx, sub, news, failed)
}

// watch does what is due until ctx ends, or until large messages have failed.
func (g *Gossip) watch(ctx context.Context, sub *event.Subscription, news levent.Emitter, failed <-chan error) error {
	look := time.NewTicker(time.Second)
	defer look.Stop()
	noisy, told := map[peer.ID]time.Time{}, meshes{}
	var offer <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return fmt.Errorf("large messages: %w", err)
		case c := <-g.guard.charges:
			if ctx.Err() == nil { // else pubsub reads no more because of us
				g.rep.Penalize(c.peer, c.offence, c.detail)
			}
		case now := <-look.C:
			g.chargeNoise(noisy, now)
			for _, p := range g.scope.rested(now) { // pubsub opens a stream to whom it has none when it hears of this
				_ = news.Emit(levent.EvtPeerProtocolsUpdated{Peer: p, Added: slices.Collect(maps.Keys(g.scope.handlers()))})
			}
			if events := told.look(g.meshSizes(), now); len(events) > 0 {
				g.bus.Publish(events...)
			}
		case <-sub.Wake():
			g.cut(sub)
		case <-g.renew:
			g.scope.withdraw()
			offer = time.After(renewTime)
		case <-offer:
			g.scope.offer()
			offer = nil
		}
	}
}

// renewTime is how long identify has to tell that the protocols are gone, and
// again to tell that they are back.
const renewTime = 5 * time.Second

// Renew gets peers back that open no stream to us any more. A peer's pubsub
// gives up at the first stream that is refused, or the fifth that ends within
// ten minutes, and tries again only when it hears of a protocol that is new to
// it. So for 5 s the protocols are served to no new stream, of which identify
// tells all peers, and then they are back. Streams, topics, meshes and scores
// stay. Renew returns at once.
func (g *Gossip) Renew() {
	select {
	case g.renew <- struct{}{}:
	default:
	}
	if r := g.chunks(); r != nil {
		r.inner.Renew()
	}
}

// cut drops the queues of peers that have just been discouraged. Who closes
// their connections is the dialer; a fresh connection has fresh queues.
func (g *Gossip) cut(sub *event.Subscription) {
	events, _ := sub.Take(256)
	for _, e := range events {
		var p peer.ID
		switch v := e.Data.(type) {
		case event.PeerDiscouraged:
			p = v.Peer
		case event.PeerBanned:
			p, _ = peer.Decode(v.Target) // "" where it is an address: who is there is closed
		}
		if p != "" && g.rep.Refused(p) {
			g.ps.BlacklistPeer(p)
		}
	}
}

// wait reports whether gossip runs, once that is settled or giveUp yields.
func (g *Gossip) wait(giveUp <-chan struct{}) bool {
	select {
	case <-g.stopped:
		return false
	default:
	}
	select {
	case <-g.started:
		return true
	case <-g.stopped:
	case <-giveUp:
	}
	return false
}

// Serve joins topics of the network net. It waits until Run has started and
// may be called again with other topics. Each Validate is called from then on.
func (g *Gossip) Serve(net string, topics []chain.Topic) error {
	if !g.wait(nil) {
		return fmt.Errorf("serve topics of %s: %w", net, errClosed)
	}
	for i, ct := range topics {
		if err := g.join(net, ct); err != nil {
			for _, done := range topics[:i] {
				_ = g.Leave(done.Name) // all or none; err tells why
			}
			return fmt.Errorf("serve topic %q of %s: %w", ct.Name, net, err)
		}
	}
	return nil
}

func (g *Gossip) join(net string, ct chain.Topic) error {
	last := ct.Name
	if n := g.cfg.Names[ct.Name]; n != "" {
		last = n
	}
	switch {
	case !element(net):
		return fmt.Errorf("network %q: want 1 to 64 printable characters without a slash", net)
	case !element(ct.Name), !element(last):
		return fmt.Errorf("name on the wire %q: want 1 to 64 printable characters without a slash", last)
	case g.delivered == nil && (ct.Name == chunkTopic || last == chunkTopic):
		return fmt.Errorf("name %q: that is the topic of large messages", chunkTopic)
	case ct.Validate == nil:
		return errors.New("no Validate: who would judge its messages")
	case ct.Large && ct.Claim:
		return errors.New("large and a claim: large messages are signed as they are")
	case ct.MaxBytes <= 0 || ct.MaxBytes > g.most(ct.Large):
		return fmt.Errorf("at most %d bytes: want 1 to %d", ct.MaxBytes, g.most(ct.Large))
	}
	t := newTopic(g, ct, wire.TopicName(net, last), last)
	if t.large() {
		if err := g.openLarge(net); err != nil {
			return err
		}
	}
	g.mu.Lock()
	taken := g.byName[ct.Name] != nil || g.byWire[t.wire] != nil
	if !taken {
		g.byName[ct.Name], g.byWire[t.wire] = t, t
	}
	g.mu.Unlock()
	if taken {
		return errors.New("served already")
	}
	g.guard.serve(net)
	if err := t.open(g.ps); err != nil {
		g.forgetTopic(t)
		return err
	}
	return nil
}

func (g *Gossip) forgetTopic(t *topic) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.byName, t.Name)
	delete(g.byWire, t.wire)
}

// Leave ends a topic that is served: the peers are told, and nothing of it is
// judged any more but what is at the moment. It may be joined again.
func (g *Gossip) Leave(name string) error {
	t := g.topic(name)
	if t == nil {
		return nil
	}
	if !g.wait(nil) {
		return nil // it ended with all others
	}
	if err := t.close(g.ps); err != nil {
		return fmt.Errorf("leave topic %q: %w", name, err) // to be called again
	}
	g.forgetTopic(t)
	if t.large() {
		g.chunks().left(t)
	}
	return nil
}

// most is how many bytes a topic's messages may have.
func (g *Gossip) most(large bool) int {
	if large {
		return wire.MaxLarge
	}
	return g.cfg.MaxBytes
}

// element reports whether s can be one element of a topic's wire name.
func element(s string) bool {
	return s != "" && len(s) <= 64 && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '/' })
}

func (g *Gossip) topic(name string) *topic {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.byName[name]
}

func (g *Gossip) onWire(name string) *topic {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.byWire[name]
}

// Publish hands data to every peer that has told us that it takes the topic;
// on a claim topic it signs it first. It waits until Run has started.
//
// It returns chain.ErrBusy when more than half of the peers lag behind by more
// than 1,024 of our messages or 4 MiB, or when a claim exceeds the topic's
// rate, and the topic's own error where its Validate refuses data. A large
// message it sends when its turn comes, within 10 s or chain.ErrBusy, for 10 s
// at most; chain.ErrCut then.
//
// nil means sent to those, not received. A peer takes our topics about three
// round trips after the connection stands, for its subscriptions must cross,
// which may be later than its handshake; what was published before is not sent
// to it afterwards. Topics tells how many take a topic. The same bytes are
// sent once in two to three minutes and a repetition is silently nothing, so
// who repeats itself MUST vary them; a claim differs each time.
func (g *Gossip) Publish(ctx context.Context, name string, data []byte) error {
	if !g.wait(ctx.Done()) {
		return fmt.Errorf("publish to %q: %w", name, cmp.Or(ctx.Err(), errClosed))
	}
	t := g.topic(name)
	if t == nil {
		return fmt.Errorf("publish to %q: no such topic is served: call Serve first", name)
	}
	if g.credit.busy() {
		return fmt.Errorf("publish to %q: peers lag behind: %w", name, chain.ErrBusy)
	}
	if err := t.publish(ctx, data, nil); err != nil {
		return fmt.Errorf("publish to %q: %w", name, err)
	}
	return nil
}
