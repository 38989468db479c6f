package sidecar

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/internal/wire"
)

// all is what waits for a program.
func all(t *testing.T, x *Session) (items []ToApp) {
	t.Helper()
	for {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		item, err := x.Next(ctx)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			return items
		}
		if err != nil {
			t.Fatalf("after %d items: %v", len(items), err)
		}
		items = append(items, item)
	}
}

// Whatever peers do while a program does not read, its session stays: what is
// too much of theirs is dropped and counted, the program is told so, and what
// its own node publishes has a place.
func TestPeersEndNoSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := room(t, nil)
		h := txHello
		h.Topics = append(slices.Clone(h.Topics), Topic{Name: "free"})
		x := attach(t, s, h)
		const over = 500
		for i := range maxWaiting + over {
			if err := w.deliver(t.Context(), "free", fmt.Sprint(i)); err != nil { // it is relayed all the same
				t.Fatal(err)
			}
		}
		for range maxIncoming {
			_, _ = w.ask(t, other)
		}
		for i := range 2 * maxAsks {
			go func() { _ = w.deliver(t.Context(), "tx", fmt.Sprint(i)) }() // an error: nobody answers
		}
		synctest.Wait()
		if _, err := s.Publish(t.Context(), "free", []byte("mine")); err != nil {
			t.Fatal(err)
		}
		var got []string
		lost, asks, requests := uint64(0), 0, 0
		for _, item := range all(t, x) {
			switch i := item.(type) {
			case Message:
				got = append(got, string(i.Data))
			case Lost:
				lost += i.Messages
			case Validate:
				asks++
			case Incoming:
				requests++
			}
		}
		if len(got) != maxWaiting+1 || got[0] != "0" || got[maxWaiting] != "mine" || lost != over+maxAsks { // of so many it could not be asked
			t.Errorf("%d messages, told of %d lost", len(got), lost)
		}
		if asks != maxAsks || requests == 0 || requests >= maxIncoming {
			t.Errorf("%d asks, %d requests", asks, requests)
		}
		if n := valueOf(t, s.metrics.dropped, droppedMessage); n != over {
			t.Errorf("%v messages counted as dropped", n)
		}
		if n := valueOf(t, s.metrics.dropped, droppedRequest); n != float64(maxIncoming-requests) {
			t.Errorf("%v requests counted as dropped", n)
		}
		time.Sleep(RequestTime + time.Second)
		for range maxWaitingBytes>>20 + 1 {
			if err := w.deliver(t.Context(), "free", strings.Repeat("x", 1<<20)); err != nil {
				t.Fatal(err)
			}
		}
		s.mu.Lock()
		for l, held := range x.queue.held {
			if held.items > maxWaiting || held.bytes > maxWaitingBytes {
				t.Errorf("lane %d: %+v wait", l, held)
			}
		}
		s.mu.Unlock()
		if _, ok := s.Attached(); !ok {
			t.Error("the session has ended")
		}
		all(t, x)
		if x.queue.held != [lanes]struct{ items, bytes int }{} {
			t.Errorf("nothing waits, and %+v", x.queue.held)
		}
	})
}

// Peers that come and go while the program does not read leave at most one word
// each, and the program ends up with those that are there.
func TestNewsOfPeersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := room(t, nil)
		w.peers = []chain.Peer{{ID: other}, {ID: "leaves"}, {ID: "comes back"}}
		x := attach(t, s, txHello)
		if n := len(all(t, x)); n != 3 {
			t.Fatalf("told of %d peers", n)
		}
		for round := range 3 * maxWaiting {
			w.set(func() { // each round brings new ones, those of the one before are gone
				w.peers = []chain.Peer{{ID: other, Claimed: chain.Head{Height: uint64(round)}}}
				for i := range 4 {
					w.peers = append(w.peers, chain.Peer{ID: peer.ID(fmt.Sprint(round, "-", i))})
				}
			})
			time.Sleep(lookEvery)
		}
		w.set(func() {
			w.peers = []chain.Peer{{ID: other, Claimed: chain.Head{Height: 9}}, {ID: "comes back"}, {ID: "last"}}
		})
		time.Sleep(lookEvery)
		synctest.Wait()
		if n := len(x.news); n > 4 {
			t.Errorf("%d words wait for the program", n)
		}
		told := map[peer.ID]ToApp{}
		for _, item := range all(t, x) {
			switch i := item.(type) {
			case StatusOf:
				told[i.Peer] = i
			case PeerGone:
				told[i.Peer] = i
			}
		}
		if _, gone := told["leaves"].(PeerGone); !gone || len(told) != 4 {
			t.Errorf("told %+v", told)
		}
		if st, ok := told[other].(StatusOf); !ok || st.Head.Height != 9 {
			t.Errorf("told of the one that stayed: %+v", told[other])
		}
		if len(x.knows) != 3 {
			t.Errorf("it knows %d peers", len(x.knows))
		}
	})
}

