package swarmtest

import (
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	pb "github.com/libp2p/go-libp2p-pubsub/pb"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/wire"
)

// charge is one line of what a peer is held to.
type charge struct {
	reason chain.Offence
	points int
}

func (n *Node) charges(v *villain) (list []charge) {
	d, _ := n.PeerDetail(v.id())
	for _, r := range d.Reputation.Reasons {
		list = append(list, charge{r.Reason, r.Points})
	}
	return list
}

// misdeed is a row of DEFENCE 12.
type misdeed struct {
	name    string
	do      func(w *crime)
	charges []charge
	stays   bool // connected
}

// crime is what a misdeed is done with.
type crime struct {
	*villain
	at     *Node               // whom it is done to
	blocks []*consortium.Block // of the chain
}

// announcement is what topic block carries of b.
func announcement(b *consortium.Block) []byte {
	var ids []chain.Hash
	for _, s := range b.Body {
		ids = append(ids, consortium.SubtreeID(s.IDs()))
	}
	return wire.BlockAnnouncement{Header: b.Header.Encode(), Certificate: b.Certificate.Encode(), Subtrees: ids}.Encode()
}

// next is a block that follows the chain and that nobody signed.
func (w *crime) next() *consortium.Block {
	last := w.blocks[len(w.blocks)-1]
	h := *last.Header
	h.Height, h.Prev, h.Time = h.Height+1, last.Header.Hash(), h.Time+1
	return &consortium.Block{Header: &h, Certificate: last.Certificate, Body: last.Body}
}

func (w *crime) onTopic(topic string, data ...[]byte) { w.publishes(w.at, topic, data...) }

func fine(points int, reason chain.Offence) []charge { return []charge{{reason, points}} }

var misdeeds = []misdeed{
	{"a status that does not decode", func(w *crime) { _, _ = w.ask(w.at, statusProtocol, frame([]byte{0x0a, 0xff})) }, fine(25, chain.Malformed), true},
	{"a status over 4 KiB", func(w *crime) { _, _ = w.ask(w.at, statusProtocol, []byte{0x81, 0x80, 0x80, 0x01}) }, fine(40, chain.Oversize), false},
	{"a status again", func(w *crime) { _, _ = w.ask(w.at, statusProtocol, frame(w.version())) }, fine(20, chain.Violation), true},
	{"a goodbye that does not decode", func(w *crime) { _, _ = w.ask(w.at, goodbyeProtocol, frame([]byte{0x0a, 0xff})) }, fine(25, chain.Malformed), true},

	{"an RPC that does not decode", func(w *crime) { w.gossips(w.at, frame([]byte{0x12, 0xff, 0xff})) }, fine(25, chain.Malformed), true},
	{"a length of an RPC over all limits", func(w *crime) { w.gossips(w.at, []byte{0xff, 0xff, 0xff, 0x7f}) }, fine(40, chain.Oversize), false},
	{"two streams of gossip, of which the second takes the place of the first", func(w *crime) {
		first, err := w.open(w.at, meshProtocol)
		if err == nil {
			_, err = first.Write(rpc(w.t, &pb.RPC{}))
		}
		if err != nil {
			w.t.Error(err)
		}
		time.Sleep(time.Second)
		w.gossips(w.at, rpc(w.t, &pb.RPC{}))
	}, nil, true},
	{"33 grafts in an RPC", func(w *crime) {
		control := &pb.ControlMessage{}
		for i := range 33 {
			control.Graft = append(control.Graft, &pb.ControlGraft{TopicID: new(fmt.Sprint(i))})
		}
		w.gossips(w.at, rpc(w.t, &pb.RPC{Control: control}))
	}, fine(20, chain.Violation), true},
	{"peers and an hour of backoff in a prune", func(w *crime) {
		prune := &pb.ControlPrune{TopicID: new("/parley/" + w.net + "/block"), Backoff: new(uint64(1 << 40)), Peers: []*pb.PeerInfo{{PeerID: []byte("x")}}}
		w.gossips(w.at, rpc(w.t, &pb.RPC{Control: &pb.ControlMessage{Prune: []*pb.ControlPrune{prune}}}))
	}, nil, true},
	{"a topic that nobody knows", func(w *crime) { w.onTopic("weather", []byte("rain")) }, nil, true},

	{"an announcement that does not decode", func(w *crime) { w.onTopic("block", []byte{0x0a, 0xff}) }, fine(25, chain.Malformed), true},
	{"an announcement over its limit", func(w *crime) { w.onTopic("block", make([]byte, wire.MaxAnnouncement+1)) }, fine(40, chain.Oversize), false},
	{"a header that nobody signed", func(w *crime) { w.onTopic("block", announcement(w.next())) }, fine(100, chain.ForgedBlock), false},
	{"a header of another chain", func(w *crime) {
		b := w.next()
		b.Header.Genesis = chain.Hash{1}
		w.onTopic("block", announcement(b))
	}, fine(100, chain.ForgedBlock), false},
	{"subtrees that are not those of the header", func(w *crime) {
		b := *w.blocks[0]
		b.Body = append(b.Body[:1:1], consortium.Subtree{Records: [][]byte{{1}}})
		w.onTopic("block", announcement(&b))
	}, fine(25, chain.Malformed), true},
	{"a block whose parent is not known, of a set that is not known", func(w *crime) {
		b := w.next()
		b.Header.Height, b.Header.Set = b.Header.Height+5, chain.Hash{7}
		w.onTopic("block", announcement(b))
	}, nil, true},
	{"an old block", func(w *crime) { w.onTopic("block", announcement(w.blocks[0])) }, nil, true},

	{"records that do not decode", func(w *crime) { w.onTopic("record", []byte{0x0a, 0xff}) }, fine(25, chain.Malformed), true},
	{"a record with a spoilt signature", func(w *crime) {
		raw := slices.Clone(w.blocks[0].Body[0].Records[0])
		raw[len(raw)-1] ^= 1
		w.onTopic("record", wire.EncodeRecords([][]byte{raw}))
	}, fine(10, chain.InvalidTx), true},
	{"records over their limit", func(w *crime) { w.onTopic("record", make([]byte, wire.MaxRecords+1)) }, fine(40, chain.Oversize), false},
	{"a record that is in the chain", func(w *crime) { w.onTopic("record", wire.EncodeRecords(w.blocks[0].Body[0].Records)) }, nil, true},

	{"a claim that is not sealed", func(w *crime) { w.onTopic("node_status", []byte("fine, thanks")) }, fine(25, chain.Malformed), true},
	{"a claim over its limit", func(w *crime) { w.onTopic("best_block", make([]byte, 16<<10)) }, fine(40, chain.Oversize), false},

	{"a request of the chain that does not decode", func(w *crime) { w.says(w.at, "sync/1", frame([]byte("GET / HTTP/1.1"))) }, fine(25, chain.Malformed), true},
	{"a request of more headers than there may be", func(w *crime) {
		w.says(w.at, "sync/1", frame(wire.SyncRequest{Kind: wire.SyncHeaders, From: 1, Count: 1025}.Encode()))
	}, fine(40, chain.Oversize), false},
	{"a length of a request over its limit", func(w *crime) { w.says(w.at, "sync/1", []byte{0xff, 0xff, 0xff, 0x7f}) }, fine(40, chain.Oversize), false},
	{"an offer of records that does not decode", func(w *crime) { w.says(w.at, "records/1", frame([]byte{0x0a, 0xff})) }, fine(25, chain.Malformed), true},
	{"a request of peers that does not decode", func(w *crime) { w.says(w.at, "pex/1", frame([]byte{0xff})) }, fine(25, chain.Malformed), true},
	{"a request to the DHT that does not decode", func(w *crime) { w.says(w.at, "kad/1.0.0", frame([]byte{0xff, 0xff, 0xff})) }, fine(25, chain.Malformed), true},
	{"a word of the engine by who is no validator", func(w *crime) { w.says(w.at, "consensus/1", frame([]byte{0xff})) }, nil, true},
}

