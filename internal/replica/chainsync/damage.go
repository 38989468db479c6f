package chainsync

import (
	"fmt"
	"maps"
	"slices"

	"github.com/parley-p2p/parley/event"
)

// noteDamage makes a finding of a damaged block. unserved says that every peer
// was asked for it.
func (y *Syncer) noteDamage(height uint64, unserved bool) {
	y.mu.Lock()
	y.damaged[height] = unserved
	f := y.damage()
	y.mu.Unlock()
	y.found(f)
}

// noteRepair ends what noteDamage began.
func (y *Syncer) noteRepair(height uint64) {
	y.mu.Lock()
	delete(y.damaged, height)
	f := y.damage()
	y.mu.Unlock()
	if f.Severity == "ok" {
		f.Why = fmt.Sprintf("block %d is repaired", height)
	}
	y.found(f)
}

// damage tells of the lowest block that no peer serves, else of the lowest that
// is being fetched. y.mu is held.
func (y *Syncer) damage() event.FindingChanged {
	f := event.FindingChanged{Code: "PLY-104", Title: "block_damaged", Severity: "ok"}
	const look = "look at the disk; for all damage stop the node and run parley chain check"
	for _, height := range slices.Sorted(maps.Keys(y.damaged)) {
		if y.damaged[height] {
			f.Severity = "crit"
			f.Why = fmt.Sprintf("block %d is damaged on disk and no peer serves it: connect a node that has it, or restore a backup; %s", height, look)
			return f
		}
		if f.Severity == "ok" {
			f.Severity = "warn"
			f.Why = fmt.Sprintf("block %d is damaged on disk and is being fetched from peers; %s", height, look)
		}
	}
	return f
}

func (y *Syncer) found(f event.FindingChanged) {
	if y.cfg.Found != nil {
		y.cfg.Found(f)
	}
}
