package event

import (
	"cmp"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"
)

// AlarmCodes are those that there can be (DEFENCE 13).
var AlarmCodes = []string{
	"possible_eclipse", "low_diversity", "low_peers", "no_inbound", "inbound_flood", "sybil_region", "dht_disagreement",
	"ban_brake", "ban_storm", "member_misbehaving", "banned_by_others", "book_poisoned", "clock_skew", "not_announced",
}

// Alarm is one that stands.
type Alarm struct {
	Code     string         `json:"code"`
	Text     string         `json:"text"`
	Evidence map[string]any `json:"evidence"` // of when it began
	Since    time.Time      `json:"since"`
}

// Alarms are those that stand on a node, whichever room raised them. They tell
// log and bus once when one begins and once when it is over. All methods are
// safe for concurrent use; a code belongs to one caller.
type Alarms struct {
	bus *Bus
	log *slog.Logger

	mu   sync.Mutex           // guards below
	up   map[string]Alarm     // by code
	seen map[string]time.Time // of those of Seen, the last time
}

// NewAlarms returns none.
func NewAlarms(bus *Bus, log *slog.Logger) *Alarms {
	return &Alarms{bus: bus, log: log, up: map[string]Alarm{}, seen: map[string]time.Time{}}
}

// Set raises or clears an alarm where that changes anything. text says why.
func (a *Alarms) Set(code string, on bool, text string, evidence map[string]any) {
	a.mu.Lock()
	if _, up := a.up[code]; up == on {
		a.mu.Unlock()
		return
	}
	if on {
		a.up[code] = Alarm{Code: code, Text: text, Evidence: evidence, Since: time.Now().UTC().Truncate(time.Millisecond)}
	} else {
		delete(a.up, code)
		delete(a.seen, code)
	}
	a.mu.Unlock()
	attrs := []any{"code", code, "why", text}
	for _, k := range slices.Sorted(maps.Keys(evidence)) {
		attrs = append(attrs, k, evidence[k])
	}
	if on {
		a.log.Warn("alarm raised", attrs...)
		a.bus.Publish(AlarmRaised{Code: code, Text: text, Evidence: evidence})
		return
	}
	a.log.Info("alarm cleared", attrs...)
	a.bus.Publish(AlarmCleared{Code: code, Text: text, Evidence: evidence})
}

// Seen raises an alarm about what happens now and then, and has no end of its
// own: it stands until Forget finds that it was not seen for long.
func (a *Alarms) Seen(code, text string, evidence map[string]any) {
	a.mu.Lock()
	a.seen[code] = time.Now()
	a.mu.Unlock()
	a.Set(code, true, text, evidence)
}

// Forget clears the alarms of Seen that were not seen for hold.
func (a *Alarms) Forget(now time.Time, hold time.Duration) {
	var over []string
	a.mu.Lock()
	for code, at := range a.seen {
		if now.Sub(at) >= hold {
			over = append(over, code)
		}
	}
	a.mu.Unlock()
	for _, code := range over {
		a.Set(code, false, "nothing seen for "+hold.String(), map[string]any{})
	}
}

// Get is the alarm of code, if it stands.
func (a *Alarms) Get(code string) (Alarm, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	v, on := a.up[code]
	return v, on
}

// On reports whether an alarm stands.
func (a *Alarms) On(code string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, on := a.up[code]
	return on
}

// List gives those that stand, by code; never nil.
func (a *Alarms) List() []Alarm {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := slices.AppendSeq(make([]Alarm, 0, len(a.up)), maps.Values(a.up))
	slices.SortFunc(list, func(x, y Alarm) int { return cmp.Compare(x.Code, y.Code) })
	return list
}
