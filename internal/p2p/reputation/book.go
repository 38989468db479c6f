// Package reputation owns how peers behave: the score and the gate.
package reputation

import (
	"cmp"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/event"
)

const (
	maxPeers    = 10_000         // remembered
	maxReasons  = 20             // kept per peer
	maxDetail   = 256            // bytes
	forgetAfter = 24 * time.Hour // since the last contact, at 0
	maxPoints   = 100            // or the threshold, if that is more
	maxCredit   = 100
	usedCredit  = 20 // of it count
	creditStep  = 10 * time.Minute
	creditRate  = 2 // a minute
)

// points of each reason (DEFENCE 6.2).
var points = map[chain.Offence]int{
	chain.ForgedBlock: 100, chain.InvalidBlock: 50, chain.Oversize: 40, chain.BadRecord: 40, chain.Malformed: 25,
	chain.Violation: 20, chain.FalseClaim: 20, chain.InvalidTx: 10, chain.Spam: 10,
	chain.BadChunk: 50, chain.Timeout: 4, chain.Stall: 4, chain.Useless: 2, chain.Gossip: 5, chain.Duplicate: 1,
}

// weak reasons stop adding at the weak cap: slowness alone never disconnects.
var weak = map[chain.Offence]bool{
	chain.Timeout: true, chain.Stall: true, chain.Useless: true, chain.Gossip: true, chain.Duplicate: true,
}

var credits = map[chain.Credit]int{chain.NovelBlock: 4, chain.Served: 1}

// Config sets how much is forgiven.
type Config struct {
	// Threshold at the start; see [Book.SetThreshold]. 0 means 100.
	Threshold int
	// File keeps the points over a restart. Empty = they are forgotten.
	File string
	// Bans is where peers go that pass the threshold. Nil = nobody is banned.
	Bans *Bans
	// Alarms is told of what an operator should see. Nil = nobody is.
	Alarms *event.Alarms
}

// Standing is what a peer's points make of it.
type Standing string

// The standings, from good to bad; Exempt peers are counted and never banned by
// their points.
const (
	Normal      Standing = "normal"
	Watched     Standing = "watched"     // no credit counts; asked for data last
	Discouraged Standing = "discouraged" // refused until its points are below the watched line
	Banned      Standing = "banned"
	Exempt      Standing = "exempt"
)

var standings = []Standing{Normal, Watched, Discouraged, Banned, Exempt}

// Reason is one charge.
type Reason struct {
	At     time.Time     `json:"at"`
	Reason chain.Offence `json:"reason"`
	Points int           `json:"points"` // as added, after caps
	Detail string        `json:"detail"`
}

// Score tells how a peer behaves. The zero values stand for an unknown peer.
type Score struct {
	Peer     peer.ID  `json:"peer"`
	Score    int      `json:"score"` // credit (≤ 20) − points, −100…20
	Points   int      `json:"points"`
	Credit   int      `json:"credit"`
	Standing Standing `json:"standing"`
	Offences int      `json:"offences"` // automatic bans in 30 days
	Reasons  []Reason `json:"reasons"`  // newest last, at most 20
}

// Book keeps the score of each peer. It is safe for concurrent use.
type Book struct {
	file     string
	bans     *Bans         // may be nil
	alarms   *event.Alarms // may be nil
	bus      *event.Bus
	log      *slog.Logger
	metrics  *metrics
	exempt   atomic.Pointer[func(peer.ID) bool]
	facts    atomic.Pointer[func(peer.ID) Facts]
	allowed  atomic.Pointer[map[peer.ID]time.Time] // nil = everybody
	guests   sync.Map                              // peer.ID → nothing
	refusals refusals
	refused  atomic.Uint64 // connections, told of or not
	due      chan sentence // to be banned

	mu sync.Mutex // guards what follows
	lines
	peers   map[peer.ID]*entry // at most maxPeers
	dirty   bool               // since the last save, but for what time alone changes
	brake   brake
	strikes strikes
	storm   []time.Time // automatic bans of late
}

