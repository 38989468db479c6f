package sink

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/event"
)

// books are a ledger in memory.
type books struct {
	name   byte // of the chain
	mu     sync.Mutex
	blocks [][]event.Event
	broken error // of every read
	reads  int
}

func (b *books) hash(height int) chain.Hash {
	h := chain.Hash{b.name}
	binary.BigEndian.PutUint64(h[8:], uint64(height))
	return h
}

// next stores a block of n records and tells of it as a node does.
func (b *books) next(bus *event.Bus, n int) {
	b.mu.Lock()
	height := len(b.blocks) + 1
	events := []event.Event{event.BlockStored{Height: uint64(height), Hash: b.hash(height), PrevHash: b.hash(height - 1), RecordCount: n}}
	for i := range n {
		events = append(events, event.RecordCommitted{ID: b.hash(height<<20 + i), Height: uint64(height), Index: i})
	}
	b.blocks = append(b.blocks, events)
	b.mu.Unlock()
	bus.Publish(slices.Insert(slices.Clone(events), 1, event.Event(event.HeadChanged{Height: uint64(height)}))...)
}

func (b *books) StoredHead() chain.Head {
	b.mu.Lock()
	defer b.mu.Unlock()
	return chain.Head{Height: uint64(len(b.blocks)), Hash: b.hash(len(b.blocks))}
}

func (b *books) StoredEvents(height uint64) ([]event.Event, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.reads++; b.broken != nil {
		return nil, b.broken
	}
	return b.blocks[height-1], nil
}

// chainTypes are what a ledger tells again, without the rest.
var chainTypes = config.Sink{Kind: config.SinkNATS, URL: "nats://h", Subject: "parley.{node}.{type}", Types: []string{"block.stored", "record.committed"}}

// start starts sinks on the next bus, as a new start of the node does.
func (b *books) start(t *testing.T, ring int, dir string, cfg config.Sink, s *shelf) *running {
	t.Helper()
	time.Sleep(time.Minute)
	r := &running{bus: event.NewBus(ring), reg: prometheus.NewRegistry(), chain: b}
	r.start(t, dir, cfg, func() (broker, error) { return s, nil }, nil)
	return r
}

// told are the messages as text: lagged 5, 7 = block.stored, 7.0 = its first
// record, with ' where it came from the ledger.
func (s *shelf) told(t *testing.T) (told []string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.stored {
		var e struct {
			Seq  uint64
			Type string
			Data struct {
				Height, Dropped uint64
				Index           int
				AtLeast         bool `json:"at_least"`
			}
		}
		if err := json.Unmarshal(m.data, &e); err != nil {
			t.Fatal(err)
		}
		text := map[string]string{
			"block.stored": fmt.Sprint(e.Data.Height), "record.committed": fmt.Sprintf("%d.%d", e.Data.Height, e.Data.Index),
			"lagged": fmt.Sprintf("lagged %d", e.Data.Dropped), "head.changed": fmt.Sprintf("head %d", e.Data.Height),
		}[e.Type]
		if e.Seq == 0 {
			text += "'"
		}
		told = append(told, text)
	}
	return told
}

func (s *shelf) wants(t *testing.T, what, want string) {
	t.Helper()
	synctest.Wait()
	if diff := cmp.Diff(want, strings.Join(s.told(t), ", ")); diff != "" {
		t.Errorf("%s: %s", what, diff)
	}
	s.set(func() { s.stored = nil })
}

func (s *shelf) away(is bool) {
	s.set(func() {
		if s.down = nil; is {
			s.down = errors.New("away")
		}
	})
}

// A sink that is away for longer than the ring holds gets every block and
// record, from the ledger, and what is live again once, after them.
func TestResumeAfterOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := &shelf{}, &books{}
		r := b.start(t, 64, t.TempDir(), chainTypes, s)
		b.next(r.bus, 1)
		s.wants(t, "live", "1, 1.0")
		s.away(true)
		b.next(r.bus, 2) // one batch is in flight
		synctest.Wait()
		r.publish(0, 100)
		for range 40 {
			b.next(r.bus, 3)
		}
		time.Sleep(time.Hour)
		if n := r.gauge(t, "parley_sink_lag_blocks"); n != 41 {
			t.Errorf("%v blocks behind", n)
		}
		s.away(false)
		time.Sleep(maxPause)
		synctest.Wait()
		b.next(r.bus, 1)
		want := "2, 2.0, 2.1, lagged 236"
		for h := 3; h <= 42; h++ {
			want += fmt.Sprintf(", %d', %[1]d.0', %[1]d.1', %[1]d.2'", h)
		}
		s.wants(t, "after the outage", want+", 43, 43.0")
		if n := r.gauge(t, "parley_sink_lag_blocks"); n != 0 {
			t.Errorf("%v blocks behind", n)
		}
	})
}

