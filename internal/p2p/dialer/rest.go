package dialer

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"
)

// restAfter is how often in a row an address fails in a class before it rests,
// and for how long. Nobody may be there for a moment, so that takes a few; no
// way to it, or another peer there, is seen by the first.
var restAfter = map[Class]struct {
	fails int
	rest  time.Duration
}{
	ClassUnreachable: {1, 5 * time.Minute},
	ClassIdentity:    {1, 10 * time.Minute},
	ClassTimeout:     {3, 5 * time.Minute},
	ClassRefused:     {3, 2 * time.Minute},
}

const maxResting = 4096 // addresses that are remembered

// restBook remembers addresses that failed. The zero value is empty. It is safe
// for concurrent use.
type restBook struct {
	mu    sync.Mutex
	addrs map[string]addrRest // by the bytes of the peer's address with its id
}

type addrRest struct {
	class Class
	fails int // in a row, of this class
	until time.Time
	at    time.Time // of the last failure
}

func restKey(p peer.ID, a ma.Multiaddr) string { return string(p) + string(a.Bytes()) }

// failed notes a failure of one address of p.
func (b *restBook) failed(p peer.ID, a ma.Multiaddr, c Class, now time.Time) {
	rule, ok := restAfter[c]
	b.mu.Lock()
	defer b.mu.Unlock()
	key := restKey(p, a)
	if !ok {
		delete(b.addrs, key)
		return
	}
	e := b.addrs[key]
	if e.class != c {
		e.fails = 0
	}
	e.class, e.at = c, now
	if e.fails++; e.fails >= rule.fails {
		e.until = now.Add(rule.rest)
	}
	if b.addrs == nil {
		b.addrs = map[string]addrRest{}
	}
	if _, known := b.addrs[key]; !known && len(b.addrs) >= maxResting {
		b.forget(now)
	}
	b.addrs[key] = e
}

// forget drops those whose rest is over and, if that is not enough, the tenth
// that failed longest ago. mu held.
func (b *restBook) forget(now time.Time) {
	var at []time.Time
	for key, e := range b.addrs {
		if !now.Before(e.until) {
			delete(b.addrs, key)
			continue
		}
		at = append(at, e.at)
	}
	if len(b.addrs) < maxResting {
		return
	}
	slices.SortFunc(at, time.Time.Compare)
	oldest := at[len(at)/10]
	for key, e := range b.addrs {
		if !e.at.After(oldest) {
			delete(b.addrs, key)
		}
	}
}

func (b *restBook) good(p peer.ID, a ma.Multiaddr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.addrs, restKey(p, a))
}

// split tells the addresses of p that rest from the others.
func (b *restBook) split(p peer.ID, addrs []ma.Multiaddr, now time.Time) (awake, resting []ma.Multiaddr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, a := range addrs {
		if e, ok := b.addrs[restKey(p, a)]; ok && now.Before(e.until) {
			resting = append(resting, a)
		} else {
			awake = append(awake, a)
		}
	}
	return awake, resting
}

// awake leaves out the addresses that rest, also where the host remembers them.
// Where all of addrs rest all are tried, for the phases of a static peer stay
// as they are.
func (d *Dialer) awake(p peer.ID, addrs []ma.Multiaddr) []ma.Multiaddr {
	now := time.Now()
	awake, resting := d.rests.split(p, addrs, now)
	if len(awake) == 0 {
		return addrs
	}
	_, remembered := d.rests.split(p, d.host.Peerstore().Addrs(p), now)
	d.host.Peerstore().SetAddrs(p, append(resting, remembered...), 0) // forgets these
	return awake
}

// noteDial takes the fate of each address out of a dial's.
func (d *Dialer) noteDial(p peer.ID, err error) {
	if err == nil {
		for _, c := range d.host.Network().ConnsToPeer(p) {
			d.rests.good(p, c.RemoteMultiaddr())
		}
		return
	}
	var dial *swarm.DialError
	if !errors.As(err, &dial) {
		return
	}
	now := time.Now()
	for _, e := range dial.DialErrors {
		if errors.Is(e.Cause, context.Canceled) || errors.Is(e.Cause, swarm.ErrDialBackoff) || errors.Is(e.Cause, swarm.ErrNoTransport) ||
			errors.Is(e.Cause, swarm.ErrGaterDisallowedConnection) {
			continue // says nothing of the address
		}
		bare, _ := peer.SplitAddr(e.Address)
		class := classify(e.Cause)
		if _, other := actual(&swarm.DialError{DialErrors: []swarm.TransportError{e}}, []ma.Multiaddr{bare}); other {
			class = ClassIdentity
		}
		d.rests.failed(p, bare, class, now)
	}
}

// forgive ends the rests of addresses where nobody answered.
func (b *restBook) forgive() {
	b.mu.Lock()
	defer b.mu.Unlock()
	maps.DeleteFunc(b.addrs, func(_ string, a addrRest) bool { return a.class != ClassIdentity })
}
