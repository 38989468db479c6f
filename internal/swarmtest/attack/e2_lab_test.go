//go:build attack

package attack

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	mrand "math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/x/simlibp2p"
	"github.com/marcopolo/simnet"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/p2p/addrbook"
	"github.com/parley-p2p/parley/internal/p2p/dialer"
	"github.com/parley-p2p/parley/internal/p2p/discovery"
	"github.com/parley-p2p/parley/internal/p2p/gossip"
	"github.com/parley-p2p/parley/internal/p2p/handshake"
	ourhost "github.com/parley-p2p/parley/internal/p2p/host"
	"github.com/parley-p2p/parley/internal/p2p/reputation"
)

const pingProtocol = "/ipfs/ping/1.0.0" // every libp2p host serves it

// lab is one bubble of E2.
type lab struct {
	t    *testing.T
	nw   *simnet.Simnet
	ctx  context.Context
	rand *mrand.Rand // not safe for concurrent use: set-up only

	running sync.WaitGroup
	closers []func()
}

// oneChain is a network on which all nodes of the lab are.
type oneChain struct{}

func (oneChain) ID() chain.NetworkID { return chain.NetworkID{Kind: "consortium", Net: "0123abcd"} }
func (oneChain) Status() chain.Status {
	g := chain.Hash{1}
	return chain.Status{Network: "consortium", ChainID: "e2", Genesis: g, Head: chain.Head{Hash: g}}
}
func (oneChain) CheckStatus(chain.Status) error                  { return nil }
func (oneChain) Run(ctx context.Context, _ chain.Services) error { <-ctx.Done(); return nil }

func (l *lab) key() crypto.PrivKey {
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		l.t.Fatal(err)
	}
	return key
}

func (l *lab) quic() libp2p.Option {
	link := simnet.LinkSettings{BitsPerSecond: 50 * simlibp2p.OneMbps}
	return simlibp2p.QUICSimnet(l.nw, simnet.NodeBiDiLinkSettings{Downlink: link, Uplink: link})
}

func listenAt(ip netip.Addr) ma.Multiaddr {
	return ma.StringCast("/ip4/" + ip.String() + "/udp/9906/quic-v1")
}

// host makes a stock host; without limits unless opts say otherwise.
func (l *lab) host(ip netip.Addr, opts ...libp2p.Option) host.Host {
	l.t.Helper()
	return l.hostAs(l.key(), ip, opts...)
}

func (l *lab) hostAs(key crypto.PrivKey, ip netip.Addr, opts ...libp2p.Option) host.Host {
	l.t.Helper()
	if len(opts) == 0 {
		opts = []libp2p.Option{libp2p.ResourceManager(&network.NullResourceManager{})}
	}
	h, err := libp2p.New(append(opts, libp2p.Identity(key), libp2p.ListenAddrs(listenAt(ip)), l.quic(),
		libp2p.Transport(libp2pquic.NewTransport), libp2p.DisableIdentifyAddressDiscovery(),
		libp2p.UDPBlackHoleSuccessCounter(nil), libp2p.IPv6BlackHoleSuccessCounter(nil))...)
	if err != nil {
		l.t.Fatal(err)
	}
	l.closers = append(l.closers, func() { _ = h.Close() })
	return h
}

func (l *lab) run(f func(context.Context) error) {
	l.running.Go(func() {
		if err := f(l.ctx); err != nil && l.ctx.Err() == nil {
			l.t.Error(err)
		}
	})
}

// greeter lets a host speak our handshake.
func (l *lab) greeter(h host.Host) *handshake.Handshake {
	rep, err := reputation.New(reputation.Config{}, nil, nil, nil)
	if err != nil {
		l.t.Fatal(err)
	}
	s := handshake.New(handshake.Config{}, h, rep, oneChain{}, event.NewBus(64), slog.New(slog.DiscardHandler), nil)
	l.run(s.Run)
	return s
}

