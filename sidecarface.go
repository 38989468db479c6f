package parley

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/sidecar"
)

// Roles of a node of a sidecar network.
const (
	RoleAttached = "attached" // a program is
	RoleDetached = "detached"
)

// The words of a sidecar network.
type (
	// Program is a program that is attached.
	Program = sidecar.Session
	// ProgramHello is how it begins.
	ProgramHello = sidecar.Hello
	// ProgramTopic is a topic that it declares.
	ProgramTopic = sidecar.Topic
	// ProgramHead is its chain.
	ProgramHead = sidecar.Head
	// ToProgram is what it is told: one of the next six.
	ToProgram = sidecar.ToApp
	// ProgramValidate asks for a verdict.
	ProgramValidate = sidecar.Validate
	// ProgramMessage is an accepted message, or one of this node.
	ProgramMessage = sidecar.Message
	// ProgramIncoming is a request of another node's program.
	ProgramIncoming = sidecar.Incoming
	// ProgramStatusOf tells of a ready peer.
	ProgramStatusOf = sidecar.StatusOf
	// ProgramPeerGone tells that a peer is gone.
	ProgramPeerGone = sidecar.PeerGone
	// ProgramLost tells that messages of peers were dropped.
	ProgramLost = sidecar.Lost
	// ProgramVerdict is what a program says of a message.
	ProgramVerdict = sidecar.Verdict
	// MessageReader reads accepted messages.
	MessageReader = sidecar.Reader
	// InputError says what is wrong with what a program told.
	InputError = sidecar.InputError
	// SizeError says that data is over its limit.
	SizeError = sidecar.SizeError
	// AnswerError is what another node said in place of an answer.
	AnswerError = sidecar.AnswerError
)

// What a program and a node say to each other.
const (
	VerdictAccept     = sidecar.Accept
	VerdictIgnore     = sidecar.Ignore
	VerdictReject     = sidecar.Reject
	ProgramAPI        = sidecar.APIVersion
	MaxProgramPart    = sidecar.MaxChunk   // bytes of a part of an answer
	MaxProgramRequest = sidecar.MaxRequest // bytes
)

// Why a program, a reader or a request is ended.
var (
	ErrReplaced = sidecar.ErrReplaced
	ErrSlow     = sidecar.ErrSlow
	ErrStopped  = sidecar.ErrStopped
	ErrNoPeer   = sidecar.ErrNoPeer
	ErrNoTopic  = sidecar.ErrNoTopic
	ErrCutOff   = sidecar.ErrCutOff
	// ErrNoHead means that the program has not told of its chain.
	ErrNoHead = errors.New("no head is known yet: the program tells it by SetHead")
)

// programRate is how many messages a second are read of one peer of a sidecar
// network: what they cost is its programs' to decide, whose peers are held up.
const programRate = 20_000

// peerRate is gossip's; 0 = its own.
func (n *Node) peerRate() int {
	if n.sidecar != nil {
		return programRate
	}
	return 0
}

// program is the sidecar network, or ErrOtherNetwork.
func (n *Node) program() (*sidecar.Sidecar, error) {
	if n.sidecar == nil {
		return nil, fmt.Errorf("%w: this is a node of a %s network, and programs attach to those of network = %q", ErrOtherNetwork, n.cfg.Network, config.NetworkSidecar)
	}
	return n.sidecar, nil
}

// Attach makes the caller the program of this node; the one before is ended.
// It waits for Run to begin. The caller MUST Close it.
func (n *Node) Attach(ctx context.Context, h ProgramHello) (*Program, error) {
	s, err := n.program()
	if err != nil {
		return nil, err
	}
	return s.Attach(ctx, h)
}

// PublishMessage sends data to all that take a topic of the program, and
// returns the message's id. Nobody validates it here.
func (n *Node) PublishMessage(ctx context.Context, topic string, data []byte) (string, error) {
	s, err := n.program()
	if err != nil {
		return "", err
	}
	return s.Publish(ctx, topic, data)
}

// SendMessages is PublishMessage for one message after the other, whose ids
// nobody needs and which cost less together. It sends all until one fails and
// tells how many were sent before that one.
func (n *Node) SendMessages(ctx context.Context, topic string, list [][]byte) (int, error) {
	s, err := n.program()
	if err != nil {
		return 0, err
	}
	return s.SendAll(ctx, topic, list)
}

// ReadMessages reads accepted messages of topics, of all where none is named.
// The caller MUST Close it.
func (n *Node) ReadMessages(topics []string) (*MessageReader, error) {
	s, err := n.program()
	if err != nil {
		return nil, err
	}
	return s.Subscribe(topics)
}

// RequestPeer asks the program of another node and gives each part of its
// answer to take. It ends after 30 s at the latest.
func (n *Node) RequestPeer(ctx context.Context, p peer.ID, protocol string, data []byte, take func(part []byte) error) error {
	s, err := n.program()
	if err != nil {
		return err
	}
	return s.Request(ctx, p, protocol, data, take)
}

// ReportPeer charges a peer for what the program found out about it.
func (n *Node) ReportPeer(p peer.ID, reason, detail string) error {
	s, err := n.program()
	if err != nil {
		return err
	}
	return s.ReportPeer(p, reason, detail)
}

// SetHead takes over the program's head.
func (n *Node) SetHead(h ProgramHead) error {
	s, err := n.program()
	if err != nil {
		return err
	}
	return s.SetHead(h)
}

// ProgramPeers lists the ready peers with the heads that they claim.
func (n *Node) ProgramPeers() ([]chain.Peer, error) {
	s, err := n.program()
	if err != nil {
		return nil, err
	}
	return s.Peers(), nil
}

func (n *Node) sidecarChain() (Chain, error) {
	h, ok := n.sidecar.Head()
	if !ok {
		return Chain{}, ErrNoHead
	}
	return Chain{
		ChainID: n.cfg.NetworkName, GenesisHash: n.sidecar.Status().Genesis, Height: h.Height, BlockCount: h.BlockCount,
		Head: *n.sidecarHead(), Role: n.role(), Sync: n.sidecarSync(), Admins: []consortium.PublicKey{},
	}, nil
}

// sidecarHead is nil until the program told of one.
func (n *Node) sidecarHead() *StatusHead {
	h, ok := n.sidecar.Head()
	if !ok {
		return nil
	}
	return &StatusHead{Height: h.Height, Hash: h.Hash, Time: inMS(h.Time), AgeS: time.Since(h.Time).Seconds()}
}

// sidecarSync tells of the head alone: how far the program is behind is its own
// to know, for what peers claim is not proved to us.
func (n *Node) sidecarSync() Sync {
	h, ok := n.sidecar.Head()
	if !ok {
		return Sync{State: "waiting"}
	}
	return Sync{State: "synced", Target: h.Height}
}

// programCheck takes the place of the check of the lag.
func (n *Node) programCheck() Check {
	c := Check{Name: "program"}
	if c.Note, c.OK = n.sidecar.Attached(); !c.OK {
		c.Note = "no program is attached: messages are not judged (sidecar.on_detached = " + n.cfg.Sidecar.OnDetached + "), and requests are refused"
	}
	return c
}