func (r *running) gauge(t *testing.T, name string) float64 {
	t.Helper()
	families, err := r.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatal("no " + name)
	return 0
}

// Where the ring overflows within a block, the block is told from its start.
func TestResumeWithinBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := &shelf{hangs: true}, &books{}
		r := b.start(t, 64, t.TempDir(), chainTypes, s)
		b.next(r.bus, 1)
		synctest.Wait()
		b.next(r.bus, 70)
		s.set(func() { s.hangs = false })
		time.Sleep(tryTime + maxPause)
		want := "1, 1.0, lagged 8, 2'"
		for i := range 70 {
			want += fmt.Sprintf(", 2.%d'", i)
		}
		s.wants(t, "after the outage", want)
	})
}

// What was not delivered when the node stopped, and what other starts stored
// with the sink away, comes after the next start, and not again after another.
func TestResumeAfterRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, s, b := t.TempDir(), &shelf{}, &books{}
		b.next(event.NewBus(64), 5) // before there was a sink
		r := b.start(t, 64, dir, chainTypes, s)
		b.next(r.bus, 1)
		b.next(r.bus, 0)
		s.wants(t, "a new sink", "2, 2.0, 3")
		s.away(true)
		b.next(r.bus, 2)
		r.stop()
		r = b.start(t, 64, dir, chainTypes, s)
		b.next(r.bus, 0)
		b.next(r.bus, 1)
		r.stop()
		s.away(false)
		r = b.start(t, 64, dir, chainTypes, s)
		synctest.Wait()
		b.next(r.bus, 1)
		s.wants(t, "after two starts", "lagged 6, 4', 4.0', 4.1', 5', 6', 6.0', 7, 7.0")
		r.stop()
		r = b.start(t, 64, dir, chainTypes, s)
		b.next(r.bus, 1)
		s.wants(t, "after a clean restart", "8, 8.0")
		r.stop()
	})
}

// After a crash the blocks come from where sinks.json was last saved, under
// the ids that they had when they were live.
func TestResumeAfterCrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, s, b := t.TempDir(), &shelf{}, &books{}
		file := filepath.Join(dir, fileName)
		r := b.start(t, 64, dir, chainTypes, s)
		b.next(r.bus, 1)
		time.Sleep(2 * saveEvery)
		noted, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		b.next(r.bus, 2)
		synctest.Wait()
		ids := slices.Clone(s.ids()[2:])
		s.wants(t, "live", "1, 1.0, 2, 2.0, 2.1")
		s.away(true)
		b.next(r.bus, 1)
		r.stop()
		if err := os.WriteFile(file, noted, 0o600); err != nil {
			t.Fatal(err)
		}
		s.away(false)
		b.start(t, 64, dir, chainTypes, s)
		synctest.Wait()
		if got := s.ids(); len(got) != 6 || !slices.Equal(got[1:4], ids) || slices.Contains(got, "") || len(slices.Compact(slices.Sorted(slices.Values(got)))) != 6 {
			t.Errorf("ids %q, live they were %q", got, ids)
		}
		s.wants(t, "after a crash", "lagged 0, 2', 2.0', 2.1', 3', 3.0'")
	})
}

func (s *shelf) ids() (ids []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.stored {
		ids = append(ids, m.id)
	}
	return ids
}

// follow ends the sinks and has others follow, as a reload does. Where hold is
// given, it happens while there are none, because some could not start.
func (r *running) follow(t *testing.T, dir string, hold func()) {
	t.Helper()
	r.stop()
	o := Options{Node: "n1", Peer: "12D3", Boot: r.boot, Dir: dir, Registerer: r.reg, Chain: r.chain, After: r.Sinks}
	connect := r.sinks[0].connect
	if hold != nil {
		r.Sinks = Hold(r.bus, o)
		r.run(t)
		hold()
		r.stop()
		o.After = r.Sinks
	}
	var err error
	if r.Sinks, err = New([]config.Sink{chainTypes}, r.bus, o); err != nil {
		t.Fatal(err)
	}
	r.sinks[0].connect = connect
	r.run(t)
}

