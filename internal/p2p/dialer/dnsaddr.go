package dialer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"
	madns "github.com/multiformats/go-multiaddr-dns"
)

// Bounds of one look at a /dnsaddr: whoever owns a name could send us round and
// round otherwise, 2,000 times before the library has enough.
const (
	dnsaddrDepth = 3
	maxLooks     = 128 // at names, again or not
	maxNames     = 32  // that the DNS is asked for
	maxTexts     = 64  // records of one name
	maxText      = 512 // bytes of one
)

func (d *Dialer) lookDNSAddr(ctx context.Context, it *item) ([]target, error) {
	zone := &zone{txt: d.cfg.TXT, read: map[string][]string{}}
	dns, err := madns.NewResolver(madns.WithDefaultResolver(zone))
	if err != nil {
		return nil, err
	}
	found, err := swarm.ResolverFromMaDNS{Resolver: dns}.ResolveDNSAddr(ctx, it.id, it.addr, dnsaddrDepth, maxTargets)
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", it.addr, err)
	}
	var targets []target
	own := false
	for _, a := range found {
		addr, id := peer.SplitAddr(a)
		own = own || id == d.host.ID()
		if id == "" || len(addr) == 0 || firstCode(addr) == ma.P_DNSADDR || it.id != "" && id != it.id || id == d.host.ID() {
			continue
		}
		i := slices.IndexFunc(targets, func(t target) bool { return t.id == id })
		if i < 0 {
			i = len(targets)
			targets = append(targets, target{key: id.String(), id: id})
		}
		targets[i].addrs = append(targets[i].addrs, addr)
	}
	if len(targets) == 0 && !own {
		return nil, fmt.Errorf("resolve %s: %w", it.addr, errNoAddress)
	}
	return targets, nil
}

// zone is the DNS as one look sees it, within its bounds.
type zone struct {
	txt   func(ctx context.Context, name string) ([]string, error)
	read  map[string][]string
	looks int
}

// LookupTXT implements [madns.BasicResolver].
func (z *zone) LookupTXT(ctx context.Context, name string) ([]string, error) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if z.looks++; z.looks > maxLooks {
		return nil, fmt.Errorf("%s: more than %d looks", name, maxLooks)
	}
	texts, known := z.read[name]
	if known {
		return texts, nil
	}
	if len(z.read) >= maxNames {
		return nil, fmt.Errorf("%s: more than %d names", name, maxNames)
	}
	z.read[name] = nil // though it fails
	texts, err := z.txt(ctx, name)
	if err != nil {
		return nil, err
	}
	texts = slices.Clone(texts[:min(len(texts), maxTexts)])
	z.read[name] = slices.DeleteFunc(texts, func(s string) bool { return len(s) > maxText })
	return z.read[name], nil
}

// LookupIPAddr implements [madns.BasicResolver]; it is not asked for.
func (*zone) LookupIPAddr(context.Context, string) ([]net.IPAddr, error) {
	return nil, errors.ErrUnsupported
}
