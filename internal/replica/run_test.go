package replica

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/replica/chainsync"
	"github.com/parley-p2p/parley/internal/replica/consensus"
	"github.com/parley-p2p/parley/internal/replica/ledger"
	"github.com/parley-p2p/parley/internal/replica/ledger/ledgertest"
	"github.com/parley-p2p/parley/internal/wire"
)

// TestStanding: a validator is synced only where it can order blocks and nobody
// has more of them.
func TestStanding(t *testing.T) {
	for _, tt := range []struct {
		name              string
		connected, quorum int
		heads             []uint64 // validated, of the peers
		want              event.SyncChanged
	}{
		{"alone in the set", 1, 1, nil, event.SyncChanged{State: chainsync.Synced}},
		{"cut off", 1, 3, nil, event.SyncChanged{State: chainsync.Waiting}},
		{"in a minority", 2, 3, []uint64{0}, event.SyncChanged{State: chainsync.Waiting}},
		{"in a quorum", 3, 3, []uint64{0, 0}, event.SyncChanged{State: chainsync.Synced}},
		{"a block is coming", 3, 3, []uint64{0, 1}, event.SyncChanged{State: chainsync.Synced, Target: 1, LagBlocks: 1}},
		{"left behind", 3, 3, []uint64{9, 8}, event.SyncChanged{State: chainsync.Syncing, Target: 9, LagBlocks: 9}},
		{"left behind and in a minority", 2, 3, []uint64{9}, event.SyncChanged{State: chainsync.Syncing, Target: 9, LagBlocks: 9}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, s, e := atWork(t, ledgertest.New(t, 4))
			e.connected, e.quorum = tt.connected, tt.quorum
			for i, h := range tt.heads {
				s.meet(chain.Peer{ID: peer.ID([]byte{byte(i)}), Validated: chain.Head{Height: h}}, nil)
			}
			if got := w.Sync(); got != tt.want {
				t.Errorf("%+v, want %+v", got, tt.want)
			}
		})
	}
}

// TestBrake: an engine that is held back runs again at the time it names, one
// that is in quarantine only after a block that was committed since, which no
// block is that is caught up with.
func TestBrake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := ledgertest.New(t, 1)
		w, s, e := atWork(t, c)
		s.meet(chain.Peer{ID: "somebody"}, nil)
		start := time.Now()
		e.runs = []error{&consensus.BrakeError{Until: start.Add(time.Minute)}, &consensus.LostError{Why: "the log is lost"}}
		ctx, cancel := context.WithCancel(t.Context())
		end := make(chan error, 1)
		go func() { end <- w.order(ctx) }()
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := len(e.times); n != 2 || e.times[1].Sub(start) != time.Minute {
			t.Errorf("%d runs, at %v", n, e.times)
		}
		if f := w.Findings(); len(f) != 1 || f[0].Code != "PLY-605" || f[0].Severity != severityCrit || !strings.Contains(f[0].Why, "--set consortium.sole_validator=true") {
			t.Errorf("findings of the sole validator while it waits: %v", f)
		}
		for i, at := range []time.Time{start.Add(30 * time.Second), time.Now()} {
			b := c.Build()
			b.Header.Height, b.Header.Time, b.Header.Prev = uint64(i)+1, uint64(at.UnixMilli()), w.ledger.Tip().Head.Hash
			c.Seal(b)
			if err := w.ledger.Append(b, "sync", ""); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if n := len(e.times); n != 2+i {
				t.Errorf("%d runs after a block of %v", n, at.Sub(start))
			}
			if n := len(w.Findings()); n != 1-i {
				t.Errorf("%d findings after a block of %v", n, at.Sub(start))
			}
		}
		cancel()
		if err := <-end; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// TestNoQuorum: too few validators are a finding after a while, and none when
// they are back or the chain goes on without this node's knowing how.
func TestNoQuorum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := ledgertest.New(t, 4)
		w, s, _ := atWork(t, c)
		sub := w.bus.Subscribe()
		defer sub.Close()
		ctx, cancel := context.WithCancel(t.Context())
		end := make(chan error, 1)
		go func() { end <- w.watchQuorum(ctx) }()
		step := func(what string, after time.Duration, stands bool) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			f := w.Findings()
			if stands && (len(f) != 1 || f[0].Code != "PLY-604" || f[0].Title != NoQuorum || f[0].Severity != severityWarn) || !stands && len(f) > 0 {
				t.Errorf("%s: %v", what, f)
			}
		}
		meet := func(v consortium.Validator) {
			t.Helper()
			id, err := v.Key.PeerID()
			if err != nil {
				t.Fatal(err)
			}
			s.meet(chain.Peer{ID: id}, nil)
		}
		meet(c.Config().Validators[1])
		step("at the start", time.Second, false)
		step("two of four", quorumGrace+2*quorumEvery, true)
		if why := w.Findings()[0].Why; !strings.HasPrefix(why, "2 of 4 validators are connected, 3 needed") {
			t.Error(why)
		}
		if err := w.ledger.Append(c.Next(c.Record("thing", nil)), "sync", ""); err != nil {
			t.Fatal(err)
		}
		step("a block came", quorumEvery, false)
		step("and no more", quorumGrace+2*quorumEvery, true)
		meet(c.Config().Validators[2])
		step("three of four", quorumEvery, false)
		told := ""
		events, _ := sub.Take(eventsAtOnce)
		for _, e := range events {
			if f, ok := e.Data.(event.FindingChanged); ok {
				told += f.Severity + " "
			}
		}
		if told != "warn ok warn ok " {
			t.Errorf("events: %s", told)
		}
		cancel()
		if err := <-end; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// TestWhoTells: a block is announced by its proposer, and by who leads in its
