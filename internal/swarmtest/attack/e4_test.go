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
	e4Aimed   = .3 // up to this part of the routers DEFENCE 14 has targets
	e4Found   = .95
	e4Times   = 4 // the questions of B0
	e4Spread  = 8 // seeds, fewer of which have no interval to be drawn from
)

// lieOf is how the poisoners answer.
type lieOf string

const (
	collude lieOf = "name each other"      // the poisoners that are nearest to what is asked for
	invent  lieOf = "invent peers near it" // 20 each, who do not answer
)

// poison is a column of E4. Lookups are few for a network, since more networks
// tell more; where poisoners invent peers each dial to nobody costs much.
type poison struct {
	lie            lieOf
	part           float64 // of the routers
	seeds, lookups int
	kinds          []kind
}

var poisons = []poison{
	{collude, 0, 30, 12, e4Kinds[:3]}, {collude, .1, 30, 12, e4Kinds[:3]}, {collude, .3, 30, 12, e4Kinds}, {collude, .5, 30, 12, e4Kinds[:3]},
	{invent, .1, 15, 6, e4Kinds[:3]}, {invent, .3, 15, 6, slices.Concat(e4Kinds, e4Weak)}, {invent, .5, 15, 6, e4Kinds[:3]},
}

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

// reach is what came of the lookups of one kind in one network, or in several.
type reach struct {
	found, n int
	asked    int
	took     []float64 // s, virtual
}

// sum puts the runs of a list together that are named.
func sum(list []reach, runs []int) (a reach) {
	for _, i := range runs {
		b := list[i]
		a.found, a.n, a.asked = a.found+b.found, a.n+b.n, a.asked+b.asked
		a.took = append(a.took, b.took...)
	}
	slices.Sort(a.took)
	return a
}

func (a reach) part() float64      { return float64(a.found) / float64(a.n) }
func (a reach) questions() float64 { return float64(a.asked) / float64(a.n) }
func (a reach) p95() float64       { return a.took[len(a.took)*95/100] }

