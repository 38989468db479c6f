package discovery

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/parley-p2p/parley/event"
)

// Codes of alarms (DEFENCE 13).
const (
	alarmRegion       = "sybil_region"
	alarmDisagreement = "dht_disagreement"
)

const alarmHold = 30 * time.Minute // an alarm is over when nothing was seen for that long

// alarms tells once when something begins and once when it is over.
type alarms struct {
	bus *event.Bus
	log *slog.Logger

	mu     sync.Mutex           // guards active
	active map[string]time.Time // code → seen last
}

func newAlarms(bus *event.Bus, log *slog.Logger) *alarms {
	return &alarms{bus: bus, log: log, active: map[string]time.Time{}}
}

func (a *alarms) raise(code, text string, evidence map[string]any) {
	a.mu.Lock()
	_, known := a.active[code]
	a.active[code] = time.Now()
	a.mu.Unlock()
	if known {
		return
	}
	a.log.Warn("alarm", "code", code, "text", text, "evidence", evidence)
	a.bus.Publish(event.AlarmRaised{Code: code, Text: text, Evidence: evidence})
}

func (a *alarms) on(code string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, on := a.active[code]
	return on
}

func (a *alarms) run(ctx context.Context) {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			a.clear(now)
		}
	}
}

func (a *alarms) clear(now time.Time) {
	var over []string
	a.mu.Lock()
	for code, at := range a.active {
		if now.Sub(at) >= alarmHold {
			over = append(over, code)
			delete(a.active, code)
		}
	}
	a.mu.Unlock()
	for _, code := range over {
		a.log.Info("alarm over", "code", code)
		a.bus.Publish(event.AlarmCleared{Code: code, Text: fmt.Sprintf("nothing seen for %s", alarmHold), Evidence: map[string]any{}})
	}
}
