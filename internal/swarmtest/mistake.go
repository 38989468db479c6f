package swarmtest

import (
	"encoding/binary"
	"errors"
	"path/filepath"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/parley-p2p/parley/consortium"
)

// Mistake makes a stopped node believe in another validator set than the rest
// of the network, as one does whose operator missed a fork or got it wrong: to
// it, every block of everybody is a forgery from now on.
func (n *Node) Mistake(other consortium.PublicKey) error {
	db, err := pebble.Open(filepath.Join(n.cfg.DataDir, "ledger"), &pebble.Options{FS: n.disk, FormatMajorVersion: pebble.FormatTableFormatV6})
	if err != nil {
		return err
	}
	return errors.Join(misconfigure(db, other), db.Close())
}

// Misguided is what a node does that is wrong about the chain.
type Misguided struct {
	Braked      time.Duration // from its first peer until its brake was on; 0 = never
	Least       int           // ready peers that it had at any time
	Banned      int           // peers, by it
	Discouraged int           // peers, by it
	Against     int           // bans and discouragements of it, by others
}

// Misguide makes a small network, of which one node makes a Mistake and runs on
// for span.
func (s *Swarm) Misguide(size int, span time.Duration) (m Misguided) {
	h := NewHonest(s, HonestPlan{Size: size, Target: 4, Churn: 1000 * time.Hour, Record: 20 * time.Second})
	h.Pass(time.Minute)
	wrong := h.Live[len(h.Live)-1]
	wrong.Stop()
	var nobody consortium.PublicKey
	copy(nobody[:], "nobody has this key")
	if err := wrong.Mistake(nobody); err != nil {
		s.T.Fatal(err)
	}
	h.start(wrong)
	s.Until("it has peers", time.Minute, func() bool { return wrong.PeerCount().Connected > 0 })
	m.Least = size
	for began := time.Now(); time.Since(began) < span; {
		h.Pass(10 * time.Second)
		if m.Braked == 0 && h.Alarms()["ban_brake"] > 0 {
			m.Braked = time.Since(began)
		}
		ready := 0
		for _, p := range wrong.Peers() {
			if p.Ready {
				ready++
			}
		}
		m.Least = min(m.Least, ready)
	}
	by := func(list []string) (his int) {
		for _, v := range list {
			if strings.Contains(v, " by "+wrong.Name+" ") {
				his++
			}
		}
		return his
	}
	discouraged, banned := h.Hard()
	m.Discouraged, m.Banned = by(discouraged), by(banned)
	m.Against = len(discouraged) - m.Discouraged + len(banned) - m.Banned
	return m
}

// misconfigure puts another key in the place of the first validator's, in the
// config of epoch 0.
func misconfigure(db *pebble.DB, other consortium.PublicKey) error {
	key := binary.BigEndian.AppendUint64([]byte{'c'}, 0)
	v, closer, err := db.Get(key)
	if err != nil {
		return err
	}
	height := append([]byte(nil), v[len(v)-8:]...)
	config, err := consortium.DecodeConfig(append([]byte(nil), v[:len(v)-8]...))
	if err := errors.Join(err, closer.Close()); err != nil {
		return err
	}
	config.Validators[0].Key = other
	if err := db.Set(key, append(config.Encode(), height...), pebble.Sync); err != nil {
		return err
	}
	return verified(db)
}

// verified makes of the store a backup that was restored and has been verified:
// else the node finds at its start what was done to it.
func verified(db *pebble.DB) error {
	tip, closer, err := db.Get([]byte("m/tip"))
	if err != nil {
		return err
	}
	tip = append([]byte(nil), tip...)
	subtrees, err := db.NewIter(&pebble.IterOptions{LowerBound: []byte{'u'}, UpperBound: []byte{'u' + 1}})
	if err = errors.Join(err, closer.Close()); err != nil {
		return err
	}
	n := uint64(0)
	for subtrees.First(); subtrees.Valid(); subtrees.Next() {
		n++
	}
	if err := subtrees.Close(); err != nil {
		return err
	}
	return errors.Join(db.Set([]byte("m/unverified"), tip[:8], pebble.Sync), db.Set([]byte("m/verified"), binary.BigEndian.AppendUint64(tip, n), pebble.Sync))
}
