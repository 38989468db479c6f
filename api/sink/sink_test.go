package sink

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/event"
)

// shelf is a broker in memory. What it refuses it is told.
type shelf struct {
	mu     sync.Mutex
	down   error // of every message; nil = it takes them
	stored []message
	most   int // bytes of a message, 0 = any
	hangs  bool
	dice   *rand.Rand // says how many of the messages it takes at once; nil = all
	dials  int
}

func (s *shelf) send(ctx context.Context, msgs []message) (int, error) {
	s.mu.Lock()
	hangs := s.hangs
	s.mu.Unlock()
	if hangs {
		<-ctx.Done()
		return 0, ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down != nil {
		return 0, s.down
	}
	n := len(msgs)
	if s.dice != nil {
		n = s.dice.IntN(n + 1)
	}
	for i, m := range msgs[:n] {
		if s.most > 0 && len(m.data) > s.most {
			return i, errTooLarge
		}
		s.stored = append(s.stored, m)
	}
	if n < len(msgs) {
		return n, errors.New("no more")
	}
	return n, nil
}

func (s *shelf) close() {}

func (s *shelf) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (s *shelf) seqs() (seqs []uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.stored {
		seqs = append(seqs, m.seq)
	}
	return seqs
}

// running are sinks that run until stop is called, which waits for their end.
type running struct {
	*Sinks
	bus   *event.Bus
	reg   *prometheus.Registry
	chain Chain
	stop  func()
}

var allTypes = config.Sink{Kind: config.SinkNATS, URL: "nats://h", Subject: "parley.{node}.{type}", Types: []string{"*"}}

func start(t *testing.T, ring int, dir string, cfg config.Sink, connect func() (broker, error)) *running {
	t.Helper()
	r := &running{bus: event.NewBus(ring), reg: prometheus.NewRegistry()}
	r.start(t, dir, cfg, connect, nil)
	return r
}

func (r *running) start(t *testing.T, dir string, cfg config.Sink, connect func() (broker, error), found func([]event.FindingChanged)) {
	t.Helper()
	var err error
	r.Sinks, err = New([]config.Sink{cfg}, r.bus, Options{
		Node: "n1", Peer: "12D3", Boot: fmt.Sprint("boot", r.bus.Seq()+1), Dir: dir, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Registerer: r.reg, Found: found, Chain: r.chain,
	})
	if err != nil {
		t.Fatal(err)
	}
	if connect != nil {
		r.sinks[0].connect = connect
	}
	r.run(t)
}

func (r *running) run(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(r.stop)
}

func startShelf(t *testing.T, ring int, dir string, cfg config.Sink, s *shelf) *running {
	t.Helper()
	return start(t, ring, dir, cfg, func() (broker, error) {
		s.set(func() { s.dials++ })
		return s, nil
	})
}

// publish publishes n events at once, so that no sink takes a part of them; the
// first has the height from.
func (r *running) publish(from, n int) {
	events := make([]event.Event, n)
	for i := range events {
		events[i] = event.HeadChanged{Height: uint64(from + i)}
	}
	r.bus.Publish(events...)
}

func (r *running) lag(t *testing.T) float64 {
	t.Helper()
	families, err := r.reg.Gather()
	if err != nil || len(families) != 1 || families[0].GetName() != "parley_sink_lag_events" {
		t.Fatalf("metrics %v, %v", families, err)
	}
	return families[0].GetMetric()[0].GetGauge().GetValue()
}

func TestDelivers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{}
		cfg := allTypes
		cfg.Types = []string{"head.*"}
		r := startShelf(t, 64, t.TempDir(), cfg, s)
		r.bus.Publish(event.NodeStopping{Why: "not wanted"})
		r.bus.Publish(event.HeadChanged{Height: 7})
		synctest.Wait()
		seq := r.bus.Seq()
		want := message{seq: seq, id: fmt.Sprintf("%s/%d", r.boot, seq), subject: "parley.n1.head.changed",
			data: fmt.Appendf(nil, `{"v":1,"seq":%d,"ts":"2000-01-01T00:00:00Z","type":"head.changed","data":{"height":7,"hash":"%064d","depth":0}}`, seq, 0)}
		if diff := cmp.Diff([]message{want}, s.stored, cmp.AllowUnexported(message{})); diff != "" {
			t.Error(diff)
		}
		if n := r.lag(t); n != 0 {
			t.Errorf("lag %v", n)
		}
	})
}

// A sink that is away gets everything when it comes back, each event once and
// in order, while the ring holds it; the pauses between tries are bounded.
func TestOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{down: errors.New("away")}
		r := startShelf(t, 4096, t.TempDir(), allTypes, s)
		r.publish(1, 1000)
		time.Sleep(time.Hour)
		if n := r.lag(t); n != 1000 {
			t.Errorf("lag %v of a sink that is away", n)
		}
		s.set(func() { s.down = nil })
		time.Sleep(maxPause)
		if got := s.seqs(); len(got) != 1000 || !slices.IsSorted(got) || got[0] != r.bus.Seq()-999 {
			t.Errorf("%d events", len(got))
		}
		if s.dials != 1 {
			t.Errorf("connected %d times: the client reconnects by itself", s.dials)
		}
	})
}

