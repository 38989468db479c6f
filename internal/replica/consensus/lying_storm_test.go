package consensus

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"
)

// liar is a traitor that equivocates, and whose new views, view data and
// confirmations differ from one validator to the other.
type liar struct {
	traitor
	seen map[uint64]*smartbftprotos.PrePrepare // guarded by tn.mu, as is what follows
	kept []*smartbftprotos.Message             // new views
	rnd  *rand.Rand
}

// edit puts another block in flight into view data, or none.
func (x *liar) edit(d *smartbftprotos.ViewData) {
	x.tn.mu.Lock()
	defer x.tn.mu.Unlock()
	md, err := metadataOf(d.GetLastDecision().GetMetadata())
	if err != nil {
		x.t.Error(err)
		return
	}
	seq := md.GetLatestSequence() + 1
	switch p := []*smartbftprotos.PrePrepare{x.seen[seq], x.b[seq]}[x.rnd.IntN(2)]; x.rnd.IntN(4) {
	case 0:
		d.InFlightProposal, d.InFlightPrepared = nil, false
	case 1, 2:
		if p != nil {
			d.InFlightProposal, d.InFlightPrepared = p.Proposal, true
		}
	case 3:
		d.InFlightPrepared = !d.InFlightPrepared && d.InFlightProposal != nil
	}
}

// lie is what a validator gets in the place of m.
func (x *liar) lie(to *testNode, m *smartbftprotos.Message) *smartbftprotos.Message {
	x.tn.mu.Lock()
	roll := x.rnd.IntN(10)
	if p := m.GetPrePrepare(); p != nil {
		x.seen[p.Seq] = p
	}
	x.tn.mu.Unlock()
	if c, is, _ := isConfirmation(m); is {
		if roll < 5 {
			c.sum[0] ^= byte(roll)
			return c.message()
		}
		return m
	}
	if m.GetViewData() != nil && roll < 7 {
		return x.resign(m, x.edit)
	}
	if m.GetNewView() != nil {
		if roll < 1 {
			return nil
		}
		if roll < 8 {
			m = x.twin(m, x.edit)
		}
		x.tn.mu.Lock()
		x.kept = append(x.kept, m)
		x.tn.mu.Unlock()
		return m
	}
	if m.GetHeartBeat() != nil && roll < 2 { // an old new view comes again
		x.tn.mu.Lock()
		defer x.tn.mu.Unlock()
		if len(x.kept) > 0 {
			return x.kept[x.rnd.IntN(len(x.kept))]
		}
		return m
	}
	return x.equivocate(to, m)
}

// As in TestStorm, but the traitor lies about everything, and goes on when the
// storm is over: the others agree all the same.
func TestLyingStorm(t *testing.T) {
	for _, n := range []int{4, 5, 7} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			var all stalls
			for seed := range seeds(1) {
				all = append(all, lyingStorm(t, seed, n))
			}
			t.Logf("from the last fault to agreement: %v", all)
		})
	}
}

func lyingStorm(t *testing.T, seed uint64, n int) (calm time.Duration) {
	synctest.Test(t, func(t *testing.T) {
		rnd := rand.New(rand.NewPCG(seed, uint64(n)))
		tn := newTestNet(t, n, inVirtualTime, links(rand.New(rand.NewPCG(seed, 8))))
		lost := rand.New(rand.NewPCG(seed, 9))
		x := &liar{
			traitor: traitor{t: t, tn: tn, self: tn.nodes[0], rnd: rnd, b: map[uint64]*smartbftprotos.PrePrepare{}},
			seen:    map[uint64]*smartbftprotos.PrePrepare{}, rnd: lost,
		}
		loss := 0 // of 100 messages; guarded by tn.mu, as is lost
		for _, v := range tn.nodes {
			v.ahead = tn.aheadOf(v)
			if v != x.self {
				v.memory.Died = func(r string) { t.Errorf("seed %d: %s died: %s", seed, v.id.ShortString(), r) }
			}
			v.twist = func(to *testNode, m *smartbftprotos.Message) *smartbftprotos.Message {
				tn.mu.Lock()
				drop := lost.IntN(100) < loss
				tn.mu.Unlock()
				if drop {
					return nil
				}
				if v == x.self {
					return x.lie(to, m)
				}
				return m
			}
		}
		tn.start()
		all := tn.rage(rnd, func(part int) {
			tn.mu.Lock()
			defer tn.mu.Unlock()
			loss = part
		})
		up := tn.running()
		for _, v := range tn.nodes {
			v.deaf.Store(false)
			if !slices.Contains(up, v) {
				v.start()
			}
		}
		began := time.Now()
		tn.gossipAgain(all)
		ids := append(tn.submit(5), all...)
		honest := tn.nodes[1:]
		for _, v := range honest { // the traitor goes on
			for d := 0; !v.hasAll(ids); d++ {
				if d > 600 {
					t.Errorf("seed %d: %s stands at %d", seed, v.id.ShortString(), v.ledger.Tip().Head.Height)
					break
				}
				time.Sleep(time.Second)
				if d%30 == 29 {
					tn.gossipAgain(all)
				}
			}
		}
		calm = time.Since(began)
		tn.endAt(1)
		tn.accusesNobody(x.self)
		for _, v := range honest {
			if told := v.told.String(); strings.Contains(told, "left behind") {
				t.Errorf("seed %d: a library did not stop at %s", seed, v.id.ShortString())
			}
		}
	})
	return calm
}
