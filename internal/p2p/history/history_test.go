package history

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/wire"
)

func newID(t *testing.T) peer.ID {
	t.Helper()
	_, pub, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id, err := peer.IDFromPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// lab is a history with its bus.
type lab struct {
	*History
	t   *testing.T
	bus *event.Bus
	log *bytes.Buffer
	reg *prometheus.Registry
}

func open(t *testing.T, cfg Config) *lab {
	t.Helper()
	l := &lab{t: t, bus: event.NewBus(16384), log: &bytes.Buffer{}, reg: prometheus.NewPedanticRegistry()}
	var err error
	if l.History, err = Open(cfg, l.bus, slog.New(slog.NewTextHandler(l.log, nil)), l.reg); err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *lab) page(p peer.ID, before uint64, limit int) []Entry {
	l.t.Helper()
	list, err := l.Page(l.t.Context(), p, before, limit)
	if err != nil {
		l.t.Fatal(err)
	}
	return list
}

// words sums entries up.
func words(list []Entry) string {
	var out []string
	for _, e := range list {
		out = append(out, strings.TrimSpace(e.Event+" "+e.Reason))
	}
	return strings.Join(out, "; ")
}

func (l *lab) close() {
	l.t.Helper()
	if err := l.Close(); err != nil {
		l.t.Error(err)
	}
}

func ready(p peer.ID) event.PeerReady {
	return event.PeerReady{PeerConnected: event.PeerConnected{Peer: p, Direction: "outbound", Addr: "/ip4/192.0.2.7/tcp/8080"}}
}

func gone(p peer.ID, by, reason string, goodbye uint64, text string) event.PeerDisconnected {
	return event.PeerDisconnected{Peer: p, Direction: "inbound", Addr: "/ip4/192.0.2.7/tcp/8080", By: by, Reason: reason, Goodbye: goodbye, Text: text, DurationS: 12.5}
}

func TestStory(t *testing.T) {
	for name, path := range map[string]string{"memory": "", "disk": filepath.Join(t.TempDir(), "a b?c%41", "history.db")} {
		t.Run(name, func(t *testing.T) {
			if path != "" {
				if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			l := open(t, Config{File: path})
			p, q := newID(t), newID(t)
			l.bus.Publish(ready(p), gone(p, "them", "", wire.GoodbyeTooManyPeers, ""), gone(q, "us", "the operator disconnected", 0, ""),
				event.PeerRefused{Peer: p, Direction: "inbound", Addr: "/ip4/192.0.2.7/tcp/1", By: "us", Reason: "another chain"}, event.HeadChanged{Height: 1},
				gone(p, "them", "", 0, ""), gone(p, "them", "", wire.GoodbyeShutdown, "the node stops\xff"), event.PeerRefused{Addr: "/ip4/192.0.2.9/tcp/1"})
			l.take()
			check := func(when string) {
				t.Helper()
				const want = "refused; disconnected the node stops; disconnected the connection broke, no goodbye came; refused another chain; " +
					"disconnected the operator disconnected; disconnected the peer has too many peers; connected"
				all := l.page("", 0, 100)
				if got := words(all); got != want {
					t.Fatalf("%s: %s", when, got)
				}
				if got := words(l.page(p, 0, 100)); strings.Contains(got, "operator") || len(l.page(p, 0, 100)) != 5 || len(l.page(q, 0, 100)) != 1 {
					t.Errorf("%s: of one peer: %s", when, got)
				}
				e := all[5]
				if e.Peer != p || e.Direction != "inbound" || e.Addr != "/ip4/192.0.2.7/tcp/8080" || e.By != "them" || e.Goodbye != 129 ||
					e.Duration != 12500*time.Millisecond || time.Since(e.At).Abs() > time.Minute {
					t.Errorf("%s: %+v", when, e)
				}
				var paged []Entry
				for before := uint64(0); ; before = paged[len(paged)-1].Seq {
					next := l.page("", before, 3)
					if paged = append(paged, next...); len(next) < 3 {
						break
					}
				}
				if words(paged) != want {
					t.Errorf("%s: by pages of 3: %s", when, words(paged))
				}
			}
			check("pending")
			l.flush(t.Context(), time.Now())
			if l.waits() != 0 {
				t.Errorf("%d wait after a flush", l.waits())
			}
			check("written")
			if path == "" {
				l.close()
				return
			}
			l.bus.Publish(gone(q, "us", "last", 0, "")) // Close takes what the bus still has
			l.close()
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%v, %v", info, err)
			}
			l = open(t, Config{File: path})
			if got := l.page("", 0, 1); words(got) != "disconnected last" {
				t.Errorf("after a restart: %s", words(got))
			}
			l.bus.Publish(gone(p, "us", "newer", 0, ""))
			l.take()
			if got := words(l.page("", 0, 2)); got != "disconnected newer; disconnected last" {
				t.Errorf("the order over a restart: %s", got)
			}
			l.close()
		})
	}
}

// A reader sees each entry once, whenever the writer writes.
func TestReadWhileWriting(t *testing.T) {
	l := open(t, Config{File: filepath.Join(t.TempDir(), "history.db")})
	defer l.close()
	p := newID(t)
	l.bus.Publish(ready(p))
	const n = 300
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range n {
			l.bus.Publish(gone(p, "us", fmt.Sprint(i), 0, ""), ready(p))
			l.take()
			if i%3 == 0 {
				l.flush(context.Background(), time.Now())
			}
		}
	})
	for seen := 0; seen < 2*n+1; {
		list := l.page("", 0, 10_000)
		for i, e := range list {
			if i > 0 && e.Seq+1 != list[i-1].Seq {
				t.Fatalf("entry %d follows %d", list[i-1].Seq, e.Seq)
			}
		}
		if len(list) < seen {
			t.Fatalf("%d entries after %d", len(list), seen)
		}
		seen = len(list)
	}
	wg.Wait()
}

