package gossip

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/chain"
)

// BenchmarkDelivery publishes 1 KiB on one of n nodes that are all connected,
// over TCP and Noise on the loopback, and gives CPU time per validated delivery.
func BenchmarkDelivery(b *testing.B) {
	for _, n := range []int{2, 5} {
		b.Run(fmt.Sprint("nodes=", n), func(b *testing.B) { benchDelivery(b, n) })
	}
}

func benchDelivery(b *testing.B, n int) {
	flight := make(chan struct{}, 256*(n-1)) // one place a delivery
	var nodes []*node
	for range n {
		h, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.ResourceManager(&network.NullResourceManager{}))
		if err != nil {
			b.Fatal(err)
		}
		nd := newNode(b, h)
		defer func(h host.Host) {
			nd.stop()
			<-nd.done
			_ = h.Close()
		}(h)
		count := func(_ context.Context, m chain.Message) error {
			if m.From != h.ID() {
				<-flight
			}
			return nil
		}
		if err := nd.Serve(testNet, []chain.Topic{{Name: "record", MaxBytes: 4096, Validate: count}}); err != nil {
			b.Fatal(err)
		}
		nodes = append(nodes, nd)
	}
	for i, x := range nodes {
		for _, y := range nodes[:i] {
			if err := x.Connect(b.Context(), peer.AddrInfo{ID: y.Host.ID(), Addrs: y.Addrs()}); err != nil {
				b.Fatal(err)
			}
		}
	}
	for range time.Tick(10 * time.Millisecond) {
		if !slices.ContainsFunc(nodes, func(x *node) bool { return x.stats("record").Mesh < n-1 }) {
			break
		}
	}
	place := func() {
		select {
		case flight <- struct{}{}:
		case <-time.After(5 * time.Second):
			b.Fatalf("%d deliveries lost", len(flight))
		}
	}
	data := make([]byte, 1024)
	sent := 0
	before := cpu()
	b.ReportAllocs()
	for b.Loop() {
		for range n - 1 {
			place()
		}
		d := bytes.Clone(data)
		binary.BigEndian.PutUint64(d, uint64(sent))
		if err := nodes[0].Publish(b.Context(), "record", d); err != nil {
			b.Fatal(err)
		}
		sent++
	}
	for range cap(flight) { // all places free = all delivered
		place()
	}
	b.ReportMetric(float64(cpu()-before)/1e3/float64(sent*(n-1)), "cpu-µs/delivery")
}

func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkOpenClaim is what each claim costs beside its validator.
func BenchmarkOpenClaim(b *testing.B) {
	h, err := libp2p.New(libp2p.NoListenAddrs)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = h.Close() }()
	data := seal(b, h, "subtree", time.Now(), 1, string(make([]byte, 300)))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := openClaim("subtree", data); err != nil {
			b.Fatal(err)
		}
	}
}
