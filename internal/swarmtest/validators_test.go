package swarmtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/event"
)

// writers submit records at several nodes, all the time.
type writers struct {
	s    *Swarm
	stop context.CancelFunc
	wg   sync.WaitGroup

	since time.Time

	mu    sync.Mutex // guards below
	acked []chain.Hash
}

// write starts a writer at each of nodes.
func (s *Swarm) write(nodes ...*Node) *writers {
	ctx, cancel := context.WithCancel(s.T.Context())
	w := &writers{s: s, stop: cancel, since: time.Now()}
	for _, n := range nodes {
		w.wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				ack := parley.Committed
				if i%2 == 1 {
					ack = parley.Accepted
				}
				d := parley.Draft{Subject: fmt.Sprint(n.Name, " ", i%5), Body: fmt.Appendf(nil, `{"n":%d}`, i)}
				wait, cancel := context.WithTimeout(s.T.Context(), time.Minute) // a record begun is waited for
				r, err := n.Node.Submit(wait, d, ack)
				cancel()
				if err != nil {
					s.T.Errorf("%s: record %d: %v", n.Name, i, err)
					return
				}
				if ack == parley.Committed && r.Status != "committed" {
					s.T.Errorf("%s: record %d is %s after a minute", n.Name, i, r.Status)
				}
				w.mu.Lock()
				w.acked = append(w.acked, r.ID)
				w.mu.Unlock()
				time.Sleep(30 * time.Millisecond)
			}
		})
	}
	return w
}

// halt stops the writers, before their nodes.
func (w *writers) halt() {
	w.stop()
	w.wg.Wait()
}

// end stops the writers, and checks that each acknowledged record stands once,
// at the same place, in the chain of every node. It returns the longest time
// between two blocks meanwhile.
func (w *writers) end(nodes ...*Node) (longest time.Duration) {
	w.s.T.Helper()
	w.halt()
	w.s.Until("all records are committed", time.Minute, func() bool {
		for _, id := range w.acked {
			if r, err := nodes[0].Record(id); err != nil || r.Status != "committed" {
				return false
			}
		}
		return true
	})
	w.s.Agree(time.Minute, nodes...)
	ids := nodes[0].Records()
	for _, n := range nodes[1:] {
		if !slices.Equal(ids, n.Records()) {
			w.s.T.Errorf("%s and %s differ in their records", nodes[0].Name, n.Name)
		}
	}
	seen := map[string]int{}
	for _, id := range ids {
		seen[id]++
	}
	for _, id := range w.acked {
		if n := seen[id.String()]; n != 1 {
			w.s.T.Errorf("record %s was acknowledged and stands %d times in the chain", id, n)
		}
	}
	at, last := uint64(0), time.Time{}
	for cursor := ""; ; {
		blocks, next, err := nodes[0].Blocks(parley.Range{After: cursor, Limit: 1000})
		if err != nil {
			w.s.T.Fatal(err)
		}
		for _, b := range blocks {
			if wait := b.Time.Sub(last); b.Time.After(w.since) && last.After(w.since) && wait > longest {
				longest, at = wait, b.Height
			}
			last = b.Time
		}
		if cursor = next; cursor == "" {
			break
		}
	}
	w.s.T.Logf("%d records acknowledged, height %d, longest stall %v before block %d", len(w.acked), nodes[0].Node.Status().Head.Height, longest, at)
	return longest
}

// change asks n for a change, which has to be committed.
func (n *Node) change(req parley.ChangeRequest) parley.Change {
	t := n.swarm.T
	t.Helper()
	began := time.Now()
	c, err := n.tryChange(req)
	if err != nil || c.Status != parley.ChangeCommitted {
		t.Fatalf("%s: change %+v: %s, %v\n%s", n.Name, req, c.Status, err, n.Log.Tail(tailLines()))
	}
	t.Logf("%s: %d → %d validators at block %d after %v", n.Name, c.Before.N, c.After.N, *c.Height, time.Since(began))
	return c
}

func (n *Node) tryChange(req parley.ChangeRequest) (parley.Change, error) {
	ctx, cancel := context.WithTimeout(n.swarm.T.Context(), 30*time.Second)
	defer cancel()
	return n.ChangeValidators(ctx, req)
}

// join is a change that adds nodes.
func join(nodes ...*Node) (r parley.ChangeRequest) {
	for _, n := range nodes {
		r.Add = append(r.Add, parley.Candidate{Key: n.PublicKey().String()})
	}
	return r
}

// leave is a change that removes nodes.
func (n *Node) leave(nodes ...*Node) (r parley.ChangeRequest) {
	for _, v := range n.Validators() {
		if slices.ContainsFunc(nodes, func(n *Node) bool { return n.PublicKey() == v.Key }) {
			r.Remove = append(r.Remove, v.ID)
		}
	}
	return r
}

