package host

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

func texts(addrs []ma.Multiaddr) (out []string) {
	for _, a := range addrs {
		out = append(out, a.String())
	}
	return out
}

func TestListenAddrs(t *testing.T) {
	for _, c := range []struct {
		port, quic int
		listen     []string
		ws         bool
		want       []string
	}{
		{port: 9906, want: []string{"/ip4/0.0.0.0/tcp/9906", "/ip4/0.0.0.0/udp/9906/quic-v1", "/ip6/::/tcp/9906", "/ip6/::/udp/9906/quic-v1"}},
		{want: []string{"/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/udp/0/quic-v1", "/ip6/::/tcp/0", "/ip6/::/udp/0/quic-v1"}},
		{port: 1, quic: 2, listen: []string{"10.0.0.1", "[fd00::1]"}, want: []string{"/ip4/10.0.0.1/tcp/1", "/ip4/10.0.0.1/udp/2/quic-v1", "/ip6/fd00::1/tcp/1", "/ip6/fd00::1/udp/2/quic-v1"}},
		{port: 1, ws: true, listen: []string{"::ffff:10.0.0.1"}, want: []string{"/ip4/10.0.0.1/tcp/1", "/ip4/10.0.0.1/udp/1/quic-v1", "/ip4/10.0.0.1/tcp/1/ws"}},
		{port: 1, ws: true, listen: []string{"/ip4/10.0.0.1/tcp/5/ws", "/ip4/10.0.0.1/udp/6/quic", "/ip4/10.0.0.1/udp/6/quic-v1"}, want: []string{"/ip4/10.0.0.1/tcp/5/ws", "/ip4/10.0.0.1/udp/6/quic-v1"}},
		{port: 1, quic: NoQUIC, ws: true, listen: []string{"10.0.0.1", "/ip4/10.0.0.1/tcp/2/ws"}, want: []string{"/ip4/10.0.0.1/tcp/1", "/ip4/10.0.0.1/tcp/2/ws"}},
	} {
		got, err := ListenAddrs(c.port, c.quic, c.listen, c.ws)
		if err != nil || !slices.Equal(texts(got), c.want) {
			t.Errorf("%+v: %s, %v", c, got, err)
		}
	}
	bad := []string{"host.example", "/dns4/x/tcp/1", "/ip4/1.2.3.4", "/ip4/1.2.3.4/udp/1", "/ip4/1.2.3.4/tcp/1/ws", "/ip4/1.2.3.4/tcp/x", ""}
	_, err := ListenAddrs(1, 0, bad, false)
	for _, b := range bad {
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("p2p.listen: %q", b)) {
			t.Errorf("%q is not reported: %v", b, err)
		}
	}
}

func TestListenAddrsOfAPrivateNetwork(t *testing.T) {
	if _, err := ListenAddrs(1, NoQUIC, []string{"/ip4/10.0.0.1/udp/6/quic-v1"}, false); err == nil || !strings.Contains(err.Error(), "no QUIC") {
		t.Errorf("QUIC below a shared key: %v", err)
	}
}

