package gossip

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/internal/wire"
)

func seal(t testing.TB, h host.Host, topic string, at time.Time, seq uint64, body string) []byte {
	t.Helper()
	b, err := sealClaim(h.Peerstore().PrivKey(h.ID()), topic, at, seq, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestClaims lets a relayer bring claims of another origin and of its own.
func TestClaims(t *testing.T) {
	inLab(t, 2, 2, func(t *testing.T, l *lab) {
		l.serveAll()
		a, b, relayer, author := l.nodes[0], l.nodes[1], l.hosts[2], l.hosts[3]
		l.connect(0, 1)
		l.connect(2, 0)
		time.Sleep(3 * time.Second)
		s := l.stream(relayer, a)
		now := time.Now()
		flipped := seal(t, author, "subtree", now, 100, "flipped")
		flipped[len(flipped)-1] ^= 1
		wrong := seal(t, author, "bestblock", now, 100, "wrong topic")
		one := seal(t, author, "subtree", now, 11, "one")
		for _, tc := range []struct {
			name    string
			data    []byte
			body    string
			seen    bool
			ignored string        // cause, "" = accepted or charged
			charged chain.Offence // to the relayer
		}{
			{"good", seal(t, author, "subtree", now, 10, "good"), "good", true, "", ""},
			{"next", one, "one", true, "", ""},
			{"same number", seal(t, author, "subtree", now, 11, "again"), "again", false, "stale", ""},
			{"dressed up", append(bytes.Clone(one), 0x7a, 0), "one", true, "stale", ""}, // unknown field 15
			{"number back", seal(t, author, "subtree", now, 9, "back"), "back", false, "stale", ""},
			{"old", seal(t, author, "subtree", now.Add(-119*time.Second), 12, "old"), "old", false, "stale", ""},
			{"early", seal(t, author, "subtree", now.Add(25*time.Second), 13, "early"), "early", false, "stale", ""},
			{"a little early", seal(t, author, "subtree", now.Add(15*time.Second), 14, "little"), "little", true, "", ""},
			{"bad body of another", seal(t, author, "subtree", now.Add(10*time.Second), 15, "bad body"), "bad body", true, "invalid_tx", ""},
			{"ours", seal(t, a.Host, "subtree", now.Add(10*time.Second), 1<<50, "ours"), "ours", false, "known", ""},
			{"garbage", []byte("garbage"), "garbage", false, "", chain.Malformed},
			{"long", make([]byte, 512+claimOverhead+1), "", false, "", chain.Oversize},
		} {
			before := a.stats("subtree")
			points, _ := a.points(relayer)
			l.inject(s, "subtree", tc.data)
			after := a.stats("subtree")
			if (a.times(tc.body) == 1) != tc.seen {
				t.Errorf("%s: validated %d times", tc.name, a.times(tc.body))
			}
			if accepted := after.Messages > before.Messages; accepted != (tc.seen && tc.ignored == "") && tc.name != "dressed up" {
				t.Errorf("%s: accepted is %t", tc.name, accepted)
			}
			if tc.ignored != "" && after.Ignored[tc.ignored] != before.Ignored[tc.ignored]+1 {
				t.Errorf("%s: ignored %v, want one more %s", tc.name, after.Ignored, tc.ignored)
			}
			got, why := a.points(relayer)
			if (got > points) != (tc.charged != "") || tc.charged != "" && why != tc.charged {
				t.Errorf("%s: %d points more for %q, want %q", tc.name, got-points, why, tc.charged)
			}
			if p, _ := a.points(author); p != 0 {
				t.Errorf("%s: the author was charged %d", tc.name, p)
			}
			if points >= 40 {
				t.Fatal("the relayer is silenced")
			}
		}
		if b.times("good") != 1 || b.times("bad body") != 0 {
			t.Errorf("relayed good %d times, bad %d times", b.times("good"), b.times("bad body"))
		}
		time.Sleep(2 * time.Hour) // the relayer is forgiven, and both streams began anew
		s = l.stream(relayer, a)
		for name, data := range map[string][]byte{"flipped": flipped, "wrong topic": wrong} {
			points, _ := a.points(relayer)
			l.inject(s, "subtree", data)
			if got, why := a.points(relayer); got != points+25 || why != chain.Malformed {
				t.Errorf("%s: %d points for %s", name, got, why)
			}
			time.Sleep(time.Hour)
		}
		l.inject(s, "subtree", seal(t, relayer, "subtree", time.Now(), 1, "bad by itself"))
		if got, why := a.points(relayer); got != 10 || why != chain.InvalidTx {
			t.Errorf("own bad body: %d points for %s", got, why)
		}
		l.inject(s, "subtree", seal(t, relayer, "subtree", time.Now(), 2, fmt.Sprintf("%513d", 1)))
		if _, why := a.points(relayer); why != chain.Oversize {
			t.Errorf("own long body: %s", why)
		}
	})
}

func TestClaimsTooFast(t *testing.T) {
	inLab(t, 1, 1, func(t *testing.T, l *lab) {
		l.serveAll()
		a, fast := l.nodes[0], l.hosts[1]
		l.connect(1, 0)
		s := l.stream(fast, a)
		for i := range 5 {
			l.push(s, "best_block", seal(t, fast, "bestblock", time.Now(), uint64(i+1), fmt.Sprint("best ", i)))
			time.Sleep(30 * time.Millisecond)
		}
		time.Sleep(time.Second)
		if got := a.stats("best_block"); got.Messages != 2 || got.Ignored["rate"] != 3 {
			t.Errorf("five in 150 ms: %+v", got)
		}
		l.inject(s, "best_block", seal(t, fast, "bestblock", time.Now(), 9, "best 9"))
		if a.times("best 9") != 1 {
			t.Error("a slower claim is not accepted")
		}
		if p, why := a.points(fast); p != 0 {
			t.Errorf("%d points for %s", p, why)
		}
	})
}

func TestOriginsAreBounded(t *testing.T) {
	o, now := newOrigins(1), time.Now()
	c := wire.Claim{TimeMS: uint64(now.UnixMilli()), Seq: 5}
	for i := range maxOrigins + 50 {
		if err := o.admit(peer.ID(fmt.Sprint(i)), c, now); err != nil {
			t.Fatal(err)
		}
	}
	if len(o.byID) != maxOrigins || o.recent.Len() != maxOrigins {
		t.Errorf("%d and %d origins", len(o.byID), o.recent.Len())
	}
	if err := o.admit(peer.ID(fmt.Sprint(maxOrigins)), c, now); !errors.Is(err, errStale) {
		t.Errorf("a young origin is forgotten: %v", err)
	}
	if err := o.admit("0", c, now); err != nil {
		t.Errorf("the oldest origin is kept: %v", err)
	}
	for _, ms := range []uint64{0, 1<<64 - 1} {
		if err := o.admit("x", wire.Claim{TimeMS: ms, Seq: 1}, now); !errors.Is(err, errStale) {
			t.Errorf("time %d: %v", ms, err)
		}
	}
}

func FuzzOpenClaim(f *testing.F) {
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	now := time.Now()
	for _, body := range []string{"", "body", string(make([]byte, 512))} {
		b, err := sealClaim(key, "subtree", now, 7, []byte(body))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)/2])
		f.Add(append(bytes.Clone(b), 0x7a, 0))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, origin, err := openClaim("subtree", b)
		var bad *chain.InvalidError
		switch {
		case err == nil && (origin == "" || origin.Validate() != nil):
			t.Fatal("a good claim of nobody")
		case err != nil && !errors.As(err, &bad):
			t.Fatalf("an error that is nobody's fault: %v", err)
		case len(c.Body) > len(b):
			t.Fatal("a body longer than its envelope")
		}
		if err == nil {
			if _, _, err := openClaim("record", b); err == nil {
				t.Fatal("the claim opens on another topic")
			}
		}
	})
}