// entry is one peer's state. Its clocks move by whole steps, so that no
// remainder is lost.
type entry struct {
	points      int
	pointsAt    time.Time // a minute off each point from here
	credit      int
	creditAt    time.Time // ten minutes off each credit from here
	earned      int       // credit since earnedAt
	earnedAt    time.Time
	discouraged bool
	sentenced   bool      // it is banned, or about to be: no decay
	pauses      int       // of an exempt peer, in a row
	pausedTill  time.Time // it is refused until then although it is exempt
	contact     time.Time // last charge or credit
	reasons     []Reason
}

// New returns an empty book. bus, log and reg may be nil.
func New(cfg Config, bus *event.Bus, log *slog.Logger, reg prometheus.Registerer) (*Book, error) {
	if cfg.Threshold <= 0 {
		cfg.Threshold = 100
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	b := &Book{
		lines: linesOf(cfg.Threshold),
		file:  cfg.File, bans: cfg.Bans, alarms: cfg.Alarms, bus: bus, log: log, peers: map[peer.ID]*entry{}, due: make(chan sentence, maxDue),
		strikes: strikes{},
	}
	if err := b.load(time.Now()); err != nil {
		return nil, err
	}
	if b.bans != nil {
		b.bans.changed, b.bans.foreign = b.banChanged, b.warned
		b.bans.rev = 0 // what other nodes banned is heard once more, now that somebody listens
	}
	b.metrics = newMetrics(b)
	if reg != nil {
		if err := reg.Register(b.metrics); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// Exempt sets who is never refused: static peers and members. f is called
// often, from many goroutines, and MUST be quick.
func (b *Book) Exempt(f func(peer.ID) bool) { b.exempt.Store(&f) }

func (b *Book) isExempt(p peer.ID) bool {
	f := b.exempt.Load()
	return f != nil && *f != nil && (*f)(p)
}

// Penalize charges p and reports whether p is to be disconnected, which is so
// from 40 points on, and of an exempt peer for a minute or more each time that
// it gets there. At the threshold p is banned by [Book.Run], unless the brake
// is on. Detail is cut to 256 bytes. A charge that a cap makes nothing leaves
// no reason and no event. An offence out of the closed set costs nothing.
func (b *Book) Penalize(p peer.ID, o chain.Offence, detail string) (disconnect bool) {
	n, ok := points[o]
	if !ok {
		b.log.Error("unknown offence", "peer", p, "reason", o)
		return false
	}
	return b.charge(p, o, n, detail)
}

// MostByHand is how many points an operator gives at once: with it alone a peer
// is banned.
const MostByHand = 100

// PenalizeByHand charges p with n points, 1 to MostByHand, for what an operator
// knows of it. See Penalize.
func (b *Book) PenalizeByHand(p peer.ID, n int, detail string) (disconnect bool) {
	return b.charge(p, chain.Manual, max(1, min(n, MostByHand)), detail)
}

func (b *Book) charge(p peer.ID, o chain.Offence, n int, detail string) (disconnect bool) {
	exempt := b.isExempt(p)
	now := time.Now()
	r := Reason{At: now.UTC(), Reason: o, Detail: clean(detail)}

	b.mu.Lock()
	e := b.get(p, now)
	r.Points = b.add(e, n, weak[o], r)
	passed := !e.discouraged && e.points >= b.discouraged
	e.discouraged = e.discouraged || passed
	paused := exempt && r.Points > 0 && e.discouraged && !now.Before(e.pausedTill)
	if paused {
		e.pause(now)
		passed = true
	}
	banned := !exempt && r.Points > 0 && e.points >= b.threshold && !e.sentenced && b.bans != nil
	e.sentenced = e.sentenced || banned
	total, bad := e.points, e.discouraged && !exempt || now.Before(e.pausedTill)
	b.mu.Unlock()

	if r.Points == 0 {
		return bad // at the cap: else one bad peer could fill the bus
	}
	if banned { // before anybody is told of the points: who parts with it then says why
		b.judge(p, o, r.Detail, now)
	}
	b.metrics.points.WithLabelValues(string(o)).Add(float64(r.Points))
	b.log.Debug("peer penalized", "peer", p, "reason", o, "points", r.Points, "total", total, "detail", r.Detail)
	b.publish(event.PeerPenalized{Peer: p, Reason: o, Points: r.Points, Total: total, Detail: r.Detail})
	if passed {
		b.log.Info("peer discouraged", "peer", p, "points", total, "reason", o, "exempt", exempt)
		b.publish(event.PeerDiscouraged{Peer: p, Points: total})
	}
	if paused && b.alarms != nil {
		b.alarms.Seen("member_misbehaving", "a static, trusted or member peer misbehaves: its connection is closed for a while", map[string]any{"peer": p, "points": total, "reason": o})
	}
	return bad
}

// add adds n points to e and returns how many the caps left of them. mu held.
func (b *Book) add(e *entry, n int, weak bool, r Reason) int {
	limit := b.most()
	if weak {
		limit = b.weakCap
	}
	r.Points = max(0, min(n, limit-e.points))
	if r.Points == 0 {
		return 0
	}
	if e.points == 0 {
		e.pointsAt = r.At
	}
	e.points += r.Points
	if len(e.reasons) == maxReasons {
		e.reasons = slices.Delete(e.reasons, 0, 1)
	}
	e.reasons = append(e.reasons, r)
	return r.Points
}

// Credit praises p; a watched peer earns nothing.
func (b *Book) Credit(p peer.ID, c chain.Credit) {
	n, ok := credits[c]
	if !ok {
		b.log.Error("unknown credit", "peer", p, "credit", c)
		return
	}
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.get(p, now)
	if e.points >= b.watched {
		return
	}
	if now.Sub(e.earnedAt) >= time.Minute {
		e.earned, e.earnedAt = 0, now
	}
	n = min(n, creditRate-e.earned, maxCredit-e.credit)
	if e.credit == 0 {
		e.creditAt = now
	}
	e.earned += n
	e.credit += n
}

// Score tells what is known of p.
func (b *Book) Score(p peer.ID) Score {
	exempt := b.isExempt(p)
	s := Score{Peer: p, Standing: Normal}
	b.mu.Lock()
	if e := b.peers[p]; e != nil {
		b.decay(e, time.Now())
		s.Points, s.Credit, s.Standing = e.points, e.credit, b.standing(e)
		s.Score = min(e.credit, usedCredit) - e.points
		s.Reasons = slices.Clone(e.reasons)
	}
	b.mu.Unlock()
	if exempt {
		s.Standing = Exempt
	}
	if b.bans != nil {
		s.Offences = b.bans.list.offences(Target{Peer: p}, time.Now())
		if b.bans.peer(p) {
			s.Standing = Banned
		}
	}
	return s
}

// Allow replaces the peers that may connect, each until a time or, where that
// is zero, for ever; exempt ones may as well. Nil allows everybody. It keeps
// list and MUST be the last to write to it. Live connections are the caller's
// to close.
func (b *Book) Allow(list map[peer.ID]time.Time) {
	if list == nil {
		b.allowed.Store(nil)
		return
	}
	b.allowed.Store(&list)
}

// Allows reports whether the list of [Book.Allow] lets p in.
func (b *Book) Allows(p peer.ID) bool {
	list := b.allowed.Load()
	if list == nil {
		return true
	}
	if until, ok := (*list)[p]; ok && (until.IsZero() || time.Now().Before(until)) {
		return true
	}
	if _, ok := b.guests.Load(p); ok {
		return true
	}
	return b.isExempt(p)
}

// Guest lets a dial of p pass the list until done is called. It is for an id
// that nobody has, by which the one of another peer is learned.
func (b *Book) Guest(p peer.ID) (done func()) {
	b.guests.Store(p, nil)
	return func() { b.guests.Delete(p) }
}

// Refused reports whether p is kept away: banned, discouraged and not exempt,
// exempt and paused, or not on the list of [Book.Allow].
func (b *Book) Refused(p peer.ID) bool { return b.refusal(p) != "" }

// refusal says why p is refused, "" = it is not. Who is about to be banned is
// banned already.
func (b *Book) refusal(p peer.ID) string {
	if b.bans != nil && b.bans.peer(p) {
		return string(Banned)
	}
	now := time.Now()
	b.mu.Lock()
	e := b.peers[p]
	bad, paused, sentenced := e != nil, e != nil && now.Before(e.pausedTill), false
	if bad {
		b.decay(e, now)
		bad, sentenced = e.discouraged, e.sentenced
	}
	b.mu.Unlock()
	if sentenced {
		return string(Banned)
	}
	if paused || bad && !b.isExempt(p) {
		return string(Discouraged)
	}
	if !b.Allows(p) {
		return NotAllowed
	}
	return ""
}

// AllRefused lists the peers that are kept away, in no order.
func (b *Book) AllRefused() []peer.ID {
	var list []peer.ID
	b.mu.Lock()
	for p, e := range b.peers {
		if e.discouraged {
			list = append(list, p)
		}
	}
	b.mu.Unlock()
	if b.bans != nil {
		list = append(list, b.bans.list.peers()...)
	}
	slices.Sort(list)
	return slices.DeleteFunc(slices.Compact(list), func(p peer.ID) bool { return !b.Refused(p) })
}

func (b *Book) standing(e *entry) Standing { // mu held
	switch {
	case e.discouraged:
		return Discouraged
	case e.points >= b.watched:
		return Watched
	}
	return Normal
}

// get returns p's entry as of now, a new one if need be. mu held.
func (b *Book) get(p peer.ID, now time.Time) *entry {
	e := b.peers[p]
	if e == nil {
		if len(b.peers) >= maxPeers {
			b.forget(now)
		}
		e = &entry{pointsAt: now, creditAt: now}
		b.peers[p] = e
	}
	b.decay(e, now)
	e.contact, b.dirty = now, true
	return e
}

// decay takes off what the time since the last look has earned. mu held.
func (b *Book) decay(e *entry, now time.Time) {
	if e.sentenced {
		e.pointsAt = now
	}
	e.points, e.pointsAt = run(e.points, e.pointsAt, time.Minute, now)
	e.credit, e.creditAt = run(e.credit, e.creditAt, creditStep, now)
	if e.points < b.watched {
		e.discouraged, e.pauses = false, 0
	}
}

// run takes one off n for each whole step since at, and moves at by them.
func run(n int, at time.Time, step time.Duration, now time.Time) (int, time.Time) {
	steps := now.Sub(at) / step
	if steps <= 0 {
		return n, at
	}
	return max(0, n-int(min(steps, time.Duration(n)))), at.Add(steps * step) //nolint:durationcheck // steps is a count
}

// forget drops who is long gone and, if that is not enough, the tenth with the
// fewest points, oldest first. mu held.
func (b *Book) forget(now time.Time) {
	ids := make([]peer.ID, 0, len(b.peers))
	for p, e := range b.peers {
		b.decay(e, now)
		if e.points == 0 && now.Sub(e.contact) >= forgetAfter {
			delete(b.peers, p)
			continue
		}
		ids = append(ids, p)
	}
	if len(b.peers) < maxPeers {
		return
	}
	slices.SortFunc(ids, func(x, y peer.ID) int {
		a, b := b.peers[x], b.peers[y]
		return cmp.Or(cmp.Compare(a.points, b.points), a.contact.Compare(b.contact))
	})
	for _, p := range ids[:maxPeers/10] {
		delete(b.peers, p)
	}
}

func (b *Book) publish(e event.Event) {
	if b.bus != nil {
		b.bus.Publish(e)
	}
}

// clean makes a detail, which may hold a peer's words, fit for logs and JSON.
func clean(s string) string {
	if len(s) > maxDetail {
		s = s[:maxDetail]
	}
	s = strings.ToValidUTF8(s, "")
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}
