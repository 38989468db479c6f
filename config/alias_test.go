package config

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAliases(t *testing.T) {
	secret := strings.Repeat("s", 32)
	tests := []struct{ name, text, key, want string }{
		{"PEERS", "node1:8080,node2:8080", "p2p.static_peers", "node1:8080,node2:8080"},
		{"PROVCHAIN_PEERS", "tasks.provchain-node:8080", "p2p.static_peers", "tasks.provchain-node:8080"},
		{"PROVCHAIN_PORT", "8081", "api.listen", ":8081,127.0.0.1:3500?,127.0.0.1:8545?"},
		{"PROVCHAIN_BIND_ADDRESS", "0.0.0.0", "api.listen", "0.0.0.0:8080,127.0.0.1:3500?,127.0.0.1:8545?"},
		{"PROVCHAIN_BIND_ADDRESS", "::1", "api.listen", "[::1]:8080,127.0.0.1:3500?,127.0.0.1:8545?"},
		{"PROVCHAIN_PUBLIC_ADDRESS", "public-ip:8080", "p2p.advertise", "public-ip:8080"},
		{"PROVCHAIN_NETWORK_ID", "provchain-1", "network_name", "provchain-1"},
		{"PROVCHAIN_DATA_DIR", "/srv/p", "data_dir", "/srv/p"},
		{"PROVCHAIN_LOG_LEVEL", "WARN", "log.level", "warn"},
		{"RUST_LOG", "provchain=debug,info", "log.level", "info"},
		{"RUST_LOG", "trace", "log.level", "debug"},
		{"RUST_LOG", "", "log.level", "info"},
		{"RUST_LOG", "provchain::p2p=trace", "log.level", "info"},
		{"JWT_SECRET", secret, "api.jwt_secret", "***"},
		{"JWT_SECRET", "", "api.jwt_secret", ""},
		{"JAEGER_ENDPOINT", "http://jaeger:14268/api/traces", "telemetry.otlp_endpoint", "http://jaeger:4318"},
		{"JAEGER_ENDPOINT", "https://[2001:db8::1]:4000", "telemetry.otlp_endpoint", "https://[2001:db8::1]:4000"},
		{"OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel:4318", "telemetry.otlp_endpoint", "http://otel:4318"},
		{"OTEL_SERVICE_NAME", "x", "telemetry.service_name", "x"},
		{"OTEL_EXPORTER_OTLP_HEADERS", "a=b", "network", "consortium"},
		{"p2p_listen_addresses", "127.0.0.1|::1", "p2p.listen", "127.0.0.1,::1"},
		{"p2p_advertise_addresses", "192.0.2.7,/dns4/a.example/tcp/9906", "p2p.advertise", "192.0.2.7,/dns4/a.example/tcp/9906"},
		{"p2p_shared_key", strings.Repeat("ab", 32), "p2p.shared_key", "***"},
		{"p2p_shared_key", "", "p2p.shared_key", ""},
		{"p2p_port", "9905", "p2p.port", "9905"},
		{"p2p_port", "", "p2p.port", "9906"},
		{"p2p_static_peers", "a:1 | b:2", "p2p.static_peers", "a:1,b:2"},
		{"p2p_optimise_retries", "false", "p2p.optimise_retries", "false"},
		{"p2p_optimise_retries", "", "p2p.optimise_retries", "true"},
		{"p2p_bootstrapAddresses", "/dnsaddr/a.example | b:2", "p2p.bootstrap_peers", "/dnsaddr/a.example,b:2"},
		{"p2p_bootstrap_peers", "b:2", "p2p.bootstrap_peers", "b:2"},
		{"p2p_dht_protocol_id", "/teranode/main", "discovery.dht_protocol", "/teranode/main"},
		{"p2p_dht_protocol_id", "", "discovery.dht_protocol", ""},
		{"p2p_dht_use_private", "true", "discovery.dht_scope", "private"},
		{"p2p_ban_threshold", "50", "bans.threshold", "50"},
		{"p2p_ban_duration", "12h", "bans.duration", "12h"},
		{"ban_default_duration", "48h", "bans.duration", "48h"},
		{"ban_max_entries", "1000", "bans.max_entries", "1000"},
		{"banlist_db", "sqlite:///banlist.db", "bans.store", "banlist.db"},
		{"banlist_db", "postgres://parley@db/bans", "bans.store", "postgres://parley@db/bans"},
		{"p2p_dht_use_private", "false", "discovery.dht_scope", "public"},
		{"p2p_httpListenAddress", ":9906", "api.listen", ":8080,127.0.0.1:3500?,127.0.0.1:8545?,:9906"},
		{"p2p_grpcListenAddress", ":8080", "api.listen", ":8080,127.0.0.1:3500?,127.0.0.1:8545?"},
		{"p2p_private_key", strings.Repeat("ab", 32), "node.key", "***"},
		{"p2p_private_key", "", "node.key", ""},
		{"p2p_peer_id", "12D3KooWGRUCmU4VgMvHPmSnHdrNUbtMKGLTCSMzoWQ7k4kBRAcR", "node.peer_id", "12D3KooWGRUCmU4VgMvHPmSnHdrNUbtMKGLTCSMzoWQ7k4kBRAcR"},
		{"server_certFile", "", "api.tls_cert", ""}, // set, they need each other: TestTLS
		{"server_keyFile", "", "api.tls_key", ""},
		{"asset_httpAddress", "http://localhost:8090/api", "node.base_url", "http://localhost:8090/api"},
		{"p2p_block_topic", "b", "gossip.topics.block", "b"},
		{"p2p_block_topic", "", "gossip.topics.block", "block"},
		{"p2p_subtree_topic", "s", "gossip.topics.subtree", "s"},
		{"p2p_mining_on_topic", "m", "gossip.topics.mining_on", "m"},
		{"p2p_rejected_tx_topic", "r", "gossip.topics.rejected_tx", "r"},
		{"p2p_bestblock_topic", "bb", "gossip.topics.best_block", "bb"},
		{"p2p_handshake_topic", "h", "gossip.topics.handshake", "h"},
	}
	tried := make(map[string]bool)
	for _, tt := range tests {
		tried[tt.name] = true
		t.Run(tt.name+"="+tt.text, func(t *testing.T) {
			l := load(t, LoadArgs{Environ: []string{tt.name + "=" + tt.text}})
			if got := value(l, tt.key).Value; got != tt.want {
				t.Errorf("environment: %s = %q, want %q", tt.key, got, tt.want)
			}
			if a, _ := findAlias(tt.name); a.envOnly {
				return
			}
			dir := t.TempDir()
			write(t, dir, "parley.toml", fmt.Sprintf("%s = %q", tt.name, tt.text))
			if got := value(load(t, LoadArgs{Dir: dir}), tt.key).Value; got != tt.want {
				t.Errorf("file: %s = %q, want %q", tt.key, got, tt.want)
			}
		})
	}
	for _, a := range aliases {
		if !tried[a.name] && !a.fileOnly { // those are in TestFileSearch
			t.Errorf("alias %s is not tried", a.name)
		}
	}
}

