package discovery

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/internal/p2p/addrbook"
	"github.com/parley-p2p/parley/internal/wire"
)

const (
	pexEvery    = 30 * time.Minute
	pexTimeout  = 10 * time.Second
	pexOffers   = 64 // peers that wait to be asked
	pexSome     = 3  // asked at one Need
	pexServing  = 32 // requests served at once
	spamRefused = 2  // times as many records refused as taken: it is no list of peers
)

// pex swaps signed peer records, one request a connection.
type pex struct {
	d       *Discovery
	id      protocol.ID
	offers  chan peer.ID
	serving chan struct{}
	handler sync.WaitGroup

	mu     sync.Mutex // guards below
	closed bool
	conns  map[string]*pexConn // by connection id, live ones
	guests map[peer.ID]bool    // being served: one request of each at once
}

type pexConn struct{ asked, served bool }

func newPEX(d *Discovery, net string) *pex {
	x := &pex{
		d: d, id: protocol.ID("/parley/" + net + "/pex/1"), offers: make(chan peer.ID, pexOffers),
		serving: make(chan struct{}, pexServing), conns: map[string]*pexConn{}, guests: map[peer.ID]bool{},
	}
	d.host.Network().Notify(x.notifiee())
	d.host.SetStreamHandler(x.id, x.handle)
	return x
}

func (x *pex) notifiee() network.Notifiee {
	return &network.NotifyBundle{DisconnectedF: func(_ network.Network, c network.Conn) {
		x.mu.Lock()
		defer x.mu.Unlock()
		delete(x.conns, c.ID())
	}}
}

func (x *pex) close() {
	x.d.host.RemoveStreamHandler(x.id)
	x.mu.Lock()
	x.closed = true
	x.mu.Unlock()
	x.handler.Wait()
}

// mark notes that a connection is used for a request and reports whether it is
// the first one in that direction.
func (x *pex) mark(c network.Conn, field func(*pexConn) *bool) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if c.IsClosed() {
		return false
	}
	e := x.conns[c.ID()]
	if e == nil {
		e = &pexConn{}
		x.conns[c.ID()] = e
	}
	first := !*field(e)
	*field(e) = true
	return first
}

// forget drops connections that closed while they were being noted.
func (x *pex) forget() {
	live := map[string]bool{}
	for _, c := range x.d.host.Network().Conns() {
		live[c.ID()] = true
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	maps.DeleteFunc(x.conns, func(id string, _ *pexConn) bool { return !live[id] })
}

func askedField(e *pexConn) *bool  { return &e.asked }
func servedField(e *pexConn) *bool { return &e.served }

// offer has a peer that is ready asked, where we connected to it.
func (x *pex) offer(p peer.ID) {
	for _, c := range x.d.host.Network().ConnsToPeer(p) {
		if c.Stat().Direction == network.DirOutbound {
			select {
			case x.offers <- p:
			default: // it is asked at the next Need
			}
			return
		}
	}
}

func (x *pex) run(ctx context.Context) {
	tick := time.NewTicker(pexEvery)
	defer tick.Stop()
	for _, p := range x.fresh() { // those who were ready before the network was known
		x.offer(p)
	}
	for {
		select {
		case <-ctx.Done():
			return
		case p := <-x.offers:
			x.askOne(ctx, p)
		case <-tick.C:
			x.forget()
			if list := x.fresh(); len(list) > 0 {
				x.askOne(ctx, list[rand.IntN(len(list))])
			}
		}
	}
}

func (x *pex) askOne(ctx context.Context, p peer.ID) {
	if err := x.ask(ctx, p); err != nil && ctx.Err() == nil {
		x.d.log.Debug("peer exchange", "peer", p, "err", err)
	}
}

// fresh lists the ready peers whom we have not asked over their connection.
func (x *pex) fresh() []peer.ID {
	var list []peer.ID
	for _, p := range x.d.host.Network().Peers() {
		if x.d.fns.Ready(p) && x.speaks(p) && x.unasked(p) {
			list = append(list, p)
		}
	}
	return list
}

func (x *pex) speaks(p peer.ID) bool {
	id, err := x.d.host.Peerstore().FirstSupportedProtocol(p, x.id)
	return err == nil && id == x.id
}

func (x *pex) unasked(p peer.ID) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, c := range x.d.host.Network().ConnsToPeer(p) {
		if e := x.conns[c.ID()]; e != nil && e.asked {
			return false
		}
	}
	return true
}

// askSome asks a few peers that were not asked yet.
func (x *pex) askSome(ctx context.Context) {
	list := x.fresh()
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	for _, p := range list[:min(len(list), pexSome)] {
		x.askOne(ctx, p)
	}
}

