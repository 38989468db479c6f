package chain

import (
	"context"
	"io"
	"iter"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// NetworkID names a network.
type NetworkID struct {
	Kind string // "consortium"
	Name string // the operator's label, network_name
	Net  string // 8 hex digits, part of every protocol id and topic; "" until the chain is known
}

// Service is what a node offers to others, a bit set in its status.
type Service uint64

// Services of a node.
const (
	Full      Service = 1 << iota // holds the whole chain
	Validator                     // votes
	Pruned                        // holds its newer part
	Relay                         // relays connections
	API                           // serves the API to others
)

// Names lists the services in words, in the order of their bits.
func (s Service) Names() []string {
	names := []string{}
	for i, n := range []string{"full", "validator", "pruned", "relay", "api"} {
		if s&(1<<i) != 0 {
			names = append(names, n)
		}
	}
	return names
}

// Status is what the network says of itself in the handshake.
type Status struct {
	Network  string // kind, ≤ 64 bytes
	ChainID  string // ≤ 48 bytes; "" = none yet
	Genesis  Hash   // zero = none yet
	Head     Head
	Earliest uint64 // lowest height that is served
	Services Service
	App      []byte // ≤ 1 KiB, the network's own
}

// Network is one chain on this node, whatever its peers. It is implemented by
// the rooms of the right wing and driven by node.go.
type Network interface {
	// ID is safe for concurrent use and does not block.
	ID() NetworkID
	// Status is sent in the handshake. Safe for concurrent use; does not block.
	Status() Status
	// CheckStatus returns nil when remote is of our chain, or of no chain yet,
	// and a *MismatchError when it can never be our peer.
	CheckStatus(remote Status) error
	// Run works until ctx ends or it meets a fault that ends the node. When it
	// returns, every goroutine that it started has ended.
	Run(ctx context.Context, s Services) error
}

// Clocked is a Network whose blocks come by the clock. One whose blocks come
// when there is something to order does not implement it.
type Clocked interface {
	// Interval is how far apart blocks are expected. Safe for concurrent use.
	Interval() time.Duration
}

// Services is what the p2p wing gives to a network. All methods are safe for
// concurrent use.
type Services interface {
	// Self is this node's own id.
	Self() peer.ID
	// Serve starts topics and protocols, until ctx ends or Withdraw names them.
	// A network calls it when it knows its chain, for their names carry <net>,
	// and may call it again with others, though not at once. After an error it
	// serves none of those of this call.
	Serve(ctx context.Context, topics []Topic, protocols []Protocol) error
	// Withdraw ends topics, by their names, and protocols, by their ids. What is
	// served of them at the moment goes on. After an error all of them can be
	// named again; those that are ended already are none.
	Withdraw(topics, protocols []string) error
	// Greet has the ready peers greeted again, for they were told of no genesis
	// and there is one now.
	Greet()
	// Publish sends data to all. It returns ErrBusy when queues are full, ErrCut
	// for a large message, and the error of the topic's own Validate when that
	// refuses.
	Publish(ctx context.Context, topic string, data []byte) error
	// PublishAll is Publish for one message after the other, which go out in
	// this order and cost less together. It takes all until one fails and tells
	// how many were published before that one.
	PublishAll(ctx context.Context, topic string, all iter.Seq[[]byte]) (n int, err error)
	// Open starts a stream to a connected and ready peer. The caller MUST
	// Close or Reset it, and set deadlines.
	Open(ctx context.Context, p peer.ID, protocol string) (Stream, error)
	// Peers lists the ready peers.
	Peers() []Peer
	// Keep names the peers that this network needs: they are dialled and kept
	// like static ones. It replaces the list given before.
	Keep(members []peer.AddrInfo)
	// Validated notes that p proved to hold h.
	Validated(p peer.ID, h Head)
	// Report charges p with an offence. It does not block.
	Report(p peer.ID, o Offence, detail string)
	// Credit praises p. It does not block.
	Credit(p peer.ID, c Credit)
}

// Peer is a ready peer as a network sees it.
type Peer struct {
	ID        peer.ID
	Services  Service
	Kept      bool   // we were told to keep it: a static peer, or a member
	Named     bool   // the operator named it, or a name that leads to it: bootstrap peers and DNS
	Group     string // the part of the internet that it is connected from, which one hand can be thought to hold; "" = not a public one
	Genesis   Hash   // zero: it has no chain yet
	Claimed   Head   // what it says; steers nothing
	Validated Head   // what it proved; zero = nothing yet
	App       []byte // [Status.App] of its last handshake; MUST NOT be changed
}

// Topic is a stream of messages to everybody.
type Topic struct {
	Name     string // last element of the wire name, printable, ≤ 64 bytes
	MaxBytes int    // of Message.Data; longer ones cost the sender
	// Claim wraps each message in a signed envelope of its origin, for data
	// that does not authenticate itself.
	Claim bool
	// Rate is how many claims a second one origin may send; 0 means 1.
	Rate int
	// Timeout of one Validate, waiting for a place included; 0 = 500 ms. Negative:
	// Validate has its own, which costs less; its ctx has no deadline then.
	Timeout time.Duration
	// AtOnce is how many Validate run at once; 0 = 64.
	AtOnce int
	// Quick says that Validate never waits: it is called without a deadline and a
	// place, for which the message costs less.
	Quick bool
	// Large lets MaxBytes be 10 MiB, 1 MiB otherwise: what is over 32 KiB goes in
	// chunks, and From and Origin of such a message are who published it. At most
	// 4 of a topic, and 1 of one publisher, are under way at once. Not with Claim.
	Large bool
	// Validate decides what is relayed: nil → accepted, which is the relay;
	// *InvalidError → rejected and charged; anything else → dropped. It is
	// called by several goroutines, for our own messages too (From is Self),
	// and MUST return within its ctx.
	Validate func(ctx context.Context, m Message) error
}

// Message is one message of a topic.
type Message struct {
	From   peer.ID   // who handed it to us
	Origin peer.ID   // who signed the claim; "" where the topic has none
	Time   time.Time // of the claim, by the origin's clock
	Data   []byte    // MUST NOT be changed; may be kept
	ID     string    // 20 bytes, as gossip knows it on the wire
}

// Protocol is a request/response protocol, one request a stream.
type Protocol struct {
	ID         string // full protocol id
	MaxStreams int    // at once per peer; 0 means 4
	// Handle serves one stream. The caller closes it after nil and resets it
	// after an error; an *InvalidError charges the peer. The first byte MUST
	// come within 10 s, which is the read deadline at the start.
	Handle func(ctx context.Context, s Stream) error
}

// Stream is an ordered, reliable stream of bytes to one peer.
type Stream interface {
	io.Reader
	io.Writer
	Peer() peer.ID
	CloseWrite() error
	Close() error
	Reset() error
	SetDeadline(t time.Time) error
	SetReadDeadline(t time.Time) error
	SetWriteDeadline(t time.Time) error
}
