package discovery

import (
	"context"
	"time"
)

// Codes of alarms (DEFENCE 13).
const (
	alarmRegion       = "sybil_region"
	alarmDisagreement = "dht_disagreement"
)

const alarmHold = 30 * time.Minute // an alarm is over when nothing was seen for that long

// forgetAlarms ends the alarms of this room until ctx ends.
func (d *Discovery) forgetAlarms(ctx context.Context) {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			d.fns.Alarms.Forget(now, alarmHold)
		}
	}
}
