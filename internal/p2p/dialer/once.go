package dialer

import (
	"context"
	"errors"
	"fmt"

	"github.com/libp2p/go-libp2p/core/peer"
)

// DialError says why a connection by hand came to nothing.
type DialError struct {
	Class Class
	Err   error
}

func (e *DialError) Error() string { return oneLine(e.Err) }
func (e *DialError) Unwrap() error { return e.Err }

func dialError(err error) error {
	if err == nil {
		return nil
	}
	return &DialError{Class: classify(err), Err: err}
}

// Connect connects once with what text names, in the form of a static peer,
// and greets. It returns when the peer is ready, within 30 s; the peer is not
// kept. Where the text stands for several peers the first that answers is
// taken. A failed dial is a *[DialError]; any other error means that the text
// is wrong.
func (d *Dialer) Connect(ctx context.Context, text string) (peer.ID, error) {
	it, err := parseItem(text, d.cfg.DefaultPort)
	if err != nil {
		return "", err
	}
	it.origin = originHand
	if it.id == d.host.ID() {
		return "", dialError(errSelf)
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	targets, err := d.look(ctx, it)
	if err != nil {
		return "", dialError(err)
	}
	err = errSelf // look leaves our own addresses out
	for _, at := range targets {
		who := d.learn(ctx, it, at, "")
		if who.err == nil && who.id == d.host.ID() {
			who.err = errSelf
		}
		if who.err == nil {
			who.err = d.byHand(ctx, it, who)
		}
		if who.err == nil {
			return who.id, nil
		}
		err = who.err
		if ctx.Err() != nil {
			break
		}
	}
	return "", dialError(err)
}

// ConnectPeer is Connect for a peer whose id and addresses are known; those
// that static peers and the host know of it are tried too.
func (d *Dialer) ConnectPeer(ctx context.Context, info peer.AddrInfo) error {
	if info.ID == d.host.ID() {
		return dialError(errSelf)
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	it := &item{text: info.ID.String(), origin: originHand, id: info.ID}
	return dialError(d.byHand(ctx, it, outcome{id: info.ID, dialled: info.Addrs}))
}

// byHand connects and greets, and marks the peer as one of the operator's.
func (d *Dialer) byHand(ctx context.Context, it *item, who outcome) error {
	if d.connected(who.id) { // whose it is does not change
		err := d.fns.Greet(ctx, who.id)
		if err != nil {
			return fmt.Errorf("greet: %w", err)
		}
		return nil
	}
	d.mu.Lock()
	d.hand[who.id] = true
	d.mu.Unlock()
	s := &slot{item: it, id: who.id}
	err := d.single(ctx, who.id, func() error { return d.connect(ctx, s, who) })
	d.mu.Lock()
	if d.hand[who.id] = false; err != nil {
		delete(d.hand, who.id)
	}
	d.mu.Unlock()
	if err == nil && !d.connected(who.id) {
		return fmt.Errorf("connect: %w", errors.New("the peer went at once"))
	}
	return err
}

// ByHand reports whether the connection with p was made by Connect.
func (d *Dialer) ByHand(p peer.ID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, ok := d.hand[p]
	return ok
}