// serving is a row of DEFENCE 12 of who answers when it is asked. It claims the
// chain's head.
type serving struct {
	name    string
	head    func(w *crime, out io.Writer)
	headers func(w *crime, out io.Writer) // nil = the true ones
	bodies  func(w *crime, out io.Writer) // nil = none
	charges []charge                      // the first ones
	stays   bool
}

func header(b *consortium.Block) []byte {
	return frame(wire.HeaderAnswer{Header: b.Header.Encode(), Certificate: b.Certificate.Encode()}.Encode())
}

// trueHead shows the last block.
func trueHead(w *crime, out io.Writer) { _, _ = out.Write(header(w.blocks[len(w.blocks)-1])) }

// trueHeaders shows all.
func trueHeaders(w *crime, out io.Writer) {
	for _, b := range w.blocks {
		_, _ = out.Write(header(b))
	}
}

func nothing(*crime, io.Writer) {}

// raw answers with some bytes, whatever the question.
func raw(b ...byte) func(*crime, io.Writer) {
	return func(_ *crime, out io.Writer) { _, _ = out.Write(b) }
}

func silence(*crime, io.Writer) { time.Sleep(40 * time.Second) }

var servings = []serving{
	{"a head that nobody signed", func(w *crime, out io.Writer) { _, _ = out.Write(header(w.next())) }, nil, nil, fine(100, chain.ForgedBlock), false},
	{"a head of another chain", func(w *crime, out io.Writer) {
		b := w.next()
		b.Header.Genesis = chain.Hash{1}
		_, _ = out.Write(header(b))
	}, nil, nil, fine(100, chain.ForgedBlock), false},
	{"two heads", func(w *crime, out io.Writer) { trueHead(w, out); trueHead(w, out) }, nil, nil, fine(20, chain.Violation), true},
	{"a head that does not decode", raw(2, 0x0a, 0xff), nil, nil, fine(25, chain.Malformed), true},
	{"a head over its limit", raw(0xff, 0xff, 0xff, 0x7f), nil, nil, fine(40, chain.Oversize), false},
	{"no answer", silence, nil, nil, fine(4, chain.Timeout), true},
	{"headers that nobody signed", trueHead, func(w *crime, out io.Writer) {
		b := *w.blocks[0]
		b.Certificate = consortium.Certificate{}
		_, _ = out.Write(header(&b))
	}, nil, fine(100, chain.ForgedBlock), false},
	{"no headers to the head, again and again", trueHead, nothing, nil, []charge{{chain.Useless, 2}, {chain.Useless, 2}, {chain.FalseClaim, 20}}, true},
	{"an answer that stops in its middle", trueHead, func(w *crime, out io.Writer) {
		_, _ = out.Write(header(w.blocks[0])[:40])
		time.Sleep(40 * time.Second)
	}, nil, fine(4, chain.Stall), true},
	{"no body of a block that it showed", trueHead, trueHeaders, nothing, fine(2, chain.Useless), true},
	{"a body that is not that of the header", trueHead, trueHeaders, func(w *crime, out io.Writer) {
		_, _ = out.Write(frame(wire.SubtreeAnswer{Height: 1, Records: w.blocks[1].Body[0].Records}.Encode()))
	}, fine(50, chain.InvalidBlock), false},
}

