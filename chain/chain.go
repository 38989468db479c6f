// Package chain owns the words of any chain and the seam between a network
// and the peers that carry it.
package chain

import (
	"encoding/hex"
	"errors"
	"fmt"
)

// Hash identifies a block, a record or a chain. The zero Hash means "none".
type Hash [32]byte

// ParseHash reads 64 hex digits, without 0x.
func ParseHash(s string) (Hash, error) {
	var h Hash
	if len(s) != 2*len(h) {
		return h, fmt.Errorf("hash %q: want %d hex digits, have %d", shorten(s), 2*len(h), len(s))
	}
	if _, err := hex.Decode(h[:], []byte(s)); err != nil {
		return Hash{}, fmt.Errorf("hash %q: not hex", shorten(s))
	}
	return h, nil
}

// String gives 64 lower-case hex digits.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// Short gives the first 8 hex digits, for logs and tables.
func (h Hash) Short() string { return hex.EncodeToString(h[:4]) }

// IsZero reports whether h names nothing.
func (h Hash) IsZero() bool { return h == Hash{} }

// MarshalText implements [encoding.TextMarshaler].
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (h *Hash) UnmarshalText(b []byte) error {
	v, err := ParseHash(string(b))
	if err != nil {
		return err
	}
	*h = v
	return nil
}

func shorten(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}

// Head is a place in a chain. At height 0 Hash is the genesis hash.
type Head struct {
	Height uint64 `json:"height"`
	Hash   Hash   `json:"hash"`
}

// States that are nobody's fault: a message that meets one is dropped and
// its sender is charged nothing.
var (
	// ErrKnown means that we have it already.
	ErrKnown = errors.New("already known")
	// ErrOrphan means that the parent is missing: sync, then look again.
	ErrOrphan = errors.New("parent unknown")
	// ErrUnready means that we cannot judge yet, for we lack the state.
	ErrUnready = errors.New("cannot judge yet")
	// ErrBusy means that a bounded queue is full: try again later.
	ErrBusy = errors.New("busy")
	// ErrCut means that a large message was sent in part, to peers that did not
	// take it in time: it is lost to some, and the same bytes cannot be sent again
	// for four minutes.
	ErrCut = errors.New("sent in part")
)

// InvalidError says that bytes break a rule by themselves, whatever our own
// state: whoever made or relayed them is charged with Offence.
type InvalidError struct {
	Offence Offence
	Detail  string
}

func (e *InvalidError) Error() string { return string(e.Offence) + ": " + e.Detail }

// Invalid returns an *InvalidError.
func Invalid(o Offence, format string, args ...any) error {
	return &InvalidError{Offence: o, Detail: fmt.Sprintf(format, args...)}
}

// Offence is the reason of a charge against a peer. The names are API; what
// each costs is decided by the reputation room.
type Offence string

// The closed set of offences that a network or a room can report.
const (
	ForgedBlock  Offence = "forged_block"  // header, certificate or signature fails
	InvalidBlock Offence = "invalid_block" // header fine, body invalid
	Oversize     Offence = "oversize"      // length over the limit
	BadRecord    Offence = "bad_record"    // own record with a wrong signature or a sequence going back
	Malformed    Offence = "malformed"     // bytes do not decode
	Violation    Offence = "violation"     // decodes, but is forbidden here
	FalseClaim   Offence = "false_claim"   // cannot deliver what it claimed
	InvalidTx    Offence = "invalid_tx"    // invalid without any state
	Spam         Offence = "spam"          // far over its budget
	BadChunk     Offence = "bad_chunk"     // does not fit its Merkle branch
	Manual       Offence = "manual"        // by the operator
	Gossip       Offence = "gossip"        // a bad gossip score; weak
	Duplicate    Offence = "duplicate"     // the same message again; weak
	Timeout      Offence = "timeout"       // no answer in time; weak
	Stall        Offence = "stall"         // stopped in the middle; weak
	Useless      Offence = "useless"       // empty answer to something it announced; weak
)

// Credit is what a peer is praised for.
type Credit string

// The closed set of credits.
const (
	NovelBlock Credit = "novel_block" // first to bring a valid block
	Served     Credit = "served"      // a MiB of validated data
)

// A MismatchError tells why two nodes cannot be peers. Code and Text go to
// the other side as they are.
type MismatchError struct {
	Code uint32 // of INTERFACES: 1 wrong_network, 2 wrong_genesis
	Text string // ≤ 256 bytes, printable
}

func (e *MismatchError) Error() string { return e.Text }

// Codes of a [MismatchError].
const (
	WrongNetwork uint32 = 1
	WrongGenesis uint32 = 2
)
