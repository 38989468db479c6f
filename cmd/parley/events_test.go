package main

import (
	"strings"
	"testing"
)

// Who goes on after an event is told whether anything is missing.
func TestFollowed(t *testing.T) {
	for _, c := range []struct {
		after, now uint64
		resumed    bool
		want       string
	}{
		{0, 9, false, "following what comes after event 9"},
		{5, 9, true, "going on after event 5: first what was missed, up to event 9"},
		{5, 9, false, "event 5 is no longer held: what came after it, up to event 9, is lost"},
		{12, 9, false, "event 12 is not known, the newest is 9"},
	} {
		if got := followed(c.after, c.now, c.resumed); !strings.HasPrefix(got, c.want) {
			t.Errorf("after %d of %d, resumed %v: %s", c.after, c.now, c.resumed, got)
		}
	}
}
