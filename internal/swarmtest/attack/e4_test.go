//go:build attack

package attack

import (
	"fmt"
	mrand "math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	kb "github.com/libp2p/go-libp2p-kbucket"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/internal/p2p/discovery"
)

// E4: routers of the DHT that lie. Real hosts in virtual time over QUIC.

const (
	e4Routers = 150
	e4Lookups = 40 // of a seed
)

// lieOf is how the poisoners answer.
type lieOf string

const (
	collude lieOf = "name each other"      // the poisoners that are nearest to what is asked for
	invent  lieOf = "invent peers near it" // 20 each, who do not answer
)

// poison is a column of E4.
type poison struct {
	lie  lieOf
	part float64 // of the routers
	weak bool    // the ablation is run here
}

var poisons = []poison{{collude, 0, false}, {collude, .1, false}, {collude, .3, false}, {collude, .5, false}, {invent, .3, true}}

var (
	e4Kinds = []kind{b0, b1,
		oursWithout("ours, d = 4", discovery.Weakness{}),
		oursWithout("ours, d = 1", discovery.Weakness{Paths: 1}),
		oursWithout("ours, d = 2", discovery.Weakness{Paths: 2}),
		oursWithout("ours, d = 8", discovery.Weakness{Paths: 8}),
	}
	e4Weak = []kind{
		oursWithout("ours without the liar rule", discovery.Weakness{Liars: true}),
		oursWithout("ours without limits by group", discovery.Weakness{Diversity: true}),
		oursWithout("ours, d = 1, without the liar rule", discovery.Weakness{Paths: 1, Liars: true}),
	}
)

// reach sums what came of lookups.
type reach struct {
	found, n int
	asked    int
	took     []float64 // ms, virtual
}

func (a *reach) add(b reach) {
	a.found, a.n, a.asked = a.found+b.found, a.n+b.n, a.asked+b.asked
	a.took = append(a.took, b.took...)
}

// poisoned runs all kinds in one network.
func poisoned(t *testing.T, p poison, kinds []kind, seed uint64) (all []reach) {
	t.Helper()
	inBubble(t, seed, func(l *lab) {
		d := newDHT(l, e4Routers)
		d.poison(p)
		d.fill()
		r := mrand.New(mrand.NewPCG(seed, 7))
		known := d.entrances()
		var keys []peer.ID
		for range e4Lookups {
			keys = append(keys, randomID(r))
		}
		for i, k := range kinds {
			s := k.make(d, publicIP(2000+i, 1), known)
			all = append(all, d.search(s, keys))
		}
	})
	return all
}

// poison makes a part of the routers liars; the first one stays honest.
func (d *dhtLab) poison(p poison) {
	var bad []*router
	order := d.rand.Perm(len(d.routers) - 1)
	for _, i := range order[:int(p.part*float64(len(d.routers)))] {
		bad = append(bad, d.routers[1+i])
	}
	for i, r := range bad {
		switch p.lie {
		case collude:
			r.lies = func(_ string, target kb.ID) []*pb.Message_Peer { return tell(nearestOf(bad, target)) }
		case invent:
			r.lies = inventor(d.rand.Uint64() + uint64(i))
		}
	}
}

// entrances are the four routers that a searcher is told of: an honest one and
// three that are drawn.
func (d *dhtLab) entrances() (known []peer.AddrInfo) {
	for _, i := range append([]int{0}, d.rand.Perm(len(d.routers) - 1)[:3]...) {
		if i > 0 {
			i++
		}
		h := d.routers[min(i, len(d.routers)-1)].host
		known = append(known, peer.AddrInfo{ID: h.ID(), Addrs: h.Addrs()})
	}
	return known
}

// search looks the keys up and counts at the routers.
func (d *dhtLab) search(s searcher, keys []peer.ID) (res reach) {
	for _, key := range keys {
		d.take(string(key))
		begin := time.Now()
		s.node(d.ctx, key)
		res.took = append(res.took, float64(time.Since(begin).Microseconds())/1000)
		asked, all := d.take(string(key))
		honest := slices.DeleteFunc(slices.Clone(d.routers), func(r *router) bool { return r.lies != nil })
		best := nearestOf(honest, kb.ConvertPeerID(key))[0]
		res.n++
		res.asked += all
		res.found += b2i(asked[best.host.ID()] > 0)
	}
	return res
}

