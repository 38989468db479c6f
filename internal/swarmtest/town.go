package swarmtest

import (
	"runtime"
	"slices"
	"time"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/config"
)

// Boots names n as a bootstrap peer, which is asked for others and left. Who is
// told no more than that joins the chain of n.
func (n *Node) Boots() func(*config.Config) {
	id, err := n.PublicKey().PeerID()
	if err != nil {
		n.swarm.T.Fatal(err)
	}
	return func(c *config.Config) {
		c.P2P.BootstrapPeers = []string{"/ip4/" + n.ip + "/udp/9906/quic-v1/p2p/" + id.String()}
	}
}

// held is how many full outbound slots are filled.
func (n *Node) held() int {
	families, err := n.Registry.Gather()
	if err != nil {
		n.swarm.T.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "parley_dialer_slots" {
			continue
		}
		for _, m := range f.GetMetric() {
			of := map[string]string{}
			for _, l := range m.GetLabel() {
				of[l.GetName()] = l.GetValue()
			}
			if of["slot"] == "outbound" && of["state"] == "filled" {
				return int(m.GetGauge().GetValue())
			}
		}
	}
	return 0
}

// Chosen lists the ready peers that have a full outbound slot, or are the
// operator's.
func (n *Node) Chosen() (list []parley.Peer) {
	for _, p := range n.Peers() {
		if p.Ready && p.Slot == "outbound" {
			list = append(list, p)
		}
	}
	return list
}

// dials counts dials for slots, and those that came to nothing.
func (n *Node) dials() (all, wasted float64) {
	families, err := n.Registry.Gather()
	if err != nil {
		n.swarm.T.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "parley_dialer_dials_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			all += m.GetCounter().GetValue()
			if m.GetLabel()[0].GetValue() != "ok" {
				wasted += m.GetCounter().GetValue()
			}
		}
	}
	return all, wasted
}

// Town is a network whose nodes were told of one bootstrap peer and of nothing
// else. Each has an address group of its own.
type Town struct {
	*Swarm
	Boot   *Node   // has the chain, and is its only validator
	Live   []*Node // all but Boot
	target int     // of full outbound peers
}

// NewTown starts all of it at once.
func NewTown(s *Swarm, size, target int) *Town { return OpenTown(s, size, target, func(*Node) {}) }

// OpenTown is NewTown with a bootstrap peer that set changes before.
func OpenTown(s *Swarm, size, target int, set func(boot *Node)) *Town {
	t := &Town{Swarm: s, Boot: s.Add(), target: target}
	s.Genesis("network", t.Boot)
	set(t.Boot)
	t.Boot.Start()
	for range size - 1 {
		t.Settle()
	}
	return t
}

// Settle adds one more, that finds its own way.
func (t *Town) Settle() *Node {
	n := t.Add(t.Boot.Boots())
	n.cfg.P2P.TargetPeers = t.target
	n.Start()
	t.Live = append(t.Live, n)
	return n
}

// All is Boot and the others.
func (t *Town) All() []*Node { return append([]*Node{t.Boot}, t.Live...) }

// Filled waits until all have been at their target once, and tells how long it
// took; it fails the test where that is longer than within.
func (t *Town) Filled(what string, within time.Duration) {
	t.T.Helper()
	began := time.Now()
	at := map[*Node]time.Duration{}
	for len(at) < len(t.Live) && time.Since(began) < within {
		for _, n := range t.Live {
			// With everybody else connected there is nobody left to choose.
			if at[n] == 0 && (n.held() >= t.target || n.PeerCount().Connected >= len(t.Live)) {
				at[n] = time.Since(began) + 1
			}
		}
		time.Sleep(time.Second)
	}
	var took []time.Duration
	var groups []int
	dials, wasted := 0.0, 0.0
	for _, n := range t.Live {
		chosen := n.Chosen()
		if at[n] > 0 {
			took = append(took, at[n].Round(time.Second))
		} else {
			t.T.Errorf("%s: %s has %d outbound and %d peers after %v\n%s", what, n.Name, n.held(), n.PeerCount().Connected, within, n.Log.Tail(tailLines()))
		}
		seen := map[*Node]bool{}
		for _, o := range t.nodes {
			if slices.ContainsFunc(chosen, func(p parley.Peer) bool { return o.Node != nil && p.ID == o.ID() }) {
				seen[o] = true // each is its own group
			}
		}
		groups = append(groups, len(seen))
		a, w := n.dials()
		dials, wasted = dials+a, wasted+w
	}
	slices.Sort(took)
	slices.Sort(groups)
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	if len(took) > 0 {
		t.T.Logf("%s: %d of %d at target %d, median %v, max %v; groups: fewest %d, median %d; dials for slots %.0f, wasted %.0f; heap %d MiB",
			what, len(took), len(t.Live), t.target, took[len(took)/2], took[len(took)-1], groups[0], groups[len(groups)/2], dials, wasted, m.HeapAlloc>>20)
	}
}

