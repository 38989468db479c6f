package discovery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	recpb "github.com/libp2p/go-libp2p-record/pb"
	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/sync/errgroup"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/wire"
)

var (
	// ErrNoPeers means that nobody is there to ask.
	ErrNoPeers = errors.New("no peer of the DHT is known")
	// ErrNotFound means that nobody who was asked has it.
	ErrNotFound = errors.New("not found")
	// ErrNotStored means that nobody took it.
	ErrNotStored = errors.New("no peer stored it")
	// ErrFull means that this node keeps as many alive as it does.
	ErrFull = errors.New("this node keeps as many alive as it can")
	// ErrEnough stands in a step whose answer was not waited for: what others
	// said was enough.
	ErrEnough = errors.New("not waited for, others had said enough")
)

const (
	maxOwn       = 64  // values of ours that are published again
	maxProvided  = 256 // keys that we provide
	maxFoundProv = 128
)

// Query tells how a lookup went.
type Query struct {
	Paths int
	Steps []Step
	// Dense: the nearest peers looked like one attacker's, so more were asked.
	Dense bool
}

func queryOf(l *lookup) Query {
	return Query{Paths: l.rules.paths, Steps: l.steps, Dense: l.dense.Dense}
}

// Nodes is the answer of FindNode.
type Nodes struct {
	Query
	Peers []peer.AddrInfo // nearest first; they answered, but for the one looked for
}

// FindNode looks for a peer and those nearest to its id. The peer itself is
// first where its addresses are known, whether it answers or not. progress is
// called after each question, by one goroutine; nil = never.
func (d *Discovery) FindNode(ctx context.Context, id peer.ID, progress func(Step)) (Nodes, error) {
	k, err := d.dht()
	if err != nil {
		return Nodes{}, err
	}
	l := k.newLookup(string(id), k.askNode(string(id)))
	l.progress = progress
	near := k.timed(ctx, lookNode, l)
	slices.SortFunc(near, byDistance)
	near = near[:min(len(near), nearest)]
	n := Nodes{Query: queryOf(l)}
	if c := l.all[id]; c != nil {
		n.Peers = append(n.Peers, k.infoOf(c))
	}
	for _, c := range near {
		if c.id != id {
			n.Peers = append(n.Peers, k.infoOf(c))
		}
	}
	if len(n.Peers) == 0 {
		return n, fmt.Errorf("find node %s: %w", id, ErrNoPeers)
	}
	return n, nil
}

func (k *kad) infoOf(c *candidate) peer.AddrInfo {
	info := peer.AddrInfo{ID: c.id, Addrs: c.addrs}
	if len(info.Addrs) == 0 {
		info.Addrs = k.d.dialable(c.id, k.d.host.Peerstore().Addrs(c.id), netip.Addr{})
	}
	return info
}

// Found is the answer of GetValue.
type Found struct {
	Query
	Value        Value
	Copies       int  // peers that gave this very value
	Disagreement bool // different values, each validly signed, came over different paths
}

// copies are the valid values that a lookup met.
type copies struct {
	k    *kad
	key  string
	best []byte
	who  map[string]map[int]int // bytes → path → peers
}

func (k *kad) newCopies(key string) *copies {
	c := &copies{k: k, key: key, who: map[string]map[int]int{}}
	return c
}

// take counts a value in. One that is wrong is its teller's fault where the
// teller signed it.
func (c *copies) take(from peer.ID, path int, data []byte) {
	if len(data) == 0 {
		return
	}
	if _, err := c.k.open(c.key, data); err != nil {
		if errors.Is(err, errOldValue) {
			c.k.d.metrics.refuse("old_record")
			return
		}
		c.k.d.metrics.refuse("bad_record")
		if _, author, kerr := ParseKey(c.key); kerr == nil && author == from {
			c.k.d.fns.Report(from, chain.BadRecord, fmt.Sprintf("its own value %s: %v", c.key, err))
		}
		return
	}
	if c.who[string(data)] == nil {
		c.who[string(data)] = map[int]int{}
	}
	c.who[string(data)][path]++
	if c.best == nil {
		c.best = data
	} else if i, err := (validator{c.k}).Select(c.key, [][]byte{c.best, data}); err == nil && i == 1 {
		c.best = data
	}
}

