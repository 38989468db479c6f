package gossip

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/p2p/reputation"
)

func TestEveryMessageReachesEveryNodeOnce(t *testing.T) {
	inLab(t, 10, 0, func(t *testing.T, l *lab) {
		l.serveAll()
		for i := range l.nodes { // a ring with chords: degree 4
			l.connect(i, (i+1)%10)
			l.connect(i, (i+3)%10)
		}
		time.Sleep(5 * time.Second)
		for i := range 30 {
			l.publish(l.nodes[i%10], "record", fmt.Sprint("record ", i))
			l.publish(l.nodes[i%10], "subtree", fmt.Sprint("subtree ", i))
			time.Sleep(50 * time.Millisecond)
		}
		time.Sleep(5 * time.Second)
		for i := range 30 {
			for j, n := range l.nodes {
				for _, topic := range []string{"record", "subtree"} {
					data := fmt.Sprint(topic, " ", i)
					if got := n.times(data); got != 1 {
						t.Fatalf("node %d saw %q %d times, want once", j, data, got)
					}
					m, origin := n.got[data][0], l.nodes[i%10].Host.ID()
					if own := m.From == n.Host.ID(); own != (i%10 == j) {
						t.Errorf("node %d has %q from %s", j, data, m.From)
					}
					if topic == "subtree" && m.Origin != origin {
						t.Errorf("origin of %q is %s, want %s", data, m.Origin, origin)
					}
				}
			}
		}
		s := l.nodes[0].stats("record")
		if s.Messages != 30 || s.Peers < 3 || s.Mesh == 0 || s.Name != wireName("record") {
			t.Errorf("stats: %+v", s)
		}
		if got := l.nodes[0].MeshOf(l.hosts[1].ID()); len(got) == 0 {
			t.Error("node 1 is in no mesh of node 0")
		}
		if got := l.nodes[0].Score(l.hosts[1].ID()); got <= 0 {
			t.Errorf("score of a good peer is %v", got)
		}
	})
}

// A small network must not wait for a heartbeat: a message takes one way to
// each neighbour as soon as subscriptions have crossed.
func TestTwoNodesHearAtOnce(t *testing.T) {
	inLab(t, 2, 0, func(t *testing.T, l *lab) {
		l.serveAll()
		l.connect(0, 1)
		start := time.Now()
		for l.nodes[0].stats("record").Peers == 0 || l.nodes[1].stats("record").Peers == 0 {
			time.Sleep(time.Millisecond)
		}
		crossed := time.Since(start)
		start = time.Now()
		l.publish(l.nodes[0], "record", "first")
		for l.nodes[1].times("first") == 0 {
			time.Sleep(time.Millisecond)
		}
		took := time.Since(start)
		t.Logf("subscriptions crossed %v after the connection, first message %v; one way is %v", crossed, took, latency)
		if crossed > 12*latency || took > 2*latency {
			t.Error("too slow")
		}
	})
}

func TestVerdicts(t *testing.T) {
	inLab(t, 2, 1, func(t *testing.T, l *lab) {
		l.serveAll()
		a, b, evil := l.nodes[0], l.nodes[1], l.hosts[2]
		l.connect(0, 1)
		l.connect(2, 0)
		time.Sleep(3 * time.Second)
		s := l.stream(evil, a)
		for _, tc := range []struct {
			data, ignored string
		}{{"orphan x", "orphan"}, {"known x", "known"}, {"slow x", "timeout"}, {"broken x", "error"}} {
			l.inject(s, "record", []byte(tc.data))
			if got := a.stats("record").Ignored[tc.ignored]; got != 1 {
				t.Errorf("%q: %d ignored as %s, want 1", tc.data, got, tc.ignored)
			}
			if p, why := a.points(evil); p != 0 {
				t.Errorf("%q cost %d points for %s", tc.data, p, why)
			}
			if b.times(tc.data) != 0 {
				t.Errorf("%q was relayed", tc.data)
			}
		}
		if got := a.Score(evil.ID()); got < 0 {
			t.Errorf("ignored messages cost a gossip score of %v", got)
		}
		l.inject(s, "record", []byte("good x"))
		if b.times("good x") != 1 {
			t.Error("a good message was not relayed")
		}
		l.inject(s, "record", []byte("bad x"))
		if p, why := a.points(evil); p != 10 || why != chain.InvalidTx {
			t.Errorf("bad message: %d points for %s", p, why)
		}
		if b.times("bad x") != 0 {
			t.Error("a bad message was relayed")
		}
		if got := a.stats("record").Rejected["invalid_tx"]; got != 1 {
			t.Errorf("%d rejected, want 1", got)
		}
		time.Sleep(2 * time.Second)
		if got := a.Score(evil.ID()); got > -10 {
			t.Errorf("gossip score %v, want −10 of points and what the bad message costs", got)
		}
		l.inject(s, "record", make([]byte, 256<<10+1))
		if p, why := a.points(evil); p != 50 || why != chain.Oversize {
			t.Errorf("oversize: %d points for %s", p, why)
		}
	})
}

