package reputation

// lines are how many points make of a peer what.
type lines struct{ watched, weakCap, discouraged, threshold int }

func linesOf(threshold int) lines {
	watched := max(1, threshold*2/10)
	return lines{watched: watched, weakCap: threshold * 3 / 10, discouraged: max(watched+1, threshold*4/10), threshold: threshold}
}

// most is how many points a peer can have.
func (l lines) most() int { return max(maxPoints, l.threshold) }

// SetThreshold sets how many points ban a peer, from its next charge on. It
// scales the other lines: a peer is watched at 0.2, weak reasons stop at 0.3
// and it is discouraged at 0.4 of it. Who is banned stays so, and who is
// discouraged until it is below the line of the watched.
func (b *Book) SetThreshold(points int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lines = linesOf(points)
	for _, e := range b.peers {
		if !e.sentenced { // one of more points than there can be now would never be charged again, nor banned
			e.points = min(e.points, b.most()-1)
		}
	}
}
