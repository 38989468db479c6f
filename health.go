package parley

import "github.com/parley-p2p/parley/event"

// tellHealth publishes that the node became ready, or is no longer, and returns
// what it is now.
func (n *Node) tellHealth(last string) string {
	h := n.Health()
	if h.Status != last {
		n.bus.Publish(event.HealthChanged{From: last, To: h.Status, Reasons: n.whyUnready(h)})
	}
	return h.Status
}

// whyUnready says of each check that fails why, with its code; of findings, each
// that keeps the node from being ready.
func (n *Node) whyUnready(h Health) []string {
	reasons := []string{}
	for _, c := range h.Checks {
		switch {
		case c.OK:
		case c.Name != "findings":
			reasons = append(reasons, c.reason())
		default:
			for _, f := range n.Findings() {
				if f.Severity == "crit" {
					reasons = append(reasons, findingReason(f))
				}
			}
		}
	}
	return reasons
}

// reason is why a check fails, with its code.
func (c Check) reason() string { return c.Name + ": " + c.Note + " [" + checkCodes[c.Name] + "]" }

func findingReason(f Finding) string { return f.Title + ": " + f.Why + " [" + f.Code + "]" }
