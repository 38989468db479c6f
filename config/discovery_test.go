package config

import (
	"strings"
	"testing"
)

const anID = "12D3KooWHbogA5Qvs9VdkjKi1HxXZ11GAT2B5ARtfhveA8sXKUPj"

func TestDiscovery(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "parley.toml", `
p2p.bootstrap_peers = ["/ip4/192.0.2.1/udp/9906/quic/p2p/`+anID+`", "/dnsaddr/boot.example", "node1:8080", "node1:8080"]
discovery = { dht = "client", dht_scope = "public", dht_protocol = "/parley/mine", mdns = true, pex = false, dns = ["example.org", "n.example:8080", "example.org"] }
`)
	l := load(t, LoadArgs{Dir: dir})
	d := l.Config.Discovery
	if d.DHT != DHTClient || d.DHTScope != DHTScopePublic || d.DHTProtocol != "/parley/mine" || !d.MDNS || d.PEX || !d.Rendezvous || len(d.DNS) != 2 {
		t.Errorf("discovery: %+v", d)
	}
	if b := l.Config.P2P.BootstrapPeers; len(b) != 3 || !strings.Contains(b[0], "/quic-v1/p2p/") {
		t.Errorf("bootstrap peers: %q", b)
	}
}

func TestDiscoveryFaults(t *testing.T) {
	for in, want := range map[string]string{
		`p2p.bootstrap_peers = ["/ip4/192.0.2.1/tcp/9906"]`: "put /p2p/ and its peer id behind it",
		`p2p.bootstrap_peers = ["300.1.1.1"]`:               "host name",
		`discovery.dht = "on"`:                              "is not one of auto, server, client, off",
		`discovery.dht_scope = "both"`:                      "is not one of private, public",
		`discovery.dht_protocol = "/ipfs"`:                  "public IPFS network",
		`discovery.dht_protocol = "/ipfs/lan"`:              "public IPFS network",
		`discovery.dht_protocol = "parley"`:                 "is not like /parley/name",
		`discovery.dns = ["/dnsaddr/x"]`:                    "neither a name nor host:port",
		`discovery.dns = ["x:0"]`:                           "no port",
		`p2p.bootstrap_peers = ["enr:-x"]`:                  "Ethereum node record",
	} {
		dir := t.TempDir()
		write(t, dir, "parley.toml", in)
		if _, err := loadIn(t, LoadArgs{Dir: dir}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", in, err, want)
		}
	}
}
