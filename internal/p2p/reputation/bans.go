package reputation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/event"
)

const (
	noEnd      = time.Hour        // the next look where no ban ends
	againEvery = 30 * time.Second // for a store that is away
	purgeEvery = time.Hour
	storeWait  = 10 * time.Second // for one write
)

// BansConfig says where the bans are kept and for whom.
type BansConfig struct {
	// File is the SQLite file. Empty keeps the bans in memory only.
	File string
	// Postgres, if set, is the connection string of the list that a fleet
	// shares, in place of File.
	Postgres string
	// Dir is for the journal of what the store could not be told.
	Dir string
	// Self is this node: its automatic bans are its own.
	Self peer.ID
	// Duration at the start; see [Bans.SetDuration].
	Duration time.Duration
	// Max is how many targets may be banned at once.
	Max int
	// TrustFleet takes the automatic bans of other nodes for our own.
	TrustFleet bool
}

// Bans is the only ban list. It is safe for concurrent use.
type Bans struct {
	cfg     BansConfig
	list    *banlist
	store   store
	journal *journal
	bus     *event.Bus
	log     *slog.Logger
	lasts   atomic.Int64 // nanoseconds of a ban that names no end

	protected func() Protected
	closes    func(Target) []peer.ID
	changed   func(t Target, banned bool) // before the event
	foreign   func(p peer.ID, why string) // another node of the fleet banned p by itself

	write sync.Mutex // guards what follows, and the order of store, memory and events
	rev   int64      // the last one read
}

