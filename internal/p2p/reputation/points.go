package reputation

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	saveEvery = 5 * time.Minute
	maxSaved  = 128 << 20 // bytes of the file
)

// savedPeer is an entry on disk.
type savedPeer struct {
	Peer        peer.ID   `json:"peer"`
	Points      int       `json:"points"`
	PointsAt    time.Time `json:"points_at"`
	Credit      int       `json:"credit"`
	CreditAt    time.Time `json:"credit_at"`
	Discouraged bool      `json:"discouraged,omitempty"`
	Contact     time.Time `json:"contact"`
	Reasons     []Reason  `json:"reasons,omitempty"`
}

// save replaces the file, whole or not at all.
func (b *Book) save() error {
	if b.file == "" {
		return nil
	}
	now := time.Now()
	b.mu.Lock()
	if !b.dirty {
		b.mu.Unlock()
		return nil
	}
	b.dirty = false
	list := make([]savedPeer, 0, len(b.peers))
	for p, e := range b.peers {
		b.decay(e, now)
		if e.points == 0 && e.credit == 0 && now.Sub(e.contact) >= forgetAfter {
			continue
		}
		list = append(list, savedPeer{p, e.points, e.pointsAt, e.credit, e.creditAt, e.discouraged, e.contact, e.reasons})
	}
	text, err := json.Marshal(list)
	b.mu.Unlock()
	if err == nil {
		err = b.write(text)
	}
	if err != nil {
		b.mu.Lock()
		b.dirty = true
		b.mu.Unlock()
		return fmt.Errorf("save the points of peers %s: %w", b.file, err)
	}
	return nil
}

func (b *Book) write(text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(b.file), filepath.Base(b.file)+".*.tmp") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // nothing is there after the rename
	_, err = f.Write(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), b.file)
	}
	return err
}

// load reads the file. One that is broken is told and begun anew: points are
// memory, not law.
func (b *Book) load(now time.Time) error {
	if b.file == "" {
		return nil
	}
	info, err := os.Stat(b.file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("read the points of peers: %w", err)
	case info.Size() > maxSaved:
		b.log.Warn("the points of peers are too large to be ours: begun anew", "file", b.file, "bytes", info.Size())
		return nil
	}
	text, err := os.ReadFile(b.file)
	if err != nil {
		return fmt.Errorf("read the points of peers: %w", err)
	}
	var list []savedPeer
	if err := json.Unmarshal(text, &list); err != nil {
		b.log.Warn("the points of peers cannot be read: begun anew", "file", b.file, "err", err)
		return nil
	}
	for _, s := range list[:min(len(list), maxPeers)] {
		e := &entry{
			points: min(max(s.Points, 0), b.most()), pointsAt: earlier(s.PointsAt, now), credit: min(max(s.Credit, 0), maxCredit),
			creditAt: earlier(s.CreditAt, now), discouraged: s.Discouraged, contact: earlier(s.Contact, now), reasons: s.Reasons[:min(len(s.Reasons), maxReasons)],
		}
		if b.bans != nil {
			e.sentenced = b.bans.peer(s.Peer)
		}
		b.peers[s.Peer] = e
	}
	return nil
}

// earlier is t, or now where t is to come: the clock was wrong.
func earlier(t, now time.Time) time.Time {
	if t.After(now) {
		return now
	}
	return t
}
