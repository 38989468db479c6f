package dialer

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/transport"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"go.opentelemetry.io/otel/attribute"

	"github.com/parley-p2p/parley/internal/tracing"
)

const (
	attemptTimeout = 30 * time.Second // resolve, learn, dial and greet
	dialTimeout    = 10 * time.Second // each dial in it
)

// outcome is what an attempt found out beside its error.
type outcome struct {
	id      peer.ID
	dialled []ma.Multiaddr
	given   int  // how many of dialled are at the host that was given; 0 = all
	learned bool // id was not given: it can be pinned
	private bool // its API says that it is in a private network
	err     error
}

// do carries a job out.
func (d *Dialer) do(ctx context.Context, j job) {
	started := time.Now()
	if j.slot == nil {
		targets, err := d.look(ctx, j.item)
		if err != nil {
			d.log.Debug("static name not resolved", "item", j.item.text, "err", err)
		}
		d.mu.Lock()
		if err == nil {
			d.spread(j.item, nil, targets, time.Now())
		}
		j.item.busy = false
		j.item.lookAt = time.Now().Add(lookEvery)
		d.mu.Unlock()
		return
	}
	out := d.attempt(ctx, j)
	if ctx.Err() != nil {
		return // we are stopping: nothing is the peer's doing
	}
	d.finish(j.slot, started, out)
}

func (d *Dialer) attempt(ctx context.Context, j job) outcome {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	targets, err := d.look(ctx, j.item)
	if err != nil {
		return outcome{err: err}
	}
	d.mu.Lock()
	d.spread(j.item, j.slot, targets, time.Now())
	at, pin := j.slot.at, d.kept.Pins[j.item.text]
	d.mu.Unlock()
	switch {
	case at.key != "":
	case len(targets) > 0:
		return outcome{err: errSurplus}
	default:
		return outcome{err: errSelf} // look leaves our own addresses out
	}
	if !at.sole {
		pin = ""
	}
	who := d.learn(ctx, j.item, at, pin)
	if who.err != nil {
		who.err = d.aboutKey(j.item, who, who.err)
		return who
	}
	if who.id == d.host.ID() {
		who.err = errSelf
		return who
	}
	who.err = d.aboutKey(j.item, who, d.alone(ctx, j.slot, who))
	return who
}

// learn finds the id at a target, and the addresses to dial.
func (d *Dialer) learn(ctx context.Context, it *item, at target, pin peer.ID) outcome {
	if at.id != "" {
		return outcome{id: at.id, dialled: at.addrs}
	}
	given := at.addrs
	if at.ip.IsValid() {
		given = portAddrs(at.ip, it.port)
		hostport := netip.AddrPortFrom(at.ip, it.port).String()
		if it.scheme == "https" { // the certificate is for the name
			hostport = "https://" + it.host + ":" + strconv.Itoa(int(it.port))
		}
		who, err := d.fns.Identity(ctx, hostport)
		if err == nil {
			out := outcome{id: who.ID, learned: true, private: who.Private, dialled: given}
			for _, a := range who.Addrs { // the given host with these ports comes first
				if moved, err := atIP(at.ip, a); err == nil && !ma.Contains(out.dialled, moved) {
					out.dialled = append(out.dialled, moved)
				}
			}
			out.given = len(out.dialled)
			for _, a := range who.Addrs {
				if !ma.Contains(out.dialled, a) && (!manet.IsIPLoopback(a) || at.ip.IsLoopback()) {
					out.dialled = append(out.dialled, a)
				}
			}
			if pin != "" && pin != who.ID {
				out.id, out.err = pin, &mismatchError{want: pin, have: who.ID, mend: d.mend(it)}
			}
			return out
		}
		d.log.Debug("no identity by http", "item", it.text, "addr", hostport, "err", err)
	}
	if pin != "" {
		return outcome{id: pin, dialled: given}
	}
	id, err := d.throwAway(ctx, given)
	return outcome{id: id, learned: true, dialled: given, err: err}
}

