package config

import (
	"strings"
	"testing"

	"github.com/parley-p2p/parley/event"
)

// A pattern that fits no type of event is refused, with what was probably meant.
func TestEventPatterns(t *testing.T) {
	for _, name := range event.Types() {
		group, _, _ := strings.Cut(name, ".")
		for _, text := range []string{name, group + ".*", "*", "*." + name[len(group)+1:]} {
			if err := CheckEventPattern(text); err != nil {
				t.Errorf("%s: %v", text, err)
			}
		}
	}
	for text, want := range map[string]string{
		"block.storred":          `"block.storred" is no type of event, did you mean block.stored?`,
		"peers.*":                `"peers.*" is no type of event, did you mean peer.*?`,
		"baned":                  `"baned" is no type of event: there are node.*, config.*, peer.*, `,
		"PEER.banned":            `"PEER.banned" is no type of event, did you mean peer.banned?`,
		"":                       `"" is no pattern: want such as peer.* or block.stored`,
		"peer.[":                 `"peer.[" is no pattern: want such as peer.* or block.stored`,
		strings.Repeat("a*", 33): `is longer than the 64 characters`,
	} {
		if err := CheckEventPattern(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
	s := Sink{Kind: SinkNATS, URL: "nats://h", Subject: "s", Types: []string{"block.*", "log.*", "recordd.*"}}
	problems := checkSinkTypes(s)
	if len(problems) != 2 || !strings.HasPrefix(problems[0].text, `"log.*" is no type of event that goes to sinks`) || !strings.HasSuffix(problems[1].text, "did you mean record.*?") {
		t.Errorf("%+v", problems)
	}
}

// A level for a room that does not log is refused, with what was probably meant.
func TestRoomsOfLevels(t *testing.T) {
	for _, room := range append([]string{"p2p", "replica", "api"}, LogRooms...) {
		if _, rooms, err := ParseLogLevel("info," + room + "=debug"); err != nil || len(rooms) != 1 {
			t.Errorf("%s: %v %v", room, rooms, err)
		}
	}
	for text, want := range map[string]string{
		"info,p2p.gosip=debug": `"info,p2p.gosip=debug" has a level for "p2p.gosip", which is no room that logs, did you mean p2p.gossip?`,
		"gossip=debug":         `"gossip=debug" has a level for "gossip", which is no room that logs, did you mean p2p.gossip?`,
		"p2p.=warn":            `has a level for "p2p.", which is no room that logs`,
		"libp2p_swarm=warn":    `"libp2p_swarm", which is no room that logs: there are alarms, api, api.sink, p2p, p2p.addrbook, p2p.bans, p2p.dialer, p2p.discovery, p2p.gossip, p2p.handshake, p2p.history, p2p.host, p2p.reputation, p2p.slots, replica, replica.chainsync, replica.consensus, replica.ledger, replica.mempool, sidecar, telemetry`,
	} {
		if _, _, err := ParseLogLevel(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}
