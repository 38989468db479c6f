package dialer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"syscall"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/pnet"
	"github.com/libp2p/go-libp2p/core/sec"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/parley-p2p/parley/internal/wire"
)

// Class is why an attempt failed.
type Class string

// The closed set of classes.
const (
	ClassRefused      Class = "refused" // somebody is there and hung up
	ClassTimeout      Class = "timeout"
	ClassUnreachable  Class = "unreachable"
	ClassDNS          Class = "dns"
	ClassFull         Class = "full"
	ClassIdentity     Class = "identity" // another id answers than the one pinned or given
	ClassNotAllowed   Class = "not_allowed"
	ClassWrongNetwork Class = "wrong_network" // or another genesis
	ClassBanned       Class = "banned"        // by us
	ClassSelf         Class = "self"
)

var classes = []Class{ClassRefused, ClassTimeout, ClassUnreachable, ClassDNS, ClassFull, ClassIdentity, ClassNotAllowed, ClassWrongNetwork, ClassBanned, ClassSelf}

// Refusal is an error of Functions.Greet with a code of a Verack.
type Refusal interface {
	error
	RefusalCode() uint32
}

var errSelf = errors.New("the address is this node's own")

// errSurplus says that a name has fewer addresses than it had slots.
var errSurplus = errors.New("the name has no address for it any more")

// errNoAddress is a host name that exists and has no address.
var errNoAddress = errors.New("the name has no address")

// mismatchError says that another peer answers than the one we want.
type mismatchError struct {
	want, have peer.ID
	mend       string // "" = there is none
}

func (e *mismatchError) Error() string {
	text := fmt.Sprintf("peer id %s answers where %s is expected", e.have, e.want)
	if e.mend != "" {
		text += ": " + e.mend
	}
	return text
}

// knownError is a failed attempt of which this node knows more than the error
// that came: text says it in words, with what to do.
type knownError struct {
	class Class
	text  string
	err   error
}

func (e *knownError) Error() string { return e.text + ": " + e.err.Error() }
func (e *knownError) Unwrap() error { return e.err }

// Classify finds the class of an error of a dial or a handshake.
func Classify(err error) Class { return classify(err) }

// classify finds the class of an attempt's error by its types. Where several
// addresses failed in several ways, the one that tells most wins.
func classify(err error) Class {
	var mismatch *mismatchError
	var refusal Refusal
	var dns *net.DNSError
	var key pnet.Error
	var known *knownError
	switch {
	case errors.As(err, &known):
		return known.class
	case errors.Is(err, errSelf):
		return ClassSelf
	case errors.As(err, &mismatch):
		return ClassIdentity
	case errors.As(err, &refusal):
		return classOfVerack(refusal.RefusalCode())
	case errors.Is(err, swarm.ErrGaterDisallowedConnection):
		return ClassBanned
	case errors.As(err, &key) && key.IsPNetError(): // another shared key
		return ClassNotAllowed
	case errors.Is(err, network.ErrResourceLimitExceeded), remoteSays(err, network.ConnResourceLimitExceeded), remoteSays(err, network.ConnRateLimited):
		return ClassFull
	case remoteSays(err, network.ConnGated):
		return ClassNotAllowed
	case errors.As(err, &dns), errors.Is(err, errNoAddress):
		return ClassDNS
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET), errors.Is(err, network.ErrReset),
		errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return ClassRefused
	case timedOut(err):
		return ClassTimeout
	}
	return ClassUnreachable // EHOSTUNREACH, ENETUNREACH, no address, no transport for one
}

func remoteSays(err error, code network.ConnErrorCode) bool {
	return errors.Is(err, &network.ConnError{Remote: true, ErrorCode: code})
}

func timedOut(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, swarm.ErrDialTimeout) ||
		saysTimeout(err)
}

// saysTimeout looks into every branch of err: [errors.As] would stop at a
// dial's own Timeout method, which does not look at its addresses.
func saysTimeout(err error) bool {
	if t, ok := err.(interface{ Timeout() bool }); ok && t.Timeout() {
		return true
	}
	switch e := err.(type) { //nolint:errorlint // as above
	case interface{ Unwrap() error }:
		return saysTimeout(e.Unwrap())
	case interface{ Unwrap() []error }:
		return slices.ContainsFunc(e.Unwrap(), saysTimeout)
	}
	return false
}

func classOfVerack(code uint32) Class {
	switch code {
	case wire.WrongNetwork, wire.WrongGenesis:
		return ClassWrongNetwork
	case wire.TooManyPeers:
		return ClassFull
	case wire.Self:
		return ClassSelf
	}
	return ClassNotAllowed
}

func classOfGoodbye(code uint64) Class {
	switch code {
	case wire.GoodbyeWrongNetwork:
		return ClassWrongNetwork
	case wire.GoodbyeTooManyPeers:
		return ClassFull
	case wire.GoodbyeBadScore, wire.GoodbyeBanned:
		return ClassNotAllowed
	}
	return ""
}

// actual finds the id that answered at one of given; at other addresses of the
// peer, such as its loopback ones, anybody may answer.
func actual(err error, given []ma.Multiaddr) (peer.ID, bool) {
	var dial *swarm.DialError
	if !errors.As(err, &dial) {
		return "", false
	}
	for _, e := range dial.DialErrors {
		var mismatch sec.ErrPeerIDMismatch
		if !errors.As(e.Cause, &mismatch) {
			continue
		}
		bare, _ := peer.SplitAddr(e.Address)
		if ma.Contains(given, bare) {
			return mismatch.Actual, true
		}
	}
	return "", false
}
