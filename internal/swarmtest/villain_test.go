package swarmtest

import (
	"context"
	"encoding/binary"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"
	"google.golang.org/protobuf/proto"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/consortium"
	"github.com/parley-p2p/parley/internal/wire"
)

const (
	statusProtocol  protocol.ID = "/parley/status/1"
	goodbyeProtocol protocol.ID = "/parley/goodbye/1"
	meshProtocol    protocol.ID = "/meshsub/1.2.0"
)

// villain is a peer of a test's own: it greets like a node, and otherwise does
// on the wire what the test says.
type villain struct {
	t    *testing.T
	node *Node // its place in the network; it never starts
	host host.Host
	life *life
	net  string

	mu     sync.Mutex // guards below
	status chain.Status
	byes   []uint64 // goodbyes heard
}

// newVillain makes one that says it has the genesis of the swarm and no block.
func (s *Swarm) newVillain() *villain {
	t := s.T
	t.Helper()
	n := s.Add()
	v := &villain{t: t, node: n, life: &life{node: n}, net: s.genesis.Net()}
	v.status = chain.Status{Network: "consortium", ChainID: s.genesis.ChainID, Genesis: s.genesis.Hash(), Head: chain.Head{Hash: s.genesis.Hash()}, Services: chain.Full}
	key, err := crypto.UnmarshalEd25519PrivateKey(n.Key)
	if err != nil {
		t.Fatal(err)
	}
	v.host, err = libp2p.New(libp2p.Identity(key), libp2p.ListenAddrStrings(n.listenAddr()), v.life.quic(), libp2p.DisableMetrics(),
		libp2p.DisableRelay(), libp2p.DisableIdentifyAddressDiscovery(), libp2p.ResourceManager(&network.NullResourceManager{}))
	if err != nil {
		t.Fatal(err)
	}
	v.host.SetStreamHandler(statusProtocol, v.greeted)
	v.host.SetStreamHandler(goodbyeProtocol, v.parted)
	return v
}

func (v *villain) close() {
	if err := v.host.Close(); err != nil {
		v.t.Error(err)
	}
	if err := v.life.sockets.Close(); err != nil {
		v.t.Error(err)
	}
}

func (v *villain) id() peer.ID { return v.host.ID() }

func (v *villain) version() []byte {
	v.mu.Lock()
	defer v.mu.Unlock()
	said := wire.Version{Protocol: wire.ProtocolVersion, UserAgent: "villain/1", TimeMS: uint64(time.Now().UnixMilli()), Nonce: uint64(v.node.addr().As4()[1]) + 1}
	said.SetStatus(v.status)
	return said.Encode()
}

// claims has it say from now on that its head is so high.
func (v *villain) claims(height uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.status.Head = chain.Head{Height: height, Hash: chain.Hash{byte(height), 1}}
}

func (v *villain) greeted(st network.Stream) {
	defer st.Close()
	if _, err := wire.ReadFrame(st, wire.MaxVersion); err != nil {
		return
	}
	said, err := wire.DecodeVersion(v.version())
	if err == nil {
		_ = wire.WriteFrame(st, wire.Verack{Version: said}.Encode())
	}
}

func (v *villain) parted(st network.Stream) {
	defer st.Close()
	b, err := wire.ReadFrame(st, wire.MaxGoodbye)
	if err != nil {
		return
	}
	if bye, err := wire.DecodeGoodbye(b); err == nil {
		v.mu.Lock()
		v.byes = append(v.byes, bye.Code)
		v.mu.Unlock()
	}
}

// heard reports whether it was said goodbye to with that code.
func (v *villain) heard(code uint64) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Contains(v.byes, code)
}

// dial connects to n.
func (v *villain) dial(n *Node) error {
	ctx, cancel := context.WithTimeout(v.t.Context(), 10*time.Second)
	defer cancel()
	addr, err := ma.NewMultiaddr(n.listenAddr())
	if err != nil {
		return err
	}
	id, err := n.PublicKey().PeerID()
	if err != nil {
		return err
	}
	return v.host.Connect(ctx, peer.AddrInfo{ID: id, Addrs: []ma.Multiaddr{addr}})
}

// come connects to n and greets it.
func (v *villain) come(n *Node) error {
	if err := v.dial(n); err != nil {
		return err
	}
	_, err := v.ask(n, statusProtocol, frame(v.version()))
	return err
}

