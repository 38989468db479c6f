package parley

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/parley-p2p/parley/event"
)

// Finding is something of the node's state that an operator should know.
type Finding = event.FindingChanged

const findEvery = 5 * time.Second

// Findings lists what is wrong with the node now: first what is with its
// chain, then what is with its peers.
func (n *Node) Findings() []Finding {
	n.foundMu.Lock()
	defer n.foundMu.Unlock()
	if n.replica == nil {
		return slices.Clone(n.found)
	}
	return append(n.replica.Findings(), n.found...)
}

// watchPeers looks for what is wrong with the configured peers, until ctx ends.
func (n *Node) watchPeers(ctx context.Context) error {
	tick := time.NewTicker(findEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			n.foundMu.Lock()
			outside := n.outside
			n.foundMu.Unlock()
			n.setFound(slices.Concat(n.peerFindings(), n.privateFindings(), outside))
		}
	}
}

// FoundOutside takes over what those find who serve the node to others, such as
// its event sinks. It is shown and told within seconds, until they find nothing.
func (n *Node) FoundOutside(list []Finding) {
	n.foundMu.Lock()
	defer n.foundMu.Unlock()
	n.outside = list
}

// setFound takes over what is wrong, and tells of what began and what is over.
func (n *Node) setFound(next []Finding) {
	n.foundMu.Lock()
	last := n.found
	n.found = next
	n.foundMu.Unlock()
	named := func(list []Finding, title string) bool {
		return slices.ContainsFunc(list, func(f Finding) bool { return f.Title == title })
	}
	for _, f := range next {
		if !named(last, f.Title) {
			n.log.Warn("finding", "code", f.Code, "title", f.Title, "why", f.Why)
			n.bus.Publish(f)
		}
	}
	for _, f := range last {
		if !named(next, f.Title) {
			f.Severity, f.Why = "ok", "it is over"
			n.log.Info("finding over", "code", f.Code, "title", f.Title)
			n.bus.Publish(f)
		}
	}
}

func (n *Node) peerFindings() (list []Finding) {
	if others := n.othersUnnamed(); others > 0 {
		list = append(list, Finding{Code: "PLY-503", Severity: "warn", Title: "no_peers_named", Why: fmt.Sprintf(
			"the chain has %s beside this node, and the configuration names no peer: this node dials nobody, and waits for them to dial it; name one of them in PEERS, or with parley peers add HOST:PORT",
			plural(others, "validator", "validators"))})
	}
	if dead := n.disc.DeadNames(); len(dead) > 0 {
		var whys []string
		for _, d := range dead {
			whys = append(whys, fmt.Sprintf("%s: %s (asked at %s UTC)", d.Name, d.Why, d.At.UTC().Format("15:04")))
		}
		list = append(list, Finding{Code: "PLY-507", Severity: "warn", Title: "dns_no_peers", Why: fmt.Sprintf(
			"discovery.dns leads to no peers: %s; correct the name or its records, or take it out", strings.Join(whys, "; "))})
	}
	if a, on := n.alarms.Get(alarmBannedByOthers); on {
		list = append(list, Finding{Code: "PLY-514", Severity: "warn", Title: alarmBannedByOthers, Why: a.Text +
			": parley peers history and the events alarm.raised name them; likely this node sends what others hold to be invalid, so compare its version, chain and clock with theirs, see that its key runs nowhere else, and then ask an operator of theirs to lift the ban (parley bans remove " + n.host.ID().String() + ")"})
	}
	return list
}

// othersUnnamed counts the validators beside this node, where nothing says how
// to find any of them and none has come by itself.
func (n *Node) othersUnnamed() (others int) {
	c := n.cfg
	asked := len(c.P2P.StaticPeers) + len(c.P2P.BootstrapPeers) + len(c.Discovery.DNS)
	if _, err := n.genesis(); err != nil || asked > 0 || c.Discovery.MDNS || n.dial.Configured() > 0 || n.book.Len() > 0 || len(n.shake.Ready()) > 0 {
		return 0
	}
	for _, v := range n.Validators() {
		if v.Peer != n.host.ID() {
			others++
		}
	}
	return others
}

func plural(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}