// Sinks that follow others within a start go on where those came to.
func TestResumeFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, s, b := t.TempDir(), &shelf{}, &books{}
		r := b.start(t, 64, dir, chainTypes, s)
		b.next(r.bus, 1)
		r.follow(t, dir, nil)
		b.next(r.bus, 1)
		s.wants(t, "after a reload", "1, 1.0, 2, 2.0")
		r.follow(t, dir, func() { b.next(r.bus, 1) })
		s.wants(t, "after sinks that could not start", "3, 3.0")
		r.follow(t, dir, func() {
			for range 30 {
				b.next(r.bus, 1)
			}
		})
		want := "lagged 26"
		for h := 4; h <= 33; h++ {
			want += fmt.Sprintf(", %d', %[1]d.0'", h)
		}
		s.wants(t, "after more than the ring holds", want)
	})
}

// A ledger that was put in the place of another is told of from now on, as is
// one behind positions of an older program; nobody waits for what never comes.
func TestResumeOtherLedger(t *testing.T) {
	for name, ledger := range map[string]struct {
		name   byte
		blocks int
		edit   func(string) string
		want   string
	}{
		"the same": {0, 5, nil, "4', 5', 6"},
		"shorter":  {0, 2, nil, "3"},
		"as long":  {1, 3, nil, "4"},
		"another":  {1, 5, nil, "6"},
		"empty":    {1, 0, nil, "1"},
		"older program": {0, 5, func(file string) string {
			return regexp.MustCompile(`,\s*"height": 3,\s*"hash": "[0-9a-f]+"`).ReplaceAllString(file, "")
		}, "6"},
		"huge height": {0, 5, func(file string) string {
			return strings.Replace(file, `"height": 3`, `"height": 18446744073709551615`, 1)
		}, "6"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir, s, b := t.TempDir(), &shelf{}, &books{}
				r := b.start(t, 64, dir, chainTypes, s)
				for range 3 {
					b.next(r.bus, 0)
				}
				s.wants(t, "before", "1, 2, 3")
				r.stop()
				if ledger.edit != nil {
					file := filepath.Join(dir, fileName)
					text, err := os.ReadFile(file)
					if err != nil {
						t.Fatal(err)
					}
					edited := ledger.edit(string(text))
					if edited == string(text) {
						t.Fatalf("nothing to edit in %s", text)
					}
					if err := os.WriteFile(file, []byte(edited), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				b = &books{name: ledger.name}
				for range ledger.blocks {
					b.next(event.NewBus(64), 0)
				}
				r = b.start(t, 64, dir, chainTypes, s)
				synctest.Wait()
				b.next(r.bus, 0)
				s.wants(t, "after", ledger.want)
			})
		})
	}
}

// A block that cannot be read is waited for, as a sink that is away is, and
// an operator is told why.
func TestResumeDamaged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, s, b := t.TempDir(), &shelf{}, &books{}
		r := b.start(t, 64, dir, chainTypes, s)
		r.stop()
		b.next(event.NewBus(64), 0)
		b.broken = errors.New("damaged")
		r = b.start(t, 64, dir, chainTypes, s)
		b.next(r.bus, 0)
		time.Sleep(time.Minute)
		if found := r.findings(); len(found) != 1 || !strings.Contains(found[0].Why, "read block 1: damaged") {
			t.Errorf("found %v", found)
		}
		b.mu.Lock()
		b.broken = nil
		b.mu.Unlock()
		time.Sleep(maxPause)
		s.wants(t, "mended", "1', 2")
		if found := r.findings(); len(found) != 0 {
			t.Errorf("found %v", found)
		}
	})
}

// A record that a sink will never take is told of as lost, and holds up nothing.
func TestResumeTooLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, s, b := t.TempDir(), &shelf{most: 500}, &books{}
		b.start(t, 64, dir, chainTypes, s).stop()
		b.next(event.NewBus(64), 2)
		large := b.blocks[0][1].(event.RecordCommitted)
		large.Subject = strings.Repeat("long ", 100)
		b.blocks[0][1] = large
		b.start(t, 64, dir, chainTypes, s)
		synctest.Wait()
		if ids := s.ids(); len(ids) != 3 || ids[1] != "12D3/record/"+large.ID.String() {
			t.Errorf("ids %q", ids)
		}
		s.wants(t, "after a restart", "1', lagged 1, 1.1'")
	})
}

// A sink that wants nothing of the ledger does not have it read.
func TestResumeNotWanted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, s, b := t.TempDir(), &shelf{}, &books{}
		cfg := chainTypes
		cfg.Types = []string{"head.*"}
		r := b.start(t, 64, dir, cfg, s)
		s.away(true)
		for range 100 {
			b.next(r.bus, 0)
		}
		r.stop()
		s.away(false)
		b.start(t, 64, dir, cfg, s)
		s.wants(t, "after a restart", "lagged 168")
		if b.reads > 0 {
			t.Errorf("the ledger was read %d times", b.reads)
		}
	})
}
