package gossip

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"time"

	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
)

// However many repeat themselves, there is room for a worse report.
func TestWeakReportsLeaveRoom(t *testing.T) {
	g := testGuard(t)
	for range 2 * cap(g.charges) {
		g.report(charge{"p", chain.Duplicate, "test"})
	}
	if n := len(g.charges); n != cap(g.charges)/2 {
		t.Errorf("%d weak reports wait, want %d", n, cap(g.charges)/2)
	}
	g.report(charge{"q", chain.Malformed, "test"})
	if n := len(g.charges); n != cap(g.charges)/2+1 {
		t.Error("a worse report found no room")
	}
}

func TestRepeatsAreBounded(t *testing.T) {
	r := newRepeats()
	now := time.Now()
	for i := range 3*maxRepeats + 10 {
		r.brings("p", fmt.Sprint(i), now)
		r.asks("p", fmt.Sprint(i), now)
	}
	if n := len(r.brought[0]) + len(r.brought[1]); n > 2*maxRepeats || n < maxRepeats {
		t.Errorf("%d messages are remembered", n)
	}
	if n := len(r.asked[0]) + len(r.asked[1]); n > 2*maxRepeats {
		t.Errorf("%d questions are remembered", n)
	}
	r.brings("p", "x", now.Add(repeatSpan))
	if r.brings("q", "x", now.Add(repeatSpan)) {
		t.Error("another peer's message counts")
	}
	if !r.brings("p", "x", now.Add(2*repeatSpan-1)) {
		t.Error("forgotten within the span")
	}
	r.brings("r", "y", now.Add(3*repeatSpan))
	r.brings("r", "z", now.Add(5*repeatSpan))
	if r.brings("p", "x", now.Add(7*repeatSpan)) {
		t.Error("remembered for ever")
	}
}

// A peer is read at its rate and no faster, after a burst, and one whose stream
// ends leaves nothing behind.
func TestPace(t *testing.T) {
	p, now := newPace(0), time.Now()
	p.open("p", now)
	read := 0
	for end := now.Add(time.Minute); now.Before(end); {
		if d, _ := p.rest("p", now); d > 0 {
			now = now.Add(d)
			continue
		}
		p.read("p", 1)
		p.came("p", 100, now)
		for range 100 {
			p.settled("p", 1)
		}
		read += 100
	}
	if most := int(peerRate * (time.Minute + rateSpare).Seconds()); read < most-peerRate || read > most+peerRate/10 {
		t.Errorf("%d messages were read in a minute, want %d", read, most)
	}
	now = now.Add(time.Hour)
	for range int(peerRate * rateSpare.Seconds()) { // control counts
		if d, _ := p.rest("p", now); d > 0 {
			t.Fatal("no burst after a rest")
		}
		p.came("p", 0, now)
	}
	p.came("p", 0, now)
	if d, _ := p.rest("p", now); d == 0 {
		t.Error("control without messages has no limit")
	}
	p.close("p")
	p.came("p", 1, now)
	if len(p.flows) != 0 {
		t.Errorf("%d flows are left", len(p.flows))
	}
}

// What waits for its verdict is shared by the peers that brought it: one of them
// leaves room for the others, and goes on when it has less than its share.
func TestPaceSharesValidation(t *testing.T) {
	p, now := newPace(0), time.Now()
	held := func(from peer.ID) (bool, <-chan struct{}) {
		d, wake := p.rest(from, now)
		return d > 0, wake
	}
	var ends []func()
	bring := func(from peer.ID) (n int) {
		p.open(from, now)
		p.flows[from].window = mostAhead
		for ; ; n++ {
			if over, _ := held(from); over {
				return n
			}
			p.read(from, 1)
			if p.came(from, 1, now); n%2 == 0 {
				ends = append(ends, p.judge(from, time.Second, now))
			} else { // it is on its way
				ends = append(ends, func() { p.settled(from, 1) })
			}
		}
	}
	if n := bring("a"); n != mostAhead {
		t.Errorf("%d messages of one peer alone are ahead", n)
	}
	if n := bring("b"); n != mostAhead/2 {
		t.Errorf("%d messages of the second peer are ahead", n)
	}
	_, wake := held("b")
	p.settled("b", 1)
	select {
	case <-wake:
	default:
		t.Error("not woken when it has less than its share")
	}
	if over, _ := held("b"); over {
		t.Error("held with less than its share")
	}
	for i := range mostAhead {
		bring(peer.ID(fmt.Sprint(i)))
	}
	if n := bring("c"); n != leastAhead {
		t.Errorf("%d messages of one of many are ahead", n)
	}
	for _, end := range ends {
		end()
	}
	if over, _ := held("a"); over {
		t.Error("held when nothing of it is ahead")
	}
	for from := range p.flows {
		p.close(from)
	}
	if len(p.flows) != 0 || p.busy != 0 {
		t.Errorf("%d flows are left, %d of them busy", len(p.flows), p.busy)
	}
}

