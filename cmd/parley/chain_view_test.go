package main

import (
	"strings"
	"testing"

	"github.com/parley-p2p/parley"
)

// The chain of another program has no validators and no records to show.
func TestViewChain(t *testing.T) {
	for _, n := range []int{0, 4} {
		c := parley.Chain{BlockCount: 3}
		c.Validators.N = n
		var lines []string
		for _, row := range viewChain(c).rows {
			lines = append(lines, strings.Join(row, " "))
		}
		text := strings.Join(lines, "\n")
		for _, word := range []string{"validators", "record"} {
			if strings.Contains(text, word) != (n > 0) {
				t.Errorf("of %d validators:\n%s", n, text)
			}
		}
		if !strings.Contains(text, "3 blocks") {
			t.Error(text)
		}
	}
}