// throwAway dials each address with an id that nobody has: the refusal names
// the id that answers, and the first one ends the other dials.
func (d *Dialer) throwAway(ctx context.Context, addrs []ma.Multiaddr) (peer.ID, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	type answer struct {
		id  peer.ID
		err error
	}
	answers := make(chan answer, len(addrs))
	for _, a := range addrs {
		go func() {
			id, err := d.askID(ctx, a)
			answers <- answer{id, err}
		}()
	}
	var found peer.ID
	var errs []error
	for range addrs { // all of them, so that no goroutine is left
		r := <-answers
		if r.err == nil && found == "" {
			found = r.id
			cancel()
		}
		errs = append(errs, r.err)
	}
	if found != "" {
		return found, nil
	}
	if len(errs) == 0 {
		return "", errNoAddress
	}
	return "", fmt.Errorf("learn the peer id: %w", errors.Join(errs...))
}

// askID learns who answers at a.
func (d *Dialer) askID(ctx context.Context, a ma.Multiaddr) (peer.ID, error) {
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", fmt.Errorf("make a throw-away id: %w", err)
	}
	key, err := crypto.UnmarshalEd25519PublicKey(pub)
	if err != nil {
		return "", fmt.Errorf("make a throw-away id: %w", err)
	}
	nobody, err := peer.IDFromPublicKey(key)
	if err != nil {
		return "", fmt.Errorf("make a throw-away id: %w", err)
	}
	defer d.rep.Guest(nobody)()
	d.host.Peerstore().AddAddr(nobody, a, peerstore.TempAddrTTL)
	_, err = d.host.Network().DialPeer(ctx, nobody)
	d.host.Peerstore().ClearAddrs(nobody)
	d.host.Peerstore().RemovePeer(nobody)
	d.clearBackoff(nobody)
	if id, ok := actual(err, []ma.Multiaddr{a}); ok {
		return id, nil
	}
	switch {
	case errors.Is(err, swarm.ErrDialToSelf):
		return d.host.ID(), nil
	case err == nil:
		err = errors.New("a peer took an id that nobody has")
	}
	return "", &addrError{a, err}
}

func (d *Dialer) clearBackoff(p peer.ID) {
	if n, ok := d.host.Network().(interface{ Backoff() *swarm.DialBackoff }); ok {
		n.Backoff().Clear(p)
	}
}

// work is an attempt at one peer.
type work struct {
	done chan struct{} // closed at its end
	err  error         // how it ended; read after done
}

// alone makes the slot the peer's and connects.
func (d *Dialer) alone(ctx context.Context, s *slot, who outcome) error {
	d.host.ConnManager().Protect(who.id, s.tag())
	d.mu.Lock()
	s.id, s.dialled = who.id, who.dialled
	d.mu.Unlock()
	return d.single(ctx, who.id, func() error { return d.connect(ctx, s, who) })
}

// single runs f unless somebody is at the same peer already. Then it waits for
// that one, whose success and refusal are its own too: two at once would get
// in each other's way.
func (d *Dialer) single(ctx context.Context, p peer.ID, f func() error) error {
	mine := &work{done: make(chan struct{})}
	for {
		d.mu.Lock()
		other := d.works[p]
		if other == nil {
			d.works[p] = mine
		}
		d.mu.Unlock()
		if other == nil {
			break
		}
		select {
		case <-other.done:
		case <-ctx.Done():
			return fmt.Errorf("wait for another attempt at %s: %w", p, ctx.Err())
		}
		var refusal Refusal
		if other.err == nil || errors.As(other.err, &refusal) {
			return other.err
		}
	}
	mine.err = f()
	d.mu.Lock()
	delete(d.works, p)
	d.mu.Unlock()
	close(mine.done)
	return mine.err
}

