package sink

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-p2p/parley/config"
)

// Where sinks that were read again cannot start, those that follow them miss
// nothing that the ring holds, and are told of the rest; so is the next start.
func TestHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, s := t.TempDir(), &shelf{}
		r := startShelf(t, 64, dir, allTypes, s)
		options := Options{Node: "n1", Boot: "b", Dir: dir, Registerer: r.reg}
		run := func(s *Sinks) (stop func()) {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- s.Run(ctx) }()
			return func() {
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
		}
		hold := func(after *Sinks, publish int) *Sinks {
			options.After = after
			held := Hold(r.bus, options)
			stop := run(held)
			r.publish(1, publish)
			time.Sleep(2 * saveEvery)
			stop()
			return held
		}
		goOn := func(after *Sinks) (*Sinks, func()) {
			t.Helper()
			options.After = after
			next, err := New([]config.Sink{allTypes}, r.bus, options)
			if err != nil {
				t.Fatal(err)
			}
			next.sinks[0].connect = func() (broker, error) { return s, nil }
			stop := run(next)
			synctest.Wait()
			return next, stop
		}
		r.publish(1, 3)
		synctest.Wait()
		r.stop()
		next, stop := goOn(hold(hold(r.Sinks, 10), 10)) // two in a row that cannot start
		if got := s.seqs(); len(got) != 23 || got[22]-got[0] != 22 {
			t.Errorf("numbers %v", got)
		}
		stop()
		s.set(func() { s.stored = nil })
		next, stop = goOn(hold(next, 100)) // more than the ring holds
		if got := s.stored; len(got) != 65 || !strings.Contains(string(got[0].data), `"type":"lagged","data":{"dropped":36,`) {
			t.Errorf("%d events, the first %s", len(got), got[0].data)
		}
		stop()
		s.set(func() { s.stored = nil })
		hold(next, 7)
		time.Sleep(time.Minute)
		startShelf(t, 64, dir, allTypes, s)
		synctest.Wait()
		if got := s.stored; len(got) != 1 || !strings.Contains(string(got[0].data), `"type":"lagged","data":{"dropped":7,`) {
			t.Errorf("after the next start: %+v", got)
		}
	})
}