// place.
func TestWhoTells(t *testing.T) {
	for _, tt := range []struct {
		name     string
		proposer uint64
		leader   uint64
		source   string
		want     int
	}{
		{"its proposer", 1, 2, "own", 1},
		{"who took over", 2, 1, "own", 1},
		{"another one", 2, 3, "own", 0},
		{"while the engine is down", 2, 0, "own", 0},
		{"fetched from others", 1, 1, "sync", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := ledgertest.New(t, 4)
			w, s, e := atWork(t, c)
			e.leader = tt.leader
			b := c.Next(c.Record("thing", nil))
			if err := w.ledger.Append(b, "own", ""); err != nil {
				t.Fatal(err)
			}
			w.tellOf(t.Context(), event.BlockStored{Height: 1, Hash: b.Header.Hash(), Proposer: tt.proposer, Source: tt.source})
			if n := s.published[topicBlock]; n != tt.want || s.published[topicMiningOn] != tt.want {
				t.Errorf("told %v", s.published)
			}
		})
	}
}

// TestClaimRates: the topics whose messages come with each block carry the
// fastest chain: ten blocks a second, and many subtrees in each.
func TestClaimRates(t *testing.T) {
	w, _, _ := atWork(t, ledgertest.New(t, 1))
	for _, topic := range w.topics() {
		want := 10
		if topic.Name == topicSubtree {
			want = 100
		}
		if topic.Claim && topic.Rate != want {
			t.Errorf("%s: %d a second", topic.Name, topic.Rate)
		}
	}
}

// TestForkEndsValidator: a running validator that hears of a fork ends.
func TestForkEndsValidator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := ledgertest.New(t, 1)
		r := open(t, ledgertest.Key("validator 1"), &text{}, member(t, c))
		other := c.Build(c.Record("thing", nil))
		if err := r.ledger.Append(c.Next(c.Record("another thing", nil)), "sync", ""); err != nil {
			t.Fatal(err)
		}
		s := newWorld()
		end := make(chan error, 1)
		go func() { end <- r.Run(t.Context(), s) }()
		<-s.serving
		time.Sleep(time.Minute)
		if r.Leader() != 1 {
			t.Error("the engine does not run")
		}
		data := wire.BlockAnnouncement{Header: other.Header.Encode(), Certificate: other.Certificate.Encode(), Subtrees: other.Body.SubtreeIDs()}.Encode()
		for _, topic := range s.topics {
			if topic.Name == topicBlock {
				if err := topic.Validate(t.Context(), chain.Message{From: "somebody", Data: data}); !errors.Is(err, ledger.ErrFork) {
					t.Errorf("verdict %v", err)
				}
			}
		}
		select {
		case err := <-end:
			if !errors.Is(err, ledger.ErrFork) {
				t.Errorf("ended by %v", err)
			}
			checkEvidence(t, r, c)
		case <-time.After(time.Minute):
			t.Fatal("it goes on")
		}
	})
}

// checkEvidence reads what is kept of a fork, and verifies both sides of it.
func checkEvidence(t *testing.T, r *Replica, c *ledgertest.Chain) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(r.cfg.DataDir, "fork-1-*.json"))
	if err != nil || len(files) != 1 {
		t.Fatalf("evidence: %v %v", files, err)
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	var f forkFile
	if err := json.Unmarshal(b, &f); err != nil || len(f.Sides) != 2 || f.Sides[0].Hash == f.Sides[1].Hash || f.Sides[0].Height != f.Sides[1].Height {
		t.Fatalf("%v: %s", err, b)
	}
	for _, side := range f.Sides {
		raw, _ := hex.DecodeString(side.Header)
		h, err := consortium.DecodeHeader(raw)
		if err != nil {
			t.Fatal(err)
		}
		raw, _ = hex.DecodeString(side.Certificate)
		cert, err := consortium.DecodeCertificate(raw)
		if err != nil {
			t.Fatal(err)
		}
		if err := cert.Verify(h, c.Config().Set()); err != nil {
			t.Error(err)
		}
	}
	if found := r.Findings(); len(found) != 1 || found[0].Title != "fork" || found[0].Severity != severityCrit {
		t.Errorf("findings %v", found)
	}
}
