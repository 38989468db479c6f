package sink

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Whatever happens, and in whatever order, each block and each record is told
// at least once, and for the first time in the order of the chain.
func TestResumeProperty(t *testing.T) {
	for seed := range uint64(40) {
		synctest.Test(t, func(t *testing.T) {
			dir, s, b := t.TempDir(), &shelf{}, &books{}
			dice := rand.New(rand.NewPCG(seed, 0))
			s.dice = rand.New(rand.NewPCG(seed, 1))
			r := b.start(t, 64, dir, chainTypes, s)
			var script []string
			for range 40 {
				var op string
				switch dice.IntN(8) {
				case 0, 1, 2:
					op = "blocks"
					for range dice.IntN(20) {
						b.next(r.bus, dice.IntN(10))
					}
				case 3:
					op = "noise"
					r.publish(0, dice.IntN(100))
				case 4:
					op = "away"
					s.away(dice.IntN(2) == 0)
				case 5:
					op = "reload"
					r.follow(t, dir, nil)
				case 6:
					op = "restart"
					r.stop()
					r = b.start(t, 64, dir, chainTypes, s)
				case 7:
					op = "crash"
					time.Sleep(time.Duration(dice.Int64N(int64(saveEvery)))) // positions may be old
					noted, err := os.ReadFile(filepath.Join(dir, fileName))
					if err != nil {
						t.Fatal(err)
					}
					s.away(true)
					r.stop()
					if err := os.WriteFile(filepath.Join(dir, fileName), noted, 0o600); err != nil {
						t.Fatal(err)
					}
					r = b.start(t, 64, dir, chainTypes, s)
				}
				script = append(script, op)
				time.Sleep(time.Duration(dice.Int64N(int64(10 * time.Second))))
			}
			s.away(false)
			time.Sleep(time.Hour)
			var want, first []string
			for h, events := range b.blocks {
				want = append(want, fmt.Sprint(h+1))
				for i := range events[1:] {
					want = append(want, fmt.Sprintf("%d.%d", h+1, i))
				}
			}
			seen := map[string]bool{}
			for _, m := range s.told(t) {
				if m = strings.TrimSuffix(m, "'"); !strings.HasPrefix(m, "lagged") && !seen[m] {
					seen[m] = true
					first = append(first, m)
				}
			}
			if diff := cmp.Diff(want, first); diff != "" {
				t.Errorf("seed %d: %s\n%s", seed, strings.Join(script, ", "), diff)
			}
			r.stop()
		})
	}
}
