package discovery

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	ds "github.com/ipfs/go-datastore"
	dsq "github.com/ipfs/go-datastore/query"
	"github.com/libp2p/go-libp2p-kad-dht/records"
	kb "github.com/libp2p/go-libp2p-kbucket"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-base32"
)

// Bounds of what a node keeps for others. Values are at most 4 KiB, so all of
// them are at most 17 MiB.
const (
	maxValues       = 4096
	maxProviders    = 16384 // entries: a key and who provides it
	maxPerKey       = 128
	maxPerProvider  = 128
	maxPerGroupPart = 8 // one address group has at most one part in eight
)

var errStoreFull = errors.New("the store of the DHT is full")

// store is the datastore under the DHT, in memory and bounded. Of values it
// keeps those whose keys are nearest to us, for others belong elsewhere;
// providers come as they come, so many of a key, a peer and a group.
type store struct {
	self  kb.ID
	group func(peer.ID) string // "" = not limited

	mu        sync.Mutex // guards below
	values    map[ds.Key]value
	providers map[string]map[ds.Key]provider // by the key's part of the path
	entries   int
	byPeer    map[peer.ID]int
	byGroup   map[string]int
}

type value struct {
	data []byte
	far  []byte // XOR distance of its key from us
}

type provider struct {
	data  []byte
	peer  peer.ID
	group string
}

func newStore(self peer.ID, group func(peer.ID) string) *store {
	return &store{
		self: kb.ConvertPeerID(self), group: group, values: map[ds.Key]value{}, providers: map[string]map[ds.Key]provider{},
		byPeer: map[peer.ID]int{}, byGroup: map[string]int{},
	}
}

// providerPath splits a path of the library: /providers/KEY/PEER.
func providerPath(key ds.Key) (dir string, p peer.ID, ok bool) {
	rest, ok := strings.CutPrefix(key.String(), records.ProvidersKeyPrefix)
	dir, last, both := strings.Cut(rest, "/")
	if !ok || !both {
		return "", "", false
	}
	id, err := base32.RawStdEncoding.DecodeString(last)
	if err != nil {
		return "", "", false
	}
	return records.ProvidersKeyPrefix + dir, peer.ID(id), true
}

// Put implements [ds.Datastore].
func (s *store) Put(_ context.Context, key ds.Key, data []byte) error {
	dir, p, ok := providerPath(key)
	if !ok {
		return s.putValue(key, data)
	}
	group := s.group(p) // asks the host: not under the lock
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, known := s.providers[dir][key]; known {
		s.providers[dir][key] = provider{data: data, peer: p, group: old.group}
		return nil
	}
	if s.entries >= maxProviders || len(s.providers[dir]) >= maxPerKey || s.byPeer[p] >= maxPerProvider ||
		group != "" && s.byGroup[group] >= maxProviders/maxPerGroupPart {
		return errStoreFull
	}
	if s.providers[dir] == nil {
		s.providers[dir] = map[ds.Key]provider{}
	}
	s.providers[dir][key] = provider{data: data, peer: p, group: group}
	s.entries++
	s.byPeer[p]++
	s.byGroup[group]++
	return nil
}

func (s *store) putValue(key ds.Key, data []byte) error {
	v := value{data: data, far: s.distance(key)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.values[key]; !known && len(s.values) >= maxValues {
		farthest, far := key, v.far
		for k, o := range s.values {
			if bytes.Compare(o.far, far) > 0 {
				farthest, far = k, o.far
			}
		}
		if farthest == key {
			return errStoreFull
		}
		delete(s.values, farthest)
	}
	s.values[key] = v
	return nil
}

// distance is that of the record whose key the path holds.
func (s *store) distance(key ds.Key) []byte {
	name := []byte(key.BaseNamespace())
	if full, err := base32.RawStdEncoding.DecodeString(string(name)); err == nil {
		name = full
	}
	return xor(kb.ConvertKey(string(name)), s.self)
}

func xor(a, b kb.ID) []byte {
	out := make([]byte, len(a))
	for i := range a {
		out[i] = a[i] ^ b[i]
	}
	return out
}

// Delete implements [ds.Datastore].
func (s *store) Delete(_ context.Context, key ds.Key) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	dir, _, ok := providerPath(key)
	if !ok {
		delete(s.values, key)
		return nil
	}
	e, known := s.providers[dir][key]
	if !known {
		return nil
	}
	delete(s.providers[dir], key)
	if len(s.providers[dir]) == 0 {
		delete(s.providers, dir)
	}
	s.entries--
	if s.byPeer[e.peer]--; s.byPeer[e.peer] == 0 {
		delete(s.byPeer, e.peer)
	}
	if s.byGroup[e.group]--; s.byGroup[e.group] == 0 {
		delete(s.byGroup, e.group)
	}
	return nil
}

// Get implements [ds.Datastore].
func (s *store) Get(_ context.Context, key ds.Key) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if dir, _, ok := providerPath(key); ok {
		if e, known := s.providers[dir][key]; known {
			return slices.Clone(e.data), nil
		}
		return nil, ds.ErrNotFound
	}
	if v, known := s.values[key]; known {
		return slices.Clone(v.data), nil
	}
	return nil, ds.ErrNotFound
}

// Has implements [ds.Datastore].
func (s *store) Has(ctx context.Context, key ds.Key) (bool, error) {
	_, err := s.Get(ctx, key)
	return err == nil, nil
}

// GetSize implements [ds.Datastore].
func (s *store) GetSize(ctx context.Context, key ds.Key) (int, error) {
	b, err := s.Get(ctx, key)
	if err != nil {
		return -1, err
	}
	return len(b), nil
}

// Query implements [ds.Datastore]. The providers of one key are found without
// a look at all others.
func (s *store) Query(_ context.Context, q dsq.Query) (dsq.Results, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []dsq.Entry
	prefix := strings.TrimSuffix(q.Prefix, "/")
	add := func(key ds.Key, data []byte) {
		list = append(list, dsq.Entry{Key: key.String(), Value: slices.Clone(data), Size: len(data)})
	}
	all := strings.TrimSuffix(records.ProvidersKeyPrefix, "/")
	switch {
	case strings.HasPrefix(prefix, records.ProvidersKeyPrefix):
		for key, e := range s.providers[prefix] {
			add(key, e.data)
		}
	case prefix == all:
		for _, dir := range s.providers {
			for key, e := range dir {
				add(key, e.data)
			}
		}
	default:
		for key, v := range s.values {
			add(key, v.data)
		}
	}
	return dsq.NaiveQueryApply(q, dsq.ResultsWithEntries(q, list)), nil
}

// Sync implements [ds.Datastore].
func (s *store) Sync(context.Context, ds.Key) error { return nil }

// Close implements [ds.Datastore].
func (s *store) Close() error { return nil }

// Batch implements [ds.Batching].
func (s *store) Batch(context.Context) (ds.Batch, error) { return ds.NewBasicBatch(s), nil }
