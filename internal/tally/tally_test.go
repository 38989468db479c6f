package tally

import (
	"fmt"
	"testing"
	"time"
)

// It counts by key, forgets what is old, and keeps no more than it may.
func TestTally(t *testing.T) {
	start := time.Unix(1e9, 0)
	c := New[string](time.Minute, 4)
	want := func(when string, all int, by map[string]int) {
		t.Helper()
		if c.Len() != all || c.Keys() != len(by) {
			t.Errorf("%s: %d of %d keys, want %d of %d", when, c.Len(), c.Keys(), all, len(by))
		}
		for key, n := range by {
			if c.Of(key) != n {
				t.Errorf("%s: %d of %s, want %d", when, c.Of(key), key, n)
			}
		}
	}
	want("empty", 0, nil)
	for i, key := range []string{"a", "b", "a"} {
		c.Add(key, start.Add(time.Duration(i)*time.Second))
	}
	want("three", 3, map[string]int{"a": 2, "b": 1})
	c.Forget(start.Add(time.Minute - 1))
	want("just before a minute", 3, map[string]int{"a": 2, "b": 1})
	c.Forget(start.Add(time.Minute))
	want("after a minute", 2, map[string]int{"a": 1, "b": 1})
	c.Add("c", start.Add(61*time.Second))
	want("one more", 2, map[string]int{"a": 1, "c": 1})
	for i := range 100 {
		c.Add(fmt.Sprint(i), start.Add(62*time.Second))
	}
	want("the most", 4, map[string]int{"96": 1, "97": 1, "98": 1, "99": 1})
	c.Forget(start.Add(time.Hour))
	want("long after", 0, nil)
}
