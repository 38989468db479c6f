package chainsync

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/replica/ledger/ledgertest"
	"github.com/parley-p2p/parley/internal/wire"
)

// memStream serves one request out of memory.
type memStream struct {
	io.Reader
	bytes.Buffer
}

func (s *memStream) Read(p []byte) (int, error)       { return s.Reader.Read(p) }
func (s *memStream) Peer() peer.ID                    { return "" }
func (s *memStream) CloseWrite() error                { return nil }
func (s *memStream) Close() error                     { return nil }
func (s *memStream) Reset() error                     { return nil }
func (s *memStream) SetDeadline(time.Time) error      { return nil }
func (s *memStream) SetReadDeadline(time.Time) error  { return nil }
func (s *memStream) SetWriteDeadline(time.Time) error { return nil }

var served atomic.Int64 // requests of serve, each of another peer

// serve returns the frames of an answer.
func serve(tb testing.TB, y *Syncer, request []byte) ([][]byte, error) {
	tb.Helper()
	st := &asker{memStream{Reader: bytes.NewReader(request)}, peer.ID(fmt.Sprint(served.Add(1)))}
	err := y.Protocol().Handle(context.Background(), st)
	var frames [][]byte
	for {
		f, rerr := wire.ReadFrame(&st.Buffer, wire.MaxSyncAnswer)
		if errors.Is(rerr, io.EOF) {
			return frames, err
		}
		if rerr != nil {
			tb.Fatalf("answer: %v", rerr)
		}
		frames = append(frames, f)
	}
}

func framed(p []byte) []byte {
	var b buffer
	_ = wire.WriteFrame(&b, p)
	return b
}

func ask(tb testing.TB, y *Syncer, req wire.SyncRequest) [][]byte {
	tb.Helper()
	frames, err := serve(tb, y, framed(req.Encode()))
	if err != nil {
		tb.Fatalf("%s: %v", req.Kind, err)
	}
	return frames
}

func servedNode(tb testing.TB) (*node, []*consortium.Block) {
	tb.Helper()
	c := ledgertest.New(tb, 3)
	nd := (&lan{tb: tb}).join(c, nil)
	blocks := grow(tb, c, nd.ledger, 8)
	var records [][]byte
	for range 600 { // three subtrees
		records = append(records, c.Record("many", nil))
	}
	blocks = append(blocks, put(tb, nd.ledger, c.Next(records...)))
	blocks = append(blocks, put(tb, nd.ledger, c.Next(c.ConfigRecord(func(*consortium.Config) {}))))
	return nd, blocks
}

func TestServe(t *testing.T) {
	nd, blocks := servedNode(t)
	y := nd.Syncer
	head := ask(t, y, wire.SyncRequest{Kind: wire.SyncHead})
	if s, err := decodeHeaderAnswer(head[0]); err != nil || len(head) != 1 || s.header.Hash() != blocks[9].Header.Hash() {
		t.Errorf("head: %v", err)
	}
	for _, x := range []struct {
		kind        wire.SyncKind
		from, count uint64
		frames      int
	}{
		{wire.SyncHeaders, 1, 5, 5}, {wire.SyncHeaders, 8, 1024, 3}, {wire.SyncHeaders, 11, 3, 0}, {wire.SyncHeaders, 0, 3, 2},
		{wire.SyncHeaders, 1<<53 - 1, 1024, 0},
		{wire.SyncBodies, 1, 8, 8}, {wire.SyncBodies, 9, 1, 3}, {wire.SyncBodies, 9, 128, 4}, {wire.SyncBodies, 77, 1, 0},
		{wire.SyncConfigs, 0, 0, 2}, {wire.SyncConfigs, 1, 0, 1}, {wire.SyncConfigs, 2, 0, 0},
	} {
		if got := ask(t, y, wire.SyncRequest{Kind: x.kind, From: x.from, Count: uint32(x.count)}); len(got) != x.frames {
			t.Errorf("%s from %d, %d of them: %d frames, want %d", x.kind, x.from, x.count, len(got), x.frames)
		}
	}
	ids := append(blocks[8].Body.SubtreeIDs(), chain.Hash{9})
	if got := ask(t, y, wire.SyncRequest{Kind: wire.SyncSubtrees, IDs: ids}); len(got) != 3 {
		t.Errorf("%d subtrees", len(got))
	} else if a, err := wire.DecodeSubtreeAnswer(got[1]); err != nil || a.Height != 9 || a.Index != 1 || (consortium.Subtree{Records: a.Records}).ID() != ids[1] {
		t.Errorf("subtree 1 of block 9: %v", err)
	}
	ids = []chain.Hash{{7}}
	for _, s := range blocks[8].Body {
		ids = append(ids, s.IDs()...)
	}
	have := map[chain.Hash]bool{}
	for _, f := range ask(t, y, wire.SyncRequest{Kind: wire.SyncRecords, IDs: ids}) {
		records, err := wire.DecodeRecords(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range records {
			have[consortium.RecordID(r)] = true
		}
	}
	if len(have) != 600 {
		t.Errorf("%d records", len(have))
	}
}

func TestServeAtGenesis(t *testing.T) {
	nd := (&lan{tb: t}).join(ledgertest.New(t, 1), nil)
	if got := ask(t, nd.Syncer, wire.SyncRequest{Kind: wire.SyncHead}); len(got) != 0 {
		t.Errorf("head at height 0: %d frames", len(got))
	}
}

func TestServeRefuses(t *testing.T) {
	nd, _ := servedNode(t)
	for name, x := range map[string]struct {
		request []byte
		want    chain.Offence
	}{
		"headers over limit": {framed(wire.SyncRequest{Kind: wire.SyncHeaders, From: 1, Count: 1025}.Encode()), chain.Oversize},
		"bodies over limit":  {framed(wire.SyncRequest{Kind: wire.SyncBodies, From: 1, Count: 129}.Encode()), chain.Oversize},
		"ids over limit":     {framed(wire.SyncRequest{Kind: wire.SyncSubtrees, IDs: make([]chain.Hash, 513)}.Encode()), chain.Oversize},
		"nothing asked":      {framed(wire.SyncRequest{Kind: wire.SyncBodies, From: 1}.Encode()), chain.Malformed},
		"unknown kind":       {framed(wire.SyncRequest{Kind: 99}.Encode()), chain.Malformed},
		"garbage":            {framed([]byte("GET / HTTP/1.1")), chain.Malformed},
		"frame over limit":   {[]byte{0xff, 0xff, 0xff, 0x7f}, chain.Oversize},
	} {
		frames, err := serve(t, nd.Syncer, x.request)
		if len(frames) > 0 {
			t.Errorf("%s: answered", name)
		}
		t.Run(name, func(t *testing.T) { wantInvalid(t, err, x.want) })
	}
	var bad *chain.InvalidError
	if _, err := serve(t, nd.Syncer, nil); err == nil || errors.As(err, &bad) {
		t.Errorf("a stream that ends at once: %v", err)
	}
}

// TestSlowReader: who does not take the answer does not hold the server.
func TestSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nd, _ := servedNode(t)
		client, server := streamPair("", "")
		var wg sync.WaitGroup
		defer wg.Wait()
		start := time.Now()
		wg.Go(func() {
			if err := nd.handle(t.Context(), server); err == nil {
				t.Error("served nobody")
			}
			if d := time.Since(start); d != frameTime {
				t.Errorf("gave up after %s", d)
			}
		})
		if err := wire.WriteFrame(client, wire.SyncRequest{Kind: wire.SyncBodies, From: 1, Count: 10}.Encode()); err != nil {
			t.Fatal(err)
		}
	})
}

