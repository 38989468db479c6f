package discovery

import (
	"bytes"
	"context"
	"net/netip"
	"slices"
	"time"

	kb "github.com/libp2p/go-libp2p-kbucket"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// A lookup goes over disjoint paths (S/Kademlia): a peer belongs to one path
// only, so one that lies leads one path astray.
const (
	paths       = 4
	pathWidth   = 3  // questions under way on a path; it ends when its as many nearest are asked
	lastWidth   = 10 // and once the paths have ended
	lastAsked   = 3 * nearest
	lookupTime  = 60 * time.Second
	answerPeers = 40 // taken of one answer
	answerGroup = 3  // of them in one address group
	maxFound    = 1000
	liarAfter   = 3 // peers that one told of and that do not answer, and none that does
)

// Step is one question of a lookup.
type Step struct {
	Path  int // from 1; 0 = after the paths have ended
	Asked peer.ID
	Got   int       // peers it told of
	Told  []peer.ID // of them, whom the lookup took note of; at most 40
	Took  time.Duration
	Err   error // nil = it answered; [ErrEnough] = it was not waited for
}

type state int

const (
	heard state = iota
	waiting
	answered
	failed
)

// candidate is a peer that a lookup knows of.
type candidate struct {
	id    peer.ID
	far   []byte // XOR distance from the target
	addrs []ma.Multiaddr
	group string
	path  int
	from  peer.ID // who told of it; "" = our table
	state state
}

// answer is what a peer said.
type answer struct {
	closer    []*peer.AddrInfo
	providers []*peer.AddrInfo
	value     []byte
	ip        netip.Addr // where it came from
}

type result struct {
	c    *candidate
	a    answer
	took time.Duration
	err  error
}

// word is how good one peer's word is, by who of those it told of answered.
type word struct{ good, bad int }

// rules of the DHT. Experiments leave some of them out.
type rules struct {
	paths     int
	liars     bool // what a liar tells is ignored
	diversity bool // limits by address group, of the table and of an answer
	region    bool // a dense region is asked wider
}

var allRules = rules{paths: paths, liars: true, diversity: true, region: true}

// ground is what a lookup stands on: the DHT, or a model of one.
type ground interface {
	// seeds gives the n peers of our table that are nearest to a target.
	seeds(target kb.ID, n int) []peer.ID
	// groupOf is the address group of a peer of the table.
	groupOf(p peer.ID) string
	// heed judges what a peer at told says of another: what can be dialled of it
	// and its group. No addresses = it is no use.
	heed(info *peer.AddrInfo, told netip.Addr) (addrs []ma.Multiaddr, group string)
	// question puts a question to a peer; called by several goroutines.
	question(ctx context.Context, c *candidate, ask func(context.Context, peer.ID) (answer, error)) (answer, error)
	// told hears that p named others.
	told(p peer.ID)
	// region judges the nearest peers; what is dense is told to the operator.
	region(target kb.ID, near []*candidate) (r region, size float64)
}

// lookup is one search. Its fields belong to the goroutine of run, but for on.
type lookup struct {
	on     ground
	rules  rules
	target kb.ID
	// ask puts the question; called by several goroutines.
	ask func(ctx context.Context, p peer.ID) (answer, error)
	// hear takes an answer and reports whether that is enough; nil = never.
	hear     func(c *candidate, a answer) bool
	progress func(Step) // may be nil

	all   map[peer.ID]*candidate
	words map[peer.ID]*word
	done  bool
	last  bool // the paths have ended
	asked int  // since then
	steps []Step
	dense region
}

func (k *kad) newLookup(key string, ask func(context.Context, peer.ID) (answer, error)) *lookup {
	l := newLookup(k, key, ask)
	l.rules = k.d.rules
	return l
}

func newLookup(on ground, key string, ask func(context.Context, peer.ID) (answer, error)) *lookup {
	return &lookup{on: on, rules: allRules, target: kb.ConvertKey(key), ask: ask, all: map[peer.ID]*candidate{}, words: map[peer.ID]*word{}}
}

// run asks over the paths and then the nearest peers of all of them. Where
// these are too near to be honest it asks more. It returns the nearest ones
// that answered, nearest first.
func (l *lookup) run(ctx context.Context) []*candidate {
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	l.seed(nearest)
	l.drive(ctx, l.pickOnPath)
	l.last = true
	l.drive(ctx, l.pickNearest)
	near := l.alive(func(c *candidate) bool { return c.state == answered })
	var size float64
	if l.dense, size = l.on.region(l.target, near); l.dense.Dense && l.rules.region {
		// Nobody else may have been heard of: the nearest ones of our table can all
		// be the attacker's, who tell of each other alone.
		l.seed(4 * nearest)
		l.asked = 0
		limit := within(nearest, size)
		l.drive(ctx, func() *candidate { return l.pickWider(limit) })
		near = l.alive(func(c *candidate) bool { return c.state == answered })
		return l.spread(near)
	}
	return near[:min(len(near), nearest)]
}

// seed deals the n nearest peers of our table to the paths; those of one address
// group go to one path.
func (l *lookup) seed(n int) {
	byGroup := map[string]int{}
	load := make([]int, l.rules.paths+1)
	for _, p := range l.on.seeds(l.target, n) {
		if l.all[p] != nil {
			continue
		}
		group := l.on.groupOf(p)
		path, known := byGroup[group]
		if !known || group == "" {
			path = 1
			for i := 2; i <= l.rules.paths; i++ {
				if load[i] < load[path] {
					path = i
				}
			}
			byGroup[group] = path
		}
		load[path]++
		l.all[p] = &candidate{id: p, far: distanceTo(l.target, string(p)), group: group, path: path}
	}
}

// drive asks whom pick names, until it names nobody and all have answered.
func (l *lookup) drive(ctx context.Context, pick func() *candidate) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan result)
	busy := 0
	for {
		for !l.done && ctx.Err() == nil {
			c := pick()
			if c == nil {
				break
			}
			c.state = waiting
			busy++
			go func() { results <- l.put(ctx, c) }()
		}
		if busy == 0 {
			return
		}
		l.take(<-results)
		busy--
		if l.done {
			cancel()
		}
	}
}

