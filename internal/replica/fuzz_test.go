package replica

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/replica/ledger/ledgertest"
	"github.com/parley-p2p/parley/internal/wire"
)

// said is a stream on which a peer says bytes.
type said struct {
	memStream
	from peer.ID
}

func (s *said) Peer() peer.ID { return s.from }

func say(b []byte) *said { return &said{memStream{in: *bytes.NewBuffer(b)}, "peer"} }

func frames(list ...[]byte) []byte {
	var b bytes.Buffer
	for _, p := range list {
		_ = wire.WriteFrame(&b, p) // a buffer takes all
	}
	return b.Bytes()
}

// bounded fails where f takes more memory than what a peer said can stand for.
func bounded(t *testing.T, said []byte, f func() error) error {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err := f()
	runtime.ReadMemStats(&after)
	if n, limit := after.TotalAlloc-before.TotalAlloc, uint64(1<<20+256*len(said)); n > limit {
		t.Errorf("%d bytes took %d bytes of memory, limit %d", len(said), n, limit)
	}
	return err
}

// blame fails where an error is neither the sender's fault, nor a cut stream,
// nor what a node answers to more than it takes.
func blame(t *testing.T, err error) {
	t.Helper()
	var bad *chain.InvalidError
	if err != nil && !errors.As(err, &bad) && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) &&
		!errors.Is(err, chain.ErrUnready) && !errors.Is(err, chain.ErrKnown) {
		t.Fatalf("nobody's fault: %v", err)
	}
}

// FuzzTakeRecords: whatever a peer says on /records/1.
func FuzzTakeRecords(f *testing.F) {
	c := ledgertest.New(f, 1)
	w, _, _ := atWork(f, c)
	raws := [][]byte{c.Record("a", nil), c.Record("b", []byte("body"))}
	offer := wire.Offer{IDs: []chain.Hash{consortium.RecordID(raws[0]), consortium.RecordID(raws[1])}}.Encode()
	f.Add(frames(offer, wire.EncodeRecords(raws)))
	f.Add(frames(offer, wire.EncodeRecords(raws[:1]), wire.EncodeRecords(raws[1:])))
	f.Add(frames(offer, wire.EncodeRecords(append(raws, raws[0]))))
	f.Add(frames(offer))
	f.Add([]byte{0xff, 0xff, 0xff, 0x7f})
	f.Fuzz(func(t *testing.T, b []byte) {
		w.limits = newLimits()
		blame(t, bounded(t, b, func() error { return w.takeRecords(t.Context(), say(b)) }))
		if n := w.pool.Len(); n > 2 {
			t.Fatalf("%d records are in the pool, of two that exist", n)
		}
	})
}

// FuzzOfferOver: whatever a peer answers to an offer.
func FuzzOfferOver(f *testing.F) {
	c := ledgertest.New(f, 1)
	list := owns(c.Record("a", nil), c.Record("b", nil))
	f.Add(frames(wire.Want{IDs: []chain.Hash{list[0].id}}.Encode()))
	f.Add(frames(wire.Want{IDs: []chain.Hash{list[0].id, list[0].id}}.Encode()))
	f.Add(frames(wire.Want{IDs: []chain.Hash{{1}}}.Encode()))
	f.Add([]byte{0x80, 0x80, 0x08})
	f.Fuzz(func(t *testing.T, b []byte) {
		blame(t, bounded(t, b, func() error { return offerOver(say(b), list) }))
	})
}

// FuzzGenesisAnswer: whatever a peer answers to a joiner, and asks of one.
func FuzzGenesisAnswer(f *testing.F) {
	c := ledgertest.New(f, 3)
	w, _, _ := atWork(f, c)
	f.Add(frames(c.Genesis().Encode()))
	f.Add(frames(nil))
	f.Add([]byte{0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = bounded(t, b, func() error {
			raw, err := readGenesisAnswer(say(b))
			if err != nil {
				blame(t, wire.Fault(err))
				return err
			}
			if g, err := consortium.DecodeGenesis(raw); err == nil && !bytes.Equal(g.Encode(), raw) {
				t.Fatal("a genesis of two forms")
			}
			return nil
		})
		blame(t, bounded(t, b, func() error { return w.serveGenesis(t.Context(), say(b)) }))
	})
}

// FuzzTopics: whatever comes on the topics of the chain.
func FuzzTopics(f *testing.F) {
	c := ledgertest.New(f, 1)
	w, _, _ := atWork(f, c)
	topics := w.topics()
	self, err := w.ledger.Tip().Config.Validators[0].Key.PeerID()
	if err != nil {
		f.Fatal(err)
	}
	raw := c.Record("a", nil)
	b := c.Next(raw)
	for i, body := range [][]byte{
		wire.BlockAnnouncement{Header: b.Header.Encode(), Certificate: b.Certificate.Encode()}.Encode(),
		wire.EncodeRecords([][]byte{raw}),
		wire.Subtree{ID: b.Body[0].ID(), Height: 1, Index: 0, Count: 1, Records: b.Body[0].IDs()}.Encode(),
		wire.MiningOn{}.Encode(), wire.RejectedTx{}.Encode(),
	} {
		f.Add(uint8(i), body)
	}
	f.Fuzz(func(t *testing.T, topic uint8, data []byte) {
		x := topics[int(topic)%len(topics)]
		if len(data) > x.MaxBytes {
			return // gossip takes none of these
		}
		w.limits = newLimits()
		err := bounded(t, data, func() error {
			return x.Validate(t.Context(), chain.Message{From: "peer", Origin: self, Data: data})
		})
		if err != nil {
			_ = fmt.Sprint(err) // every error can be told
		}
	})
}
