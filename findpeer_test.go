package parley

import (
	"crypto/ed25519"
	"math/rand/v2"
	"net"
	"testing"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

func somePeer(t *testing.T, n uint64) peer.ID {
	t.Helper()
	pub, _, err := ed25519.GenerateKey(rand.NewChaCha8([32]byte{byte(n), byte(n >> 8)}))
	if err != nil {
		t.Fatal(err)
	}
	key, err := crypto.UnmarshalEd25519PublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	id, err := peer.IDFromPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// A part of an id fits the ids that end or begin so, and no others.
func TestShortID(t *testing.T) {
	ids := make([]peer.ID, 300)
	for i := range ids {
		ids[i] = somePeer(t, uint64(i))
	}
	for i, id := range ids {
		text := id.String()
		for _, part := range []string{text[len(text)-8:], "…" + text[len(text)-8:], "..." + text[len(text)-6:], text[len(text)-20:], text[:16], text[:16] + "…", text[:51]} {
			short, ok := parseShort(part)
			if !ok {
				t.Fatalf("%q is no part of an id", part)
			}
			for j, other := range ids {
				if short.fits(other) != (i == j) {
					t.Fatalf("%q: fits %s is %v", part, other, !(i == j))
				}
			}
		}
	}
	for _, text := range []string{"", "…", "abc", "…abc", "10.0.0.1:80", "node-5", "0OIl", "12D3KooW" + string(make([]byte, 80))} {
		if _, ok := parseShort(text); ok {
			t.Errorf("%q is a part of an id", text)
		}
	}
	for _, part := range []string{"…" + ids[0].String()[:16], ids[0].String()[len(ids[0].String())-16:] + "…"} {
		if short, ok := parseShort(part); ok && short.fits(ids[0]) {
			t.Errorf("%q fits, with its dots at the wrong end", part)
		}
	}
}

// FuzzShortID: a part of an id that fits is found in its text.
func FuzzShortID(f *testing.F) {
	id, err := peer.Decode("12D3KooWQvs8GbqBFCgyg38T6utVWJCLWVCMFTQyvMrX9E7rKw6Q")
	if err != nil {
		f.Fatal(err)
	}
	text := id.String()
	for _, seed := range []string{"…9E7rKw6Q", "12D3KooWQvs8…", "7rKw6Q", "1111", "zzzzzzzzzzzz"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, part string) {
		short, ok := parseShort(part)
		if !ok || !short.fits(id) {
			return
		}
		if n := len(short.tail); n > 0 && text[len(text)-min(n, len(text)):] == short.tail || short.first <= id && id <= short.last {
			return
		}
		t.Fatalf("%q fits %s", part, text)
	})
}

// The address of a peer is where it can be reached: its API only where p2p is
// served there too.
func TestAPIReached(t *testing.T) {
	addrs := func(texts ...string) (list []multiaddr.Multiaddr) {
		for _, text := range texts {
			list = append(list, multiaddr.StringCast(text))
		}
		return list
	}
	public, loopback := "/ip4/192.0.2.7/tcp/9906", "/ip4/127.0.0.1/tcp/8080"
	for _, tt := range []struct {
		announced []multiaddr.Multiaddr
		ip        string
		reached   bool
		port      int
	}{
		{addrs(public, "/ip4/192.0.2.7/tcp/8080"), "192.0.2.7", true, 9906},
		{addrs(public, "/ip4/10.0.0.7/tcp/8080"), "192.0.2.7", true, 9906}, // behind a NAT
		{addrs(public, loopback), "192.0.2.7", false, 9906},
		{addrs(loopback, "/ip4/10.0.0.7/tcp/9907", public), "192.0.2.7", false, 9906},
		{addrs(loopback, "/ip4/10.0.0.7/tcp/9907"), "192.0.2.7", false, 9907},
		{nil, "192.0.2.7", false, 0},
		{nil, "127.0.0.1", true, 0},
		{addrs(loopback), "127.0.0.1", true, 0},
		{addrs(loopback), "::1", false, 0},
		{addrs("/ip4/192.0.2.7/udp/8080/quic-v1"), "192.0.2.7", false, 0},
	} {
		ip := net.ParseIP(tt.ip)
		if got := apiReached(tt.announced, 8080, ip); got != tt.reached {
			t.Errorf("%v from %s: %v", tt.announced, tt.ip, got)
		}
		if got := announcedPort(tt.announced, ip); got != tt.port {
			t.Errorf("%v from %s: port %d, want %d", tt.announced, tt.ip, got, tt.port)
		}
	}
}

// A connection over QUIC has a port too.
func TestOwnPort(t *testing.T) {
	for text, want := range map[string]int{
		"/ip4/192.0.2.1/tcp/9906": 9906, "/ip4/192.0.2.1/tcp/9907/ws": 9907, "/ip6/::1/udp/9908/quic-v1": 9908, "/ip4/192.0.2.1": 0,
	} {
		if got := ownPort(multiaddr.StringCast(text)); got != want {
			t.Errorf("%s: port %d, want %d", text, got, want)
		}
	}
}
