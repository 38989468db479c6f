package dialer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/parley-p2p/parley/internal/p2p/addrbook"
	"github.com/parley-p2p/parley/internal/wire"
)

const (
	agedSlots  = 2                      // of the full ones, for who was good before all others
	agedWait   = 10 * time.Minute       // for a live one of these
	openingFor = time.Minute            // after the start the proven come before the new
	dialPace   = 500 * time.Millisecond // between two rounds: a book of the dead is no flood
	pickAgain  = time.Second            // after a pick that found nobody; it doubles
	pickMost   = 15 * time.Second
	eagerPick  = 250 * time.Millisecond // while the run is young and nobody is connected
	newsEvery  = time.Second            // at most: a look because the book has new peers
	newsSearch = 256                    // entries that it looks at beyond the draws
	wideSearch = 4096                   // those of a look while nobody is known in a free group
	needFirst  = 30 * time.Second       // between two cries for candidates; it doubles
	needMost   = 5 * time.Minute
	bootStays  = 2 * time.Minute  // all bootnodes but one are left after it
	partedRest = 10 * time.Minute // of a peer that we left for others
	lookedRest = 30 * time.Second // of one that we only looked at: it may be the only one for a slot
)

// filling is where the search for outbound peers stands.
type filling struct {
	since   time.Time     // of the run
	again   time.Time     // the next pick, after one that found nobody
	wait    time.Duration // before it
	news    bool          // the book has new peers since the last pick
	newsAt  time.Time     // they are not looked at before
	opened  bool          // the first filling is over
	noAged  time.Time     // since when too few aged peers are up
	noKind  time.Time     // since when nobody fits the rules of groups and kinds
	noGroup time.Time     // since when nobody is left in a free group
	rounds  int           // of the book by then
	cursor  addrbook.Cursor
	cryAt   time.Time // before that discovery is not asked again
	cryWait time.Duration
}

// want is one slot to be filled.
type want struct {
	slot  string
	extra bool
	aged  bool
}

// outbound begins dials for the slots that are free.
func (s *Slots) outbound(now time.Time) (jobs []task) {
	jobs, wait := s.dialAnchors(now)
	if wait {
		s.fill.again = now.Add(pickAgain)
		return jobs
	}
	early := now.Before(s.fill.again)
	if early && (!s.fill.news || now.Before(s.fill.newsAt)) {
		return jobs
	}
	if s.fill.news {
		s.fill.news, s.fill.newsAt = false, now.Add(newsEvery)
	}
	if !early {
		s.fill.again = time.Time{}
	}
	wants := s.lacking(now)
	if up, _ := s.count(SlotOutbound); len(wants) == 0 && up >= s.cfg.Outbound {
		s.fill.cryWait = 0
	}
	s.fill.opened = s.fill.opened || len(wants) == 0 || now.Sub(s.fill.since) >= openingFor
	for _, w := range wants {
		search := 0
		if early {
			search = newsSearch
		}
		e, ok := s.pick(w, search, now)
		if !ok && early {
			break
		}
		if !ok {
			s.fill.wait = min(max(pickAgain, 2*s.fill.wait), pickMost)
			s.fill.again = now.Add(s.fill.wait)
			if s.starting(now) {
				s.fill.wait, s.fill.again = 0, now.Add(eagerPick)
			}
			s.cry(now)
			break
		}
		jobs = append(jobs, s.start(e, w, now))
		s.fill.wait, s.fill.again = 0, now.Add(dialPace)
	}
	return jobs
}

// cry tells discovery that candidates lack, ever more seldom.
func (s *Slots) cry(now time.Time) {
	if now.Before(s.fill.cryAt) {
		return
	}
	s.fill.cryWait = min(max(needFirst, 2*s.fill.cryWait), needMost)
	s.fill.cryAt = now.Add(s.fill.cryWait)
	s.fns.Need()
}

// lacking lists the slots that nobody holds or is dialled for.
func (s *Slots) lacking(now time.Time) (wants []want) {
	aged := 0
	for _, h := range s.held {
		if h.slot == SlotOutbound && h.aged && h.up && !h.extra {
			aged++
		}
	}
	most := min(agedSlots, s.cfg.Outbound/4)
	if aged >= most || s.fill.noAged.IsZero() {
		s.fill.noAged = now
	}
	up, dialling := s.count(SlotOutbound)
	free := max(0, s.cfg.Outbound-up-dialling)
	kept := min(free, max(0, most-aged))
	if kept > 0 && (now.Sub(s.fill.noAged) >= agedWait || !s.knowsAged()) {
		kept = 0
	}
	for range free - kept {
		wants = append(wants, want{slot: SlotOutbound})
	}
	up, dialling = s.count(SlotBlockOnly)
	for range s.cfg.BlockOnly - up - dialling {
		wants = append(wants, want{slot: SlotBlockOnly})
	}
	for range kept { // last: where none of them fits the others are not held up
		wants = append(wants, want{slot: SlotOutbound, aged: true})
	}
	return wants
}