// orders reports whether n's engine runs.
func (n *Node) orders() bool {
	return slices.ContainsFunc(n.Validators(), func(v parley.Validator) bool { return v.Leader })
}

// settled waits until just these nodes order, and says how long that took.
func (s *Swarm) settled(within time.Duration, validators ...*Node) {
	s.T.Helper()
	began := time.Now()
	s.Until("the new set orders", within, func() bool {
		for _, n := range s.nodes {
			if n.Alive() && n.orders() != slices.Contains(validators, n) {
				return false
			}
		}
		return true
	})
	s.T.Logf("settled after %v", time.Since(began))
}

// chainOf starts a chain with one validator and followers of it, all caught up.
func (s *Swarm) chainOf(n int) []*Node {
	s.T.Helper()
	first := s.Add()
	first.Start()
	nodes := []*Node{first}
	for range n - 1 {
		var all []string
		for _, n := range nodes {
			all = append(all, n.Addr())
		}
		f := s.Add(Peers(all...))
		f.Start()
		nodes = append(nodes, f)
	}
	s.Until("all are ready", time.Minute, func() bool {
		return !slices.ContainsFunc(nodes, func(n *Node) bool { return n.Health().Status != "ready" })
	})
	return nodes
}

// From one validator to five and back, and up again, under load all the time:
// nothing that was acknowledged is lost, and ids never come back.
func TestValidatorsUpAndDown(t *testing.T) {
	Run(t, func(s *Swarm) {
		n := s.chainOf(5)
		sub := n[4].Events().Subscribe()
		defer sub.Close()
		w := s.write(n[0], n[2], n[4])
		defer w.halt()
		time.Sleep(time.Second)
		step := func(on *Node, req parley.ChangeRequest, now ...*Node) {
			t.Helper()
			on.change(req)
			s.settled(5*time.Second, now...)
			time.Sleep(2 * time.Second)
		}
		step(n[0], join(n[1], n[2]), n[:3]...)
		step(n[0], join(n[3]), n[:4]...)
		step(n[0], join(n[4]), n...)
		step(n[0], n[0].leave(n[3]), n[0], n[1], n[2], n[4])
		step(n[0], n[0].leave(n[2]), n[0], n[1], n[4])
		step(n[0], n[0].leave(n[1], n[4]), n[0])
		step(n[0], join(n[1], n[2]), n[:3]...)
		if stall := w.end(n...); stall > time.Second {
			t.Errorf("no block for %v", stall)
		}

		var ids []uint64
		for _, v := range n[3].Validators() {
			ids = append(ids, v.ID)
		}
		if want := []uint64{1, 6, 7}; !slices.Equal(ids, want) {
			t.Errorf("ids %v, want %v: an id came back", ids, want)
		}
		var got []string
		for _, e := range take(sub) {
			if c, ok := e.Data.(event.ValidatorsChanged); ok {
				got = append(got, fmt.Sprint("+", c.Added, "-", c.Removed, " q", c.Quorum))
			}
		}
		want := []string{"+[2 3]-[] q2", "+[4]-[] q3", "+[5]-[] q4", "+[]-[4] q3", "+[]-[3] q2", "+[]-[2 5] q1", "+[6 7]-[] q2"}
		if !slices.Equal(got, want) {
			t.Errorf("a follower told of %q, want %q", got, want)
		}
	})
}

func take(sub *event.Subscription) (all []event.Envelope) {
	for {
		events, _ := sub.Take(1000)
		if len(events) == 0 {
			return all
		}
		all = append(all, events...)
	}
}

// The leader goes under load; so does a node by its own word.
func TestLeaderIsRemoved(t *testing.T) {
	Run(t, func(s *Swarm) {
		n := s.chainOf(4)
		n[0].change(join(n[1:]...))
		s.settled(5*time.Second, n...)
		w := s.write(n...)
		defer w.halt()
		time.Sleep(time.Second)
		n[0].change(parley.ChangeRequest{AddAdmins: []string{n[2].ID().String()}})
		leader := s.nodes[slices.IndexFunc(s.nodes, func(n *Node) bool {
			return slices.ContainsFunc(n.Validators(), func(v parley.Validator) bool { return v.Leader && v.Key == n.PublicKey() })
		})]
		if leader != n[0] {
			t.Errorf("%s leads, want the first node", leader.Name)
		}
		n[0].change(n[0].leave(n[0])) // its own word
		s.settled(10*time.Second, n[1:]...)
		if role := n[0].Node.Status().Role; role != "follower" {
			t.Errorf("the removed leader is a %s", role)
		}
		time.Sleep(2 * time.Second)
		n[2].change(join(n[0])) // by the other admin
		s.settled(5*time.Second, n...)
		time.Sleep(time.Second)
		if stall := w.end(n...); stall > time.Second {
			t.Errorf("no block for %v", stall)
		}
	})
}