// poisoned runs all kinds in one network.
func poisoned(t *testing.T, p poison, seed uint64) (all []reach) {
	t.Helper()
	inBubble(t, seed, func(l *lab) {
		d := newDHT(l, e4Routers)
		d.poison(p)
		d.fill()
		r := mrand.New(mrand.NewPCG(seed, 7))
		known := d.entrances()
		var keys []peer.ID
		for range p.lookups {
			keys = append(keys, randomID(r))
		}
		for i, k := range p.kinds {
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
		res.took = append(res.took, time.Since(begin).Seconds())
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
	begin := time.Now()
	all := make([][][]reach, len(poisons)) // by poison, kind and seed
	for i, p := range poisons {
		if *seeds > 0 {
			poisons[i].seeds = *seeds
		}
		all[i] = make([][]reach, len(p.kinds))
	}
	for seed := uint64(1); ; seed++ {
		more := false
		for i, p := range poisons {
			if seed > uint64(p.seeds) {
				continue
			}
			more = true
			for j, r := range poisoned(t, p, seed) {
				all[i][j] = append(all[i][j], r)
			}
			fmt.Fprintf(os.Stderr, "%s, %.0f %%, seed %d: CPU %.0f s, clock %.0f s\n", p.lie, 100*p.part, seed, cpu().Seconds(), time.Since(begin).Seconds())
			text, _ := e4Page(all)
			save(t, "E4.md", text) // a run that is cut leaves what it has
		}
		if !more {
			break
		}
	}
	text, missed := e4Page(all)
	fmt.Println(text)
	for _, m := range missed {
		t.Error(m)
	}
}

// e4Page also says which targets are missed.
func e4Page(all [][][]reach) (text string, missed []string) {
	var b strings.Builder
	var losses []string
	fmt.Fprintf(&b, e4Head, e4Routers, e4Spread)
	for i, p := range poisons {
		if len(all[i][0]) == 0 {
			continue
		}
		for j, list := range all[i] {
			b.WriteString(p.row(p.kinds[j].name, list, all[i][0]))
		}
		whole := func(j int) reach { return sum(all[i][j], upTo(len(all[i][j]))) }
		if p.part <= e4Aimed {
			missed = append(missed, misses(p, whole(0), whole(2))...)
		}
		for j, stock := range []string{"B0", "B1"} {
			losses = append(losses, loses(p, stock, whole(j), whole(2))...)
		}
	}
	fmt.Fprintf(&b, "\nTargets, to %.0f %%: %s found, at most %d times the questions of B0. ", 100*e4Aimed, share(e4Found), e4Times)
	if len(missed) == 0 {
		b.WriteString("None is missed.\n")
	} else {
		fmt.Fprintf(&b, "Missed: %s.\n", strings.Join(missed, "; "))
	}
	if len(losses) > 0 {
		fmt.Fprintf(&b, "\nWhere ours, d = 4, is behind stock:\n\n- %s\n", strings.Join(losses, "\n- "))
	}
	fmt.Fprintf(&b, e4Foot, cpu().Seconds())
	return b.String(), missed
}

func upTo(n int) (list []int) {
	for i := range n {
		list = append(list, i)
	}
	return list
}

func (p poison) row(name string, list, stock []reach) string {
	runs := upTo(len(list))
	a := sum(list, runs)
	hits := make([]int, len(list))
	for i, r := range list {
		hits[i] = r.found
	}
	low, high := Clustered(hits, list[0].n)
	times := func(runs []int) float64 { return sum(list, runs).questions() / sum(stock, runs).questions() }
	between := func(format string, of func(runs []int) float64) string {
		if len(list) < e4Spread {
			return fmt.Sprintf(format, of(runs))
		}
		low, high := Bootstrap(len(list), of)
		return fmt.Sprintf(format+" ("+format+"–"+format+")", of(runs), low, high)
	}
	return fmt.Sprintf("| %s | %.0f %% | %d × %d | %s | %s (%s–%s) | %s | %s | %.2f | %s |\n", p.lie, 100*p.part, len(list), list[0].n, name, share(a.part()), share(low), share(high),
		between("%.1f", func(runs []int) float64 { return sum(list, runs).questions() }), between("%.2f", times), a.took[len(a.took)/2],
		between("%.2f", func(runs []int) float64 { return sum(list, runs).p95() }))
}

// misses compares the measured figures with the targets; the intervals stand in
// the table.
func misses(p poison, stock, ours reach) (list []string) {
	if ours.part() < e4Found {
		list = append(list, fmt.Sprintf("%s, %.0f %%: %s found", p.lie, 100*p.part, share(ours.part())))
	}
	if x := ours.questions() / stock.questions(); x > e4Times {
		list = append(list, fmt.Sprintf("%s, %.0f %%: %.1f times the questions", p.lie, 100*p.part, x))
	}
	return list
}

func loses(p poison, name string, stock, ours reach) (list []string) {
	say := func(format string, args ...any) {
		list = append(list, fmt.Sprintf("%s, %.0f %%, %s: ", p.lie, 100*p.part, name)+fmt.Sprintf(format, args...))
	}
	if ours.part() < stock.part() {
		say("%s found, not %s", share(ours.part()), share(stock.part()))
	}
	if ours.questions() > stock.questions() {
		say("%.1f questions, not %.1f", ours.questions(), stock.questions())
	}
	if ours.p95() > stock.p95() {
		say("p95 %.2f s, not %.2f s", ours.p95(), stock.p95())
	}
	return list
}

const e4Head = `# E4: routers of the DHT that lie

Written by ` + "`make attack NAME=E4`" + `. Real hosts in virtual time over QUIC (**bubble**), 10 to 80 ms one way, 50 Mbit/s. %d
routers, each in an address group of its own; a part of them, drawn, answers every question with poison. Their tables are
those of a converged network, drawn beforehand (up to 20 peers a bucket), and a small server of the experiment answers from
them. Who looks up is the real software, each in turn in the same network: a fresh client is told of four routers, one of
them honest for sure, fills its table by its own means for a minute, and looks random keys up one after the other, the same
ones for all. Found = the honest router that is nearest to the key was asked, counted there, as are the questions.
Each seed has networks of its own. Intervals are of 95 %%: that of the share takes into account that the lookups of one
network are alike, the others are drawn over seeds where there are %d or more.

| poisoners | part | seeds × lookups | who looks up | found | questions | × B0 | p50 s | p95 s |
|---|---|---|---|---|---|---|---|---|
`

const e4Foot = `
B0 is dht.New with all defaults (10 questions at once, and the follow-up to the 20 nearest), B1 the wide-area half of
dual.New with its limits by address group. Questions to peers that do not exist reach nobody and are not counted; they show
in the time. Times are virtual, with the connections that each keeps from the lookup before; ours leaves a peer 20 s after its
last question and stock keeps it. Ours runs in the public scope, without a handshake. The network is small: a table holds
much of it, so the nearest router is hard to hide, from stock too, which asks ten at once. What poison costs here is time.
CPU of the whole run: %.0f s.
`