// knowsAged reports whether there is any aged peer to wait for.
func (s *Slots) knowsAged() bool {
	_, ok := s.book.Pick(addrbook.PickOptions{Aged: true, Skip: func(e addrbook.Entry) bool { return s.held[e.ID] != nil && s.held[e.ID].up }})
	return ok
}

// pick finds somebody for a slot; search is that of [addrbook.PickOptions].
// Where nobody fits the rules of groups and kinds for a while that of kinds gives
// way, and only where no free group has had anybody left for a minute that of
// groups. The book is gone through once for all of them: whoever fits but for a
// rule is kept in mind.
func (s *Slots) pick(w want, search int, now time.Time) (addrbook.Entry, bool) {
	groups, kinds := s.usedGroups(), s.fullKinds()
	var inFullKind, inUsedGroup *addrbook.Entry
	skip := func(e addrbook.Entry) bool {
		spare := (**addrbook.Entry)(nil)
		switch {
		case groups[e.Group] && dialsPublic(e):
			spare = &inUsedGroup
		case kinds[kindOf(e)] && !w.aged: // who fills all kinds would keep the aged out
			spare = &inFullKind
		}
		if spare != nil && *spare != nil {
			return true
		}
		if s.unfit(e, now) && !(w.slot == SlotOutbound && s.adoptable(e, now)) {
			return true
		}
		if spare != nil {
			*spare = &e
		}
		return spare != nil
	}
	e, ok := s.draw(w, search, skip)
	switch {
	case w.aged: // it can wait, and says nothing of the rules
		return e, ok
	case ok:
		s.fill.noKind, s.fill.noGroup = time.Time{}, time.Time{}
		return e, true
	case w.extra: // it can wait
		return addrbook.Entry{}, false
	}
	first := func(t *time.Time) time.Duration {
		if t.IsZero() {
			*t = now
		}
		return now.Sub(*t)
	}
	since := first(&s.fill.noKind)
	if inFullKind != nil {
		s.fill.noGroup = time.Time{}
		return *inFullKind, since >= scarceKind
	}
	if s.fill.noGroup.IsZero() {
		s.fill.rounds = s.fill.cursor.Rounds()
	}
	// The whole book was looked at, and not only a part of it.
	if first(&s.fill.noGroup) < scarceGroup || s.fill.cursor.Rounds()-s.fill.rounds < 2 || inUsedGroup == nil {
		return addrbook.Entry{}, false
	}
	return *inUsedGroup, true
}

// draw has the book give somebody whom skip leaves, of those that w is for.
func (s *Slots) draw(w want, search int, skip func(addrbook.Entry) bool) (addrbook.Entry, bool) {
	o := addrbook.PickOptions{Skip: skip, Search: search, Cursor: &s.fill.cursor}
	if search == 0 && !s.fill.noGroup.IsZero() {
		o.Search = wideSearch
	}
	switch {
	case w.aged:
		o.Aged = true
	case !s.fill.opened: // the proven first
		o.Table = addrbook.Tried
		if e, ok := s.book.Pick(o); ok {
			return e, true
		}
		o.Table = addrbook.New
	}
	return s.book.Pick(o)
}

// starting reports whether the run is young and nobody is connected yet.
func (s *Slots) starting(now time.Time) bool {
	return s.young(now) && s.alone()
}

// unfit reports whether e is nobody to be dialled now.
func (s *Slots) unfit(e addrbook.Entry, now time.Time) bool {
	if s.held[e.ID] != nil || len(e.Addrs) == 0 || now.Before(s.rests[e.ID].until) || s.dial.connected(e.ID) {
		return true
	}
	return s.dial.Has(e.ID) || s.dial.isLeft(e.ID, now) || s.dial.rep.Refused(e.ID) || s.dial.hopeless(e.ID, e.Addrs, now) && !s.alone()
}

// adoptable reports whether e is a peer to which we connected only to ask it:
// there is nothing to dial, its connection stays.
func (s *Slots) adoptable(e addrbook.Entry, now time.Time) bool {
	return s.held[e.ID] == nil && !now.Before(s.rests[e.ID].until) && s.dial.reachedAt(e.ID) != nil &&
		!s.dial.Has(e.ID) && !s.dial.ByHand(e.ID) && !s.dial.isLeft(e.ID, now) && !s.dial.rep.Refused(e.ID)
}

// hopeless reports whether all addresses of p rest for a lasting reason.
func (d *Dialer) hopeless(p peer.ID, addrs []ma.Multiaddr, now time.Time) bool {
	if !d.cfg.OptimiseRetries {
		return false
	}
	awake, _ := d.rests.split(p, addrs, now)
	return len(awake) == 0
}

// start takes e for a slot and says how it is dialled.
func (s *Slots) start(e addrbook.Entry, w want, now time.Time) task {
	h := &hold{
		id: e.ID, slot: w.slot, extra: w.extra, source: string(kindOf(e)), group: e.Group, public: dialsPublic(e),
		aged: w.aged, since: now, seenAt: now, alone: s.nobodyBut(e.ID),
	}
	s.take(h)
	return task{hold: h, addrs: e.Addrs}
}

// ended is what came of a task.
type ended struct {
	task
	err   error
	proof ma.Multiaddr // where our own dial reached it; nil = it came to us meanwhile
}

