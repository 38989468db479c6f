package dialer

import (
	"fmt"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"
)

func TestRestBook(t *testing.T) {
	now := time.Now()
	a, other := ma.StringCast("/ip4/192.0.2.1/tcp/9906"), ma.StringCast("/ip4/192.0.2.2/tcp/9906")
	for _, tt := range []struct {
		class Class
		fails int           // after which it rests; 0 = never
		rest  time.Duration // how long
	}{
		{ClassUnreachable, 1, 5 * time.Minute}, {ClassIdentity, 1, 10 * time.Minute}, {ClassTimeout, 3, 5 * time.Minute}, {ClassRefused, 3, 2 * time.Minute},
		{ClassFull, 0, 0}, {ClassBanned, 0, 0}, {ClassNotAllowed, 0, 0},
	} {
		var b restBook
		for i := 1; i <= 4; i++ {
			b.failed("p", a, tt.class, now)
			awake, resting := b.split("p", []ma.Multiaddr{a, other}, now)
			if want := tt.fails > 0 && i >= tt.fails; (len(resting) == 1 && resting[0].Equal(a)) != want || len(awake)+len(resting) != 2 {
				t.Errorf("%s, failure %d: %v rests, want %v", tt.class, i, resting, want)
			}
		}
		if _, resting := b.split("q", []ma.Multiaddr{a}, now); len(resting) > 0 {
			t.Errorf("%s: it rests for another peer too", tt.class)
		}
		if _, resting := b.split("p", []ma.Multiaddr{a}, now.Add(tt.rest)); len(resting) > 0 {
			t.Errorf("%s: it rests for longer than %s", tt.class, tt.rest)
		}
		b.good("p", a)
		if _, resting := b.split("p", []ma.Multiaddr{a}, now); len(resting) > 0 {
			t.Errorf("%s: it rests though it was good", tt.class)
		}
	}
	var b restBook
	b.failed("p", a, ClassTimeout, now)
	b.failed("p", a, ClassTimeout, now)
	b.failed("p", a, ClassRefused, now) // another class begins anew
	b.failed("p", a, ClassTimeout, now)
	if _, resting := b.split("p", []ma.Multiaddr{a}, now); len(resting) > 0 {
		t.Error("three failures of two classes made it rest")
	}
}

func TestRestBookIsBounded(t *testing.T) {
	var b restBook
	now := time.Now()
	for i := range 3 * maxResting {
		b.failed("p", ma.StringCast(fmt.Sprintf("/ip4/192.0.2.1/tcp/%d", i+1)), ClassUnreachable, now.Add(time.Duration(i)*time.Microsecond))
		if n := len(b.addrs); n > maxResting {
			t.Fatalf("%d addresses are remembered, want at most %d", n, maxResting)
		}
	}
	last := ma.StringCast(fmt.Sprintf("/ip4/192.0.2.1/tcp/%d", 3*maxResting))
	if _, resting := b.split("p", []ma.Multiaddr{last}, now); len(resting) != 1 {
		t.Error("the newest was forgotten")
	}
}
