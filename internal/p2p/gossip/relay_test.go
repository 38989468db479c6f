package gossip

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/p2p/reputation"
	"github.com/parley-p2p/parley/internal/wire"
)

// liar is a bare host that speaks the protocol of chunks by hand.
type liar struct {
	*lab
	host.Host
	stream network.Stream
	seq    uint64
}

func (l *lab) liar(i int, to *node) *liar {
	l.Helper()
	h := l.hosts[i]
	id := largeKind(testNet).protocols[0]
	h.SetStreamHandler(id, func(s network.Stream) { _, _ = io.Copy(io.Discard, s) })
	l.connect(i, 0)
	s, err := h.NewStream(l.Context(), to.Host.ID(), id)
	if err != nil {
		l.Fatal(err)
	}
	return &liar{lab: l, Host: h, stream: s}
}

func (e *liar) says(messages ...[]byte) {
	e.Helper()
	for _, m := range messages {
		e.push(e.stream, chunkTopic, m)
	}
}

// manifest signs what is told of m, with the liar's own key if none is given.
func (e *liar) manifest(m wire.Manifest, key crypto.PrivKey) []byte {
	e.Helper()
	if key == nil {
		key = e.Peerstore().PrivKey(e.Host.ID())
	}
	e.seq++
	b, err := sealClaim(key, chunkTopic, time.Now(), e.seq, m.Encode())
	if err != nil {
		e.Fatal(err)
	}
	return b
}

func (m *pieces) chunk(i int) []byte {
	return wire.Chunk{Message: m.id, Index: uint32(i), Branch: branchOf(m.tree, i), Data: m.piece(i)}.Encode()
}

func (m *pieces) chunks() (all [][]byte) {
	for i := range m.tree[0] {
		all = append(all, m.chunk(i))
	}
	return all
}

func (n *node) cut(data []byte) *pieces { return cut(n.topic("tx"), data) }

