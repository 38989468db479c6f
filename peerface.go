package parley

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/p2p/dialer"
	"github.com/parley-p2p/parley/internal/p2p/handshake"
	"github.com/parley-p2p/parley/internal/replica"
	"github.com/parley-p2p/parley/internal/wire"
)

// maxLag is how many blocks a node that is ready may be behind.
const maxLag = 3

// Events is the bus that carries what happens on this node.
func (n *Node) Events() *event.Bus { return n.bus }

// ID is this node's peer id.
func (n *Node) ID() peer.ID { return n.host.ID() }

// Status is one screen about the node.
func (n *Node) Status() Status {
	s := Status{
		Version: n.Version().Version, Network: n.cfg.Network, NetworkName: n.cfg.NetworkName, ChainID: n.network.Status().ChainID,
		PeerID: n.host.ID(), Name: n.cfg.Node.Name, Role: n.role(), Verdict: "healthy", Reasons: []string{},
		UptimeS: time.Since(n.started).Seconds(), Head: n.head(), Sync: n.syncState(), TransportsOff: n.transportsOff(),
	}
	c := n.PeerCount()
	s.Peers = StatusPeers{Inbound: c.Inbound, Outbound: c.Outbound, Known: c.Known, Target: n.slots.Target()}
	s.Bans, s.Alarms = n.bans.Count(), n.alarms.List()
	if p := n.pool(); p != nil {
		s.Mempool = MempoolState{Records: p.Len(), Bytes: p.Bytes()}
	}
	if v := n.verification(); v.State != "" {
		s.Verification = &Verification{State: v.State, Done: v.Done, Total: v.Total, ETAS: v.ETA.Seconds(), Detail: v.Detail}
		if v.State == replica.Damaged {
			s.Verdict = "degraded"
			s.Reasons = append(s.Reasons, "store: "+v.Detail+" ["+checkCodes["store"]+"]")
		}
	}
	told := false // that too few validators are connected
	for _, f := range n.Findings() {
		told = told || f.Title == replica.NoQuorum
		s.Verdict = "degraded"
		s.Reasons = append(s.Reasons, findingReason(f))
	}
	for _, check := range n.Health().Checks {
		if !check.OK && check.Name != "findings" { // told above
			s.Verdict = "degraded"
			s.Reasons = append(s.Reasons, check.reason())
		}
	}
	if s.Head == nil {
		s.Verdict = "waiting"
		return s
	}
	if n.replica == nil {
		return s
	}
	v := n.validatorsN()
	if s.Validators = &v; v.Connected < v.Quorum && !told {
		s.Verdict = "degraded"
		s.Reasons = append(s.Reasons, fmt.Sprintf("validators: %d of %d connected, %d needed: nothing is committed until more are back: see parley chain validators [PLY-604]", v.Connected, v.N, v.Quorum))
	}
	return s
}

func (n *Node) syncState() Sync {
	if n.sidecar != nil {
		return n.sidecarSync()
	}
	y := n.replica.Sync()
	return Sync{State: y.State, Target: y.Target, LagBlocks: y.LagBlocks, ETAS: y.ETAS, BlocksS: y.BlocksS, BytesS: y.BytesS}
}

// Info is what the node is and where it listens.
func (n *Node) Info() Info {
	i := Info{
		PeerID: n.host.ID(), Name: n.cfg.Node.Name, Agent: n.Version().agent(), Listen: texts(n.host.Network().ListenAddresses()),
		Advertised: texts(n.fullAddrs()), Protocols: []string{}, Started: inMS(n.started), KeyType: "ed25519",
	}
	for _, p := range n.host.Mux().Protocols() {
		i.Protocols = append(i.Protocols, string(p))
	}
	slices.Sort(i.Protocols)
	return i
}

// Services is what the node offers to others.
func (n *Node) Services() chain.Service { return n.network.Status().Services }

// inMS is t as the API shows times.
func inMS(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }

func texts(addrs []multiaddr.Multiaddr) []string {
	list := make([]string, len(addrs))
	for i, a := range addrs {
		list[i] = a.String()
	}
	return list
}