func TestAliasesTogether(t *testing.T) {
	l := load(t, LoadArgs{Environ: []string{
		"PROVCHAIN_PORT=8081", "PROVCHAIN_BIND_ADDRESS=127.0.0.1", "p2p_grpcListenAddress=:9906", "PEERS=a", "PROVCHAIN_PEERS=b",
		"p2p_dht_use_private=false", "securityLevelHTTP=0",
	}})
	want := Value{"api.listen", "127.0.0.1:8081,127.0.0.1:3500?,127.0.0.1:8545?,:9906",
		"env PROVCHAIN_BIND_ADDRESS, env PROVCHAIN_PORT, env p2p_grpcListenAddress"}
	if got := value(l, "api.listen"); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	warnings := []string{"env PROVCHAIN_PEERS: has no effect, because PEERS is set too"}
	if diff := cmp.Diff(warnings, l.Warnings); diff != "" {
		t.Error(diff)
	}
	l = load(t, LoadArgs{
		Environ: []string{"PROVCHAIN_PORT=8081"},
		Flags:   map[string]string{"api.listen": "unix:/run/p.sock"},
	})
	if got := value(l, "api.listen").Value; got != "unix:/run/p.sock" {
		t.Errorf("flag over alias: %q", got)
	}
	dir := t.TempDir()
	write(t, dir, "parley.toml", "PROVCHAIN_PORT = 8081\napi.listen = [\"unix:/run/p.sock\"]\nPEERS = [\"a\", \"b\"]")
	l = load(t, LoadArgs{Dir: dir, Environ: []string{"PROVCHAIN_PORT=8082"}})
	if got := value(l, "api.listen"); got.Value != "0.0.0.0:8082,unix:/run/p.sock" || got.Origin != "env PROVCHAIN_PORT" {
		t.Errorf("port beside a socket file: %+v", got)
	}
	if got := value(l, "p2p.static_peers"); got.Value != "a,b" || got.Origin != "file parley.toml:3 PEERS" {
		t.Errorf("list for an alias: %+v", got)
	}
}

// A private key is given by value alone, and a peer id is one.
func TestIdentityOfTeranode(t *testing.T) {
	key := strings.Repeat("ab", 32)
	for _, pair := range []string{"PARLEY_NODE__KEY=" + key, "p2p_peer_id=Qm"} {
		if _, err := loadIn(t, LoadArgs{Environ: []string{pair}}); err == nil || strings.Contains(err.Error(), key) {
			t.Errorf("%s: %v", pair, err)
		}
	}
	l := load(t, LoadArgs{Environ: []string{"p2p_private_key=" + key, "PARLEY_NODE__KEY_FILE=other.key"}})
	if string(l.Node.Key) != key || l.Node.KeyFile != "other.key" {
		t.Errorf("%+v", l.Node)
	}
}

func TestForeignEnvironment(t *testing.T) {
	load(t, LoadArgs{Environ: []string{
		"PARLEY_NODE=unix:/d/parley.sock", "PARLEY_IMAGE=1", "PATH=/bin", "peer=x", "PARLEY_SERVICE_HOST=10.0.0.1", "PARLEY_SERVICE_PORT=8080",
		"PARLEY_SERVICE_PORT_HTTP=8080", "PARLEY_PORT=tcp://10.0.0.1:8080", "PARLEY_PORT_8080_TCP=tcp://10.0.0.1:8080",
		"PARLEY_PORT_8080_TCP_PROTO=tcp", "PARLEY_PORT_8080_TCP_PORT=8080", "PARLEY_0_PORT_8080_TCP_ADDR=10.0.0.1",
	}})
	_, err := loadIn(t, LoadArgs{Environ: []string{"PARLEY_P2P_PORT=1"}})
	if err == nil || err.Error() != "env PARLEY_P2P_PORT: p2p_port: unknown key, did you mean PARLEY_P2P__PORT? [PLY-101 unknown_key]" {
		t.Errorf("mistyped variable: %v", err)
	}
}
