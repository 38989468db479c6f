package chainsync

import (
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// The window of PERFORMANCE 7.2.
const (
	maxPeers    = 8 // that bodies are fetched from at once
	maxInFlight = 4 // body requests to one of them
	maxHeadAsks = 16

	pieceFirst = 256 << 10 // bytes of bodies in one request, before the peer is measured
	pieceMin   = 128 << 10
	pieceMax   = 2 << 20
	pieceSlack = 1.5 // times the bandwidth-delay product

	patience     = 2 * time.Second  // for a request at least, and between two of its bytes
	maxPatience  = 30 * time.Second // for a whole request
	slack        = 4                // times the expected time of a request
	assumedSpeed = 64 << 10         // bytes/s of a stream, before the peer is measured

	retryFirst = 250 * time.Millisecond // after a failure, doubled by each further one
	retryMost  = 30 * time.Second
	strikes    = 2                // silences in a row that rest a peer for retryMost
	liarRest   = 10 * time.Minute // after wrong bytes

	falseClaims = 3 // heads in a row to which a peer shows no way: then it lied
)

// source is a peer as the session sees it. Loop goroutine only.
type source struct {
	id       peer.ID
	asking   bool // for its head
	asked    bool // for its head, in this round
	askedAt  time.Time
	answered bool   // about its head, once
	inFlight int    // body requests
	has      uint64 // bodies up to this height, as far as we were told
	head     uint64 // its head, from its own mouth; target only when proven
	proven   bool   // head has a certificate that we could verify
	unmet    int    // heads in a row that it showed, and no header that leads there

	talk   backoff // for heads and headers
	load   backoff // for bodies: who answers quickly may still serve none
	speed  float64 // bytes/s of one stream, 0 = not measured
	rtt    time.Duration
	served int64 // bytes not yet credited
}

// backoff rests a peer that failed.
type backoff struct {
	failures int       // in a row
	silences int       // in a row
	rest     time.Time // nothing is asked before
}

func (b *backoff) ready(now time.Time) bool { return !now.Before(b.rest) }

func (b *backoff) good() { b.failures, b.silences = 0, 0 }

// failed notes an answer that did not come, or came too late if silent.
func (b *backoff) failed(now time.Time, silent bool) {
	b.failures++
	wait := min(retryFirst<<min(b.failures-1, 10), retryMost)
	if silent {
		if b.silences++; b.silences >= strikes {
			wait = retryMost
		}
	}
	b.rest = now.Add(wait)
}

// pieceBytes is how much to ask at once, so that maxInFlight requests fill the
// path to the peer.
func (s *source) pieceBytes() int64 {
	if s.speed == 0 {
		return pieceFirst
	}
	// speed is of one of maxInFlight streams, so the path has maxInFlight times
	// that, and each piece is the share of one stream
	return min(max(int64(pieceSlack*s.speed*s.rtt.Seconds()), pieceMin), pieceMax)
}

// limit is how long a request for that many bytes may take in all.
func (s *source) limit(bytes int64) time.Duration {
	speed := s.speed
	if speed == 0 {
		speed = assumedSpeed
	}
	expected := s.rtt + time.Duration(float64(bytes)/speed*float64(time.Second))
	return min(max(slack*expected, patience), maxPatience)
}

// measure notes how an answer came.
func (s *source) measure(took timing) {
	if took.first > 0 && (s.rtt == 0 || took.first < s.rtt) {
		s.rtt = took.first
	}
	if took.bytes < pieceMin/4 || took.whole <= 0 {
		return // too short to tell a speed
	}
	speed := float64(took.bytes) / took.whole.Seconds()
	if s.speed == 0 {
		s.speed = speed
	} else {
		s.speed = 0.7*s.speed + 0.3*speed
	}
}

// lied notes wrong bytes: nothing that the peer showed counts any more.
func (s *source) lied(now time.Time) {
	s.head, s.proven = 0, false
	s.talk.rest, s.load.rest = now.Add(liarRest), now.Add(liarRest)
}

// lacks notes that the peer does not have a height that we thought it had.
func (s *source) lacks(height uint64) {
	s.has = min(s.has, height-1)
}
