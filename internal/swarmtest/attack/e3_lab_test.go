//go:build attack

package attack

import (
	"context"
	"io"
	"log/slog"
	mrand "math/rand/v2"
	"net/netip"
	"time"

	"github.com/libp2p/go-libp2p"
	dht "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/p2p/net/connmgr"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/p2p/addrbook"
	"github.com/parley-p2p/parley/internal/p2p/dialer"
	"github.com/parley-p2p/parley/internal/p2p/discovery"
	"github.com/parley-p2p/parley/internal/p2p/handshake"
	"github.com/parley-p2p/parley/internal/p2p/reputation"
	"github.com/parley-p2p/parley/internal/wire"
)

// member is a node of the network of E3, or one that wants to be.
type member interface {
	info() peer.AddrInfo
	// chosen lists the peers that it dialled and keeps for itself.
	chosen() []peer.ID
	has(p peer.ID) bool
	inbound() int
}

// kindred is a column of E3.
type kindred struct {
	name   string
	places int // for inbound peers, as the attacker counts them
	greets bool
	make   func(l *lab, ip netip.Addr, boots []peer.AddrInfo) member
}

// stockMemory is the memory of the machine that B0 reads its limits from: a
// bigger one has more places, 64 for each 8 GiB.
const stockMemory = 8 << 30

var kindreds = []kindred{
	{"ours", dialer.Places(targetPeers, maxPeers).Inbound, true, func(l *lab, ip netip.Addr, boots []peer.AddrInfo) member { return l.finder(ip, boots) }},
	{"B0", 128, false, func(l *lab, ip netip.Addr, boots []peer.AddrInfo) member { return l.plain(ip, boots) }},
	{"B1", maxPeers, false, func(l *lab, ip netip.Addr, boots []peer.AddrInfo) member { return l.tuned(ip, boots) }},
}

// finder is ours with discovery, told of boots and of nothing else.
func (l *lab) finder(ip netip.Addr, boots []peer.AddrInfo) *ours {
	cfg := discovery.Config{Discovery: config.Default().Discovery, Private: true}
	for _, b := range boots {
		addrs, err := peer.AddrInfoToP2pAddrs(&b)
		must(l.t, err)
		cfg.Bootstrap = append(cfg.Bootstrap, addrs[0].String())
	}
	book := addrbook.Config{Private: true, Sources: discovery.Kinds(cfg) + 1}
	return l.oursOf(ip, whole, targetPeers, book, func(v *ours, bus *event.Bus, rep *reputation.Book, d *dialer.Dialer) {
		alone := func(p peer.ID) bool { slot, _ := v.slots.SlotOf(p); return slot == dialer.SlotBlockOnly }
		var err error
		v.disc, err = discovery.New(cfg, discovery.Functions{
			Connect: func(ctx context.Context, info peer.AddrInfo) error {
				if err := v.host.Connect(ctx, info); err != nil {
					return err
				}
				return v.shake.Greet(ctx, info.ID)
			},
			Found:  v.slots.Found,
			Wanted: func(p peer.ID) bool { slot, _ := v.slots.SlotOf(p); return slot != "" || d.Has(p) },
			Ready:  func(p peer.ID) bool { return v.shake.IsReady(p) && !alone(p) },
			Leave: func(ctx context.Context, p peer.ID) {
				v.shake.Disconnect(ctx, p, wire.GoodbyeShutdown, "asked for other peers")
			},
			Report: func(p peer.ID, o chain.Offence, detail string) { rep.Penalize(p, o, detail) },
		}, v.host, v.book, bus, slog.New(slog.DiscardHandler), nil)
		must(l.t, err)
		must(l.t, v.disc.Start("0123abcd"))
		l.run(v.disc.Run)
	})
}

func (v *ours) chosen() (up []peer.ID) {
	for _, p := range v.shake.Peers() {
		// A connection that is made only to ask somebody holds no slot.
		if slot, _ := v.slots.SlotOf(p.ID); p.Ready && slot == dialer.SlotOutbound {
			up = append(up, p.ID)
		}
	}
	return up
}

// libp2pNode is a stock host that finds peers by a DHT and speaks GossipSub.
type libp2pNode struct{ host.Host }

func (v libp2pNode) info() peer.AddrInfo { return peer.AddrInfo{ID: v.ID(), Addrs: v.Addrs()} }

func (v libp2pNode) chosen() (up []peer.ID) { return v.to(network.DirOutbound) }

func (v libp2pNode) has(p peer.ID) bool { return v.Network().Connectedness(p) == network.Connected }

func (v libp2pNode) inbound() int { return len(v.to(network.DirInbound)) }

func (v libp2pNode) to(d network.Direction) (up []peer.ID) {
	for _, c := range v.Network().Conns() {
		if c.Stat().Direction == d {
			up = append(up, c.RemotePeer())
		}
	}
	return up
}

// plain is B0: all defaults, and the boot loop that kubo has.
func (l *lab) plain(ip netip.Addr, boots []peer.AddrInfo) member {
	limits := rcmgr.DefaultLimits
	libp2p.SetDefaultServiceLimits(&limits)
	m, err := rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(limits.Scale(stockMemory/8, 4096)))
	must(l.t, err)
	h := l.host(ip, libp2p.ResourceManager(m))
	d, err := dht.New(h, dht.Mode(dht.ModeServer), dht.ProtocolPrefix("/lab"), dht.BootstrapPeers(boots...))
	must(l.t, err)
	l.closers = append(l.closers, func() { _ = d.Close() })
	must(l.t, d.Bootstrap(l.ctx))
	l.gossiper(h)
	l.running.Go(func() { l.boot(h, boots, 4, 30*time.Second, func() {}) })
	return libp2pNode{h}
}

