package swarmtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/event"
)

// line starts n nodes of a sidecar network, each with the one before as its
// only peer.
func (s *Swarm) line(n int, edit ...func(*config.Config)) []*Node {
	s.T.Helper()
	for i := range n {
		node := s.Add(append([]func(*config.Config){Sidecar("main"), Alone}, edit...)...)
		if i > 0 {
			node.cfg.P2P.StaticPeers = []string{s.nodes[i-1].Addr()}
		}
		node.Start()
	}
	s.lined(s.nodes...)
	return s.nodes
}

func (s *Swarm) lined(nodes ...*Node) {
	s.T.Helper()
	s.Until("each has its neighbours", 30*time.Second, func() bool {
		for i, n := range nodes {
			want := 2
			if i == 0 || i == len(nodes)-1 {
				want = 1
			}
			if n.PeerCount().Connected < want {
				return false
			}
		}
		return true
	})
}

var txs = parley.ProgramHello{Name: "test", Topics: []parley.ProgramTopic{{Name: "tx", Validate: true}}, Protocols: []string{"sync"}}

// subscribed waits until neighbours know each other's topics.
func (s *Swarm) subscribed() { time.Sleep(5 * time.Second) }

func (n *Node) publish(topic, data string) string {
	n.swarm.T.Helper()
	id, err := n.PublishMessage(n.swarm.T.Context(), topic, []byte(data))
	if err != nil {
		n.swarm.T.Fatalf("%s: publish: %v", n.Name, err)
	}
	return id
}

// A program's message is judged by the program of each node on its way, and
// read by all; one that a program rejects goes no further and costs its sender.
func TestProgramsMessageArrives(t *testing.T) {
	Run(t, func(s *Swarm) {
		nodes := s.line(4)
		var programs []*Program
		var readers []*parley.MessageReader
		for _, n := range nodes {
			programs = append(programs, n.Attach(txs, &Program{Judge: func(v parley.ProgramValidate) (parley.ProgramVerdict, string, bool) {
				switch {
				case strings.HasPrefix(string(v.Data), "bad"):
					return parley.VerdictReject, "", true
				case strings.HasPrefix(string(v.Data), "forged"):
					return parley.VerdictReject, "invalid_block", true
				case strings.HasPrefix(string(v.Data), "dull"):
					return parley.VerdictIgnore, "", true
				}
				return parley.VerdictAccept, "", true
			}}))
			r, err := n.ReadMessages([]string{"tx"})
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			readers = append(readers, r)
		}
		s.subscribed()
		id := nodes[0].publish("tx", "good")
		for i, r := range readers {
			ctx, cancel := context.WithTimeout(s.T.Context(), 5*time.Second)
			m, err := r.Next(ctx)
			cancel()
			from := nodes[max(0, i-1)].ID() // each has it of its neighbour, the first of itself
			if err != nil || m.ID != id || m.Topic != "tx" || string(m.Data) != "good" || m.From != from {
				t.Errorf("node%d reads %+v, %v; want good with id %s from %s", i+1, m, err, id, from)
			}
		}
		if m := toldOf[parley.ProgramMessage](programs[0]); len(m) != 1 || m[0].From != nodes[0].ID() || programs[0].Asked("good") {
			t.Errorf("the publisher's own program is told %+v, asked: %v", m, programs[0].Asked("good"))
		}
		nodes[1].publish("tx", "bad")
		nodes[1].publish("tx", "dull")
		nodes[1].publish("tx", "forged")
		s.Until("the third program has judged", 5*time.Second, func() bool {
			return programs[2].Asked("bad") && programs[2].Asked("dull") && programs[2].Asked("forged")
		})
		time.Sleep(5 * time.Second)
		if programs[3].Asked("bad") || programs[3].Asked("dull") || programs[3].Asked("forged") {
			t.Error("what the third program did not accept has reached the fourth")
		}
		d, _ := nodes[2].PeerDetail(nodes[1].ID())
		got := map[string]int{}
		for _, r := range d.Reputation.Reasons {
			got[string(r.Reason)] += r.Points
		}
		if len(got) != 2 || got["invalid_tx"] != 10 || got["invalid_block"] != 50 {
			t.Errorf("node3 charges node2 %v, want invalid_tx 10 and invalid_block 50", got)
		}
		if d, _ := nodes[1].PeerDetail(nodes[2].ID()); d.Reputation.Points != 0 {
			t.Errorf("node2 charges node3 %+v", d.Reputation)
		}
		if v := nodes[2].verdicts("tx"); v["accept"] != 1 || v["reject"] != 2 || v["ignore"] != 1 {
			t.Errorf("node3 counts %v", v)
		}
	})
}

