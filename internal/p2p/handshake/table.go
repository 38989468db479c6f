package handshake

import (
	"cmp"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/wire"
)

// Tags under which the dialer protects connections from being trimmed. They
// are also the names of a peer's source.
const (
	tagStatic  = "static"
	tagMember  = "member"
	tagTrusted = "trusted" // has a place like a static peer, wherever it came from
)

// Peer is a connected peer. What it says of itself is claimed, not proved, but
// for Validated.
type Peer struct {
	ID          peer.ID
	Ready       bool   // the handshake ended well
	Direction   string // inbound | outbound
	Addr        ma.Multiaddr
	Transport   string // tcp | quic-v1 | ws
	Security    string // noise | tls
	Source      string // static | member | inbound, else what Config.Slot or Config.Source says, else outbound
	Slot        string // static | outbound | block_only | feeler | inbound
	Agent       string
	Name        string
	BaseURL     string
	APIPort     int
	Status      chain.Status // as of the last exchange
	Claimed     chain.Head   // newest head it spoke of
	Validated   chain.Head   // newest head it proved to hold; zero = none
	ConnectedAt time.Time
	LastSeen    time.Time // last word from it that came through this room
	Latency     time.Duration
	MinRTT      time.Duration // best round trip of its handshakes; 0 = none was measured
	Leaving     bool          // either side has begun to part
	Ahead       time.Duration // of its clock before ours at the last exchange, less by the way of its word
}

// entry is one connected peer in the table.
type entry struct {
	peer     Peer
	conns    []*link // oldest first, never empty while in the table
	statusAt time.Time
	born     bool          // it greeted us with a chain
	refused  bool          // told on the bus already
	greeting chan struct{} // closed when our Greet under way ends; nil = there is none
	late     bool          // it had its time and more, and was told
	goodbye  wire.Goodbye  // as received, code 0 = none
	byUs     bool          // we began to part
	said     chan struct{} // closed when our goodbye is said, or failed; nil = none was begun
	reason   string        // why, where we began
}

// link is one connection to a peer.
type link struct {
	conn    network.Conn
	greeted bool // a status came over it
}