// do carries a task out, outside of the loop.
func (s *Slots) do(ctx context.Context, t task) {
	if t.leave != "" {
		s.fns.Disconnect(ctx, t.hold.id, wire.GoodbyeTooManyPeers, t.leave)
		return
	}
	e := ended{task: t}
	s.book.Attempt(t.hold.id)
	e.err = s.dial.reach(ctx, t.hold.id, t.addrs)
	if e.err == nil {
		e.proof = s.dial.reachedAt(t.hold.id)
	}
	if ctx.Err() != nil {
		return // we are stopping: nothing is the peer's doing
	}
	switch class := classOf(e.err); {
	case class == ClassWrongNetwork:
		s.book.WrongNetwork(t.hold.id)
	case class != "" && !t.hold.back.IsZero(): // dials of its turn tell the book
	case class != "":
		s.book.Failed(t.hold.id, string(class))
	case e.proof != nil:
		s.book.Good(t.hold.id, e.proof)
	}
	if t.hold.slot == SlotFeeler && e.err == nil && e.proof != nil && !s.dial.ByHand(t.hold.id) {
		s.fns.Disconnect(ctx, t.hold.id, wire.GoodbyeShutdown, "only looked whether you are there")
	}
	select {
	case s.done <- e:
	case <-ctx.Done():
	}
}

func classOf(err error) Class {
	if err == nil {
		return ""
	}
	return classify(err)
}

// reach dials p and greets it. After an error no connection of ours stands.
func (d *Dialer) reach(ctx context.Context, p peer.ID, addrs []ma.Multiaddr) error {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	return d.single(ctx, p, func() error {
		d.clearBackoff(p)
		c, err := d.dial(ctx, p, addrs)
		if err != nil {
			if have, ok := actual(err, addrs); ok && have == d.host.ID() {
				return errSelf
			} else if ok {
				return &mismatchError{want: p, have: have}
			}
			return fmt.Errorf("dial: %w", err)
		}
		err = d.greet(ctx, p, c)
		var refusal Refusal
		if err != nil && !errors.As(err, &refusal) {
			_ = d.host.Network().ClosePeer(p)
		}
		return err
	})
}

// reachedAt is the address of a connection that we opened to p.
func (d *Dialer) reachedAt(p peer.ID) ma.Multiaddr {
	for _, c := range d.host.Network().ConnsToPeer(p) {
		if c.Stat().Direction == network.DirOutbound {
			return c.RemoteMultiaddr()
		}
	}
	return nil
}

// finish enters what came of a dial.
func (s *Slots) finish(e ended, now time.Time) {
	h := e.hold
	class := classOf(e.err)
	s.metrics.dials.WithLabelValues(label(class)).Inc()
	s.tested(h, class, now)
	if h.anchor {
		s.anchors.tried(h.id, e.err == nil, now)
	}
	if e.err != nil {
		s.log.Debug("outbound dial failed", "peer", h.id, "addr", e.addrs, "slot", h.slot, "class", class, "err", oneLine(e.err.Error(), maxError))
		if h.back.IsZero() {
			s.rest(h.id, class, h.alone, now)
		} else if restStart[class] != 0 { // it is there, and does not want us
			delete(s.lost, h.id)
			s.rest(h.id, class, false, now)
		}
		s.release(h)
		return
	}
	delete(s.rests, h.id)
	if s.lost[h.id] != nil {
		delete(s.lost, h.id)
		s.returned(now)
		s.lookAt = now
	}
	switch {
	case h.slot == SlotFeeler:
		s.release(h)
	case e.proof == nil: // it dialled us first: its place is an inbound one
		s.release(h)
	case !s.dial.connected(h.id):
		s.rest(h.id, ClassRefused, h.alone, now)
		s.release(h)
	default:
		h.up, h.since = true, now
		s.log.Info("outbound peer connected", "peer", h.id, "addr", e.proof, "slot", h.slot, "source", h.source, "group", h.group)
	}
}

// leaveBootnodes leaves all bootnodes but one after two minutes, once others
// hold half of the slots: they are there to be asked.
func (s *Slots) leaveBootnodes(now time.Time) (jobs []task) {
	var boots []*hold
	others := 0
	for _, h := range s.held {
		switch {
		case !h.up || h.slot == SlotFeeler:
		case h.source == string(addrbook.Bootstrap):
			boots = append(boots, h)
		default:
			others++
		}
	}
	if others < s.cfg.Outbound/2 {
		return nil
	}
	for len(boots) > 1 {
		h := boots[len(boots)-1]
		boots = boots[:len(boots)-1]
		if now.Sub(h.since) >= bootStays {
			jobs = append(jobs, s.part(h, "asked, and left for others", partedRest, now))
		}
	}
	return jobs
}

// part gives a slot up, and its peer is not dialled again before rest is over.
func (s *Slots) part(h *hold, why string, rest time.Duration, now time.Time) task {
	s.release(h)
	s.rests[h.id] = resting{until: now.Add(rest)}
	s.log.Info("outbound peer left", "peer", h.id, "slot", h.slot, "why", why)
	return task{hold: h, leave: why}
}
