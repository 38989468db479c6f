package config

import (
	"net"
	"net/netip"
	"strings"
)

func checkAdvertise(k *checker, c *Config) []problem {
	var out []problem
	list := make([]string, 0, len(c.P2P.Advertise))
	for _, item := range c.P2P.Advertise {
		text := item
		var err error
		if strings.HasPrefix(item, "/") {
			text, err = k.multiaddr(item)
		} else {
			err = checkHostPort(item)
		}
		if err != nil {
			out = append(out, problem{RuleMultiaddr, quote(item) + " " + err.Error()})
			continue
		}
		list = append(list, text)
	}
	c.P2P.Advertise = list
	return out
}

// checkHostIP leaves addresses that nobody can dial to the node, which goes on without them.
func checkHostIP(_ *checker, c *Config) []problem {
	text := c.P2P.HostIP
	if text == "" {
		return nil
	}
	ip, err := netip.ParseAddr(strings.Trim(text, "[]"))
	if err == nil && ip.Zone() == "" {
		c.P2P.HostIP = ip.Unmap().String()
		return nil
	}
	mend := "give this node's public one, like 192.0.2.7 or 2001:db8::7, or leave it empty"
	switch {
	case err == nil:
		mend = "an address with a zone holds on one link alone: leave out %" + ip.Zone()
	case isHostPort(text):
		mend = hostPortMend
	case isHost(text):
		mend = "a name goes into p2p.host_dns"
	}
	return []problem{{RuleMultiaddr, quote(text) + " is no IP address: " + mend}}
}

func checkHostDNS(_ *checker, c *Config) []problem {
	text := c.P2P.HostDNS
	mend := "give one that leads to this node, like node.example.com, or leave it empty"
	_, err := netip.ParseAddr(strings.Trim(text, "[]"))
	switch {
	case err == nil:
		mend = "an address goes into p2p.host_ip"
	case text == "", isHost(text):
		return nil
	case isHostPort(text):
		mend = hostPortMend
	}
	return []problem{{RuleMultiaddr, quote(text) + " is no host name: " + mend}}
}

const hostPortMend = "the port is always p2p.port here; p2p.advertise takes host:port"

func isHostPort(text string) bool {
	host, _, err := net.SplitHostPort(text)
	return err == nil && isHost(host)
}
