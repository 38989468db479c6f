package dialer

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/event"
)

// Most that may be added and trusted at run time.
const (
	maxAdded   = 1024
	maxTrusted = 1024
)

// What keeps a change of static and trusted peers from being made. Nothing was
// changed then.
var (
	ErrDouble    = errors.New("it is a static peer already")
	ErrNotStatic = errors.New("it is no static peer")
	ErrMember    = errors.New("it is a member of the network, which this node keeps as long as it is one")
	ErrSeveral   = errors.New("the static peer stands for several peers: name the static peer itself")
	ErrSelf      = errors.New("it is this node itself")
	ErrFull      = errors.New("no more can be added")
)

// restore takes over what was added and trusted at run time, and reports
// whether the file holds what is void; nobody else has d.
func (d *Dialer) restore(now time.Time) (void bool) {
	added := d.kept.Added[:0:0]
	for _, text := range d.kept.Added {
		it, err := parseItem(text, d.cfg.DefaultPort)
		if err != nil {
			d.log.Warn("static peer left out", "item", text, "err", err)
			continue
		}
		if d.insert(it, now) {
			added = append(added, text)
		}
	}
	trusted := slices.DeleteFunc(slices.Clone(d.kept.Trusted), func(p peer.ID) bool { return slices.Contains(d.cfg.Trusted, p) })
	void = len(added) < len(d.kept.Added) || len(trusted) < len(d.kept.Trusted)
	d.kept.Added, d.kept.Trusted = added, trusted
	for _, p := range d.kept.Trusted {
		d.trusted[p] = OriginAPI
	}
	for _, p := range d.cfg.Trusted {
		d.trusted[p] = OriginConfig
	}
	for p := range d.trusted {
		d.host.ConnManager().Protect(p, tagTrusted)
	}
	return void
}

// commit makes a change of what outlives a restart: on disk first. f is called
// twice and MUST come to the same both times.
func (d *Dialer) commit(f func(*saved)) error {
	d.fileMu.Lock()
	defer d.fileMu.Unlock()
	d.mu.Lock()
	next := d.kept.clone()
	d.mu.Unlock()
	f(&next)
	if err := next.write(d.cfg.File); err != nil {
		return err
	}
	d.mu.Lock()
	f(&d.kept)
	d.mu.Unlock()
	return nil
}

// Add makes what text names, in the form of an item of the configuration, a
// static peer, over restarts too. One of the configuration that was removed is
// one again. Trying begins at once; Find tells how it goes.
func (d *Dialer) Add(text string) error {
	it, err := parseItem(text, d.cfg.DefaultPort)
	if err != nil {
		return err
	}
	if it.id == d.host.ID() {
		return ErrSelf
	}
	d.changes.Lock()
	defer d.changes.Unlock()
	d.mu.Lock()
	origin := d.originOf(it)
	double := slices.ContainsFunc(d.items, func(o *item) bool {
		return o.text == it.text || it.id != "" && o.origin != OriginMember && o.stands(it.id)
	})
	full := len(d.kept.Added) >= maxAdded
	d.mu.Unlock()
	switch {
	case double:
		return ErrDouble
	case origin == OriginConfig: // the file of the configuration keeps it
	case full:
		return fmt.Errorf("%w: %d static peers were, which is the most", ErrFull, maxAdded)
	default:
		err := d.commit(func(s *saved) {
			if !slices.Contains(s.Added, it.text) {
				s.Added = append(s.Added, it.text)
			}
		})
		if err != nil {
			return err
		}
	}
	d.mu.Lock()
	d.insert(it, time.Now())
	e := d.changeOf(it.slots[0])
	d.mu.Unlock()
	d.log.Info("static peer added", "item", it.text, "origin", origin)
	d.bus.Publish(e)
	d.changed()
	return nil
}

func (d *Dialer) originOf(it *item) string { // mu held
	switch {
	case it.origin != "":
		return it.origin
	case d.listed[it.text]:
		return OriginConfig
	}
	return OriginAPI
}

func (i *item) stands(p peer.ID) bool {
	return slices.ContainsFunc(i.slots, func(s *slot) bool { return s.id == p })
}

// Find tells of the item with this text, of its first peer where it stands for
// several.
func (d *Dialer) Find(text string) (StaticPeer, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, it := range d.items {
		if it.text == text {
			return d.view(it.slots[0]), true
		}
	}
	return StaticPeer{}, false
}

// Removed tells what Remove did.
type Removed struct {
	Items  []string
	Peers  []peer.ID // they were tried or connected; closing them is up to the caller
	Config []string  // of Items: those that the next start brings back
	Member bool      // of Peers one or more are kept, as members of the network
}

