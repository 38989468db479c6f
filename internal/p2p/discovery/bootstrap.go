package discovery

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/parley-p2p/parley/internal/p2p/addrbook"
)

const bootAtOnce = 4 // bootstrap peers that are asked at once

// bootItem is one bootstrap peer, or a name of several.
type bootItem struct {
	text   string
	addr   ma.Multiaddr // nil = text is host[:port] or a URL
	silent bool         // none of it answered when it was asked last; of who asks
}

// SetBootstrap replaces the bootstrap peers: new ones are asked at the next
// [Discovery.Need], which is now where nobody is connected. An error names all
// items that cannot be used, and nothing has changed then.
func (d *Discovery) SetBootstrap(texts []string) error {
	items, err := parseBoot(texts)
	if err != nil {
		return err
	}
	news := false
	d.mu.Lock()
	for i, it := range items {
		at := slices.IndexFunc(d.items, func(o *bootItem) bool { return o.text == it.text })
		if at < 0 {
			news = true
			continue
		}
		items[i] = d.items[at] // and whether it was silent
	}
	d.items = items
	d.mu.Unlock()
	if news && len(d.host.Network().Peers()) == 0 {
		d.Need()
	}
	return nil
}

// CheckBootstrap names all items that cannot be used.
func CheckBootstrap(texts []string) error {
	_, err := parseBoot(texts)
	return err
}

// Bootstraps counts the bootstrap peers.
func (d *Discovery) Bootstraps() int { return len(d.boots()) }

func (d *Discovery) boots() []*bootItem {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.items
}

// parseBoot reports all items that cannot be used.
func parseBoot(texts []string) ([]*bootItem, error) {
	var items []*bootItem
	var errs []error
	for _, text := range texts {
		it := &bootItem{text: text}
		if strings.HasPrefix(text, "/") {
			a, err := ma.NewMultiaddr(text)
			if err == nil && a[0].Code() != ma.P_DNSADDR {
				_, err = peer.AddrInfoFromP2pAddr(a)
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("p2p.bootstrap_peers: %q: give a multiaddr with /p2p/ID, /dnsaddr/NAME or host:port: %w", text, err))
				continue
			}
			it.addr = a
		}
		items = append(items, it)
	}
	return items, errors.Join(errs...)
}

// infos tells who an item is.
func (it *bootItem) infos(ctx context.Context, d *Discovery) ([]peer.AddrInfo, error) {
	switch {
	case it.addr == nil:
		if d.fns.Identity == nil {
			return nil, errors.New("nobody can be asked for its peer id here")
		}
		info, err := d.fns.Identity(ctx, it.text)
		return []peer.AddrInfo{info}, err
	case it.addr[0].Code() == ma.P_DNSADDR:
		return d.newWalk().follow(ctx, it.addr)
	}
	info, err := peer.AddrInfoFromP2pAddr(it.addr)
	if err != nil {
		return nil, err
	}
	return []peer.AddrInfo{*info}, nil
}

// askBootstrap asks all bootstrap peers for others and leaves them; again asks
// those alone that were silent the last time. It is not called twice at once.
func (d *Discovery) askBootstrap(ctx context.Context, again bool) (told, silent int) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, bootAtOnce)
	items := d.boots()
	for _, i := range rand.Perm(len(items)) {
		it := items[i]
		if again && !it.silent {
			continue
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			wg.Wait()
			return 0, 0
		}
		wg.Go(func() {
			defer func() { <-slots }()
			err := d.askBoot(ctx, it)
			d.tell(it, err)
		})
	}
	wg.Wait()
	for _, it := range items {
		if it.silent {
			silent++
		} else {
			told++
		}
	}
	return told, silent
}

// tell logs what came of asking an item, where it is news.
func (d *Discovery) tell(it *bootItem, err error) {
	was := it.silent
	switch it.silent = err != nil; {
	case err != nil && !was:
		d.log.Info("bootstrap peer does not answer", "item", it.text, "err", err)
	case err != nil:
		d.log.Debug("bootstrap peer does not answer yet", "item", it.text, "err", err)
	case was:
		d.log.Info("bootstrap peer answers", "item", it.text)
	}
}

// askBoot asks whoever an item stands for. An error means that none of them
// answered.
func (d *Discovery) askBoot(ctx context.Context, it *bootItem) error {
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	infos, err := it.infos(ctx, d)
	if err != nil {
		return fmt.Errorf("find: %w", err)
	}
	var errs []error
	answered := 0
	for _, info := range infos[:min(len(infos), maxWalkPeers)] {
		if info.ID == d.host.ID() || info.ID == "" {
			answered++ // we need not ask ourselves again
			continue
		}
		src := addrbook.Source{Kind: addrbook.Bootstrap, Peer: info.ID, IP: firstIP(info.Addrs)}
		if err := d.intake.bare(src, info); err != nil {
			d.log.Debug("bootstrap peer not stored", "peer", info.ID, "err", err)
		}
		if err := d.visit(ctx, info, src); err != nil {
			errs = append(errs, err)
		} else {
			answered++
		}
	}
	if answered > 0 {
		return nil
	}
	return errors.Join(errs...)
}

// visit connects to a peer, asks it for others and lets go of it. Before the
// network is known there is nothing to ask: the address is all that counts.
func (d *Discovery) visit(ctx context.Context, info peer.AddrInfo, src addrbook.Source) error {
	k, x := d.parts()
	if k == nil && x == nil {
		return nil
	}
	d.clearBackoff(info.ID)
	if err := d.visits.enter(ctx, info, src, true); err != nil {
		return err
	}
	defer d.visits.leave(info.ID)
	if k != nil {
		k.newcomers.consider(ctx, info.ID)
	}
	if x != nil {
		return x.ask(ctx, info.ID)
	}
	return nil
}

// clearBackoff lets p be dialled again at once: when a bootstrap peer is asked
// again is ours to say, not the library's.
func (d *Discovery) clearBackoff(p peer.ID) {
	if n, ok := d.host.Network().(interface{ Backoff() *swarm.DialBackoff }); ok {
		n.Backoff().Clear(p)
	}
}
