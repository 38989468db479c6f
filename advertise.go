package parley

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	"golang.org/x/sync/errgroup"

	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/internal/p2p/host"
)

const (
	nameEvery   = time.Minute     // ± 10 %: names that are told to others are looked up again
	nameTimeout = 5 * time.Second // for one family of a name
	namesAtOnce = 8               // that are looked up
	maxNameIPs  = 16              // of one name that are told: they go into every peer record
)

// advertising is what the node tells of itself because its configuration says so.
type advertising struct {
	known   map[string][]netip.Addr // of each name, as last looked up, in order
	ignored []ignored               // as the log was told last
}

// ignored is an entry that is not advertised.
type ignored struct{ key, why string }

// advertised reads p2p.advertise, p2p.host_ip and p2p.host_dns. It looks up
// nothing: what names lead to is known from the last time.
func (n *Node) advertised(p config.P2P, self peer.ID) (addrs []multiaddr.Multiaddr, left []ignored, err error) {
	ports := host.Ports{TCP: n.cfg.P2P.Port, QUIC: n.quicPort()}
	if n.cfg.P2P.OnAPIPort {
		ports.API = n.apiPort()
	}
	for _, from := range advertisedBy(p) {
		more, warnings, err := host.Advertise(from.key, from.entries, self, ports, func(name string) []netip.Addr { return n.told.known[name] })
		if err != nil {
			return nil, nil, err
		}
		addrs = append(addrs, more...)
		for _, w := range warnings {
			left = append(left, ignored{from.key, w})
		}
	}
	return addrs, left, nil
}

type advertisingKey struct {
	key     string
	entries []string
}

func advertisedBy(p config.P2P) []advertisingKey {
	return []advertisingKey{{"p2p.advertise", p.Advertise}, {"p2p.host_ip", []string{p.HostIP}}, {"p2p.host_dns", []string{p.HostDNS}}}
}

// noteIgnored tells aloud of each entry that is left out for a new reason.
func (n *Node) noteIgnored(left []ignored) { // reloading held
	for _, i := range left {
		if !slices.Contains(n.told.ignored, i) {
			n.log.Warn("address not advertised", "setting", i.key, "why", i.why, "code", "PLY-302")
		}
	}
	n.told.ignored = left
}

// takeAdvertise is for any of the keys that advertise, and acts once for all.
func (n *Node) takeAdvertise(cfg config.Config, t *takeover) (func(), error) {
	if t.advertises {
		return func() {}, nil
	}
	t.advertises = true
	addrs, left, err := n.advertised(cfg.P2P, n.host.ID())
	return func() {
		n.advertise(addrs, left)
		select {
		case n.renamed <- struct{}{}:
		default: // it has not seen the last wake-up yet
		}
	}, err
}

func (n *Node) advertise(addrs []multiaddr.Multiaddr, left []ignored) { // reloading held
	n.noteIgnored(left)
	if err := n.host.SetAdvertise(addrs); err != nil {
		n.log.Error("peers are told of other addresses a little later", "err", err)
	}
}

// watchNames looks up the names that are advertised: now, again and again, and
// when they are other ones.
func (n *Node) watchNames(ctx context.Context) error {
	failing := map[string]bool{}
	for {
		before := n.namesKnown()
		after := n.lookUp(ctx, before, failing)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // asked to end
		}
		n.takeNames(before, after)
		var again <-chan time.Time
		if len(before) > 0 {
			again = time.After(nameEvery - nameEvery/10 + rand.N(nameEvery/5))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-n.renamed:
		case <-again:
		}
	}
}

// namesKnown are the names that are advertised, and what they led to.
func (n *Node) namesKnown() map[string][]netip.Addr {
	n.reloading.Lock()
	defer n.reloading.Unlock()
	known := map[string][]netip.Addr{}
	for _, from := range advertisedBy(n.live.P2P) {
		for _, entry := range from.entries {
			if name := host.NameOf(entry); name != "" {
				known[name] = n.told.known[name]
			}
		}
	}
	return known
}