// flushing writes what is pending just before it is read.
type flushing struct {
	store
	l *lab
}

func (f flushing) page(ctx context.Context, p peer.ID, before uint64, limit int) ([]Entry, error) {
	f.l.flush(ctx, time.Now())
	return f.store.page(ctx, p, before, limit)
}

// What moves from memory to disk between two looks is seen once.
func TestReadAcrossAFlush(t *testing.T) {
	l := open(t, Config{File: filepath.Join(t.TempDir(), "history.db")})
	defer l.close()
	l.store = flushing{l.store, l}
	p := newID(t)
	l.bus.Publish(ready(p), gone(p, "us", "1", 0, ""))
	l.take()
	l.flush(t.Context(), time.Now())
	l.bus.Publish(gone(p, "us", "2", 0, ""), gone(p, "us", "3", 0, ""))
	l.take()
	if got := words(l.page("", 0, 10)); got != "disconnected 3; disconnected 2; disconnected 1; connected" {
		t.Errorf("read: %s", got)
	}
}

// In virtual time the history is in memory: it writes by its timer, and ends.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := open(t, Config{Keep: time.Hour})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- l.Run(ctx) }()
		p := newID(t)
		l.bus.Publish(ready(p))
		time.Sleep(2 * time.Second)
		if l.waits() != 0 || len(l.page(p, 0, 10)) != 1 {
			t.Errorf("%d wait after 2 s, %d are there", l.waits(), len(l.page(p, 0, 10)))
		}
		time.Sleep(3 * time.Hour)
		if n := len(l.page("", 0, 10)); n != 0 {
			t.Errorf("%d are there after three times history.keep", n)
		}
		l.bus.Publish(gone(p, "us", "stop", 0, ""))
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		l.close()
	})
}

func (l *lab) counter(name string) float64 {
	l.t.Helper()
	families, err := l.reg.Gather()
	if err != nil {
		l.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if labels := m.GetLabel(); f.GetName() == name || len(labels) == 1 && f.GetName()+" "+labels[0].GetValue() == name {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	l.t.Errorf("no metric %s", name)
	return 0
}

// A flood of strangers is cut and counted, and those that we know are not.
func TestFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := open(t, Config{})
		p, stranger := newID(t), newID(t)
		l.bus.Publish(ready(p))
		for range 5000 {
			l.bus.Publish(gone(stranger, "us", "no status within 10s", 0, ""))
		}
		l.bus.Publish(gone(p, "them", "", 0, ""))
		l.take()
		if n := len(l.page(stranger, 0, 10_000)); n != strangersAtOnce {
			t.Errorf("%d of a stranger at once, want %d", n, strangersAtOnce)
		}
		if got := words(l.page(p, 0, 10)); !strings.HasPrefix(got, "disconnected") || !strings.HasSuffix(got, "connected") {
			t.Errorf("of a peer: %s", got)
		}
		if n := l.counter("parley_history_dropped_total flood"); n != 5000-strangersAtOnce {
			t.Errorf("%v counted as dropped", n)
		}
		l.close()
	})
}

