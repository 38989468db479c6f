package swarmtest

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/hyperledger-labs/SmartBFT/pkg/types"
	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"google.golang.org/protobuf/proto"

	"github.com/parley-p2p/parley/consortium"
)

// treason is what traitors do to what they send to a validator.
type treason struct {
	name   string
	twist  func(p *plot, from *Node, to uint64, m *smartbftprotos.Message) []*smartbftprotos.Message
	hoards bool // it serves no blocks, subtrees and records to half of the others
	named  bool // honest nodes can prove who it is
}

var treasons = []treason{
	{name: "equivocates", twist: (*plot).equivocate},
	{name: "equivocates and signs both blocks", twist: (*plot).signBoth, named: true},
	{name: "tampers with a record of each proposal", twist: (*plot).tamper},
	{name: "withholds its proposals", twist: (*plot).withhold},
	{name: "withholds proposals, subtrees and bodies from some", twist: (*plot).favour, hoards: true},
}

// plot is the treason of one node or several, which know of each other.
type plot struct {
	treason
	swarm  *Swarm
	spared uint64 // validators that are treated well: bit i is that of id i

	mu     sync.Mutex // guards below
	rnd    *rand.Rand
	blocks map[voteAt]rivals
	struck int // messages that were changed, doubled or kept back
}

type voteAt struct{ view, height uint64 }

// rivals are two proposals for one place.
type rivals struct{ true, other *smartbftprotos.PrePrepare }

// suspect is a node that may become a traitor.
type suspect struct {
	node *Node
	plot atomic.Pointer[plot] // nil while it is honest
}

// suspect watches over what n sends, from its first start on.
func (n *Node) suspect() *suspect {
	x := &suspect{node: n}
	n.outgoing, n.limits = x.outgoing, miser{&network.NullResourceManager{}, x}
	return x
}

// betray makes traitors of the suspects.
func (s *Swarm) betray(t treason, seed uint64, traitors ...*suspect) *plot {
	rnd := rand.New(rand.NewPCG(seed, 3))
	p := &plot{treason: t, swarm: s, rnd: rnd, blocks: map[voteAt]rivals{}}
	for i, at := range rnd.Perm(len(s.nodes)) { // half of all, which cuts a quorum now here, now there
		if i < len(s.nodes)/2 {
			p.spared |= 2 << at
		}
	}
	for _, x := range traitors {
		x.plot.Store(p)
	}
	return p
}

// count is how many messages were changed, doubled or kept back.
func (p *plot) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.struck
}