func TestAdvertise(t *testing.T) {
	self, err := peer.IDFromPrivateKey(newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	other, err := peer.IDFromPrivateKey(newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	known := func(name string) (ips []netip.Addr) {
		for ip := range strings.FieldsSeq(map[string]string{
			"four.example": "8.8.8.8", "six.example": "2606::7", "both.example": "::ffff:8.8.8.8 2606::7",
			"own.example": "127.0.1.1", "lan.example": "169.254.1.1 192.168.1.10", "doc.example": "0.0.0.0 192.0.2.7",
		}[name]) {
			ips = append(ips, netip.MustParseAddr(ip))
		}
		return ips
	}
	ports := Ports{TCP: 9906, API: 8080}
	for _, c := range []struct {
		entry string
		ports Ports
		want  string
		warn  string
	}{
		{"8.8.8.8", ports, "/ip4/8.8.8.8/tcp/9906 /ip4/8.8.8.8/udp/9906/quic-v1", ""},
		{"8.8.8.8", Ports{TCP: 1, QUIC: 2}, "/ip4/8.8.8.8/tcp/1 /ip4/8.8.8.8/udp/2/quic-v1", ""},
		{"8.8.8.8:9910", ports, "/ip4/8.8.8.8/tcp/9910 /ip4/8.8.8.8/udp/9910/quic-v1", ""},
		{" 8.8.8.8:8080 ", ports, "/ip4/8.8.8.8/tcp/8080", ""},
		{"8.8.8.8:8080", Ports{TCP: 8080, API: 8080}, "/ip4/8.8.8.8/tcp/8080 /ip4/8.8.8.8/udp/8080/quic-v1", ""},
		{"8.8.8.8", Ports{TCP: 1, QUIC: NoQUIC}, "/ip4/8.8.8.8/tcp/1", ""},
		{"8.8.8.8:2", Ports{TCP: 1, QUIC: NoQUIC}, "/ip4/8.8.8.8/tcp/2", ""},
		{"2606::7", ports, "/ip6/2606::7/tcp/9906 /ip6/2606::7/udp/9906/quic-v1", ""},
		{"[2606::7]:8080", ports, "/ip6/2606::7/tcp/8080", ""},
		{"192.168.1.10:8080", ports, "/ip4/192.168.1.10/tcp/8080", ""},
		{"node:8080", ports, "/dns4/node/tcp/8080 /dns6/node/tcp/8080", ""},
		{"four.example:8080", ports, "/dns4/four.example/tcp/8080 /ip4/8.8.8.8/tcp/8080", ""},
		{"six.example", Ports{TCP: 1, QUIC: NoQUIC}, "/dns6/six.example/tcp/1 /ip6/2606::7/tcp/1", ""},
		{"both.example:8080", ports, "/dns4/both.example/tcp/8080 /dns6/both.example/tcp/8080 /ip4/8.8.8.8/tcp/8080 /ip6/2606::7/tcp/8080", ""},
		{"own.example:8080", ports, "/dns4/own.example/tcp/8080 /dns6/own.example/tcp/8080", "ignoring advertise address: 127.0.1.1, which own.example is on this machine, leads nobody else here"},
		{"lan.example:8080", ports, "/dns4/lan.example/tcp/8080 /ip4/192.168.1.10/tcp/8080", "169.254.1.1, which lan.example is"},
		{"doc.example:8080", ports, "/dns4/doc.example/tcp/8080 /dns6/doc.example/tcp/8080", "ignoring advertise address: of doc.example: 192.0.2.7 is a documentation address"},
		{"/ip4/8.8.8.8/udp/1/quic-v1", ports, "/ip4/8.8.8.8/udp/1/quic-v1", ""},
		{"/dns4/x/tcp/1/p2p/" + self.String(), ports, "/dns4/x/tcp/1", ""},
		{"", ports, "", ""},
		{"0.0.0.0", ports, "", `ignoring advertise address: 0.0.0.0 means "every interface" and cannot be dialled; leave p2p.host_ip empty to have it found, or set your public address or name`},
		{"[::]:8080", ports, "", `ignoring advertise address: :: means "every interface" and`},
		{"/ip4/0.0.0.0/tcp/1", ports, "", `0.0.0.0 means "every interface"`},
		{"192.0.2.7", ports, "", "ignoring advertise address: 192.0.2.7 is a documentation address"},
		{"8.8.8.8:0", ports, "", `port "0"`},
		{"8.8.8.8:99999", ports, "", `port "99999"`},
		{"8.8.8.8", Ports{}, "", "needs a port"},
		{"http://x:1", ports, "", "ignoring advertise address"},
		{"a b", ports, "", `"a b" is no IP`},
		{"/ip4/x", ports, "", "no multiaddr"},
		{"/p2p/" + self.String(), ports, "", "no address"},
	} {
		got, warnings, err := Advertise("p2p.advertise", []string{c.entry}, self, c.ports, known)
		if err != nil || strings.Join(texts(got), " ") != c.want {
			t.Errorf("%q: %s, %v; want %s", c.entry, got, err, c.want)
		}
		if (c.warn == "") != (len(warnings) == 0) || c.warn != "" && !strings.Contains(warnings[0], c.warn) {
			t.Errorf("%q: warnings %q, want %q", c.entry, warnings, c.warn)
		}
	}
	if _, _, err := Advertise("p2p.advertise", []string{"/ip4/8.8.8.8/tcp/1/p2p/" + other.String()}, self, ports, known); err == nil || !strings.HasPrefix(err.Error(), "p2p.advertise: ") || !strings.Contains(err.Error(), self.String()) {
		t.Errorf("another node's address: %v", err)
	}
}

func FuzzAdvertise(f *testing.F) {
	for _, s := range []string{"8.8.8.8", "8.8.8.8:1", "[::1]:2", "x.example", "/ip4/1.2.3.4/tcp/1", "/p2p/12D3KooW", "::ffff:1.2.3.4%eth0", "a:b:c", "[x.example]", "x.example:1", "x.example:", "[x]:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		name := NameOf(s)
		addrs, warnings, err := Advertise("key", []string{s}, "self", Ports{TCP: 1, API: 2}, func(asked string) []netip.Addr {
			if asked != name {
				t.Fatalf("%q has the name %q, and %q is asked for", s, name, asked)
			}
			return []netip.Addr{netip.MustParseAddr("2606::7")}
		})
		if len(addrs) == 0 && len(warnings) == 0 && err == nil && strings.TrimSpace(s) != "" {
			t.Fatalf("%q vanishes without a word", s)
		}
		ListenAddrs(1, 0, []string{s}, true)
	})
}

func TestRankDials(t *testing.T) {
	var addrs []ma.Multiaddr
	for _, s := range []string{"/ip4/8.8.8.8/udp/1/quic-v1", "/ip4/8.8.8.8/tcp/1", "/ip6/2606::7/tcp/1"} {
		addrs = append(addrs, ma.StringCast(s))
	}
	var got []string
	for _, d := range rankDials(addrs) {
		got = append(got, fmt.Sprint(d.Addr, " ", d.Delay))
	}
	want := []string{"/ip6/2606::7/tcp/1 0s", "/ip4/8.8.8.8/tcp/1 250ms", "/ip4/8.8.8.8/udp/1/quic-v1 250ms"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if d := rankDials(addrs[:1]); len(d) != 1 || d[0].Delay != 0 {
		t.Errorf("QUIC alone: %v", d)
	}
	if d := rankDials(nil); len(d) != 0 {
		t.Errorf("nothing: %v", d)
	}
}

func TestLimits(t *testing.T) {
	refused := map[string]int{}
	m, err := newLimits(100, func(remote ma.Multiaddr, why string) { refused[remote.String()]++ }, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	open := func(addr string) (network.ConnManagementScope, error) {
		return m.OpenConnection(network.DirInbound, true, ma.StringCast(addr))
	}
	count := func(addr string) (n int) {
		for ; n < 60; n++ {
			s, err := open(addr)
			if err != nil {
				break
			}
			defer s.Done()
			if err := s.SetPeer(peer.ID(fmt.Sprint(addr, n))); err != nil { // out of the handshake
				t.Fatal(err)
			}
		}
		return n
	}
	for addr, want := range map[string]int{
		"/ip4/127.0.0.1/tcp/1": 60, "/ip6/::1/tcp/1": 60,
		"/ip4/10.0.0.7/tcp/1": localPerIP, "/ip4/100.64.0.7/udp/1/quic-v1": localPerIP, "/ip6/fd00::1/tcp/1": localPerIP, "/ip6/fe80::1/tcp/1": localPerIP,
		"/ip4/8.8.8.8/tcp/1": 8, "/ip6/2606::1/tcp/1": 8,
	} {
		if got := count(addr); got != want {
			t.Errorf("%d connections from %s, want %d", got, addr, want)
		}
		if told := refused[addr]; told == 1 != (want < 60) {
			t.Errorf("told %d times of a refusal of %s", told, addr)
		}
	}
	if g := m.(*gatekeeper); len(g.conns) != 0 || len(g.half) != 0 || g.halfs != 0 {
		t.Errorf("places are still taken: %v, %v", g.conns, g.half)
	}
	s, err := open("/ip4/10.0.0.7/tcp/1")
	if err != nil {
		t.Fatal(err)
	}
	s.Done()
	s.Done()
	if got := count("/ip4/10.0.0.7/tcp/1"); got != localPerIP {
		t.Errorf("%d connections after a double Done, want %d", got, localPerIP)
	}
	if s, err := m.OpenConnection(network.DirInbound, false, nil); err != nil {
		t.Errorf("without an address: %v", err)
	} else {
		s.Done()
	}
}
