package dialer

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/parley-p2p/parley/internal/p2p/addrbook"
)

// Origins of a supervised peer.
const (
	OriginConfig = "config"
	OriginMember = "member"
	OriginAPI    = "api"  // added at run time
	originHand   = "hand" // dialled once, in no list
)

// item is one thing to be connected with: what the operator wrote, or a member
// of the network. What it stands for may be several peers.
type item struct {
	text   string
	origin string // member, hand, or "" = static: see [Dialer.originOf]

	// One of: host with port; addr; members have an id and addrs.
	scheme string // http | https | ""
	host   string
	port   uint16
	addr   ma.Multiaddr // without its /p2p part
	id     peer.ID      // "" = to be learned
	addrs  []ma.Multiaddr

	slots  []*slot   // never empty
	lookAt time.Time // names: when to resolve again although all slots rest
	busy   bool      // a look is under way
	gone   bool      // removed; what is under way for it is void
	told   bool      // that it is ourselves
}

// slot is one peer that an item stands for, with its supervisor's state.
type slot struct {
	item     *item
	at       target
	id       peer.ID // as learned; "" = not yet
	dialled  []ma.Multiaddr
	retry    retry
	lastErr  string    // in plain words
	wholeErr string    // as it came
	bannedAt time.Time // it said then that it bans us, and has not let us in since
	busy     bool      // an attempt is under way
	warned   Class
	warnAt   time.Time
}

// target is where one peer of an item is to be found now.
type target struct {
	key   string // tells the targets of one item apart, "" = none yet
	ip    netip.Addr
	id    peer.ID
	addrs []ma.Multiaddr
	sole  bool // the item stands for this one peer, so its id can be pinned
}

// given are the IP addresses of t, nil while it has none.
func (t target) given() []netip.Addr {
	if t.ip.IsValid() {
		return []netip.Addr{t.ip}
	}
	var ips []netip.Addr
	for _, a := range t.addrs {
		if ip := addrbook.IP(a); ip.IsValid() && !slices.Contains(ips, ip) {
			ips = append(ips, ip)
		}
	}
	return ips
}

func (s *slot) tag() string {
	if s.item.origin == OriginMember {
		return tagMember
	}
	return tagStatic
}

// named reports whether the item is a name that may come to stand for others.
func (i *item) named() bool {
	if i.host != "" {
		_, err := netip.ParseAddr(i.host)
		return err != nil
	}
	return i.addr != nil && firstCode(i.addr) == ma.P_DNSADDR
}

func firstCode(a ma.Multiaddr) int {
	if len(a) == 0 {
		return 0
	}
	return a[0].Protocol().Code
}

// parseItem reads one item of PEERS; a host without a port gets defaultPort.
func parseItem(text string, defaultPort int) (*item, error) {
	text = strings.TrimSpace(text)
	it := &item{text: text}
	var err error
	switch {
	case text == "":
		err = errors.New("it is empty")
	case strings.HasPrefix(text, "enode:"):
		err = errors.New("enode names an execution client, which is no peer here; give an enr or a multiaddr")
	case strings.HasPrefix(text, "enr:"):
		err = errors.New("an enr is for Ethereum networks; give host:port or a multiaddr with /p2p/ID")
	case strings.HasPrefix(text, "/"):
		err = it.parseMultiaddr()
	case strings.Contains(text, "://"):
		err = it.parseURL()
	default:
		err = it.parseHost(defaultPort)
	}
	if err != nil {
		return nil, fmt.Errorf("peer %q: %w", text, err)
	}
	return it, nil
}

func (i *item) parseMultiaddr() error {
	a, err := ma.NewMultiaddr(i.text)
	if err != nil {
		return err
	}
	if i.addr, i.id = peer.SplitAddr(a); len(i.addr) == 0 {
		return errors.New("it has no address, only an id; put /ip4/…/tcp/PORT before /p2p")
	}
	return nil
}

func (i *item) parseURL() error {
	u, err := url.Parse(i.text)
	if err != nil {
		return err
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("scheme %q: want http or https", u.Scheme)
	}
	if u.Hostname() == "" {
		return errors.New("it has no host")
	}
	i.scheme, i.host = u.Scheme, u.Hostname()
	standard := "80"
	if u.Scheme == "https" {
		standard = "443"
	}
	return i.setPort(cmp.Or(u.Port(), standard))
}

func (i *item) parseHost(defaultPort int) error {
	if ip, err := netip.ParseAddr(strings.Trim(i.text, "[]")); err == nil {
		i.host = ip.String()
		return i.setPort(strconv.Itoa(defaultPort))
	}
	host, port := i.text, strconv.Itoa(defaultPort)
	if strings.Contains(i.text, ":") {
		var err error
		if host, port, err = net.SplitHostPort(i.text); err != nil {
			return err
		}
	}
	if id, err := peer.Decode(host); err == nil {
		return fmt.Errorf("it is a peer id without an address; give /ip4/…/tcp/PORT/p2p/%s", id)
	}
	if host == "" || strings.ContainsAny(host, " /@?#\t\"'") {
		return errors.New("want host, host:port, a URL or a multiaddr")
	}
	i.host = host
	return i.setPort(port)
}

func (i *item) setPort(s string) error {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return fmt.Errorf("port %q: want 1 to 65535", s)
	}
	i.port = uint16(n)
	return nil
}
