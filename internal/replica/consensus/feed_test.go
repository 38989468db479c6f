package consensus

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/replica/ledger"
	"github.com/parley-p2p/parley/internal/replica/ledger/ledgertest"
)

// slowDisk takes its time for each block.
type slowDisk struct {
	Ledger
	wait time.Duration
}

func (d slowDisk) AppendPrepared(p *ledger.Prepared, source string, from peer.ID) error {
	time.Sleep(d.wait)
	return d.Ledger.AppendPrepared(p, source, from)
}

// An honest leader with more to do than it can order at once is accused by
// nobody, itself included, in whatever order the records reach whom.
func TestBusyLeaderIsNotAccused(t *testing.T) {
	for _, disk := range []time.Duration{400 * time.Millisecond, 1500 * time.Millisecond} {
		t.Run(disk.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rnd := rand.New(rand.NewPCG(1, uint64(disk)))
				tn := newTestNet(t, 4, inVirtualTime, links(rand.New(rand.NewPCG(2, 2))), func(_ *testNet, p *consortium.Params) { p.BatchRecords = 100 })
				for _, n := range tn.nodes {
					n.store = func(l Ledger) Ledger { return slowDisk{l, disk} }
				}
				tn.start()
				var all [][]byte
				var ids []chain.Hash
				for i := range 1500 {
					r := &consortium.Record{Nonce: uint64(i), Subject: "busy", MediaType: "text/plain"}
					r.Sign(ledgertest.Key(fmt.Sprint("author ", i%8)), tn.genesis.Hash())
					all, ids = append(all, r.Encode()), append(ids, recordID(r.Encode()))
				}
				for _, n := range tn.nodes {
					for _, i := range rnd.Perm(len(all)) {
						if _, err := n.pool.Add(all[i], ""); err != nil {
							t.Fatal(err)
						}
					}
				}
				tn.await(ids)
				for _, n := range tn.nodes {
					view, _, _, _ := n.engine.State()
					if log := n.told.String(); view != 0 || strings.Contains(log, "complaining") || strings.Contains(log, "stop send heartbeat") {
						t.Errorf("%s: view %d\n%s", n.id.ShortString(), view, log)
					}
				}
				tn.stop()
			})
		})
	}
}

func TestFeedPace(t *testing.T) {
	for _, tt := range []struct {
		name    string
		backlog int // when the record was fed
		ordered int // since then, without it
		waits   time.Duration
		leads   bool
		want    bool
	}{
		{"young", 1, 1000, patienceLeast, false, true},
		{"left out", 1, 3, patienceLeast + 1, false, false},
		{"behind many", 1000, 2000, patienceMost, false, true},
		{"behind many, and left out", 1000, 2001, patienceLeast + 1, false, false},
		{"too slow a leader", 1000, 2, patienceMost + 1, false, false},
		{"its own", 1, 1000, time.Hour, true, true},
	} {
		p := feedPace{ordered: 77}
		start := time.Now()
		fed := map[chain.Hash]request{{1}: {at: start}}
		p.calm(0, tt.backlog, fed, tt.leads, start)
		p.last = time.Time{}
		if got := p.calm(tt.ordered, 1, fed, tt.leads, start.Add(tt.waits)); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
		if tt.want && p.calm(0, 1, fed, tt.leads, start.Add(tt.waits+calmEvery-1)) {
			t.Errorf("%s: again at once", tt.name)
		}
	}
}

// A complaint that nobody joins is taken back: the library itself would stop
// its timers and sync every few seconds, for ever.
func TestComplaintInVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tn := newTestNet(t, 4, inVirtualTime, links(rand.New(rand.NewPCG(3, 3))))
		last := tn.nodes[3]
		last.ahead = tn.aheadOf(last)
		syncs := 0
		last.pull = func(context.Context) bool { syncs++; return false }
		tn.start()
		tn.await(tn.submit(1))
		time.Sleep(restartMin)
		last.engine.live.Load().bft.Complain(0, true)
		for range 100 {
			tn.submit(1)
			time.Sleep(100 * time.Millisecond)
		}
		tn.await(tn.submit(1))
		synctest.Wait()
		if !strings.Contains(last.told.String(), "nobody joined its complaint") || last.sessions() != 2 {
			t.Errorf("%d sessions\n%s", last.sessions(), last.told.String())
		}
		before := syncs
		time.Sleep(10 * time.Minute)
		if syncs != before || last.engine.live.Load().complains() {
			t.Errorf("%d syncs in ten idle minutes, complains: %v", syncs-before, last.engine.live.Load().complains())
		}
		for _, n := range tn.nodes {
			if view, _, _, _ := n.engine.State(); view != 0 {
				t.Errorf("view %d", view)
			}
		}
		tn.stop()
	})
}
