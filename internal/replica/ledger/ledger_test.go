package ledger_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"

	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/replica/ledger"
	"github.com/parley-p2p/parley/internal/replica/ledger/ledgertest"
)

func open(tb testing.TB, o ledger.Options) *ledger.Ledger {
	tb.Helper()
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Dir == "" {
		o.Dir = "ledger"
	}
	if o.FS == nil && o.Dir == "ledger" {
		o.FS = vfs.NewMem()
	}
	l, err := ledger.Open(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := l.Close(); err != nil {
			tb.Error(err)
		}
	})
	return l
}

// start opens a ledger in memory with c's genesis.
func start(tb testing.TB, c *ledgertest.Chain) *ledger.Ledger {
	tb.Helper()
	l := open(tb, ledger.Options{})
	if err := l.Init(c.Genesis()); err != nil {
		tb.Fatal(err)
	}
	return l
}

func appendBlock(tb testing.TB, l *ledger.Ledger, b *consortium.Block) {
	tb.Helper()
	if err := l.Append(b, "own", ""); err != nil {
		tb.Fatal(err)
	}
}

func records(c *ledgertest.Chain, n, size int) [][]byte {
	rs := make([][]byte, n)
	for i := range rs {
		rs[i] = c.Record(fmt.Sprint("thing ", i%7), bytes.Repeat([]byte{byte(i)}, size))
	}
	return rs
}

// grow appends blocks, of which each third is empty and the fifth adds a
// validator.
func grow(tb testing.TB, c *ledgertest.Chain, l *ledger.Ledger, blocks int) []*consortium.Block {
	tb.Helper()
	var all []*consortium.Block
	for i := range blocks {
		var b *consortium.Block
		switch {
		case i == 4:
			b = c.Next(c.ConfigRecord(c.AddValidator))
		case i%3 == 2:
			b = c.Next()
		default:
			b = c.Next(records(c, 5+i, 64)...)
		}
		appendBlock(tb, l, b)
		all = append(all, b)
	}
	return all
}

