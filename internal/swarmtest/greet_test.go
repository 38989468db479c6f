package swarmtest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/multiformats/go-multiaddr"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/event"
)

// stalling is a log that holds up who writes one message, as a slow disk would.
type stalling struct {
	slog.Handler
	message string
	stall   time.Duration
	begun   chan struct{} // gets one for each such message
}

func (h stalling) Enabled(context.Context, slog.Level) bool { return true }

func (h stalling) WithAttrs(a []slog.Attr) slog.Handler {
	h.Handler = h.Handler.WithAttrs(a)
	return h
}

func (h stalling) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == h.message {
		h.begun <- struct{}{}
		time.Sleep(h.stall)
	}
	return h.Handler.Handle(ctx, r)
}

// TestRestartGreetsOnce: a node that starts on a stored chain greets its peers
// once, however long it takes until it serves the chain. A second greeting
// would be charged.
func TestRestartGreetsOnce(t *testing.T) {
	Run(t, func(s *Swarm) {
		t := s.T
		a := s.Add()
		a.Start()
		b := s.Add(Peers(a.Addr()))
		b.Start()
		a.Submit("one", `{}`, parley.Committed)
		s.Agree(time.Minute, a, b)
		b.Stop()
		time.Sleep(2 * time.Minute)
		sub := a.Events().Subscribe()
		defer sub.Close()

		listen, err := multiaddr.NewMultiaddr(fmt.Sprintf("/ip4/%s/udp/%d/quic-v1", b.ip, port))
		if err != nil {
			t.Fatal(err)
		}
		slow := stalling{slog.NewTextHandler(b.Log, nil), "serving the chain", 10 * time.Second, make(chan struct{}, 1)}
		l := &life{node: b}
		run, err := parley.New(b.cfg, parley.Env{Log: slog.New(slow), NoListeners: true, Resolve: resolve,
			ListenUDP: l.listenUDP, Host: []libp2p.Option{libp2p.ResourceManager(b.limits)}, LedgerFS: b.disk, MemoryWAL: b.wal, Listen: []multiaddr.Multiaddr{listen}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- run.Run(ctx) }()
		<-slow.begun
		time.Sleep(slow.stall / 2)
		if n := run.PeerCount().Connected; n != 1 {
			t.Errorf("%d peers greeted before the chain is served: this proves nothing", n)
		}
		time.Sleep(30 * time.Second)
		s.Until("the peers go on with the chain", time.Minute, func() bool { return run.Health().Status == "ready" })
		events, _ := sub.Take(1000)
		for _, e := range events {
			if p, ok := e.Data.(event.PeerPenalized); ok {
				t.Errorf("node2 was charged: %+v", p)
			}
		}
		cancel()
		if err := errors.Join(<-done, run.Close()); err != nil {
			t.Error(err)
		}
	})
}

// TestStrangersAreTold: a node whose PEERS are of another chain than the one it
// waits for, or has, says so, with both and with what to do.
func TestStrangersAreTold(t *testing.T) {
	Run(t, func(s *Swarm) {
		t := s.T
		a := s.Add()
		a.Start()
		pin := strings.Repeat("ab", 32)
		pinned := s.Add(Peers(a.Addr()), func(c *config.Config) { c.Consortium.GenesisHash = pin })
		pinned.Start()
		named := s.Add(Peers(a.Addr()), func(c *config.Config) { c.Consortium.ChainID = "story-other" })
		named.Start()
		other := s.Add()
		other.Start()
		other.Stop()
		other.cfg.P2P.StaticPeers = []string{a.Addr()}
		other.Start()
		on, err := a.Chain()
		if err != nil {
			t.Fatal(err)
		}
		theirs := on.GenesisHash.String()
		for _, c := range []struct {
			node *Node
			want []string
		}{
			{pinned, []string{a.Addr(), pin, theirs, "correct consortium.genesis_hash, or PEERS; parley config show --origin"}},
			{named, []string{a.Addr(), "story-other", on.ChainID, "correct consortium.chain_id, or PEERS"}},
			{other, []string{a.Addr(), a.Node.Status().ChainID, "or start on another --data-dir"}},
		} {
			s.Until(c.node.Name+" tells why", 30*time.Second, func() bool {
				reasons := strings.Join(c.node.Node.Status().Reasons, "; ")
				return !slices.ContainsFunc(c.want, func(part string) bool { return !strings.Contains(reasons, part) })
			})
			t.Log(c.node.Node.Status().Reasons)
		}
	})
}