func freshKey(t testing.TB) crypto.PrivKey {
	t.Helper()
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (n *node) counts() (open, ahead, bytes int) {
	r := n.relay
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.open {
		bytes += len(l.data)
	}
	return len(r.open), r.ahead, bytes
}

// nobody is charged but who is excused.
func (l *lab) noPoints(but host.Host) {
	l.Helper()
	for i, n := range l.nodes {
		for j, h := range l.hosts {
			if p, why := n.points(h); p != 0 && h != but {
				l.Errorf("node %d charged host %d with %d points for %s", i, j, p, why)
			}
		}
	}
}

// Who sends a chunk that does not fit is charged, and the message arrives all
// the same.
func TestBadChunk(t *testing.T) {
	inLab(t, 4, 1, func(t *testing.T, l *lab) {
		l.serveLarge()
		l.ring(0)
		data := largeMessage("good", 300<<10, 1)
		evil := l.liar(4, l.nodes[0])
		m := l.nodes[0].cut(data)
		bad := wire.Chunk{Message: m.id, Index: 3, Branch: branchOf(m.tree, 3), Data: bytes.Clone(m.piece(3))}
		bad.Data[0]++
		evil.says(bad.Encode()) // before there is a manifest, by which it can be judged
		time.Sleep(time.Second)
		if p, why := l.nodes[0].points(evil); p != 0 {
			t.Errorf("%d points for %s before it could be judged", p, why)
		}
		l.publish(l.nodes[2], "tx", string(data))
		time.Sleep(3 * time.Second)
		for i, n := range l.nodes {
			if n.times(string(data)) != 1 {
				t.Errorf("node %d has the message %d times", i, n.times(string(data)))
			}
		}
		if p, why := l.nodes[0].points(evil); p != 50 || why != chain.BadChunk {
			t.Errorf("%d points for %s, want 50 for a bad chunk", p, why)
		}
		l.noPoints(evil.Host)
	})
}

// Who signed the manifest answers for the message, at every node, and nobody
// who relayed it.
func TestSignerAnswers(t *testing.T) {
	inLab(t, 4, 1, func(t *testing.T, l *lab) {
		l.serveLarge()
		l.ring(0)
		evil := l.liar(4, l.nodes[0])
		m := l.nodes[0].cut(largeMessage("bad", 100<<10, 1))
		evil.says(evil.manifest(m.Manifest, nil))
		evil.says(m.chunks()...)
		time.Sleep(3 * time.Second)
		for i, n := range l.nodes {
			if n.times(string(m.data)) != 1 {
				t.Errorf("node %d judged the message %d times", i, n.times(string(m.data)))
			}
			if p, why := n.points(evil); p != 10 || why != chain.InvalidTx {
				t.Errorf("node %d: %d points for %s, want 10 for an invalid tx", i, p, why)
			}
			n.rests(t)
		}
		l.noPoints(evil.Host)
	})
}

// Manifests of many keys take one place of four, nothing of what they tell is
// taken memory for, and who is known goes on.
func TestFloodOfManifests(t *testing.T) {
	inLab(t, 3, 1, func(t *testing.T, l *lab) {
		l.serveLarge()
		l.ring(0)
		first, second := largeMessage("good", 300<<10, 1), largeMessage("good", 300<<10, 2)
		l.publish(l.nodes[1], "tx", string(first))
		time.Sleep(3 * time.Second)
		a, evil := l.nodes[0], l.liar(3, l.nodes[0])
		for i := range 300 {
			m := wire.Manifest{Topic: wireName("tx"), Size: 10 << 20, ChunkSize: 64 << 10, Root: chain.Hash{byte(i), byte(i >> 8), 1}}
			evil.says(evil.manifest(m, freshKey(t)))
			if i == 150 {
				l.publish(l.nodes[1], "tx", string(second))
			}
			time.Sleep(10 * time.Millisecond)
			if open, ahead, bytes := a.counts(); open > maxStrangers+1 || ahead > maxAheadOf+1 || bytes > len(second) {
				t.Fatalf("%d open, %d ahead, %d bytes held", open, ahead, bytes)
			}
		}
		time.Sleep(4 * time.Minute)
		for i, n := range l.nodes {
			if n.times(string(first)) != 1 || n.times(string(second)) != 1 {
				t.Errorf("node %d has the messages %d and %d times", i, n.times(string(first)), n.times(string(second)))
			}
			n.rests(t)
		}
		l.noPoints(evil.Host)
	})
}

// What never comes is given up after 10 s, and its memory with it; its signer
// may go on.
func TestLargeWithoutItsChunks(t *testing.T) {
	inLab(t, 1, 1, func(t *testing.T, l *lab) {
		l.serveLarge()
		a, evil := l.nodes[0], l.liar(1, l.nodes[0])
		m := a.cut(largeMessage("good", 1<<20, 1))
		evil.says(evil.manifest(m.Manifest, nil), m.chunk(0))
		time.Sleep(9 * time.Second)
		if open, _, bytes := a.counts(); open != 1 || bytes != 1<<20 {
			t.Errorf("%d open with %d bytes, want 1 with 1 MiB", open, bytes)
		}
		time.Sleep(2 * time.Second)
		if open, _, bytes := a.counts(); open != 0 || bytes != 0 {
			t.Errorf("%d open with %d bytes after its time", open, bytes)
		}
		evil.says(m.chunk(1)) // too late
		time.Sleep(time.Second)
		a.rests(t)
		next := a.cut(largeMessage("good", 1<<20, 2))
		evil.says(append([][]byte{evil.manifest(next.Manifest, nil)}, next.chunks()...)...)
		time.Sleep(2 * time.Second)
		if a.times(string(next.data)) != 1 || a.times(string(m.data)) != 0 {
			t.Error("the next message did not come, or the first one did")
		}
		l.noPoints(nil)
	})
}

// Chunks wait for their manifest, some of them and for a while.
func TestChunksAhead(t *testing.T) {
	inLab(t, 1, 1, func(t *testing.T, l *lab) {
		l.serveLarge()
		a, evil := l.nodes[0], l.liar(1, l.nodes[0])
		m := a.cut(largeMessage("good", largeFrom+1, 1))
		evil.says(m.chunks()...)
		time.Sleep(time.Second)
		if _, ahead, _ := a.counts(); ahead != 3 {
			t.Errorf("%d chunks ahead, want 3", ahead)
		}
		evil.says(evil.manifest(m.Manifest, nil))
		time.Sleep(time.Second)
		if a.times(string(m.data)) != 1 {
			t.Error("the message did not come with its manifest")
		}
		for i := range 100 { // which tell of nothing
			evil.says(wire.Chunk{Message: chain.Hash{byte(i), 1}, Data: []byte("x")}.Encode())
		}
		time.Sleep(100 * time.Millisecond)
		if _, ahead, _ := a.counts(); ahead == 0 || ahead > maxAheadOf {
			t.Errorf("%d chunks ahead, want at most %d", ahead, maxAheadOf)
		}
		time.Sleep(2 * time.Minute)
		a.rests(t)
		l.noPoints(nil)
	})
}

// A message of the same signer waits while the one before it is judged, and its
// chunks with it: as many as may, and the others are not read meanwhile.
func TestLargeBehindAnother(t *testing.T) {
	inLab(t, 1, 1, func(t *testing.T, l *lab) {
		l.serveLarge()
		a, evil := l.nodes[0], l.liar(1, l.nodes[0])
		for i, what := range []string{"good", "good", "good", "good", "good", "pause", "pause", "good"} { // the first ones have pace trust the peer
			m := a.cut(largeMessage(what, 2<<20, uint64(i)))
			evil.says(append([][]byte{evil.manifest(m.Manifest, nil)}, m.chunks()...)...)
			if i < 5 {
				time.Sleep(time.Second)
			}
			defer func() {
				if n := a.times(string(m.data)); n != 1 {
					t.Errorf("message %d came %d times", i, n)
				}
			}()
		}
		time.Sleep(10 * time.Second)
		a.rests(t)
		l.noPoints(nil)
	})
}

// Manifests and chunks that no honest node sends cost who brings them.
func TestBadManifests(t *testing.T) {
	for name, c := range map[string]struct {
		make   func(e *liar, m wire.Manifest) []byte
		points int
		why    chain.Offence
	}{
		"no envelope": {func(*liar, wire.Manifest) []byte { return []byte("manifest") }, 25, chain.Malformed},
		"small":       {func(e *liar, m wire.Manifest) []byte { m.Size = largeFrom; return e.manifest(m, nil) }, 25, chain.Malformed},
		"other chunks": {func(e *liar, m wire.Manifest) []byte {
			m.ChunkSize *= 2
			return e.manifest(m, nil)
		}, 25, chain.Malformed},
		"no root": {func(e *liar, m wire.Manifest) []byte { m.Root = chain.Hash{}; return e.manifest(m, nil) }, 25, chain.Malformed},
		"too large": {func(e *liar, m wire.Manifest) []byte {
			m.Size, m.ChunkSize = 10<<20+1, wire.MaxChunk
			return e.manifest(m, nil)
		}, 40, chain.Oversize},
		"other topic": {func(e *liar, m wire.Manifest) []byte { m.Topic = wireName("other"); return e.manifest(m, nil) }, 0, ""},
		"old": {func(e *liar, m wire.Manifest) []byte {
			b := e.manifest(m, nil)
			time.Sleep(3 * time.Minute)
			return b
		}, 0, ""},
		"chunk with more": {func(e *liar, m wire.Manifest) []byte {
			return append(wire.Chunk{Message: m.Root, Data: []byte("x")}.Encode(), 0x40, 1)
		}, 25, chain.Malformed},
		"chunk that does not decode": {func(e *liar, m wire.Manifest) []byte {
			return append(wire.Chunk{Message: m.Root, Data: []byte("x")}.Encode(), 0x40)
		}, 25, chain.Malformed},
	} {
		t.Run(name, func(t *testing.T) {
			inLab(t, 1, 1, func(t *testing.T, l *lab) {
				l.serveLarge()
				a, evil := l.nodes[0], l.liar(1, l.nodes[0])
				m := a.cut(largeMessage("good", 1<<20, 1))
				evil.says(c.make(evil, m.Manifest))
				time.Sleep(3 * time.Second)
				if p, why := a.points(evil); p != c.points || why != c.why {
					t.Errorf("%d points for %q, want %d for %q", p, why, c.points, c.why)
				}
				a.rests(t)
			})
		})
	}
}

// A false size, or a manifest for another network, with the root of an honest
// message makes nobody's chunks bad.
func TestIDBindsTheManifest(t *testing.T) {
	inLab(t, 2, 1, func(t *testing.T, l *lab) {
		l.serveLarge()
		l.ring(0)
		a, evil := l.nodes[0], l.liar(2, l.nodes[0])
		l.publish(l.nodes[1], "tx", string(largeMessage("good", 300<<10, 2)))
		time.Sleep(3 * time.Second) // its signer is known now, and not in the place of strangers
		m := a.cut(largeMessage("good", 300<<10, 1))
		lie, elsewhere := m.Manifest, m.Manifest
		lie.Size++
		elsewhere.Topic = "/parley/00000000/tx"
		evil.says(evil.manifest(lie, nil), evil.manifest(elsewhere, nil))
		time.Sleep(time.Second)
		l.publish(l.nodes[1], "tx", string(m.data))
		time.Sleep(5 * time.Second)
		if a.times(string(m.data)) != 1 {
			t.Error("the honest message did not come")
		}
		l.noPoints(nil)
	})
}

// FuzzLarge: whatever comes, it takes no more memory than a message has, and
// errors are those that gossip knows.
func FuzzLarge(f *testing.F) {
	h, err := libp2p.New(libp2p.NoListenAddrs)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = h.Close() })
	bus, log := event.NewBus(64), slog.New(slog.DiscardHandler)
	rep, err := reputation.New(reputation.Config{}, bus, log, nil)
	if err != nil {
		f.Fatal(err)
	}
	key := h.Peerstore().PrivKey(h.ID())
	g, err := New(Config{Key: key}, h, rep, bus, log, nil)
	if err != nil {
		f.Fatal(err)
	}
	judged := func(context.Context, chain.Message) error { return nil }
	t := newTopic(g, chain.Topic{Name: "tx", MaxBytes: 1 << 20, Large: true, Validate: judged}, wireName("tx"), "tx")
	g.byWire[t.wire] = t
	m := cut(t, make([]byte, 100<<10))
	f.Add(m.Encode(), m.chunk(0), true)
	f.Add(m.Encode(), m.chunk(6), true)
	f.Add([]byte{0x0a, 0x20}, []byte{0x0a, 0x20, 1}, false)
	now, seq := time.Now(), uint64(0)
	signer := freshKey(f)
	f.Fuzz(func(t *testing.T, manifest, chunk []byte, sealed bool) {
		r := newRelay(g, testNet)
		ctx, stop := context.WithCancel(t.Context())
		stop() // nothing is waited for
		if seq++; sealed {
			if manifest, err = sealClaim(signer, chunkTopic, now, seq, manifest); err != nil {
				t.Fatal(err)
			}
		}
		_ = r.validate(ctx, chain.Message{From: "p", Data: manifest, ID: "m"})
		r.delivered("m")
		_ = r.validate(ctx, chain.Message{From: "p", Data: chunk, ID: "c"})
		if r.ahead != 0 || len(r.waiting) != 0 || len(r.open) > 1 {
			t.Fatalf("%d ahead, %d open", r.ahead, len(r.open))
		}
		for _, l := range r.open {
			if len(l.data) > 1<<20 || len(l.have) > 64 {
				t.Fatalf("%d bytes in %d chunks are held", len(l.data), len(l.have))
			}
		}
	})
}

