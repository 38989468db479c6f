package addrbook

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/record"
	ma "github.com/multiformats/go-multiaddr"
)

const (
	// maxEnvelope bounds a signed peer record in bytes: 250 of them fit one
	// answer of peer exchange, and there is room for 30 addresses.
	maxEnvelope = 1024
	// maxAge is how old a record may be. Peers sign anew at each start and at
	// each change of their addresses, so an honest one can be months old.
	maxAge = 180 * 24 * time.Hour
)

// known is what a source told, read and judged, before it has a place.
type known struct {
	id     peer.ID
	addrs  []address // 1 to maxAddrs
	record []byte    // nil for bare addresses
	seq    uint64
}

// Add takes a signed peer record, the only way in for addresses of others. It
// verifies the signature, which costs about 0.1 ms, after the source's rate.
// The envelope is copied. Errors are those of this package; a peer that is
// known already is none.
func (b *Book) Add(src Source, envelope []byte) error { return b.refuse(b.add(src, envelope)) }

func (b *Book) add(src Source, envelope []byte) error {
	if len(envelope) > maxEnvelope {
		return fmt.Errorf("%w: %d bytes, limit %d", ErrTooLarge, len(envelope), maxEnvelope)
	}
	now := time.Now()
	if !b.allow(src, now) {
		return fmt.Errorf("%w: %s", ErrRate, src.Peer)
	}
	k, err := verify(envelope, now)
	if err != nil {
		return err
	}
	return b.insert(src, k, now)
}

// verify judges an envelope and reads what can be dialled of it.
func verify(envelope []byte, now time.Time) (known, error) {
	var rec peer.PeerRecord
	env, err := record.ConsumeTypedEnvelope(envelope, &rec)
	switch {
	case err != nil:
		return known{}, fmt.Errorf("%w: %w", ErrForged, err)
	case !bytes.Equal(env.PayloadType, peer.PeerRecordEnvelopePayloadType), !rec.PeerID.MatchesPublicKey(env.PublicKey):
		return known{}, fmt.Errorf("%w: it names %s", ErrForged, rec.PeerID)
	}
	if made := madeAt(rec.Seq); !made.IsZero() && now.Sub(made) > maxAge {
		return known{}, fmt.Errorf("%w: %s signed it on %s", ErrExpired, rec.PeerID, made.UTC().Format(time.DateOnly))
	}
	return known{id: rec.PeerID, addrs: parseAll(rec.Addrs, rec.PeerID), record: slices.Clone(envelope), seq: rec.Seq}, nil
}

// madeAt reads a sequence number as the time that libraries use for it, in ns
// (Go), ms (JavaScript) or s (Rust). The zero time is any other counter.
func madeAt(seq uint64) time.Time {
	const year = 366 * 24 * 3600
	for _, unit := range []uint64{1e9, 1e6, 1e3, 1} {
		if s := seq / unit; s > 30*year && s < 1000*year {
			return time.Unix(int64(s), 0)
		}
	}
	return time.Time{}
}

// parseAll keeps the first addresses that can be dialled.
func parseAll(list []ma.Multiaddr, id peer.ID) (out []address) {
	for _, a := range list {
		if p, ok := parse(a, id); ok && len(out) < 4*maxAddrs && !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}

// AddBare takes addresses that nobody signed: from sources that the operator
// chose, and non-public ones from mDNS. All others get ErrBare.
func (b *Book) AddBare(src Source, info peer.AddrInfo) error {
	return b.refuse(b.addBare(src, info))
}

func (b *Book) addBare(src Source, info peer.AddrInfo) error {
	if !src.Kind.ours() && src.Kind != MDNS {
		return fmt.Errorf("%w: %s from %s", ErrBare, info.ID, src.Kind)
	}
	if err := info.ID.Validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrNotDialable, err)
	}
	now := time.Now()
	if !b.allow(src, now) {
		return fmt.Errorf("%w: %s", ErrRate, src.Peer)
	}
	addrs := parseAll(info.Addrs, info.ID)
	if src.Kind == MDNS {
		addrs = slices.DeleteFunc(addrs, func(a address) bool { return a.class == public })
	}
	return b.insert(src, known{id: info.ID, addrs: addrs}, now)
}

// usable keeps what may be dialled from here: public addresses, non-public ones
// in a private book, and loopback only where the source is on this machine too.
func (b *Book) usable(src Source, addrs []address) []address {
	here := src.Kind.ours() || classOf(clean(src.IP)) == loopback
	return slices.DeleteFunc(addrs, func(a address) bool {
		return a.class != public && !b.cfg.Private || a.class == loopback && !here
	})
}

// insert judges a peer and puts it into new.
func (b *Book) insert(src Source, k known, now time.Time) error {
	if k.id == b.cfg.Self {
		return ErrSelf
	}
	if k.addrs = b.usable(src, k.addrs); len(k.addrs) == 0 {
		return fmt.Errorf("%w: %s", ErrNotDialable, k.id)
	}
	if b.cfg.Banned != nil {
		k.addrs = slices.DeleteFunc(k.addrs, func(a address) bool { return b.cfg.Banned(k.id, a.ip) })
		if len(k.addrs) == 0 {
			return fmt.Errorf("%w: %s", ErrBanned, k.id)
		}
	}
	src.IP = clean(src.IP)
	k.addrs = k.addrs[:min(len(k.addrs), maxAddrs)]
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := b.entries[k.id]; e != nil {
		return b.hear(e, src, k, now)
	}
	return b.meet(src, k, now)
}

