package chainsync

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/replica/ledger"
	"github.com/parley-p2p/parley/internal/tracing"
	"github.com/parley-p2p/parley/internal/wire"
)

// timing is how an answer came.
type timing struct {
	first time.Duration // to its first byte; 0 = none came
	whole time.Duration // without what we needed to judge it
	bytes int64
}

// silence means that a peer did not answer in time.
type silence struct {
	begun bool // the answer had begun
	err   error
}

func (e *silence) Error() string {
	if e.begun {
		return "the answer stopped in its middle: " + e.err.Error()
	}
	return "no answer in time: " + e.err.Error()
}

// Offence is what a silence costs.
func (e *silence) Offence() chain.Offence {
	if e.begun {
		return chain.Stall
	}
	return chain.Timeout
}

// request asks p and hands each frame of the answer to each, which fails with
// an *InvalidError where the frame is wrong. The error is a *silence, an
// *InvalidError, ctx's, or a broken stream, which is nobody's fault.
func (y *Syncer) request(ctx context.Context, p peer.ID, req wire.SyncRequest, limit time.Duration, each func(frame []byte) error) (took timing, err error) {
	ctx, span := y.traceRange(ctx, p, req)
	defer func() { tracing.End(span, err) }()
	start := time.Now()
	octx, cancel := context.WithTimeout(ctx, patience)
	st, err := y.peers.Open(octx, p, y.protocol)
	cancel()
	if err != nil {
		return timing{}, late(ctx, false, fmt.Errorf("ask for %s: %w", req.Kind, err))
	}
	unhook := context.AfterFunc(ctx, func() { _ = st.Reset() })
	defer unhook()
	r := &patient{st: st, start: start, end: start.Add(limit)}
	err = r.exchange(req, each)
	took = timing{first: r.first, whole: time.Since(start) - r.ours, bytes: r.bytes}
	y.metrics.bytes.Add(float64(r.bytes))
	if err == nil {
		_ = st.Close()
		return took, nil
	}
	_ = st.Reset()
	return took, late(ctx, r.bytes > 0, fmt.Errorf("%s from peer: %w", req.Kind, err))
}

// late tells what err of a request is: ours, a *silence, or itself.
func late(ctx context.Context, begun bool, err error) error {
	var t interface{ Timeout() bool }
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &t) && t.Timeout():
		return &silence{begun: begun, err: err}
	}
	return err
}

// patient reads from a stream whose peer has to say something every now and
// then, and to come to an end.
type patient struct {
	st    chain.Stream
	start time.Time
	end   time.Time
	first time.Duration
	ours  time.Duration // between reads
	bytes int64
}

func (r *patient) exchange(req wire.SyncRequest, each func([]byte) error) error {
	if err := r.st.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return fmt.Errorf("set write deadline: %w", err)
	}
	if err := wire.WriteFrame(r.st, req.Encode()); err != nil {
		return err
	}
	if err := r.st.CloseWrite(); err != nil {
		return fmt.Errorf("end request: %w", err)
	}
	in := bufio.NewReaderSize(r, 32<<10)
	for {
		frame, err := wire.ReadFrame(in, wire.MaxSyncAnswer)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return wire.Fault(err)
		}
		begin := time.Now()
		err = each(frame)
		ours := time.Since(begin) // to judge a block takes our time, not the peer's
		r.ours += ours
		r.end = r.end.Add(ours)
		if err != nil {
			return err
		}
	}
}

// Read implements [io.Reader].
func (r *patient) Read(p []byte) (int, error) {
	deadline := time.Now().Add(patience)
	if deadline.After(r.end) {
		deadline = r.end
	}
	_ = r.st.SetReadDeadline(deadline) // a stream that has ended may take none: Read tells
	n, err := r.st.Read(p)
	if n > 0 && r.first == 0 {
		r.first = time.Since(r.start)
	}
	r.bytes += int64(n)
	return n, err
}

