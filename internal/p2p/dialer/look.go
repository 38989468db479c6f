package dialer

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

const (
	lookTimeout = 5 * time.Second
	maxTargets  = 64 // of one name
)

// look finds the targets of an item as of now. Our own addresses are no
// targets; none left is no error.
func (d *Dialer) look(ctx context.Context, it *item) ([]target, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	switch {
	case it.host != "":
		ips, err := d.resolve(ctx, it.host)
		if err != nil {
			return nil, err
		}
		own := d.own()
		var targets []target
		for _, ip := range ips {
			if !own[netip.AddrPortFrom(ip, it.port)] {
				targets = append(targets, target{key: ip.String(), ip: ip, sole: len(ips) == 1})
			}
		}
		return targets, nil
	case it.origin == OriginMember:
		d.mu.Lock()
		defer d.mu.Unlock()
		return []target{{key: "member", id: it.id, addrs: it.addrs}}, nil
	case firstCode(it.addr) == ma.P_DNSADDR:
		return d.lookDNSAddr(ctx, it)
	}
	addrs, err := d.resolveMultiaddr(ctx, it.addr)
	return []target{{key: "addr", id: it.id, addrs: addrs, sole: true}}, err
}

// resolve returns at least one address.
func (d *Dialer) resolve(ctx context.Context, name string) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(name); err == nil {
		return []netip.Addr{ip.Unmap()}, nil
	}
	found, err := d.fns.Resolve(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", name, err)
	}
	var ips []netip.Addr
	for _, ip := range found {
		if ip = ip.Unmap(); !slices.Contains(ips, ip) && len(ips) < maxTargets {
			ips = append(ips, ip)
		}
	}
	if len(ips) == 0 {
		return nil, fmt.Errorf("resolve %s: %w", name, errNoAddress)
	}
	return ips, nil
}

// resolveMultiaddr puts the addresses of a name in its place, so that a name
// that is not there is seen as such.
func (d *Dialer) resolveMultiaddr(ctx context.Context, a ma.Multiaddr) ([]ma.Multiaddr, error) {
	code := firstCode(a)
	if code != ma.P_DNS && code != ma.P_DNS4 && code != ma.P_DNS6 {
		return []ma.Multiaddr{a}, nil
	}
	ips, err := d.resolve(ctx, a[0].Value())
	if err != nil {
		return nil, err
	}
	var addrs []ma.Multiaddr
	for _, ip := range ips {
		if code == ma.P_DNS4 && !ip.Is4() || code == ma.P_DNS6 && ip.Is4() {
			continue
		}
		if at, err := atIP(ip, a); err == nil {
			addrs = append(addrs, at)
		}
	}
	if len(addrs) == 0 {
		return nil, fmt.Errorf("resolve %s: %w", a, errNoAddress)
	}
	return addrs, nil
}

// spread gives each target of an item its slot: mine, the slot under way, may
// take one that has none. mu held.
func (d *Dialer) spread(it *item, mine *slot, targets []target, now time.Time) {
	free := map[string]target{}
	for _, t := range targets {
		free[t.key] = t
	}
	for _, s := range it.slots {
		if t, ok := free[s.at.key]; ok {
			s.at = t
			delete(free, t.key)
		} else if s == mine {
			s.at = target{}
		}
	}
	for _, t := range targets {
		if _, ok := free[t.key]; !ok {
			continue
		}
		if mine != nil && mine.at.key == "" {
			mine.at, mine.id = t, t.id
			if t.id == "" && t.sole {
				mine.id = d.kept.Pins[it.text]
			}
			continue
		}
		s := &slot{item: it, at: t, id: t.id, retry: newRetry(now)}
		it.slots = append(it.slots, s)
	}
	wanted := func(s *slot) bool {
		return s == mine || s.busy || s.retry.state == Connected ||
			slices.ContainsFunc(targets, func(t target) bool { return t.key == s.at.key })
	}
	if slices.ContainsFunc(it.slots, wanted) {
		it.slots = slices.DeleteFunc(it.slots, func(s *slot) bool { return !wanted(s) })
	}
}

// portAddrs are the ways to reach libp2p at a port.
func portAddrs(ip netip.Addr, port uint16) []ma.Multiaddr {
	base := "/ip4/"
	if ip.Is6() {
		base = "/ip6/"
		if zone := ip.Zone(); zone != "" {
			base = "/ip6zone/" + zone + base
		}
	}
	base += ip.WithZone("").String()
	n := strconv.Itoa(int(port))
	var addrs []ma.Multiaddr
	for _, s := range []string{base + "/tcp/" + n, base + "/udp/" + n + "/quic-v1"} {
		if a, err := ma.NewMultiaddr(s); err == nil {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// atIP is a with its first part replaced by ip.
func atIP(ip netip.Addr, a ma.Multiaddr) (ma.Multiaddr, error) {
	switch firstCode(a) {
	case ma.P_IP4, ma.P_IP6, ma.P_DNS, ma.P_DNS4, ma.P_DNS6:
	default:
		return nil, fmt.Errorf("address %s does not begin with a host", a)
	}
	host, err := manet.FromIP(ip.WithZone("").AsSlice())
	if err != nil {
		return nil, err
	}
	return host.Encapsulate(a[1:]), nil
}

// own is where we listen.
func (d *Dialer) own() map[netip.AddrPort]bool {
	own := map[netip.AddrPort]bool{}
	if d.cfg.Own == nil {
		return own
	}
	for _, a := range d.cfg.Own() {
		addr, err := manet.ToNetAddr(firstTwo(a))
		if err != nil {
			continue
		}
		if at, err := netip.ParseAddrPort(addr.String()); err == nil {
			own[netip.AddrPortFrom(at.Addr().Unmap().WithZone(""), at.Port())] = true
		}
	}
	return own
}

func firstTwo(a ma.Multiaddr) ma.Multiaddr { return a[:min(2, len(a))] }
