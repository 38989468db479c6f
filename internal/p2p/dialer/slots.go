package dialer

import (
	"context"
	"crypto/rand"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/p2p/addrbook"
	"github.com/parley-p2p/parley/internal/tally"
)

// Slots of peers that we chose, by the names that a peer's slot has in the API;
// the operator chose those in SlotStatic.
const (
	SlotStatic    = "static"
	SlotOutbound  = "outbound"
	SlotBlockOnly = "block_only" // tells us of blocks, and we it; no records, no peer exchange
	SlotFeeler    = "feeler"     // only to see whether somebody is there, or to ask it
)

// sourceAnchor is the source of a peer that a restart began with.
const sourceAnchor = "anchor"

// tagOut protects our outbound slots from being trimmed.
const tagOut = "slot/out"

const (
	lookAround = 10 * time.Second // at heads, anchors, alarms and inbound peers
	seenEvery  = 20 * time.Minute
	flickered  = time.Minute // a connection that lived shorter counts as a failed dial
)

// SlotsConfig says how many slots there are.
type SlotsConfig struct {
	Outbound  int // full ones
	BlockOnly int
	Inbound   int // places for peers that dialled us
	// Kinds is how many kinds of sources are enabled, see [Slots.SetKinds]. From
	// two on, no kind has more than a third of the outbound slots as long as
	// others have any.
	Kinds int
}

// Places splits p2p.max_peers, of which target are outbound (DEFENCE 4.1): of
// 100 and 8 these are 8 full, 2 block-only, a feeler, an extra one, 24 for
// static peers and members, and 64 inbound. Small numbers are split alike.
func Places(target, most int) SlotsConfig {
	c := SlotsConfig{Outbound: min(target, max(1, most/2))}
	c.BlockOnly = min(2, c.Outbound/4)
	kept := min(24, most/4)
	c.Inbound = max(1, most-c.Outbound-c.BlockOnly-2-kept)
	return c
}

// Peer is a connected peer as the slots see it.
type Peer struct {
	ID          peer.ID
	Ready       bool
	Inbound     bool
	Addr        ma.Multiaddr
	ConnectedAt time.Time
	MinRTT      time.Duration // 0 = not measured
	Leaving     bool          // either side has begun to part
	Ahead       time.Duration // of its clock before ours
	Claimed     chain.Head
	Validated   chain.Head
}

// SlotsFunctions are what the slots need of others. They may be called by
// several goroutines at once and MUST be quick, but for Disconnect.
type SlotsFunctions struct {
	// Peers lists the connected peers, ready or not.
	Peers func() []Peer
	// Head is our own; the zero Head means that there is none yet.
	Head func() chain.Head
	// Interval is how far apart blocks are expected, 0 = blocks have no clock.
	// Nil = no clock.
	Interval func() time.Duration
	// Syncing reports whether blocks are being fetched. Nil = never.
	Syncing func() bool
	// Gave is when p last brought a record and a block that were new, zero =
	// never. Nil = never.
	Gave func(p peer.ID) (tx, block time.Time)
	// Need tells discovery that candidates lack. It does not block. Nil = there
	// is no discovery.
	Need func()
	// Reachable reports whether this node listens where strangers can dial it.
	// Nil = it does not.
	Reachable func() bool
	// Refused counts the inbound connections that were refused by a limit or for
	// a ban. Nil = nobody counts.
	Refused func() uint64
	// Renew has gossip offer its protocols anew. It does not block. Nil = there is
	// no gossip.
	Renew func()
	// Alarms are those of the node; nil = of this room alone.
	Alarms *event.Alarms
	// Disconnect says goodbye and closes; it blocks for a second at most.
	Disconnect func(ctx context.Context, p peer.ID, code uint64, text string)
}

// Slots keeps the connection slots filled with peers of the address book, and
// decides who of the inbound peers has a place. It stands beside the static
// peers of its Dialer, which have places of their own. All exported methods
// are safe for concurrent use.
type Slots struct {
	cfg     SlotsConfig
	fns     SlotsFunctions
	dial    *Dialer
	book    *addrbook.Book
	bus     *event.Bus
	log     *slog.Logger
	metrics slotMetrics
	key     [32]byte // makes who is spared a secret
	done    chan ended
	found   chan struct{} // of one
	kinds   atomic.Int64  // of sources
	inbound inbound

	mu     sync.RWMutex // guards chosen
	chosen map[peer.ID]chosen

	// below: loop goroutine only
	held    map[peer.ID]*hold // from the begin of the dial until the connection is gone
	rests   map[peer.ID]resting
	lost    map[peer.ID]*lost     // at most as many as there are full outbound slots
	dead    map[peer.ID]time.Time // tried peers that a test of the book did not meet; it asks for one in two minutes
	lonely  bool                  // nobody was connected at the last step
	fill    filling
	feel    feeling
	anchors titles
	watch   watch
	lookAt  time.Time
	sawAt   time.Time // peers that we do not hold
	toldAt  time.Time // our protocols, again
	told    bool      // since the alarm began

	renewedAt time.Time // gossip

	ready, greeting int // inbound peers at the last look
}

