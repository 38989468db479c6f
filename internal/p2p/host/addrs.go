package host

import (
	"context"
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

// NoQUIC as the port of QUIC is that of a private network: TCP alone, and /ws
// only where a multiaddr gives it a port of its own.
const NoQUIC = -1

// ListenAddrs gives the addresses to listen on: TCP on port, QUIC on quicPort
// (0 means port; both 0 means that the system chooses; [NoQUIC]), and /ws on
// port. Items of listen are IPs or multiaddrs; none means all IPv4 and IPv6.
// All wrong items are reported at once.
func ListenAddrs(port, quicPort int, listen []string, websocket bool) ([]ma.Multiaddr, error) {
	if len(listen) == 0 {
		listen = []string{"0.0.0.0", "::"}
	}
	if quicPort == 0 {
		quicPort = port
	}
	var addrs []ma.Multiaddr
	var errs []error
	for _, item := range listen {
		if ip, err := netip.ParseAddr(strings.Trim(item, "[]")); err == nil {
			addrs = append(addrs, ipAddrs(ip, port, quicPort)...)
			if websocket && quicPort != NoQUIC {
				addrs = append(addrs, ma.StringCast(fmt.Sprintf("%s/tcp/%d/ws", ipPrefix(ip), port)))
			}
			continue
		}
		a, err := ma.NewMultiaddr(quicV1(item))
		if err == nil {
			err = listenable(a, websocket)
		}
		if err == nil && quicPort == NoQUIC && Transport(a) == "quic-v1" {
			err = errors.New("a private network has no QUIC")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("p2p.listen: %q: %w", item, err))
			continue
		}
		addrs = append(addrs, a)
	}
	return unique(addrs), errors.Join(errs...)
}

// unique drops later doubles; ma.Unique would sort.
func unique(addrs []ma.Multiaddr) []ma.Multiaddr {
	var out []ma.Multiaddr
	for _, a := range addrs {
		if !slices.ContainsFunc(out, a.Equal) {
			out = append(out, a)
		}
	}
	return out
}

// quicV1 reads the old name of QUIC as the new one.
func quicV1(s string) string {
	if strings.HasSuffix(s, "/quic") {
		return s + "-v1"
	}
	return s
}

func listenable(a ma.Multiaddr, websocket bool) error {
	if _, err := manet.ToIP(a); err != nil {
		return errors.New("must begin with /ip4 or /ip6")
	}
	var rest []string
	for _, c := range a[1:] {
		rest = append(rest, c.Protocol().Name)
	}
	switch strings.Join(rest, "/") {
	case "tcp", "udp/quic-v1":
		return nil
	case "tcp/ws":
		if !websocket {
			return errors.New("WebSocket is off: set p2p.websocket")
		}
		return nil
	}
	return errors.New("want /tcp/PORT, /udp/PORT/quic-v1 or /tcp/PORT/ws after the IP")
}

func ipPrefix(ip netip.Addr) string {
	if ip = ip.Unmap(); ip.Is4() {
		return "/ip4/" + ip.String()
	}
	return "/ip6/" + ip.WithZone("").String()
}

func ipAddrs(ip netip.Addr, tcp, quic int) []ma.Multiaddr {
	return prefixAddrs(ipPrefix(ip), tcp, quic)
}

// prefixAddrs leaves out the form whose port is negative.
func prefixAddrs(prefix string, tcp, quic int) (addrs []ma.Multiaddr) {
	if tcp >= 0 {
		addrs = append(addrs, ma.StringCast(fmt.Sprintf("%s/tcp/%d", prefix, tcp)))
	}
	if quic >= 0 {
		addrs = append(addrs, ma.StringCast(fmt.Sprintf("%s/udp/%d/quic-v1", prefix, quic)))
	}
	return addrs
}

// uncovered leaves out the plain TCP addresses that the API's listener takes
// already: one listener serves both then.
func uncovered(listen, api []ma.Multiaddr) []ma.Multiaddr {
	var out []ma.Multiaddr
	for _, a := range listen {
		if !covered(a, api) {
			out = append(out, a)
		}
	}
	return out
}

func covered(a ma.Multiaddr, api []ma.Multiaddr) bool {
	for _, b := range api {
		if len(a) == 2 && len(b) == 2 && a[0].Code() == b[0].Code() && a[1].Equal(&b[1]) && b[1].Value() != "0" &&
			(a[0].Equal(&b[0]) || manet.IsIPUnspecified(b)) {
			return true
		}
	}
	return false
}

func isIPv6Wildcard(a ma.Multiaddr) bool {
	return a[0].Code() == ma.P_IP6 && manet.IsIPUnspecified(a)
}

// Ports are what an advertised address without a port stands for.
type Ports struct {
	TCP  int // p2p.port; 0 = chosen by the system, so that a port must be given
	QUIC int // 0 means TCP; NoQUIC
	API  int // the API's port where it carries libp2p, else 0: it has no QUIC
}

// Advertise reads p2p.advertise: IPs, names, host:port and multiaddrs. Entries
// that nobody could dial are left out with a warning each; an error is only
// what names another node. lookup tells which families a name has and adds the
// IP forms; with nil, or when it fails, both families are named.
func Advertise(ctx context.Context, entries []string, self peer.ID, p Ports, lookup func(ctx context.Context, host string) ([]netip.Addr, error)) (addrs []ma.Multiaddr, warnings []string, err error) {
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
			found, why = advertiseHost(ctx, entry, p, lookup)
		}
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("p2p.advertise: %q: %w", entry, err))
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

func advertiseHost(ctx context.Context, entry string, p Ports, lookup func(context.Context, string) ([]netip.Addr, error)) (addrs []ma.Multiaddr, why string) {
	name := strings.Trim(entry, "[]")
	tcp, quic := p.TCP, p.QUIC
	if h, port, err := net.SplitHostPort(entry); err == nil {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return nil, fmt.Sprintf("%q: port %q is not within 1 to 65535", entry, port)
		}
		name, tcp, quic = h, int(n), int(n)
		if tcp == p.API && tcp != p.QUIC || p.QUIC == NoQUIC {
			quic = NoQUIC // the API's port is TCP alone
		}
	} else if p.TCP == 0 {
		return nil, fmt.Sprintf("%q needs a port, for p2p.port is chosen by the system", entry)
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
	var ips []netip.Addr
	if lookup != nil {
		ips, _ = lookup(ctx, name) // a name that does not resolve yet may do so for others
	}
	v4, v6 := len(ips) == 0, len(ips) == 0
	for _, ip := range ips {
		v4, v6 = v4 || ip.Unmap().Is4(), v6 || !ip.Unmap().Is4()
	}
	if v4 {
		addrs = append(addrs, prefixAddrs("/dns4/"+name, tcp, quic)...)
	}
	if v6 {
		addrs = append(addrs, prefixAddrs("/dns6/"+name, tcp, quic)...)
	}
	for _, ip := range ips {
		addrs = append(addrs, ipAddrs(ip, tcp, quic)...)
	}
	return addrs, ""
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