// A burst waits for its turn instead of being lost.
func TestBurst(t *testing.T) {
	inLab(t, 2, 0, func(t *testing.T, l *lab) {
		l.serveAll()
		l.connect(0, 1)
		time.Sleep(2 * time.Second)
		for i := range 400 {
			l.publish(l.nodes[0], "record", fmt.Sprint("take ", i))
		}
		time.Sleep(time.Second)
		lost := 0
		for i := range 400 {
			if l.nodes[1].times(fmt.Sprint("take ", i)) == 0 {
				lost++
			}
		}
		if lost > 0 {
			t.Errorf("%d of 400 messages lost: %+v", lost, l.nodes[1].stats("record"))
		}
	})
}

func TestMetricsExist(t *testing.T) {
	inLab(t, 0, 1, func(t *testing.T, l *lab) {
		reg := prometheus.NewRegistry()
		h := l.hosts[0]
		log := slog.New(slog.DiscardHandler)
		rep, err := reputation.New(reputation.Config{}, nil, log, nil)
		if err != nil {
			t.Fatal(err)
		}
		g, err := New(Config{Key: h.Peerstore().PrivKey(h.ID())}, h, rep, event.NewBus(64), log, reg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(l.Context())
		done := make(chan error, 1)
		go func() { done <- g.Run(ctx) }()
		if err := g.Serve(testNet, []chain.Topic{{Name: "record", MaxBytes: 1, Validate: func(context.Context, chain.Message) error { return nil }}}); err != nil {
			t.Error(err)
		}
		families, err := reg.Gather()
		if err != nil {
			t.Error(err)
		}
		var names []string
		for _, f := range families {
			names = append(names, strings.TrimPrefix(f.GetName(), "parley_gossip_"))
		}
		want := []string{"bytes_total", "delay_seconds", "dropped_total", "duplicates_total", "large_messages_total", "mesh_peers", "messages_total", "validate_seconds"}
		if !slices.Equal(names, want) {
			t.Errorf("metrics %v, want %v", names, want)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// Points of reputation silence a peer, and it is heard again when they decay.
func TestRefusedPeersAreNotHeard(t *testing.T) {
	inLab(t, 1, 1, func(t *testing.T, l *lab) {
		l.serveAll()
		a, evil := l.nodes[0], l.hosts[1]
		l.connect(1, 0)
		s := l.stream(evil, a)
		a.rep.Penalize(evil.ID(), chain.Oversize, "test")
		l.inject(s, "record", []byte("one"))
		if a.times("one") != 0 {
			t.Error("a refused peer was heard")
		}
		time.Sleep(25 * time.Minute)
		l.inject(s, "record", []byte("two"))
		if a.times("two") != 1 {
			t.Error("a forgiven peer is not heard")
		}
	})
}

// An RPC over our limits is dropped whole and charged, twice of which cuts the
// peer off from what we send.
func TestExcessIsCharged(t *testing.T) {
	inLab(t, 1, 1, func(t *testing.T, l *lab) {
		l.serveAll()
		a, evil := l.nodes[0], l.hosts[1]
		l.connect(1, 0)
		s := l.stream(evil, a)
		l.send(s, &pb.RPC{Subscriptions: []*pb.RPC_SubOpts{{Subscribe: new(true), Topicid: new(wireName("record"))}}})
		time.Sleep(time.Second)
		if got := a.stats("record").Peers; got != 1 {
			t.Fatalf("%d peers take the topic", got)
		}
		for _, want := range []int{20, 40} {
			l.send(s, &pb.RPC{
				Publish: []*pb.Message{{Topic: new(wireName("record")), Data: []byte("beside")}},
				Control: &pb.ControlMessage{Graft: make([]*pb.ControlGraft, maxGrafts+1)},
			})
			time.Sleep(time.Second)
			if p, why := a.points(evil); p != want || why != chain.Violation {
				t.Errorf("%d points for %s, want %d", p, why, want)
			}
		}
		if a.times("beside") != 0 {
			t.Error("a message of a dropped RPC was validated")
		}
		if got := a.stats("record").Peers; got != 0 {
			t.Error("a discouraged peer still gets what we send")
		}
	})
}

func TestPublishReturnsOwnError(t *testing.T) {
	inLab(t, 1, 0, func(t *testing.T, l *lab) {
		l.serveAll()
		n := l.nodes[0]
		var bad *chain.InvalidError
		if err := n.Publish(l.Context(), "record", []byte("bad x")); !errors.As(err, &bad) || bad.Offence != chain.InvalidTx {
			t.Errorf("bad: %v", err)
		}
		if err := n.Publish(l.Context(), "subtree", []byte("known x")); !errors.Is(err, chain.ErrKnown) {
			t.Errorf("known: %v", err)
		}
		if err := n.Publish(l.Context(), "subtree", make([]byte, 513)); !errors.As(err, &bad) || bad.Offence != chain.Oversize {
			t.Errorf("oversize: %v", err)
		}
		if err := n.Publish(l.Context(), "nowhere", nil); err == nil {
			t.Error("published to a topic that is not served")
		}
		if p, _ := n.points(n.Host); p != 0 {
			t.Errorf("charged ourselves with %d", p)
		}
		l.publish(n, "best_block", "1")
		if err := n.Publish(l.Context(), "best_block", []byte("2")); !errors.Is(err, chain.ErrBusy) {
			t.Errorf("second claim within a second: %v", err)
		}
	})
}

// The network's name is learnt after the connections stand.
func TestLateServe(t *testing.T) {
	inLab(t, 3, 0, func(t *testing.T, l *lab) {
		l.nodes[0].serve(t)
		l.connect(0, 1)
		l.connect(1, 2)
		time.Sleep(time.Minute)
		l.nodes[1].serve(t)
		l.nodes[2].serve(t)
		time.Sleep(2 * time.Second)
		l.publish(l.nodes[0], "record", "down")
		l.publish(l.nodes[2], "record", "up")
		time.Sleep(time.Second)
		if l.nodes[2].times("down") != 1 || l.nodes[0].times("up") != 1 {
			t.Error("lost")
		}
		more := chain.Topic{Name: "more", MaxBytes: 10, Validate: l.nodes[0].validate}
		if err := l.nodes[0].Serve(testNet, []chain.Topic{more}); err != nil {
			t.Error(err)
		}
		if err := l.nodes[0].Serve(testNet, []chain.Topic{more}); err == nil {
			t.Error("one topic served twice")
		}
		for _, bad := range []chain.Topic{
			{Name: "a/b", MaxBytes: 1, Validate: more.Validate}, {Name: "x", MaxBytes: 2 << 20, Validate: more.Validate}, {Name: "y", MaxBytes: 1},
		} {
			if err := l.nodes[0].Serve(testNet, []chain.Topic{bad}); err == nil {
				t.Errorf("served %q", bad.Name)
			}
		}
	})
}

// A peer that takes the topic and does not read fills its queue: Publish says
// so while it is the majority, and goes on when the library gives it up.
func TestPublishIsBusy(t *testing.T) {
	inLab(t, 1, 1, func(t *testing.T, l *lab) {
		l.serveAll()
		n, mute := l.nodes[0], l.hosts[1]
		held := make(chan network.Stream, 8)
		reads := make(chan struct{})
		mute.SetStreamHandler(pubsub.GossipSubID_v12, func(s network.Stream) {
			held <- s
			<-reads
			_, _ = io.Copy(io.Discard, s)
		})
		l.connect(1, 0)
		s := l.stream(mute, n)
		l.send(s, &pb.RPC{Subscriptions: []*pb.RPC_SubOpts{{Subscribe: new(true), Topicid: new(wireName("record"))}}})
		time.Sleep(time.Second)
		<-held
		var err error
		sent := 0
		for ; err == nil && sent < 1000; sent++ {
			err = n.Publish(l.Context(), "record", []byte(fmt.Sprint("big ", sent, strings.Repeat(".", 64<<10))))
			synctest.Wait()
		}
		if !errors.Is(err, chain.ErrBusy) {
			t.Fatalf("after %d messages: %v", sent, err)
		}
		t.Logf("busy after %d messages of 64 KiB", sent)
		if sent < maxWaitingBytes/(64<<10) {
			t.Error("too early")
		}
		close(reads)
		time.Sleep(10 * time.Second)
		l.publish(n, "record", "after")
		synctest.Wait()
		n.credit.mu.Lock()
		defer n.credit.mu.Unlock()
		if lane := n.credit.lanes[mute.ID()]; lane == nil || !lane.used || len(lane.waiting) != 0 || lane.bytes != 0 || lane.ours != 0 {
			t.Errorf("lane is not empty: %+v", lane)
		}
	})
}

// A peer that has left is the dialer's to call back: gossip opens its streams on
// the connections that there are, at whatever moment one of them goes.
func TestStreamsDialNobody(t *testing.T) {
	inLab(t, 2, 0, func(t *testing.T, l *lab) {
		l.serveAll()
		n, left := l.nodes[0], l.hosts[1].ID()
		var mu sync.Mutex
		made := 0
		l.hosts[1].Network().Notify(&network.NotifyBundle{ConnectedF: func(network.Network, network.Conn) {
			mu.Lock()
			defer mu.Unlock()
			made++
		}})
		part := func(after time.Duration) {
			l.connect(0, 1)
			time.Sleep(after)
			if err := n.Host.Network().ClosePeer(left); err != nil {
				t.Fatal(err)
			}
			time.Sleep(20 * time.Second)
			if len(n.Host.Peerstore().Addrs(left)) == 0 {
				t.Fatal("its address is forgotten: nobody could dial it")
			}
		}
		part(time.Second)
		if s, err := n.scope.NewStream(l.Context(), left, pubsub.GossipSubID_v12); err == nil {
			_ = s.Reset()
			t.Fatal("a stream of gossip dialled a peer that has left")
		}
		for i := range 40 { // from before the first stream to after all subscriptions
			part(time.Duration(i) * 5 * time.Millisecond)
		}
		mu.Lock()
		defer mu.Unlock()
		if made != 41 {
			t.Errorf("%d connections, of which 41 were asked for", made)
		}
	})
}

func TestRunEnds(t *testing.T) {
	inLab(t, 2, 0, func(t *testing.T, l *lab) {
		l.serveAll()
		l.connect(0, 1)
		time.Sleep(3 * time.Second)
		n := l.nodes[0]
		n.scope.mu.Lock()
		if len(n.scope.streams) == 0 {
			t.Error("no stream is held")
		}
		n.scope.mu.Unlock()
		n.stop()
		n.done <- <-n.done // seen here, read again at the end
		for _, id := range n.Host.Mux().Protocols() {
			if strings.HasPrefix(string(id), "/meshsub") {
				t.Errorf("%s is still served", id)
			}
		}
		time.Sleep(time.Second)
		for _, c := range n.Host.Network().Conns() {
			for _, s := range c.GetStreams() {
				t.Errorf("stream %s is left", s.Protocol())
			}
		}
		if err := n.Publish(l.Context(), "record", []byte("x")); err == nil {
			t.Error("published after the end")
		}
		if err := n.Serve(testNet, n.topics()); err == nil {
			t.Error("served after the end")
		}
		if err := n.Run(l.Context()); err == nil {
			t.Error("ran twice")
		}
		if got := n.stats("record").Peers; got != 0 {
			t.Errorf("%d peers after the end", got)
		}
	})
}

func TestServeAndPublishWaitForRun(t *testing.T) {
	inLab(t, 0, 1, func(t *testing.T, l *lab) {
		h := l.hosts[0]
		ctx, stop := context.WithCancel(t.Context())
		nd := newNode(t, h)
		nd.stop()
		<-nd.done
		g, err := New(nd.cfg, h, nd.rep, event.NewBus(64), slog.New(slog.DiscardHandler), nil)
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan error, 1)
		go func() { served <- g.Serve(testNet, nd.topics()) }()
		short, cancel := context.WithTimeout(l.Context(), time.Second)
		defer cancel()
		if err := g.Publish(short, "record", nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("publish before Run: %v", err)
		}
		done := make(chan error, 1)
		go func() { done <- g.Run(ctx) }()
		if err := <-served; err != nil {
			t.Error(err)
		}
		if err := g.Publish(l.Context(), "record", []byte("x")); err != nil {
			t.Error(err)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestMessageID(t *testing.T) {
	id := func(topic, data string) string {
		return hex.EncodeToString([]byte(messageID(&pb.Message{Topic: &topic, Data: []byte(data)})))
	}
	// printf '\0\2abc' | sha256sum
	if got, want := id("ab", "c"), "962153e6574da2f1423e2b21a9f1fdea2016f0d1"; got != want {
		t.Errorf("id is %s, want %s", got, want)
	}
	if id("a", "bc") == id("ab", "c") {
		t.Error("two topics share an id")
	}
}