// What a peer answers when a node that is behind asks it for the chain costs
// what it should too.
func TestMisservings(t *testing.T) {
	Run(t, func(s *Swarm) {
		a := s.Add(Alone)
		s.Genesis("misservings", a)
		a.Start()
		for i := range 3 {
			a.Submit(fmt.Sprint("subject-", i), `{}`, parley.Committed)
		}
		reader := s.newVillain()
		if err := reader.come(a); err != nil {
			t.Fatal(err)
		}
		blocks := reader.blocks(a)
		reader.close()
		a.Stop() // a member is asked too
		b := s.Add(Alone)
		b.cfg.Consortium.GenesisFile = a.cfg.Consortium.GenesisFile
		b.Start()
		for _, m := range servings {
			v := s.newVillain()
			w := &crime{villain: v, at: b, blocks: blocks}
			v.claims(blocks[len(blocks)-1].Header.Height)
			v.serves(func(r wire.SyncRequest, out io.Writer) {
				answer := map[wire.SyncKind]func(*crime, io.Writer){wire.SyncHead: m.head, wire.SyncHeaders: m.headers, wire.SyncBodies: m.bodies}[r.Kind]
				switch {
				case answer != nil:
					answer(w, out)
				case r.Kind == wire.SyncHeaders:
					trueHeaders(w, out)
				}
			})
			if err := v.come(b); err != nil {
				t.Errorf("%s: it is not let in: %v", m.name, err)
				continue
			}
			for end := time.Now().Add(3 * time.Minute); time.Now().Before(end) && len(b.charges(v)) < len(m.charges); {
				time.Sleep(100 * time.Millisecond)
			}
			time.Sleep(2 * time.Second)
			if got := b.charges(v); !slices.Equal(got[:min(len(got), len(m.charges))], m.charges) {
				t.Errorf("%s: charged with %v, want %v", m.name, got, m.charges)
			}
			if got := ready(b, v.id()); got != m.stays {
				t.Errorf("%s: it is connected: %v, want %v", m.name, got, m.stays)
			}
			v.close()
			if h := b.Node.Status().Head; h != nil && h.Height > 0 {
				t.Fatalf("%s: the node has block %d", m.name, h.Height)
			}
			time.Sleep(time.Second)
		}
	})
}

// Every bad input of DEFENCE 12 that a stranger can send costs what it should,
// and closes what it should. Each is done by another peer, over QUIC, to a node
// made by parley.New.
func TestMisdeeds(t *testing.T) {
	Run(t, func(s *Swarm) {
		a := s.Add()
		s.Genesis("misdeeds", a)
		a.Start()
		for i := range 3 {
			a.Submit(fmt.Sprint("subject-", i), `{}`, parley.Committed)
		}
		for _, m := range misdeeds {
			v := s.newVillain()
			if err := v.come(a); err != nil {
				t.Errorf("%s: it is not let in: %v", m.name, err)
				continue
			}
			w := &crime{villain: v, at: a, blocks: v.blocks(a)}
			time.Sleep(3 * time.Second) // identify, and subscriptions
			m.do(w)
			time.Sleep(5 * time.Second)
			if got := a.charges(v); !slices.Equal(got, m.charges) {
				t.Errorf("%s: charged with %v, want %v", m.name, got, m.charges)
			}
			if got := ready(a, v.id()); got != m.stays {
				t.Errorf("%s: it is connected: %v, want %v", m.name, got, m.stays)
			}
			if points := sum(m.charges); points >= 100 != v.heard(wire.GoodbyeBanned) || points >= 40 && points < 100 != v.heard(wire.GoodbyeBadScore) {
				t.Errorf("%s: goodbyes %v for %d points", m.name, v.byes, points)
			}
			v.close()
			time.Sleep(time.Second)
		}
	})
}

func sum(list []charge) (n int) {
	for _, c := range list {
		n += c.points
	}
	return n
}