// Asked looks on for a while, and fails the test where peers that were only asked
// are told as outbound ones, or nobody is told as asked.
func (t *Town) Asked(during time.Duration) {
	t.T.Helper()
	feelers := 0
	for end := time.Now().Add(during); time.Now().Before(end); time.Sleep(time.Second) {
		for _, n := range t.Live {
			outbound := 0
			for _, p := range n.Peers() {
				switch p.Slot {
				case "outbound":
					outbound++
				case "feeler":
					feelers++
				}
			}
			if outbound > t.target+1 { // an extra one
				t.T.Fatalf("%s has %d outbound peers, want %d at most", n.Name, outbound, t.target+1)
			}
		}
	}
	if feelers == 0 {
		t.T.Errorf("nobody was asked in %v", during)
	}
}

// OneTip commits a record and waits for it at everybody.
func (t *Town) OneTip(subject string, within time.Duration) time.Duration {
	t.T.Helper()
	t.Boot.Submit(subject, `{}`, parley.Committed)
	return t.Tip(subject, within)
}

// Tip waits for one head at everybody, and tells how long it took.
func (t *Town) Tip(what string, within time.Duration) time.Duration {
	t.T.Helper()
	began := time.Now()
	t.Agree(within, t.All()...)
	took := time.Since(began).Round(10 * time.Millisecond)
	t.T.Logf("%s: one tip after %v", what, took)
	return took
}

// Replace has half of the network leave, one by one, and as many others come.
func (t *Town) Replace(within time.Duration) {
	half := len(t.Live) / 2
	for range half {
		n := t.Live[0]
		t.Live = t.Live[1:]
		n.Stop()
		t.Settle()
		time.Sleep(within / time.Duration(half))
	}
}

// Healed is what a partition left behind.
type Healed struct {
	Tip    time.Duration // until there was one tip again
	Before int           // peers dialled on the other side before the cut
	Across int           // and two minutes after it
	All    int           // peers dialled by then
	Known  int           // entries of the books that are of the other side, by then
	Whole  int           // what that would be if everybody knew everybody
}

// Split cuts the last part of the nodes off for a time, while the others go on,
// and heals it. It fails the test where there is no one tip within a minute,
// and ends it where there is none within ten.
func (t *Town) Split(what string, part int, away time.Duration) (h Healed) {
	t.T.Helper()
	far := map[*Node]bool{}
	for _, n := range t.Live[len(t.Live)-part:] {
		far[n] = true
	}
	h.Before = t.across(far, func(n *Node) (ids []string) {
		for _, p := range n.Chosen() {
			ids = append(ids, p.ID.String())
		}
		return ids
	})
	t.Partition(t.Live[len(t.Live)-part:]...)
	for i := range 3 {
		time.Sleep(away / 4)
		t.Boot.Submit(what, `{"n":`+string(rune('0'+i))+`}`, parley.Committed)
	}
	time.Sleep(away / 4)
	t.Heal()
	if h.Tip = t.Tip(what, 10*time.Minute); h.Tip > time.Minute {
		t.T.Errorf("%s: one tip after %v, want a minute", what, h.Tip)
	}
	time.Sleep(2 * time.Minute)
	h.Across = t.across(far, func(n *Node) (ids []string) {
		for _, p := range n.Chosen() {
			ids = append(ids, p.ID.String())
		}
		h.All += len(ids)
		return ids
	})
	h.Known = t.across(far, func(n *Node) (ids []string) {
		book, _, err := n.AddressBook(parley.BookFilter{})
		if err != nil {
			t.T.Fatal(err)
		}
		for _, e := range book {
			ids = append(ids, e.ID.String())
		}
		return ids
	})
	h.Whole = 2 * part * (len(t.All()) - part)
	return h
}

// across counts what leads from one side to the other.
func (t *Town) across(far map[*Node]bool, ids func(*Node) []string) (all int) {
	side := map[string]bool{}
	for _, n := range t.All() {
		side[n.ID().String()] = far[n]
	}
	for _, n := range t.All() {
		for _, id := range ids(n) {
			if other, ok := side[id]; ok && other != far[n] {
				all++
			}
		}
	}
	return all
}

// Head is the hash of the node's head, "" while there is none.
func (n *Node) Head() string {
	if h := n.Node.Status().Head; h != nil {
		return h.Hash.String()
	}
	return ""
}
