package discovery

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/record"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/parley-p2p/parley/chain"
	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/internal/p2p/addrbook"
	"github.com/parley-p2p/parley/internal/wire"
)

var onlyPEX = Config{Discovery: config.Discovery{DHT: config.DHTOff, PEX: true}}

const pexID = "/parley/" + testNet + "/pex/1"

// signedRecord is a peer record of key with an address.
func signedRecord(t testing.TB, key crypto.PrivKey, addr string) []byte {
	t.Helper()
	rec := peer.PeerRecordFromAddrInfo(peer.AddrInfo{ID: idOf(t, key), Addrs: []ma.Multiaddr{ma.StringCast(addr)}})
	e, err := record.Seal(rec, key)
	if err != nil {
		t.Fatal(err)
	}
	b, err := e.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// good puts peers into a node's book that it has shaken hands with.
func (n *node) good(count int) {
	for i := range count {
		key := newKey(n.l.T)
		addr := fmt.Sprintf("/ip4/%d.%d.0.1/udp/9906/quic-v1", 120+i/250, i%250)
		if err := n.book.Add(addrbook.Source{Kind: addrbook.Operator}, signedRecord(n.l.T, key, addr)); err != nil {
			continue // its place is taken
		}
		n.book.Attempt(idOf(n.l.T, key))
		n.book.Good(idOf(n.l.T, key), ma.StringCast(addr))
	}
}

// A node asks each peer that it connected to, once, and learns of others.
func TestPeerExchange(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		a := l.node(options{cfg: onlyPEX})
		a.good(100)
		b := l.node(options{cfg: onlyPEX})
		b.meet(a)
		time.Sleep(time.Second)
		// 23 % of 100, and a itself by identify.
		if n := b.from(addrbook.PEX); n < 15 || n > 25 {
			t.Errorf("%d peers came by exchange", n)
		}
		if n := a.from(addrbook.PEX); n != 0 {
			t.Errorf("a asked the peer that came to it: %d", n)
		}
		if n := a.from(addrbook.Inbound); n != 1 {
			t.Errorf("a has %d inbound peers in its book", n)
		}
		if got := b.counter("parley_discovery_found_total", "pex"); got != float64(b.from(addrbook.PEX)) {
			t.Errorf("%v are counted", got)
		}
		// Every half an hour a random one that was not asked: a asks b, once.
		before := b.from(addrbook.PEX)
		time.Sleep(3 * time.Hour)
		if a.charged(chain.Violation)+b.charged(chain.Violation) > 0 {
			t.Error("an honest node asked twice over one connection")
		}
		if b.from(addrbook.PEX) != before {
			t.Error("b asked again")
		}
	})
}

// ask sends one request and reads the answer.
func askPEX(t *testing.T, h host.Host, p peer.ID, frame []byte) (wire.PEXAnswer, error) {
	t.Helper()
	st, err := h.NewStream(t.Context(), p, pexID)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Reset()
	_ = st.SetDeadline(time.Now().Add(20 * time.Second))
	if err := wire.WriteFrame(st, frame); err != nil {
		return wire.PEXAnswer{}, err
	}
	b, err := wire.ReadFrame(st, wire.MaxPEXAnswer)
	if err != nil {
		return wire.PEXAnswer{}, err
	}
	return wire.DecodePEXAnswer(b)
}

