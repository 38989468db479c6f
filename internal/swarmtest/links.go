package swarmtest

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	"github.com/marcopolo/simnet"
	"github.com/quic-go/quic-go"
)

// link is one direction between two nodes.
type link struct{ from, to netip.Addr }

// quality is what a link does to packets.
type quality struct {
	cut    bool
	loss   float64       // of 1
	delay  time.Duration // over the latency of all links
	jitter time.Duration // at most so much more, which reorders packets
}

// links is the network between the nodes.
type links struct {
	mu  sync.Mutex // guards below
	rnd *rand.Rand
	of  map[link]quality                                // those that are not good
	nat map[netip.AddrPort]map[netip.AddrPort]time.Time // behind a translator: when each last wrote to whom

	uneven uint64 // not 0: the seed of what each link adds to the latency of all
}

// most that an uneven link adds; it takes off as much.
const unevenness = 15 * time.Millisecond

// base is the latency of a link that is good.
func (l *links) base(k link) time.Duration {
	if l.uneven == 0 {
		return latency
	}
	from, to := k.from.As4(), k.to.As4()
	rnd := rand.New(rand.NewPCG(l.uneven, uint64(from[1])<<8|uint64(to[1])))
	return latency + time.Duration(rnd.Int64N(int64(2*unevenness))) - unevenness
}

func newLinks(seed uint64) *links {
	return &links{rnd: rand.New(rand.NewPCG(seed, 1)), of: map[link]quality{}, nat: map[netip.AddrPort]map[netip.AddrPort]time.Time{}}
}

// flowIdle is how long a translator of addresses lets answers in.
const flowIdle = time.Minute

// enters reports whether translators let a packet in: of who is behind one, an
// answer to what it sent.
func (l *links) enters(from, to netip.AddrPort, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if flows := l.nat[from]; flows != nil {
		flows[to] = now
	}
	flows, behind := l.nat[to]
	return !behind || !flows[from].IsZero() && now.Sub(flows[from]) <= flowIdle
}

// takes reports whether a packet comes through.
func (l *links) takes(from, to netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	q := l.of[link{from, to}]
	return !q.cut && (q.loss == 0 || l.rnd.Float64() >= q.loss)
}

// latency is how long a packet is under way.
func (l *links) latency(p *simnet.Packet) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := link{addrOf(p.From), addrOf(p.To)}
	q := l.of[k]
	d := l.base(k) + q.delay
	if q.jitter > 0 {
		d += time.Duration(l.rnd.Int64N(int64(q.jitter)))
	}
	return d
}

func (l *links) set(edit func(*quality), all ...link) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, k := range all {
		q := l.of[k]
		edit(&q)
		if q == (quality{}) {
			delete(l.of, k)
		} else {
			l.of[k] = q
		}
	}
}

func addrOf(a net.Addr) netip.Addr { return portOf(a).Addr() }

func portOf(a net.Addr) netip.AddrPort {
	if u, ok := a.(*net.UDPAddr); ok {
		return netip.AddrPortFrom(u.AddrPort().Addr().Unmap(), u.AddrPort().Port())
	}
	return netip.AddrPort{}
}

// BehindNAT puts nodes behind one public address, that of the first. Nobody
// can dial them. Call it before they start.
func (s *Swarm) BehindNAT(nodes ...*Node) {
	s.links.mu.Lock()
	defer s.links.mu.Unlock()
	for i, n := range nodes {
		n.ip, n.port = nodes[0].ip, port+i
		s.links.nat[netip.AddrPortFrom(n.addr(), uint16(n.port))] = map[netip.AddrPort]time.Time{}
	}
}

// Cut drops every packet from a to b; the other direction stays.
func (s *Swarm) Cut(a, b *Node) {
	s.links.set(func(q *quality) { q.cut = true }, link{a.addr(), b.addr()})
}

// Partition cuts all links between nodes of the group and the others.
func (s *Swarm) Partition(group ...*Node) {
	in := map[*Node]bool{}
	for _, n := range group {
		in[n] = true
	}
	for _, a := range s.nodes {
		for _, b := range s.nodes {
			if in[a] != in[b] {
				s.Cut(a, b)
			}
		}
	}
}

// Lossy loses a part of the packets to and from n.
func (s *Swarm) Lossy(n *Node, loss float64) {
	s.links.set(func(q *quality) { q.loss = loss }, s.linksOf(n)...)
}

// Slow delays all packets to and from n, each by another time.
func (s *Swarm) Slow(n *Node, delay, jitter time.Duration) {
	s.links.set(func(q *quality) { q.delay, q.jitter = delay, jitter }, s.linksOf(n)...)
}

// Heal makes every link good.
func (s *Swarm) Heal() {
	s.links.mu.Lock()
	defer s.links.mu.Unlock()
	clear(s.links.of)
}

func (s *Swarm) linksOf(n *Node) (all []link) {
	for _, o := range s.nodes {
		if o != n {
			all = append(all, link{n.addr(), o.addr()}, link{o.addr(), n.addr()})
		}
	}
	return all
}

func (n *Node) addr() netip.Addr { return netip.MustParseAddr(n.ip) }

// socket is that of one run of a node.
type socket struct {
	*simnet.SimConn
	life *life
	at   netip.AddrPort
}

// WriteTo drops what the network loses, and all that a dead node sends.
func (w *socket) WriteTo(p []byte, to net.Addr) (int, error) {
	links := w.life.node.swarm.links
	if w.life.dead.Load() || !links.enters(w.at, portOf(to), time.Now()) || !links.takes(w.at.Addr(), addrOf(to)) {
		return len(p), nil
	}
	return w.SimConn.WriteTo(p, to)
}

// sourceIP is the address of the one socket that a node has.
type sourceIP struct{ ip net.IP }

func (s sourceIP) PreferredSourceIPForDestination(*net.UDPAddr) (net.IP, error) { return s.ip, nil }

// listenUDP opens a socket in the simulated network.
func (l *life) listenUDP(_ string, at *net.UDPAddr) (net.PacketConn, error) {
	s := l.node.swarm
	if !at.IP.Equal(net.ParseIP(l.node.ip)) {
		return nil, errors.New("listen on " + at.String() + ": not an address of this node")
	}
	rate := simnet.LinkSettings{BitsPerSecond: l.node.mbps * 1_000_000}
	return &socket{s.nw.NewEndpoint(at, simnet.NodeBiDiLinkSettings{Downlink: rate, Uplink: rate}), l, portOf(at)}, nil
}

// quic lets a libp2p host that is no node use the simulated network.
func (l *life) quic() libp2p.Option {
	return libp2p.QUICReuse(
		func(reset quic.StatelessResetKey, token quic.TokenGeneratorKey, o ...quicreuse.Option) (*quicreuse.ConnManager, error) {
			m, err := quicreuse.NewConnManager(reset, token, o...)
			l.sockets = m
			return m, err
		},
		quicreuse.OverrideSourceIPSelector(func() (quicreuse.SourceIPSelector, error) {
			return sourceIP{net.ParseIP(l.node.ip).To4()}, nil
		}),
		quicreuse.OverrideListenUDP(l.listenUDP))
}
