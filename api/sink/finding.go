package sink

import (
	"fmt"
	"strings"
	"time"

	"github.com/parley-p2p/parley/event"
)

// Code is that of the finding that sinks are down.
const Code = "PLY-113"

const downAfter = 30 * time.Second // shorter outages are news to nobody

// findings is one where sinks have taken nothing for long, or none.
func (s *Sinks) findings() []event.FindingChanged {
	var whys []string
	for _, k := range s.sinks {
		if why := k.trouble(time.Now()); why != "" {
			whys = append(whys, why)
		}
	}
	if len(whys) == 0 {
		return nil
	}
	return []event.FindingChanged{{Code: Code, Severity: "warn", Title: "sink_down", Why: strings.Join(whys, "; ") +
		": what waits is kept while the node runs and api.event_buffer holds; beyond, blocks and records are told from the ledger, and the rest is counted as lost"}}
}

// trouble says what is wrong, or "".
func (k *sink) trouble(now time.Time) string {
	k.mu.Lock()
	down, since := k.down, k.since
	k.mu.Unlock()
	if down == nil || now.Sub(since) < downAfter {
		return ""
	}
	return fmt.Sprintf("%s takes no events since %s UTC, %d wait: %v", k.name, since.UTC().Format("15:04:05"), k.behind(), down)
}
