package attack

import (
	"log/slog"
	"testing"
	"time"
)

// The lines of E6 and E7 on which the pages stand, small: see `make attack`.

// A flood of invalid messages is cut within seconds and holds nothing up; a
// stock host goes on judging it, or the lab would show nothing.
func TestInvalidFloodIsCut(t *testing.T) {
	slog.SetDefault(slog.New(slog.DiscardHandler)) // simnet tells of each packet
	f := floodLine{bad: 5, rate: 500, during: 8 * time.Second}
	r := flooded(t, meshOurs, f, 1)
	clean, ok := p99(r.clean, r.wantClean)
	under, ok2 := p99(r.flood, r.wantFlood)
	t.Logf("p99 %v clean, %v under flood; %d bad messages judged of %d sent; cut after %v", clean, under, r.judged, r.sent, r.cuts)
	if !ok || !ok2 || under > 2*clean || len(r.flood) != r.wantFlood {
		t.Errorf("p99 %v clean and %v under flood, %d of %d came", clean, under, len(r.flood), r.wantFlood)
	}
	if r.uncut != 0 || len(r.cuts) != f.bad {
		t.Errorf("%d of %d bad peers were cut within %v", len(r.cuts), f.bad, cutWithin)
	}
	for _, c := range r.cuts {
		if c > cutWithin {
			t.Errorf("cut after %v", c)
		}
	}
	if r := flooded(t, meshB0, f, 1); r.uncut != f.bad || r.judged < 1000 {
		t.Errorf("a stock host judged %d bad messages and heard %d bad peers to the end", r.judged, r.uncut)
	}
}

// Who sends frames that are no RPC is out for good after two of them, and holds
// nothing up; a stock host takes its next stream again and again.
func TestMalformedFloodIsCut(t *testing.T) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	f := floodLine{what: floodMalformed, bad: 5, rate: 500, during: 8 * time.Second}
	r := flooded(t, meshOurs, f, 1)
	clean, ok := p99(r.clean, r.wantClean)
	under, ok2 := p99(r.flood, r.wantFlood)
	t.Logf("p99 %v clean, %v under flood; %d bad peers are left, they came back %d times", clean, under, r.still, r.back)
	if !ok || !ok2 || under > 2*clean || len(r.flood) != r.wantFlood {
		t.Errorf("p99 %v clean and %v under flood, %d of %d came", clean, under, len(r.flood), r.wantFlood)
	}
	if r.still != 0 || r.back > 2*f.bad {
		t.Errorf("%d of %d bad peers are connected, they came back %d times", r.still, f.bad, r.back)
	}
	if r := flooded(t, meshB0, f, 1); r.still != f.bad || r.back < 2*f.bad {
		t.Errorf("a stock host: %d of %d bad peers are connected, they came back %d times", r.still, f.bad, r.back)
	}
}

// Messages reach all honest nodes past droppers, half of all peers; and a
// dropper drops.
func TestCensorsArePassed(t *testing.T) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	run := func(percent int) (d time.Duration) {
		r := censored(t, meshOurs, 24, percent, 15*time.Second, 1)
		d, ok := p99(r.took, r.want)
		if !ok || len(r.took) != r.want {
			t.Errorf("%d %% droppers: %d of %d came", percent, len(r.took), r.want)
		}
		return d
	}
	clean, half := run(0), run(50)
	t.Logf("p99 %v without droppers, %v with half", clean, half)
	if half > 3*clean {
		t.Errorf("p99 %v without droppers and %v with half", clean, half)
	}
	inMesh(t, meshOurs, 1, func(l *meshLab) {
		a, b, d := l.node(), l.node(), l.dropper()
		l.greeter(d)
		a.dial(d)
		b.dial(d)
		time.Sleep(5 * time.Second)
		tr := l.talk([]*meshNode{a}, 0, time.Second, 5*time.Second)
		time.Sleep(10 * time.Second)
		if took, want := tr.arrivals(b); len(took) != 0 || want != 5 {
			t.Errorf("%d of %d messages came through a dropper", len(took), want)
		}
	})
}
