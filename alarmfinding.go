package parley

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/parley-p2p/parley/event"
)

const maxEvidence = 400 // bytes of it in a finding

// alarmFindings tells of each alarm under which code it is a finding, and the
// mend. None is crit: who can raise an alarm from outside must not be able to
// take the node out of /readyz.
var alarmFindings = map[string]struct{ code, title, mend string }{
	"clock_skew":         {"PLY-103", "clock_skew_peers", "set the clock: timedatectl set-ntp true"},
	"no_inbound":         {"PLY-501", "no_inbound", "forward p2p.port, TCP and UDP, on the router and open it on the firewall, or name another address in p2p.advertise"},
	"low_peers":          {"PLY-502", "low_peers", "parley addrs list and parley peers history tell how dials fail; name more peers in PEERS or p2p.bootstrap_peers"},
	"low_diversity":      {"PLY-511", "low_diversity", "name peers of other networks in PEERS, p2p.bootstrap_peers or discovery.dns"},
	alarmBannedByOthers:  {"PLY-514", alarmBannedByOthers, "parley peers history and the events alarm.raised name them; likely this node sends what others hold to be invalid, so compare its version, chain and clock with theirs, see that its key runs nowhere else, and then ask an operator of theirs to lift the ban (parley bans remove with the peer id of this node)"},
	"possible_eclipse":   {"PLY-515", "possible_eclipse", "compare the head with that of a node you trust, and name one or more of them in PEERS; parley peers list shows who is connected"},
	"book_poisoned":      {"PLY-516", "book_poisoned", "name peers that you trust in PEERS; parley addrs export lists the book with who told of each"},
	"inbound_flood":      {"PLY-517", "inbound_flood", "places of static and outbound peers are safe; parley peers history names who comes, and a range of them is kept out by parley bans add RANGE"},
	"sybil_region":       {"PLY-518", "sybil_region", "what the DHT says of that key may be kept back: name the peers in PEERS, and do not rely on dht get alone"},
	"dht_disagreement":   {"PLY-519", "dht_disagreement", "the author's key is in two hands or its program is at fault: ask who runs it"},
	"ban_brake":          {"PLY-520", "ban_brake", "the fault may be this node's own: compare its version, chain and clock with its peers'; parley peers show tells what they are charged with"},
	"ban_storm":          {"PLY-521", "ban_storm", "parley bans list --origin auto tells who and for what; where they share a network, parley bans add RANGE keeps it out, and where they are honest, compare versions and parley bans clear --origin auto"},
	"member_misbehaving": {"PLY-522", "member_misbehaving", "parley peers show tells what it is charged with: ask its operator, or take it off the list of static or trusted peers"},
	"not_announced":      {"PLY-523", "not_announced", "the node tells its protocols again once a minute and renews its gossip after two, and each 15 min; where that does not help, start it again"},
}

// alarmsFound are the alarms that stand, as findings.
func (n *Node) alarmsFound() (list []Finding) {
	for _, a := range n.alarms.List() {
		of, ok := alarmFindings[a.Code]
		if !ok {
			n.log.Error("an alarm is no finding", "alarm", a.Code)
			continue
		}
		list = append(list, Finding{Code: of.code, Severity: "warn", Title: of.title, Why: a.Text + evidenceText(a.Evidence) + "; " + of.mend})
	}
	return list
}

// evidenceText tells what an alarm was raised on.
func evidenceText(facts map[string]any) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(facts)) {
		if text := fmt.Sprint(facts[k]); text != "" {
			parts = append(parts, k+" "+text)
		}
	}
	text := strings.Join(parts, ", ")
	if text == "" {
		return ""
	}
	if len(text) > maxEvidence {
		text = strings.ToValidUTF8(text[:maxEvidence], "") + "…"
	}
	return " (" + text + ")"
}

// isAlarm reports whether a finding is an alarm, which log and bus hear of on
// their own.
func isAlarm(f Finding) bool {
	return slices.ContainsFunc(event.AlarmCodes, func(code string) bool { return alarmFindings[code].title == f.Title })
}
