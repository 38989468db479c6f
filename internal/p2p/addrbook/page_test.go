package addrbook

import (
	"slices"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

func ids(entries []Entry) []peer.ID {
	list := make([]peer.ID, len(entries))
	for i, e := range entries {
		list[i] = e.ID
	}
	return list
}

// Pages make up the whole, in its order, and cost what they hold.
func TestPages(t *testing.T) {
	b := opened(t, Config{})
	const many = 900
	for i := range many {
		id, addr := fakeID(uint64(i)), tcp(ip4(i%100, i/100+1))
		_ = b.tell(t, from(i%77, uint64(i)), id, addr)
		if i%3 == 0 {
			b.Good(id, ma.StringCast(addr))
		}
	}
	all := b.Entries()
	if len(all) < many/2 {
		t.Fatalf("%d entries", len(all))
	}
	var got []peer.ID
	var after *Place
	for {
		page := b.Page(Query{}, after, 7)
		got = append(got, ids(page)...)
		if len(page) < 7 {
			break
		}
		after = &Place{page[6].Table, page[6].ID}
	}
	if !slices.Equal(got, ids(all)) {
		t.Errorf("pages have %d of %d entries, or another order", len(got), len(all))
	}
	byID := slices.Sorted(slices.Values(ids(all)))
	if got := append(ids(b.PageByID("", 100)), ids(b.PageByID(byID[99], many))...); !slices.Equal(got, byID) {
		t.Errorf("by id: %d of %d, or another order", len(got), len(byID))
	}
	for _, e := range b.Page(Query{Table: Tried, Group: all[0].Group, Source: all[0].Sources[0].Kind}, nil, many) {
		if e.Table != Tried || e.Group != all[0].Group {
			t.Errorf("%+v was not asked for", e)
		}
	}
	if len(b.Page(Query{Table: Tried}, nil, many))+len(b.Page(Query{Table: New}, nil, many)) != len(all) || len(b.Page(Query{Source: MDNS}, nil, many)) != 0 {
		t.Error("the tables are not the whole, or there is a source that told nothing")
	}
	if known := slices.Sorted(slices.Values(b.IDs())); !slices.Equal(known, byID) {
		t.Errorf("%d ids", len(known))
	}
	at := IP(all[0].Addrs[0])
	if found := ids(b.At(at)); !slices.Contains(found, all[0].ID) || len(b.At(ip4(999, 9))) != 0 {
		t.Errorf("at %s: %v", at, found)
	}
	whole := testing.AllocsPerRun(5, func() { b.Entries() })
	page := testing.AllocsPerRun(5, func() { b.Page(Query{}, nil, 10) })
	if page > whole/10 {
		t.Errorf("a page of 10 makes %v allocations, all %d entries make %v", page, len(all), whole)
	}
}
