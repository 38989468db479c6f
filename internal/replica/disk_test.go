package replica

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/replica/ledger/ledgertest"
)

// room is a disk in memory that says how much is free.
type room struct {
	vfs.FS
	free atomic.Uint64
}

func (r *room) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{AvailBytes: r.free.Load(), TotalBytes: 100 << 30, UsedBytes: 100<<30 - r.free.Load()}, nil
}

func TestDiskBounds(t *testing.T) {
	const gib = 1 << 30
	for _, tt := range []struct{ total, low uint64 }{{10 * gib, gib}, {50 * gib, gib}, {100 * gib, 2 * gib}, {400 * gib, 8 * gib}, {4000 * gib, 10 * gib}} {
		if b := boundsOf(tt.total); b.low != tt.low || b.again <= b.low || b.full >= b.low {
			t.Errorf("disk of %d GiB: %+v, want low %d", tt.total/gib, b, tt.low)
		}
	}
	b := diskBounds{low: 100, again: 125, full: 10}
	level := diskFine
	for _, step := range []struct {
		free uint64
		want int32
	}{{101, diskFine}, {99, diskLow}, {110, diskLow}, {124, diskLow}, {125, diskFine}, {110, diskFine}, {9, diskFull}, {11, diskLow}, {110, diskLow}, {9, diskFull}, {200, diskFine}} {
		if level = b.next(level, step.free); level != step.want {
			t.Fatalf("%d free: level %d, want %d", step.free, level, step.want)
		}
	}
}

// With little room a validator takes no records and does not vote, but follows
// and tells; with none it does not even follow; and it goes on by itself.
func TestDiskLow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := &room{FS: vfs.NewMem()}
		disk.free.Store(50 << 30)
		c := ledgertest.New(t, 1)
		w, _, e := atWork(t, c)
		w.disk = newDisk("ledger", disk, w.findings)
		ctx, cancel := context.WithCancel(t.Context())
		end := make(chan error, 2)
		go func() { end <- w.order(ctx) }()
		go func() { end <- w.disk.watch(ctx) }()
		step := func(free uint64, voting, accepting bool, findings int) {
			t.Helper()
			disk.free.Store(free)
			time.Sleep(2 * diskEvery)
			synctest.Wait()
			if e.running.Load() != voting {
				t.Errorf("%d MiB free: the engine runs: %v", free>>20, e.running.Load())
			}
			var no *consortium.RecordError
			if err := w.disk.closed(); (err == nil) != accepting || err != nil && (!errors.As(err, &no) || no.Reason != consortium.DiskLow || no.Reason.HTTPStatus() != 503) {
				t.Errorf("%d MiB free: %v", free>>20, err)
			}
			if f := w.Findings(); len(f) != findings || findings > 0 && (f[0].Title != "disk_low" || f[0].Severity != severityCrit || !strings.Contains(f[0].Why, "MiB free")) {
				t.Errorf("%d MiB free: findings %v", free>>20, f)
			}
		}
		step(50<<30, true, true, 0)
		step(1<<30, false, false, 1)
		step(2<<30+1, false, false, 1) // hysteresis
		step(50<<30, true, true, 0)
		step(1<<20, false, false, 1)
		step(200<<20, false, false, 1)
		step(50<<30, true, true, 0)
		cancel()
		<-end
		<-end
	})
}