// connect dials and greets.
func (d *Dialer) connect(ctx context.Context, s *slot, who outcome) error {
	c, err := d.dialBoth(ctx, s, who)
	if err != nil {
		return err
	}
	err = d.greet(ctx, who.id, c)
	var refusal Refusal
	if err == nil || errors.As(err, &refusal) { // after a refusal it is closed already
		return err
	}
	d.mu.Lock()
	ready := s.retry.state == Connected // it greeted us in the meantime
	d.mu.Unlock()
	if ready {
		return nil
	}
	_ = d.host.Network().ClosePeer(who.id)
	return err
}

// dialBoth dials where it was sent, and then wherever the peer may be.
func (d *Dialer) dialBoth(ctx context.Context, s *slot, who outcome) (network.Conn, error) {
	d.clearBackoff(who.id)
	var first error
	if who.given > 0 { // where we were sent comes before where it says it is
		var c network.Conn
		if c, first = d.dial(ctx, who.id, who.dialled[:who.given]); first == nil {
			return c, nil
		}
	}
	c, err := d.dial(ctx, who.id, append(slices.Clone(who.dialled), d.otherAddrs(s, who.id)...))
	if err == nil {
		return c, nil
	}
	for _, err := range []error{first, err} {
		if have, ok := actual(err, who.dialled); ok && have == d.host.ID() {
			return nil, errSelf
		} else if ok {
			return nil, &mismatchError{want: who.id, have: have, mend: d.mend(s.item)}
		}
	}
	return nil, fmt.Errorf("dial: %w", errors.Join(first, err)) // the second says of those of the first that they were just tried
}

// mend says what to do where another id answers for it than expected.
func (d *Dialer) mend(it *item) string {
	d.mu.Lock()
	pinned := d.kept.Pins[it.text] != ""
	d.mu.Unlock()
	switch {
	case it.origin == OriginMember:
		return "" // the chain names it
	case it.id != "":
		return fmt.Sprintf("if the peer was set up anew, give its new id in %s", it.text)
	case pinned:
		return fmt.Sprintf("if %s was set up anew, forget its old id: parley peers remove %[1]s, then parley peers add %[1]s", it.text)
	}
	return ""
}

// dial connects to p, unless it is connected.
func (d *Dialer) dial(ctx context.Context, p peer.ID, addrs []ma.Multiaddr) (network.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	addrs = d.dialable(addrs)
	if d.cfg.OptimiseRetries {
		addrs = d.awake(p, addrs)
	}
	ctx, span := tracing.Start(ctx, d.cfg.Tracer, "dial")
	if span.IsRecording() {
		span.SetAttributes(attribute.Stringer("peer", p), attribute.Int("addresses", len(addrs)))
	}
	d.host.Peerstore().AddAddrs(p, addrs, peerstore.TempAddrTTL)
	c, err := d.host.Network().DialPeer(ctx, p)
	tracing.End(span, err)
	if d.cfg.OptimiseRetries {
		d.noteDial(p, err)
	}
	return c, d.ownRefusal(p, err)
}

// dialable leaves out the addresses for which this node has no transport, such
// as QUIC in a private network; all of them where none is left.
func (d *Dialer) dialable(addrs []ma.Multiaddr) []ma.Multiaddr {
	n, ok := d.host.Network().(interface {
		TransportForDialing(ma.Multiaddr) transport.Transport
	})
	if !ok {
		return addrs
	}
	can := slices.DeleteFunc(slices.Clone(addrs), func(a ma.Multiaddr) bool { return n.TransportForDialing(a) == nil && !hasCode(a, ma.P_DNSADDR) })
	if len(can) == 0 {
		return addrs
	}
	return can
}

