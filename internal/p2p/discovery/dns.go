package discovery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/parley-p2p/parley/internal/p2p/addrbook"
)

// Bounds of one walk through DNS: whoever owns a name could send us round and
// round otherwise.
const (
	maxWalkDepth = 3
	maxWalkNames = 32  // looked up
	maxWalkTexts = 64  // TXT records read of one name
	maxWalkText  = 512 // bytes of one
	maxWalkPeers = 128 // found
	maxNameIPs   = 32  // of one name
)

const dnsaddrMark = "dnsaddr="

// walk follows dnsaddr records from one name.
type walk struct {
	d     *Discovery
	names map[string]bool // looked up already
	found map[peer.ID]*peer.AddrInfo
	order []peer.ID
}

func (d *Discovery) newWalk() *walk {
	return &walk{d: d, names: map[string]bool{}, found: map[peer.ID]*peer.AddrInfo{}}
}

// follow resolves one address, which may be a /dnsaddr. An error means that
// nothing was found.
func (w *walk) follow(ctx context.Context, a ma.Multiaddr) ([]peer.AddrInfo, error) {
	err := w.step(ctx, a, 0)
	if len(w.order) == 0 {
		if err == nil {
			err = errors.New("no addresses with a peer id")
		}
		return nil, fmt.Errorf("resolve %s: %w", a, err)
	}
	var infos []peer.AddrInfo
	for _, id := range w.order {
		infos = append(infos, *w.found[id])
	}
	return infos, nil
}

func (w *walk) step(ctx context.Context, a ma.Multiaddr, depth int) error {
	first := a[0]
	switch first.Code() {
	case ma.P_DNSADDR:
		if depth >= maxWalkDepth {
			return fmt.Errorf("%s: deeper than %d names", first.Value(), maxWalkDepth)
		}
		_, want := peer.SplitAddr(a)
		return w.name(ctx, first.Value(), want, depth)
	case ma.P_DNS, ma.P_DNS4, ma.P_DNS6:
		return w.host(ctx, a)
	}
	w.take(a)
	return nil
}

// name reads the dnsaddr records of a name; want = only those of this peer.
func (w *walk) name(ctx context.Context, name string, want peer.ID, depth int) error {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	key := name
	if want != "" {
		key += "/" + string(want) // of two peers each is looked for
	}
	if w.names[key] {
		return nil // a loop, or a second way to it
	}
	if len(w.names) >= maxWalkNames {
		return fmt.Errorf("more than %d names", maxWalkNames)
	}
	w.names[key] = true
	texts, err := w.d.fns.TXT(ctx, "_dnsaddr."+name)
	if err != nil {
		return err
	}
	var errs []error
	for _, text := range texts[:min(len(texts), maxWalkTexts)] {
		value, ok := strings.CutPrefix(text, dnsaddrMark)
		if !ok || len(value) > maxWalkText {
			continue
		}
		a, err := ma.NewMultiaddr(value)
		if err != nil || len(a) == 0 {
			continue
		}
		if _, id := peer.SplitAddr(a); want != "" && id != want && a[0].Code() != ma.P_DNSADDR {
			continue
		}
		errs = append(errs, w.step(ctx, a, depth+1))
	}
	return errors.Join(errs...)
}

// host puts the IPs of a name in its place.
func (w *walk) host(ctx context.Context, a ma.Multiaddr) error {
	name := a[0].Value()
	if len(w.names) >= maxWalkNames {
		return fmt.Errorf("more than %d names", maxWalkNames)
	}
	w.names[a.String()] = true
	ips, err := w.d.fns.Resolve(ctx, name)
	if err != nil {
		return err
	}
	for _, ip := range ips[:min(len(ips), maxNameIPs)] {
		ip = ip.Unmap()
		if a[0].Code() == ma.P_DNS4 && !ip.Is4() || a[0].Code() == ma.P_DNS6 && ip.Is4() {
			continue
		}
		if c, err := ipComponent(ip); err == nil {
			w.take(append(ma.Multiaddr{*c}, a[1:]...))
		}
	}
	return nil
}

func ipComponent(ip netip.Addr) (*ma.Component, error) {
	proto := "ip6"
	if ip.Is4() {
		proto = "ip4"
	}
	return ma.NewComponent(proto, ip.WithZone("").String())
}

