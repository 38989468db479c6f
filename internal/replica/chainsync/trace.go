package chainsync

import (
	"context"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/parley-p2p/parley/internal/tracing"
	"github.com/parley-p2p/parley/internal/wire"
)

const maxStores = 64 // spans that wait for their block

// traceRange begins the span of a request.
func (y *Syncer) traceRange(ctx context.Context, p peer.ID, req wire.SyncRequest) (context.Context, trace.Span) {
	ctx, span := tracing.Start(ctx, y.cfg.Tracer, "sync.range")
	if span.IsRecording() {
		span.SetAttributes(attribute.Stringer("peer", p), attribute.String("kind", req.Kind.String()),
			attribute.Int64("from", int64(req.From)), attribute.Int64("count", int64(req.Count)))
	}
	return ctx, span
}

// traceStore begins the span of storing an announced block. It belongs to the
// announcement, and goes on when that is judged.
func (y *Syncer) traceStore(ctx context.Context, height uint64) {
	if !trace.SpanFromContext(ctx).IsRecording() || height <= y.ledger.Tip().Head.Height {
		return
	}
	_, span := tracing.Start(ctx, y.cfg.Tracer, "store")
	span.SetAttributes(attribute.Int64("height", int64(height)))
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.stores == nil {
		y.stores = map[uint64]trace.Span{}
	}
	if len(y.stores) < maxStores {
		y.stores[height] = span
	}
}

// tracedStored ends the span of a block that is on disk, and forgets those of
// blocks that came another way.
func (y *Syncer) tracedStored(height uint64) {
	y.mu.Lock()
	defer y.mu.Unlock()
	for at, span := range y.stores {
		if at == height {
			span.End()
		}
		if at <= height {
			delete(y.stores, at)
		}
	}
}
