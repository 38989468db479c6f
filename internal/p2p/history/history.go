// Package history owns what is remembered of connections: who came and went,
// who was refused, and why.
package history

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/parley-p2p/parley/event"
)

const (
	maxRows      = 100_000 // kept
	maxStrangers = 20_000  // of them by peers that were never greeted: a flood washes out nothing else
	maxPerPeer   = 1_000   // of them by one peer: nor does one that flaps
	maxPending   = 4_096   // wait for the disk
	pruneEach    = 10_000  // entries that were written

	strangersPerSec = 10
	strangersAtOnce = 200

	flushEvery = time.Second
	pruneEvery = time.Hour
	openEvery  = time.Minute // a file that could not be opened
	warnEvery  = 15 * time.Minute
	closeTime  = 5 * time.Second // for the last write
)

// Config of a history.
type Config struct {
	File string        // history.db; "" = memory only
	Keep time.Duration // 0 = 720 h
}

// History follows the bus. The disk never holds anybody up: what cannot be
// written waits in memory, and the oldest of it is dropped. It is safe for
// concurrent use.
type History struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	sub     *event.Subscription

	// below: only Run, and Close after it
	follow    follow
	strangers *rate.Limiter
	written   int       // since the last prune
	openAt    time.Time // of the file, where it is not open
	warnAt    time.Time

	mu      sync.Mutex // guards below; no disk under it
	store   store      // nil = not open
	seq     uint64     // of the next entry
	pending []Entry    // oldest first, not in store
	names   map[peer.ID]lastName
}

// store keeps entries by rising Seq. Its methods are safe for concurrent use.
type store interface {
	// last is the highest Seq, 0 where there is none.
	last(ctx context.Context) (uint64, error)
	// add keeps all of them or none.
	add(ctx context.Context, entries []Entry) error
	// page is the newest entries below before, of p alone unless that is "".
	page(ctx context.Context, p peer.ID, before uint64, limit int) ([]Entry, error)
	// names is the last name of each peer, the newest first.
	names(ctx context.Context, limit int) ([]Entry, error)
	// endingIn is the peers whose ids in base58 end so, at most limit.
	endingIn(ctx context.Context, tail string, limit int) ([]peer.ID, error)
	// prune drops what is older than oldest or more than the limits.
	prune(ctx context.Context, oldest time.Time) error
	close() error
}

// Open opens the history and follows the bus from now on. A file that cannot
// be opened is tried again while Run runs; a broken one is set aside. Neither
// is an error: no node stops for its history.
func Open(cfg Config, bus *event.Bus, log *slog.Logger, reg prometheus.Registerer) (*History, error) {
	if cfg.Keep <= 0 {
		cfg.Keep = 720 * time.Hour
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	h := &History{
		cfg: cfg, log: log, sub: bus.Subscribe(), follow: newFollow(), seq: 1, names: map[peer.ID]lastName{},
		strangers: rate.NewLimiter(strangersPerSec, strangersAtOnce),
	}
	h.metrics = newMetrics(h)
	if reg != nil {
		if err := reg.Register(h.metrics); err != nil {
			h.sub.Close()
			return nil, err
		}
	}
	h.open(context.Background(), time.Now())
	return h, nil
}

// Run writes what the bus tells until ctx ends. Close writes the rest.
func (h *History) Run(ctx context.Context) error {
	flush := time.NewTimer(flushEvery)
	defer flush.Stop()
	flush.Stop()
	waiting := false // flush is set
	prune := time.NewTicker(pruneEvery)
	defer prune.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-h.sub.Wake():
			if h.take(); !waiting && h.waits() > 0 {
				flush.Reset(flushEvery)
				waiting = true
			}
		case <-flush.C:
			waiting = false
			h.flush(ctx, time.Now())
			if h.waits() > 0 {
				flush.Reset(flushEvery)
				waiting = true
			}
		case now := <-prune.C:
			h.prune(ctx, now)
		}
	}
}

// Close writes what is left, after Run has ended and nobody publishes any
// more, and closes the file.
func (h *History) Close() error {
	h.take()
	h.sub.Close()
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	h.flush(ctx, time.Now())
	h.mu.Lock()
	s := h.store
	h.store = nil
	h.mu.Unlock()
	if s == nil {
		return nil
	}
	return s.close()
}

