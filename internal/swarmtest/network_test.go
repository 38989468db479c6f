package swarmtest

import (
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/parley-p2p/parley"
)

func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// A network grows from one bootstrap peer, which is all that its nodes are told
// of. SWARM_NODES=100 runs so many, and then replaces half of them within minutes.
func TestNetworkFromOneBootstrapPeer(t *testing.T) {
	size, target, cpu := number(t, "SWARM_NODES", 14), 8, cpuTime()
	if size < 60 { // so that there are pairs enough for all
		target = 3
	}
	Run(t, func(s *Swarm) {
		net := NewTown(s, size, target)
		net.Filled("start", 5*time.Minute)
		net.OneTip("start", time.Minute)
		net.Asked(time.Minute)
		if told := net.from("pex"); told == 0 {
			t.Error("nobody was told of a peer by peer exchange")
		}
		t.Logf("CPU so far %v", cpuTime()-cpu)
		if os.Getenv("SWARM_NODES") == "" {
			t.Log("nobody is replaced: that takes minutes of CPU; SWARM_NODES=100 has it")
			return
		}
		net.Replace(4 * time.Minute)
		net.Filled("churn", 5*time.Minute)
		net.OneTip("churn", time.Minute)
	})
	t.Logf("%d nodes, CPU %v", size, cpuTime()-cpu)
}

// A bootstrap peer has places for a few: the others ask it and go, and find each
// other all the same.
func TestFullBootstrapPeer(t *testing.T) {
	Run(t, func(s *Swarm) {
		net := OpenTown(s, 20, 4, func(boot *Node) { boot.cfg.P2P.TargetPeers, boot.cfg.P2P.MaxPeers = 1, 8 })
		net.Filled("start", 4*time.Minute)
		net.OneTip("start", time.Minute)
	})
}

// Half of a network is cut off while the other half goes on, for so long that
// each has filled its slots with its own; then they have peers of each other again.
func TestNetworkHeals(t *testing.T) {
	Run(t, func(s *Swarm) {
		net := NewTown(s, 12, 2)
		net.Filled("start", 5*time.Minute)
		time.Sleep(2 * time.Minute)
		for _, n := range net.Live {
			for _, a := range n.Node.Status().Alarms {
				if a.Code == "not_announced" || a.Code == "clock_skew" || a.Code == "book_poisoned" {
					t.Errorf("%s: alarm %s: %s %v", n.Name, a.Code, a.Text, a.Evidence)
				}
			}
		}
		h := net.Split("half", 6, 10*time.Minute)
		t.Logf("%d peers that were dialled led across before, %d of %d do two minutes later", h.Before, h.Across, h.All)
		if 5*h.Across < 2*h.Before || h.Before == 0 {
			t.Errorf("%d peers led across before, two minutes after %d do, want two fifths at least", h.Before, h.Across)
		}
	})
}

// A node whose own network was away for hours is back within two minutes, and a
// restart after kill -9 begins with its anchors. SWARM_OUTAGE=12h runs it.
func TestLongOutage(t *testing.T) {
	v := os.Getenv("SWARM_OUTAGE")
	if v == "" {
		t.Skip("it takes minutes of CPU: SWARM_OUTAGE=12h runs it")
	}
	away, err := time.ParseDuration(v)
	if err != nil {
		t.Fatalf("SWARM_OUTAGE: %v", err)
	}
	Run(t, func(s *Swarm) {
		net := NewTown(s, 5, 2)
		s.PowerCuts = true
		n := net.Settle()
		s.PowerCuts = false
		net.Filled("start", 5*time.Minute)
		s.Partition(n)
		time.Sleep(away)
		net.Boot.Submit("meanwhile", `{}`, parley.Committed)
		if c := n.PeerCount().Connected; c > 0 {
			t.Errorf("%d peers while it is cut off", c)
		}
		s.Heal()
		began := time.Now()
		s.Until("it is back", 2*time.Minute, func() bool { return n.held() >= 2 && n.Head() == net.Boot.Head() })
		t.Logf("back %v after an outage of %v", time.Since(began).Round(time.Second), away)

		net.OneTip("anchors", time.Minute)
		time.Sleep(31 * time.Minute) // an anchor has held so long
		net.OneTip("anchors again", time.Minute)
		time.Sleep(30 * time.Second)
		n.Kill(0)
		time.Sleep(time.Minute)
		n.Start()
		s.Until("an anchor is the first", 30*time.Second, func() bool {
			for _, p := range n.Peers() {
				if p.Ready && p.Source == "anchor" {
					return true
				}
			}
			return false
		})
		net.Tip("after kill -9", 2*time.Minute)
	})
}

// from counts the entries of the books that a kind of source told of.
func (t *Town) from(source string) (n int) {
	t.T.Helper()
	for _, x := range t.Live {
		told, _, err := x.AddressBook(parley.BookFilter{Source: source})
		if err != nil {
			t.T.Fatal(err)
		}
		n += len(told)
	}
	return n
}