// A flood of one kind does not keep the program from the other one.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := room(t, nil)
		x := attach(t, s, Hello{API: APIVersion, Topics: []Topic{{Name: "free"}}})
		for i := range 100 {
			w.peers = append(w.peers, chain.Peer{ID: peer.ID(fmt.Sprint(i))})
			if err := w.deliver(t.Context(), "free", fmt.Sprint(i)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(lookEvery)
		synctest.Wait()
		statuses := 0
		for range 20 {
			item, err := x.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, is := item.(StatusOf); is {
				statuses++
			}
		}
		if statuses != 10 {
			t.Errorf("of 20 items %d are news of peers", statuses)
		}
	})
}

// refused reports whether a request was refused at once, as busy.
func refused(t *testing.T, w *wing, p peer.ID) bool {
	t.Helper()
	c, _ := w.ask(t, p)
	if err := c.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	b, err := wire.ReadFrame(c, wire.MaxAppAnswer)
	if err != nil {
		return false
	}
	a, err := wire.DecodeAppAnswer(b)
	if err != nil || !a.Last || !strings.Contains(a.Error, "busy") {
		t.Fatalf("answer %+v, %v", a, err)
	}
	return true
}

// Peers that hold as many requests as they get leave places: to peers that have
// none, to other groups, and to those that we keep.
func TestPlacesForOthers(t *testing.T) {
	for _, x := range []struct {
		name   string
		peers  int
		group  func(i int) string
		most   int // that they get
		others int // newcomers of other groups that get a place afterwards
	}{
		{"one peer", 1, func(int) string { return "" }, 12, 44},
		{"sixteen peers of sixteen groups", 16, func(i int) string { return fmt.Sprint("g", i) }, 48, 8},
		{"sixteen peers of one group", 16, func(int) string { return "g" }, 19, 37},
		{"sixteen peers of a network of our own", 16, func(int) string { return "" }, 48, 8},
	} {
		t.Run(x.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := room(t, nil)
				attach(t, s, txHello)
				w.set(func() {
					w.peers = append(w.peers, chain.Peer{ID: "kept", Group: "g", Kept: true})
					for i := range x.peers {
						w.peers = append(w.peers, chain.Peer{ID: peer.ID(fmt.Sprint("p", i)), Group: x.group(i)})
					}
				})
				for range maxIncoming {
					for i := range x.peers {
						_, _ = w.ask(t, peer.ID(fmt.Sprint("p", i)))
					}
				}
				synctest.Wait()
				if n := len(s.incoming); n != x.most {
					t.Errorf("they hold %d places, want %d", n, x.most)
				}
				got := 0
				for i := range maxIncoming {
					if !refused(t, w, peer.ID(fmt.Sprint("newcomer ", i))) {
						got++
					}
				}
				if got != x.others {
					t.Errorf("%d newcomers get a place, want %d", got, x.others)
				}
				if refused(t, w, "kept") {
					t.Error("a peer that we keep has no place")
				}
				time.Sleep(RequestTime + time.Second)
				synctest.Wait()
				if len(s.incoming) != 0 {
					t.Errorf("%d requests are left after their time", len(s.incoming))
				}
			})
		})
	}
}

// Where what a program declares can not be served, what was served before is,
// and the one before stays attached.
func TestServesAllOrNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := room(t, nil)
		x := attach(t, s, txHello)
		serves := func(want ...string) {
			t.Helper()
			if got := w.serves(); !slices.Equal(got, want) {
				t.Errorf("served are %q, want %q", got, want)
			}
			if _, ok := s.topics["tx"]; ok != slices.Contains(want, "tx") {
				t.Errorf("topic tx is judged: %v", ok)
			}
		}
		next := Hello{API: APIVersion, Topics: []Topic{{Name: "a"}, {Name: "b"}}, Protocols: []string{"other"}}
		broken := errors.New("broken")
		w.set(func() { w.fail["serve b"] = broken })
		if _, err := s.Attach(t.Context(), next); !errors.Is(err, broken) {
			t.Errorf("attached: %v", err)
		}
		serves("tx")
		if _, ok := w.protocols["/parley/82bb8147/app/sync/1"]; !ok || len(w.protocols) != 1 {
			t.Errorf("protocols %v", w.protocols)
		}
		if name, ok := s.Attached(); !ok || s.app != x {
			t.Errorf("%q is attached: %v", name, ok)
		}
		w.set(func() { w.fail = map[string]error{"withdraw tx": broken} })
		if _, err := s.Attach(t.Context(), next); !errors.Is(err, broken) {
			t.Errorf("attached: %v", err)
		}
		serves("tx") // it could not be undone, for tx is in between
		w.set(func() { clear(w.fail) })
		y := attach(t, s, next)
		serves("a", "b")
		if _, err := x.Next(t.Context()); !errors.Is(err, ErrReplaced) {
			t.Errorf("replaced: %v", err)
		}
		w.set(func() { w.fail["withdraw a"] = broken })
		y.Close()
		time.Sleep(keepFor + time.Second) // the node goes on
		serves("a")
		w.set(func() { clear(w.fail) })
		time.Sleep(keepFor)
		serves()
		attach(t, s, next)
		serves("a", "b")
	})
}
