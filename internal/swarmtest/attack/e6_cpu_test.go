//go:build attack

package attack

import (
	"io"
	"runtime"
	"syscall"
	"testing"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
)

var meshKinds = []meshKind{meshOurs, meshB0, meshB1}

// badCPU is what bad messages cost a process with a node as their target, less
// what they cost with one that throws bytes away.
type badCPU struct {
	judged time.Duration // of each, while their senders are still in good standing
	later  time.Duration // of each that is written after that; 0 = none can be
	back   time.Duration // of each try of a sender to come back, both ends; 0 = none was cut
}

const (
	cpuPeers = 60
	cpuBurst = 30 // messages of one RPC; a stock host loses what is over 32
)

func measureBadCPU(t *testing.T, k meshKind) badCPU {
	t.Helper()
	sink, node := spendOnBad(t, k, true), spendOnBad(t, k, false)
	if node.judged < cpuPeers*cpuBurst*9/10 {
		t.Errorf("%s: %d of %d messages were judged", k, node.judged, cpuPeers*cpuBurst)
	}
	res := badCPU{judged: (node.first - sink.first) / time.Duration(max(1, node.judged))}
	perSink := sink.then / time.Duration(sink.written)
	if node.written > 0 {
		res.later = node.then/time.Duration(node.written) - perSink
	}
	if node.tries > 0 {
		res.back = node.then / time.Duration(node.tries)
	}
	return res
}

type spending struct {
	first, then    time.Duration
	judged         int // messages of the first part
	written, tries int // messages and dials of the second part
}

// spendOnBad has many bad peers send a burst each, and then one of them go on.
func spendOnBad(t *testing.T, k meshKind, sink bool) (res spending) {
	t.Helper()
	inMesh(t, k, 1, func(l *meshLab) {
		var to host.Host
		var v *meshNode
		if sink {
			to = l.host()
			to.SetStreamHandler(pubsub.GossipSubID_v12, func(s network.Stream) { _, _ = io.Copy(io.Discard, s) })
			l.greeter(to)
		} else {
			v = l.node()
			to = v.Host
		}
		var bad []*flooder
		for range cpuPeers {
			bad = append(bad, l.flooder(to, floodInvalid))
		}
		burst := func(f *flooder) *pb.RPC {
			rpc := &pb.RPC{}
			for range cpuBurst {
				rpc.Publish = append(rpc.Publish, f.message())
			}
			return rpc
		}
		time.Sleep(3 * time.Second)
		var rpcs []*pb.RPC
		for i := range 2 * cpuPeers {
			rpcs = append(rpcs, burst(bad[min(i, cpuPeers-1)]))
		}
		res.first = spendCPU(t, func() {
			for i, f := range bad {
				_ = f.write(rpcs[i]) // the first is not cut yet
				time.Sleep(50 * time.Millisecond)
			}
			time.Sleep(2 * time.Second)
		})
		if v != nil {
			v.mu.Lock()
			for _, j := range v.bad {
				res.judged += j.n
			}
			v.mu.Unlock()
		}
		f := bad[cpuPeers-1]
		res.then = spendCPU(t, func() {
			for _, rpc := range rpcs[cpuPeers:] {
				if f.write(rpc) == nil {
					res.written += cpuBurst
				} else {
					res.tries++
					_ = f.open()
				}
				time.Sleep(50 * time.Millisecond)
			}
			time.Sleep(2 * time.Second)
		})
	})
	return res
}

func spendCPU(t *testing.T, do func()) time.Duration {
	t.Helper()
	runtime.GC()
	before := cpuTime(t)
	do()
	return cpuTime(t) - before
}

func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	meshMust(t, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