func (c *copies) count() int {
	n := 0
	for _, m := range c.who[string(c.best)] {
		n += m
	}
	return n
}

// disagree reports whether two paths brought different values, and whether two
// of them have one sequence, which no honest author signs twice.
func (c *copies) disagree() (differ, twice bool) {
	seqs := map[uint64]bool{}
	pathsOf := map[int]bool{}
	for data, byPath := range c.who {
		if v, err := c.k.open(c.key, []byte(data)); err == nil {
			twice = twice || seqs[v.Seq]
			seqs[v.Seq] = true
		}
		for p := range byPath {
			pathsOf[p] = true
		}
	}
	return len(c.who) > 1 && len(pathsOf) > 1, len(c.who) > 1 && twice
}

// askValue asks for a value and counts it in.
func (k *kad) askValue(key string) func(context.Context, peer.ID) (answer, error) {
	return func(ctx context.Context, p peer.ID) (answer, error) {
		rec, closer, err := k.messenger.GetValue(ctx, p, key)
		return answer{closer: closer, value: rec.GetValue()}, err
	}
}

// GetValue looks a value up: the one with the highest sequence of all that are
// validly signed. It ends early once quorum peers gave the same best one; 0 =
// all of the nearest are asked. progress as in FindNode.
func (d *Discovery) GetValue(ctx context.Context, key string, quorum int, progress func(Step)) (Found, error) {
	k, err := d.dht()
	if err != nil {
		return Found{}, err
	}
	if _, _, err := ParseKey(key); err != nil {
		return Found{}, err
	}
	c, l, _ := k.gather(ctx, key, quorum, lookGet, progress)
	f := Found{Query: queryOf(l)}
	if c.best == nil {
		if len(l.steps) == 0 {
			return f, fmt.Errorf("get %s: %w", key, ErrNoPeers)
		}
		return f, fmt.Errorf("get %s: %w", key, ErrNotFound)
	}
	f.Value, err = k.open(key, c.best)
	f.Copies = c.count()
	var twice bool
	f.Disagreement, twice = c.disagree()
	if f.Disagreement {
		d.bus.Publish(event.DHTDisagreement{Key: key, Authors: []peer.ID{f.Value.Author}})
	}
	if twice {
		d.fns.Alarms.Seen(alarmDisagreement, "one author signed two values of one sequence", map[string]any{"key": key, "author": f.Value.Author.String()})
	}
	return f, err
}

// gather looks for all copies of a value, ours among them.
func (k *kad) gather(ctx context.Context, key string, quorum int, kind string, progress func(Step)) (*copies, *lookup, []*candidate) {
	c := k.newCopies(key)
	if rec, err := k.values.Get(ctx, key); err == nil && rec != nil {
		c.take(k.d.host.ID(), 0, rec.GetValue())
	}
	l := k.newLookup(key, k.askValue(key))
	l.progress = progress
	l.hear = func(from *candidate, a answer) bool {
		c.take(from.id, from.path, a.value)
		return quorum > 0 && c.best != nil && c.count() >= quorum
	}
	near := k.timed(ctx, kind, l)
	return c, l, near
}

// ownValue is a value of ours that is published again.
type ownValue struct {
	data     []byte
	seq      uint64
	envelope []byte // data as it was signed last
	told     time.Time
	at       time.Time // as told, or when it is tried again less 12 h; zero = since the start not yet
}

// Stored is the answer of PutValue and Provide.
type Stored struct {
	Query
	Peers int             // that took it
	By    []peer.AddrInfo // these peers, nearest first
	Value Value           // of PutValue
}

