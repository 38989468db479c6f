package consensus

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hyperledger-labs/SmartBFT/smartbftprotos"
	"google.golang.org/protobuf/proto"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/internal/replica/ledger/ledgertest"
	"github.com/parley-p2p/parley/internal/wire"
)

func encode(t testing.TB, m *smartbftprotos.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func viewData(t testing.TB, d *smartbftprotos.ViewData, signer uint64) *smartbftprotos.SignedViewData {
	t.Helper()
	b, err := proto.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	return &smartbftprotos.SignedViewData{RawViewData: b, Signer: signer, Signature: []byte("s")}
}

// samples are messages of each kind; harsh ones would panic the library.
func samples(t testing.TB) (fine, harsh []*smartbftprotos.Message) {
	last := &smartbftprotos.Proposal{Header: []byte("h"), Payload: []byte("p"), Metadata: metadata(t, 0, 3)}
	good := &smartbftprotos.ViewData{NextView: 1, LastDecision: last}
	newView := func(data ...*smartbftprotos.SignedViewData) *smartbftprotos.Message {
		return &smartbftprotos.Message{Content: &smartbftprotos.Message_NewView{NewView: &smartbftprotos.NewView{SignedViewData: data}}}
	}
	one := func(d *smartbftprotos.SignedViewData) *smartbftprotos.Message {
		return &smartbftprotos.Message{Content: &smartbftprotos.Message_ViewData{ViewData: d}}
	}
	sig := &smartbftprotos.Signature{Signer: 2, Value: []byte("v"), Msg: []byte("m")}
	fine = []*smartbftprotos.Message{
		{Content: &smartbftprotos.Message_PrePrepare{PrePrepare: &smartbftprotos.PrePrepare{View: 0, Seq: 1, Proposal: last, PrevCommitSignatures: []*smartbftprotos.Signature{sig}}}},
		{Content: &smartbftprotos.Message_PrePrepare{PrePrepare: &smartbftprotos.PrePrepare{Seq: 1}}},
		{Content: &smartbftprotos.Message_Prepare{Prepare: &smartbftprotos.Prepare{Seq: 1, Digest: "d"}}},
		{Content: &smartbftprotos.Message_Commit{Commit: &smartbftprotos.Commit{Seq: 1, Digest: "d", Signature: sig}}},
		{Content: &smartbftprotos.Message_Commit{Commit: &smartbftprotos.Commit{Seq: 9}}},
		{Content: &smartbftprotos.Message_ViewChange{ViewChange: &smartbftprotos.ViewChange{NextView: 1}}},
		{Content: &smartbftprotos.Message_HeartBeat{HeartBeat: &smartbftprotos.HeartBeat{View: 1, Seq: 4}}},
		{Content: &smartbftprotos.Message_HeartBeatResponse{HeartBeatResponse: &smartbftprotos.HeartBeatResponse{View: 1}}},
		{Content: &smartbftprotos.Message_StateTransferRequest{StateTransferRequest: &smartbftprotos.StateTransferRequest{}}},
		{Content: &smartbftprotos.Message_StateTransferResponse{StateTransferResponse: &smartbftprotos.StateTransferResponse{ViewNum: 1, Sequence: 2}}},
		one(viewData(t, good, 2)),
		newView(viewData(t, good, 2), viewData(t, good, 3)),
		newView(),
	}
	harsh = []*smartbftprotos.Message{
		{},
		one(viewData(t, &smartbftprotos.ViewData{NextView: 1}, 2)),
		one(&smartbftprotos.SignedViewData{RawViewData: []byte{0xff}, Signer: 2}),
		newView(viewData(t, good, 2), &smartbftprotos.SignedViewData{RawViewData: []byte{0xff}, Signer: 2}),
		newView(viewData(t, good, 2), viewData(t, good, 2)),
		newView(viewData(t, &smartbftprotos.ViewData{LastDecision: &smartbftprotos.Proposal{Metadata: []byte{0xff}}}, 2)),
		newView(viewData(t, &smartbftprotos.ViewData{LastDecision: last, InFlightProposal: &smartbftprotos.Proposal{}}, 2)),
	}
	return fine, harsh
}

func TestDecodeMessage(t *testing.T) {
	fine, harsh := samples(t)
	for i, m := range fine {
		if _, err := decodeMessage(encode(t, m)); err != nil {
			t.Errorf("fine %d: %v", i, err)
		}
	}
	for i, m := range harsh {
		if _, err := decodeMessage(encode(t, m)); err == nil {
			t.Errorf("harsh %d is taken", i)
		}
	}
	if _, err := decodeMessage([]byte("garbage")); err == nil {
		t.Error("garbage is taken")
	}
}

func TestOutdated(t *testing.T) {
	at := func(seq uint64) *smartbftprotos.SignedViewData {
		return viewData(t, &smartbftprotos.ViewData{NextView: 7, LastDecision: &smartbftprotos.Proposal{Metadata: metadata(t, 0, seq)}}, seq)
	}
	m := &smartbftprotos.Message{Content: &smartbftprotos.Message_NewView{NewView: &smartbftprotos.NewView{
		SignedViewData: []*smartbftprotos.SignedViewData{at(3), at(5), at(4)}}}}
	for height, want := range map[uint64]bool{4: false, 5: false, 6: false, 7: true} {
		if got := outdated(m, height, 6); got != want {
			t.Errorf("new view on block 5 at height %d: outdated %v", height, got)
		}
	}
	if !outdated(m, 5, 7) {
		t.Error("a new view that was begun already is not outdated")
	}
	if outdated(&smartbftprotos.Message{}, 9, 9) {
		t.Error("only a new view is outdated")
	}
}

func FuzzDecodeMessage(f *testing.F) {
	fine, harsh := samples(f)
	for _, m := range append(fine, harsh...) {
		f.Add(encode(f, m))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMessage(b)
		outdated(m, 5, 5)
		if err == nil && m.GetContent() == nil {
			t.Error("a message without content is taken")
		}
	})
}

