package parley

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/p2p/reputation"
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

// watchPeers looks for what is wrong with the configured peers, and whether the
// node is ready, until ctx ends.
func (n *Node) watchPeers(ctx context.Context) error {
	tick := time.NewTicker(findEvery)
	defer tick.Stop()
	health := n.Health().Status
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			n.foundMu.Lock()
			outside, unbanned := n.outside, n.unbanned
			n.foundMu.Unlock()
			n.setFound(slices.Concat(n.peerFindings(), bansLeftOut(unbanned), n.privateFindings(), outside))
			health = n.tellHealth(health)
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
			if !isAlarm(f) {
				n.log.Warn("finding", "code", f.Code, "title", f.Title, "why", f.Why)
			}
			n.bus.Publish(f)
		}
	}
	for _, f := range last {
		if !named(next, f.Title) {
			f.Severity, f.Why = "ok", "it is over"
			if !isAlarm(f) {
				n.log.Info("finding over", "code", f.Code, "title", f.Title)
			}
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
	if have := fileLimit(); have > 0 && have < n.filesNeeded() {
		list = append(list, Finding{Code: "PLY-106", Severity: "warn", Title: "files_low", Why: fmt.Sprintf(
			"this process may open %d files and needs %d for p2p.max_peers = %d: set LimitNOFILE=65536 in its unit, or ulimit -n before its start, or a smaller p2p.max_peers",
			have, n.filesNeeded(), n.cfg.P2P.MaxPeers)})
	}
	if cut := n.wantedButBanned(); len(cut) > 0 {
		list = append(list, Finding{Code: "PLY-510", Severity: "warn", Title: "ban_covers_static", Why: fmt.Sprintf(
			"static or trusted peers are banned: %s; lift it with parley bans remove, or take them off the list", few(cut))})
	}
	return append(list, n.alarmsFound()...)
}

// filesNeeded is how many open files the node has use for when all places are
// taken (DEFENCE 11).
func (n *Node) filesNeeded() uint64 { return 4*uint64(max(0, n.cfg.P2P.MaxPeers)) + 1024 }

// wantedButBanned names the peers that the operator wants and bans, with the
// ban that keeps each of them out.
func (n *Node) wantedButBanned() (list []string) {
	for _, p := range n.dial.Wanted() {
		targets := []reputation.Target{{Peer: p}}
		for _, a := range n.host.Peerstore().Addrs(p) {
			if t, err := reputation.AddrTarget(reputation.AddrOf(a)); err == nil && !slices.Contains(targets, t) {
				targets = append(targets, t)
			}
		}
		for _, t := range targets {
			if b, ok := n.bans.Check(t); ok {
				list = append(list, fmt.Sprintf("%s (ban of %s)", p, b.Target))
				break
			}
		}
	}
	return list
}

// othersUnnamed counts the validators beside this node, where nothing says how
// to find any of them and none has come by itself.
func (n *Node) othersUnnamed() (others int) {
	c := n.cfg
	asked := n.disc.Bootstraps() + len(c.Discovery.DNS)
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

// shutOut says which static peer does not let this node in, and why; "" where
// there is none.
func (n *Node) shutOut() string {
	for _, p := range n.dial.Static() {
		if p.ShutOut && p.LastError != "" {
			return fmt.Sprintf("%s: %s", p.Item, p.LastError)
		}
	}
	return ""
}

func plural(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}

// bansLeftOut tells of files of bans.import that found no place in a full list.
func bansLeftOut(files []string) []Finding {
	if len(files) == 0 {
		return nil
	}
	return []Finding{{Code: "PLY-116", Severity: "warn", Title: "bans_left_out", Why: fmt.Sprintf(
		"bans.import: %s; when there is room, parley config reload takes what is missing", strings.Join(files, "; "))}}
}
