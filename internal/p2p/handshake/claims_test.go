package handshake

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/marcopolo/simnet"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/wire"
)

func TestClaimsUpdateTheTable(t *testing.T) {
	bubble(t, func(t *testing.T, nw *simnet.Simnet) {
		a, b := start(t, nw, 1, statusOf("x", 1)), start(t, nw, 2, statusOf("x", 1))
		defer a.stop()
		defer b.stop()
		dial(t, a, b)
		if err := a.Greet(t.Context(), b.host.ID()); err != nil {
			t.Fatal(err)
		}
		topics := map[string]chain.Topic{}
		for _, tp := range a.Topics() {
			topics[tp.Name] = tp
			if !tp.Claim {
				t.Errorf("topic %s is no claim", tp.Name)
			}
			var bad *chain.InvalidError
			if err := tp.Validate(t.Context(), chain.Message{Origin: "p", Data: []byte{0x0a, 0xff}}); !errors.As(err, &bad) || bad.Offence != chain.Malformed {
				t.Errorf("topic %s takes nonsense: %v", tp.Name, err)
			}
		}
		say := func(topic string, origin peer.ID, body []byte) {
			t.Helper()
			if err := topics[topic].Validate(t.Context(), chain.Message{From: "relay", Origin: origin, Data: body}); err != nil {
				t.Fatal(err)
			}
		}
		say(TopicBestBlock, b.host.ID(), wire.BestBlock{Height: 44, Hash: chain.Hash{4}}.Encode())
		if p, _ := a.Peer(b.host.ID()); p.Claimed.Height != 44 || p.Validated.Height != 0 {
			t.Errorf("after best_block: %+v", p)
		}
		say(TopicNodeStatus, "far", wire.NodeStatus{ClientName: "far", BestHeight: 5, BaseURL: "http://10.0.0.1/"}.Encode())
		if list, all := a.Statuses(0); all != 1 || len(list) != 1 || list[0].Peer != "far" || list[0].Status.BestHeight != 5 || list[0].Status.BaseURL != "" {
			t.Errorf("heard %d: %+v", all, list) // its URL leads readers into a network of theirs
		}
		v := wire.Version{Protocol: 1, Name: "far away"}
		v.SetStatus(statusOf("x", 6))
		say(TopicHandshake, "far", v.Encode())
		if _, ok := a.Peer("far"); ok {
			t.Error("a claim made a peer of a node that is not connected")
		}
		v.SetStatus(statusOf("y", 6))
		if err := topics[TopicHandshake].Validate(t.Context(), chain.Message{Origin: "far", Data: v.Encode()}); err == nil {
			t.Error("a version of another chain was relayed")
		}
		for i := range 1000 { // ids cost nothing
			say(TopicBestBlock, peer.ID(fmt.Sprint("node", i)), wire.BestBlock{Height: 1}.Encode())
		}
		if d := a.sampleInterval(); d > 11*time.Second {
			t.Errorf("strangers stretch our node_status to %v", d)
		}
		a.mu.Lock()
		for i := range 99 {
			a.peers[peer.ID(fmt.Sprint("peer", i))] = &entry{peer: Peer{Ready: i%2 == 0}}
		}
		a.mu.Unlock()
		if d := a.sampleInterval(); d > 12*time.Second { // 52 of 101 are ready
			t.Errorf("peers that are not ready stretch our node_status to %v", d)
		}
		a.mu.Lock()
		for i := range 99 {
			a.peers[peer.ID(fmt.Sprint("peer", i))].peer.Ready = true
		}
		a.mu.Unlock()
		if d := a.sampleInterval(); d < 18*time.Second || d > 23*time.Second {
			t.Errorf("with 100 peers node_status comes every %v", d)
		}
		a.mu.Lock()
		for i := range 99 {
			delete(a.peers, peer.ID(fmt.Sprint("peer", i)))
		}
		a.mu.Unlock()
	})
}

// The newest statuses of others are kept, neither our own nor of who is banned.
func TestStatuses(t *testing.T) {
	bubble(t, func(t *testing.T, nw *simnet.Simnet) {
		a := start(t, nw, 1, statusOf("x", 1))
		defer a.stop()
		say := func(origin peer.ID, height uint64) {
			t.Helper()
			m := chain.Message{From: "relay", Origin: origin, Time: time.Now(), Data: wire.NodeStatus{BestHeight: height, BaseURL: "https://n.example.org"}.Encode()}
			if err := a.claimedStatus(t.Context(), m); err != nil {
				t.Fatal(err)
			}
		}
		if list, all := a.Statuses(0); all != 0 || list != nil {
			t.Errorf("before any: %v", list)
		}
		const banned = peer.ID("banned")
		for range 3 {
			a.rep.Penalize(banned, chain.InvalidBlock, "x")
		}
		if !a.rep.Refused(banned) {
			t.Fatal("not refused")
		}
		say(a.host.ID(), 1)
		say(banned, 1)
		for i := range uint64(mostHeard + 5) {
			say("far", i)
		}
		list, all := a.Statuses(0)
		if all != mostHeard+5 || len(list) != mostHeard || list[0].Status.BestHeight != 5 || list[mostHeard-1].Status.BestHeight != mostHeard+4 {
			t.Fatalf("%d came, %d are kept", all, len(list))
		}
		if list[0].Status.BaseURL == "" || list[0].At.IsZero() {
			t.Errorf("%+v", list[0])
		}
		if list, _ := a.Statuses(all - 2); len(list) != 2 || list[1].Status.BestHeight != mostHeard+4 {
			t.Errorf("the last two: %+v", list)
		}
		for _, after := range []uint64{all, all + 7} {
			if list, _ := a.Statuses(after); len(list) != 0 {
				t.Errorf("after %d of %d: %d", after, all, len(list))
			}
		}
	})
}

