package gossip

import (
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	// peerRate is how many messages a second are read of one peer, of all topics,
	// control counted as one: twenty nodes that gossip records as fast as they do.
	peerRate  = 4_000
	rateSpare = 2 * time.Second // of it may come at once

	// mostAhead messages wait for their verdict, or are on their way to it, before
	// a peer that has its share of them is not read on.
	mostAhead  = 256
	leastAhead = 4 // of one peer, however many there are and however slow the verdicts
	lookAgain  = 20 * time.Millisecond
	lostAfter  = time.Second // what is to come and has not moved for so long was dropped
)

// A peer may have more ahead with each verdict that takes a tenth of its time or
// less, with each window of those that take half of it, and half as much when
// they take more than five eighths. A verdict most often has 500 ms.
func soon(most time.Duration) time.Duration   { return most / 10 }
func inTime(most time.Duration) time.Duration { return most / 2 }
func late(most time.Duration) time.Duration   { return most * 5 / 8 }

// pace says when a peer is read on. Who brings more than we take is held up by
// it, back to the program that publishes: pubsub itself would lose the rest, and
// tell nobody.
type pace struct {
	rate  float64 // messages a second
	ahead int     // of all peers together

	mu    sync.Mutex // guards below
	flows map[peer.ID]*flow
	busy  int       // flows that are ahead
	swept time.Time // flows of what was dropped
}

// flow is what a peer brings.
type flow struct {
	streams int       // that are read
	spare   float64   // messages that it may bring at once; negative = it has brought too many
	at      time.Time // of spare
	coming  int       // messages that are read and not judged yet; pubsub does not tell of all that it drops
	known   int       // of them, beyond one an RPC, in RPCs that pubsub has not told of
	moved   bool      // since it was looked at last, one came to its judge
	stirred bool      // since they were swept, one was read or came to its judge
	judged  int       // messages that are
	window  int       // of what may be ahead
	steady  int       // verdicts in time since it grew
	halved  time.Time // it, last
	wake    chan struct{}
}

func (f *flow) ahead() int { return f.coming + f.judged }

func newPace(rate int) *pace {
	if rate == 0 {
		rate = peerRate
	}
	return &pace{rate: float64(rate), ahead: mostAhead, flows: map[peer.ID]*flow{}}
}

func (p *pace) most() float64 { return p.rate * rateSpare.Seconds() }

// change has f do something with the flow of a peer, if there is one.
func (p *pace) change(from peer.ID, do func(f *flow)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.flows[from]
	if f == nil {
		return
	}
	was := f.ahead()
	do(f)
	switch is := f.ahead(); {
	case was == 0 && is > 0:
		p.busy++
	case was > 0 && is == 0:
		p.busy--
	}
	if is := f.ahead(); is < was && is < p.share(f) {
		select {
		case f.wake <- struct{}{}:
		default:
		}
	}
	if f.streams == 0 && f.ahead() == 0 {
		delete(p.flows, from)
	}
}

// open begins the reading of a stream, and close ends it.
func (p *pace) open(from peer.ID, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.flows[from]
	if f == nil {
		f = &flow{spare: p.most(), at: now, window: leastAhead, wake: make(chan struct{}, 1)}
		p.flows[from] = f
	}
	f.streams++
}

func (p *pace) close(from peer.ID) {
	p.change(from, func(f *flow) {
		if f.streams--; f.streams == 0 {
			f.coming, f.known = 0, 0
		}
	})
}

// read counts an RPC that was read whole with n messages, or 1, and came how many
// it has once that is known.
func (p *pace) read(from peer.ID, n int) {
	p.change(from, func(f *flow) {
		f.coming += n
		f.known += n - 1
		f.stirred = true
	})
}

func (p *pace) came(from peer.ID, n int, now time.Time) {
	p.change(from, func(f *flow) {
		f.fill(p, now)
		f.spare = max(-p.most(), f.spare-float64(max(1, n))) // a rest goes on when the connection has ended
		if f.streams > 0 {
			known := min(f.known, max(0, n-1))
			f.known -= known
			f.coming = max(0, f.coming+n-1-known)
		}
	})
}

func (f *flow) fill(p *pace, now time.Time) { // mu held
	f.spare = min(p.most(), f.spare+p.rate*max(0, now.Sub(f.at)).Seconds())
	f.at = now
}

// settled notes that n messages that came are not judged.
func (p *pace) settled(from peer.ID, n int) { p.change(from, func(f *flow) { f.next(n) }) }

func (f *flow) next(n int) {
	f.coming = max(0, f.coming-n)
	f.moved, f.stirred = true, true
}

// judge begins the validation of a message that came, which has most for it, the
// wait for a place included; 0 = for ever. The end MUST be called.
func (p *pace) judge(from peer.ID, most time.Duration, now time.Time) (end func()) {
	judged := false
	p.change(from, func(f *flow) {
		f.next(1)
		f.judged++
		judged = true
	})
	if !judged {
		return func() {}
	}
	return func() {
		end := time.Now()
		p.change(from, func(f *flow) {
			f.judged--
			f.took(end.Sub(now), most, end)
		})
	}
}

// took fits the window to a verdict that took d of most.
func (f *flow) took(d, most time.Duration, now time.Time) { // mu held
	switch {
	case most == 0 || d <= soon(most):
		f.window = min(mostAhead, f.window+1)
	case d <= inTime(most):
		if f.steady++; f.steady >= f.window {
			f.window, f.steady = min(mostAhead, f.window+1), 0
		}
	case d > late(most) && now.Sub(f.halved) > late(most):
		f.window, f.steady = max(leastAhead, f.window/2), 0
		f.halved = now
	}
}

func (p *pace) share(f *flow) int { return min(f.window, max(leastAhead, p.ahead/max(1, p.busy))) } // mu held

// rest tells for how long a peer is not to be read, or less: then rest is to be
// asked again, as when woken. 0 = read on.
func (p *pace) rest(from peer.ID, now time.Time) (time.Duration, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now.Sub(p.swept) >= lostAfter {
		p.sweep(now)
	}
	f := p.flows[from]
	f.fill(p, now)
	switch {
	case f.ahead() >= p.share(f):
		return lookAgain, f.wake // the share may grow too
	case f.spare < 0:
		return time.Duration(-f.spare/p.rate*float64(time.Second)).Round(time.Millisecond) + time.Millisecond, nil
	}
	return 0, nil
}

// room is how many messages of a peer that is read on may be read at once.
func (p *pace) room(from peer.ID) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.flows[from]
	return min(p.share(f)-f.ahead(), maxMessages)
}

// rested is for who was not woken: what was to come and has not moved was
// dropped.
func (p *pace) rested(from peer.ID) {
	p.change(from, func(f *flow) {
		if !f.moved {
			f.coming, f.known = 0, 0
		}
		f.moved = false
	})
}

// sweep has peers that bring nothing more take no share for what was dropped of
// what they brought. mu held.
func (p *pace) sweep(now time.Time) {
	p.swept = now
	for _, f := range p.flows {
		if f.coming > 0 && !f.stirred {
			if f.coming, f.known = 0, 0; f.judged == 0 {
				p.busy--
			}
		}
		f.stirred = false
	}
}
