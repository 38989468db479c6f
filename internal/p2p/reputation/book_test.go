package reputation

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/event"
)

func newBook(t *testing.T, bus *event.Bus, reg prometheus.Registerer) *Book {
	t.Helper()
	b, err := New(Config{}, bus, nil, reg)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func types(sub *event.Subscription) (out []string) {
	events, _ := sub.Take(1000)
	for _, e := range events {
		out = append(out, e.Type)
	}
	return out
}

// A story is a run of charges and waits, with the points and standing wanted
// after each.
func TestPoints(t *testing.T) {
	type step struct {
		wait     time.Duration
		charge   chain.Offence
		times    int
		points   int
		standing Standing
		refused  bool
	}
	for name, steps := range map[string][]step{
		"forged block": {
			{charge: chain.ForgedBlock, times: 1, points: 100, standing: Discouraged, refused: true},
			{charge: chain.ForgedBlock, times: 5, points: 100, standing: Discouraged, refused: true},
			{wait: 80 * time.Minute, points: 20, standing: Discouraged, refused: true},
			{wait: time.Minute, points: 19, standing: Normal},
		},
		"remainder of a minute is kept": {
			{charge: chain.Malformed, times: 1, points: 25, standing: Watched},
			{wait: 59 * time.Second, points: 25, standing: Watched},
			{wait: time.Second, points: 24, standing: Watched},
			{wait: 90 * time.Second, points: 23, standing: Watched},
			{wait: 30 * time.Second, points: 22, standing: Watched},
			{wait: 22 * time.Minute, points: 0, standing: Normal},
			{wait: 50 * time.Minute, charge: chain.Useless, times: 1, points: 2, standing: Normal},
			{wait: 59 * time.Second, points: 2, standing: Normal},
		},
		"weak reasons alone never disconnect": {
			{charge: chain.Timeout, times: 50, points: 30, standing: Watched},
			{charge: chain.Stall, times: 50, points: 30, standing: Watched},
			{charge: chain.Useless, times: 50, points: 30, standing: Watched},
			{charge: chain.InvalidTx, times: 1, points: 40, standing: Discouraged, refused: true},
			{charge: chain.Timeout, times: 1, points: 40, standing: Discouraged, refused: true},
		},
		"drip of one a five minutes never accumulates": {
			{charge: chain.Timeout, times: 1, points: 4, standing: Normal},
			{wait: 5 * time.Minute, charge: chain.Timeout, times: 1, points: 4, standing: Normal},
			{wait: 5 * time.Minute, charge: chain.Timeout, times: 1, points: 4, standing: Normal},
		},
		"discouraged until below the watched line": {
			{charge: chain.InvalidBlock, times: 1, points: 50, standing: Discouraged, refused: true},
			{wait: 30 * time.Minute, points: 20, standing: Discouraged, refused: true},
			{wait: time.Minute, points: 19, standing: Normal},
			{charge: chain.Violation, times: 1, points: 39, standing: Watched},
		},
		"out of the closed set": {{charge: "rudeness", times: 3, points: 0, standing: Normal}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBook(t, nil, nil)
				for i, s := range steps {
					time.Sleep(s.wait)
					for range s.times {
						if got := b.Penalize("p", s.charge, ""); got != s.refused {
							t.Errorf("step %d: Penalize says %v", i, got)
						}
					}
					got := b.Score("p")
					if got.Points != s.points || got.Standing != s.standing || b.Refused("p") != s.refused || got.Score != -s.points {
						t.Errorf("step %d: %+v refused %v, want %+v", i, got, b.Refused("p"), s)
					}
				}
			})
		})
	}
}

func TestCredit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBook(t, nil, nil)
		want := func(credit, score int) {
			t.Helper()
			if s := b.Score("p"); s.Credit != credit || s.Score != score {
				t.Errorf("credit %d score %d, want %d and %d", s.Credit, s.Score, credit, score)
			}
		}
		b.Credit("p", chain.NovelBlock)
		b.Credit("p", chain.Served)
		want(2, 2) // not more in a minute
		time.Sleep(time.Minute)
		b.Credit("p", chain.Served)
		want(3, 3)
		time.Sleep(9 * time.Minute)
		want(2, 2) // ten minutes after the first
		time.Sleep(time.Hour)
		want(0, 0)
		for range 100 {
			time.Sleep(time.Minute)
			b.Credit("p", chain.NovelBlock)
		}
		if s := b.Score("p"); s.Credit != maxCredit || s.Score != usedCredit {
			t.Errorf("after much credit: %+v", s)
		}
		b.Penalize("p", chain.Malformed, "")
		if s := b.Score("p"); s.Points != 25 || s.Score != -5 {
			t.Errorf("credit pays for points: %+v", s)
		}
		before := b.Score("p").Credit
		time.Sleep(time.Minute)
		b.Credit("p", chain.NovelBlock)
		if got := b.Score("p").Credit; got > before {
			t.Errorf("a watched peer earned credit: %d, then %d", before, got)
		}
	})
}

func TestEvents(t *testing.T) {
	bus := event.NewBus(64)
	sub := bus.Subscribe()
	defer sub.Close()
	b := newBook(t, bus, nil)
	b.Penalize("p", chain.Malformed, "frame\n"+strings.Repeat("é", 300))
	events, _ := sub.Take(10)
	if len(events) != 1 {
		t.Fatalf("%d events, want 1", len(events))
	}
	got := events[0].Data.(event.PeerPenalized)
	if got.Points != 25 || got.Total != 25 || got.Reason != chain.Malformed || len(got.Detail) > maxDetail || !strings.HasPrefix(got.Detail, "frame é") {
		t.Errorf("event %+v", got)
	}
	b.Penalize("p", chain.Malformed, "")
	if got := fmt.Sprint(types(sub)); got != "[peer.penalized peer.discouraged]" {
		t.Errorf("at 50 points: %s", got)
	}
	b.Penalize("p", chain.ForgedBlock, "")
	if got := fmt.Sprint(types(sub)); got != "[peer.penalized]" {
		t.Errorf("discouraged is told once: %s", got)
	}
	b.Penalize("p", chain.ForgedBlock, "")
	if got := types(sub); got != nil {
		t.Errorf("a charge of nothing told %s", got)
	}
}