// verdicts reads the counter of a topic.
func (n *Node) verdicts(topic string) map[string]int {
	counts := map[string]int{}
	families, err := n.Registry.Gather()
	if err != nil {
		n.swarm.T.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			labels := prometheus.Labels{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			if f.GetName() == "parley_sidecar_verdicts_total" && labels["topic"] == topic {
				counts[labels["verdict"]] = int(m.GetCounter().GetValue())
			}
		}
	}
	return counts
}

// What becomes of messages without a verdict: of a program that is silent, and
// of none.
func TestNoVerdict(t *testing.T) {
	for _, accept := range []bool{false, true} {
		t.Run(fmt.Sprintf("accept=%v", accept), func(t *testing.T) {
			Run(t, func(s *Swarm) {
				policy := config.SidecarIgnore
				if accept {
					policy = config.SidecarAccept
				}
				nodes := s.line(3, func(c *config.Config) {
					c.Sidecar.OnTimeout, c.Sidecar.OnDetached = policy, policy
					c.Sidecar.Topics = config.SidecarTopics{{Name: "tx", Validate: true}}
				})
				silent := &Program{Judge: func(parley.ProgramValidate) (v parley.ProgramVerdict, _ string, say bool) { return v, "", false }}
				nodes[1].Attach(txs, silent)
				last := nodes[2].Attach(txs, &Program{})
				s.subscribed()
				nodes[0].publish("tx", "silence") // the first has no program, and a topic of its configuration
				s.Until("the second program is asked", 5*time.Second, func() bool { return silent.Asked("silence") })
				time.Sleep(300 * time.Millisecond)
				if last.Asked("silence") {
					t.Error("relayed before the time of the verdict was over")
				}
				time.Sleep(5 * time.Second)
				if last.Asked("silence") != accept {
					t.Errorf("after the time for a verdict: relayed %v", last.Asked("silence"))
				}
				silent.Leave()
				nodes[0].publish("tx", "nobody")
				time.Sleep(5 * time.Second)
				if last.Asked("nobody") != accept {
					t.Errorf("while no program is attached: relayed %v", last.Asked("nobody"))
				}
				if v := nodes[1].verdicts("tx"); v["timeout"] != 1 || v["detached"] != 1 || v["accept"] != 0 {
					t.Errorf("node2 counts %v", v)
				}
				for _, p := range nodes[1].Peers() {
					if p.Points != 0 {
						t.Errorf("%s is charged %d", p.Name, p.Points)
					}
				}
			})
		})
	}
}

// Programs ask each other; what has no answer says why.
func TestProgramsAskEachOther(t *testing.T) {
	Run(t, func(s *Swarm) {
		nodes := s.line(3)
		a, b := nodes[0], nodes[1]
		big := bytes.Repeat([]byte{7}, 3<<20)
		server := b.Attach(txs, &Program{Answer: func(in parley.ProgramIncoming) [][]byte {
			if in.Protocol != "sync" || in.Peer != a.ID() {
				t.Errorf("asked %s by %s", in.Protocol, in.Peer)
			}
			if string(in.Data) == "nothing" {
				return nil
			}
			return [][]byte{in.Data, big, big, []byte("end")}
		}})
		a.Attach(txs, &Program{})
		ask := func(data string) (parts [][]byte, err error) {
			err = a.RequestPeer(s.T.Context(), b.ID(), "sync", []byte(data), func(p []byte) error {
				parts = append(parts, bytes.Clone(p))
				return nil
			})
			return parts, err
		}
		parts, err := ask("from 7")
		if err != nil || len(parts) != 4 || string(parts[0]) != "from 7" || !bytes.Equal(parts[2], big) || string(parts[3]) != "end" {
			t.Errorf("%d parts, %v", len(parts), err)
		}
		started := time.Now()
		if _, err := ask("nothing"); !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, parley.ErrCutOff) || time.Since(started) > 31*time.Second {
			t.Errorf("without an answer: %v after %v", err, time.Since(started))
		}
		var answered *parley.AnswerError
		server.Leave()
		if _, err := ask("anybody"); !errors.As(err, &answered) || !strings.Contains(err.Error(), "no program") {
			t.Errorf("without a program: %v", err)
		}
		if err := a.RequestPeer(s.T.Context(), nodes[2].ID(), "sync", nil, nil); !errors.Is(err, parley.ErrNoPeer) {
			t.Errorf("of a stranger: %v", err)
		}
		if err := a.RequestPeer(s.T.Context(), b.ID(), "other", nil, nil); !errors.Is(err, parley.ErrNoPeer) {
			t.Errorf("of what is not served: %v", err)
		}
		var size *parley.SizeError
		if err := a.RequestPeer(s.T.Context(), b.ID(), "sync", make([]byte, 1<<20+1), nil); !errors.As(err, &size) {
			t.Errorf("over the limit: %v", err)
		}
	})
}

