package config

import (
	"errors"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite golden files")

// TestFaults holds the exact lines that users see, all of one broken configuration.
func TestFaults(t *testing.T) {
	text, err := os.ReadFile("testdata/broken.toml")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write(t, dir, "parley.toml", string(text))
	write(t, dir, "conf.d/a.toml", "[p2p\n")
	_, err = loadIn(t, LoadArgs{
		Dir:     dir,
		Environ: []string{"PARLEY_P2P__PROT=1", "PARLEY_P2P__QUIC_PORT=", "p2p_handshake_topic=", "PEERS=node1:8080,enode://ab@1.2.3.4:30303,:1", "PROVCHAIN_PORT=x"},
		Flags:   map[string]string{"p2p.max_peers": "0", "gossip.topics.block": "subtree", "api.public_read": "maybe", "nonsense": "1"},
	})
	faults, ok := errors.AsType[*FaultsError](err)
	if !ok {
		t.Fatalf("error %v", err)
	}
	const golden = "testdata/broken.golden"
	got := faults.Error() + "\n"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Error(diff)
	}
}

func TestOddFiles(t *testing.T) {
	for text, want := range map[string]string{
		"[p2p]\n[gossip.topics]\n":                     "",
		"p2p = {}":                                     "",
		"\ufeff[p2p]\nport = 1":                        "",
		"[p2p]\n\"a.b\" = 1":                           "parley.toml: p2p.a.b: is one quoted name with a dot: leave out the quotes, or use a section [PLY-101 unknown_key]",
		"[p2p.port]\nx = 1":                            "parley.toml:2:1: p2p.port.x: unknown key, did you mean p2p.port? [PLY-101 unknown_key]",
		"[[p2p]]\nport = 1":                            "parley.toml:1:3: p2p: is a section, not a value: give one of its keys, like p2p.port [PLY-101 type]",
		"[p2p]\nport = 1\nport = 2":                    "parley.toml:3:1: key port is already defined [PLY-101 syntax]",
		"p2p.port = true":                              "parley.toml:1:5: p2p.port: true is no int [PLY-101 type]",
		"p2p.static_peers = [1]":                       "parley.toml:1:5: p2p.static_peers: [1] has at position 1 something that is no text [PLY-101 type]",
		"api = { rate = \"5/s\",\n  max_clients = 0 }": "parley.toml:2:3: api.max_clients: 0 is not from 1 to 1000000 [PLY-101 range]",
		"\"a\\u001b[1m\\nb\" = 1":                      "parley.toml:1:1: a?[1m?b: unknown key [PLY-101 unknown_key]",
		"[p2p]\nbootstrap = []":                        "parley.toml:2:1: p2p.bootstrap: unknown key, did you mean p2p.bootstrap_peers? [PLY-101 unknown_key]",
		"[p2p]\ntarget_peers = 9\nmax_peers = 8":       "parley.toml:2:1: p2p.target_peers: 9 is more than p2p.max_peers, 8: leave room for inbound and static peers too [PLY-101 range]",
		"p2p.max_peers = 4":                            "", // the default of the target gives way
		"p2p.listen = [\"node1:9906\"]":                "parley.toml:1:5: p2p.listen: \"node1:9906\" names no IP to listen on: write /ip4/0.0.0.0/tcp/9906, with the address of an interface of this machine for 0.0.0.0 [PLY-101 multiaddr]",
		"p2p.listen = [\"0.0.0.0:0\"]":                 "parley.toml:1:5: p2p.listen: \"0.0.0.0:0\" has port 0, which only profile devnet may use [PLY-101 range]",
		"p2p.listen = [\"0.0.0.0:99999\"]":             "parley.toml:1:5: p2p.listen: \"0.0.0.0:99999\" is neither an IP, IP:port nor a multiaddr like /ip4/0.0.0.0/tcp/9906 [PLY-101 multiaddr]",
		"node.name = 2020-01-01":                       "parley.toml:1:6: node.name: 2020-01-01 is no string [PLY-101 type]",
		"ops.listen = \"x\"":                           "parley.toml:1:5: ops.listen: \"x\" is neither host:port nor unix:PATH [PLY-101 range]",
	} {
		dir := t.TempDir()
		write(t, dir, "parley.toml", text)
		// A stronger source does not hide what is wrong in a weaker one.
		_, err := loadIn(t, LoadArgs{Dir: dir, Flags: map[string]string{"ops.listen": ""}})
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q:\n got %s\nwant %s", text, got, want)
		}
	}
}

func TestListenConflicts(t *testing.T) {
	for _, tt := range []struct{ flags, want string }{
		{"api.listen=:9906", ""}, // one shared listener
		{"api.listen=:9906;p2p.on_api_port=false", "p2p.port"},
		{"api.listen=127.0.0.1:9090", "ops.listen"},
		{"api.listen=:8080,127.0.0.1:9090?", ""},
		{"api.listen=0.0.0.0:8080,127.0.0.1:8080", "api.listen"},
		{"api.listen=127.0.0.1:8080,127.0.0.2:8080", ""},
		{"api.listen=unix:/a,unix:/a", "api.listen"},
		{"p2p.listen=/ip4/0.0.0.0/tcp/7000,/ip6/::/tcp/7000,/ip4/0.0.0.0/udp/9090/quic-v1", ""},
		{"p2p.listen=/ip4/0.0.0.0/tcp/9090", "ops.listen"},
		{"p2p.listen=192.0.2.1;ops.listen=:9906", "ops.listen"},
		{"p2p.listen=0.0.0.0:9090", "ops.listen"},
		{"ops.listen=", ""},
		{"api.listen=", ""},
	} {
		flags := make(map[string]string)
		for pair := range strings.SplitSeq(tt.flags, ";") {
			key, v, _ := strings.Cut(pair, "=")
			flags[key] = v
		}
		_, err := loadIn(t, LoadArgs{Flags: flags})
		if tt.want == "" {
			if err != nil {
				t.Errorf("%s: %v", tt.flags, err)
			}
			continue
		}
		faults, ok := errors.AsType[*FaultsError](err)
		if !ok || len(faults.Faults) != 1 || faults.Faults[0].Key != tt.want || faults.Faults[0].Rule != RuleListenConflict {
			t.Errorf("%s: %v, want a conflict of %s", tt.flags, err, tt.want)
		}
	}
}

func TestDevnetPorts(t *testing.T) {
	flags := map[string]string{"p2p.port": "0", "api.listen": "127.0.0.1:0", "ops.listen": "127.0.0.1:0", "p2p.listen": "/ip4/127.0.0.1/tcp/0"}
	_, err := loadIn(t, LoadArgs{Flags: flags})
	faults, ok := errors.AsType[*FaultsError](err)
	if !ok || len(faults.Faults) != 4 {
		t.Fatalf("port 0 outside a devnet: %v", err)
	}
	for _, f := range faults.Faults {
		if f.Rule != RuleRange {
			t.Errorf("%s", f)
		}
	}
	flags["profile"] = ProfileDevnet
	load(t, LoadArgs{Flags: flags})
}
