//go:build attack

package attack

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	dht "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p-kad-dht/dual"
	record "github.com/libp2p/go-libp2p-record"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/core/routing"

	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/p2p/addrbook"
	"github.com/parley-p2p/parley/internal/p2p/discovery"
)

// searcher is who looks things up, and stores.
type searcher interface {
	// node looks an id up.
	node(ctx context.Context, id peer.ID)
	put(ctx context.Context, key string, value []byte) error
	get(ctx context.Context, key string) ([]byte, error)
	// alarmed reports whether the last call was taken for an attack.
	alarmed() bool
	// table is how many peers it has in its table.
	table() int
}

// kind is a row of E4 and E5.
type kind struct {
	name string
	make func(d *dhtLab, ip netip.Addr, known []peer.AddrInfo) searcher
	// ours: it can raise an alarm.
	ours bool
}

var (
	b0 = kind{"B0: dht.New, all defaults", func(d *dhtLab, ip netip.Addr, known []peer.AddrInfo) searcher {
		h := d.host(ip)
		s, err := dht.New(h, dht.ProtocolPrefix(protocol.ID(openPrefix)), dht.Validator(validators()))
		must(d.t, err)
		d.closers = append(d.closers, func() { _ = s.Close() })
		return stockSearcher{stockDHT: s, wan: s}.join(d, h, known)
	}, false}
	b1 = kind{"B1: dual.New", func(d *dhtLab, ip netip.Addr, known []peer.AddrInfo) searcher {
		h := d.host(ip)
		s, err := dual.New(h, dual.DHTOption(dht.ProtocolPrefix(protocol.ID(limitedPrefix)), dht.Validator(validators())))
		must(d.t, err)
		d.closers = append(d.closers, func() { _ = s.Close() })
		return stockSearcher{stockDHT: s, wan: s.WAN}.join(d, h, known)
	}, false}
)

// oursWithout is our discovery without some of its defence.
func oursWithout(name string, w discovery.Weakness) kind {
	return kind{name, func(d *dhtLab, ip netip.Addr, known []peer.AddrInfo) searcher { return d.ours(ip, known, w) }, true}
}

func validators() record.NamespacedValidator {
	return record.NamespacedValidator{"parley": discovery.Validator(limitedNet)}
}

// stockDHT is what B0 and B1 have in common.
type stockDHT interface {
	PutValue(ctx context.Context, key string, value []byte, opts ...routing.Option) error
	GetValue(ctx context.Context, key string, opts ...routing.Option) ([]byte, error)
}

type stockSearcher struct {
	stockDHT
	wan *dht.IpfsDHT
}

func (s stockSearcher) join(d *dhtLab, h host.Host, known []peer.AddrInfo) searcher {
	for _, p := range known {
		must(d.t, h.Connect(d.ctx, p))
	}
	time.Sleep(5 * time.Second)
	<-s.wan.RefreshRoutingTable()
	time.Sleep(time.Minute)
	<-s.wan.RefreshRoutingTable()
	return &s
}

func (s *stockSearcher) node(ctx context.Context, id peer.ID) {
	_, _ = s.wan.GetClosestPeers(ctx, string(id))
}
func (s *stockSearcher) put(ctx context.Context, key string, value []byte) error {
	return s.PutValue(ctx, key, value)
}
func (s *stockSearcher) get(ctx context.Context, key string) ([]byte, error) {
	return s.GetValue(ctx, key)
}
func (s *stockSearcher) alarmed() bool { return false }
func (s *stockSearcher) table() int    { return s.wan.RoutingTable().Size() }

type ourSearcher struct {
	*discovery.Discovery
	dense bool
}

func (d *dhtLab) ours(ip netip.Addr, known []peer.AddrInfo, w discovery.Weakness) searcher {
	h := d.host(ip)
	log, bus := slog.New(slog.DiscardHandler), event.NewBus(4096)
	book, err := addrbook.Open(addrbook.Config{Net: limitedNet, Self: h.ID()}, bus, nil, nil)
	must(d.t, err)
	cfg := discovery.Config{Discovery: config.Discovery{DHT: config.DHTClient, DHTScope: config.DHTScopePublic}}
	if w.Diversity {
		cfg.DHTProtocol = openPrefix
	}
	s := &ourSearcher{}
	s.Discovery, err = discovery.New(cfg, discovery.Functions{}, h, book, bus, log, nil)
	must(d.t, err)
	s.Weaken(w)
	must(d.t, s.Start(limitedNet))
	for _, p := range known {
		must(d.t, h.Connect(d.ctx, p))
	}
	d.run(s.Run)
	time.Sleep(65 * time.Second)
	return s
}

func (s *ourSearcher) node(ctx context.Context, id peer.ID) {
	n, _ := s.FindNode(ctx, id, nil)
	s.dense = n.Dense
}

func (s *ourSearcher) put(ctx context.Context, key string, value []byte) error {
	n, err := s.PutSealed(ctx, key, value)
	s.dense = n.Dense
	return err
}

func (s *ourSearcher) get(ctx context.Context, key string) ([]byte, error) {
	f, err := s.GetValue(ctx, key, 0, nil)
	s.dense = f.Dense
	return f.Value.Data, err
}

func (s *ourSearcher) alarmed() bool { return s.dense }
func (s *ourSearcher) table() int    { return s.Status().Peers }
