// Package tally owns counts of what happened lately: by whom, so many are kept,
// and for so long.
package tally

import "time"

// Tally counts by key. The zero Tally keeps nothing; see [New]. It is not safe
// for concurrent use.
type Tally[K comparable] struct {
	life time.Duration
	most int
	list []mark[K] // oldest first
	by   map[K]int
}

type mark[K comparable] struct {
	key K
	at  time.Time
}

// New returns a tally that forgets what is life old, and the oldest where there
// are most already.
func New[K comparable](life time.Duration, most int) *Tally[K] {
	return &Tally[K]{life: life, most: most, by: map[K]int{}}
}

// Add counts one of key. Times MUST NOT go back from call to call.
func (t *Tally[K]) Add(key K, now time.Time) {
	t.Forget(now)
	for len(t.list) > 0 && len(t.list) >= t.most {
		t.drop()
	}
	if t.most > 0 {
		t.by[key]++
		t.list = append(t.list, mark[K]{key, now})
	}
}

// Of is how many of key are kept; it forgets nothing.
func (t *Tally[K]) Of(key K) int { return t.by[key] }

// Len is how many are kept of all keys.
func (t *Tally[K]) Len() int { return len(t.list) }

// Keys is how many keys are kept.
func (t *Tally[K]) Keys() int { return len(t.by) }

// Forget drops what is too old.
func (t *Tally[K]) Forget(now time.Time) {
	for len(t.list) > 0 && now.Sub(t.list[0].at) >= t.life {
		t.drop()
	}
}

func (t *Tally[K]) drop() {
	key := t.list[0].key
	if t.by[key]--; t.by[key] == 0 {
		delete(t.by, key)
	}
	t.list = t.list[1:]
}