// lookUp finds what each name leads to by now. failing are those that the log
// was told of.
func (n *Node) lookUp(ctx context.Context, before map[string][]netip.Addr, failing map[string]bool) map[string][]netip.Addr {
	type answer struct {
		ips []netip.Addr
		err error
	}
	answers := make(map[string]*answer, len(before))
	var g errgroup.Group
	g.SetLimit(namesAtOnce)
	for name, ips := range before {
		a := &answer{}
		answers[name] = a
		g.Go(func() error {
			a.ips, a.err = lookUpName(ctx, n.familyResolver(), name, ips)
			return nil
		})
	}
	_ = g.Wait() // none fails
	after := make(map[string][]netip.Addr, len(answers))
	for name, a := range answers {
		after[name] = a.ips
		if a.err != nil && !failing[name] && ctx.Err() == nil {
			n.log.Warn("a name that is advertised cannot be looked up here", "name", name, "err", a.err, "addresses", a.ips, "code", "PLY-302")
		}
		failing[name] = a.err != nil
	}
	return after
}

// takeNames tells others where the names lead to by now.
func (n *Node) takeNames(before, after map[string][]netip.Addr) {
	n.reloading.Lock()
	defer n.reloading.Unlock()
	n.told.known = after
	changed := false
	for name, ips := range after {
		if !slices.Equal(ips, before[name]) {
			changed = true
			n.log.Info("public address changed", "name", name, "from", before[name], "to", ips)
		}
	}
	if !changed {
		return
	}
	addrs, left, err := n.advertised(n.live.P2P, n.host.ID())
	if err != nil { // it was judged before
		n.log.Error("addresses stay as they are", "err", err)
		return
	}
	n.advertise(addrs, left)
}

// familyResolver looks up one family, ip4 or ip6.
func (n *Node) familyResolver() func(ctx context.Context, family, name string) ([]netip.Addr, error) {
	if n.env.Resolve == nil {
		return net.DefaultResolver.LookupNetIP
	}
	return func(ctx context.Context, family, name string) ([]netip.Addr, error) {
		ips, err := n.env.Resolve(ctx, name)
		return slices.DeleteFunc(slices.Clone(ips), func(ip netip.Addr) bool { return familyOf(ip) != family }), err
	}
}

func familyOf(ip netip.Addr) string {
	if ip.Unmap().Is4() {
		return "ip4"
	}
	return "ip6"
}

// lookUpName asks for each family apart, since one may fail alone. An address of
// before is gone only when there are others and its family was answered: who
// asks in vain, or while a record is replaced, forgets nothing. An error says
// that nothing was found.
func lookUpName(ctx context.Context, resolve func(ctx context.Context, family, name string) ([]netip.Addr, error), name string, before []netip.Addr) ([]netip.Addr, error) {
	var ips, kept []netip.Addr
	var errs []error
	for _, family := range []string{"ip4", "ip6"} {
		ctx, cancel := context.WithTimeout(ctx, nameTimeout)
		found, err := resolve(ctx, family, name)
		cancel()
		if dns, ok := errors.AsType[*net.DNSError](err); err != nil && (!ok || !dns.IsNotFound) {
			errs = append(errs, err)
			for _, ip := range before {
				if familyOf(ip) == family {
					kept = append(kept, ip)
				}
			}
		}
		for _, ip := range found {
			ips = append(ips, ip.Unmap())
		}
	}
	if len(ips) == 0 {
		return before, cmp.Or(errors.Join(errs...), fmt.Errorf("look up %s: it has no address", name))
	}
	ips = append(ips, kept...)
	slices.SortFunc(ips, netip.Addr.Compare)
	ips = slices.Compact(ips)
	return ips[:min(len(ips), maxNameIPs)], nil
}
