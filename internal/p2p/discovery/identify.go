package discovery

import (
	"bytes"
	"context"
	"errors"
	"time"

	levent "github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/p2p/addrbook"
)

const relearnEvery = 10 * time.Minute

// ears are what the room listens to.
type ears struct {
	lib levent.Subscription
	bus *event.Subscription
}

func (d *Discovery) listen() (ears, error) {
	lib, err := d.host.EventBus().Subscribe(new(levent.EvtPeerIdentificationCompleted), eventbus.BufSize(256))
	if err != nil {
		return ears{}, err
	}
	return ears{lib: lib, bus: d.bus.Subscribe()}, nil
}

// hear takes the signed record of each peer that identifies itself, and turns
// to each that becomes ready.
func (d *Discovery) hear(ctx context.Context, e ears) {
	defer e.bus.Close()
	defer e.lib.Close()
	tick := time.NewTicker(relearnEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			d.relearn()
		case v, open := <-e.lib.Out():
			if !open {
				return
			}
			if done, ok := v.(levent.EvtPeerIdentificationCompleted); ok {
				d.learn(done)
				d.identified(done.Peer)
			}
		case <-e.bus.Wake():
			events, _ := e.bus.Take(256)
			for _, v := range events {
				if r, ok := v.Data.(event.PeerReady); ok {
					d.greeted(r.Peer)
				}
			}
		}
	}
}

// learn stores what a peer says of itself, with its signature.
func (d *Discovery) learn(e levent.EvtPeerIdentificationCompleted) {
	if e.SignedPeerRecord == nil || e.Conn == nil {
		return
	}
	envelope, err := e.SignedPeerRecord.Marshal()
	if err != nil {
		return
	}
	err = d.intake.record(d.origin(e.Peer, e.Conn), envelope)
	if errors.Is(err, addrbook.ErrForged) {
		d.metrics.refuse("bad_record")
		d.fns.Report(e.Peer, chain.BadRecord, "its own peer record: "+err.Error())
	}
}

// relearn stores the newer records that connected peers sent since they
// identified themselves, such as after a change of their address.
func (d *Discovery) relearn() {
	certified, ok := peerstore.GetCertifiedAddrBook(d.host.Peerstore())
	if !ok {
		return
	}
	for _, p := range d.host.Network().Peers() {
		signed := certified.GetPeerRecord(p)
		conns := d.host.Network().ConnsToPeer(p)
		if signed == nil || len(conns) == 0 {
			continue
		}
		envelope, err := signed.Marshal()
		if err != nil {
			continue
		}
		if e, known := d.intake.book.Get(p); known && e.Record != nil && bytes.Equal(e.Record.Envelope, envelope) {
			continue
		}
		if err := d.intake.record(d.origin(p, conns[0]), envelope); err != nil {
			d.log.Debug("newer peer record not stored", "peer", p, "err", err)
		}
	}
}

// origin says how we came to a peer.
func (d *Discovery) origin(p peer.ID, c network.Conn) addrbook.Source {
	src := addrbook.Source{Kind: addrbook.Inbound, Peer: p, IP: remoteIP(c)}
	if c.Stat().Direction == network.DirInbound {
		return src
	}
	if from, ok := d.visits.cause(p); ok {
		return from
	}
	if e, ok := d.intake.book.Get(p); ok && len(e.Sources) > 0 {
		return e.Sources[0]
	}
	src.Kind = addrbook.Static // else only static peers are dialled without being in the book
	if d.fns.ByHand(p) {
		src.Kind = addrbook.Operator
	}
	return src
}

// identified turns to a peer that was ready before it was known what it speaks.
func (d *Discovery) identified(p peer.ID) {
	if k, _ := d.parts(); k != nil && k.private() && k.admits(p) {
		k.newcomers.offer(p)
	}
}

// greeted turns to a peer that is ready now.
func (d *Discovery) greeted(p peer.ID) {
	k, x := d.parts()
	if k != nil {
		k.newcomers.offer(p)
	}
	if x != nil {
		x.offer(p)
	}
}
