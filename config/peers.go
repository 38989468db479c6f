package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	ma "github.com/multiformats/go-multiaddr"
)

// PeerError is one item of PEERS that nobody can dial.
type PeerError struct {
	Item     string
	Position int    // from 1
	Reason   string // why, and what to write instead
}

// Error names the item, its position and the reason.
func (e *PeerError) Error() string {
	return fmt.Sprintf("item %d %s %s", e.Position, quote(e.Item), e.Reason)
}

// parsePeers checks the items of PEERS, of which empty ones count and are left out. They come back as ParsePeer gives them, none twice, the unreadable ones left out: each
// of those is a *PeerError.
func parsePeers(raw []string) (items, warnings []string, faults []error) {
	for i, text := range raw {
		if text == "" {
			continue
		}
		item, err := ParsePeer(text)
		switch {
		case err != nil:
			faults = append(faults, &PeerError{Item: text, Position: i + 1, Reason: err.Error()})
			continue
		case slices.Contains(items, item):
			warnings = append(warnings, fmt.Sprintf("item %d %s is there twice: used once [PLY-102]", i+1, quote(text)))
			continue
		case item != text:
			warnings = append(warnings, fmt.Sprintf("item %d %s is read as %s", i+1, quote(text), item))
		}
		items = append(items, item)
	}
	return items, warnings, faults
}

// splitPeers reads the text of PEERS: items by comma, which may be empty; blanks around them, one pair of quotes around the whole
// or an item, and a comment from a blank and # on are dropped (docker's --env-file keeps the last two). A list as in a file is
// read too.
func splitPeers(text string) []string {
	text = unquote(dropComment(unquote(strings.TrimSpace(text))))
	text, _ = unbracket(text)
	var items []string
	for item := range strings.SplitSeq(text, ",") {
		items = append(items, unquote(strings.TrimSpace(item)))
	}
	return items
}

// dropComment cuts from a # that begins the text or follows a blank.
func dropComment(text string) string {
	for i := range len(text) {
		if text[i] == '#' && (i == 0 || text[i-1] == ' ' || text[i-1] == '\t') {
			return strings.TrimSpace(text[:i])
		}
	}
	return text
}

// unquote removes one pair of quotes and the blanks inside it, if the text has no further quote of that kind.
func unquote(text string) string {
	if len(text) < 2 || (text[0] != '"' && text[0] != '\'') || text[0] != text[len(text)-1] {
		return text
	}
	if inner := text[1 : len(text)-1]; strings.IndexByte(inner, text[0]) < 0 {
		return strings.TrimSpace(inner)
	}
	return text
}

// ParsePeer checks one static peer: a multiaddr, host[:port], or http(s)://host:port. It returns the item as it is dialled:
// the old /quic is read as /quic-v1. Nothing is looked up.
func ParsePeer(item string) (string, error) {
	scheme, _, hasScheme := strings.Cut(item, "://")
	switch {
	case strings.HasPrefix(item, "/"):
		addr, err := parseMultiaddr(item)
		if err != nil {
			return "", err
		}
		return addr.String(), nil
	case scheme == "enode" && hasScheme:
		return "", errors.New("is an address of Ethereum's devp2p, which parley does not speak: give host:port or a multiaddr")
	case strings.HasPrefix(item, "enr:"):
		return "", errors.New("is an Ethereum node record, which this version cannot dial: give host:port or a multiaddr")
	case scheme == "http" || scheme == "https":
		return item, checkURL(item, false)
	case hasScheme:
		return "", errors.New("has an unknown scheme: give host:port, http(s)://host:port or a multiaddr")
	case strings.HasPrefix(item, "12D3KooW") && !strings.Contains(item, "."):
		return "", errors.New("is a peer ID, which has no address: give /ip4/ADDRESS/tcp/PORT/p2p/ID; a known peer: parley peers connect ID, parley peers trust ID")
	default:
		return item, checkHostPort(item)
	}
}

// parseMultiaddr reads an address that has an IP or name and, but for dnsaddr, a transport.
func parseMultiaddr(text string) (ma.Multiaddr, error) {
	addr, err := ma.NewMultiaddr(text)
	if err != nil {
		return nil, fmt.Errorf("is not a multiaddr like /ip4/192.0.2.1/tcp/9906: %w", err)
	}
	var out ma.Multiaddr
	dialable := false
	for i := range addr {
		c := addr[i]
		switch code := c.Protocol().Code; code {
		case ma.P_QUIC:
			v1, err := ma.NewComponent("quic-v1", "")
			if err != nil {
				return nil, fmt.Errorf("read /quic as /quic-v1: %w", err)
			}
			c = *v1
		case ma.P_TCP, ma.P_UDP, ma.P_DNSADDR:
			dialable = true
		}
		out = append(out, c)
	}
	switch out[0].Protocol().Code {
	case ma.P_IP4, ma.P_IP6, ma.P_DNS, ma.P_DNS4, ma.P_DNS6, ma.P_DNSADDR, ma.P_IP6ZONE:
	default:
		return nil, errors.New("begins with no IP or name: give /ip4/…, /ip6/…, /dns/… or /dnsaddr/…")
	}
	if !dialable {
		return nil, errors.New("has no tcp or udp port: give an address like /ip4/192.0.2.1/tcp/9906")
	}
	return out, nil
}

// checkURL allows a path only where withPath says so; never a user, query or fragment.
func checkURL(text string, withPath bool) error {
	u, err := url.Parse(text)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return errors.New("is not a URL like http://host:8080")
	}
	if !withPath && u.Path != "" && u.Path != "/" {
		return errors.New("has a path: give only http(s)://host:port")
	}
	return checkHostPort(u.Host)
}

// checkHostPort allows IP, name, IP:port, [IP]:port and name:port.
func checkHostPort(text string) error {
	bare := text
	if inner, ok := strings.CutPrefix(text, "["); ok && strings.HasSuffix(inner, "]") {
		bare = strings.TrimSuffix(inner, "]")
	}
	if _, err := netip.ParseAddr(bare); err == nil {
		return nil
	}
	host := text
	if strings.Contains(text, ":") && !strings.Contains(text, "/") {
		h, port, err := net.SplitHostPort(text)
		if err != nil {
			return errors.New("is not host:port: an IPv6 address with a port needs brackets, like [2001:db8::1]:8080")
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return errors.New("has no port between 1 and 65535")
		}
		host = h
	}
	if !isHost(host) {
		return errors.New("is neither an IP address nor a host name: give host:port or a multiaddr")
	}
	return nil
}

// isHost says whether text is an IP address or a name. Names may hold _, as containers' names do.
func isHost(text string) bool {
	if _, err := netip.ParseAddr(text); err == nil {
		return true
	}
	name := strings.TrimSuffix(text, ".")
	if name == "" || len(name) > 253 { // RFC 1035
		return false
	}
	digitsOnly := true
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || strings.HasPrefix(label, "-") { // RFC 1035
			return false
		}
		digitsOnly = strings.Trim(label, "0123456789") == ""
		for _, r := range label {
			if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' {
				return false
			}
		}
	}
	return !digitsOnly // the last label decides: 300.1.1.1 is a mistyped IP, not a name
}
