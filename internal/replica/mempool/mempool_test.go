package mempool

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"pgregory.net/rapid"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/event"
)

var genesis = chain.Hash{1, 2, 3}

var roomy = Config{Records: 1000, Bytes: 1 << 20, AuthorPending: 1000, AuthorBytes: 1 << 20}

func key(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

var nonce uint64

func record(author string, edit func(*consortium.Record)) []byte {
	nonce++
	r := &consortium.Record{Nonce: nonce, Subject: "s", MediaType: "a/b"}
	if edit != nil {
		edit(r)
	}
	r.Sign(key(author), genesis)
	return r.Encode()
}

func config(r *consortium.Record) {
	r.Kind, r.Subject, r.MediaType = consortium.KindConfig, consortium.SubjectConfig, consortium.MediaTypeConfig
}

func pool(cfg Config, rule func(*consortium.Record, chain.Hash) error) *Pool {
	if rule == nil {
		rule = func(*consortium.Record, chain.Hash) error { return nil }
	}
	return New(cfg, Rules{Genesis: genesis, Committable: rule}, nil, slog.New(slog.DiscardHandler), nil)
}

func add(tb testing.TB, p *Pool, raw []byte) chain.Hash {
	tb.Helper()
	id, err := p.Add(raw, "")
	if err != nil {
		tb.Fatal(err)
	}
	return id
}

func reason(err error) consortium.Reason {
	if bad, ok := errors.AsType[*consortium.RecordError](err); ok {
		return bad.Reason
	}
	return ""
}

// TestAddOrder has records with several faults: the first check in the order
// of the rules answers, and no dear one is made before.
func TestAddOrder(t *testing.T) {
	broken := errors.New("disk")
	tampered := record("a", nil)
	tampered[len(tampered)-1]++
	for _, tt := range []struct {
		name   string
		raw    []byte
		rule   error
		reason consortium.Reason
		is     error
		judged bool
	}{
		{"size", make([]byte, consortium.MaxRecord+1), consortium.Refuse(consortium.Duplicate, ""), consortium.TooLarge, nil, false},
		{"decode", []byte{1, 2}, consortium.Refuse(consortium.Duplicate, ""), consortium.Malformed, nil, false},
		{"subject", record("a", func(r *consortium.Record) { r.Subject = " x" }), nil, consortium.BadSubject, nil, false},
		{"signature", tampered, consortium.Refuse(consortium.UnknownAuthor, ""), consortium.BadSignature, nil, false},
		{"rule", record("a", nil), consortium.Refuse(consortium.UnknownAuthor, ""), consortium.UnknownAuthor, nil, true},
		{"our fault", record("a", nil), broken, "", broken, true},
		{"budget", tampered, nil, consortium.MempoolFull, nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			judged := false
			cfg := roomy
			if tt.name == "budget" {
				cfg = Config{}
			}
			p := pool(cfg, func(*consortium.Record, chain.Hash) error { judged = true; return tt.rule })
			id, err := p.Add(tt.raw, "peer")
			if err == nil || reason(err) != tt.reason || tt.is != nil && !errors.Is(err, tt.is) || judged != tt.judged {
				t.Fatalf("got %v, judged %t", err, judged)
			}
			if p.Len() != 0 || p.Bytes() != 0 || p.Has(id) || len(p.Next(9, 1<<20, nil)) != 0 {
				t.Error("a refused record stayed")
			}
			if p.Verified(id) != tt.judged {
				t.Errorf("verified = %t", p.Verified(id))
			}
			select {
			case <-p.Wake():
				t.Error("woken by a refusal")
			default:
			}
		})
	}
}

func TestVerifiedOnceAndKnown(t *testing.T) {
	var p *Pool
	p = pool(roomy, func(_ *consortium.Record, id chain.Hash) error {
		if !p.Verified(id) {
			t.Error("the rule would verify again")
		}
		return nil
	})
	raw := record("a", nil)
	id := add(t, p, raw)
	<-p.Wake()
	if id != consortium.RecordID(raw) {
		t.Fatal("another id")
	}
	if again, err := p.Add(raw, "peer"); again != id || !errors.Is(err, chain.ErrKnown) {
		t.Fatalf("again: %v", err)
	}
	if got, ok := p.Get(id); !ok || string(got) != string(raw) || p.Len() != 1 || p.Bytes() != int64(len(raw)) {
		t.Fatal("not in the pool")
	}
	p.Remove(id, chain.Hash{7})
	if p.Has(id) || p.Len() != 0 || p.Bytes() != 0 || !p.Verified(id) {
		t.Fatal("removed, and still verified: not both hold")
	}
}

