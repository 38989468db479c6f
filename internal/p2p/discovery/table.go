package discovery

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	kb "github.com/libp2p/go-libp2p-kbucket"
	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/sync/errgroup"

	"github.com/parley-p2p/parley/config"
)

// Status is how the DHT stands.
type Status struct {
	Mode        string // server | client | off; auto says which
	Auto        bool
	Protocol    string // "" = not started
	Peers       int    // in the table
	NetworkSize int    // estimated; 0 = not known
	RegionAlarm bool
	Values      int // kept for others
	Providers   int // entries kept for others
	Published   int // values and keys of ours
}

// Status of the DHT. It does not block.
func (d *Discovery) Status() Status {
	k, _ := d.parts()
	if k == nil {
		return Status{Mode: config.DHTOff}
	}
	size, _ := k.sizes.estimate()
	s := Status{
		Mode: config.DHTClient, Auto: d.cfg.DHT == config.DHTAuto, Protocol: string(k.proto), Peers: k.table().Size(),
		NetworkSize: int(size), RegionAlarm: d.fns.Alarms.On(alarmRegion),
	}
	if slices.Contains(d.host.Mux().Protocols(), k.proto) {
		s.Mode = config.DHTServer
	}
	k.store.mu.Lock()
	s.Values, s.Providers = len(k.store.values), k.store.entries
	k.store.mu.Unlock()
	k.mu.Lock()
	s.Published = len(k.own) + len(k.keys)
	k.mu.Unlock()
	return s
}

// Bucket is a part of the table: peers that share so many leading bits with us.
type Bucket struct {
	Bits  int
	Peers []TablePeer
}

// TablePeer is one peer of the table.
type TablePeer struct {
	peer.AddrInfo
	Group    string // "" = no public address
	AddedAt  time.Time
	UsefulAt time.Time // its last answer
}

// Table lists the table of the DHT, far buckets first.
func (d *Discovery) Table() ([]Bucket, error) {
	k, err := d.dht()
	if err != nil {
		return nil, err
	}
	self := kb.ConvertPeerID(d.host.ID())
	byBits := map[int]*Bucket{}
	for _, info := range k.table().GetPeerInfos() {
		bits := kb.CommonPrefixLen(self, kb.ConvertPeerID(info.Id))
		b := byBits[bits]
		if b == nil {
			b = &Bucket{Bits: bits}
			byBits[bits] = b
		}
		b.Peers = append(b.Peers, TablePeer{
			AddrInfo: peer.AddrInfo{ID: info.Id, Addrs: d.dialable(info.Id, d.host.Peerstore().Addrs(info.Id), netip.Addr{})},
			Group:    k.groupOf(info.Id), AddedAt: info.AddedAt, UsefulAt: info.LastUsefulAt,
		})
	}
	list := []Bucket{}
	for _, b := range byBits {
		slices.SortFunc(b.Peers, func(a, b TablePeer) int { return a.AddedAt.Compare(b.AddedAt) })
		list = append(list, *b)
	}
	slices.SortFunc(list, func(a, b Bucket) int { return a.Bits - b.Bits })
	return list, nil
}

// Bounds of a crawl.
const (
	maxCrawl   = 5000 // peers
	crawlWidth = 16   // asked at once
	crawlBits  = 12   // buckets of a peer that are asked for
	crawlTime  = 10 * time.Minute
)

// Crawled is one peer that a crawl met.
type Crawled struct {
	peer.AddrInfo
	OK        bool
	Neighbors int // peers of its table that it told of
	Err       error
	Took      time.Duration
}

// Crawl asks each peer of the DHT for its whole table, beginning with ours, and
// calls progress for each one, by one goroutine. It ends after 10 minutes, or
// 5000 peers, with what it has.
func (d *Discovery) Crawl(ctx context.Context, progress func(Crawled)) ([]Crawled, error) {
	k, err := d.dht()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, crawlTime)
	defer cancel()
	c := &crawl{k: k, seen: map[peer.ID]bool{d.host.ID(): true}}
	for _, p := range k.table().ListPeers() {
		c.add(peer.AddrInfo{ID: p}, "", netip.Addr{})
	}
	if len(c.next) == 0 {
		return nil, ErrNoPeers
	}
	var list []Crawled
	for len(c.next) > 0 && ctx.Err() == nil {
		round := c.next
		c.next = nil
		results := make(chan crawledPeer)
		var g errgroup.Group
		g.SetLimit(crawlWidth)
		go func() {
			for _, one := range round {
				g.Go(func() error {
					results <- c.ask(ctx, one)
					return nil
				})
			}
			_ = g.Wait()
			close(results)
		}()
		for r := range results {
			for _, info := range r.told {
				c.add(info, r.ID, r.ip)
			}
			list = append(list, r.Crawled)
			if progress != nil {
				progress(r.Crawled)
			}
		}
	}
	return list, nil
}

type crawl struct {
	k    *kad
	seen map[peer.ID]bool
	next []*candidate
}

type crawledPeer struct {
	Crawled
	told []peer.AddrInfo
	ip   netip.Addr
}

func (c *crawl) add(info peer.AddrInfo, from peer.ID, ip netip.Addr) {
	if c.seen[info.ID] || len(c.seen) > maxCrawl || info.ID.Validate() != nil {
		return
	}
	addrs := c.k.d.dialable(info.ID, info.Addrs, ip)
	if from != "" && len(addrs) == 0 {
		return
	}
	c.seen[info.ID] = true
	c.next = append(c.next, &candidate{id: info.ID, addrs: addrs, from: from})
}

// ask asks one peer for each of its buckets until one brings nothing new.
func (c *crawl) ask(ctx context.Context, one *candidate) crawledPeer {
	start := time.Now()
	told := map[peer.ID]peer.AddrInfo{}
	a, err := c.k.question(ctx, one, func(ctx context.Context, p peer.ID) (answer, error) {
		for bits := range crawlBits {
			closer, err := c.k.messenger.GetClosestPeers(ctx, p, peer.ID(keyNear(kb.ConvertPeerID(p), bits)))
			if err != nil {
				return answer{}, err
			}
			before := len(told)
			for _, info := range closer[:min(len(closer), answerPeers)] {
				if _, known := told[info.ID]; !known && info.ID != p {
					told[info.ID] = *info
				}
			}
			if len(told) == before {
				break
			}
		}
		return answer{}, nil
	})
	r := crawledPeer{Crawled: Crawled{AddrInfo: c.k.infoOf(one), OK: err == nil, Neighbors: len(told), Err: err, Took: time.Since(start)}, ip: a.ip}
	for _, info := range told {
		r.told = append(r.told, info)
	}
	return r
}

// keyNear makes a key whose hash shares so many leading bits with base.
func keyNear(base kb.ID, bits int) string {
	key := make([]byte, 16)
	for {
		for i := range key {
			key[i] = byte(rand.Uint32())
		}
		if kb.CommonPrefixLen(base, kb.ConvertKey(string(key))) == bits {
			return string(key)
		}
	}
}
