package discovery

import (
	"errors"
	"net/netip"

	"github.com/libp2p/go-libp2p/core/peer"
)

type Kind string

const (
	Static    Kind = "static"
	Bootstrap Kind = "bootstrap"
	DNS       Kind = "dns"
	DHT       Kind = "dht"
	PEX       Kind = "pex"
	MDNS      Kind = "mdns"
	Inbound   Kind = "inbound"
	Operator  Kind = "operator"
)

type Source struct {
	Kind Kind
	Peer peer.ID
	IP   netip.Addr
}

type Entry struct {
	ID      peer.ID
	Sources []Source
}

type Book interface {
	Add(src Source, envelope []byte) error
	AddBare(src Source, info peer.AddrInfo) error
	Asked(p peer.ID)
	Share(requester Source) [][]byte
	Get(p peer.ID) (Entry, bool)
	GroupOf(ip netip.Addr) string
}

var (
	ErrForged       = errors.New("forged")
	ErrNotDialable  = errors.New("not dialable")
	ErrRate         = errors.New("rate")
	ErrOtherNetwork = errors.New("other network")
)