// meet puts a newcomer into new.
func (b *Book) meet(src Source, k known, now time.Time) error { // mu held
	if !src.Kind.ours() && b.live[src.Peer] >= maxLive {
		return fmt.Errorf("%w: %s told of %d peers that are still new", ErrFull, src.Peer, maxLive)
	}
	if !b.quota.allows(src.Kind, b.cfg.Sources, now) {
		return fmt.Errorf("%w: %s", ErrQuota, src.Kind)
	}
	e := &entry{
		id: k.id, tried: none, record: k.record, seq: k.seq, firstSeen: at(now), lastSeen: at(now),
		addrs: b.room(nil, src, k),
	}
	if len(e.addrs) == 0 {
		return fmt.Errorf("%w: %d peers are at its address", ErrFull, k.addrs[0].place().limit())
	}
	e.group = b.groupOf(e.addrs[0])
	if !b.refer(e, src, now, false) {
		return fmt.Errorf("%w: another peer has its slot", ErrFull)
	}
	b.evictUnproven(e)
	b.enter(e)
	b.quota.took(src.Kind)
	b.grow(now)
	return nil
}

// hear takes what a source tells of a peer that is known.
func (b *Book) hear(e *entry, src Source, k known, now time.Time) error { // mu held
	if e.class == wrongClass && e.resting(now) {
		return fmt.Errorf("%w: %s, asked again after %s", ErrOtherNetwork, e.id, e.notBefore.time().Format(time.RFC3339))
	}
	if k.record != nil && k.seq < e.seq {
		return fmt.Errorf("%w: %s", ErrStale, e.id)
	}
	if e.firstGood == 0 || src.Peer == e.id {
		e.lastSeen = at(now)
	}
	forged := k.record == nil && !src.Kind.ours() && e.record != nil // it can be: the peer itself has said where it is
	if !forged && (k.record == nil || k.seq > e.seq || e.record == nil) {
		b.move(e, src, k, now)
		if b.entries[e.id] != e {
			return fmt.Errorf("%w: another peer has the slot of its new address", ErrFull)
		}
	}
	if e.tried != none || len(e.refs) == maxRefs || e.knownBy(b.sourceGroup(src)) {
		return nil
	}
	if !src.Kind.ours() && b.live[src.Peer] >= maxLive {
		return nil
	}
	if b.rand.IntN(1<<len(e.refs)) == 0 { // each further place is half as likely
		b.refer(e, src, now, false)
	}
	return nil
}

// move gives e the addresses of a newer record, or adds bare ones. The address
// that our own dial proved stays first until another one is proved.
func (b *Book) move(e *entry, src Source, k known, now time.Time) { // mu held
	list := k.addrs
	if k.record == nil {
		list = append(slices.Clip(k.addrs), e.addrs...)
		if !src.Kind.ours() {
			list = append(slices.Clip(e.addrs), k.addrs...)
		}
	} else {
		e.record, e.seq = k.record, k.seq
	}
	if e.firstGood != 0 {
		list = append([]address{e.addrs[0]}, list...)
	}
	k.addrs = list
	if list = b.room(e, src, k); len(list) == 0 {
		return // the old ones stay
	}
	b.vacate(e)
	e.addrs = list
	b.occupy(e)
	b.evictUnproven(e)
	b.regroup(e, now)
}

// regroup moves e to where its first address belongs. From tried it goes to
// new, since nothing is proved of the new group.
func (b *Book) regroup(e *entry, now time.Time) { // mu held
	group := b.groupOf(e.addrs[0])
	if group == e.group {
		return
	}
	b.uproot(e)
	b.uncount(e)
	e.group = group
	b.count(e)
	b.plant(e, now, e.firstGood != 0)
}

// room keeps those addresses at whose IP one more peer may be: e itself, one
// of few, or one that showed itself from there in place of one that never did.
func (b *Book) room(e *entry, src Source, k known) (out []address) { // mu held
	for _, a := range k.addrs {
		p := a.place()
		at := b.places[p]
		free := !a.ip.IsValid() || slices.Contains(at, e) || len(at) < p.limit() ||
			src.showsFrom(k.id, p) && slices.ContainsFunc(at, func(o *entry) bool { return !o.provenAt(p) })
		if free && len(out) < maxAddrs && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// provenAt reports whether e was seen at p by us.
func (e *entry) provenAt(p place) bool { return e.anchor || e.firstGood != 0 || e.shownFrom(p) }

// evictUnproven takes from the IPs of e, which is to be counted there, the
// peers that are too many and were never seen there: they are forgotten.
func (b *Book) evictUnproven(e *entry) { // mu held
	for _, a := range e.addrs {
		p := a.place()
		if !a.ip.IsValid() {
			continue
		}
		for n := len(b.places[p]) + b2i(!slices.Contains(b.places[p], e)); n > p.limit(); n-- {
			i := slices.IndexFunc(b.places[p], func(o *entry) bool { return o != e && !o.provenAt(p) })
			if i < 0 {
				break
			}
			b.forget(b.places[p][i])
		}
	}
}

// refuse counts a refusal by its reason.
func (b *Book) refuse(err error) error {
	if err == nil {
		return nil
	}
	for _, r := range reasons {
		if errors.Is(err, r.err) {
			b.metrics.rejected.WithLabelValues(r.name).Inc()
			break
		}
	}
	return err
}
