package reputation

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// Target is whom a ban is for: a peer or a range of addresses. The zero value
// is nobody. Targets that mean the same are equal.
type Target struct {
	Peer   peer.ID
	Prefix netip.Prefix // masked; a single address has all its bits
}

// Kinds of targets.
const (
	KindPeer = "peer"
	KindCIDR = "cidr"
)

// maxTarget bounds the text of a target, in bytes.
const maxTarget = 512

// ParseTarget reads a peer id, an IP address or a CIDR. A port and the rest of
// a multiaddr are dropped, IPv4 within IPv6 becomes IPv4, bits beyond the
// prefix become 0. It asks no name server: host names are refused.
func ParseTarget(s string) (Target, error) {
	t, err := parseTarget(s)
	if err != nil {
		return Target{}, &RequestError{err}
	}
	return t, nil
}

// RequestError says what is wrong with a request.
type RequestError struct{ Err error }

func (e *RequestError) Error() string { return e.Err.Error() }

// Unwrap returns the reason.
func (e *RequestError) Unwrap() error { return e.Err }

func parseTarget(s string) (Target, error) {
	s = strings.TrimSpace(s)
	switch {
	case s == "":
		return Target{}, errors.New("the target is empty: give a peer id, an IP address or a CIDR")
	case len(s) > maxTarget:
		return Target{}, fmt.Errorf("the target has %d bytes: a peer id, an IP address or a CIDR has at most %d", len(s), maxTarget)
	}
	if strings.HasPrefix(s, "/") {
		return multiaddrTarget(s)
	}
	if p, err := netip.ParsePrefix(s); err == nil {
		return prefixTarget(p)
	}
	if addr, bits, ok := strings.Cut(s, "/"); ok {
		if a, err := netip.ParseAddr(addr); err == nil {
			return Target{}, badPrefix(s, a, bits)
		}
	}
	if a, err := netip.ParseAddr(s); err == nil {
		return AddrTarget(a)
	}
	if a, err := netip.ParseAddrPort(s); err == nil {
		return AddrTarget(a.Addr())
	}
	if p, err := peer.Decode(s); err == nil {
		return Target{Peer: p}, nil
	}
	return Target{}, fmt.Errorf("target %q is no peer id, IP address or CIDR: host names are not banned, give the address; of a peer that you know by its name, parley peers show tells the id", s)
}

// badPrefix says what is wrong with the bits of s, which are after the address a.
func badPrefix(s string, a netip.Addr, bits string) error {
	if n, err := strconv.Atoi(bits); err == nil && n > a.BitLen() {
		return fmt.Errorf("target %q has a prefix over %d: want %s/0 to /%d", s, a.BitLen(), a, a.BitLen())
	}
	return fmt.Errorf("target %q has no prefix that can be read: want a number from 0 to %d after the /, and no zone", s, a.BitLen())
}

func multiaddrTarget(s string) (Target, error) {
	m, err := ma.NewMultiaddr(s)
	if err != nil {
		return Target{}, fmt.Errorf("target %q: %w", s, err)
	}
	if ip, err := manet.ToIP(m); err == nil {
		a, _ := netip.AddrFromSlice(ip)
		return AddrTarget(a)
	}
	if id, err := m.ValueForProtocol(ma.P_P2P); err == nil {
		return parseTarget(id)
	}
	return Target{}, fmt.Errorf("target %q names no IP address and no peer", s)
}

// AddrTarget is the one address a, without its zone.
func AddrTarget(a netip.Addr) (Target, error) {
	a = a.Unmap().WithZone("")
	if !a.IsValid() {
		return Target{}, errors.New("the target is no IP address")
	}
	return Target{Prefix: netip.PrefixFrom(a, a.BitLen())}, nil
}

func prefixTarget(p netip.Prefix) (Target, error) {
	a := p.Addr()
	if bits := p.Bits(); a.Is4In6() {
		if bits < 96 {
			return Target{}, fmt.Errorf("target %q covers more than IPv4 within IPv6: give the IPv4 prefix", p)
		}
		p = netip.PrefixFrom(a.Unmap(), bits-96)
	}
	return Target{Prefix: p.Masked()}, nil
}

// Kind is [KindPeer] or [KindCIDR].
func (t Target) Kind() string {
	if t.Peer != "" {
		return KindPeer
	}
	return KindCIDR
}

// String is the form that is stored and shown; an address stands without its
// bits. [ParseTarget] reads it back.
func (t Target) String() string {
	switch {
	case t.Peer != "":
		return t.Peer.String()
	case t.Prefix.IsSingleIP():
		return t.Prefix.Addr().String()
	default:
		return t.Prefix.String()
	}
}

// Covers reports whether a connection with p at a falls under t. Either may be
// empty.
func (t Target) Covers(p peer.ID, a netip.Addr) bool {
	if t.Peer != "" {
		return t.Peer == p
	}
	return a.IsValid() && t.Prefix.Contains(a.Unmap().WithZone(""))
}
