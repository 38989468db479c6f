package discovery

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	dht "github.com/libp2p/go-libp2p-kad-dht"
	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	"github.com/libp2p/go-libp2p-kad-dht/records"
	kb "github.com/libp2p/go-libp2p-kbucket"
	record "github.com/libp2p/go-libp2p-record"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/internal/p2p/addrbook"
)

const (
	providerLife = 24 * time.Hour // two rounds of publishing
	failedOften  = 3              // answers missed in a row before a peer leaves the table
)

// kad is the DHT of one network. The library holds the table and answers
// others; the questions are asked here, over disjoint paths.
type kad struct {
	d         *Discovery
	net       string
	lib       *dht.IpfsDHT
	proto     protocol.ID
	scope     *scope
	messenger *pb.ProtocolMessenger
	store     *store
	values    *records.ValueStore // the same ones that the library serves
	sizes     sizes
	newcomers *newcomers

	mu     sync.Mutex // guards below
	fails  map[peer.ID]int
	topics map[string]bool // advertised
	own    map[string]ownValue
	keys   map[string]time.Time // provider keys that we publish, and when last; ahead where that failed
	byHand map[string]time.Time // of them, those that are kept over a restart, and when they were told last

	writing sync.Mutex // one writer of the file; taken before mu
}

func newKad(d *Discovery, net string) (*kad, error) {
	prefix := d.cfg.DHTProtocol
	if prefix == "" {
		prefix = "/parley/" + net
	}
	if prefix == "/ipfs" || strings.HasPrefix(prefix, "/ipfs/") {
		return nil, fmt.Errorf("discovery.dht_protocol: %q belongs to the public IPFS network: choose another", prefix)
	}
	k := &kad{
		d: d, net: net, proto: protocol.ID(prefix) + "/kad/1.0.0",
		fails: map[peer.ID]int{}, topics: map[string]bool{}, own: map[string]ownValue{}, keys: map[string]time.Time{},
		byHand: map[string]time.Time{},
	}
	k.scope = newScope(k)
	k.newcomers = newNewcomers(k)
	k.store = newStore(d.host.ID(), d.liveGroup)
	valid := record.NamespacedValidator{valueNamespace: validator{k}}
	k.values = records.NewValueStore(k.store, valid, valueLife)
	send := &sender{host: d.host, proto: k.proto, report: d.fns.Report}
	var err error
	if k.messenger, err = pb.NewProtocolMessenger(send); err != nil {
		return nil, err
	}
	k.lib, err = dht.New(k.scope,
		dht.ProtocolPrefix(protocol.ID(prefix)), dht.Mode(modeOf(d.cfg.DHT)), dht.BucketSize(nearest),
		dht.Datastore(k.store), dht.Validator(valid), dht.MaxRecordAge(valueLife),
		dht.ProviderManagerOpts(records.ProvideValidity(providerLife), records.ProviderAddrTTL(providerLife)),
		dht.DisableAutoRefresh(), // our own lookups keep the table
		dht.RoutingTablePeerDiversityFilter(newDiversity(d)),
		dht.RoutingTableFilter(func(lib any, p peer.ID) bool { return k.admits(p) || k.stays(lib, p) }),
		dht.AddressFilter(func(addrs []ma.Multiaddr) []ma.Multiaddr { return d.dialable("", addrs, netip.Addr{}) }),
		dht.LookupCheckConcurrency(16),
		dht.WithCustomMessageSender(func(host.Host, []protocol.ID) pb.MessageSenderWithDisconnect { return send }),
	)
	if err != nil {
		return nil, err
	}
	k.resume(time.Now())
	return k, nil
}

// modeOf makes auto a server as long as nobody knows that it cannot be reached:
// a DHT of clients would be none.
func modeOf(mode string) dht.ModeOpt {
	switch mode {
	case config.DHTServer:
		return dht.ModeServer
	case config.DHTClient:
		return dht.ModeClient
	}
	return dht.ModeAutoServer
}

func (k *kad) table() *kb.RoutingTable { return k.lib.RoutingTable() }

func (k *kad) private() bool { return k.d.cfg.DHTScope == config.DHTScopePrivate }

// admits reports whether p may ask us and enter our table.
func (k *kad) admits(p peer.ID) bool {
	return (!k.private() || k.d.fns.Ready(p)) && !k.d.fns.Banned(p, k.d.peerIP(p))
}

