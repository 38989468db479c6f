package dialer_test

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/x/simlibp2p"
	"github.com/marcopolo/simnet"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/p2p/addrbook"
	"github.com/parley-p2p/parley/internal/p2p/dialer"
	"github.com/parley-p2p/parley/internal/p2p/handshake"
)

// picker is a node with an address book and slots.
type picker struct {
	*node
	slots *dialer.Slots
	book  *addrbook.Book
	sub   *event.Subscription

	mu       sync.Mutex // guards below
	needs    []time.Time
	head     chain.Head
	interval time.Duration
}

type pickerOptions struct {
	ip    string
	key   crypto.PrivKey
	dir   string // of the book
	slots dialer.SlotsConfig
	items []string
	know  func(*addrbook.Book)
	every time.Duration // between blocks
	limit network.ResourceManager

	banned    func(peer.ID, netip.Addr) bool // by the book, once it is filled; nil = nobody
	reachable bool
	renew     func(*picker) // gossip; nil = there is none
}

// blocks is a chain whose head moves.
type blocks struct {
	fakeChain
	p *picker
}

func (b blocks) Status() chain.Status {
	s := b.status
	s.Head = b.p.headNow()
	return s
}

func (p *picker) headNow() chain.Head {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.head
}

// store moves the head by a block that from brought.
func (p *picker) store(height uint64, from peer.ID) {
	h := chain.Head{Height: height, Hash: chain.Hash{byte(height), byte(height >> 8), 1}}
	p.mu.Lock()
	p.head = h
	p.mu.Unlock()
	p.bus.Publish(event.BlockStored{Height: h.Height, Hash: h.Hash, From: from})
	p.bus.Publish(event.HeadChanged{Height: h.Height, Hash: h.Hash})
}

func (w *world) host(ip string, key crypto.PrivKey, opts ...libp2p.Option) host.Host {
	w.t.Helper()
	link := simnet.LinkSettings{BitsPerSecond: 20 * simlibp2p.OneMbps}
	h, err := libp2p.New(append(opts,
		libp2p.Identity(key),
		libp2p.ListenAddrStrings("/ip4/"+ip+"/udp/9906/quic-v1"),
		simlibp2p.QUICSimnet(w.nw, simnet.NodeBiDiLinkSettings{Downlink: link, Uplink: link}),
		libp2p.Transport(libp2pquic.NewTransport),
		libp2p.DisableIdentifyAddressDiscovery(),
		libp2p.UDPBlackHoleSuccessCounter(nil), libp2p.IPv6BlackHoleSuccessCounter(nil),
	)...)
	if err != nil {
		w.t.Fatal(err)
	}
	return h
}

func (w *world) picker(o pickerOptions) *picker {
	t := w.t
	t.Helper()
	if o.key == nil {
		o.key = newKey(t)
	}
	if o.limit == nil {
		o.limit = &network.NullResourceManager{}
	}
	p := &picker{node: newNode(t), interval: o.every, head: chain.Head{Height: 1, Hash: chain.Hash{1, 0, 1}}}
	h := w.host(o.ip, o.key, libp2p.ConnectionGater(p.gate), libp2p.ResourceManager(o.limit))
	p.host = h
	log := slog.New(slog.NewTextHandler(p.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var err error
	filled := false
	banned := func(id peer.ID, ip netip.Addr) bool { return filled && o.banned != nil && o.banned(id, ip) }
	if p.book, err = addrbook.Open(addrbook.Config{Dir: o.dir, Net: "x", Private: true, Self: h.ID(), Banned: banned}, p.bus, log, nil); err != nil {
		t.Fatal(err)
	}
	if o.know != nil {
		o.know(p.book)
	}
	filled = true
	net := blocks{fakeChain{chain.Status{Network: "consortium", ChainID: "x", Genesis: chain.Hash{'x'}}}, p}
	p.Handshake = handshake.New(handshake.Config{
		Name: o.ip,
		Slot: func(id peer.ID) (string, string) { return p.slots.SlotOf(id) }, Admit: func(id peer.ID) (peer.ID, error) { return p.slots.Admit(id) },
		Arrive: func(id peer.ID) (peer.ID, string) { return p.slots.Arrive(id) },
	}, h, p.rep, net, p.bus, log, nil)
	fns := dialer.Functions{
		Resolve: w.resolve, Greet: p.Greet,
		Identity: func(context.Context, string) (dialer.Identity, error) { return dialer.Identity{}, dialer.ErrNotHTTP },
	}
	if p.Dialer, err = dialer.New(dialer.Config{Items: o.items, OptimiseRetries: true}, fns, h, p.rep, p.bus, log, nil); err != nil {
		t.Fatal(err)
	}
	var renew func()
	if o.renew != nil {
		renew = func() { o.renew(p) }
	}
	p.slots, err = dialer.NewSlots(o.slots, dialer.SlotsFunctions{
		Renew: renew, Peers: p.peers, Head: p.headNow, Interval: func() time.Duration { return p.interval }, Disconnect: p.Disconnect,
		Reachable: func() bool { return o.reachable },
		Need: func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.needs = append(p.needs, time.Now())
		},
	}, p.Dialer, p.book, p.bus, log, p.reg)
	if err != nil {
		t.Fatal(err)
	}
	p.sub = p.bus.Subscribe()
	synctest.Wait()
	p.start(t)
	return p
}

func (p *picker) start(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 4)
	for _, run := range []func(context.Context) error{p.Handshake.Run, p.Dialer.Run, p.slots.Run, p.book.Run} {
		go func() { done <- run(ctx) }()
	}
	p.stop = sync.OnceFunc(func() {
		cancel()
		if err := errors.Join(<-done, <-done, <-done, <-done); err != nil {
			t.Errorf("Run: %v", err)
		}
		p.host.Close()
	})
}

func (p *picker) peers() []dialer.Peer {
	var list []dialer.Peer
	for _, v := range p.Peers() {
		list = append(list, dialer.Peer{
			ID: v.ID, Ready: v.Ready, Inbound: v.Direction == "inbound", Addr: v.Addr, ConnectedAt: v.ConnectedAt, MinRTT: v.MinRTT,
			Claimed: v.Claimed, Validated: v.Validated,
		})
	}
	return list
}

// ready lists who is ready in a slot.
func (p *picker) inSlot(slot string) (list []handshake.Peer) {
	for _, v := range p.Peers() {
		if v.Ready && v.Slot == slot {
			list = append(list, v)
		}
	}
	return list
}

// alarms counts the alarms that were raised, less those cleared, by code.
func (p *picker) alarms() map[string]int {
	n := map[string]int{}
	for {
		got, _ := p.sub.Take(256)
		if len(got) == 0 {
			return n
		}
		for _, e := range got {
			switch v := e.Data.(type) {
			case event.AlarmRaised:
				n[v.Code]++
			case event.AlarmCleared:
				n[v.Code+" cleared"]++
			}
		}
	}
}

func addrOf(t *testing.T, ip string) ma.Multiaddr {
	t.Helper()
	a, err := ma.NewMultiaddr("/ip4/" + ip + "/udp/9906/quic-v1")
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// tell enters a peer into a book, unless another has its slot there.
func tell(t *testing.T, b *addrbook.Book, kind addrbook.Kind, id peer.ID, ip string) {
	t.Helper()
	err := b.AddBare(addrbook.Source{Kind: kind}, peer.AddrInfo{ID: id, Addrs: []ma.Multiaddr{addrOf(t, ip)}})
	if err != nil && !errors.Is(err, addrbook.ErrFull) {
		t.Fatalf("%s at %s: %v", id, ip, err)
	}
}
