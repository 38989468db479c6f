package sidecar

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
)

// Why a program, a reader or a request is ended.
var (
	// ErrReplaced means that another program attached.
	ErrReplaced = errors.New("another program has attached to this node, which has one at a time")
	// ErrSlow means that too much waited to be read.
	ErrSlow = errors.New("too slow: more waited to be read than is kept")
	// ErrStopped means that the node does not run.
	ErrStopped = errors.New("the node is not running")
	// ErrClosed means that Close was called.
	ErrClosed = errors.New("closed")
	// ErrNoPeer means that a peer is not connected and ready, or does not serve
	// the request.
	ErrNoPeer = errors.New("no ready peer that answers this")
	// ErrNoTopic means that a topic is not served.
	ErrNoTopic = errors.New("no such topic is served")
	// ErrCutOff means that an answer ended before its last part.
	ErrCutOff = errors.New("the answer was cut off")
)

// An InputError says what is wrong with what a program told, and what to do.
type InputError struct{ Text string }

func (e *InputError) Error() string { return e.Text }

func badInput(format string, args ...any) error {
	return &InputError{fmt.Sprintf(format, args...)}
}

// A SizeError says that data is over its limit.
type SizeError struct{ Text string }

func (e *SizeError) Error() string { return e.Text }

// An AnswerError is what the other node, or its program, said in place of an
// answer, or of the rest of it.
type AnswerError struct{ Text string }

func (e *AnswerError) Error() string { return "the peer answered: " + e.Text }

// APIVersion is what a program puts into [Hello.API].
const APIVersion = 1

// Hello is how a program begins.
type Hello struct {
	Name      string // ≤ 64 bytes, for logs and status
	API       uint32
	Topics    []Topic
	Protocols []string   // names of the requests that it answers
	Genesis   chain.Hash // zero = it has none to compare
	Status    []byte     // ≤ 1 KiB, told to every peer in the handshake
	SkipOwn   bool       // do not tell it what this node publishes
}

// Topic is a topic that a program declares.
type Topic struct {
	Name     string
	MaxBytes int  // of one message; 0 = sidecar.max_message
	Validate bool // ask for verdicts; else all of them are relayed
}

// Head is the program's chain.
type Head struct {
	chain.Head
	Prev       chain.Hash
	Time       time.Time // of the block; zero = now
	BlockCount uint64
}

// ToApp is what the program is told: a [Validate], a [Message], an [Incoming],
// a [StatusOf], a [PeerGone] or a [Lost].
type ToApp interface{ size() int }

// Validate asks for a verdict until Deadline.
type Validate struct {
	ID       uint64
	Topic    string
	From     peer.ID
	Data     []byte // MUST NOT be changed
	Deadline time.Time
}

// Message is one that was accepted, or that this node has published; From is
// this node itself then.
type Message struct {
	Topic string
	ID    string // 40 hex digits
	From  peer.ID
	Data  []byte // MUST NOT be changed
}

// Incoming is a request of another node's program, to be answered by Reply.
type Incoming struct {
	ID       uint64
	Peer     peer.ID
	Protocol string // its name
	Data     []byte
}

// StatusOf tells that a peer is ready, or what is new of it.
type StatusOf struct {
	Peer   peer.ID
	Head   chain.Head // as it claims
	Status []byte     // of its program, as of the handshake
}

// PeerGone tells that a peer is no longer connected.
type PeerGone struct {
	Peer   peer.ID
	Reason string
}

// Lost tells that messages of peers were not told, for the program read more
// slowly than they came, or judged so: of those that it was to be asked about,
// those that it was not.
type Lost struct{ Messages uint64 } // since the last one

const overhead = 128 // bytes of an item in a queue beside its data

func (v Validate) size() int { return overhead + len(v.Data) }
func (m Message) size() int  { return overhead + len(m.Data) }
func (i Incoming) size() int { return overhead + len(i.Data) }
func (s StatusOf) size() int { return overhead + len(s.Status) }
func (PeerGone) size() int   { return overhead }
func (Lost) size() int       { return overhead }

// Verdict is what a program says of a message.
type Verdict int

// The verdicts of a program.
const (
	Accept Verdict = iota // relay it
	Ignore                // drop it: nobody's fault
	Reject                // drop it and charge the sender
)

// reasons are the offences of which a program can convict: those that its
// peers' bytes and answers prove to it.
var reasons = []chain.Offence{
	chain.ForgedBlock, chain.InvalidBlock, chain.Oversize, chain.Malformed, chain.Violation, chain.FalseClaim,
	chain.InvalidTx, chain.Spam, chain.Timeout, chain.Stall, chain.Useless,
}

// offenceOf reads a reason; "" is invalid_tx.
func offenceOf(reason string) (chain.Offence, error) {
	if reason == "" {
		return chain.InvalidTx, nil
	}
	if o := chain.Offence(reason); slices.Contains(reasons, o) {
		return o, nil
	}
	names := make([]string, len(reasons))
	for i, o := range reasons {
		names[i] = string(o)
	}
	return "", badInput("reason %q: want one of %s", cut(reason), strings.Join(names, ", "))
}

// cut keeps an error from echoing all that came.
func cut(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}