// Networks of different names share nothing, and say so.
func TestSidecarNetworksAreApart(t *testing.T) {
	Run(t, func(s *Swarm) {
		a := s.Add(Sidecar("main"), Alone)
		a.Start()
		b := s.Add(Sidecar("other"), Alone, Peers(a.Addr()))
		b.Start()
		c := s.Add(Alone, Peers(a.Addr())) // of the embedded chain
		c.Start()
		p := a.Attach(txs, &Program{})
		q := b.Attach(txs, &Program{})
		s.Until("all logs tell why", 30*time.Second, func() bool {
			return a.Log.Has("sidecar/main", "sidecar/other") && b.Log.Has("sidecar/main", "sidecar/other") && c.Log.Has("sidecar/main")
		})
		if n := a.PeerCount().Connected + b.PeerCount().Connected + c.PeerCount().Connected; n != 0 {
			t.Errorf("%d connections are left", n)
		}
		if p.Net() != "82bb8147" || q.Net() == p.Net() {
			t.Errorf("<net> is %s and %s", p.Net(), q.Net())
		}
		protocols := strings.Join(a.Info().Protocols, " ")
		if !strings.Contains(protocols, "/parley/82bb8147/app/sync/1") || strings.Contains(protocols, "consensus") {
			t.Errorf("protocols %s", protocols)
		}
	})
}

// A second program replaces the first; one that comes back soon finds all as it
// was, and after half a minute its topics are gone.
func TestProgramComesAndGoes(t *testing.T) {
	Run(t, func(s *Swarm) {
		nodes := s.line(2)
		a, b := nodes[0], nodes[1]
		topicsOf := func() []string {
			var list []string
			for _, p := range b.Info().Protocols {
				if strings.Contains(p, "/app/") {
					list = append(list, p)
				}
			}
			return list
		}
		first := b.Attach(txs, &Program{})
		second := b.Attach(txs, &Program{})
		s.Until("the first is ended", time.Second, func() bool { return errors.Is(first.Ended(), parley.ErrReplaced) })
		if err := first.Verdict(1, parley.VerdictAccept, ""); !errors.Is(err, parley.ErrReplaced) {
			t.Errorf("verdict of a replaced program: %v", err)
		}
		source := a.Attach(txs, &Program{})
		s.subscribed()
		a.publish("tx", "one")
		s.Until("the second is asked", 5*time.Second, func() bool { return second.Asked("one") })
		second.Leave()
		time.Sleep(20 * time.Second)
		if len(topicsOf()) != 1 {
			t.Errorf("after 20 s the node serves %v", topicsOf())
		}
		third := b.Attach(txs, &Program{})
		a.publish("tx", "two") // at once: the subscription never ended
		s.Until("the third is asked", 5*time.Second, func() bool { return third.Asked("two") })
		third.Leave()
		time.Sleep(31 * time.Second)
		if len(topicsOf()) != 0 {
			t.Errorf("after 31 s the node serves %v", topicsOf())
		}
		if _, err := b.PublishMessage(s.T.Context(), "tx", []byte("x")); !errors.Is(err, parley.ErrNoTopic) {
			t.Errorf("publish to a topic that is gone: %v", err)
		}
		fourth := b.Attach(parley.ProgramHello{Topics: []parley.ProgramTopic{{Name: "tx", MaxBytes: 10, Validate: true}, {Name: "block"}}}, &Program{})
		s.subscribed()
		a.publish("tx", "three")
		s.Until("the fourth is asked", 5*time.Second, func() bool { return fourth.Asked("three") })
		a.publish("tx", "longer than it takes")
		s.Until("the sender is charged", 5*time.Second, func() bool {
			d, _ := b.PeerDetail(a.ID())
			for _, r := range d.Reputation.Reasons {
				if r.Reason == chain.Oversize {
					return true
				}
			}
			return false
		})
		if source.Ended() != nil || fourth.Ended() != nil {
			t.Errorf("programs ended: %v, %v", source.Ended(), fourth.Ended())
		}
	})
}

