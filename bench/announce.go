package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/replica/chainsync"
	"github.com/parley-p2p/parley/internal/replica/ledger"
	"github.com/parley-p2p/parley/internal/wire"
)

// knownEvery is the record that a follower lacks: one in fifty, so it knows
// 98 in 100.
const knownEvery = 50

// announceRow is what one block costs a follower that knows 98 in 100 of its
// records. Bytes are those of the messages and streams, before encryption.
type announceRow struct {
	Body         int `json:"record_body_bytes"`
	Block        int `json:"block_bytes"`
	Records      int `json:"records"`
	Missing      int `json:"missing"`
	Announcement int `json:"announcement_bytes"` // on topic block
	Hints        int `json:"hints_bytes"`        // on topic subtree, ahead of the block
	Fetched      int `json:"fetched_bytes"`      // requests and answers
}

func (r *announceRow) share(bytes int) float64 { return 100 * float64(bytes) / float64(r.Block) }

// measureAnnouncement makes a block of about a MiB and lets a follower put it
// together, by our protocol between two of our hosts.
func measureAnnouncement(ctx context.Context, dir string, body int) (r announceRow, err error) {
	dir = filepath.Join(dir, "announce")
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	lab, err := openSyncLab(dir, 1, body, 1) // of one block
	if err != nil {
		return r, fmt.Errorf("announcement: %w", err)
	}
	defer func() { err = errors.Join(err, lab.close()) }()
	b, err := lab.full.Block(1)
	if err != nil {
		return r, err
	}
	r = announceRow{Body: body, Block: b.Body.Size(), Records: b.Body.Records()}
	pool := map[chain.Hash][]byte{}
	i := 0
	for _, s := range b.Body {
		for _, raw := range s.Records {
			if i++; i%knownEvery != 0 {
				pool[consortium.RecordID(raw)] = raw
			} else {
				r.Missing++
			}
		}
	}
	bus := event.NewBus(1 << 12)
	l, err := ledger.Open(ledger.Options{Dir: filepath.Join(dir, "follower"), Bus: bus, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	if err := l.Init(lab.genesis); err != nil {
		return r, err
	}
	from := lab.servers[0].ID()
	c := &follower{comer: comer{host: lab.newcomer, list: []chain.Peer{{ID: from, Genesis: lab.genesis.Hash()}}}}
	pending := func(id chain.Hash) ([]byte, bool) { raw, ok := pool[id]; return raw, ok }
	y := chainsync.New(chainsync.Config{Net: syncNet, Pending: pending}, l, c, bus, slog.New(slog.DiscardHandler), nil)
	for i, s := range b.Body {
		ids := s.IDs()
		hint := wire.Subtree{ID: consortium.SubtreeID(ids), Height: 1, Index: uint32(i), Count: uint32(len(b.Body)), Records: ids}
		r.Hints += len(hint.Encode())
		y.Foretold(from, from, hint)
	}
	a := wire.BlockAnnouncement{Header: b.Header.Encode(), Certificate: b.Certificate.Encode(), Subtrees: b.Body.SubtreeIDs()}
	r.Announcement = len(a.Encode())
	if err := y.Announced(ctx, from, a); err != nil {
		return r, fmt.Errorf("announcement: %w", err)
	}
	if err := followTo(ctx, y, l, bus, b.Header.Height); err != nil {
		return r, fmt.Errorf("announcement: %w", err)
	}
	r.Fetched = int(c.parts.Load())
	if whole := c.others.Load(); whole > int64(r.Block)/10 {
		return r, fmt.Errorf("announcement: %d bytes came otherwise than by parts: the block was fetched whole", whole)
	}
	return r, nil
}

// followTo runs y until its ledger is at a height.
func followTo(ctx context.Context, y *chainsync.Syncer, l *ledger.Ledger, bus *event.Bus, height uint64) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	sub := bus.Subscribe()
	defer sub.Close()
	end := make(chan error, 1)
	go func() { end <- y.Follow(ctx) }()
	for l.Tip().Head.Height < height {
		select {
		case <-sub.Wake():
			sub.Take(1 << 12)
		case err := <-end:
			return err
		}
	}
	cancel()
	if err := <-end; !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// follower counts the bytes of its streams: those for parts of a block, and
// all others, such as for heads.
type follower struct {
	comer
	parts, others atomic.Int64
}

func (f *follower) Open(ctx context.Context, p peer.ID, id string) (chain.Stream, error) {
	st, err := f.comer.Open(ctx, p, id)
	if err != nil {
		return nil, err
	}
	return &counted{Stream: st, f: f}, nil
}

// counted knows by its first write what it is for.
type counted struct {
	chain.Stream
	f    *follower
	sum  *atomic.Int64
	head []byte // of the request
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.Stream.Write(p)
	c.head = append(c.head, p[:n]...)
	return n, err
}

// CloseWrite ends the request, which tells its kind.
func (c *counted) CloseWrite() error {
	c.sum = &c.f.others
	if frame, err := wire.ReadFrame(strings.NewReader(string(c.head)), wire.MaxSyncRequest); err == nil {
		if req, err := wire.DecodeSyncRequest(frame); err == nil && (req.Kind == wire.SyncRecords || req.Kind == wire.SyncIDs || req.Kind == wire.SyncSubtrees) {
			c.sum = &c.f.parts
		}
	}
	c.sum.Add(int64(len(c.head)))
	return c.Stream.CloseWrite()
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Stream.Read(p)
	c.sum.Add(int64(n))
	return n, err
}

// announceTable is the result for people.
func announceTable(rows []announceRow) string {
	const label, column = 43, 17
	var b strings.Builder
	line := func(text string, cell func(r *announceRow) string) {
		b.WriteString(pad(text, label, false))
		for i := range rows {
			b.WriteString(pad(cell(&rows[i]), column, true))
		}
		b.WriteString("\n")
	}
	line("a block, 98 in 100 records known", func(r *announceRow) string { return fmt.Sprintf("%d B records", r.Body) })
	b.WriteString(strings.Repeat("─", label+column*len(rows)) + "\n")
	line("block, bytes", func(r *announceRow) string { return number(float64(r.Block)) })
	line("announcement, % of it", func(r *announceRow) string { return number(r.share(r.Announcement)) })
	line("requests and missing records, %", func(r *announceRow) string { return number(r.share(r.Fetched)) })
	line("announcement and missing together, %", func(r *announceRow) string { return number(r.share(r.Announcement + r.Fetched)) })
	line("hints ahead of the block, %", func(r *announceRow) string { return number(r.share(r.Hints)) })
	return b.String()
}

// measureAnnouncements fills the rows of section announce.
func (b *bench) measureAnnouncements(ctx context.Context, r *report) error {
	for _, body := range []int{4096, 256} {
		row, err := measureAnnouncement(ctx, b.dir, body)
		if err != nil {
			return err
		}
		r.Announcements = append(r.Announcements, row)
	}
	return nil
}

func (r *report) announceTable() string {
	if len(r.Announcements) == 0 {
		return ""
	}
	return announceTable(r.Announcements)
}