// TestE4 prints the table. It fails where a target of DEFENCE 14 is missed.
func TestE4(t *testing.T) {
	quiet()
	begin, runs := time.Now(), 3
	if *seeds > 0 {
		runs = *seeds
	}
	sums := make([][]reach, len(poisons))
	for seed := range runs {
		for i, p := range poisons {
			if seed == 0 {
				sums[i] = make([]reach, len(p.kinds()))
			}
			for j, r := range poisoned(t, p, p.kinds(), uint64(seed+1)) {
				sums[i][j].add(r)
			}
			fmt.Fprintf(os.Stderr, "%s, %.0f %%, seed %d: CPU %.0f s, clock %.0f s\n", p.lie, 100*p.part, seed+1, cpu().Seconds(), time.Since(begin).Seconds())
		}
		text := e4Page(sums, seed+1)
		if seed == runs-1 {
			fmt.Println(text)
		}
		save(t, "E4.md", text) // a run that is cut leaves what it has
	}
	for i, p := range poisons {
		judgeReach(t, p, sums[i][0], sums[i][2])
	}
}

func (p poison) kinds() []kind {
	if p.weak {
		return append(slices.Clone(e4Kinds), e4Weak...)
	}
	return e4Kinds
}

func e4Page(sums [][]reach, runs int) string {
	var b strings.Builder
	fmt.Fprintf(&b, e4Head, e4Routers, e4Lookups, runs)
	for i, p := range poisons {
		for j, r := range sums[i] {
			b.WriteString(r.line(p, p.kinds()[j].name, sums[i][0]))
		}
	}
	fmt.Fprintf(&b, e4Foot, cpu().Seconds())
	return b.String()
}

func (a reach) line(p poison, name string, stock reach) string {
	low, high := Wilson(a.found, a.n)
	slices.Sort(a.took)
	part := float64(a.found) / float64(a.n)
	asked := float64(a.asked) / float64(a.n)
	return fmt.Sprintf("| %s | %.0f %% | %s | %s (%s–%s) | %.0f | %.1f | %.2f | %.2f |\n", p.lie, 100*p.part, name, share(part), share(low), share(high),
		asked, asked*float64(stock.n)/float64(stock.asked), a.took[len(a.took)/2]/1000, a.took[len(a.took)*95/100]/1000)
}

// judgeReach compares the measured share with the target.
func judgeReach(t *testing.T, p poison, stock, ours reach) {
	t.Helper()
	if p.part > .3 {
		return
	}
	if got := float64(ours.found) / float64(ours.n); got < .95 {
		t.Errorf("%s, %.0f %%: reached %.3f, want .95", p.lie, 100*p.part, got)
	}
	if x := float64(ours.asked*stock.n) / float64(stock.asked*ours.n); x > 4 {
		t.Errorf("%s, %.0f %%: %.1f times the questions of B0, want 4", p.lie, 100*p.part, x)
	}
}

const e4Head = `# E4: routers of the DHT that lie

Written by ` + "`make attack NAME=E4`" + `. Real hosts in virtual time over QUIC (**bubble**), 10 to 80 ms one way, 50 Mbit/s. %[1]d
routers, each in an address group of its own; a part of them, drawn, answers every question with poison. Their tables are
those of a converged network, drawn beforehand (up to 20 peers a bucket), and a small server of the experiment answers from
them. Who looks up is the real software, each in turn in the same network: a fresh client is told of four routers, one of
them honest for sure, fills its table by its own means for a minute, and looks %[2]d random keys up one after the other, the
same ones for all. Found = the honest router that is nearest to the key was asked, counted there, as are the questions.
%[3]d seeds; lookups of one seed share their network, so the intervals are somewhat too narrow.

| poisoners | part | who looks up | found (95 %% interval) | questions | × B0 | p50 s | p95 s |
|---|---|---|---|---|---|---|---|
`

const e4Foot = `
B0 is dht.New with all defaults (10 questions at once, and the follow-up to the 20 nearest), B1 the wide-area half of
dual.New with its limits by address group. Questions to peers that do not exist reach nobody and are not counted; they show
in the time. Times are virtual, with the connections that each keeps from the lookup before; ours leaves a peer 20 s after its last question and stock
keeps it. Ours runs in the public scope, without a handshake. CPU of the whole run: %.0f s.
`