// Programs attach to nodes that are peers already: the chain is told at once to
// all, which offends nobody, and who is of another one is left.
func TestProgramsChainIsTold(t *testing.T) {
	Run(t, func(s *Swarm) {
		nodes := s.line(3)
		hello := txs
		hello.Genesis = chain.Hash{1}
		var programs []*Program
		for i, n := range nodes {
			h := hello
			h.Status = []byte(n.Name)
			if i == 2 {
				h.Genesis = chain.Hash{2}
			}
			programs = append(programs, n.Attach(h, &Program{}))
		}
		a, b, c := nodes[0], nodes[1], nodes[2]
		s.Until("the third is left", 10*time.Second, func() bool { return c.PeerCount().Connected == 0 })
		sub := a.Events().Subscribe()
		defer sub.Close()
		if err := a.SetHead(parley.ProgramHead{Head: chain.Head{Height: 5, Hash: chain.Hash{5}}, BlockCount: 6}); err != nil {
			t.Fatal(err)
		}
		s.Until("the neighbour's program knows the head and the status", 10*time.Second, func() bool {
			told := toldOf[parley.ProgramStatusOf](programs[1])
			last := told[len(told)-1]
			return last.Peer == a.ID() && last.Head.Height == 5 && string(last.Status) == "node1"
		})
		if gone := toldOf[parley.ProgramPeerGone](programs[1]); len(gone) != 1 || gone[0].Peer != c.ID() || gone[0].Reason == "" {
			t.Errorf("peers that are gone: %+v", gone)
		}
		for _, n := range []*Node{a, b} {
			for _, p := range n.Peers() {
				if p.Points > 0 {
					t.Errorf("%s charges %s %d", n.Name, p.Name, p.Points)
				}
			}
		}
		st, ch := a.Node.Status(), must(a.Chain())
		if st.Head == nil || st.Head.Height != 5 || st.Role != parley.RoleAttached || st.Verdict != "healthy" || ch.BlockCount != 6 || ch.GenesisHash != hello.Genesis {
			t.Errorf("status %+v, chain %+v", st, ch)
		}
		if !a.hears(sub, event.HeadChanged{Height: 5, Hash: chain.Hash{5}}) {
			t.Error("no head.changed")
		}
		if err := a.SetHead(parley.ProgramHead{Head: chain.Head{Height: 4, Hash: chain.Hash{4}}, BlockCount: 5}); err != nil {
			t.Fatal(err)
		}
		if !a.hears(sub, event.HeadChanged{Height: 4, Hash: chain.Hash{4}, Depth: 2}) {
			t.Error("no head.changed for a fork")
		}
		if err := b.ReportPeer(a.ID(), "false_claim", "it has no such head"); err != nil {
			t.Error(err)
		}
		if d, _ := b.PeerDetail(a.ID()); d.Reputation.Points != 20 {
			t.Errorf("reported for a false claim: %+v", d.Reputation)
		}
		programs[0].Leave()
		if st := a.Node.Status(); st.Role != parley.RoleDetached || st.Verdict != "degraded" {
			t.Errorf("without a program: %s, %s", st.Role, st.Verdict)
		}
		if _, err := a.Node.Attach(s.T.Context(), parley.ProgramHello{API: parley.ProgramAPI, Genesis: chain.Hash{9}}); err == nil || !strings.Contains(err.Error(), "restart") {
			t.Errorf("a program with another genesis: %v", err)
		}
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// hears reports whether an event is among those that came.
func (n *Node) hears(sub *event.Subscription, want any) bool {
	events, _ := sub.Take(1000)
	return slices.ContainsFunc(events, func(e event.Envelope) bool { return e.Data == want })
}

// What a sidecar node has not says so, and a node of the embedded chain has no
// place for a program.
func TestNotOnThisNetwork(t *testing.T) {
	Run(t, func(s *Swarm) {
		side, embedded := s.Add(Sidecar("main"), Alone), s.Add(Alone)
		side.Start()
		embedded.Start()
		_, _, blocks := side.Blocks(parley.Range{})
		_, block := side.Block("0")
		_, submit := side.Node.Submit(s.T.Context(), parley.Draft{Subject: "x"}, parley.Committed)
		_, record := side.Record(chain.Hash{1})
		_, _, history := side.History("x", parley.Range{})
		_, proof := side.Proof(chain.Hash{1})
		_, change := side.ChangeValidators(s.T.Context(), parley.ChangeRequest{})
		_, backup := side.Backup(s.T.Context(), &bytes.Buffer{}, false)
		_, attach := embedded.Node.Attach(s.T.Context(), txs)
		_, publish := embedded.PublishMessage(s.T.Context(), "tx", []byte{1})
		_, read := embedded.ReadMessages(nil)
		for i, err := range []error{blocks, block, submit, record, history, proof, change, backup, attach, publish, read, embedded.SetHead(parley.ProgramHead{})} {
			if !errors.Is(err, parley.ErrOtherNetwork) {
				t.Errorf("%d: %v", i, err)
			}
		}
		if _, err := side.Chain(); !errors.Is(err, parley.ErrNoHead) {
			t.Errorf("chain without a head: %v", err)
		}
		if v := side.Validators(); v != nil || len(side.Heads()) != 0 || side.Health().Status != "not_ready" {
			t.Errorf("validators %v, health %+v", v, side.Health())
		}
	})
}
