package dialer_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func (l *lockedBuffer) tail(n int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(l.b.String()), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// metric2 reads a gauge with two labels.
func (n *node) metric2(t *testing.T, name, first, second string) float64 {
	t.Helper()
	families, err := n.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if l := m.GetLabel(); f.GetName() == name && len(l) == 2 && l[0].GetValue() == first && l[1].GetValue() == second {
				return m.GetGauge().GetValue()
			}
		}
	}
	return -1
}

// rmBook leaves of a book the anchors alone.
func rmBook(dir string) error { return os.Remove(filepath.Join(dir, "book.bin")) }