// Live tells whether the node can do its work at all. It never looks at peers.
func (n *Node) Live() error {
	if _, err := n.genesis(); err != nil {
		return nil // joining is work, and other networks have no store of ours
	}
	tip := n.replica.Ledger().Tip().Head
	if tip.Height == 0 {
		return nil
	}
	if _, _, err := n.replica.Ledger().Header(tip.Height); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	return nil
}

// Health tells whether the node is ready, check by check.
func (n *Node) Health() Health {
	h := Health{Status: "ready"}
	store := Check{Name: "store", OK: true}
	if err := n.Live(); err != nil {
		store.OK, store.Note, h.Status = false, err.Error(), "dead"
	}
	have, want := len(n.shake.Ready()), 0
	if n.dial.Configured() > 0 {
		want = n.cfg.P2P.MinPeers
	}
	foreign := n.foreign()
	peers := Check{Name: "peers", OK: have >= want, Have: &have, Want: &want}
	if !peers.OK {
		peers.Note = fmt.Sprintf("%d of %d peers: %s", have, want, cmp.Or(foreign, n.shutOut(), "see parley peers static"))
	}
	y := n.syncState()
	lag := Check{Name: "lag", OK: y.State != "waiting" && y.LagBlocks <= maxLag, LagBlocks: &y.LagBlocks}
	if !lag.OK {
		lag.Note = lagNote(y, foreign, n.head())
	}
	found := Check{Name: "findings", OK: true}
	var notes []string
	for _, f := range n.Findings() {
		notes = append(notes, f.Title+": "+f.Why)
		found.OK = found.OK && f.Severity != "crit"
	}
	found.Note = strings.Join(notes, "; ")
	bans := n.bansCheck()
	if n.sidecar != nil {
		lag = n.programCheck()
	}
	h.Checks = []Check{store, peers, lag, bans, found}
	if h.Status == "ready" && !(peers.OK && lag.OK && bans.OK && found.OK) {
		h.Status = "not_ready"
	}
	return h
}

// foreign says which static peer is of another chain, what was said in the
// handshake, and what to do; "" where there is none.
func (n *Node) foreign() string {
	c := n.cfg.Consortium
	mend := "name nodes of this chain in PEERS, or start on another --data-dir to join theirs"
	switch {
	case n.sidecar != nil:
		mend = "name nodes of network " + n.cfg.NetworkName + " in PEERS, or correct network_name here or there"
	case n.replica.Genesis() != nil:
	case c.GenesisHash != "":
		mend = "correct consortium.genesis_hash, or PEERS; parley config show --origin tells where each was set"
	case c.ChainID != "":
		mend = "correct consortium.chain_id, or PEERS; parley config show --origin tells where each was set"
	}
	for _, p := range n.dial.Static() {
		if p.Class == dialer.ClassWrongNetwork {
			return fmt.Sprintf("%s is of another chain: %s: %s", p.Item, p.LastError, mend)
		}
	}
	return ""
}

// Peers lists the connected peers, ready or not.
func (n *Node) Peers() []Peer {
	table := n.shake.Peers()
	list := make([]Peer, len(table))
	for i, p := range table {
		list[i] = n.viewPeer(p)
	}
	slices.SortFunc(list, func(a, b Peer) int { return a.ConnectedAt.Compare(b.ConnectedAt) })
	return list
}

// Peer finds a connected peer.
func (n *Node) Peer(id peer.ID) (Peer, bool) {
	p, ok := n.shake.Peer(id)
	if !ok {
		return Peer{}, false
	}
	return n.viewPeer(p), true
}

func (n *Node) viewPeer(p handshake.Peer) Peer {
	score := n.rep.Score(p.ID)
	_, perPeer := n.host.Bandwidth()
	traffic := perPeer[p.ID]
	group := n.book.Group(p.Addr)
	return Peer{
		ID: p.ID, State: "connected", Ready: p.Ready, Direction: p.Direction, Slot: p.Slot, Source: p.Source,
		Address: n.peerAddress(p), Addr: p.Addr.String(), Transport: p.Transport, Security: p.Security, Agent: p.Agent, Name: p.Name,
		BaseURL: p.BaseURL, Services: n.servicesOf(p.ID, p.Status.Services).Names(), LatencyMS: inMSF(p.Latency),
		ConnectedAt: inMS(p.ConnectedAt), LastSeen: inMS(p.LastSeen), BytesIn: traffic.In, BytesOut: traffic.Out, Static: n.dial.Has(p.ID), Trusted: n.dial.Trusted(p.ID),
		Claimed: headOf(p.Claimed), Validated: headOf(p.Validated), Mesh: n.gossip.MeshOf(p.ID),
		Score: score.Score, Points: score.Points, Standing: string(score.Standing), GossipScore: n.gossip.Score(p.ID),
		Group: group, ASN: asnOf(group),
	}
}

