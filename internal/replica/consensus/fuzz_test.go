package consensus

import (
	"bytes"
	"errors"
	"io"
	"runtime"
	"testing"

	"github.com/hyperledger-labs/SmartBFT/pkg/types"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/replica/ledger/ledgertest"
	"github.com/parley-p2p/parley/internal/wire"
)

// FuzzReceive: whatever a validator says on its stream, each frame is a message,
// silence, its fault, or the end, and takes memory as it comes.
func FuzzReceive(f *testing.F) {
	s := &session{Engine: &Engine{ledger: newTestNet(f, 4).nodes[0].ledger}}
	fine, harsh := samples(f)
	var all bytes.Buffer
	for _, m := range append(fine, harsh...) {
		var one bytes.Buffer
		if err := errors.Join(wire.WriteFrame(&one, encode(f, m)), wire.WriteFrame(&all, encode(f, m))); err != nil {
			f.Fatal(err)
		}
		f.Add(one.Bytes())
	}
	f.Add(all.Bytes())
	f.Add([]byte{0xff, 0xff, 0xff, 0x7f})
	f.Add([]byte{0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for r := bytes.NewReader(b); ; {
			_, err := s.receive(r, 2)
			if err == nil {
				continue
			}
			var bad *chain.InvalidError
			if !errors.As(err, &bad) && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("nobody's fault: %v", err)
			}
			break
		}
		runtime.ReadMemStats(&after)
		if n, limit := after.TotalAlloc-before.TotalAlloc, uint64(1<<20+1024*len(b)); n > limit {
			t.Errorf("%d bytes took %d bytes of memory, limit %d", len(b), n, limit)
		}
	})
}

// FuzzProposal: a proposal that is taken is the one that its parts make.
func FuzzProposal(f *testing.F) {
	c := ledgertest.New(f, 4)
	b := c.Next(c.Record("a", nil), c.Record("b", []byte("body")))
	p := propose(b.Header, b.Body)
	f.Add(p.Header, p.Payload, p.Metadata, p.VerificationSequence)
	f.Add(p.Header, p.Payload[:len(p.Payload)/2], p.Metadata, p.VerificationSequence)
	f.Add(p.Header, []byte{0xff, 0xff}, p.Metadata, int64(-1))
	f.Fuzz(func(t *testing.T, header, payload, metadata []byte, seq int64) {
		p := types.Proposal{Header: header, Payload: payload, Metadata: metadata, VerificationSequence: seq}
		piece, err := parse(p, consortium.MaxBlockBytes)
		if err != nil {
			return
		}
		again := propose(piece.header, piece.body)
		if !bytes.Equal(again.Header, header) || !bytes.Equal(again.Payload, payload) || !bytes.Equal(again.Metadata, metadata) || again.VerificationSequence != seq {
			t.Fatal("a proposal has two forms")
		}
	})
}