func TestReopenOnDisk(t *testing.T) {
	c := ledgertest.New(t, 4)
	dir := filepath.Join(t.TempDir(), "deep", "ledger")
	l := open(t, ledger.Options{Dir: dir})
	if l.Genesis() != nil || l.Tip().Config != nil {
		t.Fatal("an empty ledger has a genesis")
	}
	if err := l.Append(c.Build(), "own", ""); !errors.Is(err, chain.ErrUnready) {
		t.Fatalf("append without genesis: %v", err)
	}
	if err := l.Init(c.Genesis()); err != nil {
		t.Fatal(err)
	}
	grow(t, c, l, 8)
	tip := l.Tip()
	if err := l.SetBorn(42); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Mark(); !errors.Is(err, ledger.ErrNotFound) {
		t.Fatalf("mark before it was set: %v", err)
	}
	if l.DiskUsage() == 0 {
		t.Error("no disk usage")
	}

	_, err := ledger.Open(ledger.Options{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "--data-dir") {
		t.Fatalf("second opening: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if l.DiskUsage() != 0 {
		t.Error("disk usage after Close")
	}

	l = open(t, ledger.Options{Dir: dir})
	got := l.Tip()
	if got.Head != tip.Head || got.Head != c.Head() || got.Records != tip.Records || got.Config.Epoch != 1 || got.Set.Len() != 5 || got.Header.Hash() != tip.Head.Hash {
		t.Fatalf("tip after reopening: %+v, want %+v", got, tip)
	}
	if l.Genesis().Hash() != c.Genesis().Hash() {
		t.Fatal("another genesis after reopening")
	}
	if born, err := l.Born(); err != nil || born != 42 {
		t.Fatalf("born = %d, %v", born, err)
	}
	if err := l.Check(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	appendBlock(t, l, c.Next(records(c, 3, 10)...))
}

func TestInitNeverReplaces(t *testing.T) {
	c, other := ledgertest.New(t, 1), ledgertest.New(t, 1)
	l := start(t, c)
	if err := l.Init(c.Genesis()); err != nil {
		t.Fatalf("the same genesis again: %v", err)
	}
	err := l.Init(other.Genesis())
	if err == nil || !strings.Contains(err.Error(), c.Genesis().Hash().String()) || !strings.Contains(err.Error(), other.Genesis().Hash().String()) {
		t.Fatalf("another genesis: %v", err)
	}
	if l.Genesis().Hash() != c.Genesis().Hash() {
		t.Fatal("the genesis was replaced")
	}
}

func TestOpenRefuses(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	put := func(t *testing.T, fs vfs.FS, key, value string) {
		t.Helper()
		db, err := pebble.Open("ledger", &pebble.Options{FS: fs, FormatMajorVersion: pebble.FormatTableFormatV6, Logger: quiet{}})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(db.Set([]byte(key), []byte(value), pebble.Sync), db.Close()); err != nil {
			t.Fatal(err)
		}
	}
	filled := func(t *testing.T) *vfs.MemFS {
		t.Helper()
		fs := vfs.NewMem()
		c := ledgertest.New(t, 1)
		l := open(t, ledger.Options{FS: fs})
		if err := l.Init(c.Genesis()); err != nil {
			t.Fatal(err)
		}
		grow(t, c, l, 2)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		return fs
	}
	var format *ledger.FormatError
	var corrupt *ledger.CorruptError
	for _, tt := range []struct {
		name   string
		fs     func(t *testing.T) vfs.FS
		target any
		says   string
	}{
		{"newer version", func(t *testing.T) vfs.FS {
			fs := filled(t)
			put(t, fs, "m/format", "\x00\x00\x00\x02")
			return fs
		}, &format, "format version 2"},
		{"foreign pebble", func(t *testing.T) vfs.FS {
			fs := vfs.NewMem()
			put(t, fs, "k", "v")
			return fs
		}, &format, "no ledger"},
		{"foreign files", func(t *testing.T) vfs.FS {
			fs := vfs.NewMem()
			if err := fs.MkdirAll("ledger", 0o700); err != nil {
				t.Fatal(err)
			}
			f, err := fs.Create("ledger/thesis.doc", vfs.WriteCategoryUnspecified)
			if err != nil {
				t.Fatal(err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			return fs
		}, &format, "thesis.doc"},
		{"tip of another hash", func(t *testing.T) vfs.FS {
			fs := filled(t)
			put(t, fs, "m/tip", "\x00\x00\x00\x00\x00\x00\x00\x02"+strings.Repeat("\x07", 32)+strings.Repeat("\x00", 16))
			return fs
		}, &corrupt, "height 2"},
		{"tip without header", func(t *testing.T) vfs.FS {
			fs := filled(t)
			put(t, fs, "m/tip", "\x00\x00\x00\x00\x00\x00\x00\x09"+strings.Repeat("\x07", 32)+strings.Repeat("\x00", 16))
			return fs
		}, &corrupt, "height 9"},
		{"full disk", func(*testing.T) vfs.FS {
			fs := vfs.NewMem()
			fs.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: 1 << 20, TotalBytes: 1 << 30})
			return fs
		}, nil, "make room"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fs := tt.fs(t)
			_, err := ledger.Open(ledger.Options{Dir: "ledger", FS: fs, Log: log})
			if err == nil || !strings.Contains(err.Error(), tt.says) || tt.target != nil && !errors.As(err, tt.target) {
				t.Fatalf("got %v", err)
			}
		})
	}
}

type quiet struct{}

func (quiet) Infof(string, ...any)      {}
func (quiet) Errorf(string, ...any)     {}
func (quiet) Fatalf(f string, v ...any) { panic(fmt.Sprintf(f, v...)) }

func TestEventsAndMetrics(t *testing.T) {
	c := ledgertest.New(t, 4)
	bus, reg := event.NewBus(1000), prometheus.NewRegistry()
	l := open(t, ledger.Options{Bus: bus, Registerer: reg})
	if err := l.Init(c.Genesis()); err != nil {
		t.Fatal(err)
	}
	sub := bus.Subscribe()
	defer sub.Close()
	b := c.Next(records(c, 3, 10)...)
	if err := l.Append(b, "sync", "peer"); err != nil {
		t.Fatal(err)
	}
	events, lost := sub.Take(100)
	if lost != 0 || len(events) != 5 {
		t.Fatalf("%d events, %d lost", len(events), lost)
	}
	stored, ok := events[0].Data.(event.BlockStored)
	if !ok || stored.Height != 1 || stored.Hash != b.Header.Hash() || stored.PrevHash != c.Genesis().Hash() || stored.RecordCount != 3 || stored.Source != "sync" || stored.From != "peer" {
		t.Errorf("%+v", events[0].Data)
	}
	if head, ok := events[1].Data.(event.HeadChanged); !ok || head.Height != 1 || head.Hash != b.Header.Hash() {
		t.Errorf("%+v", events[1].Data)
	}
	for i, id := range b.Body[0].IDs() {
		r, ok := events[2+i].Data.(event.RecordCommitted)
		if !ok || r.ID != id || r.Index != i || r.Height != 1 || r.Subject != fmt.Sprint("thing ", i) || len(r.Author) != 64 {
			t.Errorf("%+v", events[2+i].Data)
		}
	}
	again, err := l.Events(1)
	if err != nil || len(again) != 4 {
		t.Fatalf("again %v, %v", again, err)
	}
	if b := again[0].(event.BlockStored); b.Source != "ledger" || b.DelayMS < stored.DelayMS {
		t.Errorf("again %+v", b)
	} else if b.Source, b.From, b.DelayMS = "sync", "peer", stored.DelayMS; b != stored {
		t.Errorf("again %+v, want %+v", b, stored)
	}
	for i, e := range again[1:] {
		if e != events[2+i].Data {
			t.Errorf("again %+v, want %+v", e, events[2+i].Data)
		}
	}
	if _, err := l.Events(2); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("above the tip: %v", err)
	}
	if families, err := reg.Gather(); err != nil || len(families) != 9 {
		t.Errorf("%d metrics, %v", len(families), err)
	}
	if err := l.Append(b, "sync", "peer"); !errors.Is(err, chain.ErrKnown) || sub.Behind() != 0 {
		t.Errorf("again: %v, %d events", err, sub.Behind())
	}
}

func TestRejections(t *testing.T) {
	c := ledgertest.New(t, 1)
	fs := vfs.NewMem()
	l := open(t, ledger.Options{FS: fs})
	if err := l.Init(c.Genesis()); err != nil {
		t.Fatal(err)
	}
	b := c.Next(c.Record("a", nil))
	appendBlock(t, l, b)
	in, out := b.Body[0].IDs()[0], chain.Hash{1}
	for _, id := range []chain.Hash{in, out} {
		if _, err := l.Reject(ledger.Refused{ID: id, Reason: "expired", Detail: "first"}); err != nil {
			t.Fatal(err)
		}
	}
	if fresh, err := l.Reject(ledger.Refused{ID: out, Reason: "stale_config", Detail: "second"}); err != nil || len(fresh) != 0 {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, ledger.Options{FS: fs})
	if _, err := l.Rejection(in); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("a committed record was rejected: %v", err)
	}
	if r, err := l.Rejection(out); err != nil || r.Reason != "expired" || r.Detail != "first" || r.Height != 1 || r.Time.IsZero() {
		t.Errorf("rejection = %+v, %v", r, err)
	}
}

// TestWriteErrorEndsTheProcess runs in a panic of its own: the store must not
// go on after a write that failed.
func TestWriteErrorEndsTheProcess(t *testing.T) {
	c := ledgertest.New(t, 1)
	var log bytes.Buffer
	broken := errorfs.Toggle{Injector: errorfs.ErrInjected.If(errorfs.Writes)}

	l, err := ledger.Open(ledger.Options{Dir: "ledger", FS: errorfs.Wrap(vfs.NewMem(), &broken), Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Init(c.Genesis()); err != nil {
		t.Fatal(err)
	}
	broken.On()
	defer func() {
		got := fmt.Sprint(recover())
		if !strings.HasPrefix(got, "ledger: ") || strings.Count(log.String(), "ledger stopped the process") != 1 || !strings.Contains(log.String(), "height=0") {
			t.Errorf("panic %q, log %q", got, log.String())
		}
	}()
	t.Errorf("append came back with %v", l.Append(c.Build(c.Record("a", nil)), "own", ""))
}
