package parley

import (
	"strings"
	"testing"
)

// A node that has a chain does not say that nobody has answered yet.
func TestLagNote(t *testing.T) {
	for want, of := range map[string]struct {
		y       Sync
		foreign string
		tip     *StatusHead
	}{
		"4 blocks behind": {y: Sync{State: "syncing", LagBlocks: 4}, tip: &StatusHead{Height: 7}},
		"than block 7, the last one here, is not known: see parley peers static": {y: Sync{State: "waiting"}, tip: &StatusHead{Height: 7}},
		"no peer has answered with its chain yet: see parley peers static":       {y: Sync{State: "waiting"}},
		"no peer of the chain that this node waits for has answered yet":         {y: Sync{State: "waiting"}, foreign: "x is of another chain"},
		"than block 8, the last one here, is not known: see parley peers static": {y: Sync{State: "waiting"}, foreign: "x is of another chain", tip: &StatusHead{Height: 8}},
	} {
		got := lagNote(of.y, of.foreign, of.tip)
		if !strings.HasSuffix(got, want) || of.tip != nil && strings.HasSuffix(got, "yet") {
			t.Errorf("%+v: %q, want %q", of, got, want)
		}
	}
	for name, code := range checkCodes {
		if name == "" || len(code) != len("PLY-000") {
			t.Errorf("check %q has code %q", name, code)
		}
	}
}