// otherAddrs is where other items and the address book know the same peer to
// be: the chain names members without an address.
func (d *Dialer) otherAddrs(s *slot, id peer.ID) []ma.Multiaddr {
	var addrs []ma.Multiaddr
	if d.fns.Known != nil {
		addrs = d.fns.Known(id)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, it := range d.items {
		for _, o := range it.slots {
			if o != s && o.id == id {
				addrs = append(append(addrs, o.dialled...), it.addrs...)
			}
		}
	}
	return addrs
}

// finish enters what came of an attempt, tells of it and pins what it learned.
func (d *Dialer) finish(s *slot, started time.Time, out outcome) {
	now := time.Now()
	d.mu.Lock()
	s.busy = false
	if s.item.gone {
		d.mu.Unlock()
		d.letGo(s, out.id)
		return
	}
	if errors.Is(out.err, errSurplus) {
		s.item.slots = slices.DeleteFunc(s.item.slots, func(o *slot) bool { return o == s })
		d.mu.Unlock()
		return
	}
	class := Class("")
	if out.err != nil {
		class = classify(out.err)
	}
	d.metrics.dials.WithLabelValues(label(class)).Inc()
	if out.id != "" {
		s.id, s.dialled = out.id, out.dialled
	}
	var tell func()
	pinned := false
	if out.err == nil {
		if s.retry.state != Connected { // else PeerReady came first
			tell = d.rose(s, now)
		}
		if out.learned && s.at.sole && d.kept.Pins[s.item.text] != s.id {
			d.kept.Pins[s.item.text], pinned = s.id, true
		}
	} else if s.retry.state != Connected || class == ClassIdentity {
		tell = d.failed(s, started, now, class, out)
	}
	up := s.retry.state == Connected
	d.mu.Unlock()
	if tell != nil {
		tell()
	}
	if pinned {
		d.log.Info("peer id learned and pinned", "item", s.item.text, "peer", out.id)
		if err := d.save(); err != nil {
			d.log.Error("pin not saved", "item", s.item.text, "err", err)
		}
	}
	// It may have gone before it was entered as connected.
	if up && !d.connected(out.id) {
		d.recheck(time.Now())
	}
}

func label(c Class) string {
	if c == "" {
		return "ok"
	}
	return string(c)
}

// letGo undoes what an attempt for a former item did. The connection with a
// former member stays open, as with [Dialer.Keep]; what was removed by hand is
// closed, as it would have been a moment before.
func (d *Dialer) letGo(s *slot, p peer.ID) {
	if p == "" || d.Has(p) {
		return
	}
	d.host.ConnManager().Unprotect(p, s.tag())
	if s.item.origin != OriginMember {
		_ = d.host.Network().ClosePeer(p)
	}
}

// failed enters a failure; the function it returns tells of it. mu held.
func (d *Dialer) failed(s *slot, started, now time.Time, class Class, out outcome) func() {
	before := s.retry
	s.retry.failed(started, now, class)
	s.lastErr, s.wholeErr = reason(out.err), oneLine(out.err.Error(), maxError)
	if !s.bannedAt.IsZero() && hungUp(out.err) {
		s.lastErr = fmt.Sprintf("at %s UTC it said that it has banned this node, and since then it hangs up: %s", s.bannedAt.UTC().Format("15:04:05"), mendBan)
	}
	if class == ClassSelf {
		told := s.item.told
		s.item.told, s.item.lookAt = true, now.Add(lookEvery)
		return func() {
			if !told {
				d.log.Info("static peer is this node itself", "item", s.item.text)
			}
		}
	}
	// A member without an address is expected to dial us.
	silent := s.item.origin == OriginMember && len(out.dialled) == 0
	warn := !silent && (class != s.warned || now.Sub(s.warnAt) >= warnEvery)
	if warn {
		s.warned, s.warnAt = class, now
	}
	e := d.changeOf(s)
	changed := before.state != s.retry.state || before.class != class
	double, tries, text := d.isDouble(s), s.retry.tries, s.wholeErr
	if warn {
		text = s.lastErr
	}
	return func() {
		log := d.log.Debug
		if warn {
			log = d.log.Warn
		}
		log("static peer failed", "item", e.Item, "peer", e.ID, "addr", out.dialled, "class", class, "err", text, "tries", tries, "next", e.NextAt)
		if changed && !double {
			d.bus.Publish(e)
		}
	}
}
