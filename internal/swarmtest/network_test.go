package swarmtest

import (
	"os"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/parley-p2p/parley/config"
)

// boots names n as a bootstrap peer: it is asked for others and left.
func (n *Node) boots() func(*config.Config) {
	id, err := n.PublicKey().PeerID()
	if err != nil {
		n.swarm.T.Fatal(err)
	}
	return func(c *config.Config) {
		c.P2P.BootstrapPeers = []string{"/ip4/" + n.ip + "/udp/9906/quic-v1/p2p/" + id.String()}
	}
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// full counts the full outbound peers that hold a slot; connections that are
// made to ask somebody have none.
func (n *Node) full() int {
	all := 0
	for _, p := range n.Peers() {
		if p.Ready && p.Slot == "outbound" && p.Source != "outbound" {
			all++
		}
	}
	return all
}

func TestNetworkJoins(t *testing.T) {
	size := number(t, "SWARM_NODES", 30)
	Run(t, func(s *Swarm) {
		cpu := cpuTime()
		boot := s.Add()
		s.Genesis("network", boot)
		boot.Start()
		began := time.Now()
		at := map[*Node]time.Duration{}
		for range size - 1 {
			n := s.Add(boot.boots())
			if os.Getenv("SWARM_GENESIS") != "" {
				n.cfg.Consortium.GenesisFile = boot.cfg.Consortium.GenesisFile
			}
			n.Start()
		}
		look := func() bool {
			for _, n := range s.nodes {
				if at[n] == 0 && n.full() >= 8 {
					at[n] = time.Since(began)
				}
			}
			return len(at) == size
		}
		end := time.Now().Add(2 * time.Minute)
		for !look() && time.Now().Before(end) {
			time.Sleep(200 * time.Millisecond)
			if d := time.Since(began); d%(10*time.Second) == 0 {
				t.Logf("%v: %d at target, cpu %v", d, len(at), cpuTime()-cpu)
			}
		}
		var all []time.Duration
		for _, d := range at {
			all = append(all, d)
		}
		slices.Sort(all)
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		if len(all) > 0 {
			t.Logf("%d of %d, median %v max %v; cpu %v heap %d MiB sys %d MiB", len(all), size, all[len(all)/2], all[len(all)-1], cpuTime()-cpu, m.HeapAlloc>>20, m.Sys>>20)
		}
		for _, n := range s.nodes {
			st := n.Status()
			h := uint64(0)
			if st.Head != nil {
				h = st.Head.Height
			}
			t.Logf("%s: out %d block %d in %d static %d head %d", n.Name, n.full(), n.inSlots("block_only"), n.inSlots("inbound"), n.inSlots("static"), h)
		}
		if d := os.Getenv("SWARM_LOGOF"); d != "" {
			for _, n := range s.nodes {
				if n.Name == d {
					t.Log(n.Log.Tail(number(t, "SWARM_TAIL", 80)))
				}
			}
		}
	})
}