// A sink that is down is a finding until it takes events again, and its lag
// counts what it wants alone, and what the bus has lost.
func TestDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{down: errors.New("no route")}
		cfg := allTypes
		cfg.Types = []string{"head.*"}
		var told atomic.Pointer[[]event.FindingChanged]
		r := &running{bus: event.NewBus(64), reg: prometheus.NewRegistry()}
		r.start(t, t.TempDir(), cfg, func() (broker, error) { return s, nil }, func(list []event.FindingChanged) { told.Store(&list) })
		r.publish(1, 3)
		for range 20 {
			r.bus.Publish(event.NodeStopping{Why: "not wanted"})
		}
		time.Sleep(downAfter - time.Second)
		synctest.Wait()
		if n, found := r.lag(t), *told.Load(); n != 3 || len(found) != 0 {
			t.Errorf("lag %v, found %+v", n, found)
		}
		time.Sleep(2 * saveEvery)
		synctest.Wait()
		if found := *told.Load(); len(found) != 1 || found[0].Code != Code || !strings.HasPrefix(found[0].Why, "nats-1 takes no events since 00:00:00 UTC, 3 wait: no route") {
			t.Errorf("found %+v", found)
		}
		r.publish(4, 100) // beyond the ring
		if n := r.lag(t); n != 123 {
			t.Errorf("lag %v", n)
		}
		s.set(func() { s.down = nil })
		time.Sleep(maxPause + saveEvery)
		synctest.Wait()
		if n, found := r.lag(t), *told.Load(); n != 0 || len(found) != 0 {
			t.Errorf("lag %v, found %+v", n, found)
		}
	})
}

// Behind the ring a sink is told once how many it lost, and between which
// events. Whoever publishes waits for nobody.
func TestLagged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{hangs: true}
		r := startShelf(t, 512, t.TempDir(), allTypes, s)
		first := r.bus.Seq() + 1
		r.publish(1, 256) // one batch is in flight
		synctest.Wait()
		start := time.Now()
		r.publish(257, 10_000)
		if took := time.Since(start); took != 0 {
			t.Errorf("publishing waited %s for a sink", took)
		}
		s.set(func() { s.hangs = false })
		time.Sleep(tryTime + maxPause)
		lost := uint64(10_000 - 512)
		var want []uint64
		for seq := first; seq < first+256; seq++ {
			want = append(want, seq)
		}
		for seq := first + 256 + lost - 1; seq <= r.bus.Seq(); seq++ { // that of the lagged event is the last lost one
			want = append(want, seq)
		}
		if diff := cmp.Diff(want, s.seqs()); diff != "" {
			t.Fatal(diff)
		}
		got := string(s.stored[256].data)
		if i := strings.Index(got, `"type"`); got[i:] != fmt.Sprintf(`"type":"lagged","data":{"dropped":%d,"from":%d,"to":%d}}`, lost, first+256, first+256+lost-1) {
			t.Errorf("lagged: %s", got)
		}
		if subject := s.stored[256].subject; subject != "parley.n1.lagged" {
			t.Errorf("subject %s", subject)
		}
	})
}

// An event that a sink will never take does not stop the others.
func TestTooLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{most: 300}
		r := startShelf(t, 64, t.TempDir(), allTypes, s)
		r.publish(1, 1)
		r.bus.Publish(event.NodeStopping{Why: strings.Repeat("long ", 100)})
		r.publish(2, 1)
		synctest.Wait()
		if diff := cmp.Diff([]uint64{r.bus.Seq() - 2, r.bus.Seq() - 1, r.bus.Seq()}, s.seqs()); diff != "" {
			t.Fatal(diff)
		}
		if got := string(s.stored[1].data); !strings.Contains(got, fmt.Sprintf(`"type":"lagged","data":{"dropped":1,"from":%d,"to":%d}`, r.bus.Seq()-1, r.bus.Seq()-1)) {
			t.Errorf("in its place: %s", got)
		}
	})
}

// What is published before the end is delivered, also the last event; a sink
// that is away then is told after the next start, once.
func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		s := &shelf{}
		next := func() *running {
			time.Sleep(time.Minute)
			return startShelf(t, 64, dir, allTypes, s)
		}
		r := next()
		r.publish(1, 10)
		r.stop()
		if got := s.seqs(); len(got) != 10 {
			t.Errorf("%d events before a clean end", len(got))
		}
		r = next()
		r.publish(1, 1)
		synctest.Wait()
		if got := len(s.seqs()); got != 11 {
			t.Errorf("%d events: a clean restart loses none, and says nothing", got)
		}
		s.set(func() { s.down = errors.New("away") })
		before := r.bus.Seq()
		r.publish(2, 5)
		began := time.Now()
		r.stop()
		if took := time.Since(began); took > drainTime {
			t.Errorf("the end took %s", took)
		}
		r = next() // and away through a whole start, which adds two
		r.publish(1, 2)
		if n := r.lag(t); n != 7 {
			t.Errorf("lag %v after a restart", n)
		}
		r.stop()
		s.set(func() { s.down, s.stored = nil, nil })
		r = next()
		first := r.bus.Seq() + 1
		r.publish(1, 1)
		synctest.Wait()
		if diff := cmp.Diff([]uint64{first - 1, first}, s.seqs()); diff != "" {
			t.Fatal(diff)
		}
		if got := string(s.stored[0].data); !strings.HasSuffix(got, fmt.Sprintf(`"type":"lagged","data":{"dropped":7,"from":%d,"to":%d}}`, before+1, first-1)) {
			t.Errorf("lagged: %s", got)
		}
		r.stop()
		next()
		synctest.Wait()
		if got := len(s.seqs()); got != 2 {
			t.Errorf("told again: %d", got)
		}
	})
}

