package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

const (
	maxSamples  = 10_000
	maxMisses   = 100
	maxState    = 8 << 20 // bytes
	stateFormat = 1
)

// Samples are the newest of many measured times, in milliseconds.
type Samples []float64

func (s *Samples) add(d time.Duration) { s.join(Samples{float64(d.Microseconds()) / 1000}) }

func (s *Samples) join(o Samples) {
	*s = append(*s, o...)
	*s = slices.Clone((*s)[max(0, len(*s)-maxSamples):])
}

// quantile is the smallest value that at least q of all do not exceed.
func (s Samples) quantile(q float64) float64 {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	i := int(float64(len(s))*q+0.999999) - 1
	return sorted[min(max(i, 0), len(s)-1)]
}

// Totals are what all rounds so far came to.
type Totals struct {
	Rounds  int     `json:"rounds"`
	Seconds float64 `json:"seconds"`

	Kills    int `json:"kills"`
	Cuts     int `json:"cuts"`
	Pauses   int `json:"pauses"`
	Torn     int `json:"torn"`
	Full     int `json:"full_disks"`
	ReadOnly int `json:"read_only_disks"`
	Wiped    int `json:"wiped"`
	Restored int `json:"restored"` // from backups
	Flipped  int `json:"flipped"`  // bytes of stores
	Unmended int `json:"unmended"` // of them; the node or chain check said so
	Changes  int `json:"changes"`  // of the validators
	Proofs   int `json:"proofs"`   // that hold
	Exits    int `json:"exits"`    // of processes that nobody ended

	Submitted     int `json:"submitted"` // records
	Accepted      int `json:"accepted"`  // answers
	Answered      int `json:"answered"`  // answers "committed"
	Acknowledged  int `json:"acknowledged"`
	Committed     int `json:"committed"`
	Rejected      int `json:"rejected"`
	Lost          int `json:"lost"`
	Duplicated    int `json:"duplicated"`
	Disagreements int `json:"disagreements"`
	Blocks        int `json:"blocks"`

	Dead      Samples `json:"dead_ms"`      // longest time without a commit after the leader died
	Restarted Samples `json:"restarted_ms"` // … and was started again at once
	Recovered Samples `json:"recovered_ms"` // from the end of another fault to the next commit
	Starts    Samples `json:"starts_ms"`    // from a process's start to its first answer

	Misses []string `json:"misses"`
}

// join adds the totals of one more round.
func (t *Totals) join(o Totals) {
	t.Rounds += o.Rounds
	t.Seconds += o.Seconds
	t.Kills += o.Kills
	t.Cuts += o.Cuts
	t.Pauses += o.Pauses
	t.Torn += o.Torn
	t.Full += o.Full
	t.ReadOnly += o.ReadOnly
	t.Wiped += o.Wiped
	t.Restored += o.Restored
	t.Flipped += o.Flipped
	t.Unmended += o.Unmended
	t.Changes += o.Changes
	t.Proofs += o.Proofs
	t.Exits += o.Exits
	t.Submitted += o.Submitted
	t.Accepted += o.Accepted
	t.Answered += o.Answered
	t.Acknowledged += o.Acknowledged
	t.Committed += o.Committed
	t.Rejected += o.Rejected
	t.Lost += o.Lost
	t.Duplicated += o.Duplicated
	t.Disagreements += o.Disagreements
	t.Blocks += o.Blocks
	t.Dead.join(o.Dead)
	t.Restarted.join(o.Restarted)
	t.Recovered.join(o.Recovered)
	t.Starts.join(o.Starts)
	t.Misses = append(t.Misses, o.Misses...)
	t.Misses = t.Misses[max(0, len(t.Misses)-maxMisses):]
}

// stall is the longest that was measured.
func (t *Totals) stall() time.Duration {
	longest := max(t.Dead.quantile(1), t.Restarted.quantile(1), t.Recovered.quantile(1))
	return time.Duration(longest * float64(time.Millisecond))
}

