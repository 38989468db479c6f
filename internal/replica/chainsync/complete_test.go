package chainsync

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/replica/ledger"
	"github.com/parley-p2p/parley/internal/replica/ledger/ledgertest"
	"github.com/parley-p2p/parley/internal/wire"
)

// hintsOf are what the proposer of b tells ahead of it.
func hintsOf(b *consortium.Block) []wire.Subtree {
	var list []wire.Subtree
	for i, s := range b.Body {
		ids := s.IDs()
		list = append(list, wire.Subtree{ID: consortium.SubtreeID(ids), Height: b.Header.Height, Index: uint32(i), Count: uint32(len(b.Body)), Records: ids})
	}
	return list
}

func someRecords(c *ledgertest.Chain, n, size int) [][]byte {
	var records [][]byte
	for i := range n {
		records = append(records, c.Record(fmt.Sprint("thing ", i), make([]byte, size)))
	}
	return records
}

// relay is a network where blocks are told: a follower that has pools, and
// sources that hold the chain.
type relay struct {
	t        *testing.T
	c        *ledgertest.Chain
	full     *ledger.Ledger
	lan      *lan
	follower *node
	sources  []*node
}

func newRelay(t *testing.T, sources int) *relay {
	c := ledgertest.New(t, 4)
	r := &relay{t: t, c: c, full: openLedger(t, c, nil), lan: &lan{tb: t, pools: true}}
	r.follower = r.lan.join(c, nil)
	for range sources {
		r.sources = append(r.sources, r.lan.join(c, r.full))
	}
	return r
}

// announce tells the follower of a block that the sources hold.
func (r *relay) announce(b *consortium.Block) {
	r.t.Helper()
	if err := r.follower.Announced(r.t.Context(), r.sources[0].id, announcement(b)); err != nil {
		r.t.Fatal(err)
	}
}

func (r *relay) foretell(b *consortium.Block) {
	for _, h := range hintsOf(b) {
		r.follower.Foretold(r.sources[0].id, r.sources[0].id, h)
	}
}

func counted(t *testing.T, c prometheus.Collector) float64 {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(c)
	families, err := reg.Gather()
	if err != nil || len(families) != 1 {
		t.Fatal(families, err)
	}
	return families[0].GetMetric()[0].GetCounter().GetValue()
}

// completed is how the bodies of announced blocks came: rebuilt, part, whole.
func (r *relay) completed() [3]int {
	var n [3]int
	for i, how := range []string{howRebuilt, howPart, howWhole} {
		n[i] = int(counted(r.t, r.follower.metrics.completed.WithLabelValues(how)))
	}
	return n
}

// ends stops the follower: its blocks came as want tells, they are those of the
// chain, and nobody was charged.
func (r *relay) ends(stop func() error, want [3]int) {
	r.t.Helper()
	if got := r.completed(); got != want {
		r.t.Errorf("rebuilt, part, whole: %v, want %v", got, want)
	}
	if err := stop(); err != nil {
		r.t.Fatal(err)
	}
	sameChain(r.t, r.full, r.follower.ledger)
	noCharges(r.t, r.follower)
}

// TestRebuilt: with hints and all records nothing is fetched.
func TestRebuilt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRelay(t, 1)
		stop := r.follower.follow()
		synctest.Wait()
		records := someRecords(r.c, 700, 256)
		r.follower.hold(records...)
		b := put(t, r.full, r.c.Next(records...))
		r.foretell(b)
		synctest.Wait()
		in, _ := r.follower.traffic()
		r.announce(b)
		r.follower.await(1)
		synctest.Wait()
		if now, _ := r.follower.traffic(); now != in {
			t.Errorf("%d bytes were fetched", now-in)
		}
		if got := r.completed(); got != [3]int{1, 0, 0} {
			t.Errorf("rebuilt, part, whole: %v", got)
		}
		empty := put(t, r.full, r.c.Next())
		r.announce(empty)
		r.follower.await(2)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		sameChain(t, r.full, r.follower.ledger)
		noCharges(t, r.follower)
	})
}