// What is kept is bounded in time, in number, for strangers and for each peer.
func TestPrune(t *testing.T) {
	l := open(t, Config{File: filepath.Join(t.TempDir(), "history.db")})
	defer l.close()
	p, flapping := newID(t), newID(t)
	now := time.Now()
	var seq uint64
	add := func(n int, e Entry) {
		t.Helper()
		batch := make([]Entry, n)
		for i := range batch {
			seq++
			e.Seq = seq
			batch[i] = e
		}
		if err := l.store.add(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
	}
	count := func(where string) (n int) {
		t.Helper()
		if err := l.store.(*file).db.QueryRowContext(t.Context(), "SELECT count(*) FROM connections WHERE "+where).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	add(5, Entry{At: now.Add(-721 * time.Hour), Event: Refused, Peer: p, familiar: true})
	add(7, Entry{At: now.Add(-719 * time.Hour), Event: Connected, Peer: p, familiar: true})
	add(maxPerPeer+50, Entry{At: now, Event: Connected, Peer: flapping, familiar: true})
	add(maxStrangers+100, Entry{At: now, Event: Refused})
	l.prune(t.Context(), now)
	for where, want := range map[string]int{
		"peer = '" + p.String() + "'": 7, "peer = '" + flapping.String() + "'": maxPerPeer, "NOT familiar": maxStrangers,
	} {
		if n := count(where); n != want {
			t.Errorf("%d rows where %s, want %d", n, where, want)
		}
	}
	add(maxRows, Entry{At: now, Event: Refused, familiar: true})
	l.prune(t.Context(), now)
	if n := count("true"); n != maxRows {
		t.Errorf("%d rows in all, want %d", n, maxRows)
	}
	if info, err := os.Stat(l.cfg.File); err != nil || info.Size() > 64<<20 {
		t.Errorf("the file has %d bytes, %v", info.Size(), err)
	}
}

func BenchmarkFlush(b *testing.B) {
	bus := event.NewBus(16384)
	h, err := Open(Config{File: filepath.Join(b.TempDir(), "history.db")}, bus, nil, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		for range 100 {
			bus.Publish(event.PeerReady{PeerConnected: event.PeerConnected{Peer: "p", Direction: "outbound", Addr: "/ip4/192.0.2.7/tcp/8080"}})
		}
		h.take()
		h.flush(b.Context(), time.Now())
	}
	if err := h.Close(); err != nil {
		b.Fatal(err)
	}
}

// The last name of a peer outlives its connection and the process.
func TestNames(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	l := open(t, Config{File: path})
	a, b := newID(t), newID(t)
	named := func(p peer.ID, name string) event.PeerReady {
		e := ready(p)
		e.Name = name
		return e
	}
	l.bus.Publish(named(a, "old"), gone(a, "us", "x", 0, ""), named(a, "node5"), gone(a, "us", "x", 0, ""), named(b, "node5"), named(newID(t), ""))
	l.take()
	if l.Name(a) != "node5" || len(l.Named("node5")) != 2 || len(l.Named("old")) != 0 || len(l.Named("")) != 0 {
		t.Errorf("%q, %v", l.Name(a), l.Named("node5"))
	}
	l.close()
	l = open(t, Config{File: path})
	defer l.close()
	l.bus.Publish(named(b, "node6"))
	l.take()
	for _, p := range []peer.ID{a, b} { // one on disk, one not yet
		text := p.String()
		if got, err := l.EndingIn(t.Context(), text[len(text)-8:], 5); err != nil || len(got) != 1 || got[0] != p {
			t.Errorf("%s ends so: %v, %v", p, got, err)
		}
	}
	if l.Name(a) != "node5" || l.Name(b) != "node6" || len(l.Named("node5")) != 1 {
		t.Errorf("after a restart: %q, %q, %v", l.Name(a), l.Name(b), l.Named("node5"))
	}
}

// Names of more peers than are kept wash out the oldest.
func TestManyNames(t *testing.T) {
	l := open(t, Config{})
	defer l.close()
	first := newID(t)
	at := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.name(Entry{Peer: first, Name: "first", At: at})
	for i := range 3 * maxNames {
		l.name(Entry{Peer: peer.ID(fmt.Sprint(i)), Name: "n", At: at.Add(time.Duration(i+1) * time.Second)})
	}
	if _, known := l.names[first]; known || len(l.names) > maxNames+maxNames/10 || len(l.names) < maxNames {
		t.Errorf("%d names, the first %v", len(l.names), known)
	}
}

// A refusal in the handshake and the end of that connection are one thing.
func TestRefusedOnce(t *testing.T) {
	l := open(t, Config{})
	defer l.close()
	p := newID(t)
	refused := event.PeerRefused{Peer: p, Direction: "inbound", Place: "handshake", Reason: "another chain", By: "us"}
	l.bus.Publish(refused, gone(p, "us", "another chain", 0, ""), gone(p, "us", "later", 0, ""), ready(p), refused, gone(p, "us", "bye", 0, ""))
	l.take()
	if got := words(l.page(p, 0, 10)); got != "disconnected bye; refused another chain; connected; disconnected later; refused another chain" {
		t.Error(got)
	}
}
