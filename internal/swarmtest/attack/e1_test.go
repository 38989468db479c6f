//go:build attack

package attack

import (
	"errors"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/internal/p2p/addrbook"
)

// E1: poison the book, kill -9, restart. The address book is the real one, with
// its files; who answers a dial, and the slots, are played (DEFENCE 4.1).

const (
	honestPeers  = 5000
	triedPeers   = 300
	newTried     = 30 // of a new node
	triedOnline  = .70
	newOnline    = .30
	anchorAnswer = .90
	tick         = 2 * time.Minute // mean time between feelers
	session      = 24 * time.Hour  // mean life of a connection with an honest peer
	fullSlots    = 8
	agedSlots    = 2
	blockSlots   = 2
	mostTries    = 400 // of one slot
)

// strength is a column: what the attacker has.
type strength struct {
	addrs, groups, sources, hours int
	seeds                         int
}

// flaw leaves out a part of the book's defence.
type flaw int

const (
	sound         flaw = iota
	noGroups           // each address of the attacker is a group of its own
	noTest             // a newcomer takes its slot of tried at once
	noSourceLimit      // each of its addresses comes from a source of its own, in a group of its own; no quota by kind
	noAged             // until kill -9 no slot was kept for aged peers
	longTitles         // the anchors are those that were connected the longest
	newNode            // the attack begins with the node, when it has been at newTried peers
)

// trial is one run: a world, a book in it, and what the node is connected to.
type trial struct {
	t    *testing.T
	rand *rand.Rand
	s    strength
	flaw flaw
	w    *world
	book *addrbook.Book
	cfg  addrbook.Config
	out  []link // full, then block-only slots
	seq  uint64
}

type link struct {
	p     *node
	since time.Time
	first time.Time // it was good
	aged  bool
}

// poison plays the node's life until kill -9. Its files are in cfg.Dir then.
func (r *trial) poison() {
	var err error
	if r.book, err = addrbook.Open(r.cfg, nil, nil, nil); err != nil {
		r.t.Fatal(err)
	}
	r.book.Seed(r.rand.Uint64())
	known := r.w.honest[:triedPeers]
	if r.flaw == newNode {
		known = known[:newTried]
	}
	for _, p := range known {
		r.told(p, r.honestSource())
		r.book.Good(p.id, p.addr)
	}
	if r.flaw != newNode {
		time.Sleep(10 * 24 * time.Hour) // so that they are aged
	}
	for _, p := range r.w.honest {
		r.told(p, r.honestSource())
	}
	for _, p := range known {
		r.dial(r.book, p)
	}
	r.fill()
	ticks := int(time.Duration(r.s.hours) * time.Hour / tick)
	owed := 0.0
	for i := range ticks {
		time.Sleep(tick)
		// the attacker tells of all within the first hour, and of all again each 12 h
		if owed += float64(r.s.addrs) / 360; i < 30 {
			owed += float64(r.s.addrs) / 30
		}
		for ; owed >= 1; owed-- {
			p := r.w.bad[r.w.next%len(r.w.bad)]
			r.w.next++
			r.told(p, r.badSource(p))
		}
		for range 3 {
			r.told(r.w.honest[r.rand.IntN(honestPeers)], r.honestSource())
		}
		r.feel()
		r.churn()
		if i == ticks-2 { // the last save is up to 5 min old
			r.must(r.book.Save())
		}
		r.must(r.anchors())
	}
}

func (r *trial) must(err error) {
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *trial) told(p *node, src addrbook.Source) {
	r.seq++
	err := r.book.Tell(src, p.id, r.seq, anyRecord, p.addr)
	if err != nil && !errors.Is(err, addrbook.ErrFull) && !errors.Is(err, addrbook.ErrQuota) {
		r.t.Fatal(err)
	}
}

var anyRecord = []byte("record")