// A validator that is away is removed, and the rest survives another crash.
func TestLostValidatorIsRemoved(t *testing.T) {
	Run(t, func(s *Swarm) {
		n := s.chainOf(5)
		n[0].change(join(n[1:4]...))
		s.settled(5*time.Second, n[:4]...)
		n[3].Stop()
		w := s.write(n[0], n[4])
		defer w.halt()
		s.Until("its absence is seen", time.Minute, func() bool { return n[0].PeerCount().Connected == 3 })
		n[0].change(n[0].leave(n[3]))
		s.settled(10*time.Second, n[:3]...)
		n[2].Stop() // two of three are a quorum, two of four were none
		time.Sleep(5 * time.Second)
		n[0].Submit("two of three", `{}`, parley.Committed)
		n[2].Start()
		n[3].Start() // it learns that it was removed
		s.Until("it follows", time.Minute, func() bool { return n[3].Health().Status == "ready" && n[3].Node.Status().Role == "follower" })
		w.end(n...)
	})
}

// Of two changes of one epoch the first is taken, the other refused for good.
func TestChangesCompete(t *testing.T) {
	Run(t, func(s *Swarm) {
		n := s.chainOf(5)
		req := join(n[1], n[2])
		req.AddAdmins = []string{n[1].ID().String()}
		n[0].change(req)
		s.settled(5*time.Second, n[:3]...)
		w := s.write(n[0])
		defer w.halt()
		errs := make([]error, 2)
		changes := make([]parley.Change, 2)
		var wg sync.WaitGroup
		for i := range 2 {
			wg.Go(func() { changes[i], errs[i] = n[i].tryChange(join(n[3+i])) })
		}
		wg.Wait()
		won := slices.IndexFunc(errs, func(err error) bool { return err == nil })
		if won < 0 {
			t.Fatalf("both lost: %v", errs)
		}
		bad, ok := errors.AsType[*consortium.RecordError](errs[1-won])
		if !ok || bad.Reason != consortium.StaleConfig {
			t.Errorf("the loser: %+v, %v, want stale_config", changes[1-won], errs[1-won])
		}
		s.settled(5*time.Second, n[0], n[1], n[2], n[3+won])
		n[0].change(join(n[4-won])) // asked anew it goes
		s.settled(5*time.Second, n...)
		w.end(n...)
	})
}

// What is likely a mistake is refused with the flag that takes it.
func TestChangeIsRefused(t *testing.T) {
	Run(t, func(s *Swarm) {
		n := s.chainOf(4)
		away := s.Add()
		refused := func(on *Node, req parley.ChangeRequest, flag, text string) {
			t.Helper()
			c, err := on.tryChange(req)
			careful, _ := errors.AsType[*parley.CautionError](err)
			if careful == nil || careful.Flag != flag || !strings.Contains(err.Error(), text) {
				t.Errorf("%s: %+v: %s, %v, want a refusal for lack of %s with %q", on.Name, req, c.Status, err, flag, text)
			}
		}
		refused(n[0], join(n[1]), "accept_two", "two of two survive nothing")
		refused(n[0], join(n[1], away), "force", "not connected")
		for i := range 100 { // ten seconds' worth of the latecomer's link
			n[0].Submit(fmt.Sprint("x", i), `"`+strings.Repeat("x", 60_000)+`"`, parley.Accepted)
		}
		s.Agree(time.Minute, n...)
		late := s.Add(Peers(n[0].Addr()))
		late.mbps = 5
		late.Start()
		s.Until("the latecomer is connected", time.Minute, func() bool { return n[0].PeerCount().Connected == 4 })
		refused(n[0], join(n[1], late), "force", "behind the head")
		late.Stop()
		s.Agree(time.Minute, n...)
		n[0].change(join(n[1], n[2]))
		s.settled(5*time.Second, n[:3]...)
		refused(n[0], n[0].leave(n[2]), "accept_two", "3 → 2")
		n[2].Stop()
		s.Until("its absence is seen", time.Minute, func() bool { return n[0].PeerCount().Connected == 2 })
		req := n[0].leave(n[1])
		req.AcceptTwo = true
		refused(n[0], req, "force", "nothing more would be committed")
		n[1].Stop()
		s.Until("its absence is seen", time.Minute, func() bool { return n[0].PeerCount().Connected == 1 })
		refused(n[0], join(n[3]), "force", "no change can be committed")
	})
}