// take moves what the bus has to pending.
func (h *History) take() {
	for {
		events, lost := h.sub.Take(256)
		if lost > 0 {
			h.metrics.dropped.WithLabelValues("lagged").Add(float64(lost))
			h.follow = newFollow() // some may be gone since
		}
		var entries []Entry
		for _, e := range events {
			v, ok := h.follow.entry(e)
			if ok && !v.familiar && !h.strangers.Allow() {
				h.metrics.dropped.WithLabelValues("flood").Inc()
				ok = false
			}
			if ok {
				entries = append(entries, v)
			}
		}
		h.mu.Lock()
		for _, v := range entries {
			v.Seq = h.seq
			h.seq++
			h.pending = append(h.pending, v)
			h.name(v)
		}
		over := max(0, len(h.pending)-maxPending)
		h.pending = slices.Delete(h.pending, 0, over)
		h.mu.Unlock()
		h.metrics.dropped.WithLabelValues("full").Add(float64(over))
		if len(events) < 256 {
			return
		}
	}
}

func (h *History) waits() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.pending)
}

// flush writes what is pending, in one transaction.
func (h *History) flush(ctx context.Context, now time.Time) {
	h.open(ctx, now)
	h.mu.Lock()
	s, batch := h.store, slices.Clone(h.pending)
	h.mu.Unlock()
	if s == nil || len(batch) == 0 {
		return
	}
	if err := s.add(ctx, batch); err != nil {
		h.failed(now, err)
		return
	}
	h.mu.Lock()
	h.pending = slices.DeleteFunc(h.pending, func(e Entry) bool { return e.Seq <= batch[len(batch)-1].Seq })
	h.mu.Unlock()
	h.metrics.written.Add(float64(len(batch)))
	if h.written += len(batch); h.written >= pruneEach {
		h.prune(ctx, now)
	}
}

// failed tells of a write that failed, now and then, and gives a broken file
// up: the next flush opens another.
func (h *History) failed(now time.Time, err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	if now.Sub(h.warnAt) >= warnEvery {
		h.warnAt = now
		h.log.Warn("history not written, it waits in memory", "file", h.cfg.File, "err", err)
	}
	if !isBroken(err) {
		return
	}
	h.mu.Lock()
	s := h.store
	h.store = nil
	h.mu.Unlock()
	_ = s.close() // it is broken
	h.openAt = now
}

func (h *History) prune(ctx context.Context, now time.Time) {
	h.written = 0
	h.mu.Lock()
	s := h.store
	h.mu.Unlock()
	if s == nil {
		return
	}
	if err := s.prune(ctx, now.Add(-h.cfg.Keep)); err != nil {
		h.failed(now, err)
	}
}

// open opens the file where it is not open and it is time to try.
func (h *History) open(ctx context.Context, now time.Time) {
	h.mu.Lock()
	is := h.store != nil
	h.mu.Unlock()
	if is || now.Before(h.openAt) {
		return
	}
	h.openAt = now.Add(openEvery)
	var s store = &memory{}
	var last uint64
	var err error
	if h.cfg.File != "" {
		s, last, err = openFile(ctx, h.cfg.File, now.Add(-h.cfg.Keep), h.log)
	}
	if err != nil {
		if now.Sub(h.warnAt) >= warnEvery {
			h.warnAt = now
			h.log.Warn("history is kept in memory for now", "file", h.cfg.File, "err", err)
		}
		return
	}
	names, err := s.names(ctx, maxNames)
	if err != nil { // the next write finds out what is wrong with the file
		h.log.Debug("last names of peers not read", "err", err)
	}
	h.mu.Lock()
	h.store = s
	if shift := last + 1; len(h.pending) > 0 || h.seq < shift { // what waits comes behind what the file has
		h.seq = max(shift, h.seq)
		for i := range h.pending {
			h.pending[i].Seq = h.seq
			h.seq++
		}
	}
	for _, e := range slices.Backward(names) { // the newest of both last
		if _, newer := h.names[e.Peer]; !newer {
			h.name(e)
		}
	}
	h.mu.Unlock()
}

// Page lists entries, newest first: those below before (0 = from the newest),
// of p alone unless that is "", at most limit. What waits for the disk is
// among them.
func (h *History) Page(ctx context.Context, p peer.ID, before uint64, limit int) ([]Entry, error) {
	h.mu.Lock()
	s, below := h.store, h.seq
	var list []Entry
	for _, e := range slices.Backward(h.pending) {
		below = e.Seq // the store is asked for what is below all of these
		if (p == "" || e.Peer == p) && (before == 0 || e.Seq < before) && len(list) < limit {
			list = append(list, e)
		}
	}
	h.mu.Unlock()
	if s == nil || len(list) == limit {
		return list, nil
	}
	if before > 0 {
		below = min(below, before)
	}
	rest, err := s.page(ctx, p, below, limit-len(list))
	return append(list, rest...), err
}