func TestBadRequests(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		ready := false
		n := l.node(options{cfg: onlyPEX, fns: func(f *Functions) { f.Ready = func(peer.ID) bool { return ready } }})
		n.good(3000)
		h := l.host(l.address(), newKey(t))
		if err := h.Connect(t.Context(), n.info()); err != nil {
			t.Fatal(err)
		}
		if _, err := askPEX(t, h, n.host.ID(), nil); err == nil || n.counter("parley_discovery_refused_total", "not_ready") != 1 {
			t.Errorf("a stranger is answered: %v", err)
		}
		ready = true
		for name, tt := range map[string]struct {
			frame   []byte
			offence chain.Offence
		}{
			"noise":     {[]byte{0xff}, chain.Malformed},
			"too large": {make([]byte, 100), chain.Oversize},
			"too many":  {[]byte{0x08, 0xff, 0x07}, chain.Malformed},
		} {
			before := n.charged(tt.offence)
			if _, err := askPEX(t, h, n.host.ID(), tt.frame); err == nil || n.charged(tt.offence) != before+1 {
				t.Errorf("%s: %v, charged %v", name, err, n.offences)
			}
		}
		a, err := askPEX(t, h, n.host.ID(), wire.PEXRequest{Max: 9}.Encode())
		if err != nil || len(a.Records) != 9 {
			t.Errorf("9 records wanted: %d, %v", len(a.Records), err)
		}
		if _, err := askPEX(t, h, n.host.ID(), nil); err == nil || n.charged(chain.Violation) != 1 {
			t.Errorf("a second request on one connection: %v, charged %v", err, n.offences)
		}
		_ = h.Network().ClosePeer(n.host.ID())
		time.Sleep(time.Second)
		if err := h.Connect(t.Context(), n.info()); err != nil {
			t.Fatal(err)
		}
		a, err = askPEX(t, h, n.host.ID(), nil)
		if err != nil || len(a.Records) != wire.MaxPEXRecords {
			t.Errorf("on a new connection: %d records, %v", len(a.Records), err)
		}
		_, x := n.parts()
		x.mu.Lock()
		defer x.mu.Unlock()
		if len(x.conns) != 1 {
			t.Errorf("%d connections are remembered", len(x.conns))
		}
	})
}

// Each bad answer costs who gave it, and leaves nothing in the book.
func TestBadAnswers(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		key := newKey(t)
		good := signedRecord(t, newKey(t), "/ip4/99.1.0.1/udp/1/quic-v1")
		forged := append([]byte(nil), good...)
		forged[len(forged)-1] ^= 1
		var private, far [][]byte
		for i := range 40 {
			private = append(private, signedRecord(t, newKey(t), fmt.Sprintf("/ip4/10.0.0.%d/udp/1/quic-v1", i+1)))
		}
		for i := range 251 {
			far = append(far, signedRecord(t, key, fmt.Sprintf("/ip4/98.1.0.%d/udp/1/quic-v1", i)))
		}
		for _, tt := range []struct {
			name    string
			answer  []byte
			offence chain.Offence
			stored  int
		}{
			{"good", wire.PEXAnswer{Records: [][]byte{good}}.Encode(), "", 1},
			{"empty", nil, "", 0},
			{"forged", wire.PEXAnswer{Records: [][]byte{good, forged}}.Encode(), chain.BadRecord, 1},
			{"no envelope", wire.PEXAnswer{Records: [][]byte{[]byte("junk")}}.Encode(), chain.BadRecord, 0},
			{"private addresses", wire.PEXAnswer{Records: private}.Encode(), chain.Spam, 0},
			{"251 records", wire.PEXAnswer{Records: far}.Encode(), chain.Oversize, 0},
			{"noise", []byte{0xff, 0xff}, chain.Malformed, 0},
			{"too large", make([]byte, wire.MaxPEXAnswer+1), chain.Oversize, 0},
			{"bare", []byte("/ip4/1.2.3.4/udp/1/quic-v1"), chain.Malformed, 0},
		} {
			h := l.host(l.address(), newKey(t))
			h.SetStreamHandler(pexID, func(st network.Stream) {
				defer st.Close()
				_, _ = wire.ReadFrame(st, 64)
				_ = wire.WriteFrame(st, tt.answer)
				_, _ = io.ReadAll(st)
			})
			n := l.node(options{cfg: onlyPEX, fns: func(f *Functions) { f.Connect, f.Ready = nil, nil }})
			if err := n.host.Connect(t.Context(), peer.AddrInfo{ID: h.ID(), Addrs: h.Addrs()}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			n.Need()
			time.Sleep(20 * time.Second)
			if n.from(addrbook.PEX) != tt.stored {
				t.Errorf("%s: %d peers stored, want %d", tt.name, n.from(addrbook.PEX), tt.stored)
			}
			if tt.offence == "" && len(n.offences) > 0 || tt.offence != "" && n.charged(tt.offence) != 1 {
				t.Errorf("%s: charged %v, want %q", tt.name, n.offences, tt.offence)
			}
		}
	})
}