// An event comes after the fact, and a subscriber may ask the book at once.
func TestEventAfterState(t *testing.T) {
	bus := event.NewBus(64)
	sub := bus.Subscribe()
	defer sub.Close()
	b := newBook(t, bus, nil)
	var wg sync.WaitGroup
	wg.Go(func() { b.Penalize("p", chain.ForgedBlock, "") })
	<-sub.Wake()
	if !b.Refused("p") {
		t.Error("the event came before the fact")
	}
	wg.Wait()
}

// Exempt peers are never banned by their points: their connections are closed
// for a while, ever longer.
func TestExempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := event.NewBus(64)
		sub := bus.Subscribe()
		defer sub.Close()
		b := newBook(t, bus, nil)
		b.Exempt(func(p peer.ID) bool { return p == "member" })
		if b.Penalize("member", chain.InvalidTx, "") || b.Refused("member") {
			t.Error("an exempt peer is refused for little")
		}
		if !b.Penalize("member", chain.InvalidBlock, "") || !b.Refused("member") {
			t.Error("an exempt peer is not paused")
		}
		if got := fmt.Sprint(types(sub)); got != "[peer.penalized peer.penalized peer.discouraged]" {
			t.Error(got)
		}
		time.Sleep(time.Minute)
		if b.Refused("member") {
			t.Error("the pause does not end")
		}
		if !b.Penalize("member", chain.InvalidTx, "") {
			t.Error("no second pause")
		}
		time.Sleep(time.Minute)
		if !b.Refused("member") {
			t.Error("the second pause is not longer")
		}
		time.Sleep(time.Minute)
		if s := b.Score("member"); b.Refused("member") || s.Points != 67 || s.Standing != Exempt || len(s.Reasons) != 3 {
			t.Errorf("%+v", s)
		}
		b.Exempt(nil)
		if !b.Refused("member") {
			t.Error("no longer exempt, and not refused")
		}
	})
}

func TestReasonsAndPeersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBook(t, nil, nil)
		for i := range 50 {
			b.Penalize("p", chain.Useless, fmt.Sprint(i))
			time.Sleep(2 * time.Minute)
		}
		if r := b.Score("p").Reasons; len(r) != maxReasons || r[0].Detail != "30" || r[maxReasons-1].Detail != "49" {
			t.Errorf("%d reasons: %v", len(r), r)
		}
		b.Penalize("bad", chain.ForgedBlock, "")
		for i := range 3 * maxPeers {
			b.Credit(peer.ID(fmt.Sprint("id", i)), chain.Served)
		}
		if n := len(b.peers); n > maxPeers {
			t.Errorf("%d peers are kept", n)
		}
		if !b.Refused("bad") {
			t.Error("a flood of names washed a bad peer out")
		}
		time.Sleep(forgetAfter + time.Hour)
		b.mu.Lock()
		b.forget(time.Now())
		n := len(b.peers)
		b.mu.Unlock()
		if n != 0 {
			t.Errorf("%d peers are kept a day after", n)
		}
	})
}

func TestThreshold(t *testing.T) {
	b, err := New(Config{Threshold: 200}, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if b.Penalize("p", chain.InvalidBlock, "") || b.Score("p").Standing != Watched {
		t.Error("50 of 200 is discouraged")
	}
	if b.Penalize("p", chain.Malformed, "") {
		t.Error("75 of 200 is discouraged")
	}
	if !b.Penalize("p", chain.InvalidTx, "") {
		t.Error("85 of 200 is not discouraged")
	}
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	b := newBook(t, nil, reg)
	b.Exempt(func(p peer.ID) bool { return p == "member" })
	b.Penalize("member", chain.Timeout, "")
	b.Penalize("bad", chain.InvalidBlock, "")
	b.Penalize("odd", chain.Malformed, "")
	b.Credit("good", chain.Served)
	b.Refuse(event.PeerRefused{Peer: "bad", Place: PlaceHandshake})
	got := gather(t, reg)
	for series, want := range map[string]float64{
		"parley_reputation_peers discouraged":          1,
		"parley_reputation_peers exempt":               1,
		"parley_reputation_peers normal":               1,
		"parley_reputation_peers watched":              1,
		"parley_reputation_refusals_total gate":        0,
		"parley_reputation_refusals_total handshake":   1,
		"parley_reputation_points_total invalid_block": 50,
		"parley_reputation_points_total forged_block":  0,
	} {
		if n, ok := got[series]; !ok || n != want {
			t.Errorf("%s is %v (there: %v), want %v", series, n, ok, want)
		}
	}
	if len(got) != len(standings)+len(places)+len(points)+1 { // and manual
		t.Errorf("%d series, want all from the first scrape: %v", len(got), got)
	}
	if _, err := New(Config{}, nil, nil, reg); err == nil {
		t.Error("registering twice went through")
	}
}

// gather returns each series under its name and labels.
func gather(t *testing.T, reg prometheus.Gatherer) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			out[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return out
}

func BenchmarkRefused(b *testing.B) {
	book, err := New(Config{}, nil, nil, nil)
	if err != nil {
		b.Fatal(err)
	}
	book.Penalize("p", chain.ForgedBlock, "")
	b.ReportAllocs()
	for b.Loop() {
		book.Refused("p")
	}
}