// stays reports whether a peer that may not ask us keeps its place in the table
// of the library, which asks that of each that identifies itself: one that comes
// back has not shaken hands by then. Who does not do it misses our questions.
func (k *kad) stays(lib any, p peer.ID) bool {
	l, ok := lib.(*dht.IpfsDHT)
	return ok && l.RoutingTable().Find(p) != "" && !k.d.fns.Banned(p, k.d.peerIP(p))
}

// groupOf is the address group of a peer of the table, connected or not.
func (k *kad) groupOf(p peer.ID) string {
	if g := k.d.liveGroup(p); g != "" {
		return g
	}
	return k.d.group(k.d.host.Peerstore().Addrs(p))
}

// question puts one question to one peer, and keeps the table by how it ended.
func (k *kad) question(ctx context.Context, c *candidate, ask func(context.Context, peer.ID) (answer, error)) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	told := c.from
	if told == "" {
		told = c.id
	}
	from := addrbook.Source{Kind: addrbook.DHT, Peer: told, IP: k.d.lastIP(told)}
	info := peer.AddrInfo{ID: c.id, Addrs: c.addrs}
	err := k.d.visits.enter(ctx, info, from, k.private())
	if err != nil {
		if !errors.Is(err, errManyVisits) {
			k.missed(ctx, c.id)
		}
		return answer{}, err
	}
	defer k.d.visits.leave(c.id)
	a, err := ask(ctx, c.id)
	if err != nil && ctx.Err() == nil && k.d.visits.again(ctx, info, k.private()) {
		a, err = ask(ctx, c.id)
	}
	if err != nil {
		k.missed(ctx, c.id)
		return answer{}, err
	}
	k.answered(c.id)
	a.ip = k.d.peerIP(c.id)
	return a, nil
}

func (k *kad) answered(p peer.ID) {
	k.mu.Lock()
	delete(k.fails, p)
	k.mu.Unlock()
	now, before := time.Now(), k.table().Size()
	added, err := k.table().TryAddPeer(p, true, false)
	if added && before == 0 {
		select {
		case k.newcomers.first <- struct{}{}:
		default:
		}
	}
	if err == nil && !added {
		k.table().UpdateLastSuccessfulOutboundQueryAt(p, now)
		k.table().UpdateLastUsefulAt(p, now)
	}
}

// missed takes a peer out of the table that failed several times. An end of
// ours is no fault of its.
func (k *kad) missed(ctx context.Context, p peer.ID) {
	if errors.Is(ctx.Err(), context.Canceled) || k.table().Find(p) == "" {
		return
	}
	k.mu.Lock()
	k.fails[p]++
	gone := k.fails[p] >= failedOften
	if gone {
		delete(k.fails, p)
	}
	k.mu.Unlock()
	if gone {
		k.table().RemovePeer(p)
	}
}

// seeds implements [ground], as do those below.
func (k *kad) seeds(target kb.ID, n int) []peer.ID { return k.table().NearestPeers(target, n) }

func (k *kad) heed(info *peer.AddrInfo, told netip.Addr) ([]ma.Multiaddr, string) {
	if info.ID == k.d.host.ID() || info.ID.Validate() != nil {
		return nil, ""
	}
	addrs := k.d.dialable(info.ID, info.Addrs, told)
	return addrs, k.d.group(addrs)
}

// told lets a peer whom we asked tell the book of as many as it named.
func (k *kad) told(p peer.ID) { k.d.intake.book.Asked(p) }

func (k *kad) region(target kb.ID, near []*candidate) (region, float64) {
	size, _ := k.sizes.estimate()
	r := k.sizes.judge(near)
	if r.Dense {
		k.alarmRegion(target, r, size)
	}
	return r, size
}

func (k *kad) alarmRegion(target kb.ID, r region, size float64) {
	k.d.fns.Alarms.Seen(alarmRegion,
		fmt.Sprintf("the peers nearest to one key are too dense for a network of %.0f, or too much alike: more of them are asked", size),
		map[string]any{"key_hash": hex.EncodeToString(target), "x": r.X, "groups": r.Groups, "network_size": size})
}

func (k *kad) close() error {
	k.scope.close()
	err := k.lib.Close()
	if err != nil {
		return fmt.Errorf("close the DHT: %w", err)
	}
	return nil
}
