package chainsync

import "time"

// speed is per second.
type speed struct{ blocks, bytes float64 }

// rateSeconds is how far back a rate looks.
const rateSeconds = 10

// rate counts what was stored, by seconds since the first of it, so that the
// speed follows a change within seconds and does not jump at each block.
type rate struct {
	start   time.Time // of the first second; zero: nothing came lately
	last    time.Time
	seconds [rateSeconds]struct {
		second        int64
		blocks, bytes float64
	}
}

func (r *rate) add(now time.Time, bytes int64) {
	if r.start.IsZero() || now.Sub(r.last) >= rateSeconds*time.Second {
		*r = rate{start: now}
	}
	r.last = now
	second := int64(now.Sub(r.start) / time.Second)
	s := &r.seconds[second%rateSeconds]
	if s.second != second {
		s.second, s.blocks, s.bytes = second, 0, 0
	}
	s.blocks++
	s.bytes += float64(bytes)
}

// speed is zero until it can be told.
func (r *rate) speed(now time.Time) speed {
	if r.start.IsZero() || now.Sub(r.last) >= rateSeconds*time.Second {
		return speed{}
	}
	age := now.Sub(r.start)
	if age < 200*time.Millisecond {
		return speed{}
	}
	second := int64(age / time.Second)
	span := age.Seconds()
	if second >= rateSeconds { // the first of the seconds that count began then
		span -= float64(second - rateSeconds + 1)
	}
	var sum speed
	for _, s := range r.seconds {
		if s.second > second-rateSeconds {
			sum.blocks += s.blocks
			sum.bytes += s.bytes
		}
	}
	return speed{sum.blocks / span, sum.bytes / span}
}
