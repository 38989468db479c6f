package swarmtest

import (
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"testing"
)

// forgiveHung lets a bubble end with what the engine's library left: some of its
// goroutines wait for each other for ever when it is stopped during a view
// change, which ends the process of a node, but not that of a test. Everything
// else that is left fails the test.
func forgiveHung(t *testing.T, why any) {
	t.Helper()
	if why == nil {
		return
	}
	if !strings.Contains(fmt.Sprint(why), "blocked goroutines remain") {
		panic(why)
	}
	stacks := make([]byte, 64<<20)
	forgiven, left := sortHung(string(stacks[:runtime.Stack(stacks, true)]))
	for _, g := range left {
		t.Errorf("left running:\n%s", g)
	}
	t.Logf("left behind: %d goroutines that hang in the engine's library", forgiven)
}

// sortHung counts the goroutines of the newest bubble that are blocked in the
// library, and lists those that are blocked elsewhere.
func sortHung(stacks string) (forgiven int, left []string) {
	newest := 0
	var all []string
	for g := range strings.SplitSeq(stacks, "\n\n") {
		switch b := bubbleOf(g); {
		case b == 0 || b < newest:
		case b > newest:
			newest, all = b, []string{g}
		default:
			all = append(all, g)
		}
	}
	for _, g := range all {
		if strings.Contains(blockedIn(g), "/SmartBFT/") {
			forgiven++
		} else {
			left = append(left, g)
		}
	}
	return forgiven, left
}

// bubbleOf is the number of a goroutine's bubble, 0 for none.
func bubbleOf(stack string) int {
	head, _, _ := strings.Cut(stack, "\n")
	_, tail, ok := strings.Cut(head, "synctest bubble ")
	if !ok {
		return 0
	}
	digits := strings.TrimRight(tail, "]:")
	digits, _, _ = strings.Cut(digits, ",")
	n, _ := strconv.Atoi(digits)
	return n
}

// blockedIn is the function that waits: the first that is not of the standard
// library.
func blockedIn(stack string) string {
	_, calls, _ := strings.Cut(stack, "\n")
	for line := range strings.Lines(calls) {
		if strings.HasPrefix(line, "\t") {
			continue
		}
		if path, _, _ := strings.Cut(line, "/"); strings.Contains(path, ".") && strings.Contains(line, "/") {
			return line
		}
	}
	return ""
}
