package reputation

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gaissmai/bart"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Origins of a ban.
const (
	OriginOperator = "operator"
	OriginAuto     = "auto"
	OriginImport   = "import"
)

// remembered is how long a ban that ended counts for the next.
const remembered = 30 * 24 * time.Hour

// everyNode is the scope of a ban that holds on each node of a fleet; others
// hold on the node that they name, whose own doing they are.
const everyNode = ""

// Ban is one ban, as it is listed. Until nil is for ever.
type Ban struct {
	Target   string     `json:"target"`
	Kind     string     `json:"kind"` // peer | cidr
	Reason   string     `json:"reason"`
	Note     string     `json:"note"`
	Origin   string     `json:"origin"` // operator | auto | import
	Actor    string     `json:"actor"`  // who asked for it
	Created  time.Time  `json:"created"`
	Until    *time.Time `json:"until"`
	Lifted   *time.Time `json:"lifted,omitempty"` // ended before its time
	Offences int        `json:"offences"`         // automatic bans of the target in 30 days, this one too
	Hits     uint64     `json:"hits"`             // refusals since the node started
	Scope    string     `json:"scope,omitempty"`  // the node whose own ban it is; "" = every node
}

// row is a ban as it is stored.
type row struct {
	target   Target
	scope    string
	reason   string
	note     string
	origin   string
	actor    string
	offences int
	created  time.Time
	until    time.Time // zero = for ever
	lifted   time.Time // zero = not
	rev      int64     // order of changes in the store; 0 = not stored yet
}

// active reports whether the ban holds at now.
func (r *row) active(now time.Time) bool {
	return r.lifted.IsZero() && (r.until.IsZero() || now.Before(r.until))
}

// forgotten reports whether the ban is over for so long that it counts no more.
func (r *row) forgotten(now time.Time) bool {
	end := r.until
	if !r.lifted.IsZero() {
		end = r.lifted
	}
	return !end.IsZero() && now.Sub(end) >= remembered
}

// later reports whether r ends after other does.
func (r *row) later(other *row) bool {
	switch {
	case other.until.IsZero():
		return false
	case r.until.IsZero():
		return true
	}
	return r.until.After(other.until)
}

// ban is the form of r for others.
func (r *row) ban(hits uint64) Ban {
	b := Ban{
		Target: r.target.String(), Kind: r.target.Kind(), Reason: r.reason, Note: r.note, Origin: r.origin, Actor: r.actor,
		Created: r.created.UTC(), Offences: r.offences, Hits: hits, Scope: r.scope,
	}
	for to, t := range map[**time.Time]time.Time{&b.Until: r.until, &b.Lifted: r.lifted} {
		if !t.IsZero() {
			t = t.UTC()
			*to = &t
		}
	}
	return b
}

// banlist is what is banned now, in memory. Looking costs a map or a trie; it
// is safe for concurrent use.
type banlist struct {
	nets   atomic.Pointer[bart.Lite] // of what holds; replaced, never written
	sooner chan struct{}             // has one where the next end is sooner than it was

	mu      sync.RWMutex
	targets map[Target]*banned
	held    int       // of targets, those that are banned
	next    time.Time // the first end of a ban; zero = none ends
}

// banned is what is stored of one target.
type banned struct {
	rows []*row // one a scope, also of bans that ended in the last 30 days
	held *row   // the one that holds and ends last; nil = not banned
	hits atomic.Uint64
}

func newBanlist() *banlist {
	l := &banlist{targets: map[Target]*banned{}, sooner: make(chan struct{}, 1)}
	l.nets.Store(new(bart.Lite))
	return l
}

// addr reports whether connections with a are refused.
func (l *banlist) addr(a netip.Addr) bool {
	if a.Is4In6() || a.Zone() != "" {
		a = a.Unmap().WithZone("")
	}
	return l.nets.Load().Contains(a)
}

// holds is the ban of exactly t.
func (l *banlist) holds(t Target) (row, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if b := l.targets[t]; b != nil && b.held != nil {
		return *b.held, true
	}
	return row{}, false
}

// find is the ban that covers a peer or an address, either may be empty: that
// of the peer, else that of the widest net. It counts hits where hit is set.
func (l *banlist) find(p peer.ID, a netip.Addr, hit bool) (row, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	b := l.cover(p, a)
	if b == nil {
		return row{}, false
	}
	if hit {
		b.hits.Add(1)
	}
	return *b.held, true
}

// hit counts a refusal of a. It does not wait for a change of a long list, since
// whoever reads packets would wait with it: what comes meanwhile is not counted.
func (l *banlist) hit(a netip.Addr) {
	if !l.mu.TryRLock() {
		return
	}
	defer l.mu.RUnlock()
	if b := l.cover("", a); b != nil {
		b.hits.Add(1)
	}
}

func (l *banlist) cover(p peer.ID, a netip.Addr) *banned { // mu held
	if b := l.targets[Target{Peer: p}]; p != "" && b != nil && b.held != nil {
		return b
	}
	if !l.addr(a) {
		return nil
	}
	a = a.Unmap().WithZone("")
	for bits := range a.BitLen() + 1 {
		n, err := a.Prefix(bits)
		if err != nil {
			return nil
		}
		if b := l.targets[Target{Prefix: n}]; b != nil && b.held != nil {
			return b
		}
	}
	return nil
}

// rowsOf are copies of all rows of t.
func (l *banlist) rowsOf(t Target) (list []row) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if b := l.targets[t]; b != nil {
		for _, r := range b.rows {
			list = append(list, *r)
		}
	}
	return list
}

// hits is how often t was refused.
func (l *banlist) hits(t Target) uint64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if b := l.targets[t]; b != nil {
		return b.hits.Load()
	}
	return 0
}

