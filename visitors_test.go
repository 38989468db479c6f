package parley

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestVisitors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVisitors(0)
		for i := range 2 * defaultStreams {
			if ok, spam := v.enter("a"); ok != (i < defaultStreams) || spam {
				t.Errorf("stream %d: taken %t, spam %t", i, ok, spam)
			}
		}
		if ok, _ := v.enter("b"); !ok {
			t.Error("another peer is refused")
		}
		spam := func(rate int) (n int) {
			for range 10 * 20 {
				for range rate / 10 {
					if _, yes := v.enter("a"); yes {
						n++
					}
				}
				time.Sleep(100 * time.Millisecond)
			}
			return n
		}
		if n := spam(120); n > 0 {
			t.Errorf("120 a second for 20 s were spam %d times", n)
		}
		if n := spam(400); n == 0 {
			t.Error("400 a second for 20 s were no spam")
		}
		for range defaultStreams {
			v.leave("a")
		}
		v.leave("b")
		if len(v.of) != 0 {
			t.Errorf("%d peers are remembered", len(v.of))
		}
	})
}