// gossiper lets a host speak GossipSub on a topic that the victim takes.
func (l *lab) gossiper(h host.Host) {
	ps, err := pubsub.NewGossipSub(l.ctx, h, pubsub.WithMessageSignaturePolicy(pubsub.StrictNoSign), pubsub.WithNoAuthor())
	if err != nil {
		l.t.Fatal(err)
	}
	topic, err := ps.Join("/parley/0123abcd/block")
	if err != nil {
		l.t.Fatal(err)
	}
	if _, err := topic.Subscribe(); err != nil {
		l.t.Fatal(err)
	}
}

// victim is a node under attack.
type victim interface {
	info() peer.AddrInfo
	// know tells it of honest peers that it shall dial.
	know(peers []peer.AddrInfo)
	// outbound lists the peers that it dialled and has.
	outbound() []peer.ID
	has(p peer.ID) bool
	inbound() int
}

// settings are those of a stock host.
type settings int

const (
	plain   settings = iota // all defaults: B0
	limited                 // 32 connections per /24: B1
	guarded                 // and its connection manager is told to keep whom it dials
)

// stock is libp2p's host.
type stock struct {
	host.Host
	l       *lab
	guards  bool
	dialled []peer.ID
}

func (l *lab) stock(ip netip.Addr, talks bool, set settings) *stock {
	limits := rcmgr.DefaultLimits
	libp2p.SetDefaultServiceLimits(&limits)
	var opts []rcmgr.Option
	if set != plain {
		opts = append(opts, rcmgr.WithLimitPerSubnet([]rcmgr.ConnLimitPerSubnet{{PrefixLength: 24, ConnCount: 32}}, nil))
	}
	m, err := rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(limits.AutoScale()), opts...)
	if err != nil {
		l.t.Fatal(err)
	}
	v := &stock{Host: l.host(ip, libp2p.ResourceManager(m)), l: l, guards: set == guarded}
	if talks {
		l.gossiper(v.Host)
	}
	return v
}

func (v *stock) info() peer.AddrInfo { return peer.AddrInfo{ID: v.ID(), Addrs: v.Addrs()} }

func (v *stock) know(peers []peer.AddrInfo) {
	for _, p := range peers {
		if err := v.Connect(v.l.ctx, p); err != nil {
			v.l.t.Fatal(err)
		}
		v.dialled = append(v.dialled, p.ID)
		if v.guards {
			v.ConnManager().Protect(p.ID, "dialled")
		}
	}
}

func (v *stock) outbound() (up []peer.ID) {
	for _, p := range v.dialled {
		if v.has(p) {
			up = append(up, p)
		}
	}
	return up
}

func (v *stock) has(p peer.ID) bool { return v.Network().Connectedness(p) == network.Connected }

func (v *stock) inbound() int { return len(v.Network().Peers()) - len(v.outbound()) }

// ours is a node of ours: every room that has a part in this, with its limits.
type ours struct {
	l     *lab
	host  *ourhost.Host
	shake *handshake.Handshake
	slots *dialer.Slots
	book  *addrbook.Book
	disc  *discovery.Discovery // nil: it is told of peers
}

// part is a part of the defence that is left out.
type part string

const (
	whole       part = ""
	noEviction  part = "eviction"
	outboundMax      = 20
	maxPeers         = 100
)

func (l *lab) ours(ip netip.Addr, without part) *ours {
	return l.oursOf(ip, without, outboundMax, addrbook.Config{}, nil)
}

