package config

import (
	"errors"
	"regexp"
	"slices"
	"strconv"
	"strings"

	ma "github.com/multiformats/go-multiaddr"
)

func checkBootstrapPeers(k *checker, c *Config) []problem {
	items, warnings, faults := parsePeers(c.P2P.BootstrapPeers)
	for _, w := range warnings {
		k.warn("%s", w)
	}
	var out []problem
	for _, f := range faults {
		out = append(out, problem{RulePeerItem, f.Error()})
	}
	for _, item := range items {
		if strings.HasPrefix(item, "/") && !namesPeer(item) {
			out = append(out, problem{RulePeerItem, quote(item) + " does not say whom to ask: put /p2p/ and its peer id behind it"})
		}
	}
	c.P2P.BootstrapPeers = items
	return out
}

// namesPeer reports whether a valid multiaddr ends in a peer id, or in a name
// whose DNS records tell it.
func namesPeer(item string) bool {
	addr, err := ma.NewMultiaddr(item)
	if err != nil || len(addr) == 0 {
		return false
	}
	return addr[0].Code() == ma.P_DNSADDR || addr[len(addr)-1].Code() == ma.P_P2P
}

var protocolPrefix = regexp.MustCompile(`^(/[a-z0-9._-]{1,32}){1,4}$`)

// checkDHTProtocol keeps this network's DHT apart from the public ones.
func checkDHTProtocol(_ *checker, c *Config) []problem {
	prefix := c.Discovery.DHTProtocol
	switch {
	case prefix == "":
		return nil
	case !protocolPrefix.MatchString(prefix):
		return one(RuleRange, "%s is not like /parley/name: one to four parts of a-z, 0-9, ., _ and -", quote(prefix))
	case prefix == "/ipfs" || strings.HasPrefix(prefix, "/ipfs/"):
		return one(RuleRange, "%s belongs to the public IPFS network: choose a prefix of your own, or leave it empty", quote(prefix))
	}
	return nil
}

// dhtScope reads p2p_dht_use_private.
func dhtScope(_ *Config, text string) (any, error) {
	switch private, err := strconv.ParseBool(text); {
	case text == "":
		return nil, nil
	case err != nil:
		return nil, errors.New("is neither true nor false")
	case private:
		return DHTScopePrivate, nil
	}
	return DHTScopePublic, nil
}

func checkDNS(_ *checker, c *Config) []problem {
	var out []problem
	var list []string
	for _, item := range c.Discovery.DNS {
		err := checkHostPort(item)
		if strings.Contains(item, "/") {
			err = errors.New("is neither a name nor host:port")
		}
		switch {
		case err != nil:
			out = append(out, problem{RuleRange, quote(item) + " " + err.Error()})
		case !slices.Contains(list, item):
			list = append(list, item)
		}
	}
	c.Discovery.DNS = list
	return out
}
