package config

import "testing"

func TestHostAddress(t *testing.T) {
	for _, tt := range []struct{ key, text, want, fault string }{
		{"p2p.host_ip", "", "", ""},
		{"p2p.host_ip", "8.8.8.8", "8.8.8.8", ""},
		{"p2p.host_ip", "[2606::7]", "2606::7", ""},
		{"p2p.host_ip", "::ffff:8.8.8.8", "8.8.8.8", ""},
		{"p2p.host_ip", "0.0.0.0", "0.0.0.0", ""}, // the node leaves it out, and tells so
		{"p2p.host_ip", "<your-public-ip-address>", "", `"<your-public-ip-address>" is no IP address: give this node's public one, like 192.0.2.7 or 2001:db8::7, or leave it empty`},
		{"p2p.host_ip", "300.1.1.1", "", `"300.1.1.1" is no IP address: give this node's public one, like 192.0.2.7 or 2001:db8::7, or leave it empty`},
		{"p2p.host_ip", "node.example.com", "", `"node.example.com" is no IP address: a name goes into p2p.host_dns`},
		{"p2p.host_ip", "8.8.8.8:9906", "", `"8.8.8.8:9906" is no IP address: the port is always p2p.port here; p2p.advertise takes host:port`},
		{"p2p.host_ip", "fe80::1%eth0", "", `"fe80::1%eth0" is no IP address: an address with a zone holds on one link alone: leave out %eth0`},
		{"p2p.host_dns", "", "", ""},
		{"p2p.host_dns", "node.example.com", "node.example.com", ""},
		{"p2p.host_dns", "<your-hostname-address>", "", `"<your-hostname-address>" is no host name: give one that leads to this node, like node.example.com, or leave it empty`},
		{"p2p.host_dns", "8.8.8.8", "", `"8.8.8.8" is no host name: an address goes into p2p.host_ip`},
		{"p2p.host_dns", "node.example.com:9906", "", `"node.example.com:9906" is no host name: the port is always p2p.port here; p2p.advertise takes host:port`},
		{"p2p.host_dns", "/dns4/node.example.com/tcp/9906", "", `"/dns4/node.example.com/tcp/9906" is no host name: give one that leads to this node, like node.example.com, or leave it empty`},
	} {
		l, err := loadIn(t, LoadArgs{Flags: map[string]string{tt.key: tt.text}})
		if tt.fault != "" {
			flag := map[string]string{"p2p.host_ip": "--p2p-host-ip", "p2p.host_dns": "--p2p-host-dns"}[tt.key]
			if want := "flag " + flag + ": " + tt.key + ": " + tt.fault + " [PLY-101 multiaddr]"; err == nil || err.Error() != want {
				t.Errorf("%s %q:\n got %v\nwant %s", tt.key, tt.text, err, want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s %q: %v", tt.key, tt.text, err)
		} else if got := value(l, tt.key).Value; got != tt.want {
			t.Errorf("%s %q = %q, want %q", tt.key, tt.text, got, tt.want)
		}
	}
}
