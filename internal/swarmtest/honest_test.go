package swarmtest

import (
	"testing"
	"time"
)

// Nobody who is honest is banned or discouraged, however bad the lines are.
// SWARM_HOURS and SWARM_NODES make it longer and larger.
func TestHonestAreSpared(t *testing.T) {
	hours, size, cpu := number(t, "SWARM_HOURS", 1), number(t, "SWARM_NODES", 8), cpuTime()
	Run(t, func(s *Swarm) {
		h := NewHonest(s, HonestPlan{Size: size, NAT: min(20, size*2/3), Slow: max(1, size/10), Target: 3, Loss: .05, Churn: 3 * time.Minute, Record: time.Minute})
		for i := range hours {
			h.Pass(time.Hour)
			t.Logf("%d hours, CPU %v, %d churned: %v", i+1, cpuTime()-cpu, h.Churned, h.Verdicts)
		}
		s.Agree(5*time.Minute, h.All()...)
		if discouraged, banned := h.Hard(); len(discouraged)+len(banned) > 0 {
			t.Errorf("discouraged: %q\nbanned: %q", discouraged, banned)
		}
	})
}

// A node that is wrong about the validator set holds every block of everybody
// for a forgery. Its brake keeps it from banning them all, it keeps a peer, and
// says that the fault may be its own; the others hold nothing against it.
func TestMistakeIsBraked(t *testing.T) {
	Run(t, func(s *Swarm) {
		m := s.Misguide(7, 4*time.Minute)
		if m.Braked == 0 || m.Least < 1 || m.Banned > 2 || m.Against > 0 {
			t.Errorf("%+v", m)
		}
		t.Logf("%+v", m)
	})
}
