package mempool

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
)

// Records that come together get the answers that they get one by one, and
// leave the same pool behind. Where there is no room a fault may be found that
// one alone is not looked at for, so that is tried with good ones.
func TestAddAllIsAdd(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	refused := map[chain.Hash]bool{}
	rule := func(_ *consortium.Record, id chain.Hash) error {
		if refused[id] {
			return consortium.Refuse(consortium.UnknownAuthor, "not listed")
		}
		return nil
	}
	for trial := range 60 {
		cfg, faults := roomy, 10
		if trial%2 == 1 {
			cfg, faults = Config{Records: 20 + random.IntN(30), Bytes: 1 << 20, AuthorPending: 15, AuthorBytes: 1 << 20}, 2
		}
		one, all := pool(cfg, rule), pool(cfg, rule)
		var raws [][]byte
		for range random.IntN(60) {
			raw := record(fmt.Sprint("author ", random.IntN(4)), nil)
			switch random.IntN(10) % faults {
			case 0:
				if len(raws) > 0 {
					raw = raws[random.IntN(len(raws))]
				}
			case 2:
				raw[len(raw)-1] ^= 1
			case 3:
				raw = raw[:random.IntN(len(raw))]
			case 4:
				raw = make([]byte, consortium.MaxRecord+1)
			case 5:
				refused[consortium.RecordID(raw)] = true
			}
			raws = append(raws, raw)
		}
		for _, some := range [][][]byte{raws, raws} { // all known the second time
			for i, err := range all.AddAll(some, "peer") {
				_, want := one.Add(some[i], "peer")
				if reason(err) != reason(want) || errors.Is(err, chain.ErrKnown) != errors.Is(want, chain.ErrKnown) || (err == nil) != (want == nil) {
					t.Fatalf("record %d of %d: %v, alone %v", i, len(some), err, want)
				}
			}
		}
		if one.Len() != all.Len() || one.Bytes() != all.Bytes() || !slices.EqualFunc(one.Next(100, 1<<20, nil), all.Next(100, 1<<20, nil), slices.Equal) {
			t.Fatalf("%d records of %d bytes in the pool, one by one %d of %d", all.Len(), all.Bytes(), one.Len(), one.Bytes())
		}
		for _, raw := range raws {
			if id := consortium.RecordID(raw); one.Verified(id) != all.Verified(id) && faults > 2 {
				t.Fatalf("record %s is verified %v, one by one %v", id, all.Verified(id), one.Verified(id))
			}
		}
	}
}

// Whoever waits for records is woken by some that came together, and not by
// some that were all known or refused.
func TestAddAllWakes(t *testing.T) {
	p := pool(roomy, nil)
	bad := record("a", nil)
	bad[len(bad)-1] ^= 1
	good := record("a", nil)
	for _, tt := range []struct {
		raws [][]byte
		wake bool
	}{{nil, false}, {[][]byte{bad}, false}, {[][]byte{bad, good, bad}, true}, {[][]byte{good}, false}} {
		p.AddAll(tt.raws, peer.ID("peer"))
		woken := false
		select {
		case <-p.Wake():
			woken = true
		default:
		}
		if woken != tt.wake {
			t.Errorf("%d records wake: %v", len(tt.raws), woken)
		}
	}
}
