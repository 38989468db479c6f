package host

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/davidlazar/go-crypto/salsa20"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/pnet"
	"github.com/libp2p/go-libp2p/core/transport"
	libpnet "github.com/libp2p/go-libp2p/p2p/net/pnet"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// Nothing is written to who proves no key: neither to noise nor to silence,
// which ends after five seconds.
func TestFenceIsSilent(t *testing.T) {
	for name, c := range map[string]struct {
		send string
		want error
		end  time.Duration
	}{
		"noise":         {strings.Repeat("x", 100), errWrongKey, 0},
		"plain":         {greeting + "\x0b/tls/1.0.0\n", errNoKey, 0},
		"half a proof":  {strings.Repeat("x", probeSize-1), errLate, probeTime},
		"a plain begin": {greeting[:10], errLate, probeTime},
		"silence":       {"", errLate, probeTime},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				here, there := net.Pipe()
				n := newPrivate(t, pskA)
				f := n.wrap(pipeConn{here}, network.DirInbound)
				began := time.Now()
				errs := make(chan error, 2)
				go func() {
					_, err := f.Read(make([]byte, 1))
					errs <- err
				}()
				go func() {
					_, err := f.Write([]byte("secret"))
					errs <- err
				}()
				go there.Write([]byte(c.send))
				got, _ := io.ReadAll(there)
				if len(got) != 0 || time.Since(began) != c.end {
					t.Errorf("%q was written, closed after %s; want nothing after %s", got, time.Since(began), c.end)
				}
				for range 2 {
					if err := <-errs; !errors.Is(err, c.want) {
						t.Errorf("%v, want %v", err, c.want)
					}
				}
				if r := n.Refused(); len(r) != 1 || r[0].Why != c.want.Error() {
					t.Errorf("refused: %v", r)
				}
				time.Sleep(refusedFor + time.Second)
				if r := n.Refused(); len(r) != 0 {
					t.Errorf("still remembered: %v", r)
				}
				there.Close()
			})
		})
	}
}

// Both sides understand libp2p's own cipher, in pieces of any size.
func TestFenceSpeaksPNet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := sharedKeys(t, pskB)[0]
		for _, dir := range []network.Direction{network.DirInbound, network.DirOutbound} {
			here, there := net.Pipe()
			f := newPrivate(t, pskB).wrap(pipeConn{here}, dir)
			stock, err := libpnet.NewProtectedConn(key[:], there)
			if err != nil {
				t.Fatal(err)
			}
			text := greeting + strings.Repeat("0123456789", 10_000)
			go func() {
				for b := range slices.Chunk([]byte(text), 7) {
					stock.Write(b)
				}
			}()
			got := make([]byte, len(text))
			if _, err := io.ReadFull(f, got); err != nil || string(got) != text {
				t.Errorf("%s: read %d bytes, %v", dir, len(got), err)
			}
			go func() {
				for b := range slices.Chunk([]byte(text), 40_000) { // more than a buffer
					kept := bytes.Clone(b)
					if n, err := f.Write(b); n != len(b) || err != nil || !bytes.Equal(b, kept) {
						t.Errorf("%s: wrote %d bytes of %d, %v", dir, n, len(b), err)
					}
				}
			}()
			if _, err := io.ReadFull(stock, got); err != nil || string(got) != text {
				t.Errorf("%s: the other side read %v", dir, err)
			}
			f.Close()
			there.Close()
		}
	})
}

// pipeConn is a net.Pipe with addresses.
type pipeConn struct{ net.Conn }

var pipeAddr = ma.StringCast("/ip4/192.0.2.1/tcp/1")

func (pipeConn) LocalMultiaddr() ma.Multiaddr  { return pipeAddr }
func (pipeConn) RemoteMultiaddr() ma.Multiaddr { return pipeAddr }

// What libp2p asks of a TCP connection, it can ask of one below a key.
func TestFencePassesOn(t *testing.T) {
	l := listenTCP(t)
	defer l.Close()
	c, err := manet.Dial(ma.StringCast("/ip4/127.0.0.1/tcp/" + strings.TrimPrefix(l.Addr().String(), "127.0.0.1:")))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	n := newPrivate(t, pskA)
	f := n.wrap(c, network.DirOutbound)
	if err := errors.Join(f.SetKeepAlive(true), f.SetKeepAlivePeriod(time.Minute), f.SetLinger(0)); err != nil {
		t.Error(err)
	}
	var _ network.ConnStat = f
	bare := n.wrap(pipeConn{c}, network.DirOutbound)
	if !errors.Is(bare.SetLinger(0), errors.ErrUnsupported) || bare.Stat().Direction != network.DirUnknown {
		t.Error("a connection that has no such knob turned it")
	}
	var _ transport.Upgrader = &fence{}
}

