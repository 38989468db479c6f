package swarmtest

import (
	"bytes"
	"context"
	"slices"
	"testing"
	"time"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
)

// write lets the authors write from the next epoch on, or everybody where none
// is named, by a change that on takes.
func (o *operator) write(on *Node, authors ...consortium.PublicKey) {
	t := o.s.T
	t.Helper()
	next, err := consortium.DecodeConfig(o.config.Encode()) // a copy
	if err != nil {
		t.Fatal(err)
	}
	next.Epoch++
	next.AuthorPolicy, next.Authors = consortium.Open, authors
	if len(authors) > 0 {
		next.AuthorPolicy = consortium.Listed
	}
	o.sign(next)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if r, err := on.Node.Submit(ctx, parley.Draft{Raw: o.raw}, parley.Committed); err != nil || r.Status != "committed" {
		t.Fatalf("change of the authors: %s, %v", r.Status, err)
	}
	o.config, o.next = next, nil
}

func sorted(keys ...consortium.PublicKey) []consortium.PublicKey {
	slices.SortFunc(keys, func(a, b consortium.PublicKey) int { return bytes.Compare(a[:], b[:]) })
	return keys
}

// TestAuthorListedAgain: a node accepts records of an author whom the chain
// takes off its list meanwhile. They wait, also over a restart, and the epoch
// that lists the author again commits them; one whose time passes before that
// gets its one final rejection.
func TestAuthorListedAgain(t *testing.T) {
	Run(t, func(s *Swarm) {
		a, b := s.Add(), s.Add()
		s.Genesis("authors", a, b)
		f := s.Add(Peers(a.Addr()))
		for _, n := range s.nodes {
			n.Start()
		}
		a.Submit("first", `{}`, parley.Committed)
		s.Agree(30*time.Second, a, b, f)
		sub := f.Events().Subscribe()
		defer sub.Close()
		s.Partition(f)
		var told submitted
		told.hand(f, draft("waits", 0), parley.Accepted, time.Minute)
		told.hand(f, draft("ends", 4), parley.Accepted, time.Minute)
		if len(told.accepted) != 2 {
			t.Fatalf("%d accepted", len(told.accepted))
		}
		waits, ends := told.accepted[0], told.accepted[1]
		o := newOperator(s, nil)
		o.write(a, a.PublicKey())
		s.Heal()
		s.Agree(2*time.Minute, a, b, f)
		held := func(id chain.Hash) bool {
			r, err := f.Record(id)
			return err == nil && r.Status == "pending" && r.Reason != nil && *r.Reason == string(consortium.UnknownAuthor)
		}
		s.Until("f tells why they wait", time.Minute, func() bool { return held(waits) && held(ends) })
		r, err := f.Record(waits)
		if err != nil {
			t.Fatal(err)
		}
		if r, err = f.Node.Submit(t.Context(), parley.Draft{Raw: r.Raw}, parley.Accepted); err != nil || r.Status != "pending" {
			t.Errorf("handed in again: %s, %v", r.Status, err)
		}
		for _, subject := range []string{"three", "four", "five"} {
			a.Submit(subject, `{}`, parley.Committed)
		}
		s.Agree(time.Minute, a, b, f)
		s.Until("one has its end", time.Minute, func() bool {
			r, err := f.Record(ends)
			return err == nil && r.Status == "rejected" && *r.Reason == string(consortium.Expired)
		})
		if n := rejections(t, sub); n != 1 || !held(waits) {
			t.Errorf("%d final rejections, want one; the other waits: %t", n, held(waits))
		}
		f.Stop()
		f.Start()
		again := f.Events().Subscribe()
		defer again.Close()
		s.Agree(time.Minute, a, b, f)
		if !held(waits) {
			t.Error("after a restart it does not wait")
		}
		o.write(a, sorted(a.PublicKey(), f.PublicKey())...)
		s.Until("the epoch that lists f commits it", time.Minute, func() bool {
			r, err := f.Record(waits)
			return err == nil && r.Status == "committed" && r.Reason == nil
		})
		s.Agree(time.Minute, a, b, f)
		if n := rejections(t, again); n != 0 {
			t.Errorf("%d final rejections after the restart", n)
		}
		checkTold(t, &told, f, a, b)
	})
}