// line is one round in short.
func (t *Totals) line() string {
	verdict := "ok"
	if len(t.Misses) > 0 {
		verdict = fmt.Sprintf("RED (%d)", len(t.Misses))
	}
	return fmt.Sprintf("%s in %.0f s: %d kills, %d cuts, %d pauses, %d torn, %d full, %d read-only, %d wiped, %d restored, %d flipped, %d changes; acknowledged %d, committed %d, rejected %d, lost %d, duplicated %d, disagreements %d; longest stall %.1f s",
		verdict, t.Seconds, t.Kills, t.Cuts, t.Pauses, t.Torn, t.Full, t.ReadOnly, t.Wiped, t.Restored, t.Flipped, t.Changes, t.Acknowledged, t.Committed, t.Rejected, t.Lost, t.Duplicated, t.Disagreements, t.stall().Seconds())
}

// table is everything, for people.
func (t *Totals) table() string {
	var b strings.Builder
	row := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "  %-34s %s\n", name, fmt.Sprintf(format, args...))
	}
	row("rounds", "%d in %s", t.Rounds, time.Duration(t.Seconds*float64(time.Second)).Round(time.Second))
	row("kill -9", "%d", t.Kills)
	row("cuts", "%d", t.Cuts)
	row("pauses, torn tails", "%d, %d", t.Pauses, t.Torn)
	row("disks full, read-only, wiped", "%d, %d, %d", t.Full, t.ReadOnly, t.Wiped)
	row("backups restored", "%d", t.Restored)
	row("flipped bytes", "%d, %d of them not mended without help", t.Flipped, t.Unmended)
	row("changes of the validators", "%d", t.Changes)
	row("proofs that hold", "%d", t.Proofs)
	row("processes that ended by themselves", "%d", t.Exits)
	row("answers accepted / committed", "%d / %d", t.Accepted, t.Answered)
	row("records acknowledged", "%d of %d handed in", t.Acknowledged, t.Submitted)
	row("committed", "%d, in %d blocks", t.Committed, t.Blocks)
	row("finally rejected", "%d", t.Rejected)
	row("lost", "%d", t.Lost)
	row("duplicated", "%d", t.Duplicated)
	row("disagreements", "%d", t.Disagreements)
	stall := func(name string, s Samples, limit float64) {
		if len(s) == 0 {
			row(name, "–")
			return
		}
		text := fmt.Sprintf("p50 %.1f s, p95 %.1f s, longest %.1f s, of %d", s.quantile(0.5)/1000, s.quantile(0.95)/1000, s.quantile(1)/1000, len(s))
		if limit > 0 {
			within := 0
			for _, v := range s {
				if v <= limit*1000 {
					within++
				}
			}
			text += fmt.Sprintf("; %d %% within %.0f s", 100*within/len(s), limit)
		}
		row(name, "%s", text)
	}
	stall("stall, leader dead", t.Dead, 3)
	stall("stall, leader restarted", t.Restarted, 4)
	stall("first commit after other faults", t.Recovered, 0)
	stall("start to first answer", t.Starts, 0)
	row("misses", "%d", len(t.Misses))
	for _, m := range t.Misses {
		fmt.Fprintf(&b, "    %s\n", m)
	}
	return b.String()
}

// state is soak.json: a later run goes on with it.
type state struct {
	Format int    `json:"format"`
	Seed   uint64 `json:"seed"` // of the first round; each next one has one more
	Totals Totals `json:"totals"`
}

func readState(path string) (*state, error) {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // none yet
	}
	if err == nil && info.Size() > maxState {
		err = fmt.Errorf("%d bytes", info.Size())
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	var s state
	if err := json.Unmarshal(b, &s); err != nil || s.Format != stateFormat {
		return nil, fmt.Errorf("%s is no state of this soak (format %d, %w): move it away to begin anew", path, s.Format, err)
	}
	return &s, nil
}

func (s *state) write(path string) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	next := path + ".tmp"
	if err := os.WriteFile(next, b, 0o600); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	return os.Rename(next, path)
}