// Who relays statuses of ids that he made up leaves others their share: the nodes
// that we know, and what others relay.
func TestStatusesAreShared(t *testing.T) {
	bubble(t, func(t *testing.T, nw *simnet.Simnet) {
		a := start(t, nw, 1, statusOf("x", 1), func(c *Config) { c.Known = func(p peer.ID) bool { return p == "known" } })
		b := start(t, nw, 2, statusOf("x", 1))
		defer a.stop()
		defer b.stop()
		dial(t, a, b)
		if err := a.Greet(t.Context(), b.host.ID()); err != nil {
			t.Fatal(err)
		}
		say := func(from, origin peer.ID) {
			t.Helper()
			if err := a.claimedStatus(t.Context(), chain.Message{From: from, Origin: origin, Data: wire.NodeStatus{}.Encode()}); err != nil {
				t.Fatal(err)
			}
		}
		seen := uint64(0)
		for range 3 {
			flood := func() {
				for i := range 500 {
					say("bad", peer.ID(fmt.Sprint("made up", i)))
				}
			}
			flood()
			honest := []peer.ID{b.host.ID(), "known", "far"}
			say("bad", b.host.ID())
			say("bad", "known")
			say("relay", "far")
			flood()
			var list []HeardStatus
			if list, seen = a.Statuses(seen); len(list) < mostHeard-2*len(honest) {
				t.Errorf("%d statuses are kept", len(list))
			}
			for _, h := range list[:len(honest)+1] { // a client that is slow gets the first of them
				honest = slices.DeleteFunc(honest, func(p peer.ID) bool { return p == h.Peer })
			}
			if len(honest) > 0 {
				t.Errorf("what %d of the honest nodes told is lost, or told last", len(honest))
			}
			time.Sleep(time.Second)
		}
	})
}

func TestAnnounce(t *testing.T) {
	bubble(t, func(t *testing.T, nw *simnet.Simnet) {
		a := start(t, nw, 1, statusOf("x", 1))
		defer a.stop()
		var mu sync.Mutex
		sent := map[string]int{}
		var last wire.BestBlock
		publish := func(_ context.Context, topic string, body []byte) error {
			mu.Lock()
			defer mu.Unlock()
			sent[topic]++
			if topic == TopicBestBlock {
				last, _ = wire.DecodeBestBlock(body)
			}
			return nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			done <- a.Announce(ctx, publish, func() wire.NodeStatus { return wire.NodeStatus{ClientName: "node1"} })
		}()
		time.Sleep(30 * time.Second)
		for i := range uint64(50) { // ten a second
			a.chain.set(statusOf("x", 2+i))
			a.bus.Publish(event.HeadChanged{Height: 2 + i})
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(11*time.Minute - 35*time.Second)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		if sent[TopicHandshake] != 2 {
			t.Errorf("%d versions in 11 minutes, want 2", sent[TopicHandshake])
		}
		if n := sent[TopicBestBlock]; n < 5 || n > 7 || last.Height != 51 {
			t.Errorf("%d heads, the last one %d; want one at the start and one a second, up to 51", n, last.Height)
		}
		if n := sent[TopicNodeStatus]; n < 60 || n > 75 {
			t.Errorf("%d node statuses in 11 minutes at 10 s ± 10 %%", n)
		}
	})
}

func TestPublicURL(t *testing.T) {
	for in, keep := range map[string]bool{
		"https://node.example.org/": true, "http://192.0.2.7:8080": true, "http://[2001:db8::1]:8080": true,
		"": false, "ftp://node.example.org": false, "javascript:alert(1)": false, "http://10.0.0.1": false, "http://127.0.0.1": false,
		"http://localhost:8080": false, "http://router.local": false, "http://[::ffff:192.168.0.1]/": false, "http://u:p@node.example.org": false,
		"http://169.254.169.254/latest": false, "http://db.internal": false, "http://": false,
	} {
		if got := publicURL(in); (got == in && in != "") != keep {
			t.Errorf("%q: %q", in, got)
		}
	}
}