// chosen is what others may know of a hold.
type chosen struct{ slot, source string }

// hold is a peer that we dial or hold in one of our slots.
type hold struct {
	id     peer.ID
	slot   string
	extra  bool      // beyond the number of its slots, until it is judged
	test   bool      // a feeler that answers a collision of the book
	back   time.Time // when it was lost: it has its slot back once it is up; zero = it was not
	anchor bool      // dialled because it is one
	source string    // kind of who told us, or anchor
	group  string
	public bool
	aged   bool      // chosen for being aged; anchors and others that are so come on top
	alone  bool      // nobody was connected when the dial began
	up     bool      // ready
	since  time.Time // of up, before that of the dial
	gave   time.Time // its last valid block, or its last word of being on our head
	off    time.Time // since when it is not on our head; zero = it is
	seenAt time.Time
}

// NewSlots starts nothing. reg may be nil.
func NewSlots(cfg SlotsConfig, fns SlotsFunctions, d *Dialer, book *addrbook.Book, bus *event.Bus, log *slog.Logger, reg prometheus.Registerer) (*Slots, error) {
	s := &Slots{
		cfg: cfg, fns: fns, dial: d, book: book, bus: bus, log: log, metrics: newSlotMetrics(reg),
		done: make(chan ended), found: make(chan struct{}, 1), chosen: map[peer.ID]chosen{},
		held: map[peer.ID]*hold{}, rests: map[peer.ID]resting{}, lost: map[peer.ID]*lost{}, dead: map[peer.ID]time.Time{},
	}
	if s.fns.Alarms == nil {
		s.fns.Alarms = event.NewAlarms(bus, log)
	}
	if s.fns.Reachable == nil {
		s.fns.Reachable = func() bool { return false }
	}
	if s.fns.Interval == nil {
		s.fns.Interval = func() time.Duration { return 0 }
	}
	if s.fns.Syncing == nil {
		s.fns.Syncing = func() bool { return false }
	}
	if s.fns.Gave == nil {
		s.fns.Gave = func(peer.ID) (time.Time, time.Time) { return time.Time{}, time.Time{} }
	}
	if s.fns.Need == nil {
		s.fns.Need = func() {}
	}
	s.SetKinds(cfg.Kinds)
	_, _ = rand.Read(s.key[:]) // never fails, says its documentation
	s.inbound = inbound{coming: map[peer.ID]time.Time{}, leaving: map[peer.ID]time.Time{}, losers: losers{}, cuts: tally.New[string](cutFor, maxCuts)}
	s.inbound.brief = brief{peers: map[peer.ID]time.Time{}, nets: map[netip.Prefix]time.Time{}}
	s.measure()
	return s, nil
}

// SetKinds sets how many kinds of sources are enabled.
func (s *Slots) SetKinds(n int) { s.kinds.Store(int64(n)) }

// Target is how many full outbound peers are wanted.
func (s *Slots) Target() int { return s.cfg.Outbound }

// SlotOf tells which of our slots p has, and who told us of it; "" = none.
func (s *Slots) SlotOf(p peer.ID) (slot, source string) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	c := s.chosen[p]
	return c.slot, c.source
}

// Found says that the book has new peers, so that free slots need not wait for
// the next look: they are looked for within a second. It does not block.
func (s *Slots) Found() {
	select {
	case s.found <- struct{}{}:
	default:
	}
}

// Run fills the slots until ctx ends. Connections stay open.
func (s *Slots) Run(ctx context.Context) error {
	sub := s.bus.Subscribe()
	defer sub.Close()
	var attempts sync.WaitGroup
	defer attempts.Wait()
	s.begin(time.Now())
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-s.found:
			s.fill.news = true
		case e := <-s.done:
			s.finish(e, time.Now())
		case <-sub.Wake():
			s.hear(sub, time.Now())
		}
		jobs, wake := s.step(time.Now())
		for _, j := range jobs {
			attempts.Go(func() { s.do(ctx, j) })
		}
		s.measure()
		timer.Reset(time.Until(wake))
	}
}

// begin is the first look of a run.
func (s *Slots) begin(now time.Time) {
	s.fill.since, s.lookAt = now, now.Add(lookAround)
	s.anchors.begin(s.book.Anchors(), s.cfg.Outbound, now)
	s.feel.begin(now)
	s.watch.begin(s.fns.Head(), now)
}

// task is one thing to do for the loop, which waits for nobody.
type task struct {
	hold  *hold
	addrs []ma.Multiaddr
	leave string // not "": part with hold, and why; else dial it
}