// tuned is B1: the room that ours has, trimmed by the connection manager before
// the hard cap is met, limits by address and a boot loop in a hurry.
func (l *lab) tuned(ip netip.Addr, boots []peer.AddrInfo) member {
	limits := rcmgr.DefaultLimits
	libp2p.SetDefaultServiceLimits(&limits)
	conns := rcmgr.LimitVal(maxPeers + 32)
	own := rcmgr.PartialLimitConfig{System: rcmgr.ResourceLimits{
		Conns: conns, ConnsInbound: conns, ConnsOutbound: conns, Streams: 64 * conns, StreamsInbound: 64 * conns, StreamsOutbound: 64 * conns,
	}}.Build(limits.Scale(stockMemory/8, 4096))
	m, err := rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(own),
		rcmgr.WithLimitPerSubnet([]rcmgr.ConnLimitPerSubnet{{PrefixLength: 32, ConnCount: 8}, {PrefixLength: 24, ConnCount: 32}}, nil))
	must(l.t, err)
	trim, err := connmgr.NewConnManager(maxPeers-20, maxPeers, connmgr.WithGracePeriod(20*time.Second))
	must(l.t, err)
	h := l.host(ip, libp2p.ResourceManager(m), libp2p.ConnectionManager(trim))
	// As in B0: with dual.New the nodes of this lab knew their bootstrap peers
	// and nobody else.
	d, err := dht.New(h, dht.Mode(dht.ModeServer), dht.ProtocolPrefix("/lab"), dht.BootstrapPeers(boots...))
	must(l.t, err)
	l.closers = append(l.closers, func() { _ = d.Close() })
	must(l.t, d.Bootstrap(l.ctx))
	l.gossiper(h)
	l.running.Go(func() { l.boot(h, boots, targetPeers, 5*time.Second, func() { d.RefreshRoutingTable() }) })
	return libp2pNode{h}
}

// boot dials the bootstrap peers while there are fewer than enough peers.
func (l *lab) boot(h host.Host, boots []peer.AddrInfo, enough int, every time.Duration, more func()) {
	for first := true; first || pause(l.ctx, every); first = false {
		if len(h.Network().Peers()) >= enough {
			continue
		}
		for _, b := range boots {
			if b.ID != h.ID() {
				ctx, cancel := context.WithTimeout(l.ctx, 10*time.Second)
				_ = h.Connect(ctx, b) // it is tried again
				cancel()
			}
		}
		more()
	}
}

// child is a part of the lab that ends by itself.
func (l *lab) child() (c *lab, end func()) {
	ctx, cancel := context.WithCancel(l.ctx)
	c = &lab{t: l.t, nw: l.nw, ctx: ctx, rand: l.rand}
	return c, func() {
		cancel()
		c.running.Wait()
		for i := range c.closers {
			c.closers[len(c.closers)-1-i]()
		}
	}
}

// squatter is a host of the attacker. It has no slots to fill: all its
// connections are there to hold places of others.
type squatter struct {
	host.Host
	greet *handshake.Handshake // nil: the network has none
}

// squat takes a place at to, keeps it as a peer would, and comes back half a
// minute after it lost it or was refused.
func (l *lab) squat(h squatter, to peer.AddrInfo, rnd *mrand.Rand) {
	wait := time.Duration(rnd.Int64N(int64(squatWithin)))
	for pause(l.ctx, wait) {
		ctx, cancel := context.WithTimeout(l.ctx, 10*time.Second)
		err := h.Connect(ctx, to)
		if err == nil && h.greet != nil {
			err = h.greet.Greet(ctx, to.ID)
		}
		cancel()
		if err == nil {
			l.keepStream(h, to.ID)
		}
		_ = h.Network().ClosePeer(to.ID)
		wait = squatAgain/2 + time.Duration(rnd.Int64N(int64(squatAgain)))
	}
}

// keepStream holds a stream that speaks now and then until the connection ends.
func (l *lab) keepStream(h host.Host, to peer.ID) {
	var last network.Stream
	defer func() {
		if last != nil {
			_ = last.Reset()
		}
	}()
	for at := 0; h.Network().Connectedness(to) == network.Connected; at++ {
		if at%12 == 0 { // a host ends a ping that is silent for 30 s
			if last != nil {
				_ = last.Reset()
			}
			ctx, cancel := context.WithTimeout(l.ctx, 5*time.Second)
			st, err := h.NewStream(network.WithNoDial(ctx, "hold"), to, protocol.ID(pingProtocol))
			cancel()
			if last = nil; err == nil {
				_ = st.SetDeadline(time.Now().Add(30 * time.Second))
				if _, err := st.Write(make([]byte, 32)); err == nil {
					_, _ = io.ReadFull(st, make([]byte, 32))
				}
				last = st
			}
		}
		if !pause(l.ctx, 2*time.Second) {
			return
		}
	}
}
