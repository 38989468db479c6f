package addrbook

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

const (
	maxAnchors     = 4
	maxAnchorsFile = 64 << 10
)

// anchorsImage is anchors.json. It holds all that a dial needs: an anchor must
// outlive a book that is damaged.
type anchorsImage struct {
	Version int         `json:"version"`
	Net     string      `json:"network"`
	Anchors []anchorRow `json:"anchors"`
}

type anchorRow struct {
	ID        peer.ID        `json:"id"`
	Addrs     []ma.Multiaddr `json:"addresses"`
	Record    []byte         `json:"record,omitempty"`
	FirstGood time.Time      `json:"first_good"`
	LastGood  time.Time      `json:"last_good"`
}

// Anchors gives the peers that a restart dials first, at most 4.
func (b *Book) Anchors() []Entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]Entry, 0, len(b.anchors))
	for _, id := range b.anchors {
		if e := b.entries[id]; e != nil {
			out = append(out, e.copy())
		}
	}
	return out
}

// SetAnchors makes ids the anchors, best first: those that the book knows, the
// first of each group (non-public ones have no group rule), the first 4. Run
// writes them to disk within a second, for a crash is the attack. They keep
// their places in the book against everybody.
func (b *Book) SetAnchors(ids []peer.ID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var next []peer.ID
	groups := map[string]bool{}
	for _, id := range ids {
		e := b.entries[id]
		if e == nil || len(next) == maxAnchors || slices.Contains(next, id) || e.addrs[0].class == public && groups[e.group] {
			continue
		}
		groups[e.group] = true
		next = append(next, id)
	}
	if slices.Equal(next, b.anchors) {
		return
	}
	for _, id := range b.anchors {
		if e := b.entries[id]; e != nil {
			e.anchor = false
		}
	}
	for _, id := range next {
		b.entries[id].anchor = true
	}
	b.anchors = next
	b.wake()
}

// wake lets Run write the anchors.
func (b *Book) wake() {
	select {
	case b.changed <- struct{}{}:
	default:
	}
}

func (b *Book) saveAnchors() error {
	if b.cfg.Dir == "" {
		return nil
	}
	b.writing.Lock()
	defer b.writing.Unlock()
	b.mu.Lock()
	m := anchorsImage{Version: version, Net: b.net, Anchors: []anchorRow{}}
	if m.Net == "" {
		m.Net = b.fileNet
	}
	for _, id := range b.anchors {
		if e := b.entries[id]; e != nil {
			m.Anchors = append(m.Anchors, anchorRow{
				ID: id, Addrs: e.copy().Addrs, Record: e.record, FirstGood: e.firstGood.time(), LastGood: e.lastGood.time(),
			})
		}
	}
	b.mu.Unlock()
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("encode anchors: %w", err)
	}
	return b.write(anchorsFile, append(data, '\n'))
}

func (b *Book) loadAnchors() error {
	data, err := readAtMost(filepath.Join(b.cfg.Dir, anchorsFile), maxAnchorsFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	m, err := decodeAnchors(data)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.net != "" && m.Net != "" && m.Net != b.net {
		return fmt.Errorf("%w %s, not %s", errOtherNet, m.Net, b.net)
	}
	if b.fileNet == "" {
		b.fileNet = m.Net
	}
	for _, row := range m.Anchors {
		b.restore(row)
	}
	return nil
}

// decodeAnchors reads a file that anybody may have edited.
func decodeAnchors(data []byte) (m anchorsImage, err error) {
	if err := json.Unmarshal(data, &m); err != nil {
		return m, fmt.Errorf("%w: %w", errCorrupt, err)
	}
	if m.Version > version {
		return m, fmt.Errorf("%w: format %d, this one knows %d", errNewer, m.Version, version)
	}
	if err := errors.Join(few(len(m.Anchors), maxAnchors, "anchors"), few(len(m.Net), maxNet, "bytes of network")); err != nil {
		return m, fmt.Errorf("%w: %w", errCorrupt, err)
	}
	for _, row := range m.Anchors {
		if err := errors.Join(row.ID.Validate(), few(len(row.Addrs), maxAddrs, "addresses"), few(len(row.Record), maxEnvelope, "bytes of record")); err != nil {
			return m, fmt.Errorf("%w: anchor %s: %w", errCorrupt, row.ID, err)
		}
	}
	return m, nil
}

// restore makes one row of the file an anchor again, and enters it where the
// book does not know it any more.
func (b *Book) restore(row anchorRow) { // mu held
	e := b.entries[row.ID]
	if e == nil {
		addrs := slices.DeleteFunc(parseAll(row.Addrs, row.ID), func(a address) bool { return a.class != public && !b.cfg.Private })
		if len(addrs) == 0 {
			return
		}
		now := time.Now()
		if e = b.adopt(row.ID, addrs[0], now); e == nil {
			return
		}
		e.loaded = true
		e.firstGood, e.lastGood, e.lastSeen = at(row.FirstGood), at(row.LastGood), at(row.LastGood)
		if e.firstGood == 0 {
			e.firstGood = at(now)
		}
		if k, err := verify(row.Record, now); err == nil && k.id == row.ID {
			b.move(e, Source{Kind: Operator}, k, now)
		}
		if b.entries[row.ID] != e {
			return
		}
		if slot := b.triedSlot(e.id, e.group); e.tried == none && b.tried.slot[slot] == nil {
			b.promote(e, slot)
		}
	}
	if e.anchor {
		return // twice in the file
	}
	e.anchor = true
	b.anchors = append(b.anchors, e.id)
}
