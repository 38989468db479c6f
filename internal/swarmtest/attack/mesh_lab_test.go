package attack

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"log/slog"
	mrand "math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/x/simlibp2p"
	"github.com/marcopolo/simnet"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/p2p/gossip"
	"github.com/parley-p2p/parley/internal/p2p/handshake"
	"github.com/parley-p2p/parley/internal/p2p/reputation"
)

const (
	meshNet   = "0123abcd"
	meshTopic = "/parley/" + meshNet + "/record"
)

// meshKind is a column of E6 and E7.
type meshKind string

const (
	meshOurs meshKind = "ours"
	meshB0   meshKind = "B0"
	meshB1   meshKind = "B1"
)

// meshLab is one bubble of E6 or E7: hosts that gossip.
type meshLab struct {
	t    *testing.T
	nw   *simnet.Simnet
	ctx  context.Context
	rand *mrand.Rand // set-up only
	kind meshKind
	cost time.Duration // that judging one message takes of a node's core

	author  ed25519.PrivateKey // of all good messages
	hosts   int
	running sync.WaitGroup
	closers []func()
}

// inMesh runs an experiment in virtual time.
func inMesh(t *testing.T, k meshKind, seed uint64, do func(l *meshLab)) {
	t.Helper()
	old := runtime.GOMAXPROCS(1)
	defer runtime.GOMAXPROCS(old)
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		_, author, err := ed25519.GenerateKey(rand.Reader)
		meshMust(t, err)
		l := &meshLab{t: t, ctx: ctx, rand: mrand.New(mrand.NewPCG(seed, 6)), kind: k, author: author}
		l.nw = &simnet.Simnet{LatencyFunc: func(p *simnet.Packet) time.Duration { // each way has its own
			h := fnv.New64a()
			_, _ = fmt.Fprint(h, seed, p.From, p.To)
			return time.Duration(10+h.Sum64()%70) * time.Millisecond
		}}
		l.nw.Start()
		defer func() { // after a Fatal too, or the bubble would complain instead
			cancel()
			l.running.Wait()
			for _, c := range slices.Backward(l.closers) {
				c()
			}
			time.Sleep(time.Minute) // QUIC drains
			l.nw.Close()
		}()
		do(l)
	})
}

func meshMust(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// host makes one with a public address in a group of its own.
func (l *meshLab) host(opts ...libp2p.Option) host.Host {
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	meshMust(l.t, err)
	l.hosts++
	addr := ma.StringCast(fmt.Sprintf("/ip4/%d.%d.0.1/udp/9906/quic-v1", 20+l.hosts/200, l.hosts%200))
	link := simnet.LinkSettings{BitsPerSecond: 50 * simlibp2p.OneMbps}
	h, err := libp2p.New(append(opts, libp2p.Identity(key), libp2p.ListenAddrs(addr), libp2p.Transport(libp2pquic.NewTransport),
		simlibp2p.QUICSimnet(l.nw, simnet.NodeBiDiLinkSettings{Downlink: link, Uplink: link}), libp2p.DisableIdentifyAddressDiscovery(),
		libp2p.UDPBlackHoleSuccessCounter(nil), libp2p.IPv6BlackHoleSuccessCounter(nil))...)
	meshMust(l.t, err)
	l.closers = append(l.closers, func() { _ = h.Close() })
	return h
}

func (l *meshLab) run(f func(context.Context) error) {
	l.running.Go(func() {
		if err := f(l.ctx); err != nil && l.ctx.Err() == nil {
			l.t.Error(err)
		}
	})
}

// rest waits and reports whether the lab still stands.
func (l *meshLab) rest(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-l.ctx.Done():
		return false
	}
}

// meshChain is the network that all nodes of ours are on.
type meshChain struct{}

func (meshChain) ID() chain.NetworkID { return chain.NetworkID{Kind: "consortium", Net: meshNet} }
func (meshChain) Status() chain.Status {
	g := chain.Hash{1}
	return chain.Status{Network: "consortium", ChainID: "mesh", Genesis: g, Head: chain.Head{Hash: g}}
}
func (meshChain) CheckStatus(chain.Status) error                  { return nil }
func (meshChain) Run(ctx context.Context, _ chain.Services) error { <-ctx.Done(); return nil }

