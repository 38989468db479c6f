package dialer

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/pnet"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

const (
	maxReason = 300  // bytes of an error in plain words
	maxError  = 2000 // bytes of an error as it came
)

// failure is how one address of a dial failed; addr is nil where no address
// was at fault.
type failure struct {
	addr ma.Multiaddr
	err  error
}

// reason says in a few plain words why an attempt failed: the failure that
// decided over its class, without the ids that we made up to ask.
func reason(err error) string {
	if known, ok := errors.AsType[*knownError](err); ok {
		return oneLine(known.text, maxReason)
	}
	class, all := classify(err), telling(failures(err, nil))
	best := failure{err: err}
	if _, told := errors.AsType[Refusal](err); !told {
		for _, f := range all {
			if classify(f.err) == class {
				best = f
				break
			}
		}
	}
	text := best.words(class)
	if others := len(all) - 1; best.addr != nil && others == 1 {
		text += " (another address failed too)"
	} else if best.addr != nil && others > 1 {
		text += fmt.Sprintf(" (%d other addresses failed too)", others)
	}
	return oneLine(text, maxReason)
}

// failures finds the addresses that failed in an error; at is the address
// that it is about, as far as that is known from outside of it. It never
// returns none.
func failures(err error, at ma.Multiaddr) (out []failure) {
	switch e := err.(type) { //nolint:errorlint // each branch is looked into
	case *addrError:
		return failures(e.err, e.addr)
	case *network.ConnError: // what it wraps tells less
	case *swarm.DialError:
		for _, sub := range e.DialErrors {
			bare, _ := peer.SplitAddr(sub.Address)
			out = append(out, failure{bare, sub.Cause})
		}
		if len(out) == 0 && e.Cause != nil {
			err = e.Cause
		}
	case interface{ Unwrap() []error }:
		for _, sub := range e.Unwrap() {
			out = append(out, failures(sub, at)...)
		}
	case interface{ Unwrap() error }:
		if inner := e.Unwrap(); inner != nil {
			out = failures(inner, at)
			if len(out) == 1 && out[0].addr == nil {
				out = nil // what is around it tells more
			}
		}
	}
	if len(out) == 0 {
		out = []failure{{at, err}}
	}
	return out
}

// telling leaves out what was not tried, for lack of a transport or because it
// just had been, and what else is said of one address than first; where only
// such is left, it stays.
func telling(all []failure) (list []failure) {
	seen := map[string]bool{}
	for _, f := range all {
		if errors.Is(f.err, swarm.ErrNoTransport) || errors.Is(f.err, swarm.ErrDialBackoff) {
			continue
		}
		if f.addr != nil && seen[f.addr.String()] {
			continue
		}
		if f.addr != nil {
			seen[f.addr.String()] = true
		}
		list = append(list, f)
	}
	if len(list) == 0 {
		return all
	}
	return list
}

// addrError is an error of one address that we chose.
type addrError struct {
	addr ma.Multiaddr
	err  error
}

func (e *addrError) Error() string { return fmt.Sprintf("%s: %v", e.addr, e.err) }
func (e *addrError) Unwrap() error { return e.err }

// words is the failure for people.
func (f failure) words(class Class) string {
	var dns *net.DNSError
	switch {
	case errors.As(f.err, &dns) && dns.IsNotFound:
		return dns.Name + " is not in the DNS"
	case errors.As(f.err, &dns) && dns.IsTimeout:
		return "the DNS gave no answer for " + dns.Name + " in time"
	case errors.As(f.err, &dns):
		return "look " + dns.Name + " up: " + dns.Err
	case errors.Is(f.err, swarm.ErrNoAddresses):
		return "no address of it is known"
	case f.addr == nil && class == ClassTimeout:
		return "no answer in time"
	case f.addr == nil:
		return f.err.Error()
	}
	where := placeOf(f.addr)
	var key pnet.Error
	switch {
	case errors.As(f.err, &key):
		return fmt.Sprintf("%s: %v", where, key)
	case class == ClassFull:
		return where + " takes no more connections"
	case class == ClassNotAllowed:
		return where + " does not let this node in: it has banned it, or a list of peers that may connect and this one is not on it"
	case class == ClassBanned:
		return "this node has banned the address of " + where + ": see parley bans check"
	case errors.Is(f.err, syscall.ECONNREFUSED):
		return "nobody listens at " + where
	case errors.Is(f.err, syscall.EHOSTUNREACH), errors.Is(f.err, syscall.ENETUNREACH):
		return "no route to " + where
	case errors.Is(f.err, syscall.ECONNRESET), errors.Is(f.err, network.ErrReset), errors.Is(f.err, io.EOF), errors.Is(f.err, io.ErrUnexpectedEOF):
		return where + " hung up before the handshake: it is full, has banned this node, or wants the shared key of a private network"
	case class == ClassTimeout:
		return "no answer from " + where
	}
	return where + ": " + innermost(f.err).Error()
}

// innermost is what a chain of errors begins with.
func innermost(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		err = inner
	}
}

// placeOf is an address as people write it, with its transport where that is
// not plain TCP.
func placeOf(a ma.Multiaddr) string {
	_, text, err := manet.DialArgs(a)
	if err != nil {
		return a.String()
	}
	if _, err := netip.ParseAddrPort(text); err != nil {
		return a.String()
	}
	switch {
	case hasCode(a, ma.P_QUIC_V1):
		return text + " (QUIC)"
	case hasCode(a, ma.P_WS), hasCode(a, ma.P_WSS):
		return text + " (WebSocket)"
	}
	return text
}

func hasCode(a ma.Multiaddr, code int) bool {
	_, err := a.ValueForProtocol(code)
	return err == nil
}

// oneLine makes the error of a dial, which has a line for each address, fit
// for a table.
func oneLine(text string, most int) string {
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}
