package host

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// Ports are what an advertised address without a port stands for.
type Ports struct {
	TCP  int // p2p.port; 0 = chosen by the system, so that a port must be given
	QUIC int // 0 means TCP; NoQUIC
	API  int // the API's port where it carries libp2p, else 0: it has no QUIC
}

// Advertise reads what a key of the configuration, such as p2p.advertise, has
// told to others: IPs, names, host:port and multiaddrs. Entries that nobody could
// dial are left out with a warning each; an error is only what names another
// node. known are the addresses that a name had when it was last looked up: they
// choose its families and are told too; with none both families are named.
func Advertise(key string, entries []string, self peer.ID, p Ports, known func(name string) []netip.Addr) (addrs []ma.Multiaddr, warnings []string, err error) {
	if p.QUIC == 0 {
		p.QUIC = p.TCP
	}
	var errs []error
	for _, entry := range entries {
		entry = strings.TrimSpace(entry)
		if entry == "" {
			continue
		}
		var found []ma.Multiaddr
		var why string
		var err error
		if strings.HasPrefix(entry, "/") {
			found, why, err = advertiseMultiaddr(entry, self)
		} else {
			found, why = advertiseHost(entry, p, known)
		}
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: %q: %w", key, entry, err))
		case why != "":
			warnings = append(warnings, "ignoring advertise address: "+why)
		}
		addrs = append(addrs, found...)
	}
	return unique(addrs), warnings, errors.Join(errs...)
}

func advertiseMultiaddr(entry string, self peer.ID) (_ []ma.Multiaddr, why string, _ error) {
	a, err := ma.NewMultiaddr(quicV1(entry))
	if err != nil {
		return nil, fmt.Sprintf("%q is no multiaddr: %v", entry, err), nil
	}
	a, id := peer.SplitAddr(a)
	if id != "" && id != self {
		return nil, "", fmt.Errorf("the peer id is not this node's, which is %s", self)
	}
	if len(a) == 0 {
		return nil, fmt.Sprintf("%q holds no address", entry), nil
	}
	if raw, err := manet.ToIP(a); err == nil {
		ip, _ := netip.AddrFromSlice(raw)
		if why := undialable(ip.Unmap()); why != "" {
			return nil, why, nil
		}
	}
	return []ma.Multiaddr{a}, "", nil
}

func advertiseHost(entry string, p Ports, known func(string) []netip.Addr) (addrs []ma.Multiaddr, why string) {
	tcp, quic := p.TCP, p.QUIC
	name, port, withPort := splitEntry(entry)
	if withPort {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return nil, fmt.Sprintf("%q: port %q is not within 1 to 65535", entry, port)
		}
		tcp, quic = int(n), int(n)
		if tcp == p.API && tcp != p.QUIC || p.QUIC == NoQUIC {
			quic = NoQUIC // the API's port is TCP alone
		}
	} else if p.TCP == 0 {
		return nil, fmt.Sprintf("%q needs a port, for p2p.port is chosen by the system: set p2p.port, or give %s:PORT in p2p.advertise", entry, entry)
	}
	if ip, err := netip.ParseAddr(name); err == nil {
		if why := undialable(ip.Unmap()); why != "" {
			return nil, why
		}
		return ipAddrs(ip, tcp, quic), ""
	}
	if !isName(name) {
		return nil, fmt.Sprintf("%q is no IP, name, host:port or multiaddr", entry)
	}
	return advertiseName(name, tcp, quic, known(name))
}

// advertiseName leaves out those of a name's addresses that lead others nowhere,
// or to themselves: a machine often has its own name at 127.0.1.1.
func advertiseName(name string, tcp, quic int, known []netip.Addr) (addrs []ma.Multiaddr, why string) {
	var ips []netip.Addr
	for _, ip := range known {
		switch own := ip.Unmap(); {
		case own.IsLoopback(), own.IsLinkLocalUnicast(), own.IsMulticast():
			why = fmt.Sprintf("%s, which %s is on this machine, leads nobody else here; have the name lead to an address that others reach", own, name)
		case undialable(own) != "":
			why = fmt.Sprintf("of %s: %s", name, undialable(own))
		default:
			ips = append(ips, own)
		}
	}
	isV6 := func(ip netip.Addr) bool { return !ip.Is4() }
	if len(ips) == 0 || slices.ContainsFunc(ips, netip.Addr.Is4) {
		addrs = append(addrs, prefixAddrs("/dns4/"+name, tcp, quic)...)
	}
	if len(ips) == 0 || slices.ContainsFunc(ips, isV6) {
		addrs = append(addrs, prefixAddrs("/dns6/"+name, tcp, quic)...)
	}
	for _, ip := range ips {
		addrs = append(addrs, ipAddrs(ip, tcp, quic)...)
	}
	return addrs, why
}

// NameOf is the name in an entry for [Advertise] whose addresses it asks for, ""
// where there is none.
func NameOf(entry string) string {
	name, _, _ := splitEntry(strings.TrimSpace(entry))
	if _, err := netip.ParseAddr(name); err == nil || !isName(name) {
		return ""
	}
	return name
}

func splitEntry(entry string) (name, port string, withPort bool) {
	if h, port, err := net.SplitHostPort(entry); err == nil {
		return h, port, true
	}
	return strings.Trim(entry, "[]"), "", false
}

// documentation are the networks that examples use and nobody has.
var documentation = []netip.Prefix{
	netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("203.0.113.0/24"),
	netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("3fff::/20"),
}

func undialable(ip netip.Addr) string {
	if ip.IsUnspecified() {
		return ip.String() + ` means "every interface" and cannot be dialled; leave p2p.host_ip empty to have it found, or set your public address or name`
	}
	for _, p := range documentation {
		if p.Contains(ip) {
			return ip.String() + " is a documentation address that nobody has; set your public address or name"
		}
	}
	return ""
}

// isName accepts host names as DNS and containers have them.
func isName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for _, r := range s {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '.', r == '_':
		default:
			return false
		}
	}
	return true
}
