package addrbook

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/gaissmai/bart"
	ma "github.com/multiformats/go-multiaddr"
)

// groupDNS is the group of all whose names nobody has resolved yet: a name
// costs nothing, so many names must not be many groups.
const groupDNS = "dns"

const (
	maxASLine  = 256
	maxASLines = 4_000_000 // four times today's routes of both families
)

// ASMap knows which autonomous system an address is of. nil knows nothing.
//
// The file has one route a line: a prefix, blanks, the number of the system
// with or without AS before it, and after # whatever one likes:
//
//	# made from a dump of routes
//	192.0.2.0/24   AS64500
//	2001:db8::/32  64500
//
// The longest prefix that holds an address counts; a prefix may stand there
// once; what no prefix holds is grouped as without a map.
type ASMap struct {
	routes bart.Table[uint32]
	sum    [sha256.Size]byte
}

// LoadASMap reads the file at path; "" is no map.
func LoadASMap(path string) (*ASMap, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	m, err := readASMap(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

func readASMap(r io.Reader) (*ASMap, error) {
	m := &ASMap{}
	sum := sha256.New()
	lines := bufio.NewScanner(io.TeeReader(r, sum))
	lines.Buffer(make([]byte, 0, maxASLine), maxASLine)
	n := 0
	for lines.Scan() {
		if n++; n > maxASLines {
			return nil, fmt.Errorf("more than %d lines", maxASLines)
		}
		text, _, _ := strings.Cut(lines.Text(), "#")
		words := strings.Fields(text)
		if len(words) == 0 {
			continue
		}
		if len(words) != 2 {
			return nil, fmt.Errorf("line %d: %q: want a prefix and a number, as in 192.0.2.0/24 AS64500", n, text)
		}
		p, err := netip.ParsePrefix(words[0])
		if err != nil || p.Addr().Is4In6() {
			return nil, fmt.Errorf("line %d: %q is no prefix, want one as in 192.0.2.0/24", n, words[0])
		}
		as, err := strconv.ParseUint(strings.TrimPrefix(strings.ToUpper(words[1]), "AS"), 10, 32)
		if err != nil {
			return nil, fmt.Errorf("line %d: %q is no number of an autonomous system, want one as in AS64500", n, words[1])
		}
		p = p.Masked()
		if _, twice := m.routes.Get(p); twice {
			return nil, fmt.Errorf("line %d: %s stands there twice", n, p)
		}
		m.routes.Insert(p, uint32(as))
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("line %d: %w", n+1, err)
	}
	sum.Sum(m.sum[:0])
	return m, nil
}

// checksum is nil without a map.
func (m *ASMap) checksum() []byte {
	if m == nil {
		return nil
	}
	return m.sum[:]
}

// group names the part of the network that one hand can be thought to hold:
// a public IPv4 /16 or IPv6 /32, or the system where a map knows it; a
// non-public /24 or /64. What is no address has the group "".
func (m *ASMap) group(ip netip.Addr) string {
	ip = clean(ip)
	c := classOf(ip)
	switch {
	case !ip.IsValid():
		return ""
	case c == public && m != nil:
		if as, ok := m.routes.Lookup(ip); ok {
			return "as:" + strconv.FormatUint(uint64(as), 10)
		}
	}
	bits := 16
	if ip.Is6() {
		bits = 32
	}
	if c != public {
		bits = 24
		if ip.Is6() {
			bits = 64
		}
	}
	return prefixText(ip, bits)
}

// prefixText is the first bits of an address: 4:192.0, 6:2001:db8.
func prefixText(ip netip.Addr, bits int) string {
	b := ip.AsSlice()
	out := make([]byte, 0, 24)
	if ip.Is4() {
		out = append(out, '4')
		for i := range bits / 8 {
			out = strconv.AppendUint(append(out, ".:"[b2i(i == 0)]), uint64(b[i]), 10)
		}
		return string(out)
	}
	out = append(out, '6')
	for i := range bits / 16 {
		out = strconv.AppendUint(append(out, ':'), uint64(b[2*i])<<8|uint64(b[2*i+1]), 16)
	}
	return string(out)
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Group is the group of an address: of its IP, of the relay's IP, or "dns" for
// a name that nobody has resolved. "" is what no address stands for.
func (b *Book) Group(a ma.Multiaddr) string {
	if len(a) == 0 {
		return ""
	}
	switch first := a[0]; first.Protocol().Code {
	case ma.P_IP4, ma.P_IP6:
		ip, _ := netip.AddrFromSlice(first.RawValue())
		return b.GroupOf(ip)
	case ma.P_DNS, ma.P_DNS4, ma.P_DNS6, ma.P_DNSADDR:
		return groupDNS
	}
	return ""
}

// GroupOf is the group of an IP, "" for the zero Addr.
func (b *Book) GroupOf(ip netip.Addr) string { return b.cfg.ASMap.group(ip) }

func (b *Book) groupOf(a address) string {
	if !a.ip.IsValid() {
		return groupDNS
	}
	return b.cfg.ASMap.group(a.ip)
}

// sourceGroup is the group of who told us. Sources without an address are a
// group for each kind.
func (b *Book) sourceGroup(s Source) string {
	if g := b.cfg.ASMap.group(s.IP); g != "" {
		return g
	}
	return "kind:" + string(s.Kind)
}