// Two admins of three have to approve: the first prepares, the second hands in.
func TestChangeNeedsTwo(t *testing.T) {
	Run(t, func(s *Swarm) {
		n := s.chainOf(4)
		n[0].change(parley.ChangeRequest{AddAdmins: []string{n[1].ID().String(), n[2].PublicKey().String()}, Threshold: 2})
		c, err := n[0].tryChange(join(n[1], n[3]))
		if err != nil || c.Status != parley.ChangeWaiting || c.Approvals != 1 || c.Threshold != 2 || c.QuorumBefore != 1 || c.QuorumAfter != 2 {
			t.Fatalf("by one of two: %+v, %v", c, err)
		}
		again, err := n[0].tryChange(parley.ChangeRequest{Change: c.Change})
		if err != nil || again.Status != parley.ChangeWaiting || again.Approvals != 1 {
			t.Errorf("by the same one again: %+v, %v", again, err)
		}
		_, err = n[3].tryChange(parley.ChangeRequest{Change: c.Change})
		if bad, ok := errors.AsType[*consortium.RecordError](err); !ok || bad.Reason != consortium.NotAuthorised {
			t.Errorf("by a node of no admin: %v", err)
		}
		s.Until("the second admin's node knows of the new admins", time.Minute, func() bool { v, err := n[2].Chain(); return err == nil && v.Threshold == 2 })
		done := n[2].change(parley.ChangeRequest{Change: c.Change})
		if done.Approvals != 2 {
			t.Errorf("%+v", done)
		}
		s.settled(5*time.Second, n[0], n[1], n[3])
		late, err := n[1].tryChange(parley.ChangeRequest{Change: c.Change})
		if err != nil || late.Status != parley.ChangeCommitted || *late.Height != *done.Height {
			t.Errorf("by the third, when it is done: %+v, %v", late, err)
		}
	})
}

// A follower that was promoted is a validator after a restart, too, and is not
// held to be a rebuilt one.
func TestPromotedRestarts(t *testing.T) {
	Run(t, func(s *Swarm) {
		n := s.chainOf(3)
		n[0].Submit("before", `{}`, parley.Committed)
		n[0].change(join(n[1], n[2]))
		n[1].Stop() // before it has surely voted
		n[1].Start()
		s.settled(10*time.Second, n...)
		n[2].Stop()
		n[0].Submit("with its vote", `{}`, parley.Committed)
		n[2].Start()
		s.settled(10*time.Second, n...)
		n[0].Stop()
		n[1].Submit("without the first", `{}`, parley.Committed)
		n[0].Start()
		s.Agree(time.Minute, n...)
	})
}

// Sets follow each other at random under load, from each other as far as may
// be, and in any order.
func TestSetsAtRandom(t *testing.T) {
	seeds := 1
	if n, err := strconv.Atoi(os.Getenv("SWARM_SEEDS")); err == nil {
		seeds = n
	}
	for seed := range uint64(seeds) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			Run(t, func(s *Swarm) { s.setsAtRandom(rand.New(rand.NewPCG(seed, 7)), 8) })
		})
	}
}

func (s *Swarm) setsAtRandom(rnd *rand.Rand, changes int) {
	n := s.chainOf(6)
	in := map[*Node]bool{n[0]: true}
	w := s.write(n[0], n[1], n[5])
	defer w.halt()
	for range changes {
		var req parley.ChangeRequest
		size := 0
		for _, v := range n {
			was := in[v]
			in[v] = rnd.IntN(3) > 0
			switch {
			case was && !in[v]:
				req.Remove = append(req.Remove, n[0].leave(v).Remove...)
			case !was && in[v]:
				req.Add = append(req.Add, join(v).Add...)
			}
			if in[v] {
				size++
			}
		}
		if size == 0 { // the first one stays
			in[n[0]] = true
			if id := n[0].leave(n[0]).Remove; len(id) > 0 {
				req.Remove = slices.DeleteFunc(req.Remove, func(r uint64) bool { return r == id[0] })
			} else {
				req.Add = join(n[0]).Add
			}
		}
		if len(req.Add)+len(req.Remove) == 0 {
			continue
		}
		req.AcceptTwo = true
		n[0].change(req)
		var now []*Node
		for _, v := range n {
			if in[v] {
				now = append(now, v)
			}
		}
		s.settled(5*time.Second, now...)
		time.Sleep(time.Duration(rnd.IntN(2000)) * time.Millisecond)
	}
	if stall := w.end(n...); stall > 5*time.Second {
		s.T.Errorf("no block for %v", stall)
	}
}