// pickOnPath names the next one of a path that has room: the nearest that was
// not asked, where it is among the path's nearest.
func (l *lookup) pickOnPath() *candidate {
	for path := 1; path <= l.rules.paths; path++ {
		list := l.alive(func(c *candidate) bool { return c.path == path })
		list = list[:min(len(list), pathWidth)]
		for _, c := range list {
			if c.state == heard {
				return c
			}
		}
	}
	return nil
}

// pickNearest names one of the nearest of all paths.
func (l *lookup) pickNearest() *candidate {
	list := l.alive(func(*candidate) bool { return true })
	return l.pickOf(list[:min(len(list), nearest)])
}

// pickWider names one of those that are asked after an alarm: all that are
// within limit, as the nearest should be, and three times as many behind.
func (l *lookup) pickWider(limit []byte) *candidate {
	list := l.alive(func(*candidate) bool { return true })
	near, _ := slices.BinarySearchFunc(list, limit, func(c *candidate, limit []byte) int { return bytes.Compare(c.far, limit) })
	return l.pickOf(list[:min(len(list), near+3*nearest)])
}

func (l *lookup) pickOf(list []*candidate) *candidate {
	under := 0
	for _, c := range list {
		if c.state == waiting {
			under++
		}
	}
	if under >= lastWidth || l.asked >= lastAsked {
		return nil
	}
	for _, c := range list {
		if c.state == heard {
			l.asked++
			return c
		}
	}
	return nil
}

// alive lists the candidates that did not fail and whose teller is no liar,
// nearest first.
func (l *lookup) alive(want func(*candidate) bool) []*candidate {
	var list []*candidate
	for _, c := range l.all {
		if c.state != failed && want(c) && (c.state != heard || !l.lies(c.from)) {
			list = append(list, c)
		}
	}
	slices.SortFunc(list, byDistance)
	return list
}

func byDistance(a, b *candidate) int { return bytes.Compare(a.far, b.far) }

func (l *lookup) lies(p peer.ID) bool {
	w := l.words[p]
	return l.rules.liars && p != "" && w != nil && w.good == 0 && w.bad >= liarAfter
}

// put asks one peer, connecting to it if need be.
func (l *lookup) put(ctx context.Context, c *candidate) result {
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	start := time.Now()
	a, err := l.on.question(ctx, c, l.ask)
	return result{c: c, a: a, took: time.Since(start), err: err}
}

// take notes an answer, or that none came.
func (l *lookup) take(r result) {
	step := Step{Path: r.c.path, Asked: r.c.id, Took: r.took, Err: r.err}
	if l.last {
		step.Path = 0
	}
	w := l.words[r.c.from]
	if w == nil {
		w = &word{}
		l.words[r.c.from] = w
	}
	switch {
	case r.err != nil && l.done: // we ended the question
		r.c.state, step.Err = failed, ErrEnough
	case r.err != nil:
		r.c.state = failed
		w.bad++
	default:
		r.c.state = answered
		w.good++
		if len(r.a.closer) > 0 {
			l.on.told(r.c.id)
		}
		step.Got = len(r.a.closer)
		step.Told = l.add(r.c, r.a.closer, r.a.ip)
		if l.hear != nil && l.hear(r.c, r.a) {
			l.done = true
		}
	}
	l.steps = append(l.steps, step)
	if l.progress != nil {
		l.progress(step)
	}
}

// add takes peers that one told of: so many of an answer and of a group. It
// returns whom it took, known ones among them.
func (l *lookup) add(from *candidate, list []*peer.AddrInfo, told netip.Addr) (took []peer.ID) {
	groups := map[string]int{}
	for _, info := range list[:min(len(list), answerPeers)] {
		if len(l.all) >= maxFound {
			break
		}
		addrs, group := l.on.heed(info, told)
		if len(addrs) == 0 {
			continue
		}
		if groups[group]++; group != "" && groups[group] > answerGroup && l.rules.diversity {
			continue
		}
		took = append(took, info.ID)
		if _, seen := l.all[info.ID]; !seen {
			l.all[info.ID] = &candidate{
				id: info.ID, far: distanceTo(l.target, string(info.ID)), addrs: addrs, group: group, path: from.path, from: from.id,
			}
		}
	}
	return took
}

// spread orders the peers of a dense region: those of the least crowded groups
// first, then the nearest. All of them are returned.
func (l *lookup) spread(near []*candidate) []*candidate {
	crowd := map[string]int{}
	for _, c := range near {
		crowd[c.group]++
	}
	slices.SortStableFunc(near, func(a, b *candidate) int { return crowd[a.group] - crowd[b.group] })
	return near
}