// TestCommittedMeanwhile: a record whose block is stored while it is being added
// does not stay, for nobody would take it out.
func TestCommittedMeanwhile(t *testing.T) {
	calls := 0
	p := pool(roomy, func(*consortium.Record, chain.Hash) error {
		if calls++; calls > 1 {
			return consortium.Refuse(consortium.Duplicate, "in the chain")
		}
		return nil
	})
	id, err := p.Add(record("a", nil), "")
	if reason(err) != consortium.Duplicate || p.Has(id) || p.Len() != 0 {
		t.Errorf("%v, %d records stayed", err, p.Len())
	}
}

// TestJudgedOnce: while no block comes in between, the rule is asked once.
func TestJudgedOnce(t *testing.T) {
	for _, grows := range []bool{false, true} {
		height, calls := uint64(7), 0
		p := New(roomy, Rules{
			Genesis: genesis, Height: func() uint64 { return height },
			Committable: func(*consortium.Record, chain.Hash) error {
				if calls++; calls > 1 {
					return consortium.Refuse(consortium.Duplicate, "in the chain")
				}
				if grows {
					height++
				}
				return nil
			},
		}, nil, slog.New(slog.DiscardHandler), nil)
		id, err := p.Add(record("a", nil), "")
		if grows != (calls == 2) || grows != (reason(err) == consortium.Duplicate) || grows == p.Has(id) {
			t.Errorf("a block comes in between %t: judged %d times, %v", grows, calls, err)
		}
	}
}

func TestVerifiedIsBounded(t *testing.T) {
	s := newIDSet(3)
	for i := range byte(5) {
		s.add(chain.Hash{i})
		s.add(chain.Hash{i})
	}
	for i := range byte(5) {
		if s.has(chain.Hash{i}) != (i >= 2) {
			t.Errorf("id %d: %t", i, s.has(chain.Hash{i}))
		}
	}
	if len(s.ids) != 3 || len(s.ring) != 3 {
		t.Errorf("%d ids, %d in the ring", len(s.ids), len(s.ring))
	}
}

func TestBounds(t *testing.T) {
	size := int64(len(record("a", nil)))
	for _, tt := range []struct {
		name   string
		cfg    Config
		author string // of the third record; the first two are a's
		want   consortium.Reason
	}{
		{"records", Config{Records: 2, Bytes: 1 << 20, AuthorPending: 9, AuthorBytes: 1 << 20}, "b", consortium.MempoolFull},
		{"bytes", Config{Records: 9, Bytes: 3*size - 1, AuthorPending: 9, AuthorBytes: 1 << 20}, "b", consortium.MempoolFull},
		{"author's records", Config{Records: 9, Bytes: 1 << 20, AuthorPending: 2, AuthorBytes: 1 << 20}, "a", consortium.AuthorLimit},
		{"author's bytes", Config{Records: 9, Bytes: 1 << 20, AuthorPending: 9, AuthorBytes: 3*size - 1}, "a", consortium.AuthorLimit},
		{"another author", Config{Records: 9, Bytes: 1 << 20, AuthorPending: 2, AuthorBytes: 2 * size}, "b", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := pool(tt.cfg, nil)
			first := add(t, p, record("a", nil))
			add(t, p, record("a", nil))
			raw := record(tt.author, nil)
			if _, err := p.Add(raw, ""); reason(err) != tt.want {
				t.Fatalf("got %v", err)
			}
			p.Remove(first)
			if _, err := p.Add(raw, ""); err != nil && !errors.Is(err, chain.ErrKnown) {
				t.Fatalf("with room: %v", err)
			}
		})
	}
}

func TestNextIsFair(t *testing.T) {
	p := pool(roomy, nil)
	names := map[chain.Hash]string{}
	put := func(name, author string, edit func(*consortium.Record)) {
		names[add(t, p, record(author, edit))] = name
	}
	for i := range 5 {
		put(fmt.Sprint("a", i), "a", nil)
	}
	put("b0", "b", nil)
	put("c0", "c", nil)
	put("c1", "c", nil)
	put("config", "b", config)
	next := func(max, bytes int, skip ...string) (got []string) {
		for _, raw := range p.Next(max, bytes, func(id chain.Hash) bool { return slices.Contains(skip, names[id]) }) {
			got = append(got, names[consortium.RecordID(raw)])
		}
		return got
	}
	size := len(record("a", nil))
	for _, tt := range []struct {
		max, bytes int
		skip       []string
		want       string
	}{
		{99, 1 << 20, nil, "[config a0 b0 c0 a1 c1 a2 a3 a4]"},
		{2, 1 << 20, nil, "[config a0]"},
		{2, 1 << 20, []string{"config", "a0"}, "[b0 c0]"},             // b's turn
		{2, 1 << 20, []string{"config", "a0", "b0", "c0"}, "[a1 c1]"}, // a's turn; b has nothing left
		{3, 1 << 20, []string{"config", "a0", "b0", "c0", "a1", "c1"}, "[a2 a3 a4]"},
		{99, 3*size + 10, []string{"config"}, "[a0 b0 c0]"},
		{99, size - 1, []string{"config"}, "[]"},
		{0, 1 << 20, nil, "[]"},
	} {
		if got := fmt.Sprint(next(tt.max, tt.bytes, tt.skip...)); got != tt.want {
			t.Errorf("Next(%d, %d, %v) = %s, want %s", tt.max, tt.bytes, tt.skip, got, tt.want)
		}
	}
}

func TestSweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := &consortium.Config{Params: consortium.DefaultParams()}
		verdicts := map[chain.Hash]error{}
		bus := event.NewBus(100)
		p := New(roomy, Rules{
			Genesis:     genesis,
			Committable: func(_ *consortium.Record, id chain.Hash) error { return verdicts[id] },
			Config:      func() *consortium.Config { return cfg },
		}, bus, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
		sub := bus.Subscribe()
		defer sub.Close()
		ends := add(t, p, record("a", func(r *consortium.Record) { r.NotAfter = 7 }))
		stays := add(t, p, record("a", nil))
		heard, upgraded := record("b", nil), record("b", nil)
		for _, raw := range [][]byte{heard, upgraded} {
			if _, err := p.Add(raw, "peer"); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := p.Add(upgraded, ""); !errors.Is(err, chain.ErrKnown) {
			t.Fatal(err)
		}
		if got, _ := p.Sweep(7, time.Now()); got != nil || p.Len() != 4 {
			t.Fatalf("at its last height: %v", got)
		}
		author := consortium.PublicKeyOf(key("a"))
		want := event.RecordRejected{ID: ends, Reason: "expired", Detail: "not_after has passed", Height: 7, Author: hex.EncodeToString(author[:]), Final: true}
		if got, _ := p.Sweep(8, time.Now()); len(got) != 1 || got[0] != want || p.Has(ends) {
			t.Fatalf("past its last height: %v", got)
		}
		if events, _ := sub.Take(9); len(events) != 0 {
			t.Fatalf("told before it is kept: %v", events)
		}

		time.Sleep(gossipAge)
		if got, _ := p.Sweep(8, time.Now()); got != nil || !p.Has(consortium.RecordID(heard)) {
			t.Fatalf("at the age: %v", got)
		}
		time.Sleep(time.Nanosecond)
		if got, _ := p.Sweep(8, time.Now()); got != nil || p.Has(consortium.RecordID(heard)) || !p.Has(consortium.RecordID(upgraded)) || !p.Has(stays) {
			t.Fatalf("past the age: %v", got)
		}

		verdicts[stays] = consortium.Refuse(consortium.UnknownAuthor, "policy")
		verdicts[consortium.RecordID(upgraded)] = consortium.Refuse(consortium.Duplicate, "")
		if got, _ := p.Sweep(8, time.Now()); got != nil || p.Len() != 2 {
			t.Fatalf("judged again within an epoch: %v", got)
		}
		cfg = &consortium.Config{Epoch: 1, Params: consortium.DefaultParams()}
		got, unlisted := p.Sweep(9, time.Now())
		if len(got) != 0 || !slices.Equal(unlisted, []chain.Hash{stays}) || p.Len() != 0 {
			t.Fatalf("after the change of epoch: rejected %v, unlisted %v, %d left", got, unlisted, p.Len())
		}
		if got, _ := p.Sweep(9, time.Now()); got != nil {
			t.Fatalf("rejected again: %v", got)
		}
	})
}

// TestAuthorPendingIsTheChains takes the bound from the config in force.
func TestAuthorPendingIsTheChains(t *testing.T) {
	cfg := &consortium.Config{Params: consortium.Params{AuthorPending: 1}}
	p := New(roomy, Rules{Genesis: genesis, Committable: func(*consortium.Record, chain.Hash) error { return nil }, Config: func() *consortium.Config { return cfg }},
		nil, slog.New(slog.DiscardHandler), nil)
	add(t, p, record("a", nil))
	if _, err := p.Add(record("a", nil), ""); reason(err) != consortium.AuthorLimit {
		t.Fatalf("got %v", err)
	}
	cfg = &consortium.Config{Params: consortium.Params{AuthorPending: 2}}
	add(t, p, record("a", nil))
}