// honestSource is a peer that tells: by exchange, by the DHT, or of itself.
func (r *trial) honestSource() addrbook.Source {
	p := r.w.honest[r.rand.IntN(honestPeers)]
	return addrbook.Source{Kind: oneOf(r.rand, addrbook.PEX, addrbook.DHT), Peer: p.id, IP: p.ip}
}

// badSource tells of p out of one of the source groups, by exchange or the DHT;
// one time in three p comes itself, from where it is.
func (r *trial) badSource(p *node) addrbook.Source {
	kind := oneOf(r.rand, addrbook.PEX, addrbook.DHT, addrbook.Inbound)
	switch {
	case kind == addrbook.Inbound:
		return addrbook.Source{Kind: kind, Peer: p.id, IP: p.ip}
	case r.flaw == noSourceLimit:
		return addrbook.Source{Kind: kind, Peer: p.id, IP: publicIP(sourceGroups+r.rand.IntN(20_000), 1)}
	}
	n := r.rand.IntN(len(r.w.bad)/32 + 1) // source ids: free, 64 places each
	return addrbook.Source{Kind: kind, Peer: fakeID(1<<40 + uint64(n)), IP: publicIP(sourceGroups+n%r.s.sources, n/r.s.sources+1)}
}

func oneOf[T any](r *rand.Rand, all ...T) T { return all[r.IntN(len(all))] }

// dial is our own dial with identify and handshake.
func (r *trial) dial(b *addrbook.Book, p *node) bool {
	b.Attempt(p.id)
	if p.online {
		b.Good(p.id, p.addr)
	} else {
		b.Failed(p.id, "timeout")
	}
	return p.online
}

// feel is the feeler: a collision test that is due, or one of new.
func (r *trial) feel() {
	if old, ok := r.book.Test(); ok {
		if r.flaw == noTest {
			r.book.Failed(old.ID, "timeout")
		} else {
			r.dial(r.book, r.w.by[old.ID])
		}
		return
	}
	if e, ok := r.book.Pick(addrbook.PickOptions{Table: addrbook.New, Skip: r.connected}); ok {
		r.dial(r.book, r.w.by[e.ID])
	}
}

func (r *trial) connected(e addrbook.Entry) bool {
	return slices.ContainsFunc(r.out, func(l link) bool { return l.p.id == e.ID })
}

// churn ends connections with honest peers; the attacker's never end.
func (r *trial) churn() {
	r.out = slices.DeleteFunc(r.out, func(l link) bool {
		return l.p.honest && r.rand.Float64() < float64(tick)/float64(session)
	})
	for _, l := range r.out {
		r.book.Seen(l.p.id)
	}
	r.fill()
}

// fill gives each free slot the first pick that answers, one a group. Two are
// for aged peers as long as one of them answers.
func (r *trial) fill() {
	for len(r.out) < fullSlots+blockSlots {
		kept := agedSlots
		for _, l := range r.out {
			kept -= b2i(l.aged)
		}
		if r.flaw == noAged {
			kept = 0
		}
		aged := fullSlots+blockSlots-len(r.out) <= kept
		p, _ := r.connect(r.book, r.out, aged)
		if p == nil && aged {
			aged = false
			p, _ = r.connect(r.book, r.out, false)
		}
		if p == nil {
			return
		}
		e, _ := r.book.Get(p.id)
		r.out = append(r.out, link{p, time.Now(), e.FirstGood, aged})
	}
}

// connect dials picks until one answers. It counts the dials.
func (r *trial) connect(b *addrbook.Book, out []link, aged bool) (p *node, dials int) {
	skip := func(e addrbook.Entry) bool {
		return slices.ContainsFunc(out, func(l link) bool { return l.p.id == e.ID || l.p.group == e.Group })
	}
	for dials < mostTries {
		e, ok := b.Pick(addrbook.PickOptions{Aged: aged, Skip: skip})
		if !ok {
			return nil, dials
		}
		dials++
		if p := r.w.by[e.ID]; r.dial(b, p) {
			return p, dials
		}
	}
	return nil, dials
}