// OpenBans reads the list. A store that cannot be reached or read is an error:
// a node without its bans would let in whom it keeps out.
func OpenBans(ctx context.Context, cfg BansConfig, bus *event.Bus, log *slog.Logger) (*Bans, error) {
	if cfg.Duration <= 0 {
		cfg.Duration = 24 * time.Hour
	}
	if cfg.Max <= 0 {
		cfg.Max = 100_000
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	b := &Bans{
		cfg: cfg, list: newBanlist(), bus: bus, log: log, store: &memory{},
		protected: func() Protected { return Protected{} },
		closes:    func(Target) []peer.ID { return nil },
		changed:   func(Target, bool) {},
		foreign:   func(peer.ID, string) {},
	}
	b.SetDuration(cfg.Duration)
	var err error
	switch {
	case cfg.Postgres != "":
		b.store, err = openPostgres(ctx, cfg.Postgres, log)
	case cfg.File != "":
		b.store, err = openSQLite(ctx, cfg.File)
	}
	if err == nil {
		b.journal, err = openJournal(filepath.Join(cfg.Dir, "bans.pending.jsonl"), cfg.Dir != "")
	}
	if err != nil {
		return nil, err
	}
	if err := b.replay(ctx); err != nil {
		return nil, errors.Join(err, b.store.close())
	}
	rows, err := b.store.since(ctx, 0)
	if err != nil {
		return nil, errors.Join(err, b.store.close())
	}
	b.take(rows)
	return b, nil
}

// SetDuration sets how long bans hold, from now on, that name no end and are
// the first automatic one. Those that hold end as they were to.
func (b *Bans) SetDuration(d time.Duration) { b.lasts.Store(int64(d)) }

func (b *Bans) duration() time.Duration { return time.Duration(b.lasts.Load()) }

// Protect sets who is protected; f is called for each new ban.
func (b *Bans) Protect(f func() Protected) { b.protected = f }

// Closes sets who tells which connected peers a target covers, for the event.
func (b *Bans) Closes(f func(Target) []peer.ID) { b.closes = f }

// Close releases the store, after Run.
func (b *Bans) Close() error { return b.store.close() }

// Banned reports whether a connection with p at a is refused; either may be
// empty. It does no I/O.
func (b *Bans) Banned(p peer.ID, a netip.Addr) bool {
	return a.IsValid() && b.list.addr(a) || p != "" && b.peer(p)
}

func (b *Bans) peer(p peer.ID) bool {
	_, ok := b.list.holds(Target{Peer: p})
	return ok
}

// Check is the ban that covers t, if one does: an address under a banned net
// is banned.
func (b *Bans) Check(t Target) (Ban, bool) {
	r, ok := b.list.holds(t)
	if !ok && t.Peer != "" {
		return Ban{}, false
	}
	if !ok {
		if r, ok = b.list.find("", t.Prefix.Addr(), false); ok && r.target.Prefix.Bits() > t.Prefix.Bits() {
			ok = false // only a part of it
		}
	}
	if !ok {
		return Ban{}, false
	}
	return r.ban(b.list.hits(r.target)), true
}

// List returns the bans that hold, newest first, with all also those that
// ended in the last 30 days. keep, if not nil, chooses.
func (b *Bans) List(all bool, keep func(*Ban) bool) []Ban { return b.list.list(all, keep) }

// Count is how many targets are banned.
func (b *Bans) Count() int { return b.list.count() }

// Add bans. When it returns nil the ban is on disk and holds; closes are the
// connected peers that it cuts off. One that holds for longer stays as long.
func (b *Bans) Add(ctx context.Context, r BanRequest) (ban Ban, closes []peer.ID, err error) {
	now := time.Now()
	row, err := b.check(r, now)
	if err != nil {
		return Ban{}, nil, err
	}
	if err := b.allowed(row.target, r.Force); err != nil {
		return Ban{}, nil, err
	}
	closes = b.closes(row.target)
	if err := b.put(ctx, row); err != nil {
		return Ban{}, nil, err
	}
	have, ok := b.list.holds(row.target)
	if !ok {
		have = row
	}
	return have.ban(b.list.hits(row.target)), closes, nil
}

// auto bans for a peer's doing. It holds on this node only.
func (b *Bans) auto(ctx context.Context, t Target, why chain.Offence, note string, d time.Duration, offences int) error {
	now := time.Now().Truncate(time.Millisecond)
	if err := b.allowed(t, false); err != nil {
		return err
	}
	return b.put(ctx, row{
		target: t, scope: b.cfg.Self.String(), reason: string(why), note: clean(note), origin: OriginAuto, actor: "score",
		created: now, until: now.Add(d), offences: offences,
	})
}

// put adds a row, and makes room for it.
func (b *Bans) put(ctx context.Context, r row) error {
	ops := []op{{row: r}}
	_, holds := b.list.holds(r.target)
	if b.list.count() >= b.cfg.Max && !holds {
		soft, ok := b.list.softest()
		if !ok {
			return ErrBansFull
		}
		soft.lifted, soft.actor = r.created, "the list was full"
		ops = append(ops, op{row: soft, lift: true})
	}
	return b.do(ctx, ops)
}

// Remove lifts all bans of exactly t, of whatever origin.
func (b *Bans) Remove(ctx context.Context, t Target, actor string) error {
	if _, ok := b.list.holds(t); !ok {
		return ErrNotBanned
	}
	return b.do(ctx, []op{{lift: true, row: row{target: t, scope: anyScope, actor: actor, lifted: time.Now().Truncate(time.Millisecond)}}})
}

// Clear lifts the bans of an origin, or with "all" every ban, and returns how
// many targets that were.
func (b *Bans) Clear(ctx context.Context, origin, actor string) (int, error) {
	if !slices.Contains([]string{OriginAuto, OriginOperator, OriginImport, "all"}, origin) {
		return 0, &RequestError{fmt.Errorf("origin %q is none of auto, operator, import and all", origin)}
	}
	now := time.Now().Truncate(time.Millisecond)
	var ops []op
	for _, v := range b.list.list(false, func(v *Ban) bool { return origin == "all" || v.Origin == origin }) {
		t, err := ParseTarget(v.Target)
		if err != nil {
			return 0, err
		}
		ops = append(ops, op{lift: true, row: row{target: t, scope: anyScope, actor: actor, lifted: now}})
	}
	if len(ops) == 0 {
		return 0, nil
	}
	return len(ops), b.do(ctx, ops)
}

// do writes ops, and has them hold: disk, memory, event, in this order. A store
// that is away is stood in for by the journal.
func (b *Bans) do(ctx context.Context, ops []op) error {
	b.write.Lock()
	defer b.write.Unlock()
	ctx, cancel := context.WithTimeout(ctx, storeWait)
	defer cancel()
	if waiting, _ := b.journal.state(); waiting == 0 {
		err := b.store.write(ctx, ops)
		if err == nil {
			return b.read(ctx, ops)
		}
		b.log.Error("the ban list cannot be written: working from memory and a journal", "err", err, "journal", b.journal.path)
	}
	if err := b.journal.add(ops); err != nil {
		return fmt.Errorf("the ban is not stored and does not hold: %w", err)
	}
	b.apply(ops)
	return nil
}

// read takes over what changed in the store, at least ops. write held.
func (b *Bans) read(ctx context.Context, ops []op) error {
	rows, err := b.store.since(ctx, b.rev)
	if err != nil { // written, and unreadable: it holds, and is read again
		b.log.Error("the ban list cannot be read", "err", err)
		b.apply(ops)
		return nil
	}
	b.tell(b.take(rows))
	return nil
}

// take puts rows of the store into memory. Automatic bans of other nodes of
// the fleet are not ours where they are not trusted: they discourage.
func (b *Bans) take(rows []row) []change {
	now := time.Now()
	var ours []row
	for _, r := range rows {
		b.rev = max(b.rev, r.rev)
		switch {
		case r.scope == everyNode || r.scope == b.cfg.Self.String() || b.cfg.TrustFleet:
			ours = append(ours, r)
		case r.target.Peer != "" && r.active(now):
			b.foreign(r.target.Peer, r.reason)
		}
	}
	return b.list.put(ours, now)
}

// apply carries ops out in memory alone, as the store would. write held.
func (b *Bans) apply(ops []op) {
	for _, o := range ops {
		b.tell(b.list.put(o.on(b.list.rowsOf(o.row.target)), time.Now()))
	}
}

// tell publishes what changed.
func (b *Bans) tell(changes []change) {
	for _, c := range changes {
		b.changed(c.row.target, !c.over)
		v := c.row.ban(0)
		if c.over {
			by := "time"
			if !c.row.lifted.IsZero() {
				by = c.row.actor
			}
			b.log.Info("ban ended", "target", v.Target, "by", by)
			b.publish(event.PeerUnbanned{Target: v.Target, By: by})
			continue
		}
		closes := b.closes(c.row.target)
		say := b.log.Info
		if v.Origin == OriginImport {
			say = b.log.Debug // there can be many, and the import is told as a whole
		}
		say("banned", "target", v.Target, "reason", v.Reason, "origin", v.Origin, "until", untilText(c.row.until), "closes", len(closes))
		b.publish(event.PeerBanned{
			Target: v.Target, Kind: v.Kind, Reason: v.Reason, Note: v.Note, Origin: v.Origin, Actor: v.Actor,
			Created: v.Created, Until: v.Until, Offences: v.Offences, Closes: closes,
		})
	}
}

func (b *Bans) publish(e event.Event) {
	if b.bus != nil {
		b.bus.Publish(e)
	}
}

func untilText(t time.Time) string {
	if t.IsZero() {
		return "for ever"
	}
	return t.UTC().Format(time.RFC3339)
}

// Run ends bans at their time, tells the store what it missed, and reads what
// others wrote, until ctx ends.
func (b *Bans) Run(ctx context.Context) error {
	wake := make(chan struct{}, 1)
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() {
		b.store.watch(ctx, func() {
			select {
			case wake <- struct{}{}:
			default:
			}
		})
	})
	end := time.NewTimer(noEnd)
	defer end.Stop()
	again := time.NewTicker(againEvery)
	defer again.Stop()
	purge := time.NewTicker(purgeEvery)
	defer purge.Stop()
	for {
		end.Reset(max(0, time.Until(b.list.nextEnd())))
		select {
		case <-ctx.Done():
			return nil
		case <-b.list.sooner:
		case now := <-end.C:
			b.write.Lock()
			b.tell(b.list.tick(now))
			b.write.Unlock()
		case <-wake:
			b.sync(ctx)
		case <-again.C:
			if n, _ := b.Pending(); n > 0 {
				b.sync(ctx)
			}
		case now := <-purge.C:
			if err := b.store.purge(ctx, now.Add(-remembered)); err != nil && ctx.Err() == nil {
				b.log.Warn("old bans are not purged", "err", err)
			}
		}
	}
}

// sync makes store and memory the same.
func (b *Bans) sync(ctx context.Context) {
	b.write.Lock()
	defer b.write.Unlock()
	ctx, cancel := context.WithTimeout(ctx, storeWait)
	defer cancel()
	if err := b.replay(ctx); err != nil {
		if ctx.Err() == nil {
			waiting, _ := b.journal.state()
			b.log.Warn("the ban list is still away", "err", err, "waiting", waiting)
		}
		return
	}
	rows, err := b.store.since(ctx, b.rev)
	if err != nil {
		b.log.Warn("the ban list cannot be read", "err", err)
		return
	}
	b.tell(b.take(rows))
}

// replay tells the store what the journal kept.
func (b *Bans) replay(ctx context.Context) error {
	ops, err := b.journal.read()
	if err != nil || len(ops) == 0 {
		return err
	}
	if err := b.store.write(ctx, ops); err != nil {
		return err
	}
	b.log.Info("the ban list was told what it missed", "changes", len(ops))
	return b.journal.clear()
}

// Pending tells how many changes wait for the store, and why the journal that
// keeps them fails, if it does. It does not wait for the store.
func (b *Bans) Pending() (waiting int, err error) { return b.journal.state() }

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}