// outgoing is what the engine sends in the place of m.
func (x *suspect) outgoing(to uint64, m *smartbftprotos.Message) []*smartbftprotos.Message {
	p := x.plot.Load()
	if p == nil {
		return []*smartbftprotos.Message{m}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.twist(p, x.node, to, m)
	if len(out) != 1 || out[0] != m {
		p.struck++
	}
	return out
}

func only(m *smartbftprotos.Message) []*smartbftprotos.Message {
	return []*smartbftprotos.Message{m}
}

func (p *plot) spares(to uint64) bool { return p.spared>>to&1 == 1 }

// rival gives the proposal that stands against what from proposes: its time is
// a millisecond later.
func (p *plot) rival(m *smartbftprotos.PrePrepare) rivals {
	at := voteAt{m.View, m.Seq}
	r, ok := p.blocks[at]
	if !ok {
		q := proto.Clone(m).(*smartbftprotos.PrePrepare)
		p.edit(q.Proposal, func(h *consortium.Header, _ consortium.Body) { h.Time++ })
		r = rivals{m, q}
		p.blocks[at] = r
	}
	return r
}

// edit changes a proposal, which stays of one piece: the header fixes the body.
func (p *plot) edit(of *smartbftprotos.Proposal, f func(*consortium.Header, consortium.Body)) {
	h, err := consortium.DecodeHeader(of.Header)
	if err != nil {
		p.swarm.T.Error(err)
		return
	}
	body, err := consortium.DecodeBody(slices.Clone(of.Payload), len(of.Payload))
	if err != nil {
		p.swarm.T.Error(err)
		return
	}
	f(h, body)
	h.Root = body.RootOf(body.RecordIDs())
	of.Header, of.Payload = h.Encode(), consortium.EncodeBody(body)
}

// equivocate proposes two blocks, each to half of the others, and votes for
// whichever they have.
func (p *plot) equivocate(from *Node, to uint64, m *smartbftprotos.Message) []*smartbftprotos.Message {
	switch c := m.GetContent().(type) {
	case *smartbftprotos.Message_PrePrepare:
		r := p.rival(c.PrePrepare)
		return only(&smartbftprotos.Message{Content: &smartbftprotos.Message_PrePrepare{PrePrepare: p.side(r, to)}})
	case *smartbftprotos.Message_Prepare:
		if r, ok := p.blocks[voteAt{c.Prepare.View, c.Prepare.Seq}]; ok {
			return only(p.prepare(c.Prepare, p.side(r, to)))
		}
	case *smartbftprotos.Message_Commit:
		if r, ok := p.blocks[voteAt{c.Commit.View, c.Commit.Seq}]; ok {
			return only(p.commit(from, c.Commit.View, c.Commit.Seq, p.side(r, to)))
		}
	}
	return only(m)
}

// signBoth equivocates, and signs both blocks before anybody else does.
func (p *plot) signBoth(from *Node, to uint64, m *smartbftprotos.Message) []*smartbftprotos.Message {
	out := p.equivocate(from, to, m)
	c := m.GetPrepare()
	if c == nil {
		return out
	}
	if r, ok := p.blocks[voteAt{c.View, c.Seq}]; ok {
		out = append(out, p.commit(from, c.View, c.Seq, r.true), p.commit(from, c.View, c.Seq, r.other))
	}
	return out
}

// side is the block that a validator is shown.
func (p *plot) side(r rivals, to uint64) *smartbftprotos.PrePrepare {
	if p.spares(to) {
		return r.true
	}
	return r.other
}

func (p *plot) prepare(of *smartbftprotos.Prepare, block *smartbftprotos.PrePrepare) *smartbftprotos.Message {
	of = proto.Clone(of).(*smartbftprotos.Prepare)
	of.Digest = digest(block.Proposal)
	return &smartbftprotos.Message{Content: &smartbftprotos.Message_Prepare{Prepare: of}}
}

// commit is a good vote of the traitor for a block.
func (p *plot) commit(from *Node, view, height uint64, block *smartbftprotos.PrePrepare) *smartbftprotos.Message {
	h, err := consortium.DecodeHeader(block.Proposal.Header)
	if err != nil {
		p.swarm.T.Error(err)
		return nil
	}
	sig := consortium.SignVote(from.Key, h.Genesis, h.Hash(), h.Height, view)
	self := uint64(0)
	for _, v := range p.swarm.genesis.Config.Validators {
		if v.Key == from.PublicKey() {
			self = v.ID
		}
	}
	return &smartbftprotos.Message{Content: &smartbftprotos.Message_Commit{Commit: &smartbftprotos.Commit{
		View: view, Seq: height, Digest: digest(block.Proposal),
		Signature: &smartbftprotos.Signature{Signer: self, Value: sig[:], Msg: consortium.VoteMessage(h.Genesis, h.Hash(), h.Height, view)},
	}}}
}

// digest is the library's name for a proposal.
func digest(p *smartbftprotos.Proposal) string {
	return types.Proposal{Header: p.Header, Payload: p.Payload, Metadata: p.Metadata, VerificationSequence: int64(p.VerificationSequence)}.Digest()
}

// tamper alters a record of each proposal, and the header with it.
func (p *plot) tamper(_ *Node, _ uint64, m *smartbftprotos.Message) []*smartbftprotos.Message {
	c := m.GetPrePrepare()
	if c == nil {
		return only(m)
	}
	c = proto.Clone(c).(*smartbftprotos.PrePrepare)
	p.edit(c.Proposal, func(_ *consortium.Header, b consortium.Body) {
		if len(b) == 0 {
			return // a block without records has none to alter
		}
		records := b[p.rnd.IntN(len(b))].Records
		raw := records[p.rnd.IntN(len(records))]
		r, err := consortium.DecodeRecord(raw)
		if err != nil {
			p.swarm.T.Error(err)
			return
		}
		r.Nonce++ // of the same length; its author signed another one
		copy(raw, r.Encode())
	})
	return only(&smartbftprotos.Message{Content: &smartbftprotos.Message_PrePrepare{PrePrepare: c}})
}

func (p *plot) withhold(_ *Node, _ uint64, m *smartbftprotos.Message) []*smartbftprotos.Message {
	if m.GetPrePrepare() != nil {
		return nil
	}
	return only(m)
}

// favour proposes to some only.
func (p *plot) favour(_ *Node, to uint64, m *smartbftprotos.Message) []*smartbftprotos.Message {
	if m.GetPrePrepare() != nil && !p.spares(to) {
		return nil
	}
	return only(m)
}

// miser is a resource manager without limits, which refuses to half of the
// peers what a traitor hoards.
type miser struct {
	*network.NullResourceManager
	suspect *suspect
}

// OpenStream implements [network.ResourceManager].
func (m miser) OpenStream(p peer.ID, d network.Direction) (network.StreamManagementScope, error) {
	return stingy{NullScope: &network.NullScope{}, suspect: m.suspect, to: p, serves: d == network.DirInbound}, nil
}

type stingy struct {
	*network.NullScope
	suspect *suspect
	to      peer.ID
	serves  bool
}

var errHoarded = errors.New("this node keeps what it has to itself")

// SetProtocol refuses to serve blocks, subtrees and records.
func (s stingy) SetProtocol(id protocol.ID) error {
	p := s.suspect.plot.Load()
	if p == nil || !p.hoards || !s.serves || !strings.HasSuffix(string(id), "/sync/1") && !strings.HasSuffix(string(id), "/records/1") {
		return nil
	}
	for i, n := range p.swarm.nodes {
		if n.peerID() == s.to && !p.spares(uint64(i)+1) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.struck++
			return errHoarded
		}
	}
	return nil
}

func (n *Node) peerID() peer.ID {
	id, err := n.PublicKey().PeerID()
	if err != nil {
		n.swarm.T.Fatal(err)
	}
	return id
}