// step decides what is done now, and when it wants to be called next.
func (s *Slots) step(now time.Time) (jobs []task, wake time.Time) {
	s.company(now)
	if !now.Before(s.lookAt) {
		s.lookAt = now.Add(lookAround)
		jobs = append(jobs, s.look(now)...)
	}
	jobs = append(jobs, s.outbound(now)...)
	jobs = append(jobs, s.feelers(now)...)
	jobs = append(jobs, s.revisit(now)...)
	wake = nextDue(s.lookAt, s.fill.again, s.feel.at, s.revisitAt())
	if s.fill.news {
		wake = nextDue(wake, s.fill.newsAt)
	}
	return jobs, wake
}

// look compares what we hold with what the peers have told since.
func (s *Slots) look(now time.Time) (jobs []task) {
	head := s.fns.Head()
	peers := map[peer.ID]Peer{}
	for _, p := range s.fns.Peers() {
		peers[p.ID] = p
	}
	for id, h := range s.held {
		if !h.up {
			continue
		}
		p, ok := peers[id]
		switch {
		case !ok:
			if !s.dial.connected(id) {
				s.release(h)
			}
			continue
		case s.dial.Has(id): // it is kept as a static peer or a member by now
			s.release(h)
			continue
		case !head.Hash.IsZero() && (p.Claimed == head || p.Validated == head):
			h.gave, h.off = now, time.Time{}
		case h.off.IsZero():
			h.off = now
		}
		if now.Sub(h.seenAt) >= seenEvery {
			h.seenAt = now
			s.book.Seen(id)
		}
	}
	if now.Sub(s.sawAt) >= seenEvery {
		s.sawAt = now
		for id, p := range peers {
			if p.Ready && s.held[id] == nil {
				s.book.Seen(id)
			}
		}
	}
	jobs = append(jobs, s.giveBack(now)...)
	jobs = append(jobs, s.judgeExtra(peers, now)...)
	jobs = append(jobs, s.eclipse(head, peers, now)...)
	jobs = append(jobs, s.leaveBootnodes(now)...)
	jobs = append(jobs, s.seeOff(now)...)
	s.retitle(now)
	s.diversity(now)
	s.unheard(peers, now)
	s.poisoned(now)
	s.clocks(peers)
	s.announced(peers, now)
	s.flood(now)
	s.countInbound()
	return jobs
}

// hear takes what happened to the peers we hold. Where events were lost the
// next look finds it.
func (s *Slots) hear(sub *event.Subscription, now time.Time) {
	envelopes, lost := sub.Take(256)
	if lost > 0 {
		s.lookAt = now
	}
	for _, e := range envelopes {
		switch v := e.Data.(type) {
		case event.PeerReady:
			if v.Direction == "inbound" && s.didNotAnswer(v.Peer) {
				s.returned(now)
			}
			// The operator's own peers are not of our choice, and are proven as ours are.
			if s.held[v.Peer] == nil && (v.Slot == SlotStatic || s.dial.ByHand(v.Peer)) {
				if addr := s.dial.reachedAt(v.Peer); addr != nil {
					s.book.Good(v.Peer, addr)
				}
			}
		case event.PeerDisconnected:
			h := s.held[v.Peer]
			if h == nil || !h.up || s.dial.connected(v.Peer) {
				continue
			}
			class := classOfGoodbye(v.Goodbye)
			if class == "" && v.By == "them" && now.Sub(h.since) < flickered {
				class = ClassRefused
			}
			if class != "" && v.By == "them" {
				s.rest(v.Peer, class, false, now)
			}
			s.book.Seen(v.Peer)
			s.lose(h, v, now)
			s.release(h)
			s.log.Debug("outbound peer gone", "peer", v.Peer, "slot", h.slot, "by", v.By, "reason", v.Reason, "goodbye", v.Goodbye)
		case event.BlockStored:
			if h := s.held[v.From]; h != nil {
				h.gave, h.off = now, time.Time{}
			}
		case event.HeadChanged:
			s.watch.moved(chain.Head{Height: v.Height, Hash: v.Hash}, now)
		}
	}
}

// take notes a peer before it is dialled, so that whoever meets the connection
// knows what it is for.
func (s *Slots) take(h *hold) {
	s.held[h.id] = h
	s.mu.Lock()
	s.chosen[h.id] = chosen{h.slot, h.source}
	s.mu.Unlock()
	if h.slot != SlotFeeler {
		s.dial.host.ConnManager().Protect(h.id, tagOut)
	}
}

// release forgets a peer that we do not hold any more.
func (s *Slots) release(h *hold) {
	if s.held[h.id] != h {
		return
	}
	delete(s.held, h.id)
	s.mu.Lock()
	delete(s.chosen, h.id)
	s.mu.Unlock()
	s.dial.host.ConnManager().Unprotect(h.id, tagOut)
	if h.up {
		s.fill.again, s.fill.wait = time.Time{}, 0
	}
}

// count tells how many hold a slot or are dialled for it, extra ones apart.
func (s *Slots) count(slot string) (up, dialling int) {
	for _, h := range s.held {
		switch {
		case h.slot != slot || h.extra:
		case h.up:
			up++
		default:
			dialling++
		}
	}
	return up, dialling
}