// take keeps an address that names its peer.
func (w *walk) take(a ma.Multiaddr) {
	addr, id := peer.SplitAddr(a)
	if id == "" || len(addr) == 0 || id == w.d.host.ID() {
		return
	}
	info := w.found[id]
	if info == nil {
		if len(w.found) >= maxWalkPeers {
			return
		}
		info = &peer.AddrInfo{ID: id}
		w.found[id], w.order = info, append(w.order, id)
	}
	if len(info.Addrs) < maxAddrs {
		info.Addrs = append(info.Addrs, addr)
	}
}

// askDNS looks the configured names up: their dnsaddr records, or the hosts
// behind them; again looks up those alone that led to nobody the last time. It is
// not called twice at once.
func (d *Discovery) askDNS(ctx context.Context, again bool) (told, silent int) {
	for _, item := range d.cfg.DNS {
		was := d.leadsNowhere(item)
		if again && !was {
			continue
		}
		infos, err := d.lookUp(ctx, item)
		switch {
		case ctx.Err() != nil:
			return 0, 0
		case len(infos) == 0 && was:
			d.log.Debug("name leads to no peers yet", "name", item, "err", err)
		case err != nil:
			d.log.Info("name leads to fewer peers than it has, or to none", "name", item, "peers", len(infos), "err", err)
		}
		d.noteName(item, len(infos), err)
		for _, info := range infos {
			if err := d.intake.bare(addrbook.Source{Kind: addrbook.DNS, Peer: info.ID, IP: firstIP(info.Addrs)}, info); err != nil {
				d.log.Debug("peer of a name not stored", "name", item, "peer", info.ID, "err", err)
			}
		}
	}
	silent = len(d.DeadNames())
	return len(d.cfg.DNS) - silent, silent
}

// leadsNowhere reports whether a name led to no peer the last time.
func (d *Discovery) leadsNowhere(item string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dead[item].Why != ""
}

// A DeadName is a configured name that led to no peer when it was looked up
// last.
type DeadName struct {
	Name, Why string
	At        time.Time // of that look
}

// DeadNames lists them in the order of the configuration.
func (d *Discovery) DeadNames() []DeadName {
	d.mu.Lock()
	defer d.mu.Unlock()
	var list []DeadName
	for _, item := range d.cfg.DNS {
		if n := d.dead[item]; n.Why != "" {
			list = append(list, n)
		}
	}
	return list
}

// noteName enters what came of a look at a name.
func (d *Discovery) noteName(item string, peers int, err error) {
	why := "its addresses are this node's own"
	var dns *net.DNSError
	switch {
	case peers > 0:
		why = ""
	case errors.As(err, &dns) && dns.IsNotFound:
		why = dns.Name + " is not in the DNS"
	case errors.As(err, &dns):
		why = "look " + dns.Name + " up: " + dns.Err
	case err != nil:
		why = strings.Join(strings.Fields(err.Error()), " ")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dead[item] = DeadName{item, why[:min(len(why), maxWhy)], time.Now()}
}

const maxWhy = 200 // bytes of a reason

func (d *Discovery) lookUp(ctx context.Context, item string) ([]peer.AddrInfo, error) {
	host, port, err := net.SplitHostPort(item)
	if err != nil {
		host, port = item, ""
	}
	if a, err := ma.NewMultiaddr("/dnsaddr/" + host); port == "" && err == nil {
		if infos, err := d.newWalk().follow(ctx, a); err == nil {
			return infos, nil
		}
	}
	if d.fns.Identity == nil {
		return nil, errors.New("no dnsaddr records, and nobody can be asked for its peer id here")
	}
	ips, err := d.fns.Resolve(ctx, host)
	if err != nil {
		return nil, err
	}
	var infos []peer.AddrInfo
	var errs []error
	for _, ip := range ips[:min(len(ips), maxNameIPs)] {
		at := ip.Unmap().String()
		if port != "" {
			at = net.JoinHostPort(at, port)
		}
		info, err := d.identify(ctx, at)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("ask %s: %w", at, err))
		case info.ID != d.host.ID():
			infos = append(infos, info)
		}
	}
	return infos, errors.Join(errs...)
}

func (d *Discovery) identify(ctx context.Context, at string) (peer.AddrInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, turn)
	defer cancel()
	return d.fns.Identity(ctx, at)
}

func firstIP(addrs []ma.Multiaddr) netip.Addr {
	for _, a := range addrs {
		if ip := addrbook.IP(a); ip.IsValid() {
			return ip
		}
	}
	return netip.Addr{}
}
