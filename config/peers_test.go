package config

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// peersOf reads the text of PEERS as Load does.
func peersOf(text string) (items, warnings []string, err error) {
	items, warnings, faults := parsePeers(splitPeers(text))
	return items, warnings, errors.Join(faults...)
}

func TestParsePeers(t *testing.T) {
	tests := []struct {
		text string
		want []string
	}{
		{``, nil},
		{`""`, nil},
		{`''`, nil},
		{`           # Empty = Bootstrap`, nil}, // as docker's --env-file keeps it
		{`# Empty = Bootstrap`, nil},
		{`""   # Empty = Bootstrap`, nil},
		{`node1:8080,node2:8080`, []string{"node1:8080", "node2:8080"}},
		{`"node1:8080,node2:8080"`, []string{"node1:8080", "node2:8080"}},
		{`" node1:8080 , node2:8080 "`, []string{"node1:8080", "node2:8080"}},
		{`"node1:8080",'node2:8080'`, []string{"node1:8080", "node2:8080"}},
		{`"node1:8080", "node2:8080"`, []string{"node1:8080", "node2:8080"}},
		{`"node1:8080"	# the first`, []string{"node1:8080"}},
		{`"node1:8080 # the first"`, []string{"node1:8080"}},
		{`,node1:8080,,`, []string{"node1:8080"}},
		{`tasks.provchain-node:8080`, []string{"tasks.provchain-node:8080"}},
		{`node1,10.0.0.1,2001:db8::1,[2001:db8::1]:8080,[::1]`, []string{"node1", "10.0.0.1", "2001:db8::1", "[2001:db8::1]:8080", "[::1]"}},
		{`http://node1:8080,https://node2:443/`, []string{"http://node1:8080", "https://node2:443/"}},
		{`my_node_1:8080`, []string{"my_node_1:8080"}},
		{`/ip4/127.0.0.1/tcp/30333`, []string{"/ip4/127.0.0.1/tcp/30333"}},
		{`/dns/example.com/udp/5015/quic`, []string{"/dns/example.com/udp/5015/quic-v1"}},
		{`/ip6/fe80::0202:b3ff:fe1e:8329/tcp/10350/ws`, []string{"/ip6/fe80::202:b3ff:fe1e:8329/tcp/10350/ws"}},
		{`/dnsaddr/bootstrap.example.org`, []string{"/dnsaddr/bootstrap.example.org"}},
		{`/dns4/n/tcp/9906/p2p/12D3KooWGRUMJ4kE5mdT9Yfhb7XWpcSFoCaJ7NGFYD4FfhYBsZSv`, []string{"/dns4/n/tcp/9906/p2p/12D3KooWGRUMJ4kE5mdT9Yfhb7XWpcSFoCaJ7NGFYD4FfhYBsZSv"}},
	}
	for _, tt := range tests {
		got, _, err := peersOf(tt.text)
		if err != nil {
			t.Errorf("%s: %v", tt.text, err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: %s", tt.text, diff)
		}
	}
}

func TestParsePeersWarns(t *testing.T) {
	got, warnings, err := peersOf("a:1,/dns/x/udp/1/quic,a:1")
	if err != nil || len(got) != 2 {
		t.Fatalf("%q, %v", got, err)
	}
	want := []string{
		`item 2 "/dns/x/udp/1/quic" is read as /dns/x/udp/1/quic-v1`,
		`item 3 "a:1" is there twice: used once [PLY-102]`,
	}
	if diff := cmp.Diff(want, warnings); diff != "" {
		t.Error(diff)
	}
	if got, warnings, _ = peersOf("a,,a"); len(got) != 1 || !cmp.Equal(warnings, []string{`item 3 "a" is there twice: used once [PLY-102]`}) {
		t.Errorf("an empty item: %q, %q", got, warnings)
	}
}

func TestParsePeersFaults(t *testing.T) {
	for _, text := range []string{
		"enode://ab@1.2.3.4:30303", "enr:-abc", "ws://a:1", "node1:0", "node1:70000", "node1:", ":8080", "a b", "300.1.1.1", "1234",
		"node1:8080:1", "-a", "a..b", "[node1]:8080x", "[1.2.3.4", "http://", "http://u:p@h:1", "http://h:1/x", "http://h:1?q=1", "ünode",
		"/ip4/1.2.3.4", "/ip4/300.1.1.1/tcp/1", "/nonsense/1", "/", "/p2p/12D3KooWGRUMJ4kE5mdT9Yfhb7XWpcSFoCaJ7NGFYD4FfhYBsZSv",
		"/ip4/1.2.3.4/tcp/1/p2p/x", "/unix/a/tcp/1", `"a`, strings.Repeat("a", 254),
		"12D3KooWGRUMJ4kE5mdT9Yfhb7XWpcSFoCaJ7NGFYD4FfhYBsZSv",
	} {
		items, _, err := peersOf("good:1," + text)
		perr, ok := errors.AsType[*PeerError](err)
		if !ok || perr.Position != 2 || !cmp.Equal(items, []string{"good:1"}) {
			t.Errorf("%s: %v, %v", text, items, err)
		}
	}
	_, _, err := peersOf("enode://a,b,:1")
	if n := strings.Count(err.Error(), "\n"); n != 1 {
		t.Errorf("not all faults at once: %v", err)
	}
	if !strings.Contains(err.Error(), "devp2p") {
		t.Errorf("enode is refused without its reason: %v", err)
	}
}

func FuzzParsePeers(f *testing.F) {
	for _, text := range []string{
		"", `""`, "   # Empty = Bootstrap", "node1:8080,node2:8080", `"a","b"`, "/dns/example.com/udp/5015/quic", "[::1]:1", "http://h:1",
		"/ip6zone/eth0/ip6/fe80::1/tcp/1", "/ip4/1.2.3.4/tcp/1/p2p-circuit", "enode://x", "\x00", "/ip4/1.2.3.4/tcp/1/http-path/a%2Cb",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		items, _, _ := peersOf(text)
		for _, item := range items {
			again, err := ParsePeer(item)
			if err != nil || again != item {
				t.Fatalf("%q is no normal form: %q, %v", item, again, err)
			}
		}
	})
}

