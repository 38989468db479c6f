//go:build attack

package discovery

import (
	"context"
	"fmt"
	"time"

	record "github.com/libp2p/go-libp2p-record"
	recpb "github.com/libp2p/go-libp2p-record/pb"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/internal/wire"
)

// This file is of the attack experiments alone (internal/swarmtest/attack).

// Weakness says what of the DHT's defence is left out.
type Weakness struct {
	Paths                    int // 0 = all of them
	Liars, Diversity, Region bool
}

// Weaken leaves parts of the defence out. Call it before Start.
func (d *Discovery) Weaken(w Weakness) {
	d.rules = rules{paths: paths, liars: !w.Liars, diversity: !w.Diversity, region: !w.Region}
	if w.Paths > 0 {
		d.rules.paths = w.Paths
	}
}

// Validator judges values as a node of that network does.
func Validator(net string) record.Validator { return validator{&kad{net: net}} }

// Sealed is a value of an author, signed for a network.
func Sealed(net, kind string, author crypto.PrivKey, data []byte) (key string, value []byte, err error) {
	id, err := peer.IDFromPrivateKey(author)
	if err != nil {
		return "", nil, err
	}
	now := uint64(time.Now().UnixMilli())
	value, err = (&kad{net: net}).seal(author, wire.DHTValue{Kind: kind, Seq: now, TimeMS: now, Data: data})
	return Key(kind, id), value, err
}

// PutSealed stores a signed value of anybody as PutValue does with our own.
func (d *Discovery) PutSealed(ctx context.Context, key string, value []byte) (Stored, error) {
	k, err := d.dht()
	if err != nil {
		return Stored{}, err
	}
	_, l, near := k.gather(ctx, key, 0, lookPut, nil)
	s := Stored{Query: queryOf(l)}
	if s.Value, err = k.open(key, value); err != nil {
		return s, fmt.Errorf("put %s: %w", key, err)
	}
	rec := &recpb.Record{Key: []byte(key), Value: value}
	s.By = k.tell(ctx, near, func(ctx context.Context, p peer.ID) error { return k.messenger.PutValue(ctx, p, rec) })
	s.Peers = len(s.By)
	return s, storedBy("put "+key, s.Peers, near)
}