// Remove ends that an item, or a peer by its id, is a static peer, and forgets
// the id that was pinned. An item of the configuration is back at the next
// start.
func (d *Dialer) Remove(what string) (Removed, error) {
	d.changes.Lock()
	defer d.changes.Unlock()
	d.mu.Lock()
	items, err := d.named(what)
	var r Removed
	for _, it := range items {
		r.Items = append(r.Items, it.text)
		if d.listed[it.text] {
			r.Config = append(r.Config, it.text)
		}
	}
	d.mu.Unlock()
	if err != nil {
		return Removed{}, err
	}
	err = d.commit(func(s *saved) {
		s.Added = slices.DeleteFunc(s.Added, func(text string) bool { return slices.Contains(r.Items, text) })
		for _, text := range r.Items {
			delete(s.Pins, text)
		}
	})
	if err != nil {
		return Removed{}, err
	}
	d.drop(items, &r)
	return r, nil
}

// drop ends that items are static peers.
func (d *Dialer) drop(items []*item, r *Removed) { // changes held
	d.mu.Lock()
	r.Peers = slotIDs(items)
	d.items = slices.DeleteFunc(d.items, func(it *item) bool {
		it.gone = it.gone || slices.Contains(items, it)
		return it.gone
	})
	r.Member = slices.ContainsFunc(d.items, func(it *item) bool { return it.origin == OriginMember && slices.ContainsFunc(r.Peers, it.stands) })
	kept := map[peer.ID]bool{} // by another item
	for _, it := range d.items {
		for _, s := range it.slots {
			kept[s.id] = kept[s.id] || it.origin == ""
		}
	}
	d.metrics.set(d.counts())
	d.mu.Unlock()
	for _, p := range r.Peers {
		if !kept[p] {
			d.host.ConnManager().Unprotect(p, tagStatic)
		}
	}
	for _, it := range items {
		d.log.Info("static peer removed", "item", it.text)
		d.bus.Publish(event.StaticPeerChanged{Item: it.text, ID: it.id, State: "removed"})
	}
	d.changed()
}

// named finds the items that a text stands for: its own, or those at the peer
// of this id. mu held.
func (d *Dialer) named(what string) ([]*item, error) {
	id, err := peer.Decode(what)
	byID := err == nil
	var found []*item
	member := false
	for _, it := range d.items {
		switch {
		case it.origin == OriginMember:
			member = member || byID && it.id == id
		case it.text == what:
			return []*item{it}, nil
		case byID && it.stands(id):
			if slices.ContainsFunc(it.slots, func(s *slot) bool { return s.id != id && s.retry.state != self }) {
				return nil, fmt.Errorf("%s: %w", it.text, ErrSeveral)
			}
			found = append(found, it)
		}
	}
	switch {
	case len(found) > 0:
		return found, nil
	case member:
		return nil, ErrMember
	}
	return nil, ErrNotStatic
}

// Trust makes p a trusted peer, over restarts too: it is never evicted and
// never banned for points. It need not be known.
func (d *Dialer) Trust(p peer.ID) error {
	if p == d.host.ID() {
		return ErrSelf
	}
	d.changes.Lock()
	defer d.changes.Unlock()
	d.mu.Lock()
	_, already := d.trusted[p]
	full := len(d.kept.Trusted) >= maxTrusted
	d.mu.Unlock()
	if already {
		return nil
	}
	origin := OriginAPI
	if slices.Contains(d.cfg.Trusted, p) {
		origin = OriginConfig
	} else if full {
		return fmt.Errorf("%w: %d peers are trusted, which is the most", ErrFull, maxTrusted)
	} else if err := d.commit(func(s *saved) {
		if !slices.Contains(s.Trusted, p) {
			s.Trusted = append(s.Trusted, p)
		}
	}); err != nil {
		return err
	}
	d.mu.Lock()
	d.trusted[p] = origin
	d.mu.Unlock()
	d.host.ConnManager().Protect(p, tagTrusted)
	d.log.Info("peer trusted", "peer", p, "origin", origin)
	return nil
}

// Untrust takes the trust back. It reports whether p had it, and whether the
// next start brings it back because the configuration names p.
func (d *Dialer) Untrust(p peer.ID) (was, comesBack bool, err error) {
	d.changes.Lock()
	defer d.changes.Unlock()
	d.mu.Lock()
	origin, was := d.trusted[p]
	d.mu.Unlock()
	if !was {
		return false, false, nil
	}
	if origin != OriginConfig {
		if err := d.commit(func(s *saved) {
			s.Trusted = slices.DeleteFunc(s.Trusted, func(o peer.ID) bool { return o == p })
		}); err != nil {
			return true, false, err
		}
	}
	d.mu.Lock()
	delete(d.trusted, p)
	d.mu.Unlock()
	d.host.ConnManager().Unprotect(p, tagTrusted)
	d.log.Info("peer no longer trusted", "peer", p)
	return true, origin == OriginConfig, nil
}

// Trusted reports whether p is a trusted peer.
func (d *Dialer) Trusted(p peer.ID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, ok := d.trusted[p]
	return ok
}

// Exempt reports whether p is never banned for points: a static peer, a
// member or a trusted peer.
func (d *Dialer) Exempt(p peer.ID) bool { return d.Trusted(p) || d.Has(p) }
