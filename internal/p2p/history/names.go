package history

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// maxNames is how many peers' last names are known at once: those of the peers
// that were connected last.
const maxNames = 10_000

// lastName is what a peer called itself when it was connected last.
type lastName struct {
	name string
	at   time.Time
}

// name takes over the name of an entry. mu held.
func (h *History) name(e Entry) {
	if e.Name == "" || e.Peer == "" {
		return
	}
	h.names[e.Peer] = lastName{e.Name, e.At}
	if len(h.names) <= maxNames+maxNames/10 {
		return
	}
	oldest := slices.SortedFunc(maps.Keys(h.names), func(a, b peer.ID) int {
		return cmp.Or(h.names[a].at.Compare(h.names[b].at), strings.Compare(string(a), string(b)))
	})
	for _, p := range oldest[:len(oldest)-maxNames] {
		delete(h.names, p)
	}
}

// Name is what p called itself when it was connected last, "" = not known.
// Anybody may call himself anything.
func (h *History) Name(p peer.ID) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.names[p].name
}

// Named lists the peers that called themselves so when they were connected
// last, in the order of their ids.
func (h *History) Named(name string) []peer.ID {
	h.mu.Lock()
	defer h.mu.Unlock()
	var list []peer.ID
	for p, n := range h.names {
		if n.name == name {
			list = append(list, p)
		}
	}
	slices.Sort(list)
	return list
}

// EndingIn lists the peers of the history whose ids in base58 end so, at most
// limit.
func (h *History) EndingIn(ctx context.Context, tail string, limit int) ([]peer.ID, error) {
	h.mu.Lock()
	s, found := h.store, ending(h.pending, tail, limit)
	h.mu.Unlock()
	if s == nil || len(found) == limit {
		return found, nil
	}
	kept, err := s.endingIn(ctx, tail, limit)
	for _, p := range kept {
		if len(found) < limit && !slices.Contains(found, p) {
			found = append(found, p)
		}
	}
	return found, err
}

// ending lists the peers of entries whose ids end so, each once.
func ending(entries []Entry, tail string, limit int) (found []peer.ID) {
	for _, e := range entries {
		if len(found) < limit && !slices.Contains(found, e.Peer) && strings.HasSuffix(e.Peer.String(), tail) {
			found = append(found, e.Peer)
		}
	}
	return found
}