// attach opens a stream to n in the name of another node.
func attach(t *testing.T, n, as *testNode) (net.Conn, <-chan error) {
	t.Helper()
	ours, theirs := net.Pipe()
	end := make(chan error, 1)
	n.wg.Go(func() {
		err := n.engine.Handle(n.ctx, &pipe{theirs, as.id})
		_ = theirs.Close()
		end <- err
	})
	return ours, end
}

// A validator that sends random messages, well formed and not, neither stops
// the others nor their work.
func TestGarbageFromValidator(t *testing.T) {
	tn := newTestNet(t, 4)
	for _, n := range tn.nodes[:3] {
		n.start()
	}
	liar := tn.nodes[3] // never runs itself
	rnd := rand.New(rand.NewPCG(3, 4))
	fine, harsh := samples(t)
	tn.await(tn.submit(20))
	for round := range 20 {
		for _, n := range tn.nodes[:3] {
			conn, end := attach(t, n, liar)
			for i := range 100 {
				var b []byte
				switch rnd.IntN(3) {
				case 0:
					b = encode(t, fine[rnd.IntN(len(fine))])
				case 1:
					b = encode(t, fine[rnd.IntN(len(fine))])
					for range 1 + rnd.IntN(3) {
						if len(b) > 0 {
							b[rnd.IntN(len(b))] ^= 1 << rnd.IntN(8)
						}
					}
				default:
					b = encode(t, harsh[rnd.IntN(len(harsh))])
				}
				if err := wire.WriteFrame(conn, b); err != nil {
					var bad *chain.InvalidError
					if err := <-end; !errors.As(err, &bad) {
						t.Fatalf("round %d, message %d: stream ended with %v", round, i, err)
					}
					conn, end = attach(t, n, liar)
				}
			}
			_ = conn.Close()
		}
		tn.await(tn.submit(5))
	}
	tn.stop()
}