func (s *Handshake) connected(c network.Conn) {
	p := c.RemotePeer()
	now := time.Now()
	s.mu.Lock()
	e := s.peers[p]
	first := e == nil
	if first {
		e = &entry{peer: Peer{ID: p, ConnectedAt: now, LastSeen: now}}
		s.peers[p] = e
	}
	if !slices.ContainsFunc(e.conns, func(l *link) bool { return l.conn == c }) {
		e.conns = append(e.conns, &link{conn: c})
	}
	ready, parting := e.peer.Ready, e.byUs
	s.mu.Unlock()
	if parting { // it goes with the others: on it nobody would ever be greeted
		s.spawn(func() { _ = c.Close() }) // the swarm waits for us
	}
	if ready && s.cfg.Ready != nil {
		s.cfg.Ready(p)
	}
	if !first {
		return
	}
	s.bus.Publish(s.describe(p, c))
	if s.cfg.Arrive != nil && direction(c) == "inbound" {
		s.spawn(func() { s.arrived(p) }) // the swarm waits for us
	}
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

func (s *Handshake) disconnected(c network.Conn) {
	p := c.RemotePeer()
	s.mu.Lock()
	e := s.peers[p]
	if e == nil {
		s.mu.Unlock()
		return
	}
	e.conns = slices.DeleteFunc(e.conns, func(l *link) bool { return l.conn == c })
	if len(e.conns) > 0 {
		s.mu.Unlock()
		return
	}
	delete(s.peers, p)
	gone := event.PeerDisconnected{
		Peer:      p,
		Direction: direction(c),
		Addr:      c.RemoteMultiaddr().String(),
		By:        "them",
		Reason:    e.reason,
		Goodbye:   e.goodbye.Code,
		Text:      e.goodbye.Text,
		DurationS: time.Since(e.peer.ConnectedAt).Seconds(),
	}
	if e.byUs {
		gone.By = "us"
	}
	none := s.none
	if len(s.peers) > 0 {
		none = nil
	} else {
		s.none = nil
	}
	s.mu.Unlock()
	s.bus.Publish(gone)
	if none != nil {
		close(none)
	}
}

// describe is what the events say of a connection.
func (s *Handshake) describe(p peer.ID, c network.Conn) event.PeerConnected {
	source, slot := s.source(p, c)
	return event.PeerConnected{
		Peer: p, Direction: direction(c), Addr: c.RemoteMultiaddr().String(), Transport: transport(c.RemoteMultiaddr()),
		Source: source, Slot: slot,
	}
}

// source says why we have p: static ones by how their connections are
// protected, those of other slots by who fills these.
func (s *Handshake) source(p peer.ID, c network.Conn) (source, slot string) {
	for _, tag := range []string{tagStatic, tagMember} {
		if s.host.ConnManager().IsProtected(p, tag) {
			return tag, tagStatic
		}
	}
	source, slot = direction(c), direction(c)
	if s.cfg.Source != nil && source == "outbound" {
		source = cmp.Or(s.cfg.Source(p), source)
	}
	if s.cfg.Slot != nil {
		held, by := s.cfg.Slot(p)
		slot, source = cmp.Or(held, slot), cmp.Or(by, source)
	}
	if s.host.ConnManager().IsProtected(p, tagTrusted) {
		slot = tagStatic
	}
	return source, slot
}

func direction(c network.Conn) string {
	if c.Stat().Direction == network.DirInbound {
		return "inbound"
	}
	return "outbound"
}

func transport(a ma.Multiaddr) string {
	name := "tcp"
	ma.ForEach(a, func(c ma.Component) bool {
		switch c.Protocol().Code {
		case ma.P_QUIC_V1:
			name = "quic-v1"
		case ma.P_WS, ma.P_WSS:
			name = "ws"
		}
		return true
	})
	return name
}

func security(c network.Conn) string {
	if strings.Contains(string(c.ConnState().Security), "noise") {
		return "noise"
	}
	return "tls" // QUIC is TLS and names no security protocol
}

// late lists the inbound peers whose time to greet is over, and says when the
// next one's will be; zero = nobody is awaited.
func (s *Handshake) late(now time.Time) (late []peer.ID, wake time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p, e := range s.peers {
		if e.peer.Ready || e.byUs || e.late || e.goodbye.Code != 0 || direction(e.conns[0].conn) != "inbound" {
			continue
		}
		due := e.peer.ConnectedAt.Add(greetTimeout)
		if !now.Before(due) {
			e.late = true
			late = append(late, p)
		} else if wake.IsZero() || due.Before(wake) {
			wake = due
		}
	}
	return late, wake
}

// Peers lists the connected peers, ready or not, in the order of their ids.
func (s *Handshake) Peers() []Peer {
	s.mu.Lock()
	list := make([]Peer, 0, len(s.peers))
	conns := make([]network.Conn, 0, len(s.peers))
	for _, e := range s.peers {
		p := e.peer
		p.Leaving = e.byUs || e.goodbye.Code != 0
		list = append(list, p)
		conns = append(conns, e.conns[0].conn)
	}
	s.mu.Unlock()
	for i := range list {
		s.complete(&list[i], conns[i])
	}
	slices.SortFunc(list, func(a, b Peer) int { return cmp.Compare(a.ID, b.ID) })
	return list
}

// Peer returns one connected peer.
func (s *Handshake) Peer(p peer.ID) (Peer, bool) {
	s.mu.Lock()
	e := s.peers[p]
	if e == nil {
		s.mu.Unlock()
		return Peer{}, false
	}
	v, c := e.peer, e.conns[0].conn
	s.mu.Unlock()
	s.complete(&v, c)
	return v, true
}

// complete fills in what the connection and the host know.
func (s *Handshake) complete(v *Peer, c network.Conn) {
	v.Direction = direction(c)
	v.Addr = c.RemoteMultiaddr()
	v.Transport = transport(v.Addr)
	v.Security = security(c)
	v.Source, v.Slot = s.source(v.ID, c)
	v.Latency = s.host.Peerstore().LatencyEWMA(v.ID)
}

// Ready lists the ready peers as a network sees them, in the order of their
// ids.
func (s *Handshake) Ready() []chain.Peer {
	s.mu.Lock()
	list := make([]chain.Peer, 0, len(s.peers))
	for _, e := range s.peers {
		if v := &e.peer; v.Ready {
			list = append(list, chain.Peer{
				ID: v.ID, Services: v.Status.Services, Genesis: v.Status.Genesis, Claimed: v.Claimed, Validated: v.Validated, App: v.Status.App,
			})
		}
	}
	s.mu.Unlock()
	slices.SortFunc(list, func(a, b chain.Peer) int { return cmp.Compare(a.ID, b.ID) })
	return list
}

// IsReady reports whether p is connected and its handshake ended well.
func (s *Handshake) IsReady(p peer.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.peers[p]
	return e != nil && e.peer.Ready
}

func (s *Handshake) readyIDs() []peer.ID {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []peer.ID
	for p, e := range s.peers {
		if e.peer.Ready {
			ids = append(ids, p)
		}
	}
	return ids
}

// Validated notes that p proved to hold head. Older heads change nothing.
func (s *Handshake) Validated(p peer.ID, head chain.Head) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.peers[p]
	if e == nil || head.Height < e.peer.Validated.Height {
		return
	}
	e.peer.Validated = head
	e.peer.LastSeen = time.Now()
	if e.peer.Claimed.Height < head.Height {
		e.peer.Claimed = head
	}
}

// learn takes over what a peer said in an exchange of status.
func (v *Peer) learn(said wire.Version, now time.Time) {
	v.Status = said.Status()
	v.Claimed = v.Status.Head
	v.Agent = said.UserAgent
	v.Name = said.Name
	v.BaseURL = publicURL(said.BaseURL)
	v.APIPort = int(said.APIPort)
	v.LastSeen = now
	v.Ahead = time.UnixMilli(int64(min(said.TimeMS, maxTimeMS))).Sub(now)
}

const maxTimeMS = 1 << 52 // what a peer says may be anything

// publicURL drops a base_url by which a peer could point our readers at
// machines inside their own network.
func publicURL(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil || (u.Scheme != "http" && u.Scheme != "https") {
		return ""
	}
	name := strings.TrimSuffix(strings.ToLower(u.Hostname()), ".")
	if ip, err := netip.ParseAddr(name); err == nil {
		ip = ip.Unmap()
		if !ip.IsGlobalUnicast() || ip.IsPrivate() {
			return ""
		}
		return s
	}
	top := name[strings.LastIndexByte(name, '.')+1:]
	if top == name || top == "local" || top == "localhost" || top == "internal" || top == "arpa" {
		return ""
	}
	return s
}
