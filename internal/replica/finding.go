package replica

import (
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/parley-p2p/parley/event"
)

// Finding is something of the node's state that an operator should know.
type Finding = event.FindingChanged

// Severities of a finding.
const (
	severityOK   = "ok"   // it is over
	severityWarn = "warn" // the node can be used, and somebody has to act
	severityCrit = "crit" // it can not be used as it should be: it is not ready
)

// findings are those that stand, by their title. Titles are of a closed set.
type findings struct {
	bus *event.Bus
	mu  sync.Mutex // guards of
	of  map[string]Finding
}

func newFindings(bus *event.Bus) *findings { return &findings{bus: bus, of: map[string]Finding{}} }

// set notes a finding, or the end of one, and tells of it if it is news.
func (f *findings) set(x Finding) {
	f.mu.Lock()
	old, stands := f.of[x.Title]
	if x.Severity == severityOK {
		delete(f.of, x.Title)
	} else {
		f.of[x.Title] = x
	}
	news := old.Severity != x.Severity && (stands || x.Severity != severityOK)
	f.mu.Unlock()
	if news {
		f.bus.Publish(x)
	}
}

func (f *findings) list() []Finding {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.SortedFunc(maps.Values(f.of), func(a, b Finding) int { return strings.Compare(a.Title, b.Title) })
}

// Findings lists what is wrong with the replica now, for status and health.
func (r *Replica) Findings() []Finding { return r.findings.list() }