// After a crash the count is what was noted, and says that there may be more.
func TestCrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		s := &shelf{down: errors.New("away")}
		r := startShelf(t, 64, dir, allTypes, s)
		r.publish(1, 3)
		time.Sleep(2 * saveEvery)
		noted, err := os.ReadFile(filepath.Join(dir, fileName))
		if err != nil {
			t.Fatal(err)
		}
		r.publish(4, 2) // nobody noted these
		r.stop()
		if err := os.WriteFile(filepath.Join(dir, fileName), noted, 0o600); err != nil {
			t.Fatal(err)
		}
		s.set(func() { s.down = nil })
		time.Sleep(time.Minute)
		startShelf(t, 64, dir, allTypes, s)
		synctest.Wait()
		if len(s.stored) != 1 || !strings.Contains(string(s.stored[0].data), `"dropped":3,`) || !strings.HasSuffix(string(s.stored[0].data), `"at_least":true}}`) {
			t.Errorf("after a crash: %+v", s.stored)
		}
		if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
			t.Errorf("left in the data directory: %v, %v", files, err)
		}
	})
}

func TestBrokenPositions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, fileName), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		s := &shelf{}
		r := startShelf(t, 64, dir, allTypes, s)
		r.publish(1, 1)
		r.stop()
		if all, clean, err := readPositions(filepath.Join(dir, fileName)); len(s.seqs()) != 1 || err != nil || !clean || all[r.sinks[0].key()].Seq != r.bus.Seq() {
			t.Errorf("%d events; %v %v %v", len(s.seqs()), all, clean, err)
		}
	})
}

func FuzzPositions(f *testing.F) {
	f.Add([]byte(`{"boot":"a","clean":true,"sinks":{"k":{"seq":1,"missed":2}}}`))
	f.Add([]byte(`{"sinks":{"k":null}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		all, clean, err := decodePositions(b)
		if err != nil {
			return
		}
		for key, p := range all {
			k := &sink{}
			k.begin(1<<40, p, clean)
			if k.gap != nil && k.gap.To < k.gap.From-1 {
				t.Errorf("%s: %+v", key, k.gap)
			}
		}
		if _, err := json.Marshal(positions{Sinks: all}); err != nil {
			t.Error(err)
		}
	})
}

// Wrong credentials stop the start, each named; what is in them is never shown.
func TestCredentials(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("empty", " \n", 0o600)
	write("open", "ann:hush", 0o644)
	write("large", strings.Repeat("hush", maxCredentials), 0o600)
	write("good", "ann:hu:sh\n", 0o600)
	cfg := func(file string) []config.Sink {
		c := allTypes
		c.CredentialsFile = file
		return []config.Sink{c, c}
	}
	var logged strings.Builder
	o := Options{Dir: dir, Log: slog.New(slog.NewTextHandler(&logged, nil))}
	for file, want := range map[string]string{
		"none": "no such file", "empty": "has 0 bytes", "open": "chmod 600 it [key_mode]", "large": "bytes: want a line USER:PASSWORD", ".": "credentials_file: ",
	} {
		_, err := New(cfg(file), event.NewBus(64), o)
		if err == nil || strings.Count(err.Error(), want) != 2 || !strings.Contains(err.Error(), "sink 2: credentials_file: ") {
			t.Errorf("%s: %v", file, err)
		} else if strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: the error shows the secret: %v", file, err)
		}
	}
	if _, err := New(cfg(filepath.Join(dir, "open")), event.NewBus(64), o); err != nil || strings.Count(logged.String(), "others may read the credentials") != 2 {
		t.Errorf("a mounted secret: %v, %s", err, logged.String())
	}
	c, err := openCredentials(dir, "good", o.Log)
	if err != nil {
		t.Fatal(err)
	}
	if user, password, err := c.user(); user != "ann" || password != "hu:sh" || err != nil {
		t.Errorf("%q %q %v", user, password, err)
	}
	for _, text := range []string{"token", ":hush", "ann:hush\nbob:hush"} {
		write("good", text, 0o600)
		if _, _, err := c.user(); !errors.Is(err, errNoUser) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if strings.Contains(logged.String(), "hush") {
		t.Errorf("logged: %s", logged.String())
	}
}
