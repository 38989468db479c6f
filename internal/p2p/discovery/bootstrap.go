package discovery

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/parley-p2p/parley/internal/p2p/addrbook"
)

const bootAtOnce = 4 // bootstrap peers that are asked at once

// bootItem is one bootstrap peer, or a name of several.
type bootItem struct {
	text string
	addr ma.Multiaddr // nil = text is host[:port] or a URL
}

// parseBoot reports all items that cannot be used.
func parseBoot(texts []string) ([]bootItem, error) {
	var items []bootItem
	var errs []error
	for _, text := range texts {
		it := bootItem{text: text}
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
func (it bootItem) infos(ctx context.Context, d *Discovery) ([]peer.AddrInfo, error) {
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

// askBootstrap asks all bootstrap peers for others and leaves them.
func (d *Discovery) askBootstrap(ctx context.Context) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, bootAtOnce)
	for _, i := range rand.Perm(len(d.items)) {
		it := d.items[i]
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			wg.Wait()
			return
		}
		wg.Go(func() {
			defer func() { <-slots }()
			d.askBoot(ctx, it)
		})
	}
	wg.Wait()
}

func (d *Discovery) askBoot(ctx context.Context, it bootItem) {
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	infos, err := it.infos(ctx, d)
	if err != nil {
		d.log.Info("bootstrap peer not found", "item", it.text, "err", err)
		return
	}
	for _, info := range infos[:min(len(infos), maxWalkPeers)] {
		if info.ID == d.host.ID() || info.ID == "" {
			continue
		}
		src := addrbook.Source{Kind: addrbook.Bootstrap, Peer: info.ID, IP: firstIP(info.Addrs)}
		if err := d.intake.bare(src, info); err != nil {
			d.log.Debug("bootstrap peer not stored", "peer", info.ID, "err", err)
		}
		if err := d.visit(ctx, info, src); err != nil {
			d.log.Info("bootstrap peer does not answer", "item", it.text, "peer", info.ID, "err", err)
		}
	}
}

// visit connects to a peer, asks it for others and lets go of it. Before the
// network is known there is nothing to ask: the address is all that counts.
func (d *Discovery) visit(ctx context.Context, info peer.AddrInfo, src addrbook.Source) error {
	k, x := d.parts()
	if k == nil && x == nil {
		return nil
	}
	if err := d.visits.enter(ctx, info, src, true); err != nil {
		return err
	}
	defer d.visits.leave(info.ID)
	if k != nil {
		k.consider(ctx, info.ID)
	}
	if x != nil {
		return x.ask(ctx, info.ID)
	}
	return nil
}