// fetchHead asks for the peer's head; none at height 0.
func (y *Syncer) fetchHead(ctx context.Context, p peer.ID) (head *sealed, took timing, err error) {
	took, err = y.request(ctx, p, wire.SyncRequest{Kind: wire.SyncHead}, patience, func(frame []byte) error {
		if head != nil {
			return chain.Invalid(chain.Violation, "more than one head")
		}
		s, err := decodeHeaderAnswer(frame)
		head = &s
		return err
	})
	return head, took, err
}

// fetchHeaders asks for headers, and returns what came before a fault with it.
func (y *Syncer) fetchHeaders(ctx context.Context, p peer.ID, from uint64, count int, limit time.Duration) (headers []sealed, took timing, err error) {
	req := wire.SyncRequest{Kind: wire.SyncHeaders, From: from, Count: uint32(count)}
	took, err = y.request(ctx, p, req, limit, func(frame []byte) error {
		if len(headers) == count {
			return chain.Invalid(chain.Violation, "more than the %d headers asked for", count)
		}
		s, err := decodeHeaderAnswer(frame)
		if err == nil {
			headers = append(headers, s)
		}
		return err
	})
	return headers, took, err
}

// fetchBodies asks for the bodies of links, and returns those that came whole
// and fit their headers, ready to be appended, in order and without a gap, also
// with an error.
func (y *Syncer) fetchBodies(ctx context.Context, p peer.ID, links []link, limit time.Duration) ([]*ledger.Prepared, timing, error) {
	c := &collector{links: links, prepare: y.ledger.Prepare}
	req := wire.SyncRequest{Kind: wire.SyncBodies, From: links[0].header.Height, Count: uint32(len(links))}
	took, err := y.request(ctx, p, req, limit, c.take)
	if err == nil && len(c.part) > 0 {
		err = chain.Invalid(chain.InvalidBlock, "body of block %d ends after %d of %d subtrees",
			c.header().Height, len(c.part), c.header().Subtrees)
	}
	if err == nil {
		err = c.skipEmpty() // behind the last subtree
	}
	return c.bodies, took, err
}

// collector puts bodies together out of subtrees that come in order.
type collector struct {
	links   []link
	prepare func(*consortium.Block) (*ledger.Prepared, error)
	bodies  []*ledger.Prepared
	part    consortium.Body // of the next one
	size    int             // bytes of the next one
}

func (c *collector) header() *consortium.Header { return c.links[len(c.bodies)].header }

func (c *collector) take(frame []byte) error {
	a, err := wire.DecodeSubtreeAnswer(frame)
	if err != nil {
		return wire.Fault(err)
	}
	if len(c.part) == 0 {
		if err := c.skipEmpty(); err != nil {
			return err
		}
	}
	if len(c.bodies) == len(c.links) {
		return chain.Invalid(chain.InvalidBlock, "subtree of block %d behind the last one asked for", a.Height)
	}
	h := c.header()
	if a.Height != h.Height || int(a.Index) != len(c.part) {
		return chain.Invalid(chain.InvalidBlock, "subtree %d of block %d where %d of block %d is next", a.Index, a.Height, len(c.part), h.Height)
	}
	for _, r := range a.Records {
		c.size += len(r)
	}
	if c.size > int(h.BodyBytes) {
		return chain.Invalid(chain.InvalidBlock, "body of block %d is longer than the %d bytes of its header", h.Height, h.BodyBytes)
	}
	c.part = append(c.part, consortium.Subtree{Records: a.Records})
	if len(c.part) == int(h.Subtrees) {
		return c.complete()
	}
	return nil
}

// skipEmpty completes the bodies that have no subtrees.
func (c *collector) skipEmpty() error {
	for len(c.bodies) < len(c.links) && c.header().Subtrees == 0 {
		if err := c.complete(); err != nil {
			return err
		}
	}
	return nil
}

func (c *collector) complete() error {
	l := c.links[len(c.bodies)]
	b, err := c.prepare(&consortium.Block{Header: l.header, Certificate: l.cert, Body: c.part})
	if err != nil {
		return err
	}
	c.bodies = append(c.bodies, b)
	c.part, c.size = nil, 0
	return nil
}