// TestAnnouncementIsSmall: with 98 in 100 records known, what comes over the
// wire for a block is a small part of it.
func TestAnnouncementIsSmall(t *testing.T) {
	for _, size := range []int{256, 4096} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRelay(t, 3)
				stop := r.follower.follow()
				synctest.Wait()
				records := someRecords(r.c, min(2500, 1_000_000/(size+150)), size)
				for i, raw := range records {
					if i%50 != 7 {
						r.follower.hold(raw)
					}
				}
				b := put(t, r.full, r.c.Next(records...))
				told := 0
				for _, h := range hintsOf(b) {
					told += len(h.Encode())
					r.follower.told.add(hint{Subtree: h, at: time.Now()}, 0) // known, and nothing asked ahead
				}
				in, out := r.follower.traffic()
				r.follower.told.fresh = nil
				a := announcement(b)
				r.announce(b)
				r.follower.await(1)
				synctest.Wait()
				in2, out2 := r.follower.traffic()
				whole := consortium.EncodeBody(b.Body)
				block, said, fetched := len(whole), len(a.Encode()), int(in2-in+out2-out)
				t.Logf("block %d bytes, announcement %d (%.2f %%), requests and missing records %d (%.2f %%), hints %d (%.2f %%)",
					block, said, percent(said, block), fetched, percent(fetched, block), told, percent(told, block))
				if percent(said+fetched, block) > 3 {
					t.Errorf("announcement and the rest are %.2f %% of the block", percent(said+fetched, block))
				}
				r.ends(stop, [3]int{0, 1, 0})
			})
		})
	}
}

func percent(part, whole int) float64 { return 100 * float64(part) / float64(whole) }

// TestFetchedAhead: the records of a hint are asked for before the block, once,
// so that the block itself is rebuilt.
func TestFetchedAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRelay(t, 2)
		stop := r.follower.follow()
		synctest.Wait()
		records := someRecords(r.c, 300, 100)
		r.follower.hold(records[100:]...)
		b := r.c.Next(records...)
		r.sources[0].hold(records...) // who proposes it
		r.foretell(b)
		r.foretell(b)
		time.Sleep(time.Second)
		synctest.Wait()
		if lack := r.follower.lacking(r.follower.told.claim(nil)); len(lack) > 0 {
			t.Errorf("%d records are not here", len(lack))
		}
		if got := counted(t, r.follower.metrics.early); got != 100 {
			t.Errorf("%v records fetched ahead, want 100", got)
		}
		put(t, r.full, b)
		r.announce(b)
		r.follower.await(1)
		r.ends(stop, [3]int{1, 0, 0})
	})
}

// TestMissingParts: subtrees that nobody told of, or of which most is missing,
// are pulled, and nothing else.
func TestMissingParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRelay(t, 3)
		stop := r.follower.follow()
		synctest.Wait()
		records := someRecords(r.c, 1024, 400)
		b := put(t, r.full, r.c.Next(records...))
		hints := hintsOf(b)
		if len(hints) != 4 {
			t.Fatalf("%d subtrees", len(hints))
		}
		r.follower.hold(records[:512]...)  // 0 and 1 are known
		r.follower.hold(records[768:]...)  // 3 too, 2 not at all
		for _, i := range []int{0, 2, 3} { // 1 was not told
			r.follower.told.add(hint{Subtree: hints[i], at: time.Now()}, 0)
		}
		r.follower.told.fresh = nil
		start := time.Now()
		in, _ := r.follower.traffic()
		r.announce(b)
		r.follower.await(1)
		if d := time.Since(start); d > 10*time.Millisecond {
			t.Errorf("took %s of virtual time", d)
		}
		synctest.Wait()
		now, _ := r.follower.traffic()
		if body := int64(b.Body[2:3].Size()); now-in > body+256*32+2000 {
			t.Errorf("%d bytes came for a subtree of %d", now-in, body)
		}
		r.ends(stop, [3]int{0, 1, 0})
	})
}

