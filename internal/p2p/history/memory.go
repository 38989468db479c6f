package history

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// maxMemory is how many entries memory holds: of a node without a disk, as in
// virtual time, the newest.
const maxMemory = 4_096

// memory is a store that ends with the process.
type memory struct {
	mu      sync.Mutex
	entries []Entry // guarded by mu; oldest first
}

func (m *memory) last(context.Context) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.entries) == 0 {
		return 0, nil
	}
	return m.entries[len(m.entries)-1].Seq, nil
}

func (m *memory) add(_ context.Context, entries []Entry) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.entries = append(m.entries, entries...)
	m.entries = slices.Delete(m.entries, 0, max(0, len(m.entries)-maxMemory))
	return nil
}

func (m *memory) page(_ context.Context, p peer.ID, before uint64, limit int) ([]Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []Entry
	for _, e := range slices.Backward(m.entries) {
		if len(list) == limit {
			break
		}
		if e.Seq < before && (p == "" || e.Peer == p) {
			list = append(list, e)
		}
	}
	return list, nil
}

// names is of the process alone, whose History knows them.
func (m *memory) names(context.Context, int) ([]Entry, error) { return nil, nil }

func (m *memory) endingIn(_ context.Context, tail string, limit int) ([]peer.ID, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return ending(m.entries, tail, limit), nil
}

func (m *memory) prune(_ context.Context, oldest time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.entries = slices.DeleteFunc(m.entries, func(e Entry) bool { return e.At.Before(oldest) })
	return nil
}

func (m *memory) close() error { return nil }
