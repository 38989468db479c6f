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

const (
	censorPeers = 40
	censorFor   = 40 * time.Second
)

var censorLevels = []int{0, 10, 30, 50, 80} // percent of the peers are droppers

// TestE7 prints the table. It fails where a target of DEFENCE 14 is missed.
func TestE7(t *testing.T) {
	slog.SetDefault(slog.New(slog.DiscardHandler)) // simnet tells of each packet
	type cell struct {
		percent int
		k       meshKind
	}
	all := map[cell][]censorResult{}
	for seed := range max(1, *seeds) {
		var b strings.Builder
		fmt.Fprintf(&b, e7Head, censorPeers, 2*censorDials, seed+1)
		for _, percent := range censorLevels {
			for _, k := range meshKinds {
				if !strings.HasPrefix(fmt.Sprintf("%d, %s", percent, k), *only) {
					continue
				}
				c := cell{percent, k}
				all[c] = append(all[c], censored(t, k, censorPeers, percent, censorFor, uint64(seed+1)))
				row := censorRow(percent, k, all[c], all[cell{0, k}])
				fmt.Fprintf(os.Stderr, "seed %d %s", seed+1, row)
				b.WriteString(row)
			}
		}
		b.WriteString(e7Foot)
		if *out != "" { // seed by seed, for they take long
			meshMust(t, os.MkdirAll(*out, 0o755))
			meshMust(t, os.WriteFile(filepath.Join(*out, "E7.md"), []byte(b.String()), 0o644))
		}
		fmt.Println(b.String())
	}
	for c, list := range all {
		for i, r := range list {
			clean := time.Hour // where it was not run
			if first := all[cell{0, c.k}]; i < len(first) {
				clean, _ = p99(first[i].took, first[i].want)
			}
			if d, ok := p99(r.took, r.want); c.k == meshOurs && c.percent <= 50 && (!ok || len(r.took) != r.want || d > 3*clean) {
				t.Errorf("%d %% droppers, seed %d: %d of %d came, p99 %v and %v without droppers", c.percent, i+1, len(r.took), r.want, d, clean)
			}
		}
	}
}

func censorRow(percent int, k meshKind, list, clean []censorResult) string {
	var took []time.Duration
	var want, lone int
	factors := []float64{}
	for i, r := range list {
		took, want, lone = append(took, r.took...), want+r.want, lone+r.lone
		if i >= len(clean) {
			continue
		}
		a, ok := p99(clean[i].took, clean[i].want)
		if b, ok2 := p99(r.took, r.want); ok && ok2 {
			factors = append(factors, float64(b)/float64(a))
		}
	}
	slices.Sort(took)
	low, high := Wilson(len(took), want)
	return fmt.Sprintf("| %d %% | %s | %d of %d: %.4f (%.4f–%.4f) | %s | %s | %s | %d |\n", percent, k, len(took), want, float64(len(took))/float64(max(1, want)), low, high,
		median(took), millis(took, want), spread(factors, len(list)), lone)
}

func median(took []time.Duration) string {
	if len(took) == 0 {
		return "–"
	}
	return fmt.Sprintf("%d ms", took[len(took)/2].Milliseconds())
}

const e7Head = `# E7: a mesh that censors

%d peers with about %d links each. A part of them are droppers: they take part in GossipSub, take every message, in meshes too, and
neither pass one on nor tell that they have it. Half a minute after the links stand, random honest peers publish a record each half
second for 40 s; counted at the honest peers, 10 s after the last. Hosts over QUIC in virtual time (bubble), a public address in a
group of its own each, 10 to 80 ms one way by the pair, %d seed(s). Target: all to 50 %% droppers, p99 at most 3 times that without.

| droppers | kind | came (95%% interval) | median | p99 | p99 over that without droppers, by seed | honest peers without an honest one |
|---|---|---|---|---|---|---|
`

const e7Foot = `
B0 is libp2p.New and NewGossipSub with all defaults, and a validator. B1 is B0 with the peer scores of parley. Ours is gossip,
reputation and handshake. The interval takes each message to each peer for a case of its own, which those of one mesh are not.
`