// parts makes a handler that serves pulled parts by f, and all else by serve.
func parts(serve handler, f func(st chain.Stream, req wire.SyncRequest) error) handler {
	return func(ctx context.Context, st chain.Stream) error {
		req, err := readRequest(st)
		if err != nil {
			return err
		}
		switch req.Kind {
		case wire.SyncRecords, wire.SyncIDs, wire.SyncSubtrees:
			return f(st, req)
		}
		return serve(ctx, again(st, req))
	}
}

// TestWithheldParts: a source that stalls, one that says nothing and one that
// lies cost time only, and the liar alone is charged.
func TestWithheldParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRelay(t, 6)
		stalling, lying, withholding := r.sources[0], r.sources[1], r.sources[2]
		stalling.handle = parts(stalling.handle, func(st chain.Stream, _ wire.SyncRequest) error { return hang(st) })
		lying.handle = parts(lying.handle, func(st chain.Stream, req wire.SyncRequest) error {
			wrong := [][]byte{r.c.Record("not asked for", nil)}
			switch req.Kind {
			case wire.SyncRecords:
				return wire.WriteFrame(st, wire.EncodeRecords(wrong))
			case wire.SyncSubtrees:
				return wire.WriteFrame(st, wire.SubtreeAnswer{Height: req.From, Records: wrong}.Encode())
			}
			ids := consortium.Subtree{Records: wrong}.IDs()
			return wire.WriteFrame(st, wire.Subtree{ID: req.IDs[0], Height: req.From, Count: 1, Records: ids}.Encode())
		})
		withholding.handle = parts(withholding.handle, func(chain.Stream, wire.SyncRequest) error { return nil })
		stop := r.follower.follow()
		synctest.Wait()
		var worst time.Duration
		for i := range 40 {
			records := someRecords(r.c, 200, 200)
			b := put(t, r.full, r.c.Next(records...))
			switch i % 3 {
			case 0: // 40 records are missing
				r.follower.hold(records[40:]...)
				r.foretell(b)
			case 1: // nobody told
				r.follower.hold(records[10:]...)
			}
			start := time.Now()
			if err := r.follower.Announced(t.Context(), r.sources[i%6].id, announcement(b)); err != nil {
				t.Fatal(err)
			}
			r.follower.await(b.Header.Height)
			worst = max(worst, time.Since(start))
			time.Sleep(time.Second)
		}
		time.Sleep(10 * time.Second)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		sameChain(t, r.full, r.follower.ledger)
		if worst > completeTime+2*time.Second {
			t.Errorf("a block took %s", worst)
		}
		t.Logf("slowest block %s; rebuilt, part, whole: %v", worst, r.completed())
		for i, src := range r.sources {
			got := r.follower.charged(src)
			switch src {
			case lying:
				if !slices.Contains(got, chain.InvalidBlock) {
					t.Errorf("the liar was charged with %v", got)
				}
			case stalling:
				if slices.ContainsFunc(got, func(o chain.Offence) bool { return o != chain.Timeout && o != chain.Stall }) {
					t.Errorf("the staller was charged with %v", got)
				}
			default:
				if len(got) > 0 {
					t.Errorf("source %d was charged with %v", i, got)
				}
			}
		}
	})
}

// TestPartsFail: where nobody has the parts, the body is fetched whole.
func TestPartsFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRelay(t, 2)
		for _, src := range r.sources {
			src.handle = parts(src.handle, func(chain.Stream, wire.SyncRequest) error { return nil })
		}
		stop := r.follower.follow()
		synctest.Wait()
		b := put(t, r.full, r.c.Next(someRecords(r.c, 20, 200)...))
		r.announce(b)
		r.follower.await(1)
		r.ends(stop, [3]int{0, 0, 1})
	})
}