// TestModel drives random calls and compares with a plain list.
func TestModel(t *testing.T) {
	raws := make([][]byte, 24)
	for i := range raws {
		raws[i] = record(fmt.Sprint("author ", i%4), func(r *consortium.Record) {
			if i%8 == 0 {
				config(r)
			}
		})
	}
	rapid.Check(t, func(rt *rapid.T) {
		p := pool(Config{Records: 12, Bytes: 1 << 20, AuthorPending: 5, AuthorBytes: 1 << 20}, nil)
		var model []chain.Hash
		for range 60 {
			i := rapid.IntRange(0, len(raws)-1).Draw(rt, "record")
			id := consortium.RecordID(raws[i])
			switch rapid.IntRange(0, 4).Draw(rt, "action") {
			case 0, 1:
				p.Remove(id)
				model = slices.DeleteFunc(model, func(h chain.Hash) bool { return h == id })
			case 2, 3:
				if _, err := p.Add(raws[i], ""); err == nil {
					if len(model) >= 12 {
						rt.Fatal("over the bound")
					}
					model = append(model, id)
				}
			case 4: // goes over the bounds
				if _, err := p.Restore(raws[i]); err == nil {
					model = append(model, id)
				} else if !slices.Contains(model, id) {
					rt.Fatal(err)
				}
			}
			all := p.Next(99, 1<<20, nil)
			p.Next(rapid.IntRange(0, 6).Draw(rt, "turn"), 1<<20, nil)
			bytes := int64(0)
			for _, raw := range all {
				bytes += int64(len(raw))
				if !slices.Contains(model, consortium.RecordID(raw)) {
					rt.Fatal("a record that is not there")
				}
			}
			if len(all) != len(model) || p.Len() != len(model) || p.Bytes() != bytes {
				rt.Fatalf("%d given, %d in the pool of %d bytes, want %d of %d", len(all), p.Len(), p.Bytes(), len(model), bytes)
			}
		}
		p.Remove(model...)
		if len(p.authors) != 0 || p.turns.Len() != 0 || p.configs.Len() != 0 || p.bytes != 0 {
			rt.Fatal("an empty pool holds on to something")
		}
	})
}

// TestConcurrent is for the race detector; each record enters once.
func TestConcurrent(t *testing.T) {
	p := pool(roomy, nil)
	raws := make([][]byte, 40)
	for i := range raws {
		raws[i] = record(fmt.Sprint(i%5), nil)
	}
	var wg sync.WaitGroup
	entered := make([]int, 4)
	for w := range entered {
		wg.Go(func() {
			for _, raw := range raws {
				if _, err := p.Add(raw, ""); err == nil {
					entered[w]++
				}
				p.Next(10, 1<<20, p.verifiedLocked)
				p.Sweep(1, time.Now())
			}
		})
	}
	wg.Wait()
	if sum := entered[0] + entered[1] + entered[2] + entered[3]; sum != 40 || p.Len() != 40 {
		t.Errorf("%d entered, %d in the pool", sum, p.Len())
	}
}

func (p *Pool) verifiedLocked(id chain.Hash) bool { return !p.verified.has(id) }

// FuzzAdd takes any bytes: no panic, and what enters is a good record.
func FuzzAdd(f *testing.F) {
	f.Add(record("a", nil))
	f.Add(record("a", config))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		p := pool(roomy, nil)
		_, err := p.Add(raw, "peer")
		if (err == nil) != (p.Len() == 1) || err != nil && reason(err) == "" {
			t.Fatalf("%v, %d in the pool", err, p.Len())
		}
		if err != nil {
			return
		}
		if r, err := consortium.DecodeRecord(raw); err != nil || r.Verify(genesis) != nil {
			t.Fatal("a bad record entered")
		}
	})
}

func benchmark(b *testing.B, known bool) {
	const n = 50_000
	raws := make([][]byte, n)
	for i := range raws {
		raws[i] = record(fmt.Sprint(i%50), func(r *consortium.Record) { r.Body = make([]byte, 256) })
	}
	p := pool(Config{Records: n, Bytes: 1 << 30, AuthorPending: n, AuthorBytes: 1 << 30}, nil)
	if known {
		for _, raw := range raws {
			p.Remove(add(b, p, raw))
		}
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		if i%n == 0 && i > 0 {
			b.StopTimer()
			for _, raw := range raws {
				p.Remove(consortium.RecordID(raw))
			}
			if !known {
				p.verified = newIDSet(verifiedIDs)
			}
			b.StartTimer()
		}
		if _, err := p.Add(raws[i%n], ""); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAdd(b *testing.B)         { benchmark(b, false) }
func BenchmarkAddVerified(b *testing.B) { benchmark(b, true) }

func BenchmarkNext500of50000(b *testing.B) {
	p := pool(Config{Records: 50_000, Bytes: 1 << 30, AuthorPending: 50_000, AuthorBytes: 1 << 30}, nil)
	for i := range 50_000 {
		add(b, p, record(fmt.Sprint(i%500), nil))
	}
	b.ReportAllocs()
	for b.Loop() {
		if got := p.Next(500, 1<<20, nil); len(got) != 500 {
			b.Fatal(len(got))
		}
	}
}