// open opens a stream to n, over the connection that there is.
func (v *villain) open(n *Node, p protocol.ID) (network.Stream, error) {
	ctx, cancel := context.WithTimeout(v.t.Context(), 10*time.Second)
	defer cancel()
	st, err := v.host.NewStream(network.WithNoDial(ctx, "villain"), n.ID(), p)
	if err == nil {
		_ = st.SetDeadline(time.Now().Add(20 * time.Second))
	}
	return st, err
}

// ask sends bytes to n and reads what it answers.
func (v *villain) ask(n *Node, p protocol.ID, b []byte) ([]byte, error) {
	st, err := v.open(n, p)
	if err != nil {
		return nil, err
	}
	defer st.Close()
	if _, err := st.Write(b); err != nil {
		return nil, err
	}
	_ = st.CloseWrite()
	return io.ReadAll(st)
}

// says is ask where an answer is not expected.
func (v *villain) says(n *Node, p string, b []byte) {
	_, _ = v.ask(n, protocol.ID("/parley/"+v.net+"/"+p), b)
}

// gossips sends raw bytes on a stream of gossip.
func (v *villain) gossips(n *Node, b []byte) {
	v.t.Helper()
	st, err := v.open(n, meshProtocol)
	if err != nil {
		v.t.Errorf("gossip: %v", err)
		return
	}
	if _, err := st.Write(b); err != nil {
		v.t.Errorf("gossip: %v", err)
	}
	time.Sleep(time.Second)
	_ = st.Reset()
}

// publishes sends messages of a topic.
func (v *villain) publishes(n *Node, topic string, data ...[]byte) {
	v.t.Helper()
	m := &pb.RPC{}
	for _, d := range data {
		m.Publish = append(m.Publish, &pb.Message{Topic: new("/parley/" + v.net + "/" + topic), Data: d})
	}
	v.gossips(n, rpc(v.t, m))
}

// serves answers requests of the chain. f writes the answer.
func (v *villain) serves(f func(r wire.SyncRequest, w io.Writer)) {
	v.host.SetStreamHandler(protocol.ID("/parley/"+v.net+"/sync/1"), func(st network.Stream) {
		defer st.Close()
		b, err := wire.ReadFrame(st, wire.MaxSyncRequest)
		if err != nil {
			return
		}
		if r, err := wire.DecodeSyncRequest(b); err == nil {
			f(r, st)
		}
	})
}

// frame is b with its length before it, as on all our streams.
func frame(b []byte) []byte { return append(binary.AppendUvarint(nil, uint64(len(b))), b...) }

func rpc(t *testing.T, m *pb.RPC) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return frame(b)
}

// blocks reads n's chain, as it would serve it.
func (v *villain) blocks(n *Node) (list []*consortium.Block) {
	v.t.Helper()
	ask := func(r wire.SyncRequest) (frames [][]byte) {
		b, err := v.ask(n, protocol.ID("/parley/"+v.net+"/sync/1"), frame(r.Encode()))
		if err != nil {
			v.t.Fatal(err)
		}
		for len(b) > 0 {
			size, k := binary.Uvarint(b)
			frames = append(frames, b[k:k+int(size)])
			b = b[k+int(size):]
		}
		return frames
	}
	for _, f := range ask(wire.SyncRequest{Kind: wire.SyncHeaders, From: 1, Count: 100}) {
		a, err := wire.DecodeHeaderAnswer(f)
		if err != nil {
			v.t.Fatal(err)
		}
		h, err := consortium.DecodeHeader(a.Header)
		if err != nil {
			v.t.Fatal(err)
		}
		cert, err := consortium.DecodeCertificate(a.Certificate)
		if err != nil {
			v.t.Fatal(err)
		}
		list = append(list, &consortium.Block{Header: h, Certificate: cert})
	}
	for _, f := range ask(wire.SyncRequest{Kind: wire.SyncBodies, From: 1, Count: uint32(len(list))}) {
		a, err := wire.DecodeSubtreeAnswer(f)
		if err != nil {
			v.t.Fatal(err)
		}
		b := list[a.Height-1]
		b.Body = append(b.Body, consortium.Subtree{Records: a.Records})
	}
	return list
}
