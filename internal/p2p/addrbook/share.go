package addrbook

import (
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	shareMost    = 250
	sharePercent = 23 // of the book, at least one
	shareBytes   = 250 << 10
	shareFor     = 24 * time.Hour // an answer stands, and a peer in it was good
	maxShares    = 1024           // answers that are remembered
)

// share is the answer for one group.
type share struct {
	made time.Time
	ids  []peer.ID
}

// Share answers a request for peers: signed records of whom we reached, or
// still hold, within 24 h. All of one group get the same for 24 h, so that
// asking often, or under many names, shows no more of the book. What was
// banned, removed or marked since is left out. The slices are the caller's,
// their bytes are not to be changed.
func (b *Book) Share(requester Source) [][]byte {
	now := time.Now()
	group := b.sourceGroup(requester)
	away := classOf(clean(requester.IP)) == public
	b.mu.Lock()
	s, ok := b.shares[group]
	if !ok || now.Sub(s.made) >= shareFor {
		s = share{made: now, ids: b.choose(now, away)}
		b.dropShare()
		b.shares[group] = s
	}
	out := make([]Entry, 0, len(s.ids))
	for _, id := range s.ids {
		if e := b.entries[id]; e != nil && id != requester.Peer && b.givable(e, now, away) {
			out = append(out, e.copy())
		}
	}
	b.mu.Unlock()
	list := make([][]byte, 0, len(out))
	for _, e := range out {
		if !b.Banned(e) {
			list = append(list, e.Record.Envelope)
		}
	}
	return list
}

// givable reports whether the record of e may be given out; to somebody
// outside only what has a public address.
func (b *Book) givable(e *entry, now time.Time, away bool) bool { // mu held
	return e.record != nil && !e.resting(now) && e.firstGood != 0 &&
		(!away || slices.ContainsFunc(e.addrs, func(a address) bool { return a.class == public }))
}

// choose draws an answer.
func (b *Book) choose(now time.Time, away bool) (ids []peer.ID) { // mu held
	var all []*entry
	for _, e := range b.entries {
		if b.givable(e, now, away) && (!e.lastGood.ago(now, shareFor) || !e.lastSeen.ago(now, shareFor)) {
			all = append(all, e)
		}
	}
	slices.SortFunc(all, worth) // so that only the draw is random
	b.rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	most := min(shareMost, (len(b.entries)*sharePercent+99)/100)
	size := 0
	for _, e := range all {
		if size += len(e.record); len(ids) == most || size > shareBytes {
			break
		}
		ids = append(ids, e.id)
	}
	return ids
}

// dropShare makes room for one more answer: the oldest goes.
func (b *Book) dropShare() { // mu held
	if len(b.shares) < maxShares {
		return
	}
	var oldest string
	for g, s := range b.shares {
		if oldest == "" || s.made.Before(b.shares[oldest].made) {
			oldest = g
		}
	}
	delete(b.shares, oldest)
}
