package swarmtest

import (
	"strings"
	"testing"

	"github.com/parley-p2p/parley"
)

// metrics are those of the rooms that exist, by room. They are API.
var metrics = map[string]string{
	"host":       "peers connections_total bytes_total unread_packets_total",
	"dialer":     "static_peers static_dials_total slots dials_total evictions_total outbound_groups outbound_peers",
	"addrbook":   "entries groups rejected_total",
	"discovery":  "found_total refused_total lookups_total lookup_seconds dht_peers",
	"handshake":  "results_total seconds",
	"reputation": "points_total refusals_total peers bans",
	"history":    "written_total dropped_total pending",
	"gossip":     "messages_total bytes_total duplicates_total mesh_peers validate_seconds delay_seconds dropped_total large_messages_total",
	"ledger":     "height head_age_seconds blocks_total records_total commit_seconds size_bytes journal_records damaged_total repaired_total",
	"mempool":    "records bytes rejected_total",
	"consensus":  "view view_changes_total validators order_seconds dropped_total restarts_total",
	"chainsync":  "state lag_blocks blocks_total bytes_total served_bytes_total completed_total early_records_total",
	"alarm":      "active",
	"build":      "info",
}

// All metrics are there from the first scrape, before anything has happened.
func TestMetrics(t *testing.T) {
	Run(t, func(s *Swarm) {
		a := s.Add()
		a.Start()
		a.Submit("x", `{}`, parley.Committed)
		families, err := a.Registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		have := map[string]bool{}
		for _, f := range families {
			have[f.GetName()] = true
		}
		for room, names := range metrics {
			for name := range strings.FieldsSeq(names) {
				full := "parley_" + room + "_" + name
				if !have[full] {
					t.Errorf("%s is not there", full)
				}
				delete(have, full)
			}
		}
		for name := range have {
			if strings.HasPrefix(name, "parley_") {
				t.Errorf("%s is not in the table", name)
			}
		}
	})
}
