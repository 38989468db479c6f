package config

import (
	"errors"
	"strings"
	"testing"
)

func TestImport(t *testing.T) {
	for _, c := range []struct {
		name, from, context, text string
		want                      []string // lines
		not                       string
		notes                     string
	}{
		{"env file", FromProvChain, "", "# network\nexport PEERS=\"node1:8080,node2:8080\" \nPROVCHAIN_PORT=8081\nPROVCHAIN_BIND_ADDRESS=127.0.0.1\nRUST_LOG=provchain=debug,warn # less\nJWT_SECRET=0123456789abcdef0123456789abcdef\nPROVCHAIN_COLOUR=blue\n",
			[]string{"static_peers = ['node1:8080', 'node2:8080'] # x:2 PEERS", "listen = ['127.0.0.1:8081', '127.0.0.1:3500?', '127.0.0.1:8545?'] # x:4 PROVCHAIN_BIND_ADDRESS, x:3 PROVCHAIN_PORT", "level = 'warn' # x:5 RUST_LOG"},
			"0123456789", "x:6: JWT_SECRET is a secret, and is written to no file: leave it in the environment, or name a file of mode 0600 by api.jwt_secret_file\nleft out, since there is no such key here: PROVCHAIN_COLOUR"},
		{"compose", FromProvChain, "", "services:\n  node:\n    image: provchain\n    environment:\n      - PEERS=node1:8080\n      - \"PROVCHAIN_NETWORK_ID=test\"\n      PROVCHAIN_LOG_LEVEL: info\n",
			[]string{"network_name = 'test' # x:6 PROVCHAIN_NETWORK_ID", "static_peers = ['node1:8080'] # x:5 PEERS", "level = 'info' # x:7 PROVCHAIN_LOG_LEVEL"}, "image", ""},
		{"prysm", FromPrysm, "", "p2p-tcp-port: 13000\np2p-max-peers: 70\npeer: [/ip4/192.0.2.1/tcp/13000/p2p/12D3KooWGRUCmU4VgMvHPmSnHdrNUbtMKGLTCSMzoWQ7k4kBRAcR]\np2p-host-ip: 192.0.2.7\np2p-local-ip: 10.0.0.1\n",
			[]string{"port = 13000 # file x.yaml:1 p2p-tcp-port", "max_peers = 70 # file x.yaml:2 p2p-max-peers", "host_ip = '192.0.2.7' # file x.yaml:4 p2p-host-ip"}, "10.0.0.1", "left out, since there is no such key here: p2p-local-ip"},
		{"teranode", FromTeranode, "dev.me", "p2p_port = 9905\np2p_port.dev = 9906 # all\np2p_port.dev.me=9907\np2p_port.prod = 1\nHOST.dev = 192.0.2.1\np2p_static_peers = /dns4/${HOST}/tcp/9905|node2:8080\np2p_static_peers.prod = x\np2p_block_topic = ${net}-${net}\nnet = a\nutxostore = sqlite\np2p_odd=1\np2p_shared_key =\n",
			[]string{"port = 9907 # x:3 p2p_port", "static_peers = ['/dns4/192.0.2.1/tcp/9905', 'node2:8080'] # x:6 p2p_static_peers", "block = 'a-a' # x:8 p2p_block_topic"}, "utxostore", "left out, since there is no such key here: p2p_odd, utxostore"},
		{"teranode, no context", FromTeranode, "", "p2p_port = 9905\np2p_port.dev = 9906\np2p_max 7\n", []string{"port = 9905 # x:1 p2p_port"}, "9906", "left out, since there is no such key here: line 3, which has no ="},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Import(c.from, []byte(c.text), "x", c.context)
			if err != nil {
				t.Fatal(err)
			}
			for _, line := range c.want {
				if !strings.Contains(got.TOML, "\n"+line+"\n") {
					t.Errorf("no line %q in\n%s", line, got.TOML)
				}
			}
			if strings.Contains(got.TOML, c.not) && c.not != "" {
				t.Errorf("%q is in\n%s", c.not, got.TOML)
			}
			if n := strings.Join(got.Notes, "\n"); n != c.notes {
				t.Errorf("notes\n%s\nwant\n%s", n, c.notes)
			}
		})
	}
	for _, c := range []struct{ from, text, want string }{
		{FromProvChain, "hello\n", "no setting of provchain"}, {FromPrysm, "a: [", "x.yaml"}, {"geth", "", `"geth": want provchain`},
		{FromTeranode, "p2p_handshake_topic =\n", "p2p_handshake_topic not set in config"}, {FromProvChain, "PEERS=enode://x\nPROVCHAIN_PORT=99999\n", "x:2"},
		{FromTeranode, "server_certFile = cert.pem\n", "without api.tls_key"}, {FromTeranode, strings.Repeat("x", maxImport+1), "no settings"},
	} {
		if _, err := Import(c.from, []byte(c.text), "x", ""); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %s", c.text[:min(len(c.text), 40)], err, c.want)
		}
	}
}

func FuzzImport(f *testing.F) {
	f.Add(FromTeranode, "p2p_port.dev = ${a}\na = ${b}\nb = ${a}${a}\n", "dev.me")
	f.Add(FromProvChain, "- PEERS=a:1,b:2 # c\n", "")
	f.Add(FromPrysm, "peer: [a, b]\np2p-tcp-port: x\n", "")
	f.Fuzz(func(t *testing.T, from, text, context string) {
		got, err := Import(from, []byte(text), "x", context)
		if err != nil {
			return
		}
		if _, faults := parseFile([]byte(got.TOML), "parley.toml"); len(faults) > 0 {
			t.Errorf("made no configuration: %v\n%s", errors.Join(&FaultsError{faults}), got.TOML)
		}
	})
}
