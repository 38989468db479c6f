package host

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

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
