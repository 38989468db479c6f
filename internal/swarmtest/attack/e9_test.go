//go:build attack

package attack

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/parley-p2p/parley/internal/swarmtest"
)

var minutes = flag.Int("minutes", 60, "E9: the longest cut that is made")

// E9: a network is cut in two and healed. Whole nodes, in virtual time; the
// sole validator is in the first part. A stock host has no chain whose tip
// could be compared, so there is no row of B0 or B1.
func TestE9(t *testing.T) {
	const size, target = 20, 3
	runs := max(1, *seeds)
	var b strings.Builder
	fmt.Fprintf(&b, e9Head, size, target)
	for _, m := range []int{1, 10, 60} {
		if m > *minutes {
			continue
		}
		n := runs
		if m > 10 { // an hour of so many nodes is minutes of CPU
			n = (runs + 2) / 3
		}
		for seed := range n {
			for _, part := range []int{size / 2, size / 10} {
				swarmtest.RunSeed(t, uint64(seed+1), func(s *swarmtest.Swarm) {
					s.Uneven()
					net := swarmtest.NewTown(s, size, target)
					net.Filled("start", 5*time.Minute)
					h := net.Split("cut", part, time.Duration(m)*time.Minute)
					line := fmt.Sprintf("| %d/%d | %d min | %d | %.1f s | %d | %d of %d | %d of %d |\n", size-part, part, m, seed+1, h.Tip.Seconds(), h.Before, h.Across, h.All, h.Known, h.Whole)
					b.WriteString(line)
					fmt.Fprint(os.Stderr, line)
				})
				if *out != "" { // line by line, for the last ones take long
					must(t, os.MkdirAll(*out, 0o755))
					must(t, os.WriteFile(filepath.Join(*out, "E9.md"), []byte(b.String()), 0o644))
				}
			}
		}
	}
	fmt.Println(b.String())
}

const e9Head = `# E9: partition and heal

%d nodes that found each other from one bootstrap peer, %d full outbound peers each, one validator in the first part; the
second part is cut off, records are committed meanwhile, and the links are good again. Whole nodes in virtual time
(bubble), 5 to 35 ms one way by the seed of the link; seeds from 1 on, fewer of the longest cut. Target: one tip within
60 s. Counted are the peers dialled that are on the other side, before the cut and two minutes after it, there of all;
and by then the entries of the books that are of the other part, of as many as there were if everybody knew everybody. A
stock host has no chain whose tip could be compared: there is no row of B0 or B1.

| parts | cut for | seed | one tip after | dialled across before | after it | known across |
|---|---|---|---|---|---|---|
`
