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

var (
	hours  = flag.Int("hours", 24, "E10: virtual hours of the honest network")
	honest = flag.Int("honest", 30, "E10: nodes of it, two thirds of which and at most 20 are behind one address")
)

// E10: nobody means ill, and much goes wrong. Whole nodes, in virtual time: who
// is banned or discouraged is so by mistake.
func TestE10(t *testing.T) {
	var b strings.Builder
	plan := swarmtest.HonestPlan{Size: *honest, NAT: min(20, *honest*2/3), Slow: max(1, *honest/10), Target: 3, Loss: .05, Churn: 3 * time.Minute, Record: time.Minute}
	fmt.Fprintf(&b, e10Head, plan.Size, plan.NAT, plan.Slow)
	line := func(format string, args ...any) {
		text := fmt.Sprintf(format, args...)
		b.WriteString(text)
		fmt.Fprint(os.Stderr, text)
		if *out != "" { // hour by hour, for all of them take long
			must(t, os.MkdirAll(*out, 0o755))
			must(t, os.WriteFile(filepath.Join(*out, "E10.md"), []byte(b.String()), 0o644))
		}
	}
	for seed := range max(1, *seeds) {
		swarmtest.RunSeed(t, uint64(seed+1), func(s *swarmtest.Swarm) {
			h := swarmtest.NewHonest(s, plan)
			told := 0
			for hour := range *hours {
				h.Pass(time.Hour)
				discouraged, banned := h.Hard()
				line("| %d | %d | %d | %v | %d | %d |\n", seed+1, hour+1, h.Churned, strings.TrimSuffix(strings.TrimPrefix(fmt.Sprint(h.Points()), "map["), "]"), len(discouraged), len(banned))
				graver := h.Graver()
				for _, g := range graver[told:] {
					fmt.Fprintln(os.Stderr, g)
				}
				told = len(graver)
				if len(discouraged)+len(banned) > 0 {
					t.Errorf("discouraged: %q, banned: %q", discouraged, banned)
				}
			}
		})
	}
	line(e10Mistake)
	for seed := range max(1, *seeds) {
		swarmtest.RunSeed(t, uint64(seed+1), func(s *swarmtest.Swarm) {
			m := s.Misguide(7, 10*time.Minute)
			line("| %d | %.0f s | %d | %d | %d | %d |\n", seed+1, m.Braked.Seconds(), m.Least, m.Banned, m.Discouraged, m.Against)
			if m.Braked == 0 || m.Least < 1 || m.Against > 0 {
				t.Errorf("%+v", m)
			}
		})
	}
	fmt.Println(b.String())
}

const e10Head = `# E10: false positives

%d honest nodes that find each other from one bootstrap peer, %d of them behind one address, where nobody can dial them; %d
are on a line of 1 Mbit/s with 300 to 500 ms. Of all packets 5 %% are lost. Each 3 min a node stops, or its line is cut,
for 1 to 10 min, and each minute a record is written. Whole nodes in virtual time (bubble). Target: nobody is banned or
discouraged in 24 h. Points are those of all nodes together, by their reason; they run off by one a minute.

| seed | hours | stops and cuts | points so far | discouraged | banned |
|---|---|---|---|---|---|
`

const e10Mistake = `
A mistake: one of 7 nodes believes in another validator set than the rest, so that every block of everybody is a forgery
to it. Target: its brake is on, it keeps a peer, and nobody holds anything against it. Ten minutes are looked at.

| seed | brake on after | fewest peers | banned by it | discouraged by it | held against it |
|---|---|---|---|---|---|
`