// PutValue signs data with our key and stores it at the peers nearest to its
// key, which MUST be ours. It is on disk when PutValue returns, and is published
// again each 12 h and after a restart. progress as in FindNode.
func (d *Discovery) PutValue(ctx context.Context, key string, data []byte, progress func(Step)) (Stored, error) {
	k, err := d.dht()
	if err != nil {
		return Stored{}, err
	}
	kind, author, err := ParseKey(key)
	switch {
	case err != nil:
		return Stored{}, err
	case author != d.host.ID():
		return Stored{}, fmt.Errorf("put %s: this node can sign for %s alone: use %s", key, d.host.ID(), Key(kind, d.host.ID()))
	case len(data) > wire.MaxDHTData:
		return Stored{}, fmt.Errorf("put %s: %w: %d bytes, limit %d", key, wire.ErrTooLarge, len(data), wire.MaxDHTData)
	}
	k.mu.Lock()
	_, known := k.own[key]
	full := !known && len(k.own) >= maxOwn
	k.mu.Unlock()
	if full {
		return Stored{}, fmt.Errorf("put %s: %w: %d values", key, ErrFull, maxOwn)
	}
	return k.putValue(ctx, key, kind, data, false, progress)
}

// putValue signs and stores. Where a value is told again, and the network has a
// newer one of ours, as after a restore, that one is told.
func (k *kad) putValue(ctx context.Context, key, kind string, data []byte, again bool, progress func(Step)) (Stored, error) {
	seen, l, near := k.gather(ctx, key, 0, lookPut, progress)
	s := Stored{Query: queryOf(l)}
	now := time.Now()
	k.mu.Lock()
	had := k.own[key].seq
	k.mu.Unlock()
	seq := max(uint64(now.UnixMilli()), had+1)
	if last, err := k.open(key, seen.best); err == nil {
		seq = max(seq, last.Seq+1)
		if again && last.Seq > had {
			data = last.Data
		}
	}
	sealedBytes, err := k.seal(k.d.host.Peerstore().PrivKey(k.d.host.ID()), wire.DHTValue{Kind: kind, Seq: seq, TimeMS: uint64(now.UnixMilli()), Data: data})
	if err != nil {
		return s, fmt.Errorf("put %s: %w", key, err)
	}
	rec := &recpb.Record{Key: []byte(key), Value: sealedBytes}
	if err := k.values.Put(ctx, key, rec); err != nil && !errors.Is(err, errStoreFull) {
		return s, fmt.Errorf("put %s: %w", key, err)
	}
	k.mu.Lock()
	k.own[key] = ownValue{data: bytes.Clone(data), seq: seq, envelope: sealedBytes, told: now, at: now}
	k.mu.Unlock()
	if err := k.keep(); err != nil {
		return s, fmt.Errorf("put %s: %w", key, err)
	}
	s.Value, _ = k.open(key, sealedBytes)
	s.By = k.tell(ctx, near, func(ctx context.Context, p peer.ID) error { return k.messenger.PutValue(ctx, p, rec) })
	s.Peers = len(s.By)
	return s, storedBy("put "+key, s.Peers, near)
}

func storedBy(what string, n int, near []*candidate) error {
	switch {
	case len(near) == 0:
		return fmt.Errorf("%s: %w", what, ErrNoPeers)
	case n == 0:
		return fmt.Errorf("%s: %w", what, ErrNotStored)
	}
	return nil
}

// tell has each peer do something, and returns those that did.
func (k *kad) tell(ctx context.Context, near []*candidate, do func(context.Context, peer.ID) error) (did []peer.AddrInfo) {
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	done := make([]bool, len(near)) // each of one goroutine
	var g errgroup.Group
	g.SetLimit(lastWidth)
	for i, c := range near {
		g.Go(func() error {
			_, err := k.question(ctx, c, func(ctx context.Context, p peer.ID) (answer, error) { return answer{}, do(ctx, p) })
			done[i] = err == nil
			return nil
		})
	}
	_ = g.Wait()
	for i, c := range near {
		if done[i] {
			did = append(did, k.infoOf(c))
		}
	}
	return did
}

// Provide tells the peers nearest to a key that we have what it names; see
// [ProviderKey]. It is told again each 12 h and after a restart. progress as in
// FindNode.
func (d *Discovery) Provide(ctx context.Context, key []byte, progress func(Step)) (Stored, error) {
	k, err := d.dht()
	if err != nil {
		return Stored{}, err
	}
	if err := checkProviderKey(key); err != nil {
		return Stored{}, err
	}
	k.mu.Lock()
	_, known := k.keys[string(key)]
	full := !known && len(k.keys) >= maxProvided
	k.mu.Unlock()
	if full {
		return Stored{}, fmt.Errorf("provide %x: %w: %d keys", key, ErrFull, maxProvided)
	}
	return k.provideByHand(ctx, key, progress)
}