// oursOf makes one that keeps target outbound peers. Where discover is not nil
// it starts discovery, whose sources the book counts.
func (l *lab) oursOf(ip netip.Addr, without part, target int, book addrbook.Config, discover func(*ours, *event.Bus, *reputation.Book, *dialer.Dialer)) *ours {
	log, bus := slog.New(slog.DiscardHandler), event.NewBus(4096)
	rep, err := reputation.New(reputation.Config{}, bus, nil, nil)
	must(l.t, err)
	key := l.key()
	v := &ours{l: l}
	gate := reputation.NewGate(rep)
	v.host, err = ourhost.New(ourhost.Options{
		Key: key, Listen: []ma.Multiaddr{listenAt(ip)}, Gater: gate, MaxPeers: maxPeers, QUICOnly: true, Extra: []libp2p.Option{l.quic()},
	})
	must(l.t, err)
	l.closers = append(l.closers, func() { _ = v.host.Close() })
	book.Net, book.Self = "0123abcd", v.host.ID()
	v.book, err = addrbook.Open(book, bus, nil, nil)
	must(l.t, err)
	places := dialer.Places(target, maxPeers)
	places.Kinds = book.Sources
	cfg := handshake.Config{
		Slot:   func(p peer.ID) (string, string) { return v.slots.SlotOf(p) },
		Admit:  func(p peer.ID) (peer.ID, error) { return v.slots.Admit(p) },
		Arrive: func(p peer.ID) (peer.ID, string) { return v.slots.Arrive(p) },
	}
	if without == noEviction {
		cfg.Arrive = nil
		cfg.Admit = func(peer.ID) (peer.ID, error) { // whoever comes first
			in := 0
			for _, p := range v.shake.Peers() {
				if p.Ready && p.Slot == "inbound" {
					in++
				}
			}
			if in >= places.Inbound {
				return "", errors.New("all places are taken")
			}
			return "", nil
		}
	}
	v.shake = handshake.New(cfg, v.host, rep, oneChain{}, bus, log, nil)
	g, err := gossip.New(gossip.Config{Key: key}, v.host, rep, bus, log, nil)
	must(l.t, err)
	d, err := dialer.New(dialer.Config{}, dialer.Functions{
		Greet: v.shake.Greet, Resolve: func(context.Context, string) ([]netip.Addr, error) { return nil, errors.New("no names here") },
	}, v.host, rep, bus, log, nil)
	must(l.t, err)
	rep.Exempt(d.Has)
	v.slots, err = dialer.NewSlots(places, dialer.SlotsFunctions{
		Peers: v.peers, Head: func() chain.Head { return oneChain{}.Status().Head }, Gave: g.Gave, Disconnect: v.shake.Disconnect,
		Need: func() {
			if v.disc != nil {
				v.disc.Need()
			}
		},
	}, d, v.book, bus, log, nil)
	must(l.t, err)
	if discover != nil {
		discover(v, bus, rep, d)
	}
	for _, f := range []func(context.Context) error{v.shake.Run, g.Run, d.Run, v.slots.Run, v.book.Run} {
		l.run(f)
	}
	must(l.t, g.Serve("0123abcd", []chain.Topic{{Name: "block", MaxBytes: 1 << 10, Validate: func(context.Context, chain.Message) error { return nil }}}))
	return v
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (v *ours) info() peer.AddrInfo { return peer.AddrInfo{ID: v.host.ID(), Addrs: v.host.Addrs()} }

func (v *ours) know(peers []peer.AddrInfo) {
	for _, p := range peers {
		err := v.book.AddBare(addrbook.Source{Kind: addrbook.Operator}, p)
		if errors.Is(err, addrbook.ErrFull) {
			continue // by chance another has its slot: it is not one of those that the victim had
		}
		must(v.l.t, err)
	}
	time.Sleep(30 * time.Second)
}

func (v *ours) peers() (list []dialer.Peer) {
	for _, p := range v.shake.Peers() {
		list = append(list, dialer.Peer{
			ID: p.ID, Ready: p.Ready, Inbound: p.Direction == "inbound", Addr: p.Addr, ConnectedAt: p.ConnectedAt, MinRTT: p.MinRTT,
			Claimed: p.Claimed, Validated: p.Validated,
		})
	}
	return list
}

func (v *ours) outbound() (up []peer.ID) {
	for _, p := range v.shake.Peers() {
		if p.Ready && (p.Slot == dialer.SlotOutbound || p.Slot == dialer.SlotBlockOnly) {
			up = append(up, p.ID)
		}
	}
	return up
}

func (v *ours) has(p peer.ID) bool { return v.shake.IsReady(p) }

func (v *ours) inbound() (n int) {
	for _, p := range v.shake.Peers() {
		if p.Direction == "inbound" {
			n++
		}
	}
	return n
}