// servicesOf is what a peer offers, of what it said when it came: who votes is the chain's word, and changes
// while it is connected. Other networks than the embedded chain take its word.
func (n *Node) servicesOf(p peer.ID, said chain.Service) chain.Service {
	if _, err := n.genesis(); err != nil {
		return said
	}
	if n.replica.IsValidator(p) {
		return said | chain.Validator
	}
	return said &^ chain.Validator
}

// peerAddress is the host:port by which an operator knows a peer: its host
// with the port of its API where peers reach it there too, else with the port
// of p2p: that of a connection to it, or of one from it the first that it
// announces.
func (n *Node) peerAddress(p handshake.Peer) string {
	ip, err := manet.ToIP(p.Addr)
	if err != nil {
		return ""
	}
	announced := n.host.Peerstore().Addrs(p.ID)
	port := p.APIPort
	if !apiReached(announced, port, ip) {
		port = 0
	}
	if port == 0 && p.Direction == "inbound" { // its own port is of this connection alone
		port = announcedPort(announced, ip)
	}
	if port == 0 {
		port = ownPort(p.Addr)
	}
	return net.JoinHostPort(ip.String(), strconv.Itoa(port))
}

// apiReached reports whether the API's port of a peer is within reach at ip, so
// far as its addresses tell: p2p is served there too. On loopback, where some
// tell of none, it is unless it is at another address.
func apiReached(announced []multiaddr.Multiaddr, port int, ip net.IP) bool {
	here, elsewhere := false, false
	for _, a := range announced {
		if at, err := manet.ToIP(a); err == nil && tcpPort(a) == port {
			here = here || at.Equal(ip) || !at.IsLoopback() && !ip.IsLoopback()
			elsewhere = elsewhere || !at.Equal(ip)
		}
	}
	return here || ip.IsLoopback() && !elsewhere
}

// announcedPort is the TCP port of the first address that is at ip, else of the
// first one that is not of loopback; 0 = there is none.
func announcedPort(addrs []multiaddr.Multiaddr, ip net.IP) (port int) {
	for _, a := range addrs {
		at, err := manet.ToIP(a)
		n := tcpPort(a)
		switch {
		case err != nil || n == 0 || at.IsLoopback():
		case at.Equal(ip):
			return n
		case port == 0:
			port = n
		}
	}
	return port
}

// ownPort is the TCP or UDP port of a, 0 where it has none.
func ownPort(a multiaddr.Multiaddr) int {
	for _, code := range []int{multiaddr.P_TCP, multiaddr.P_UDP} {
		if text, err := a.ValueForProtocol(code); err == nil {
			port, _ := strconv.Atoi(text) // a multiaddr's port is a number
			return port
		}
	}
	return 0
}

// tcpPort is the port of plain TCP, 0 where an address has none.
func tcpPort(a multiaddr.Multiaddr) int {
	text, err := a.ValueForProtocol(multiaddr.P_TCP)
	if err != nil {
		return 0
	}
	port, _ := strconv.Atoi(text) // a multiaddr's port is a number
	return port
}

// PeerCount counts peers by kind.
func (n *Node) PeerCount() PeerCount {
	c := PeerCount{Known: n.book.Len()}
	for _, p := range n.shake.Peers() {
		if !p.Ready {
			continue
		}
		c.Connected++
		if !n.book.Has(p.ID) {
			c.Known++
		}
		if p.Direction == "inbound" {
			c.Inbound++
		} else {
			c.Outbound++
		}
	}
	for _, s := range n.dial.Static() {
		c.Static.Configured++
		if string(s.State) == "connected" {
			c.Static.Connected++
		} else if !n.book.Has(s.ID) {
			c.Known++
		}
	}
	return c
}