// ask asks a connected, ready peer, once a connection; a second time it does
// nothing.
func (x *pex) ask(ctx context.Context, p peer.ID) error {
	if !x.unasked(p) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, pexTimeout)
	defer cancel()
	st, err := x.d.host.NewStream(network.WithNoDial(ctx, "pex"), p, x.id)
	if err != nil {
		return fmt.Errorf("ask %s for peers: %w", p, err)
	}
	defer st.Reset()
	if !x.mark(st.Conn(), askedField) {
		return nil
	}
	x.d.intake.book.Asked(p)
	_ = st.SetDeadline(time.Now().Add(pexTimeout))
	if err := wire.WriteFrame(st, wire.PEXRequest{}.Encode()); err != nil {
		return fmt.Errorf("ask %s for peers: %w", p, err)
	}
	_ = st.CloseWrite()
	b, err := wire.ReadFrame(st, wire.MaxPEXAnswer)
	if err != nil {
		x.charge(p, err)
		return fmt.Errorf("peers of %s: %w", p, err)
	}
	answer, err := wire.DecodePEXAnswer(b)
	if err != nil {
		x.charge(p, err)
		return fmt.Errorf("peers of %s: %w", p, err)
	}
	x.take(addrbook.Source{Kind: addrbook.PEX, Peer: p, IP: remoteIP(st.Conn())}, answer.Records)
	return nil
}

// charge reports bytes that are wrong whoever reads them.
func (x *pex) charge(p peer.ID, err error) {
	if bad, ok := errors.AsType[*chain.InvalidError](wire.Fault(err)); ok {
		x.d.metrics.refuse(string(bad.Offence))
		x.d.fns.Report(p, bad.Offence, "peer exchange: "+bad.Detail)
	}
}

// take hands records to the book. A forged one proves that who sent it did not
// look either; a list of which most is refused is spam.
func (x *pex) take(src addrbook.Source, records [][]byte) {
	taken, refused, forged := 0, 0, error(nil)
	for _, r := range records {
		switch err := x.d.intake.record(src, r); {
		case err == nil:
			taken++
		case errors.Is(err, addrbook.ErrForged), errors.Is(err, addrbook.ErrTooLarge):
			refused++
			forged = err
		case errors.Is(err, addrbook.ErrNotDialable), errors.Is(err, addrbook.ErrRate):
			refused++
		}
	}
	x.d.log.Debug("peers told", "peer", src.Peer, "records", len(records), "taken", taken)
	switch {
	case forged != nil:
		x.d.metrics.refuse("bad_record")
		x.d.fns.Report(src.Peer, chain.BadRecord, "peer exchange: "+forged.Error())
	case refused > spamRefused*taken && refused >= 16:
		x.d.fns.Report(src.Peer, chain.Spam, fmt.Sprintf("peer exchange: %d of %d records cannot be used", refused, len(records)))
	}
}

// handle answers one request.
func (x *pex) handle(st network.Stream) {
	done := false
	defer func() {
		if !done { // after an answer it would take back what is not sent yet
			_ = st.Reset()
		}
	}()
	p := st.Conn().RemotePeer()
	if !x.enter(p) {
		x.d.metrics.refuse("streams")
		return
	}
	defer x.leave(p)
	select {
	case x.serving <- struct{}{}:
		defer func() { <-x.serving }()
	default:
		x.d.metrics.refuse("streams")
		return
	}
	if !x.d.fns.Ready(p) {
		x.d.metrics.refuse("not_ready")
		return
	}
	if err := x.serve(st, p); err != nil {
		x.charge(p, err)
		x.d.log.Debug("peer exchange", "peer", p, "err", err)
		return
	}
	done = true
	_ = st.Close()
}

// enter counts a stream of p in, and refuses a second one at once: a few peers
// that dawdle would else hold all places.
func (x *pex) enter(p peer.ID) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed || x.guests[p] {
		return false
	}
	x.guests[p] = true
	x.handler.Add(1)
	return true
}

func (x *pex) leave(p peer.ID) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.guests, p)
	x.handler.Done()
}

var (
	errSecond = errors.New("a second request on one connection")
	errGone   = errors.New("the connection was closed meanwhile")
)

func (x *pex) serve(st network.Stream, p peer.ID) error {
	_ = st.SetDeadline(time.Now().Add(pexTimeout))
	b, err := wire.ReadFrame(st, wire.MaxPEXRequest)
	if err != nil {
		return err
	}
	req, err := wire.DecodePEXRequest(b)
	if err != nil {
		return err
	}
	if !x.mark(st.Conn(), servedField) {
		if st.Conn().IsClosed() {
			return errGone // who asks and leaves does nothing wrong
		}
		x.d.metrics.refuse("second_request")
		x.d.fns.Report(p, chain.Violation, "peer exchange: "+errSecond.Error())
		return errSecond
	}
	records := x.d.intake.book.Share(addrbook.Source{Kind: addrbook.PEX, Peer: p, IP: remoteIP(st.Conn())})
	return wire.WriteFrame(st, wire.PEXAnswer{Records: fitting(records, int(req.Max))}.Encode())
}

// fitting leaves out what an answer cannot carry.
func fitting(records [][]byte, most int) [][]byte {
	if most == 0 {
		most = wire.MaxPEXRecords
	}
	var out [][]byte
	for _, r := range records {
		if len(r) > 0 && len(r) <= wire.MaxPEXRecord && len(out) < most {
			out = append(out, r)
		}
	}
	return out
}
