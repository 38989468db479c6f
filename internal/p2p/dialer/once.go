package dialer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// DialError says why a connection by hand came to nothing.
type DialError struct {
	Class Class
	Err   error
}

func (e *DialError) Error() string { return reason(e.Err) }
func (e *DialError) Unwrap() error { return e.Err }

// dialError is what came of a dial of what; nil stays nil.
func (d *Dialer) dialError(what string, err error) error {
	if err == nil {
		return nil
	}
	class := classify(err)
	d.log.Debug("dial by hand failed", "target", what, "class", class, "err", oneLine(err.Error(), maxError))
	return &DialError{Class: class, Err: err}
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
		return "", d.dialError(text, errSelf)
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	targets, err := d.look(ctx, it)
	if err != nil {
		return "", d.dialError(text, err)
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
		err = d.aboutKey(it, who, who.err)
		if ctx.Err() != nil {
			break
		}
	}
	return "", d.dialError(text, err)
}

// ConnectPeer is Connect for a peer whose id and addresses are known; those
// that static peers and the host know of it are tried too.
func (d *Dialer) ConnectPeer(ctx context.Context, info peer.AddrInfo) error {
	if info.ID == d.host.ID() {
		return d.dialError(info.ID.String(), errSelf)
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	it := &item{text: info.ID.String(), origin: originHand, id: info.ID}
	return d.dialError(it.text, d.byHand(ctx, it, outcome{id: info.ID, dialled: info.Addrs}))
}

// byHand connects and greets, and marks the peer as one of the operator's.
func (d *Dialer) byHand(ctx context.Context, it *item, who outcome) error {
	d.mu.Lock()
	delete(d.left, who.id)
	d.mu.Unlock()
	if d.connected(who.id) { // a slot that holds it stays as it is; who only asks it does not close it
		err := d.fns.Greet(ctx, who.id)
		if err != nil {
			return fmt.Errorf("greet: %w", err)
		}
		d.mu.Lock()
		if _, dialling := d.hand[who.id]; !dialling && d.connected(who.id) {
			d.hand[who.id] = false
		}
		d.mu.Unlock()
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

const (
	leftFor = time.Hour // a slot does not take up again whom the operator disconnected
	maxLeft = 1024      // are kept in mind
)

// Leave notes that the operator disconnected p: for an hour no slot that is
// filled from the book takes it. Static peers and members are kept all the
// same, and Connect ends it.
func (d *Dialer) Leave(p peer.ID) {
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	maps.DeleteFunc(d.left, func(_ peer.ID, until time.Time) bool { return !now.Before(until) })
	if len(d.left) < maxLeft {
		d.left[p] = now.Add(leftFor)
	}
}

func (d *Dialer) isLeft(p peer.ID, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return now.Before(d.left[p])
}

// ByHand reports whether the connection with p was made by Connect, or was
// there when Connect was to make it.
func (d *Dialer) ByHand(p peer.ID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, ok := d.hand[p]
	return ok
}