// judged is what a node had to judge of one peer's bad messages.
type judged struct {
	first, last time.Time
	n           int
}

// meshNode is an honest node.
type meshNode struct {
	host.Host
	l       *meshLab
	publish func(ctx context.Context, data []byte) error
	greet   *handshake.Handshake // nil: there is no handshake
	core    chan struct{}        // held while a message is judged

	mu    sync.Mutex           // guards below
	heard map[uint64]time.Time // good messages, by number
	bad   map[peer.ID]*judged
}

func (l *meshLab) node() *meshNode {
	n := &meshNode{l: l, core: make(chan struct{}, 1), heard: map[uint64]time.Time{}, bad: map[peer.ID]*judged{}}
	if l.kind == meshOurs {
		n.beOurs()
	} else {
		n.beStock()
	}
	return n
}

// beOurs makes it the rooms of ours that have a part in this: gossip charges,
// reputation keeps the points and refuses, handshake closes.
func (n *meshNode) beOurs() {
	l, log, bus := n.l, slog.New(slog.DiscardHandler), event.NewBus(4096)
	rep, err := reputation.New(reputation.Config{}, bus, nil, nil)
	meshMust(l.t, err)
	n.Host = l.host(libp2p.ConnectionGater(reputation.NewGate(rep)))
	n.greet = handshake.New(handshake.Config{}, n.Host, rep, meshChain{}, bus, log, nil)
	g, err := gossip.New(gossip.Config{Key: n.Peerstore().PrivKey(n.ID())}, n.Host, rep, bus, log, nil)
	meshMust(l.t, err)
	l.run(n.greet.Run)
	l.run(g.Run)
	meshMust(l.t, g.Serve(meshNet, []chain.Topic{{Name: "record", MaxBytes: 1 << 10, Validate: func(ctx context.Context, m chain.Message) error {
		return n.judge(ctx, m.From, m.Data)
	}}}))
	n.publish = func(ctx context.Context, data []byte) error { return g.Publish(ctx, "record", data) }
}

// beStock makes it libp2p.New and NewGossipSub with all defaults (B0), or with
// the peer scores of DEFENCE 10.1 too (B1).
func (n *meshNode) beStock() {
	l := n.l
	n.Host = l.host()
	var opts []pubsub.Option
	if l.kind == meshB1 {
		opts = append(opts, meshScores())
	}
	ps, err := pubsub.NewGossipSub(l.ctx, n.Host, opts...)
	meshMust(l.t, err)
	meshMust(l.t, ps.RegisterTopicValidator(meshTopic, func(ctx context.Context, from peer.ID, m *pubsub.Message) pubsub.ValidationResult {
		if n.judge(ctx, from, m.Data) != nil {
			return pubsub.ValidationReject
		}
		return pubsub.ValidationAccept
	}))
	topic, err := ps.Join(meshTopic)
	meshMust(l.t, err)
	sub, err := topic.Subscribe()
	meshMust(l.t, err)
	l.running.Go(func() {
		for {
			if _, err := sub.Next(l.ctx); err != nil {
				return
			}
		}
	})
	n.publish = func(ctx context.Context, data []byte) error { return topic.Publish(ctx, data) }
}

// meshScores are the scores of DEFENCE 10.1, for a topic of records.
func meshScores() pubsub.Option {
	return pubsub.WithPeerScore(&pubsub.PeerScoreParams{
		Topics: map[string]*pubsub.TopicScoreParams{meshTopic: {
			SkipAtomicValidation: true, TopicWeight: 0.25,
			TimeInMeshWeight: 0.01, TimeInMeshQuantum: time.Second, TimeInMeshCap: 300,
			FirstMessageDeliveriesWeight: 0.1, FirstMessageDeliveriesCap: 100, FirstMessageDeliveriesDecay: pubsub.ScoreParameterDecay(10 * time.Minute),
			InvalidMessageDeliveriesWeight: -10, InvalidMessageDeliveriesDecay: pubsub.ScoreParameterDecay(time.Hour),
		}},
		TopicScoreCap: 40, AppSpecificScore: func(peer.ID) float64 { return 0 }, AppSpecificWeight: 1,
		IPColocationFactorWeight: -5, IPColocationFactorThreshold: 8,
		BehaviourPenaltyWeight: -5, BehaviourPenaltyThreshold: 6, BehaviourPenaltyDecay: pubsub.ScoreParameterDecay(10 * time.Minute),
		DecayInterval: time.Second, DecayToZero: 0.01, RetainScore: time.Hour,
	}, &pubsub.PeerScoreThresholds{GossipThreshold: -40, PublishThreshold: -60, GraylistThreshold: -80, AcceptPXThreshold: 1000, OpportunisticGraftThreshold: 2})
}

