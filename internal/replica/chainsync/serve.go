package chainsync

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/internal/replica/ledger"
	"github.com/parley-p2p/parley/internal/wire"
)

const (
	frameTime  = 10 * time.Second // for a peer to take one frame
	serveTime  = 2 * time.Minute  // for a peer to take its whole answer
	arriveTime = time.Second      // for a body whose header we have announced to arrive here
)

// handle serves one request. It holds one block in memory at a time, whatever
// is asked, and writes no faster than the peer reads. An answer ends early
// where we have no more.
func (y *Syncer) handle(ctx context.Context, st chain.Stream) error {
	frame, err := wire.ReadFrame(st, wire.MaxSyncRequest)
	if err != nil {
		return wire.Fault(fmt.Errorf("read sync request: %w", err))
	}
	req, err := wire.DecodeSyncRequest(frame)
	if err != nil {
		return wire.Fault(err)
	}
	budget, done, err := y.asked.begin(ctx, st.Peer())
	if err != nil {
		return err
	}
	defer done()
	a := &answer{Syncer: y, st: st, end: time.Now().Add(serveTime), budget: budget}
	switch req.Kind {
	case wire.SyncHead:
		if h := y.ledger.Tip().Head.Height; h > 0 {
			err = a.header(ctx, h)
		}
	case wire.SyncHeaders:
		err = a.headers(ctx, req.From, uint64(req.Count))
	case wire.SyncBodies:
		err = a.bodies(ctx, req.From, uint64(req.Count))
	case wire.SyncSubtrees:
		err = a.subtrees(ctx, req)
	case wire.SyncRecords:
		err = a.records(ctx, req)
	case wire.SyncIDs:
		err = a.ids(ctx, req)
	case wire.SyncConfigs:
		err = a.configs(ctx, req.From)
	}
	if err != nil {
		return fmt.Errorf("serve %s: %w", req.Kind, err)
	}
	return nil
}

// answer is one request being served.
type answer struct {
	*Syncer
	st     chain.Stream
	end    time.Time
	budget *budget // of the peer
}

// write sends one frame once the peer may have it.
func (a *answer) write(ctx context.Context, p []byte) error {
	if err := a.budget.bytes.WaitN(ctx, len(p)); err != nil {
		return fmt.Errorf("wait for the budget of %s: %w", a.st.Peer(), err)
	}
	deadline := time.Now().Add(frameTime)
	if deadline.After(a.end) {
		deadline = a.end
	}
	if err := a.st.SetWriteDeadline(deadline); err != nil {
		return fmt.Errorf("set write deadline: %w", err)
	}
	if err := wire.WriteFrame(a.st, p); err != nil {
		return err
	}
	a.metrics.served.Add(float64(len(p)))
	return nil
}

func (a *answer) header(ctx context.Context, height uint64) error {
	h, cert, err := a.ledger.Header(height)
	if err != nil {
		return err
	}
	return a.write(ctx, wire.HeaderAnswer{Header: h.Encode(), Certificate: cert.Encode()}.Encode())
}

func (a *answer) headers(ctx context.Context, from, count uint64) error {
	tip := a.ledger.Tip().Head.Height
	for h := max(from, 1); h < from+count && h <= tip; h++ {
		if err := a.header(ctx, h); err != nil {
			return err
		}
	}
	return nil
}

func (a *answer) bodies(ctx context.Context, from, count uint64) error {
	a.await(ctx, from)
	tip := a.ledger.Tip().Head.Height
	for h := max(from, 1); h < from+count && h <= tip; h++ {
		b, err := a.ledger.Block(h)
		if err != nil {
			return err
		}
		for i, s := range b.Body {
			if err := a.write(ctx, wire.SubtreeAnswer{Height: h, Index: uint32(i), Records: s.Records}.Encode()); err != nil {
				return err
			}
		}
	}
	return nil
}

// await gives a block a moment to arrive whose header we hold: we relayed its
// announcement, perhaps, so a peer may ask for it before we have it.
func (a *answer) await(ctx context.Context, height uint64) {
	if _, coming := a.run.at(a.ledger.Tip(), height); !coming || a.bus == nil {
		return
	}
	sub := a.bus.Subscribe()
	defer sub.Close()
	limit := time.NewTimer(arriveTime)
	defer limit.Stop()
	for a.ledger.Tip().Head.Height < height {
		select {
		case <-sub.Wake():
			sub.Take(eventsAtOnce)
		case <-limit.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// found serves each id that serve finds, and once more those that it did not
// when the block that they are said to be of has come.
func (a *answer) found(ctx context.Context, req wire.SyncRequest, serve func(id chain.Hash) error) error {
	var late []chain.Hash
	for _, ids := range [][]chain.Hash{req.IDs, nil} {
		if ids == nil && len(late) > 0 && req.From > 0 {
			a.await(ctx, req.From)
			ids = late
		}
		for _, id := range ids {
			err := serve(id)
			if errors.Is(err, ledger.ErrNotFound) {
				late = append(late, id)
				continue
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *answer) subtrees(ctx context.Context, req wire.SyncRequest) error {
	return a.found(ctx, req, func(id chain.Hash) error {
		s, height, index, err := a.ledger.Subtree(id)
		if err != nil {
			return err
		}
		return a.write(ctx, wire.SubtreeAnswer{Height: height, Index: uint32(index), Records: s.Records}.Encode())
	})
}

// ids serves the record ids of subtrees.
func (a *answer) ids(ctx context.Context, req wire.SyncRequest) error {
	return a.found(ctx, req, func(id chain.Hash) error {
		if s, ok := a.told.subtree(id); ok {
			return a.write(ctx, s.Encode())
		}
		s, height, index, err := a.ledger.Subtree(id)
		if err != nil {
			return err
		}
		h, _, err := a.ledger.Header(height)
		if err != nil {
			return err
		}
		return a.write(ctx, wire.Subtree{ID: id, Height: height, Index: uint32(index), Count: uint32(h.Subtrees), Records: s.IDs()}.Encode())
	})
}

// record finds a record among those that wait for a block, or in the chain.
func (a *answer) record(f *ledger.Finder, id chain.Hash) ([]byte, error) {
	if a.cfg.Pending != nil {
		if raw, ok := a.cfg.Pending(id); ok {
			return raw, nil
		}
	}
	raw, err := f.Record(id)
	return bytes.Clone(raw), err // and not the block around it, while a frame fills
}

func (a *answer) records(ctx context.Context, req wire.SyncRequest) error {
	finder := a.ledger.Finder()
	var batch [][]byte
	size := 0
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		frame := wire.EncodeRecords(batch)
		batch, size = nil, 0
		return a.write(ctx, frame)
	}
	err := a.found(ctx, req, func(id chain.Hash) error {
		raw, err := a.record(finder, id)
		if err != nil {
			return err
		}
		if size+wire.RecordsSize(len(raw)) > wire.MaxRecords {
			if err := flush(); err != nil {
				return err
			}
		}
		batch = append(batch, raw)
		size += wire.RecordsSize(len(raw))
		return nil
	})
	if err != nil {
		return err
	}
	return flush()
}

func (a *answer) configs(ctx context.Context, from uint64) error {
	for e := from; e <= a.ledger.Tip().Config.Epoch; e++ {
		c, height, err := a.ledger.ConfigAt(e)
		if err != nil {
			return err
		}
		if err := a.write(ctx, wire.ConfigAnswer{Height: height, Config: c.Encode()}.Encode()); err != nil {
			return err
		}
	}
	return nil
}