// TestDribblingReader: who takes each frame in time, and very slowly, does not
// hold the server either.
func TestDribblingReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nd, blocks := servedNode(t)
		client, server := streamPair("", "")
		var wg sync.WaitGroup
		defer wg.Wait()
		start := time.Now()
		wg.Go(func() {
			if err := nd.handle(t.Context(), server); err == nil {
				t.Error("served to the end")
			}
			if d := time.Since(start); d != 2*time.Minute {
				t.Errorf("gave up after %s, want 2 min", d)
			}
			_ = server.Reset()
		})
		ids := slices.Repeat(blocks[8].Body.SubtreeIDs()[:1], 100)
		if err := wire.WriteFrame(client, wire.SyncRequest{Kind: wire.SyncSubtrees, IDs: ids}.Encode()); err != nil {
			t.Fatal(err)
		}
		for {
			time.Sleep(9 * time.Second)
			if _, err := wire.ReadFrame(client, wire.MaxSyncAnswer); err != nil {
				return
			}
		}
	})
}

// FuzzHandle: no request panics, is answered with a frame over the limit, or
// fails without being the asker's fault or a cut stream.
func FuzzHandle(f *testing.F) {
	nd, blocks := servedNode(f)
	ids := blocks[8].Body.SubtreeIDs()
	for kind := wire.SyncHead; kind <= wire.SyncConfigs; kind++ {
		f.Add(framed(wire.SyncRequest{Kind: kind, From: 3, Count: 7, IDs: ids}.Encode()))
	}
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, request []byte) {
		_, err := serve(t, nd.Syncer, request)
		var bad *chain.InvalidError
		if err != nil && !errors.As(err, &bad) && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatal(err)
		}
	})
}

// FuzzBodies: whatever a peer answers, what is taken fits the headers.
func FuzzBodies(f *testing.F) {
	nd, blocks := servedNode(f)
	var links []link
	for _, b := range blocks {
		links = append(links, link{sealed: sealed{header: b.Header}})
	}
	for i := range blocks {
		for _, frame := range ask(f, nd.Syncer, wire.SyncRequest{Kind: wire.SyncBodies, From: uint64(i + 1), Count: 1}) {
			f.Add(uint8(i), frame)
		}
	}
	f.Fuzz(func(t *testing.T, first uint8, frame []byte) {
		c := &collector{links: links[int(first)%len(links):], prepare: nd.ledger.Prepare}
		err := c.take(frame)
		var bad *chain.InvalidError
		if err != nil && !errors.As(err, &bad) {
			t.Fatalf("nobody's fault: %v", err)
		}
		for i, b := range c.bodies {
			if err := consortium.CheckBody(c.links[i].header, b.Block().Body); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// FuzzHeaderAnswer: a header that a peer answers is read in one form, or is its
// fault.
func FuzzHeaderAnswer(f *testing.F) {
	nd, _ := servedNode(f)
	for _, frame := range ask(f, nd.Syncer, wire.SyncRequest{Kind: wire.SyncHeaders, From: 1, Count: 3}) {
		f.Add(frame)
		f.Add(frame[:len(frame)/2])
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		s, err := decodeHeaderAnswer(frame)
		var bad *chain.InvalidError
		switch {
		case err != nil && !errors.As(err, &bad):
			t.Fatalf("nobody's fault: %v", err)
		case err == nil:
			again := wire.HeaderAnswer{Header: s.header.Encode(), Certificate: s.cert.Encode()}.Encode()
			if _, err := decodeHeaderAnswer(again); err != nil {
				t.Fatal(err)
			}
		}
	})
}
