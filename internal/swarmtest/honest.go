package swarmtest

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/parley-p2p/parley"
)

// HonestPlan says how a network is made in which nobody means ill, and what goes
// wrong in it.
type HonestPlan struct {
	Size   int           // nodes
	NAT    int           // of them behind one address
	Slow   int           // of the others on a line of 1 Mbit/s and 300 to 500 ms
	Target int           // full outbound peers of each
	Loss   float64       // of all packets
	Churn  time.Duration // from one node that stops, or whose line is cut, to the next
	Record time.Duration // from one record to the next
}

// Honest is such a network.
type Honest struct {
	*Town
	*Verdicts
	Churned int // stops and cuts so far

	plan    HonestPlan
	rnd     *rand.Rand
	away    []absence
	records int
}

// absence is a node that comes back.
type absence struct {
	node *Node
	back time.Time
	cut  bool // it runs, and its line is cut
}

// NewHonest starts all nodes within a minute.
func NewHonest(s *Swarm, p HonestPlan) *Honest {
	h := &Honest{Town: &Town{Swarm: s, target: p.Target}, Verdicts: newVerdicts(), plan: p, rnd: rand.New(rand.NewPCG(s.seed, 10))}
	h.Boot = s.Add()
	s.Genesis("honest", h.Boot)
	for range p.Size - 1 {
		n := s.Add(h.Boot.Boots())
		n.cfg.P2P.TargetPeers = p.Target
		h.Live = append(h.Live, n)
	}
	s.BehindNAT(h.Live[:p.NAT]...)
	for _, n := range h.All() {
		s.Lossy(n, p.Loss)
	}
	for _, n := range h.Live[p.NAT : p.NAT+p.Slow] {
		n.mbps = 1
		s.Slow(n, 300*time.Millisecond, 200*time.Millisecond)
	}
	for _, n := range h.All() {
		h.start(n)
		time.Sleep(time.Minute / time.Duration(p.Size))
	}
	return h
}

func (h *Honest) start(n *Node) {
	n.Start()
	h.follow(n)
}

// Pass lets time pass, as the plan says, and then waits for who is away.
func (h *Honest) Pass(span time.Duration) {
	churn, record := time.Now().Add(h.plan.Churn), time.Now()
	for end := time.Now().Add(span); time.Now().Before(end) || len(h.away) > 0; time.Sleep(time.Second) {
		now := time.Now()
		h.away = slices.DeleteFunc(h.away, func(a absence) bool {
			if now.Before(a.back) {
				return false
			}
			if a.cut {
				h.links.set(func(q *quality) { q.cut = false }, h.linksOf(a.node)...)
			} else {
				h.start(a.node)
			}
			return true
		})
		if !now.Before(record) {
			record = now.Add(h.plan.Record)
			h.write()
		}
		if !now.Before(churn) && now.Before(end) {
			churn = now.Add(h.plan.Churn)
			h.churn(now)
		}
	}
}

// write hands a record to any node. One that is cut off may refuse it.
func (h *Honest) write() {
	all := h.All()
	h.records++
	all[h.rnd.IntN(len(all))].Use(func(n *parley.Node) {
		ctx, cancel := context.WithTimeout(h.T.Context(), time.Second)
		defer cancel()
		_, _ = n.Submit(ctx, parley.Draft{Subject: fmt.Sprint("honest/", h.records), Body: json.RawMessage(`{}`)}, parley.Accepted)
	})
}

// churn has one stop, or cuts its line, for one to ten minutes.
func (h *Honest) churn(now time.Time) {
	n := h.Live[h.rnd.IntN(len(h.Live))]
	if slices.ContainsFunc(h.away, func(a absence) bool { return a.node.ip == n.ip }) {
		return
	}
	a := absence{node: n, back: now.Add(time.Minute + time.Duration(h.rnd.Int64N(int64(9*time.Minute)))), cut: h.rnd.IntN(3) == 0}
	if a.cut {
		h.links.set(func(q *quality) { q.cut = true }, h.linksOf(n)...)
	} else {
		n.Stop()
	}
	h.away = append(h.away, a)
	h.Churned++
}