// change is a target that came to be banned, or, over, one that no longer is.
type change struct {
	row  row
	over bool
}

// put takes over rows as they are stored now, and tells what changed of who is
// banned, or of until when.
func (l *banlist) put(rows []row, now time.Time) []change {
	l.mu.Lock()
	defer l.mu.Unlock()
	touched := map[Target]bool{}
	var order []Target
	for _, r := range rows {
		b := l.targets[r.target]
		if b == nil {
			b = new(banned)
			l.targets[r.target] = b
		}
		if i := slices.IndexFunc(b.rows, func(o *row) bool { return o.scope == r.scope }); i >= 0 {
			b.rows[i] = &r
		} else {
			b.rows = append(b.rows, &r)
		}
		if !touched[r.target] {
			touched[r.target] = true
			order = append(order, r.target)
		}
	}
	return l.settle(order, now)
}

// tick ends what is over by now, and drops what nobody needs to know any more.
func (l *banlist) tick(now time.Time) []change {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.next.IsZero() || now.Before(l.next) {
		return nil
	}
	l.next = time.Time{}
	var over []Target
	for t, b := range l.targets {
		switch {
		case b.held != nil && !b.held.active(now):
			over = append(over, t)
		case b.held != nil:
			l.ends(b.held.until)
		default:
			b.rows = slices.DeleteFunc(b.rows, func(r *row) bool { return r.forgotten(now) })
			if len(b.rows) == 0 {
				delete(l.targets, t)
			}
		}
	}
	return l.settle(over, now)
}

// settle looks anew at who of targets is banned. mu held.
func (l *banlist) settle(targets []Target, now time.Time) (changes []change) {
	nets := l.nets.Load()
	whole := len(targets) > manyNets && len(targets) > l.held/manyNets
	if whole {
		nets = nets.Clone()
	}
	for _, t := range targets {
		b := l.targets[t]
		before := b.held
		b.held = nil
		for _, r := range b.rows {
			if r.active(now) && (b.held == nil || r.later(b.held)) {
				b.held = r
			}
		}
		switch {
		case b.held != nil:
			l.ends(b.held.until)
			if before == nil || !before.until.Equal(b.held.until) {
				changes = append(changes, change{row: *b.held})
			}
			if before != nil {
				continue
			}
			l.held++
		case before != nil:
			l.held--
			b.hits.Store(0)
			i := slices.IndexFunc(b.rows, func(r *row) bool { return r.scope == before.scope }) // as it ended
			changes = append(changes, change{row: *b.rows[i], over: true})
		default:
			continue
		}
		nets = alter(nets, t.Prefix, b.held != nil, whole)
	}
	l.nets.Store(nets)
	return changes
}

// manyNets is from how many on the trie is copied whole, and which part of all the
// bans they have to be: else one path in it is copied for each, so that a long import
// costs the same for each line.
const manyNets = 256

// alter adds or removes a prefix, in place where own.
func alter(nets *bart.Lite, p netip.Prefix, add, own bool) *bart.Lite {
	switch {
	case !p.IsValid():
		return nets
	case own && add:
		nets.Insert(p)
		return nets
	case own:
		nets.Delete(p)
		return nets
	case add:
		return nets.InsertPersist(p)
	}
	return nets.DeletePersist(p)
}

// ends makes sure of a look at t. mu held.
func (l *banlist) ends(t time.Time) {
	if t.IsZero() || !l.next.IsZero() && !t.Before(l.next) {
		return
	}
	l.next = t
	select {
	case l.sooner <- struct{}{}:
	default:
	}
}

// nextEnd is when [banlist.tick] has something to do, at the latest in an hour.
func (l *banlist) nextEnd() time.Time {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if far := time.Now().Add(noEnd); l.next.IsZero() || l.next.After(far) {
		return far
	}
	return l.next
}

// count is how many targets are banned.
func (l *banlist) count() int {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.held
}

// census counts them by kind and origin.
func (l *banlist) census() map[[2]string]int {
	l.mu.RLock()
	defer l.mu.RUnlock()
	n := map[[2]string]int{}
	for t, b := range l.targets {
		if b.held != nil {
			n[[2]string{t.Kind(), b.held.origin}]++
		}
	}
	return n
}

// peers are the peers that are banned themselves, in no order.
func (l *banlist) peers() (list []peer.ID) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for t, b := range l.targets {
		if t.Peer != "" && b.held != nil {
			list = append(list, t.Peer)
		}
	}
	return list
}

// list is what holds, or with all also what ended, newest first.
func (l *banlist) list(all bool, keep func(*Ban) bool) []Ban {
	l.mu.RLock()
	var list []Ban
	for _, b := range l.targets {
		for _, r := range b.rows {
			if !all && r != b.held {
				continue
			}
			if v := r.ban(b.hits.Load()); keep == nil || keep(&v) {
				list = append(list, v)
			}
		}
	}
	l.mu.RUnlock()
	slices.SortFunc(list, func(a, b Ban) int {
		return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.Target, b.Target), cmp.Compare(a.Scope, b.Scope))
	})
	return list
}

// offences is how many automatic bans t had in the last 30 days.
func (l *banlist) offences(t Target, now time.Time) (n int) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if b := l.targets[t]; b != nil {
		for _, r := range b.rows {
			if r.origin == OriginAuto && !r.forgotten(now) {
				n = max(n, r.offences)
			}
		}
	}
	return n
}

// softest is the automatic ban that ends first.
func (l *banlist) softest() (row, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var first *row
	for _, b := range l.targets {
		if b.held != nil && b.held.origin == OriginAuto && (first == nil || first.later(b.held)) {
			first = b.held
		}
	}
	if first == nil {
		return row{}, false
	}
	return *first, true
}
