package reputation

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	maxWord = 64  // bytes of a reason or an actor
	maxNote = 256 // bytes
)

// Protected is who is not banned without force.
type Protected struct {
	Self  peer.ID
	Peers []peer.ID    // static and trusted
	Addrs []netip.Addr // theirs and our own
}

// BanRequest asks for a ban. Until and For exclude each other; with neither,
// and not Forever, it is the configured time.
type BanRequest struct {
	Target  string
	Until   time.Time
	For     time.Duration
	Forever bool
	Reason  string // a word; empty = manual
	Note    string
	Origin  string // empty = operator
	Actor   string // who asks
	Force   bool   // although it covers protected peers or very much
}

// ConflictError refuses a ban that is likely a mistake. Force overrides it; how
// that is said is the affair of whoever asked.
type ConflictError struct{ Rule string }

func (e *ConflictError) Error() string { return e.Rule }

// ErrBansFull is returned where only bans of operators are left, and by imports.
var ErrBansFull = errors.New("the ban list is full, and makes no room: remove some bans, or raise bans.max_entries")

// ErrNotBanned is returned where there is nothing to lift.
var ErrNotBanned = errors.New("it is not banned")

// Plan says what Add would do, and does not do it.
func (b *Bans) Plan(r BanRequest) (Ban, []peer.ID, error) {
	row, err := b.check(r, time.Now())
	if err != nil {
		return Ban{}, nil, err
	}
	if err := b.allowed(row.target, r.Force); err != nil {
		return row.ban(0), b.closes(row.target), err
	}
	return row.ban(0), b.closes(row.target), nil
}

// check makes a row of a request.
func (b *Bans) check(r BanRequest, now time.Time) (row, error) {
	out, err := b.row(r, now)
	var bad *RequestError
	if err != nil && !errors.As(err, &bad) {
		err = &RequestError{err}
	}
	return out, err
}

func (b *Bans) row(r BanRequest, now time.Time) (row, error) {
	t, err := ParseTarget(r.Target)
	if err != nil {
		return row{}, err
	}
	now = now.Truncate(time.Millisecond)
	out := row{target: t, reason: clean(r.Reason), note: clean(r.Note), origin: r.Origin, actor: clean(r.Actor), offences: 1, created: now}
	if out.reason == "" {
		out.reason = "manual"
	}
	if out.origin == "" {
		out.origin = OriginOperator
	}
	if out.origin == OriginAuto {
		out.scope = b.cfg.Self.String()
	}
	given := 0
	for _, is := range []bool{!r.Until.IsZero(), r.For != 0, r.Forever} {
		given += boolInt(is)
	}
	switch {
	case given > 1:
		return row{}, errors.New("give one of until, for and forever")
	case r.For < 0:
		return row{}, fmt.Errorf("for %v is not above 0", r.For)
	case r.Until.UTC().Year() > 9999: // which no JSON can say: the list could not be shown, nor kept
		return row{}, errors.New("until is after the year 9999: ban for ever")
	case !r.Until.IsZero() && !r.Until.After(now):
		return row{}, fmt.Errorf("until %s is in the past: to lift a ban, remove it", r.Until.UTC().Format(time.RFC3339))
	case len(out.reason) > maxWord || len(out.actor) > maxWord:
		return row{}, fmt.Errorf("reason and actor have at most %d bytes each: put more into the note", maxWord)
	case len(r.Note) > maxNote:
		return row{}, fmt.Errorf("the note has %d bytes, at most %d fit", len(r.Note), maxNote)
	case !r.Until.IsZero():
		out.until = r.Until.Truncate(time.Millisecond)
	case r.For != 0:
		out.until = now.Add(r.For)
	case !r.Forever:
		out.until = now.Add(b.duration())
	}
	return out, nil
}

// Prefixes that are shorter are banned with force only.
const (
	shortest4 = 8
	shortest6 = 16
)

// allowed refuses what is likely a mistake.
func (b *Bans) allowed(t Target, force bool) error {
	if force {
		return nil
	}
	return b.protected().allow(t)
}

func (all Protected) allow(t Target) error {
	switch {
	case t.Peer != "" && t.Peer == all.Self:
		return &ConflictError{"that is this node itself"}
	case t.Peer != "" && slices.Contains(all.Peers, t.Peer):
		return &ConflictError{fmt.Sprintf("%s is a static or trusted peer: take it off the list first", t)}
	case t.Peer != "":
		return nil
	case t.Prefix.Addr().Is4() && t.Prefix.Bits() < shortest4:
		return &ConflictError{fmt.Sprintf("%s covers more than a /%d: give a smaller range", t, shortest4)}
	case t.Prefix.Addr().Is6() && t.Prefix.Bits() < shortest6:
		return &ConflictError{fmt.Sprintf("%s covers more than a /%d: give a smaller range", t, shortest6)}
	}
	for _, a := range all.Addrs {
		if t.Covers("", a) {
			return &ConflictError{fmt.Sprintf("%s covers %s, an address of this node or of a static or trusted peer", t, a)}
		}
	}
	return nil
}
