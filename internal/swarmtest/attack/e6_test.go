//go:build attack

package attack

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

var floodLines = []floodLine{
	{bad: 1, rate: 10, during: 12 * time.Second}, {bad: 1, rate: 1000, during: 12 * time.Second}, {bad: 1, rate: 10_000, during: 12 * time.Second},
	{bad: 5, rate: 10, during: 12 * time.Second}, {bad: 5, rate: 1000, during: 12 * time.Second}, {bad: 5, rate: 10_000, during: 12 * time.Second},
}

// TestE6 prints the table. It fails where a target of DEFENCE 14 is missed.
func TestE6(t *testing.T) {
	slog.SetDefault(slog.New(slog.DiscardHandler)) // simnet tells of each packet
	cpu := map[meshKind]badCPU{}
	for _, k := range meshKinds {
		cpu[k] = measureBadCPU(t, k)
		fmt.Fprintf(os.Stderr, "%s: %+v\n", k, cpu[k])
	}
	type cell struct {
		f floodLine
		k meshKind
	}
	all := map[cell][]floodResult{}
	for seed := range max(1, *seeds) {
		var b strings.Builder
		fmt.Fprintf(&b, e6Head, victimPeers, floodFar, seed+1)
		for _, f := range floodLines {
			for _, k := range meshKinds {
				if !strings.HasPrefix(fmt.Sprintf("%d, %d, %s", f.bad, f.rate, k), *only) {
					continue
				}
				c := cell{f, k}
				all[c] = append(all[c], flooded(t, k, f, uint64(seed+1)))
				row := floodRow(c.f, c.k, all[c])
				fmt.Fprintf(os.Stderr, "seed %d %s", seed+1, row)
				b.WriteString(row)
			}
		}
		fmt.Fprintf(&b, e6CPU, cpuPeers, cpuBurst)
		for _, k := range meshKinds {
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", k, micros(cpu[k].judged), micros(cpu[k].later), micros(cpu[k].back))
		}
		b.WriteString(e6Foot)
		if *out != "" { // seed by seed, for they take long
			meshMust(t, os.MkdirAll(*out, 0o755))
			meshMust(t, os.WriteFile(filepath.Join(*out, "E6.md"), []byte(b.String()), 0o644))
		}
		fmt.Println(b.String())
	}
	for c, list := range all {
		if c.k != meshOurs {
			continue
		}
		for i, r := range list {
			clean, ok := p99(r.clean, r.wantClean)
			under, ok2 := p99(r.flood, r.wantFlood)
			if !ok || !ok2 || under > 2*clean {
				t.Errorf("%+v, seed %d: p99 %v clean, %v under flood", c.f, i+1, clean, under)
			}
			if r.uncut > 0 || slices.ContainsFunc(r.cuts, func(d time.Duration) bool { return d > cutWithin }) {
				t.Errorf("%+v, seed %d: %d not cut, the others after %v", c.f, i+1, r.uncut, r.cuts)
			}
		}
	}
}

func floodRow(f floodLine, k meshKind, list []floodResult) string {
	var clean, flood, cuts []time.Duration
	var wantClean, wantFlood, sent, judged, uncut int
	factors := []float64{}
	for _, r := range list {
		clean, flood, cuts = append(clean, r.clean...), append(flood, r.flood...), append(cuts, r.cuts...)
		wantClean, wantFlood, sent, judged, uncut = wantClean+r.wantClean, wantFlood+r.wantFlood, sent+r.sent, judged+r.judged, uncut+r.uncut
		if a, ok := p99(r.clean, r.wantClean); ok {
			if b, ok := p99(r.flood, r.wantFlood); ok {
				factors = append(factors, float64(b)/float64(a))
			}
		}
	}
	slices.Sort(clean)
	slices.Sort(flood)
	cut := "none"
	if len(cuts) > 0 {
		cut = fmt.Sprintf("%.2f s", slices.Max(cuts).Seconds())
	}
	low, high := Wilson(len(flood), wantFlood)
	return fmt.Sprintf("| %d of %d | %d | %s | %s | %s | %s | %d of %d (%s–%s) | %s | %d of %d | %d of %d |\n", f.bad, victimPeers, f.rate, k,
		millis(clean, wantClean), millis(flood, wantFlood), spread(factors, len(list)), len(flood), wantFlood, share(low), share(high),
		cut, uncut, uncut+len(cuts), judged, sent)
}

func micros(d time.Duration) string {
	if d == 0 {
		return "none"
	}
	return fmt.Sprintf("%.1f µs", float64(d.Nanoseconds())/1000)
}

// spread is the smallest and largest of what came of runs.
func spread(factors []float64, runs int) string {
	switch {
	case len(factors) < runs:
		return "–"
	case runs == 1:
		return fmt.Sprintf("%.2f", factors[0])
	}
	return fmt.Sprintf("%.2f–%.2f", slices.Min(factors), slices.Max(factors))
}

func millis(took []time.Duration, want int) string {
	d, ok := p99(took, want)
	if !ok {
		return "over 1 % lost"
	}
	return fmt.Sprintf("%d ms", d.Milliseconds())
}

const e6Head = `# E6: a flood of invalid messages

A victim with %d peers, of which some are bad: in good standing until the flood begins, then they send it records whose signature is
wrong, all different, for 12 s, and come back a second after they are cut. %d honest nodes that are no peers of the victim publish
20 good records a second all together, before the flood and during it; how long those take to the victim is counted there. Hosts
over QUIC in virtual time (bubble), a public address in a group of its own each, 10 to 80 ms one way by the pair, %d seed(s). A node has
one core in this world, and judging a message takes 200 µs of it. Target: p99 at most twice that before the flood, cut within 5 s.

| bad peers | bad messages a second, all together | kind | p99 before | p99 under flood | times, by seed | good ones that came (95%% interval) | cut after, latest | never cut | bad ones judged, of those sent |
|---|---|---|---|---|---|---|---|---|---|
`

const e6CPU = `
Cut after = from the first to the last message of a bad peer that the victim judged. Never cut = still judged in the last 5 s.

CPU time, over what the same costs with a target that reads bytes and throws them away; measured in the same run. %d bad peers
send %d messages each at once, and each is judged; then one of them goes on.

| kind | each message that is judged | each that is sent after that | each try to come back, both ends |
|---|---|---|---|
`

const e6Foot = `
B0 is libp2p.New and NewGossipSub with all defaults, and a validator that rejects what is invalid. B1 is B0 with the peer scores of
parley. Ours is gossip, reputation and handshake, which closes.
`