// TestTamperedAnnouncement: subtree ids that do not give the root are charged
// and not relayed, whatever the height.
func TestTamperedAnnouncement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRelay(t, 1)
		blocks := grow(t, r.c, r.full, 2)
		for _, b := range blocks {
			put(t, r.follower.ledger, b)
		}
		next := r.c.Next(someRecords(r.c, 3, 10)...)
		for _, b := range append(blocks, next) {
			for _, edit := range []func(*wire.BlockAnnouncement){
				func(a *wire.BlockAnnouncement) { a.Subtrees[0][0] ^= 1 },
				func(a *wire.BlockAnnouncement) { a.Subtrees = append(a.Subtrees, chain.Hash{1}) },
				func(a *wire.BlockAnnouncement) { a.Subtrees = nil },
			} {
				a := announcement(b)
				edit(&a)
				wantInvalid(t, r.follower.Announced(t.Context(), r.sources[0].id, a), chain.Malformed)
			}
		}
		r.announce(next)
	})
}

// TestForetoldIsBounded: a validator that tells without end, or of heights far
// ahead, holds no more than its share, and none of another's.
func TestForetoldIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRelay(t, 2)
		tell := func(origin *node, height uint64, n int) chain.Hash {
			id := chain.Hash{byte(n), byte(n >> 8), origin.id[5]}
			r.follower.Foretold(origin.id, origin.id, wire.Subtree{ID: id, Height: height, Count: 1, Records: []chain.Hash{id}})
			return id
		}
		honest := tell(r.sources[1], 1, 1<<15)
		for n := range 1000 {
			tell(r.sources[0], uint64(1+n%hintAhead), n)
		}
		f := &r.follower.told
		if _, ok := f.records(honest); !ok || len(f.subtrees) != hintsOfOne+1 || len(f.fresh) > hintsOfOne {
			t.Errorf("%d subtrees, %d fresh; the other validator's is there: %v", len(f.subtrees), len(f.fresh), ok)
		}
		for n := range 10 {
			tell(r.sources[0], hintAhead+1, 2000+n)
			tell(r.sources[0], 0, 3000+n)
		}
		if len(f.subtrees) != hintsOfOne+1 {
			t.Errorf("%d subtrees after heights out of reach", len(f.subtrees))
		}
		time.Sleep(hintLife + time.Second)
		tell(r.sources[0], 2, 5000)
		if len(f.subtrees) != 1 || len(f.order) != 1 {
			t.Errorf("%d subtrees of %d validators after their time", len(f.subtrees), len(f.order))
		}
	})
}

// TestServeParts: what waits for a block is served like what is in one, and
// who is about to have a block waits for it.
func TestServeParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRelay(t, 1)
		src := r.sources[0]
		records := someRecords(r.c, 5, 100)
		b := r.c.Next(records...)
		ids := b.Body[0].IDs()
		src.hold(records[:2]...)
		if got := ask(t, src.Syncer, wire.SyncRequest{Kind: wire.SyncRecords, IDs: ids}); len(got) != 1 {
			t.Errorf("%d frames", len(got))
		} else if list, err := wire.DecodeRecords(got[0]); err != nil || len(list) != 2 {
			t.Errorf("%d records, %v", len(list), err)
		}
		if got := ask(t, src.Syncer, wire.SyncRequest{Kind: wire.SyncIDs, IDs: b.Body.SubtreeIDs()}); len(got) != 0 {
			t.Errorf("%d answers about a subtree that is not known", len(got))
		}
		src.Foretold(src.id, src.id, hintsOf(b)[0])
		hinted := ask(t, src.Syncer, wire.SyncRequest{Kind: wire.SyncIDs, IDs: b.Body.SubtreeIDs()})
		put(t, r.full, b)
		src.told = foretold{}
		stored := ask(t, src.Syncer, wire.SyncRequest{Kind: wire.SyncIDs, IDs: b.Body.SubtreeIDs()})
		if len(hinted) != 1 || len(stored) != 1 || !slices.Equal(hinted[0], stored[0]) {
			t.Errorf("the ids of a subtree: %x ahead of its block, %x after", hinted, stored)
		}
		if got := ask(t, src.Syncer, wire.SyncRequest{Kind: wire.SyncRecords, IDs: ids}); len(got) != 1 {
			t.Errorf("%d frames", len(got))
		} else if list, err := wire.DecodeRecords(got[0]); err != nil || len(list) != 5 {
			t.Errorf("%d records, %v", len(list), err)
		}
	})
}
