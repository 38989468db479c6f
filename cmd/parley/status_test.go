package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/config"
)

// A node of another network tells nothing of validators and records.
func TestStatusOfOtherNetworks(t *testing.T) {
	for network, want := range map[string]bool{config.NetworkConsortium: true, config.NetworkSidecar: false} {
		rows := viewStatus(parley.Status{Network: network}).rows
		for _, name := range []string{"validators", "waiting"} {
			if got := slices.ContainsFunc(rows, func(row []string) bool { return row[0] == name }); got != want {
				t.Errorf("%s: a line %s: %v", network, name, got)
			}
		}
	}
}

// A node whose chain bears no further loss says so beside the verdict.
func TestStatusTellsOfTheLastOne(t *testing.T) {
	for _, test := range []struct {
		n, connected, quorum int
		away                 []string
		validators           string
		warning              bool
		standing             string // in chain validators
	}{
		{4, 4, 3, nil, "4 of 4 connected, 3 needed: survives the loss of 1", false, "4 connected, 3 needed: survives 1 crash, 1 traitor"},
		{7, 6, 5, []string{"node7"}, "6 of 7 connected, 5 needed: survives the loss of 1; away: node7", false, "6 connected, 5 needed: 1 more may fail"},
		{4, 3, 3, []string{"node2"}, "3 of 4 connected, 3 needed: survives no loss; away: node2", true, "3 connected, 3 needed: no more may fail"},
		{1, 1, 1, nil, "1 of 1 connected, 1 needed: survives no loss", false, "1 connected, 1 needed: when it stops, nothing is committed"}, // it never bears one: no news
		{4, 2, 3, []string{"node2", "node3"}, "2 of 4 connected, 3 needed; away: node2, node3", false, "2 connected, 3 needed: nothing is committed until 1 more is back"},
		{22, 15, 15, []string{"a", "b", "c", "d", "e", "f", "g"}, "15 of 22 connected, 15 needed: survives no loss; away: a, b, c, d, e and 2 more", true, "15 connected, 15 needed: no more may fail"},
	} {
		rows := viewStatus(parley.Status{Network: config.NetworkConsortium, Verdict: "healthy",
			Validators: &parley.ValidatorsN{N: test.n, Connected: test.connected, Quorum: test.quorum, Away: test.away}}).rows
		text := func(name string) string {
			i := slices.IndexFunc(rows, func(row []string) bool { return row[0] == name })
			if i < 0 {
				return ""
			}
			return rows[i][1]
		}
		if got := text("validators"); got != test.validators {
			t.Errorf("have %q, want %q", got, test.validators)
		}
		if got, want := standing(test.connected, tolerance(test.n)), test.standing; got != want {
			t.Errorf("have %q, want %q", got, want)
		}
		if got := text("warning"); (got != "") != test.warning || test.warning && !strings.Contains(got, test.away[0]) {
			t.Errorf("%d of %d: warning %q", test.connected, test.n, got)
		}
	}
}

func TestPeersText(t *testing.T) {
	if got := peersText(parley.StatusPeers{Inbound: 2, Outbound: 1, Target: 8, Known: 24}); got != "3 connected: 2 in, 1 out; up to 8 found ones are kept; 24 known" {
		t.Error(got)
	}
}