// 100,000 addresses from one peer, 250 at a time on fresh connections: the rate
// of the book holds, and it is told.
func TestFloodOfRecords(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		n := l.node(options{cfg: onlyPEX, fns: func(f *Functions) { f.Connect, f.Ready = nil, nil }})
		_, x := n.parts()
		src := addrbook.Source{Kind: addrbook.PEX, Peer: idOf(t, newKey(t)), IP: n.peerIP(n.host.ID())}
		records := make([][]byte, 250)
		for i := range records {
			records[i] = signedRecord(t, newKey(t), fmt.Sprintf("/ip4/%d.%d.0.1/udp/1/quic-v1", 30+i/250, i%250))
		}
		for range 400 {
			x.take(src, records)
		}
		if n.charged(chain.Spam) < 390 {
			t.Errorf("charged %d times", n.charged(chain.Spam))
		}
		if got := len(n.book.Entries()); got > 64 {
			t.Errorf("%d live entries of one source", got)
		}
	})
}

// 32 requests of peers are served at once; who comes then is turned away, and
// costs nothing.
func TestExchangeIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		n := l.node(options{cfg: onlyPEX, fns: func(f *Functions) { f.Ready = func(peer.ID) bool { return true } }})
		n.good(100)
		for i := range 34 {
			h := l.host(l.address(), newKey(t))
			if err := h.Connect(t.Context(), n.info()); err != nil {
				t.Fatal(err)
			}
			st, err := h.NewStream(t.Context(), n.host.ID(), pexID)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := st.Write([]byte{2}); err != nil { // half a frame
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond)
			if got := n.counter("parley_discovery_refused_total", "streams"); got != float64(max(0, i+1-32)) {
				t.Errorf("%d dawdle: %v streams were refused", i+1, got)
			}
		}
		if len(n.offences) > 0 {
			t.Errorf("charged with %v", n.offences)
		}
	})
}

// One peer holds one place among those that are served.
func TestExchangeWithOneAtATime(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		n := l.node(options{cfg: onlyPEX, fns: func(f *Functions) { f.Ready = func(peer.ID) bool { return true } }})
		n.good(100)
		slow, quick := l.host(l.address(), newKey(t)), l.host(l.address(), newKey(t))
		for _, h := range []host.Host{slow, quick} {
			if err := h.Connect(t.Context(), n.info()); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 * pexServing {
			st, err := slow.NewStream(t.Context(), n.host.ID(), pexID)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := st.Write([]byte{2}); err != nil { // half a frame
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		if got := n.counter("parley_discovery_refused_total", "streams"); got != 2*pexServing-1 {
			t.Errorf("%v streams were refused, want all but one of %d", got, 2*pexServing)
		}
		if a, err := askPEX(t, quick, n.host.ID(), wire.PEXRequest{}.Encode()); err != nil || len(a.Records) == 0 {
			t.Errorf("%d records for another peer: %v", len(a.Records), err)
		}
		time.Sleep(pexTimeout)
		if a, err := askPEX(t, slow, n.host.ID(), wire.PEXRequest{}.Encode()); err != nil || len(a.Records) == 0 {
			t.Errorf("%d records for the slow one after its time: %v", len(a.Records), err)
		}
	})
}

// lateStream is a request that is read when its connection is closed.
type lateStream struct {
	network.Stream
	r io.Reader
}

func (l *lateStream) Read(p []byte) (int, error)  { return l.r.Read(p) }
func (l *lateStream) SetDeadline(time.Time) error { return nil }
func (l *lateStream) Conn() network.Conn          { return goneConn{} }

type goneConn struct{ network.Conn }

func (goneConn) IsClosed() bool { return true }

// A peer that asks and is gone before it is served is charged for nothing.
func TestAskedAndGone(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		n := l.node(options{cfg: onlyPEX})
		var b bytes.Buffer
		if err := wire.WriteFrame(&b, wire.PEXRequest{}.Encode()); err != nil {
			t.Fatal(err)
		}
		err := n.pex.serve(&lateStream{r: &b}, "somebody")
		if !errors.Is(err, errGone) || len(n.offences) > 0 {
			t.Errorf("%v, charged %v", err, n.offences)
		}
	})
}
