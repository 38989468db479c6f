package parley

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/p2p/host"
	"github.com/parley-p2p/parley/internal/p2p/reputation"
)

// openPrivate reads the shared keys, if the network is private.
func (n *Node) openPrivate() error {
	if !n.cfg.P2P.Private() {
		return nil
	}
	keys, err := n.sharedKeys(n.cfg)
	if err != nil {
		return &StartError{Code: 101, Err: err}
	}
	if n.private, err = host.NewPrivateNetwork(keys); err != nil {
		return err
	}
	n.log.Info("private network", "dials_with", keys[0], "accepts", keys, "file", n.cfg.P2P.SharedKeyFile)
	n.log.Info("QUIC is off: the shared key of a private network guards TCP alone", "setting", "p2p.shared_key_file")
	return nil
}

// sharedKeys reads the keys that cfg names.
func (n *Node) sharedKeys(cfg config.Config) ([]host.SharedKey, error) {
	if cfg.P2P.SharedKey != "" {
		keys, err := host.ParseSharedKeys([]byte(cfg.P2P.SharedKey))
		if err != nil {
			err = fmt.Errorf("p2p_shared_key: %w", err)
		}
		return keys, err
	}
	path := cfg.Path(cfg.P2P.SharedKeyFile)
	keys, err := host.LoadSharedKeys(path)
	if errors.Is(err, host.ErrKeyMode) && keys != nil && filepath.IsAbs(cfg.P2P.SharedKeyFile) {
		n.log.Warn("others may read the shared key", "file", path, "err", err) // a mounted secret has the mode it has
		err = nil
	}
	if err != nil {
		return nil, fmt.Errorf("p2p.shared_key_file: %w", err)
	}
	return keys, nil
}

// dialsWith is the fingerprint of the shared key with which this node dials, ""
// where its network is not private.
func (n *Node) dialsWith() string {
	if n.private == nil {
		return ""
	}
	return n.private.Keys()[0].String()
}

// SharedKeys tells under which shared keys a private network connects: the
// fingerprints, never the keys.
type SharedKeys struct {
	File string          `json:"file"` // "" = no private network, or the configuration holds the key itself
	Keys []SharedKeyName `json:"keys"` // none = no private network
}

// SharedKeyName is a key by its fingerprint.
type SharedKeyName struct {
	Key   string `json:"key"`
	Dials bool   `json:"dials"` // the first one; all are accepted
}

// NameSharedKeys names keys that were read from file.
func NameSharedKeys(file string, keys []SharedKey) SharedKeys {
	v := SharedKeys{File: file, Keys: make([]SharedKeyName, len(keys))}
	for i, k := range keys {
		v.Keys[i] = SharedKeyName{k.String(), i == 0}
	}
	return v
}

// SharedKeys are those with which the node runs now.
func (n *Node) SharedKeys() SharedKeys {
	if n.private == nil {
		return NameSharedKeys("", nil)
	}
	n.reloading.Lock()
	defer n.reloading.Unlock()
	file := ""
	if n.live.P2P.SharedKey == "" {
		file = n.live.Path(n.live.P2P.SharedKeyFile)
	}
	return NameSharedKeys(file, n.private.Keys())
}

// quicPort is [host.NoQUIC] in a private network, and 0 where it is p2p.port.
func (n *Node) quicPort() int {
	if n.private != nil {
		return host.NoQUIC
	}
	return n.cfg.P2P.QUICPort
}

// transportsOff says which transports are off that others have, and why.
func (n *Node) transportsOff() []string {
	if n.private == nil {
		return []string{}
	}
	return []string{"quic-v1: the shared key of a private network (p2p.shared_key_file) guards TCP alone"}
}

// keyless tells of a connection that proved no shared key.
func (n *Node) keyless(remote multiaddr.Multiaddr, why string) {
	told := n.rep.Refuse(event.PeerRefused{Direction: "inbound", Addr: fmt.Sprint(remote), Place: reputation.PlaceSharedKey, By: "us", Reason: why})
	if told { // at most a few a second
		n.room("p2p.host").Info("peer refused", "addr", remote, "by", "us", "place", reputation.PlaceSharedKey, "reason", why)
	}
}

// allowed reads p2p.allow_peers; nil allows everybody. Who is named as one to
// ask for others is on the list, too.
func allowed(p config.P2P, self peer.ID) map[peer.ID]time.Time {
	if len(p.AllowPeers) == 0 {
		return nil
	}
	list := map[peer.ID]time.Time{self: {}}
	for _, item := range p.BootstrapPeers {
		if info, err := peer.AddrInfoFromString(item); err == nil {
			list[info.ID] = time.Time{}
		}
	}
	for _, item := range p.AllowPeers {
		if id, until, err := config.ParseAllowed(item); err == nil { // it was checked
			list[id] = until
		}
	}
	return list
}

// privateFindings tells of peers that are on an old key, and of configured ones
// that have none.
func (n *Node) privateFindings() (list []Finding) {
	if n.private == nil {
		return nil
	}
	var dial, stand []string
	for _, p := range n.host.OldKeyPeers() {
		if text := fmt.Sprintf("%s (key %s)", p.Peer, p.Key); p.Dials {
			dial = append(dial, text)
		} else {
			stand = append(stand, text)
		}
	}
	if first := n.private.Keys()[0]; len(dial) > 0 {
		list = append(list, Finding{Code: "PLY-513", Severity: "warn", Title: "old_shared_key", Why: fmt.Sprintf(
			"%s dialled this node with another shared key than its first, %s: %s; before a key is removed anywhere, the new one must be the first everywhere",
			plural(len(dial), "peer", "peers"), first, few(dial))})
	} else if len(stand) > 0 {
		list = append(list, Finding{Code: "PLY-513", Severity: "warn", Title: "old_shared_key", Why: fmt.Sprintf(
			"%s of before the change to the shared key %s: %s; they are made anew when the old key is removed, which takes parley config reload --force",
			plural(len(stand), "connection is", "connections are"), first, few(stand))})
	}
	ours := n.configuredIPs()
	var refused []string
	for _, r := range n.private.Refused() {
		if ip := reputation.AddrOf(r.Remote); ours[ip] {
			refused = append(refused, fmt.Sprintf("%s: %s", ip, r.Why))
		}
	}
	slices.Sort(refused)
	if refused = slices.Compact(refused); len(refused) > 0 {
		list = append(list, Finding{Code: "PLY-513", Severity: "warn", Title: "shared_key_refused", Why: fmt.Sprintf(
			"addresses of configured peers were turned away in the last ten minutes, for they proved no shared key of this network: %s; give both sides the same key, whose fingerprint parley key psk show tells", few(refused))})
	}
	return list
}

// configuredIPs are the addresses that the configuration and the chain name for
// static peers and members; what these say of themselves is not among them.
func (n *Node) configuredIPs() map[netip.Addr]bool {
	ips := map[netip.Addr]bool{}
	for _, s := range n.dial.Static() {
		for _, ip := range s.Given {
			ips[ip] = true
		}
	}
	return ips
}

// few cuts a list of a finding.
func few(list []string) string {
	const most = 5
	slices.Sort(list)
	if more := len(list) - most; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(list[:most], ", "), more)
	}
	return strings.Join(list, ", ")
}
