package config

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// Private reports whether a shared key makes the network private: TCP alone.
func (p P2P) Private() bool { return p.SharedKeyFile != "" || p.SharedKey != "" }

// checkSharedKey does not show the value.
func checkSharedKey(_ *checker, c *Config) []problem {
	text := strings.TrimSpace(string(c.P2P.SharedKey))
	if b, err := hex.DecodeString(text); text != "" && (err != nil || len(b) != 32) {
		return one(RuleRange, "is no key of 64 hex digits: make one with parley key psk new --stdout")
	}
	c.P2P.SharedKey = Secret(text)
	return nil
}

// ParseAllowed reads an item of p2p.allow_peers: "ID", or "ID until TIME" with
// a time like 2026-12-24T18:00:00Z. until is zero where there is none.
func ParseAllowed(item string) (id peer.ID, until time.Time, err error) {
	text, end, ends := strings.Cut(strings.TrimSpace(item), " until ")
	if id, err = peer.Decode(strings.TrimSpace(text)); err != nil {
		return "", time.Time{}, errors.New("begins with no peer id like 12D3KooW…: parley peers list -o wide shows those of connected peers")
	}
	if !ends {
		return id, time.Time{}, nil
	}
	if until, err = time.Parse(time.RFC3339, strings.TrimSpace(end)); err != nil {
		return "", time.Time{}, errors.New("ends in no time like 2026-12-24T18:00:00Z")
	}
	return id, until, nil
}

func checkAllowPeers(_ *checker, c *Config) []problem {
	var out []problem
	seen := map[peer.ID]bool{}
	list := make([]string, 0, len(c.P2P.AllowPeers))
	for _, item := range c.P2P.AllowPeers {
		id, until, err := ParseAllowed(item)
		switch {
		case err != nil:
			out = append(out, problem{RulePeerItem, quote(item) + " " + err.Error()})
			continue
		case seen[id]:
			out = append(out, problem{RulePeerItem, quote(item) + " is there twice: leave one out"})
			continue
		}
		seen[id] = true
		text := id.String()
		if !until.IsZero() {
			text += " until " + until.Format(time.RFC3339)
		}
		list = append(list, text)
	}
	c.P2P.AllowPeers = list
	return out
}

// expandListen puts the addresses in the place of IP:port, for which it stands:
// TCP and, unless the network is private, QUIC.
func expandListen(c *Config) {
	var list []string
	for _, item := range c.P2P.Listen {
		addrs, err := new(checker).listenAddrs(item)
		if err != nil || strings.HasPrefix(item, "/") { // checked before
			addrs = []string{item}
		} else if c.P2P.Private() {
			addrs = slices.DeleteFunc(addrs, overUDP)
		}
		list = append(list, addrs...)
	}
	c.P2P.Listen = list
}

// overUDP reports whether a multiaddr is one of QUIC, WebTransport or WebRTC.
func overUDP(item string) bool {
	addr, err := ma.NewMultiaddr(item)
	if err != nil {
		return false
	}
	_, err = addr.ValueForProtocol(ma.P_UDP)
	return err == nil
}

// checkPrivate finds what a private network cannot do: a shared key fences TCP
// alone.
func (l *loader) checkPrivate() {
	c := &l.cfg
	if !c.P2P.Private() {
		return
	}
	key := sharedFileKey + ", set by " + l.wheres[sharedFileKey]
	if c.P2P.SharedKey != "" {
		key = "p2p_shared_key"
	}
	for _, list := range []struct {
		name  string
		items []string
	}{{"p2p.listen", c.P2P.Listen}, {"p2p.advertise", c.P2P.Advertise}, {staticPeersKey, c.P2P.StaticPeers}, {bootstrapPeersKey, c.P2P.BootstrapPeers}} {
		for _, item := range list.items {
			if overUDP(item) {
				l.fault(entry{where: l.wheres[list.name]}, list.name, problem{RulePSKQUIC, fmt.Sprintf(
					"%s is of QUIC, WebTransport or WebRTC, and the key of a private network (%s) guards TCP alone: give its /tcp form, or for a closed group on all transports use p2p.allow_peers in place of the key", quote(item), key)})
			}
		}
	}
	if text := c.sharedWS(); text != "" {
		l.fault(entry{where: l.wheres["p2p.listen"]}, "p2p.listen", problem{RuleListenConflict, quote(text) +
			" shares its port with TCP, which a private network (" + key + ") cannot tell from it: give /ws a port of its own"})
	}
	if c.P2P.WebSocket && !slices.ContainsFunc(c.P2P.Listen, isWS) {
		l.warnings = append(l.warnings, l.wheres["p2p.websocket"]+": p2p.websocket: in a private network WebSocket needs a port of its own: without one in p2p.listen, like /ip4/0.0.0.0/tcp/9907/ws, this node dials it and does not listen")
	}
}

func isWS(item string) bool {
	addr, err := ma.NewMultiaddr(item)
	if err != nil {
		return false
	}
	_, err = addr.ValueForProtocol(ma.P_WS)
	return err == nil
}

// sharedWS is a WebSocket address of p2p.listen whose port is one of TCP, too.
func (c *Config) sharedWS() string {
	tcp := map[int]bool{}
	for _, item := range c.P2P.Listen {
		if _, err := netip.ParseAddr(item); err == nil {
			tcp[c.P2P.Port] = true
		} else if !isWS(item) {
			tcp[multiaddrPort(item)] = true
		}
	}
	for _, item := range c.P2P.Listen {
		if port := multiaddrPort(item); isWS(item) && port > 0 && tcp[port] {
			return item
		}
	}
	return ""
}