// Who is refused, or signed what was invalid too often, gets no place, whoever
// brings its manifest; the same over its own stream is not heard at all.
func TestRefusedSigner(t *testing.T) {
	inLab(t, 1, 2, func(t *testing.T, l *lab) {
		l.serveLarge()
		a, evil, other := l.nodes[0], l.liar(1, l.nodes[0]), l.liar(2, l.nodes[0])
		key := evil.Peerstore().PrivKey(evil.Host.ID())
		for i := range 6 {
			m := a.cut(largeMessage("bad", 40<<10, uint64(i)))
			other.says(append([][]byte{other.manifest(m.Manifest, key)}, m.chunks()...)...)
			time.Sleep(2 * time.Second)
			if judged := a.times(string(m.data)); (judged == 1) != (i < 4) {
				t.Errorf("message %d was judged %d times", i, judged)
			}
		}
		if p, why := a.points(evil.Host); p != 40 || why != chain.InvalidTx {
			t.Errorf("%d points for %s, want 40", p, why)
		}
		good := a.cut(largeMessage("good", 40<<10, 9))
		evil.says(append([][]byte{evil.manifest(good.Manifest, freshKey(t))}, good.chunks()...)...)
		time.Sleep(3 * time.Second)
		if a.times(string(good.data)) != 0 {
			t.Error("a refused peer was heard")
		}
		l.noPoints(evil.Host)
	})
}