// good makes message number i.
func (l *meshLab) good(i uint64) []byte {
	body := binary.BigEndian.AppendUint64(nil, i)
	return append(ed25519.Sign(l.author, body), body...)
}

// meshBad makes a message that no node takes.
func meshBad(i uint64) []byte {
	return binary.BigEndian.AppendUint64(make([]byte, ed25519.SignatureSize), i)
}

// judge verifies a message, which takes the node's only core for a while.
func (n *meshNode) judge(ctx context.Context, from peer.ID, data []byte) error {
	if from != n.ID() && n.l.cost > 0 {
		select {
		case n.core <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		time.Sleep(n.l.cost)
		<-n.core
	}
	ok := len(data) == ed25519.SignatureSize+8 && ed25519.Verify(n.l.author.Public().(ed25519.PublicKey), data[ed25519.SignatureSize:], data[:ed25519.SignatureSize])
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	if !ok {
		b := n.bad[from]
		if b == nil {
			b = &judged{first: now}
			n.bad[from] = b
		}
		b.last = now
		b.n++
		return chain.Invalid(chain.InvalidTx, "bad signature")
	}
	if i := binary.BigEndian.Uint64(data[ed25519.SignatureSize:]); n.heard[i].IsZero() {
		n.heard[i] = now
	}
	return nil
}

// dial connects n with another, and shakes hands where that is done.
func (n *meshNode) dial(h host.Host) {
	meshMust(n.l.t, meshDial(n.l.ctx, n.Host, n.greet, h))
}

func meshDial(ctx context.Context, from host.Host, greet *handshake.Handshake, to host.Host) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := from.Connect(ctx, peer.AddrInfo{ID: to.ID(), Addrs: to.Addrs()}); err != nil {
		return err
	}
	if greet == nil {
		return nil
	}
	return greet.Greet(ctx, to.ID())
}

// greeter lets a host of the attacker speak our handshake, where there is one.
func (l *meshLab) greeter(h host.Host) *handshake.Handshake {
	if l.kind != meshOurs {
		return nil
	}
	rep, err := reputation.New(reputation.Config{}, nil, nil, nil)
	meshMust(l.t, err)
	s := handshake.New(handshake.Config{}, h, rep, meshChain{}, event.NewBus(64), slog.New(slog.DiscardHandler), nil)
	l.run(s.Run)
	return s
}

// traffic is good messages and when they were sent.
type traffic struct {
	by   map[uint64]*meshNode
	sent map[uint64]time.Time
}

// talk has random nodes of from publish each every, for a while.
func (l *meshLab) talk(from []*meshNode, first uint64, every, lasting time.Duration) traffic {
	tr := traffic{map[uint64]*meshNode{}, map[uint64]time.Time{}}
	for i := range uint64(lasting / every) {
		n := from[l.rand.IntN(len(from))]
		tr.by[first+i], tr.sent[first+i] = n, time.Now()
		meshMust(l.t, n.publish(l.ctx, l.good(first+i)))
		time.Sleep(every)
	}
	return tr
}

// arrivals are how long the messages of tr took to those of to, in order, and
// how many should have come.
func (tr traffic) arrivals(to ...*meshNode) (took []time.Duration, want int) {
	for _, n := range to {
		n.mu.Lock()
		for i, at := range tr.sent {
			if tr.by[i] == n {
				continue
			}
			want++
			if t := n.heard[i]; !t.IsZero() {
				took = append(took, t.Sub(at))
			}
		}
		n.mu.Unlock()
	}
	slices.Sort(took)
	return took, want
}

// p99 of all that should have come; ok is false where too many never came.
func p99(took []time.Duration, want int) (d time.Duration, ok bool) {
	i := (want*99 + 99) / 100
	if i == 0 || i > len(took) {
		return 0, false
	}
	return took[i-1], true
}
