package gossip

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/x/simlibp2p"
	"github.com/marcopolo/simnet"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/p2p/reputation"
)

const (
	testNet = "0123abcd"
	latency = 20 * time.Millisecond
)

// lab is a network of hosts in a bubble, some of which run gossip.
type lab struct {
	*testing.T
	hosts []host.Host
	nodes []*node
}

// node runs gossip on a host.
type node struct {
	*Gossip
	host.Host
	rep  *reputation.Book
	stop context.CancelFunc
	done chan error

	mu  sync.Mutex
	got map[string][]chain.Message // by data
}

// inLab runs f with n nodes and extra bare hosts behind them, all of them
// strangers, inside a bubble.
func inLab(t *testing.T, n, extra int, f func(t *testing.T, l *lab)) {
	t.Helper()
	inLabAt(t, 100, n, extra, f)
}

// inLabAt is inLab with other links, in Mbit/s.
func inLabAt(t *testing.T, mbps, n, extra int, f func(t *testing.T, l *lab)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		speed := simnet.LinkSettings{BitsPerSecond: mbps * simlibp2p.OneMbps}
		nw, meta, err := simlibp2p.SimpleLibp2pNetwork([]simlibp2p.NodeLinkSettingsAndCount{
			{LinkSettings: simnet.NodeBiDiLinkSettings{Downlink: speed, Uplink: speed}, Count: n + extra},
		}, simnet.StaticLatency(latency), simlibp2p.NetworkSettings{UseBlankHost: true})
		if err != nil {
			t.Fatal(err)
		}
		nw.Start()
		synctest.Wait() // identify must run before the first protocol is registered
		l := &lab{T: t, hosts: meta.Nodes}
		for _, h := range meta.Nodes[:n] {
			l.nodes = append(l.nodes, newNode(t, h))
		}
		for _, h := range meta.Nodes[n:] { // speaks pubsub by hand
			h.SetStreamHandler(pubsub.GossipSubID_v12, func(s network.Stream) { _, _ = io.Copy(io.Discard, s) })
		}
		defer func() { // after a Fatal too, or the bubble would complain instead
			for _, nd := range l.nodes {
				nd.stop()
				if err := <-nd.done; err != nil {
					t.Error(err)
				}
			}
			for _, h := range l.hosts {
				_ = h.Close()
			}
			time.Sleep(time.Minute) // QUIC's draining timers
			nw.Close()
		}()
		f(t, l)
	})
}

func newNode(t testing.TB, h host.Host) *node {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	bus := event.NewBus(64)
	rep, err := reputation.New(reputation.Config{}, bus, log, nil)
	if err != nil {
		t.Fatal(err)
	}
	g, err := New(Config{Names: map[string]string{"best_block": "bestblock"}, Key: h.Peerstore().PrivKey(h.ID())}, h, rep, bus, log, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	nd := &node{Gossip: g, Host: h, rep: rep, stop: stop, done: make(chan error, 1), got: map[string][]chain.Message{}}
	go func() { nd.done <- g.Run(ctx) }()
	return nd
}

// topics are one that proves itself and two of claims.
func (n *node) topics() []chain.Topic {
	return []chain.Topic{
		{Name: "record", MaxBytes: 256 << 10, Validate: n.validate},
		{Name: "best_block", MaxBytes: 512, Claim: true, Validate: n.validate},
		{Name: "subtree", MaxBytes: 512, Claim: true, Rate: 10, Validate: n.validate},
	}
}

// validate does what the data say.
func (n *node) validate(ctx context.Context, m chain.Message) error {
	n.mu.Lock()
	n.got[string(m.Data)] = append(n.got[string(m.Data)], m)
	n.mu.Unlock()
	what, _, _ := bytes.Cut(m.Data, []byte(" "))
	switch string(what) {
	case "bad":
		return chain.Invalid(chain.InvalidTx, "bad as it says")
	case "take":
		time.Sleep(5 * time.Millisecond)
	case "pause":
		time.Sleep(500 * time.Millisecond)
	case "orphan":
		return fmt.Errorf("look: %w", chain.ErrOrphan)
	case "known":
		return chain.ErrKnown
	case "slow":
		<-ctx.Done()
		return ctx.Err()
	case "broken":
		return fmt.Errorf("disk is on fire")
	}
	return nil
}

func (n *node) times(data string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.got[data])
}

func (n *node) serve(t testing.TB) {
	t.Helper()
	if err := n.Serve(testNet, n.topics()); err != nil {
		t.Fatal(err)
	}
}

func (n *node) stats(topic string) TopicStats {
	for _, s := range n.Topics() {
		if s.Topic == topic {
			return s
		}
	}
	return TopicStats{}
}

func (l *lab) serveAll() {
	l.Helper()
	for _, n := range l.nodes {
		n.serve(l)
	}
}

func (l *lab) connect(i, j int) {
	l.Helper()
	b := l.hosts[j]
	if err := l.hosts[i].Connect(l.Context(), peer.AddrInfo{ID: b.ID(), Addrs: b.Addrs()}); err != nil {
		l.Fatal(err)
	}
}

func (l *lab) publish(n *node, topic, data string) {
	l.Helper()
	if err := n.Publish(l.Context(), topic, []byte(data)); err != nil {
		l.Fatal(err)
	}
}

// stream opens a bare pubsub stream from a host to a node.
func (l *lab) stream(from host.Host, to *node) network.Stream {
	l.Helper()
	s, err := from.NewStream(l.Context(), to.Host.ID(), pubsub.GossipSubID_v12)
	if err != nil {
		l.Fatal(err)
	}
	return s
}

// inject sends messages as a stranger would, and lets them arrive.
func (l *lab) inject(s network.Stream, topic string, data ...[]byte) {
	l.Helper()
	l.push(s, topic, data...)
	time.Sleep(time.Second)
}

func (l *lab) push(s network.Stream, topic string, data ...[]byte) {
	l.Helper()
	rpc := &pb.RPC{}
	for _, d := range data {
		rpc.Publish = append(rpc.Publish, &pb.Message{Topic: new(wireName(topic)), Data: d})
	}
	l.send(s, rpc)
}

func (l *lab) send(s network.Stream, rpc *pb.RPC) {
	l.Helper()
	b, err := proto.Marshal(rpc)
	if err != nil {
		l.Fatal(err)
	}
	if _, err := s.Write(append(binary.AppendUvarint(nil, uint64(len(b))), b...)); err != nil {
		l.Fatal(err)
	}
}

func wireName(topic string) string {
	return "/parley/" + testNet + "/" + strings.ReplaceAll(topic, "best_block", "bestblock")
}

// lost is what a queue of n has lost.
func (n *node) lost(queue string) int {
	reg := prometheus.NewRegistry()
	reg.MustRegister(n.metrics.dropped)
	families, err := reg.Gather()
	if err != nil {
		panic(err)
	}
	for _, m := range families[0].GetMetric() {
		if m.GetLabel()[0].GetValue() == queue {
			return int(m.GetCounter().GetValue())
		}
	}
	return 0
}

// points are what a node charged a host with, and the last reason.
func (n *node) points(h host.Host) (int, chain.Offence) {
	s := n.rep.Score(h.ID())
	if len(s.Reasons) == 0 {
		return s.Points, ""
	}
	return s.Points, s.Reasons[len(s.Reasons)-1].Reason
}
