package parley

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/parley-p2p/parley/event"
)

// Each alarm that there can be is a finding with a mend, under a title of its
// own, and what it was raised on is told within bounds.
func TestAlarmsAreFindings(t *testing.T) {
	if len(alarmFindings) != len(event.AlarmCodes) {
		t.Errorf("%d alarms of %d are findings", len(alarmFindings), len(event.AlarmCodes))
	}
	n := &Node{log: slog.New(slog.DiscardHandler), alarms: event.NewAlarms(event.NewBus(64), slog.New(slog.DiscardHandler))}
	for _, code := range event.AlarmCodes {
		n.alarms.Set(code, true, "it is so", map[string]any{"of": strings.Repeat("é", maxEvidence), "at": 7, "empty": ""})
	}
	found := n.alarmsFound()
	if len(found) != len(event.AlarmCodes) {
		t.Fatalf("%d findings of %d alarms", len(found), len(event.AlarmCodes))
	}
	titles := map[string]bool{}
	for _, f := range found {
		titles[f.Title] = true
		if f.Severity != "warn" || !isAlarm(f) || !strings.HasPrefix(f.Why, "it is so (at 7, of éé") || !strings.Contains(f.Why, "…); ") || len(f.Why) > 2*maxEvidence || strings.HasSuffix(f.Why, "; ") {
			t.Errorf("%+v", f)
		}
	}
	if len(titles) != len(found) {
		t.Errorf("%d titles of %d findings", len(titles), len(found))
	}
	if isAlarm(Finding{Title: "disk_low"}) {
		t.Error("disk_low is an alarm")
	}
}