// provideByHand provides a key that is kept over a restart.
func (k *kad) provideByHand(ctx context.Context, key []byte, progress func(Step)) (Stored, error) {
	k.mu.Lock()
	k.byHand[string(key)] = time.Now()
	k.mu.Unlock()
	if err := k.keep(); err != nil {
		return Stored{}, fmt.Errorf("provide %x: %w", key, err)
	}
	return k.provide(ctx, key, progress)
}

func (k *kad) provide(ctx context.Context, key []byte, progress func(Step)) (Stored, error) {
	self := peer.AddrInfo{ID: k.d.host.ID(), Addrs: k.d.host.Addrs()}
	self.Addrs = self.Addrs[:min(len(self.Addrs), maxAddrs)]
	if len(self.Addrs) == 0 {
		return Stored{}, fmt.Errorf("provide %x: this node has no address to tell: set p2p.listen or p2p.advertise", key)
	}
	l := k.newLookup(string(key), k.askNode(string(key)))
	l.progress = progress
	near := k.timed(ctx, lookProvide, l)
	k.mu.Lock()
	k.keys[string(key)] = time.Now()
	if _, ok := k.byHand[string(key)]; ok {
		k.byHand[string(key)] = time.Now()
	}
	k.mu.Unlock()
	s := Stored{Query: queryOf(l)}
	if err := k.lib.ProviderStore().AddProvider(ctx, key, self); err != nil && !errors.Is(err, errStoreFull) {
		return s, fmt.Errorf("provide %x: %w", key, err)
	}
	s.By = k.tell(ctx, near, func(ctx context.Context, p peer.ID) error { return k.messenger.PutProviderAddrs(ctx, p, key, self) })
	s.Peers = len(s.By)
	return s, storedBy(fmt.Sprintf("provide %x", key), s.Peers, near)
}

// Providers is the answer of FindProviders. Providers are what somebody said:
// where to dial, and no proof.
type Providers struct {
	Query
	Peers []peer.AddrInfo
}

// FindProviders looks for up to limit peers that provide a key; 0 = 20.
// progress as in FindNode.
func (d *Discovery) FindProviders(ctx context.Context, key []byte, limit int, progress func(Step)) (Providers, error) {
	k, err := d.dht()
	if err != nil {
		return Providers{}, err
	}
	if err := checkProviderKey(key); err != nil {
		return Providers{}, err
	}
	return k.findProviders(ctx, key, limit, progress)
}

func (k *kad) findProviders(ctx context.Context, key []byte, limit int, progress func(Step)) (Providers, error) {
	if limit <= 0 {
		limit = nearest
	}
	limit = min(limit, maxFoundProv)
	found := map[peer.ID]peer.AddrInfo{}
	add := func(info peer.AddrInfo, told netip.Addr) {
		if len(found) < limit && info.ID.Validate() == nil {
			if old, known := found[info.ID]; !known || len(old.Addrs) == 0 {
				found[info.ID] = peer.AddrInfo{ID: info.ID, Addrs: k.d.dialable(info.ID, info.Addrs, told)}
			}
		}
	}
	local, err := k.lib.ProviderStore().GetProviders(ctx, key)
	if err != nil {
		return Providers{}, fmt.Errorf("find providers of %x: %w", key, err)
	}
	for _, info := range local {
		add(info, netip.Addr{})
	}
	l := k.newLookup(string(key), func(ctx context.Context, p peer.ID) (answer, error) {
		provs, closer, err := k.messenger.GetProviders(ctx, p, key)
		return answer{providers: provs, closer: closer}, err
	})
	l.progress = progress
	l.hear = func(_ *candidate, a answer) bool {
		for _, info := range a.providers[:min(len(a.providers), maxFoundProv)] {
			add(*info, a.ip)
		}
		return len(found) >= limit
	}
	k.timed(ctx, lookProviders, l)
	p := Providers{Query: queryOf(l), Peers: slices.Collect(maps.Values(found))}
	if len(p.Peers) == 0 && len(l.steps) == 0 {
		return p, fmt.Errorf("find providers of %x: %w", key, ErrNoPeers)
	}
	return p, nil
}
