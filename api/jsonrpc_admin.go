package api

import (
	"context"
	"net"
	"strconv"
	"strings"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/parley-p2p/parley"
)

// rpcParley answers with the bodies of the native routes.
type rpcParley struct{ s *Server }

func (p *rpcParley) Status() parley.Status { return p.s.node.Status() }

func (p *rpcParley) Peers() list[parley.Peer] { return listOf(p.s.node.Peers(), "").Body }

func (p *rpcParley) Chain() (parley.Chain, error) {
	c, err := p.s.node.Chain()
	return c, p.s.rpcFault(err)
}

// rpcAdmin is geth's admin service.
type rpcAdmin struct{ s *Server }

type gethPeer struct {
	ID        string         `json:"id"` // 64 hex digits
	Name      string         `json:"name"`
	ENR       string         `json:"enr"`
	Enode     string         `json:"enode"` // always ""
	Caps      []string       `json:"caps"`  // protocols
	Network   gethConn       `json:"network"`
	Protocols map[string]any `json:"protocols"`
}

type gethConn struct {
	LocalAddress  string `json:"localAddress"` // not known: ""
	RemoteAddress string `json:"remoteAddress"`
	Inbound       bool   `json:"inbound"`
	Trusted       bool   `json:"trusted"`
	Static        bool   `json:"static"`
}

func (a *rpcAdmin) Peers() []gethPeer {
	peers := []gethPeer{}
	for _, p := range a.s.node.Peers() {
		v := gethPeer{
			ID: digestOf(p.ID), Name: p.Agent, Caps: []string{}, Protocols: map[string]any{
				"parley": map[string]any{"peer_id": p.ID, "name": p.Name, "claimed": p.Claimed, "validated": p.Validated},
			},
			Network: gethConn{RemoteAddress: netAddress(p.Addr), Inbound: p.Direction == "inbound", Trusted: p.Trusted, Static: p.Static},
		}
		if d, ok := a.s.node.PeerDetail(p.ID); ok {
			v.Caps = d.Protocols
		}
		peers = append(peers, v)
	}
	return peers
}

// netAddress is the host:port of a multiaddr, or the text as it is.
func netAddress(text string) string {
	if addr, err := multiaddr.NewMultiaddr(text); err == nil {
		if na, err := manet.ToNetAddr(addr); err == nil {
			return na.String()
		}
	}
	return text
}

type gethNode struct {
	ID         string         `json:"id"`
	Name       string         `json:"name"`
	ENR        string         `json:"enr"`
	Enode      string         `json:"enode"`
	IP         string         `json:"ip"`
	Ports      gethPorts      `json:"ports"`
	ListenAddr string         `json:"listenAddr"`
	Protocols  map[string]any `json:"protocols"`
}

type gethPorts struct {
	Discovery int `json:"discovery"` // 0: this network has no discv5
	Listener  int `json:"listener"`
}

// NodeInfo shows the first TCP address that is advertised, or listened on.
func (a *rpcAdmin) NodeInfo() gethNode {
	i := a.s.node.Info()
	v := gethNode{ID: digestOf(i.PeerID), Name: i.Agent, Protocols: map[string]any{
		"parley": map[string]any{"peer_id": i.PeerID, "name": i.Name, "advertised": i.Advertised, "head": a.s.node.Status().Head},
	}}
	if i.ENR != nil {
		v.ENR = *i.ENR
	}
	v.IP, v.Ports.Listener = firstTCP(i.Advertised)
	ip, port := firstTCP(i.Listen)
	if ip != "" {
		v.ListenAddr = net.JoinHostPort(ip, strconv.Itoa(port))
	}
	if v.IP == "" {
		v.IP, v.Ports.Listener = ip, port
	}
	return v
}

func firstTCP(addrs []string) (ip string, port int) {
	for _, text := range addrs {
		addr, err := multiaddr.NewMultiaddr(text)
		if err != nil {
			continue
		}
		if tcp, err := manet.ToNetAddr(addr); err == nil {
			if tcp, ok := tcp.(*net.TCPAddr); ok {
				return tcp.IP.String(), tcp.Port
			}
		}
	}
	return "", 0
}

func (a *rpcAdmin) Datadir() string { return a.s.cfg.DataDir }

// AddPeer keeps a peer for ever. It takes what PEERS takes.
func (a *rpcAdmin) AddPeer(ctx context.Context, address string) (bool, error) {
	if err := noEnode(address); err != nil {
		return false, err
	}
	_, err := a.s.node.AddPeer(ctx, address, false)
	return err == nil, a.s.rpcFault(err)
}

// RemovePeer takes such an address, or what names a peer.
func (a *rpcAdmin) RemovePeer(ctx context.Context, address string) (bool, error) {
	if err := noEnode(address); err != nil {
		return false, err
	}
	_, err := a.s.node.RemovePeer(ctx, address)
	return err == nil, a.s.rpcFault(err)
}

func (a *rpcAdmin) AddTrustedPeer(address string) (bool, error) {
	id, err := a.trustee(address, true)
	if err == nil {
		_, err = a.s.node.TrustPeer(id)
	}
	return err == nil, a.s.rpcFault(err)
}

func (a *rpcAdmin) RemoveTrustedPeer(address string) (bool, error) {
	id, err := a.trustee(address, false)
	if err == nil {
		_, err = a.s.node.UntrustPeer(id)
	}
	return err == nil, a.s.rpcFault(err)
}

// trustee is the peer that an address names, by its id where it has one.
func (a *rpcAdmin) trustee(address string, strict bool) (peer.ID, error) {
	if err := noEnode(address); err != nil {
		return "", err
	}
	if addr, err := multiaddr.NewMultiaddr(address); err == nil {
		if _, id := peer.SplitAddr(addr); id != "" {
			return id, nil
		}
	}
	return a.s.node.FindPeer(address, strict)
}

// noEnode refuses the addresses of another protocol.
func noEnode(address string) error {
	if strings.HasPrefix(address, "enode:") {
		return badParams("enode:// names a node of devp2p, which this node does not speak: give host:port, a multiaddr or, on Ethereum networks, an ENR")
	}
	return nil
}