func FuzzLoad(f *testing.F) {
	for _, text := range []string{
		"", "[p2p]\nport = 1", "p2p = { port = 1 }", "p2p.port = 1", "[[ddns.host]]\na = 1", "a = 2020-01-01", "PEERS = \"a,b\"", "[p2p", "p2p = 1",
		"PROVCHAIN_PORT = 1\nPROVCHAIN_BIND_ADDRESS = \"::\"", "[gossip]\nstatus_interval = \"1s\"\ntopics = { block = \"b\" }", "\"p2p.port\" = 1",
		"a: &a\n  <<: *a", "p2p:\n  port: 1\n", "1: 2\n? [a]\n: b", "- a", "p2p: {port: 0x10}", "&a [*a]", "api.rate = 1.5", "x = [{a = 1}]",
	} {
		f.Add([]byte(text), true)
		f.Add([]byte(text), false)
	}
	f.Fuzz(func(t *testing.T, data []byte, yaml bool) {
		name := "parley.toml"
		if yaml {
			name = "parley.yaml"
		}
		entries, faults := parseFile(data, name)
		l := newLoader()
		l.faults = faults
		loaded, err := l.load([][]entry{entries}, map[string]string{"HOME": "/h"}, "host")
		if (loaded == nil) == (err == nil) {
			t.Fatalf("%v and %v", loaded, err)
		}
		if err == nil {
			return
		}
		for line := range strings.SplitSeq(err.Error(), "\n") {
			if !strings.HasSuffix(line, "]") || !strings.Contains(line, " [PLY-101 ") {
				t.Fatalf("a fault is not one line: %q", err)
			}
		}
	})
}

func TestTrustedPeers(t *testing.T) {
	const id = "12D3KooWHbogA5Qvs9VdkjKi1HxXZ11GAT2B5ARtfhveA8sXKUPj"
	l := load(t, LoadArgs{Environ: []string{"PARLEY_P2P__TRUSTED_PEERS=" + id + ", " + id}})
	if got := l.P2P.TrustedPeers; len(got) != 1 || got[0] != id || len(l.Warnings) != 1 {
		t.Errorf("trusted %v, warnings %q", got, l.Warnings)
	}
	for _, bad := range []string{"node1:8080", "12D3KooW", "/p2p/" + id} {
		if _, err := Load(LoadArgs{Dir: t.TempDir(), Environ: []string{"PARLEY_P2P__TRUSTED_PEERS=" + bad}}); err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("trusted peer %q: %v", bad, err)
		}
	}
}