// StaticPeers lists the peers that are kept for ever, with their retry state.
func (n *Node) StaticPeers() []StaticPeer {
	list := []StaticPeer{}
	for _, s := range n.dial.Static() {
		v := StaticPeer{Item: s.Item, ID: s.ID, Origin: s.Origin, State: string(s.State), Class: string(s.Class), Tries: s.Tries,
			LastError: s.LastError, WholeError: s.WholeError, Addresses: texts(s.Addresses), Resting: texts(s.Resting)}
		if !s.NextAt.IsZero() {
			at := inMS(s.NextAt)
			v.NextAt = &at
		}
		list = append(list, v)
	}
	return list
}

// NodeStatus is what this node tells everybody each status interval.
func (n *Node) NodeStatus() wire.NodeStatus {
	st := n.network.Status()
	y := n.syncState()
	s := wire.NodeStatus{
		ClientName: n.cfg.Node.Name, BaseURL: n.cfg.Node.BaseURL, Version: n.Version().Version,
		CommitHash: n.Version().Commit, BestBlockHash: st.Head.Hash, BestHeight: st.Head.Height, FSMState: "RUNNING",
		StartTime: uint64(n.started.Unix()), UptimeMS: uint64(time.Since(n.started).Milliseconds()), MinerName: n.cfg.Node.Name,
		ListenMode: "full", ConnectedPeers: uint32(len(n.shake.Ready())), Storage: "full",
	}
	if p := n.pool(); p != nil {
		s.TxCount = uint64(p.Len())
	}
	switch y.State {
	case "waiting":
		s.FSMState = "IDLE"
	case "syncing":
		s.FSMState = "CATCHINGBLOCKS"
	}
	return s
}

// HeardStatus is what another node told everybody of itself.
type HeardStatus = handshake.HeardStatus

// HeardStatuses returns what other nodes told of themselves after the first so
// many, at most 100, and how many came so far. Of more, and at the begin of the
// list, each node that this one knows has the same share, and each peer with
// what it relays of others.
func (n *Node) HeardStatuses(after uint64) ([]HeardStatus, uint64) { return n.shake.Statuses(after) }

// announce tells everybody of this node, once the chain is known.
func (n *Node) announce(ctx context.Context) error {
	sub := n.bus.Subscribe()
	defer sub.Close()
	for n.network.ID().Net == "" {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-sub.Wake():
			sub.Take(eventsAtOnce)
		}
	}
	return n.shake.Announce(ctx, n.gossip.Publish, n.NodeStatus)
}

const eventsAtOnce = 1024

// Partition cuts this node off from every node that is not in its own group,
// by node names. Profile devnet only.
func (n *Node) Partition(ctx context.Context, groups [][]string) error {
	if n.cfg.Profile != "devnet" {
		return ErrNotDevnet
	}
	mine := slices.IndexFunc(groups, func(g []string) bool { return slices.Contains(g, n.cfg.Node.Name) })
	if mine < 0 {
		return fmt.Errorf("partition: no group names this node, %s", n.cfg.Node.Name)
	}
	denied := map[peer.ID]struct{}{}
	for id, name := range n.names() {
		if id != n.host.ID() && !slices.Contains(groups[mine], name) {
			denied[id] = struct{}{}
		}
	}
	n.gate.SetDenied(denied)
	for id := range denied {
		n.shake.Disconnect(ctx, id, wire.GoodbyeShutdown, "devnet partition")
	}
	n.log.Warn("partitioned", "group", groups[mine], "cut", len(denied))
	return nil
}

// Heal ends a partition.
func (n *Node) Heal() error {
	if n.cfg.Profile != "devnet" {
		return ErrNotDevnet
	}
	n.gate.SetDenied(nil)
	n.log.Warn("partition healed")
	return nil
}

// names maps the nodes that we know of to their names.
func (n *Node) names() map[peer.ID]string {
	names := map[peer.ID]string{}
	for _, v := range n.Validators() {
		names[v.Peer] = v.Name
	}
	for _, p := range n.shake.Peers() {
		if p.Name != "" {
			names[p.ID] = p.Name
		}
	}
	return names
}
