package main

import (
	"slices"
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
