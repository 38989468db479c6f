package replica

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/parley-p2p/parley/consortium"
)

// diskBounds are the bytes free below which a node acts.
type diskBounds struct {
	low   uint64 // it takes no records from clients and does not vote
	again uint64 // from here on it does again
	full  uint64 // it writes nothing at all, as far as it can choose
}

const (
	diskEvery = time.Second
	// lowFree and the share are of LEDGER 8; lowMost keeps 2 % of a very large
	// disk from being a very large reserve.
	lowFree  = 1 << 30
	lowShare = 50
	lowMost  = 10 << 30
	// fullFree is what the store itself needs to start, with room to end well.
	fullFree = 96 << 20
)

// boundsOf are the bounds of a disk of that size.
func boundsOf(total uint64) diskBounds {
	low := max(lowFree, min(total/lowShare, lowMost))
	return diskBounds{low: low, again: low + low/4, full: fullFree}
}

// disk watches the room on the disk with the data directory.
type disk struct {
	dir      string
	fs       vfs.FS
	findings *findings
	level    atomic.Int32
	free     atomic.Uint64
}

// Levels of a disk.
const (
	diskFine int32 = iota
	diskLow
	diskFull
)

func newDisk(dir string, fs vfs.FS, f *findings) *disk {
	if fs == nil {
		fs = vfs.Default
	}
	d := &disk{dir: dir, fs: fs, findings: f}
	d.look()
	return d
}

// next is the level at that much free room, after the present one: what was
// low is fine again only with some room to spare.
func (b diskBounds) next(level int32, free uint64) int32 {
	switch {
	case free < b.full:
		return diskFull
	case free < b.low, level != diskFine && free < b.again:
		return diskLow
	}
	return diskFine
}

// look measures. A disk that cannot tell, as in virtual time, is fine.
func (d *disk) look() {
	use, err := d.fs.GetDiskUsage(d.dir)
	if err != nil {
		return
	}
	b := boundsOf(use.TotalBytes)
	was := d.level.Load()
	now := b.next(was, use.AvailBytes)
	d.free.Store(use.AvailBytes)
	d.level.Store(now)
	if now == was {
		return
	}
	f := Finding{Code: "PLY-105", Title: string(consortium.DiskLow), Severity: severityCrit}
	f.Why = fmt.Sprintf("%s has %d MiB free: no records are accepted and this node does not vote; it goes on by itself at %d MiB, so make room", d.dir, use.AvailBytes>>20, b.again>>20)
	switch now {
	case diskFine:
		f.Severity, f.Why = severityOK, fmt.Sprintf("%s has %d MiB free again", d.dir, use.AvailBytes>>20)
	case diskFull:
		f.Why = fmt.Sprintf("%s has %d MiB free: nothing is stored any more and reads go on; it goes on by itself at %d MiB, so make room", d.dir, use.AvailBytes>>20, b.again>>20)
	}
	d.findings.set(f)
}

// watch looks until ctx ends.
func (d *disk) watch(ctx context.Context) error {
	tick := time.NewTicker(diskEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			d.look()
		}
	}
}

// mayVote reports whether there is room for what a validator writes.
func (d *disk) mayVote() bool { return d.level.Load() == diskFine }

// mayStore reports whether there is room for the blocks of others.
func (d *disk) mayStore() bool { return d.level.Load() != diskFull }

// closed is why no record may be accepted, nil where it may.
func (d *disk) closed() error {
	if d.mayVote() {
		return nil
	}
	return consortium.Refuse(consortium.DiskLow, "the disk of this node has %d MiB free: give the record to another node, or make room", d.free.Load()>>20)
}
