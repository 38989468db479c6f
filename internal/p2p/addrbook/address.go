package addrbook

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// class tells from where an address can be reached (OPERATORS 1.1).
type class uint8

const (
	never    class = iota // by nobody: unspecified, link-local, documentation, tunnels
	loopback              // from this machine
	private               // from this LAN, or behind this carrier's NAT
	public
)

// nets are the prefixes of one family.
type nets struct{ private, loopback, never []netip.Prefix }

var (
	v4 = nets{
		private:  prefixes("10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 100.64.0.0/10"),
		loopback: prefixes("127.0.0.0/8"),
		never: prefixes("0.0.0.0/8 169.254.0.0/16 224.0.0.0/4 240.0.0.0/4 192.0.0.0/24 192.0.2.0/24 198.51.100.0/24 " +
			"203.0.113.0/24 198.18.0.0/15 192.88.99.0/24"),
	}
	v6 = nets{
		private:  prefixes("fc00::/7"),
		loopback: prefixes("::1/128"),
		never:    prefixes("2001::/32 2001:db8::/32 3fff::/20 2002::/16"),
	}
	globalV6 = netip.MustParsePrefix("2000::/3")
)

func prefixes(list string) (all []netip.Prefix) {
	for s := range strings.FieldsSeq(list) {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}

func within(ip netip.Addr, list []netip.Prefix) bool {
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(ip) })
}

// classOf expects what clean gave. IPv6 outside of 2000::/3 is public nowhere.
func classOf(ip netip.Addr) class {
	if !ip.IsValid() {
		return never
	}
	family := &v4
	if ip.Is6() {
		family = &v6
	}
	switch {
	case within(ip, family.never):
		return never
	case within(ip, family.loopback):
		return loopback
	case within(ip, family.private):
		return private
	case ip.Is6() && !globalV6.Contains(ip):
		return never
	}
	return public
}

// classOfName judges a DNS name by its text alone.
func classOfName(name string) class {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	for _, end := range []string{"invalid", "test", "onion"} {
		if name == end || strings.HasSuffix(name, "."+end) {
			return never
		}
	}
	if len(name) > 253 {
		return never
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 {
			return never
		}
	}
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return loopback
	}
	if !strings.Contains(name, ".") {
		return private
	}
	for _, end := range []string{".local", ".internal", ".lan", ".home.arpa"} {
		if strings.HasSuffix(name, end) {
			return private
		}
	}
	return public
}

// clean gives the one form of an address: IPv4 as such, no zone.
func clean(ip netip.Addr) netip.Addr { return ip.Unmap().WithZone("") }

// address is one dialable address, read once.
type address struct {
	raw     string     // the multiaddr in bytes, without /p2p of the peer itself
	ip      netip.Addr // the relay's for a relayed one, not valid for a DNS name
	relayed bool
	class   class
}

// forms are what we dial, as the names after IP or DNS name.
var forms = map[string]bool{
	"tcp": true, "tcp/ws": true, "tcp/wss": true, "tcp/tls/ws": true, "tcp/tls/sni/ws": true, "udp/quic-v1": true,
}

// maxAddr bounds one address in bytes: a name of 253 and what follows it.
const maxAddr = 320

// parse reads an address of id. It reports false for what nobody can dial:
// other transports, port 0, the name of another peer, no address class.
func parse(a ma.Multiaddr, id peer.ID) (address, bool) {
	a = withoutSelf(a, id)
	raw := a.Bytes()
	if len(a) < 2 || len(raw) > maxAddr {
		return address{}, false
	}
	out := address{raw: string(raw)}
	switch first := a[0]; first.Protocol().Code {
	case ma.P_IP4, ma.P_IP6:
		ip, ok := netip.AddrFromSlice(first.RawValue())
		if !ok {
			return address{}, false
		}
		out.ip = clean(ip)
		out.class = classOf(out.ip)
	case ma.P_DNS, ma.P_DNS4, ma.P_DNS6:
		out.class = classOfName(first.Value())
	default:
		return address{}, false
	}
	if port := a[1].RawValue(); len(port) != 2 || port[0] == 0 && port[1] == 0 {
		return address{}, false
	}
	var form []string
	for i, c := range a[1:] {
		name := c.Protocol().Name
		if name == "p2p" { // /p2p/RELAY/p2p-circuit and nothing after it
			rest := a[1+i:]
			if len(rest) != 2 || rest[1].Protocol().Code != ma.P_CIRCUIT {
				return address{}, false
			}
			out.relayed = true
			break
		}
		form = append(form, name)
	}
	return out, forms[strings.Join(form, "/")] && out.class != never
}

// withoutSelf cuts a last /p2p/ID of id itself.
func withoutSelf(a ma.Multiaddr, id peer.ID) ma.Multiaddr {
	if n := len(a); n > 0 && a[n-1].Protocol().Code == ma.P_P2P && string(a[n-1].RawValue()) == string(id) {
		return a[:n-1]
	}
	return a
}

// place is what the limit of peers per address counts: an IPv4 address or an
// IPv6 /64; the peers behind a relay apart from those on its machine.
type place struct {
	ip      netip.Addr
	relayed bool
}

func (a address) place() place {
	ip := a.ip
	if ip.Is6() {
		p, _ := ip.Prefix(64) // never fails: 64 fits
		ip = p.Addr()
	}
	return place{ip: ip, relayed: a.relayed}
}

const (
	perIP      = 2  // peers of one public address: more is a Sybil's way to be many
	perSharing = 32 // of a non-public address (containers, NAT) or of a relay
)

func (p place) limit() int {
	if p.relayed || classOf(p.ip) != public {
		return perSharing
	}
	return perIP
}

// IP is the IP that an address begins with, of a relayed one the relay's; the
// zero Addr where it is a name or nil.
func IP(a ma.Multiaddr) netip.Addr {
	if a == nil {
		return netip.Addr{}
	}
	raw, err := manet.ToIP(a)
	if err != nil {
		return netip.Addr{}
	}
	ip, _ := netip.AddrFromSlice(raw)
	return ip.Unmap()
}

var shared = netip.MustParsePrefix("100.64.0.0/10") // carriers' NAT

// Public reports whether limits by group bear on ip: it is no address of a site
// or a machine, behind which there may be many nodes.
func Public(ip netip.Addr) bool {
	return ip.IsGlobalUnicast() && !ip.IsPrivate() && !shared.Contains(ip)
}
