package chainsync

import (
	"context"
	"io"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/internal/replica/ledger"
	"github.com/parley-p2p/parley/internal/wire"
)

type handler func(ctx context.Context, st chain.Stream) error

// replay lets a handler serve a request that was read already.
type replay struct {
	chain.Stream
	head []byte
}

func (r *replay) Read(p []byte) (int, error) {
	if len(r.head) > 0 {
		n := copy(p, r.head)
		r.head = r.head[n:]
		return n, nil
	}
	return r.Stream.Read(p)
}

func readRequest(st chain.Stream) (wire.SyncRequest, error) {
	frame, err := wire.ReadFrame(st, wire.MaxSyncRequest)
	if err != nil {
		return wire.SyncRequest{}, err
	}
	return wire.DecodeSyncRequest(frame)
}

func again(st chain.Stream, req wire.SyncRequest) chain.Stream {
	var b buffer
	_ = wire.WriteFrame(&b, req.Encode())
	return &replay{st, b}
}

type buffer []byte

func (b *buffer) Write(p []byte) (int, error) { *b = append(*b, p...); return len(p), nil }

// hang says nothing until the client gives up.
func hang(st chain.Stream) error {
	<-st.(*pipeStream).closed
	return io.ErrUnexpectedEOF
}

// stallBodies serves all but bodies, of which it never sends a byte.
func stallBodies(serve handler) handler {
	return func(ctx context.Context, st chain.Stream) error {
		req, err := readRequest(st)
		if err != nil {
			return err
		}
		if req.Kind != wire.SyncBodies {
			return serve(ctx, again(st, req))
		}
		return hang(st)
	}
}

// lieBodies serves bodies in which one byte is wrong.
func lieBodies(l *ledger.Ledger) handler {
	return func(_ context.Context, st chain.Stream) error {
		req, err := readRequest(st)
		if err != nil {
			return err
		}
		if req.Kind != wire.SyncBodies {
			return serveHeaders(l, st, req)
		}
		for h := req.From; h < req.From+uint64(req.Count); h++ {
			b, err := l.Block(h)
			if err != nil {
				return err
			}
			for i, s := range b.Body {
				s.Records[0][50] ^= 1
				if err := wire.WriteFrame(st, wire.SubtreeAnswer{Height: h, Index: uint32(i), Records: s.Records}.Encode()); err != nil {
					return err
				}
			}
		}
		return nil
	}
}

// cutBodies serves bodies that lack their last record.
func cutBodies(l *ledger.Ledger) handler {
	return func(_ context.Context, st chain.Stream) error {
		req, err := readRequest(st)
		if err != nil {
			return err
		}
		if req.Kind != wire.SyncBodies {
			return serveHeaders(l, st, req)
		}
		b, err := l.Block(req.From)
		if err != nil {
			return err
		}
		records := b.Body[0].Records
		return wire.WriteFrame(st, wire.SubtreeAnswer{Height: req.From, Records: records[:len(records)-1]}.Encode())
	}
}

// serveHeaders serves head and headers as they are.
func serveHeaders(l *ledger.Ledger, st chain.Stream, req wire.SyncRequest) error {
	return serveEdited(l, st, req, func(a *wire.HeaderAnswer) {})
}

func serveEdited(l *ledger.Ledger, st chain.Stream, req wire.SyncRequest, edit func(*wire.HeaderAnswer)) error {
	tip := l.Tip().Head.Height
	if req.Kind == wire.SyncHead {
		req.From, req.Count = tip, 1
	}
	for h := req.From; h < req.From+uint64(req.Count) && h <= tip; h++ {
		header, cert, err := l.Header(h)
		if err != nil {
			return err
		}
		a := wire.HeaderAnswer{Header: header.Encode(), Certificate: cert.Encode()}
		edit(&a)
		if err := wire.WriteFrame(st, a.Encode()); err != nil {
			return err
		}
	}
	return nil
}

// forgeHeaders shows headers under signatures of nobody.
func forgeHeaders(l *ledger.Ledger) handler {
	return func(_ context.Context, st chain.Stream) error {
		req, err := readRequest(st)
		if err != nil || req.Kind == wire.SyncBodies {
			return io.ErrUnexpectedEOF
		}
		return serveEdited(l, st, req, func(a *wire.HeaderAnswer) { a.Certificate[len(a.Certificate)-1] ^= 1 })
	}
}