// A peer has more ahead while verdicts come in time, less when they are late, and
// a few however late they are. One without a deadline is never late.
func TestPaceFollowsVerdicts(t *testing.T) {
	const most = time.Second
	f, now := &flow{window: leastAhead}, time.Now()
	verdicts := func(n int, d, most time.Duration) {
		for range n {
			f.took(d, most, now)
		}
	}
	verdicts(leastAhead, most/2, most)
	if f.window != leastAhead+1 {
		t.Errorf("%d ahead after a window of verdicts in time", f.window)
	}
	verdicts(mostAhead, most/10, most)
	if f.window != mostAhead {
		t.Errorf("%d ahead when verdicts come soon", f.window)
	}
	verdicts(2*mostAhead, most*5/8, most)
	if f.window != mostAhead {
		t.Error("less ahead though none is late")
	}
	verdicts(mostAhead, most, most) // that were ahead
	if f.window != mostAhead/2 {
		t.Errorf("%d ahead after some that were late together", f.window)
	}
	for range 20 {
		now = now.Add(most)
		verdicts(1, most, most)
	}
	if f.window != leastAhead {
		t.Errorf("%d ahead when all are late", f.window)
	}
	verdicts(mostAhead, time.Minute, 0)
	if f.window != mostAhead {
		t.Errorf("%d ahead where a verdict has all the time", f.window)
	}
}

// What pubsub drops and tells nobody of holds up its peer for a moment only.
func TestPaceForgetsWhatIsDropped(t *testing.T) {
	p, now := newPace(0), time.Now()
	p.open("p", now)
	p.read("p", 1)
	p.came("p", 2*mostAhead, now)
	for range mostAhead / 2 {
		p.settled("p", 1)
	}
	p.rested("p")
	if d, _ := p.rest("p", now); d == 0 {
		t.Error("read on though what it brought moves on")
	}
	p.rested("p")
	if d, _ := p.rest("p", now); d > 0 {
		t.Error("held up by what was dropped")
	}
}

// Who has brought what pubsub passes over has no share of what may be ahead, nor
// who has brought something long ago that was dropped.
func TestPaceSharesAmongWhoBrings(t *testing.T) {
	inLab(t, 1, 6, func(t *testing.T, l *lab) {
		l.serveAll()
		n := l.nodes[0]
		look := func() (flows, busy int) {
			n.pace.mu.Lock()
			defer n.pace.mu.Unlock()
			return len(n.pace.flows), n.pace.busy
		}
		for i, bring := range []func(network.Stream){
			func(s network.Stream) { _, _ = s.Write([]byte{0}) },
			func(s network.Stream) {
				l.send(s, &pb.RPC{Publish: []*pb.Message{{Topic: new("other"), Data: []byte("x")}}})
			},
			func(s network.Stream) { l.push(s, "record", make([][]byte, maxMessages+1)...) },
			func(s network.Stream) { l.push(s, "record", []byte("a"), []byte("a"), []byte("b")) },
			func(s network.Stream) { l.send(s, &pb.RPC{Control: &pb.ControlMessage{}}) },
		} {
			l.connect(1+i, 0)
			bring(l.stream(l.hosts[1+i], n))
			time.Sleep(100 * time.Millisecond)
			if _, busy := look(); busy > 0 {
				t.Errorf("peer %d takes a share", i)
			}
		}
		l.connect(6, 0)
		s := l.stream(l.hosts[6], n)
		l.send(s, &pb.RPC{Publish: slices.Repeat([]*pb.Message{{}}, 30_000)})
		time.Sleep(100 * time.Millisecond)
		if flows, _ := look(); flows != 6 {
			t.Fatalf("%d peers bring", flows)
		}
		_ = s.Conn().Close()
		time.Sleep(rateSpare + time.Second)
		if flows, _ := look(); flows != 5 {
			t.Errorf("%d peers bring after one is gone", flows)
		}
	})
	p, now := newPace(0), time.Now()
	for i := range 2 * mostAhead {
		from := peer.ID(fmt.Sprint(i))
		p.open(from, now)
		p.read(from, 1)
	}
	p.open("p", now)
	p.flows["p"].window = mostAhead
	for ; p.flows["p"].ahead() < leastAhead; p.read("p", 1) {
	}
	if d, _ := p.rest("p", now); d == 0 {
		t.Error("more than a share among all who bring")
	}
	now = now.Add(lostAfter)
	p.read("p", 1)
	p.rest("p", now)
	now = now.Add(lostAfter)
	p.read("p", 1)
	if d, _ := p.rest("p", now); d > 0 || p.busy != 1 {
		t.Errorf("%d peers take a share for what was dropped", p.busy-1)
	}
}

// Whatever the pieces in which bytes come, the length of the last RPC is known.
func FuzzFrame(f *testing.F) {
	f.Add([]byte{3, 1, 2, 3, 0x80, 1}, 1)
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}, 2)
	f.Fuzz(func(t *testing.T, b []byte, step int) {
		var whole, pieces frame
		whole.pass(b)
		step = max(1, step%16)
		for i := 0; i < len(b); i += step {
			pieces.pass(b[i:min(i+step, len(b))])
		}
		if whole != pieces {
			t.Fatalf("%+v in one, %+v in pieces", whole, pieces)
		}
		if n, k := binary.Uvarint(b); k > 0 {
			var head frame
			if head.pass(b[:k]); head.size != n || head.left != n {
				t.Fatalf("length %+v, want %d", head, n)
			}
		}
	})
}