// A node of a private network logs nothing by itself either.
func TestPrivateNetworkLogsNothing(t *testing.T) {
	var out safeBuffer
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	a := newHost(t, Options{Log: log, Private: newPrivate(t, pskA)})
	b := newHost(t, Options{Log: log, Private: newPrivate(t, pskA), APIListener: listenTCP(t)}, "/ip4/127.0.0.1/tcp/0")
	for _, addr := range b.Network().ListenAddresses() {
		if err := try(t, a, b, addr); err != nil {
			t.Fatal(err)
		}
	}
	a.Close()
	b.Close()
	for l := range strings.Lines(out.String()) {
		if strings.Contains(l, "keepalive") || strings.Contains(l, "linger") || strings.Contains(l, "level=INFO") || strings.Contains(l, "level=WARN") || strings.Contains(l, "level=ERROR") {
			t.Error(l)
		}
	}
}

// The environment's demand for a private network is met by our key, which the
// library does not see.
func TestForcedPrivateNetwork(t *testing.T) {
	pnet.ForcePrivateNetwork = true
	defer func() { pnet.ForcePrivateNetwork = false }()
	if _, err := New(Options{Key: newKey(t)}); !errors.Is(err, ErrForcedPrivate) {
		t.Errorf("without a key: %v", err)
	}
	a := newHost(t, Options{Private: newPrivate(t, pskA)})
	b := newHost(t, Options{Private: newPrivate(t, pskA)}, "/ip4/127.0.0.1/tcp/0")
	if err := try(t, a, b, b.Addrs()[0]); err != nil {
		t.Error(err)
	}
}

// Noise goes to libp2p; nonces of ours are never among the few that begin as
// HTTP or TLS do.
func TestNonces(t *testing.T) {
	here, there := net.Pipe()
	defer here.Close()
	defer there.Close()
	s := &sorter{http: newQueue(nil), p2p: []*p2pListener{{queue: newQueue(nil)}}}
	for range 10_000 {
		if b := newNonce(); s.queue(here, [3]byte(b[:3])) != s.p2p[0].queue {
			t.Fatalf("%x is taken for the API's", b[:3])
		}
	}
	for _, head := range []string{"GET", "PRI", "\x16\x03\x01"} {
		if !looksLikeAPI([]byte(head+"xxx")) || s.queue(here, [3]byte([]byte(head))) != s.http {
			t.Errorf("%q goes to libp2p", head)
		}
	}
}

func FuzzProbe(f *testing.F) {
	good := make([]byte, probeSize)
	copy(good[nonceSize:], greeting)
	k := sharedKeys(f, pskB)[0]
	salsa20.New((*[32]byte)(&k), good[:nonceSize]).XORKeyStream(good[nonceSize:], good[nonceSize:])
	f.Add(good)
	f.Add([]byte(greeting + "\x0b/tls/1.0.0\n/////////////"))
	f.Fuzz(func(t *testing.T, b []byte) {
		n := newPrivate(t, pskA, pskB)
		c := n.wrap(pipeConn{replay{bytes.NewReader(b)}}, network.DirInbound)
		got := make([]byte, len(greeting))
		_, err := io.ReadFull(c, got)
		proven := false // to the library
		for _, k := range n.Keys() {
			plain, perr := libpnet.NewProtectedConn(k[:], replay{bytes.NewReader(b)})
			if perr != nil {
				t.Fatal(perr)
			}
			text := make([]byte, len(greeting))
			_, perr = io.ReadFull(plain, text)
			proven = proven || perr == nil && string(text) == greeting
		}
		if (err == nil) != proven || proven && string(got) != greeting {
			t.Fatalf("%x: %q, %v; proven to the library: %v", b, got, err, proven)
		}
		c.Close()
	})
}

func BenchmarkFence(b *testing.B) {
	n := newPrivate(b, pskA)
	c := n.wrap(pipeConn{discard{}}, network.DirOutbound)
	p := make([]byte, 16<<10)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(p); err != nil {
			b.Fatal(err)
		}
	}
}

// discard is a connection that takes everything.
type discard struct{ replay }

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// replay is a connection that only reads.
type replay struct{ io.Reader }

func (replay) Write([]byte) (int, error)        { return 0, io.ErrClosedPipe }
func (replay) Close() error                     { return nil }
func (replay) LocalAddr() net.Addr              { return nil }
func (replay) RemoteAddr() net.Addr             { return nil }
func (replay) SetDeadline(time.Time) error      { return nil }
func (replay) SetReadDeadline(time.Time) error  { return nil }
func (replay) SetWriteDeadline(time.Time) error { return nil }
