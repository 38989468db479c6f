package dialer

import (
	"fmt"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/event"
)

// SetStatic replaces the static peers of the configuration. New ones are tried
// at once; those that are listed no more are none any longer, and closing what
// connects them is up to the caller. What was added or removed by hand stays
// so, but for an item that was added and is listed now: it is the
// configuration's. An error means that an item cannot be read, and that nothing
// has changed.
func (d *Dialer) SetStatic(texts []string) (Removed, error) {
	var items []*item
	listed := map[string]bool{}
	for _, text := range texts {
		it, err := parseItem(text, d.cfg.DefaultPort)
		if err != nil {
			return Removed{}, err
		}
		if !listed[it.text] {
			listed[it.text] = true
			items = append(items, it)
		}
	}
	d.changes.Lock()
	defer d.changes.Unlock()
	var r Removed
	d.mu.Lock()
	before := d.listed
	d.listed = listed
	gone := slices.DeleteFunc(slices.Clone(d.items), func(it *item) bool {
		return it.origin != "" || !before[it.text] || listed[it.text]
	})
	for _, it := range gone {
		r.Items = append(r.Items, it.text)
		delete(d.kept.Pins, it.text)
	}
	d.kept.Added = slices.DeleteFunc(d.kept.Added, func(text string) bool { return listed[text] })
	now := time.Now()
	var news []event.StaticPeerChanged
	for _, it := range items {
		if !before[it.text] && d.insert(it, now) {
			news = append(news, d.changeOf(it.slots[0]))
		}
	}
	d.mu.Unlock()
	for _, e := range news {
		d.log.Info("static peer added", "item", e.Item, "origin", OriginConfig)
		d.bus.Publish(e)
	}
	d.drop(gone, &r)
	d.keepFile()
	return r, nil
}

// SetTrusted replaces the trusted peers of the configuration. What was trusted
// by hand stays so, unless the configuration has come to name it, and so does
// one of the configuration from which trust was taken back by hand.
func (d *Dialer) SetTrusted(ids []peer.ID) {
	d.changes.Lock()
	defer d.changes.Unlock()
	before := d.cfg.Trusted
	d.cfg.Trusted = slices.Clone(ids)
	var added, gone []peer.ID
	d.mu.Lock()
	for _, p := range ids {
		if !slices.Contains(before, p) {
			added = append(added, p)
			d.trusted[p] = OriginConfig
		}
	}
	for _, p := range before {
		if !slices.Contains(ids, p) && d.trusted[p] == OriginConfig {
			gone = append(gone, p)
			delete(d.trusted, p)
		}
	}
	d.kept.Trusted = slices.DeleteFunc(d.kept.Trusted, func(p peer.ID) bool { return slices.Contains(ids, p) })
	d.mu.Unlock()
	for _, p := range added {
		d.host.ConnManager().Protect(p, tagTrusted)
		d.log.Info("peer trusted", "peer", p, "origin", OriginConfig)
	}
	for _, p := range gone {
		d.host.ConnManager().Unprotect(p, tagTrusted)
		d.log.Info("peer no longer trusted", "peer", p)
	}
	d.keepFile()
}

// keepFile saves what a configuration has changed in it. Where that fails the
// next start comes to the same by itself.
func (d *Dialer) keepFile() {
	if err := d.save(); err != nil {
		d.log.Warn("static peers not saved", "file", d.cfg.File, "err", err)
	}
}

// CheckStatic says what is wrong with items of p2p.static_peers.
func CheckStatic(texts []string) error {
	for _, text := range texts {
		if _, err := parseItem(text, 1); err != nil {
			return fmt.Errorf("p2p.static_peers: %w", err)
		}
	}
	return nil
}