func TestHandle(t *testing.T) {
	tn := newTestNet(t, 3)
	for _, n := range tn.nodes[:2] {
		n.start()
	}
	third := tn.nodes[2] // its own streams would take the place of ours
	tn.await(tn.submit(1))
	first := tn.nodes[0]

	stranger := &testNode{net: tn, id: "stranger", key: ledgertest.Key("stranger")}
	if _, end := attach(t, first, stranger); !errors.Is(<-end, chain.ErrUnready) {
		t.Error("a stranger's stream was served")
	}
	if _, end := attach(t, first, first); !errors.Is(<-end, chain.ErrUnready) {
		t.Error("our own stream was served")
	}
	var bad *chain.InvalidError
	conn, end := attach(t, first, third)
	if _, err := conn.Write([]byte{0xff, 0xff, 0xff, 0xff, 0x7f}); err != nil {
		t.Fatal(err)
	}
	if err := <-end; !errors.As(err, &bad) || bad.Offence != chain.Oversize {
		t.Errorf("a frame of 32 GiB: %v", err)
	}
	conn, end = attach(t, first, third)
	if err := wire.WriteFrame(conn, []byte("garbage")); err != nil {
		t.Fatal(err)
	}
	if err := <-end; !errors.As(err, &bad) || bad.Offence != chain.Malformed {
		t.Errorf("garbage: %v", err)
	}
	tn.await(tn.submit(10))
	tn.stop()
	if err := first.engine.Handle(context.Background(), nil); !errors.Is(err, chain.ErrUnready) {
		t.Errorf("a stopped engine: %v", err)
	}
}

func TestOutbox(t *testing.T) {
	o := &outbox{wake: make(chan struct{}, 1)}
	now := time.Now()
	for i := range outMessages {
		if !o.put([]byte{1}, now) {
			t.Fatalf("message %d is dropped", i)
		}
	}
	if o.put([]byte{1}, now) {
		t.Error("a full queue takes more")
	}
	o.connect(true, now.Add(staleAfter+time.Millisecond))
	if _, ok := o.take(); ok || o.bytes != 0 || !o.isUp() {
		t.Errorf("after a late connection: %d bytes, message left: %v", o.bytes, ok)
	}
	if !o.put(make([]byte, outBytes), now) || o.put([]byte{1}, now) {
		t.Error("the bound in bytes does not hold")
	}
	if b, ok := o.take(); !ok || len(b) != outBytes || o.bytes != 0 {
		t.Errorf("took %d bytes, %d left", len(b), o.bytes)
	}
}

// What confirms a new view is read back as it was sent, and nothing else is.
func TestConfirmation(t *testing.T) {
	c := confirmationOf(7, &smartbftprotos.NewView{SignedViewData: []*smartbftprotos.SignedViewData{{Signer: 1, RawViewData: []byte("a")}}})
	if got, is, ok := isConfirmation(c.message()); !is || !ok || got != c {
		t.Errorf("%v, %v, %v", got, is, ok)
	}
	other := confirmationOf(7, &smartbftprotos.NewView{SignedViewData: []*smartbftprotos.SignedViewData{{Signer: 1, RawViewData: []byte("b")}}})
	if other == c {
		t.Error("two new views are confirmed by the same")
	}
	for _, digest := range []string{"", "0", strings.Repeat("0", 63), strings.Repeat("0", 65), strings.Repeat("x", 64), strings.Repeat("0", 1<<20)} {
		m := &smartbftprotos.Message{Content: &smartbftprotos.Message_Prepare{Prepare: &smartbftprotos.Prepare{View: 7, Digest: digest}}}
		if _, is, ok := isConfirmation(m); !is || ok {
			t.Errorf("a sum of %d characters: %v, %v", len(digest), is, ok)
		}
	}
	if _, is, _ := isConfirmation(&smartbftprotos.Message{Content: &smartbftprotos.Message_Prepare{Prepare: &smartbftprotos.Prepare{Seq: 1}}}); is {
		t.Error("a prepare of a block confirms a view")
	}
}

func FuzzConfirmation(f *testing.F) {
	f.Add(uint64(7), uint64(0), strings.Repeat("0", 64))
	f.Fuzz(func(t *testing.T, view, seq uint64, digest string) {
		m := &smartbftprotos.Message{Content: &smartbftprotos.Message_Prepare{Prepare: &smartbftprotos.Prepare{View: view, Seq: seq, Digest: digest}}}
		if c, is, ok := isConfirmation(m); is != (seq == 0) || ok && is && c.message().GetPrepare().Digest != strings.ToLower(digest) {
			t.Errorf("%v, %v, %v", c, is, ok)
		}
	})
}
