package chainsync

import (
	"testing"
	"time"

	"github.com/parley-p2p/parley/consortium"
)

// TestWindowBound: what is asked for and not appended stays within the buffer,
// and the block that is next always has room.
func TestWindowBound(t *testing.T) {
	const body = 8 << 20
	r := &run{}
	for h := uint64(1); h <= 100; h++ {
		r.links = append(r.links, link{sealed: sealed{header: &consortium.Header{Height: h, BodyBytes: body}}})
	}
	var w window
	w.reset(0)
	asked := 0
	for p := w.cut(r, pieceFirst); p != nil; p = w.cut(r, pieceFirst) {
		asked += len(p.links)
	}
	if w.held > maxBuffer || asked != maxBuffer/body-1 { // each body costs a little more than its bytes
		t.Errorf("%d bodies asked for, %d bytes held", asked, w.held)
	}
	for tip := uint64(1); tip < 100; tip++ {
		w.pass(tip)
		for w.cut(r, pieceFirst) != nil {
			asked++
		}
		if w.held > maxBuffer || w.held == 0 || w.next <= tip+1 {
			t.Fatalf("at tip %d: %d bytes held, next is %d", tip, w.held, w.next)
		}
	}
	if w.pass(100); asked != 100 || w.held != 0 || len(w.cost) != 0 {
		t.Errorf("%d asked for, %d bytes held at the end", asked, w.held)
	}
}

func TestPieceFollowsPath(t *testing.T) {
	for _, x := range []struct {
		speed float64
		rtt   time.Duration
		want  int64
		limit time.Duration
	}{
		{0, 0, pieceFirst, 16 * time.Second},                  // not measured: patient
		{50 << 10, 20 * time.Millisecond, pieceMin, 0},        // slow
		{4 << 20, 100 * time.Millisecond, 629145, patience},   // four of them fill 16 MiB/s at 100 ms
		{1 << 30, 100 * time.Millisecond, pieceMax, patience}, // fast
	} {
		s := &source{speed: x.speed, rtt: x.rtt}
		if got := s.pieceBytes(); got != x.want {
			t.Errorf("%+v: piece of %d bytes", x, got)
		}
		if got := s.limit(pieceFirst); x.limit != 0 && got != x.limit {
			t.Errorf("%+v: limit %s", x, got)
		}
	}
}
