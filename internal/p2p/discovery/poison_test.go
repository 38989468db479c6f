package discovery

import (
	"crypto/rand"
	"errors"
	"fmt"
	"testing"
	"time"

	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	kb "github.com/libp2p/go-libp2p-kbucket"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"google.golang.org/protobuf/proto"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/internal/wire"
)

// poisoner answers each question with peers that are not there, near the key.
func (l *lab) poisoner(fake func(key []byte) []*pb.Message_Peer) host.Host {
	h := l.host(l.address(), newKey(l.T))
	h.SetStreamHandler(kadID, func(st network.Stream) {
		defer st.Close()
		_ = st.SetDeadline(time.Now().Add(10 * time.Second))
		b, err := wire.ReadFrame(st, 1<<20)
		var m pb.Message
		if err != nil || proto.Unmarshal(b, &m) != nil {
			return
		}
		m.CloserPeers = fake(m.GetKey())
		out, _ := proto.Marshal(&m)
		_ = wire.WriteFrame(st, out)
	})
	return h
}

// idNear grinds a peer id whose hash shares so many leading bits with a key's.
func idNear(t testing.TB, key string, bits int) (crypto.PrivKey, peer.ID) {
	t.Helper()
	target := kb.ConvertKey(key)
	for {
		k, _, err := crypto.GenerateEd25519Key(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if id := idOf(t, k); kb.CommonPrefixLen(target, kb.ConvertPeerID(id)) >= bits {
			return k, id
		}
	}
}

// A third of the routers lie: they tell of 20 peers near the key that do not
// exist. Values are still found, and the time is bounded.
func TestPoisonedRouters(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		noGreet := func(f *Functions) { f.Connect = nil }
		nodes := l.swarm(16, options{cfg: publicDHT, fns: noGreet})
		time.Sleep(time.Minute)
		a, z := nodes[2], nodes[13]
		key := Key("note", a.host.ID())
		for i := range 8 {
			fakes := make([]*pb.Message_Peer, 20)
			for j := range fakes {
				_, id := idNear(t, key, 5)
				addr := ma.StringCast(fmt.Sprintf("/ip4/101.%d.0.1/udp/9906/quic-v1", i*20+j)) // nobody is there
				fakes[j] = &pb.Message_Peer{Id: []byte(id), Addrs: [][]byte{addr.Bytes()}}
			}
			p := l.poisoner(func([]byte) []*pb.Message_Peer { return fakes })
			for j := range 4 {
				if err := p.Connect(t.Context(), nodes[(i*4+j)%16].info()); err != nil {
					t.Fatal(err)
				}
			}
		}
		time.Sleep(3 * time.Minute)
		if s, err := a.PutValue(t.Context(), key, []byte("here"), nil); err != nil || s.Peers < 8 {
			t.Fatalf("put among liars: %v at %d", err, s.Peers)
		}
		start := time.Now()
		got, err := z.GetValue(t.Context(), key, 0, nil)
		if err != nil || string(got.Value.Data) != "here" {
			t.Fatalf("get among liars: %v after %s, %d steps", err, time.Since(start), len(got.Steps))
		}
		if took := time.Since(start); took > lookupTime+reachTimeout {
			t.Errorf("it took %s", took)
		}
		missed := 0
		for _, step := range got.Steps {
			if step.Err != nil {
				missed++
			}
		}
		t.Logf("found after %s, %d questions, %d without an answer", time.Since(start), len(got.Steps), missed)
		if missed > 60 { // of 160 peers that do not exist
			t.Errorf("%d of %d questions went to peers that do not exist", missed, len(got.Steps))
		}
	})
}

// Bad answers to our questions cost who gave them, and the lookup goes on.
func TestBadDHTAnswers(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		n := l.node(options{cfg: publicDHT, fns: func(f *Functions) { f.Connect = nil }})
		good := l.node(options{cfg: publicDHT, fns: func(f *Functions) { f.Connect = nil }})
		good.meet(n)
		for name, tt := range map[string]struct {
			raw     []byte
			offence chain.Offence
		}{
			"noise":     {[]byte{2, 0xff, 0xff}, chain.Malformed},
			"too large": {[]byte{0xff, 0xff, 0xff, 0x7f}, chain.Oversize},
			"nothing":   {nil, ""},
		} {
			h := l.host(l.address(), newKey(t))
			h.SetStreamHandler(kadID, func(st network.Stream) {
				defer st.Close()
				_, _ = wire.ReadFrame(st, 1<<20)
				_, _ = st.Write(tt.raw)
			})
			if err := h.Connect(t.Context(), n.info()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			if n.tableHas(h.ID()) {
				t.Errorf("%s: it is in the table", name)
			}
			if tt.offence != "" && n.charged(tt.offence) == 0 {
				t.Errorf("%s: charged %v, want %s", name, n.offences, tt.offence)
			}
		}
		if found, err := n.FindNode(t.Context(), good.host.ID(), nil); err != nil || found.Peers[0].ID != good.host.ID() {
			t.Errorf("the lookup did not go on: %v", err)
		}
	})
}

// A value lives as long as its author publishes it, and 48 h longer.
func TestPublishedAgain(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		var nodes []*node
		for range 3 {
			n := l.node(options{cfg: onlyDHT})
			for _, o := range nodes {
				n.meet(o)
			}
			nodes = append(nodes, n)
		}
		time.Sleep(time.Minute)
		author, reader := nodes[0], nodes[2]
		key := Key("note", author.host.ID())
		if _, err := author.PutValue(t.Context(), key, []byte("x"), nil); err != nil {
			t.Fatal(err)
		}
		pk, _ := ProviderKey("file")
		if _, err := author.Provide(t.Context(), pk, nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(60 * time.Hour)
		got, err := reader.GetValue(t.Context(), key, 0, nil)
		if err != nil || time.Since(got.Value.Issued) > 13*time.Hour {
			t.Errorf("after 60 h: %v, issued %s ago", err, time.Since(got.Value.Issued))
		}
		if p, err := reader.FindProviders(t.Context(), pk, 0, nil); err != nil || len(p.Peers) != 1 {
			t.Errorf("providers after 60 h: %v %v", p.Peers, err)
		}
		author.stop()
		_ = author.host.Close()
		time.Sleep(50 * time.Hour)
		if _, err := reader.GetValue(t.Context(), key, 0, nil); !errors.Is(err, ErrNotFound) {
			t.Errorf("50 h after its author went: %v", err)
		}
		if p, err := reader.FindProviders(t.Context(), pk, 0, nil); err != nil || len(p.Peers) != 0 {
			t.Errorf("providers 50 h after: %v %v", p.Peers, err)
		}
	})
}
