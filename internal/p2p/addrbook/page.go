package addrbook

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/libp2p/go-libp2p/core/peer"
)

// Place is where an entry stands in the order of the book: tried ones first,
// each table in the order of ids.
type Place struct {
	Table Table
	ID    peer.ID
}

func (p Place) compare(q Place) int {
	return cmp.Or(-cmp.Compare(p.Table, q.Table), cmp.Compare(p.ID, q.ID)) // "tried" before "new"
}

// Query selects entries; the zero value selects all of them.
type Query struct {
	Table  Table // "" = both
	Group  string
	Source Kind // one of its sources; "" = any
}

func (q Query) takes(e *entry) bool { // mu held
	return (q.Table == "" || q.Table == e.table()) && (q.Group == "" || q.Group == e.group) &&
		(q.Source == "" || slices.ContainsFunc(e.refs, func(r ref) bool { return r.Kind == q.Source }))
}

// Page gives the first entries behind a place, nil = from the start, at most
// limit, which MUST be positive. It copies no others. The banned are among
// them.
func (b *Book) Page(q Query, after *Place, limit int) []Entry {
	order := func(x, y *entry) int { return Place{x.table(), x.id}.compare(Place{y.table(), y.id}) }
	return b.first(limit, order, func(e *entry) bool {
		return (after == nil || Place{e.table(), e.id}.compare(*after) > 0) && q.takes(e)
	})
}

// PageByID is Page over both tables in the order of ids alone, behind an id.
func (b *Book) PageByID(after peer.ID, limit int) []Entry {
	return b.first(limit, func(x, y *entry) int { return cmp.Compare(x.id, y.id) }, func(e *entry) bool { return e.id > after })
}

// first copies the first limit of the entries that are taken.
func (b *Book) first(limit int, order func(x, y *entry) int, takes func(*entry) bool) []Entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	var best []*entry // in order
	for _, e := range b.entries {
		full := len(best) == limit
		if full && order(e, best[limit-1]) > 0 || !takes(e) {
			continue
		}
		if full {
			best = best[:limit-1]
		}
		i, _ := slices.BinarySearchFunc(best, e, order)
		best = slices.Insert(best, i, e)
	}
	out := make([]Entry, len(best))
	for i, e := range best {
		out[i] = e.copy()
	}
	return out
}

// IDs lists all peers, in no order.
func (b *Book) IDs() []peer.ID {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.AppendSeq(make([]peer.ID, 0, len(b.entries)), maps.Keys(b.entries))
}

// At lists the peers that are said to be at an IP.
func (b *Book) At(ip netip.Addr) []Entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []Entry
	for _, e := range b.places[address{ip: clean(ip)}.place()] {
		out = append(out, e.copy())
	}
	return out
}