// anchors keeps who was good first, of those connected for 30 min.
func (r *trial) anchors() error {
	first := func(l link) time.Time {
		if r.flaw == longTitles {
			return l.since
		}
		return l.first
	}
	sorted := slices.SortedFunc(slices.Values(r.out), func(x, y link) int { return first(x).Compare(first(y)) })
	var ids []peer.ID
	for _, l := range sorted {
		if time.Since(l.since) >= 30*time.Minute {
			ids = append(ids, l.p.id)
		}
	}
	before := r.book.Anchors()
	r.book.SetAnchors(ids)
	if after := r.book.Anchors(); slices.EqualFunc(before, after, func(x, y addrbook.Entry) bool { return x.ID == y.ID }) {
		return nil
	}
	return r.book.SaveAnchors()
}

// policy is a row: how a restart fills its slots.
type policy struct {
	name    string
	aged    int
	block   int
	anchors anchorState
}

type anchorState int

const (
	without  anchorState = iota // none are kept
	up                          // each answers with .9
	down                        // none answers
	attacked                    // those of honest peers do not answer, the attacker's do
)

// result of one restart.
type result struct {
	bad, all int // outbound slots
	dials    int // until the first honest peer; 0 = there is none
}

// restart opens what kill -9 left and fills the slots.
func (r *trial) restart(pol policy) (res result) {
	b, err := addrbook.Open(r.cfg, nil, nil, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	b.Reseed(r.rand.Uint64())
	var out []link
	dials := 0
	join := func(p *node, n int) {
		dials += n
		if p == nil {
			return
		}
		if out = append(out, link{p: p}); p.honest && res.dials == 0 {
			res.dials = dials
		}
		res.bad += b2i(!p.honest)
	}
	if pol.anchors != without {
		for _, a := range b.Anchors()[:min(len(b.Anchors()), (fullSlots+pol.block)/2)] {
			p := r.w.by[a.ID]
			answers := !p.honest || p.online && r.rand.Float64() < anchorAnswer
			if pol.anchors == down || pol.anchors == attacked && p.honest {
				answers = false
			}
			if answers {
				join(p, 1)
			} else {
				join(nil, 3)
			}
		}
	}
	for range pol.aged {
		join(r.connect(b, out, true))
	}
	for len(out) < fullSlots+pol.block {
		p, n := r.connect(b, out, false)
		if join(p, n); p == nil {
			break
		}
	}
	res.all = len(out)
	return res
}

// flat is a list without buckets: 8 picks that answer, out of all.
func (r *trial) flat() (res result) {
	all := slices.Concat(r.w.honest, r.w.bad)
	dials := 0
	for res.all < fullSlots {
		dials++
		if p := all[r.rand.IntN(len(all))]; p.online {
			res.all++
			res.bad += b2i(!p.honest)
			if p.honest && res.dials == 0 {
				res.dials = dials
			}
		}
	}
	return res
}

// run plays one trial in its own bubble, and every row's restart after it.
func run(t *testing.T, s strength, f flaw, seed uint64, rows []policy, dir string) (results []result) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &trial{t: t, rand: rand.New(rand.NewPCG(seed, 1)), s: s, flaw: f, cfg: addrbook.Config{Dir: dir, Sources: 3}}
		if f == noSourceLimit {
			r.cfg.Sources = 0
		}
		r.w = newWorld(r.rand, s, f)
		if f == sound {
			results = append(results, r.flat()) // the first cell
		}
		r.poison()
		time.Sleep(time.Minute)
		for _, pol := range rows {
			results = append(results, r.restart(pol))
		}
	})
	if err := os.RemoveAll(dir); err != nil {
		t.Error(err)
	}
	return results
}

// each runs do for 0 to n-1, one on each processor at once.
func each(n int, do func(i int)) {
	var all sync.WaitGroup
	next := make(chan int)
	for range runtime.GOMAXPROCS(0) {
		all.Go(func() {
			for i := range next {
				do(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	all.Wait()
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
