package parley

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/event"
	"github.com/parley-p2p/parley/internal/p2p/handshake"
	"github.com/parley-p2p/parley/internal/p2p/host"
	"github.com/parley-p2p/parley/internal/wire"
)

// ErrNoReload means that the node got its configuration from a program, which
// alone can give it another one.
var ErrNoReload = errors.New("this node runs within a program, and its configuration is not read again: give the new one to its method Reload")

// ConfigError is a configuration that could not be read again. Nothing has
// changed.
type ConfigError struct{ Err error }

func (e *ConfigError) Error() string { return e.Err.Error() }
func (e *ConfigError) Unwrap() error { return e.Err }

// KeyInUseError says that a shared key was to be removed under which peers are
// connected that would lose their last connection with it.
type KeyInUseError struct {
	Key   host.SharedKey
	Peers []peer.ID // at least one
	Dial  int       // of them: dialled with it after the first key had become the first
}

func (e *KeyInUseError) Error() string {
	names := make([]string, len(e.Peers))
	for i, p := range e.Peers {
		names[i] = p.String()
	}
	n := plural(len(e.Peers), "peer is", "peers are")
	mend := "all of before the first key was changed: put the key back, or remove it with parley config reload --force, and they are made anew under the first key"
	if e.Dial > 0 {
		mend = fmt.Sprintf("%d of which dialled with it since: put the key back and make the new one the first of theirs, or cut them off with parley config reload --force", e.Dial)
	}
	return fmt.Sprintf("p2p.shared_key_file: the key %s cannot be removed, %s connected under it alone (%s), %s", e.Key, n, few(names), mend)
}

// Reloaded tells what a changed configuration did.
type Reloaded struct {
	Changed      []string `json:"changed"`       // keys that act now
	NeedsRestart []string `json:"needs_restart"` // keys that act from the next start on
}

// ReloadConfig reads the configuration again from where it came from, and takes
// it over as [Node.Reload] does. A *[ConfigError] says what is wrong with it.
func (n *Node) ReloadConfig(ctx context.Context, force bool) (Reloaded, error) {
	if n.env.Reload == nil {
		return Reloaded{}, ErrNoReload
	}
	n.reloading.Lock() // so that of two at once the newer one holds
	defer n.reloading.Unlock()
	cfg, err := n.env.Reload()
	if err != nil {
		return Reloaded{}, &ConfigError{err}
	}
	for _, w := range cfg.Warnings {
		n.log.Warn("configuration", "warning", w)
	}
	r, err := n.reload(ctx, cfg.Config, force)
	if err == nil {
		n.noteValues(r.Changed, cfg.Values())
	}
	return r, err
}

// ConfigValues lists every key of the configuration by name, with the value
// that acts now and where it came from. Secrets are masked.
func (n *Node) ConfigValues() []config.Value {
	n.reloading.Lock()
	defer n.reloading.Unlock()
	if n.env.Values != nil {
		return slices.Clone(n.env.Values)
	}
	list := (&config.Loaded{Config: n.live}).Values()
	for i := range list {
		list[i].Origin = "program"
	}
	return list
}

// noteValues takes over the values of the keys that changed.
func (n *Node) noteValues(changed []string, next []config.Value) { // reloading held
	if n.env.Values == nil {
		return
	}
	values := slices.Clone(n.env.Values)
	for i, v := range values {
		if at := slices.IndexFunc(next, func(w config.Value) bool { return w.Key == v.Key }); at >= 0 && slices.Contains(changed, v.Key) {
			values[i] = next[at]
		}
	}
	n.env.Values = values
}

// Reload takes over what of cfg can change while the node runs, which is
// log.level where Env can set it, api.cors, the files of api.tls_cert and
// api.tls_key, p2p.allow_peers and the keys of p2p.shared_key_file. Connections that were
// made under a key that is no more are closed, and those with peers that may
// not connect any more. A key is kept that somebody's last connection needs,
// unless force is set: that is a *[KeyInUseError]. After an error nothing has
// changed.
func (n *Node) Reload(ctx context.Context, cfg config.Config, force bool) (Reloaded, error) {
	n.reloading.Lock()
	defer n.reloading.Unlock()
	return n.reload(ctx, cfg, force)
}

// LiveConfig is the configuration that the node started with, with what was
// taken over since. It waits for a reload to end.
func (n *Node) LiveConfig() config.Config {
	n.reloading.Lock()
	defer n.reloading.Unlock()
	return n.live
}

func (n *Node) reload(ctx context.Context, cfg config.Config, force bool) (Reloaded, error) { // reloading held
	ctx = context.WithoutCancel(ctx) // once begun it is done whole; each goodbye has a time of its own
	r := Reloaded{Changed: []string{}, NeedsRestart: []string{}}
	if _, _, err := config.ParseLogLevel(cfg.Log.Level); err != nil { // one that a program gives was not checked before
		return r, &ConfigError{fmt.Errorf("log.level: %w", err)}
	}
	var keys []host.SharedKey
	if n.private != nil && cfg.P2P.Private() {
		var err error
		if keys, err = n.sharedKeys(cfg); err != nil {
			return r, &ConfigError{err}
		}
		if err := n.keyInUse(keys); err != nil && !force {
			return r, err
		}
	}
	if cfg.API.TLSCert != "" {
		if _, err := tls.LoadX509KeyPair(cfg.Path(cfg.API.TLSCert), cfg.Path(cfg.API.TLSKey)); err != nil {
			return r, &ConfigError{fmt.Errorf("api.tls_cert and api.tls_key: %w [PLY-101 %s]", err, config.RuleTLSPair)}
		}
	}
	for _, key := range config.Changed(n.live, cfg) {
		switch {
		case key == "p2p.allow_peers":
			n.setAllowed(ctx, cfg.P2P.AllowPeers)
			r.Changed = append(r.Changed, key)
		case key == "log.level" && n.env.SetLogLevel != nil:
			if err := n.env.SetLogLevel(cfg.Log.Level); err != nil {
				return r, &ConfigError{err}
			}
			n.live.Log.Level = cfg.Log.Level
			r.Changed = append(r.Changed, key)
		case key == "api.cors":
			n.live.API.CORS = cfg.API.CORS
			r.Changed = append(r.Changed, key)
		case strings.HasPrefix(key, "api.tls_") && n.live.API.TLSCert != "" && cfg.API.TLSCert != "": // to begin or end needs other listeners
			r.Changed = append(r.Changed, key)
		case strings.HasPrefix(key, "p2p.shared_key") && keys != nil: // it counts what is in it
		default:
			r.NeedsRestart = append(r.NeedsRestart, key)
		}
	}
	if n.live.API.TLSCert != "" && cfg.API.TLSCert != "" {
		n.live.API.TLSCert, n.live.API.TLSKey = cfg.API.TLSCert, cfg.API.TLSKey
	}
	if keys != nil {
		n.live.P2P.SharedKeyFile, n.live.P2P.SharedKey = cfg.P2P.SharedKeyFile, cfg.P2P.SharedKey
		if before := n.private.Keys(); !slices.Equal(keys, before) {
			closed, err := n.private.SetKeys(keys)
			if err != nil {
				return r, err
			}
			r.Changed = append(r.Changed, "p2p.shared_key_file")
			n.log.Info("shared keys changed", "dials_with", keys[0], "accepts", keys, "before", before, "closed", closed)
		}
	}
	n.log.Info("configuration read again", "changed", r.Changed, "needs_restart", r.NeedsRestart)
	n.bus.Publish(event.ConfigReloaded{Changed: r.Changed})
	return r, nil
}

// keyInUse looks for peers that would lose their last connection with keys, and
// tells of the first key that they are under.
func (n *Node) keyInUse(keys []host.SharedKey) error {
	var e *KeyInUseError
	for _, p := range n.host.PeersWithout(keys) {
		if e == nil {
			e = &KeyInUseError{Key: p.Key}
		}
		if p.Key != e.Key {
			continue
		}
		e.Peers = append(e.Peers, p.Peer)
		if p.Dials {
			e.Dial++
		}
	}
	if e == nil {
		return nil
	}
	return e
}

// setAllowed replaces the allow-list and parts with who is not on it.
func (n *Node) setAllowed(ctx context.Context, items []string) {
	n.live.P2P.AllowPeers = items
	n.rep.Allow(allowed(n.live.P2P, n.host.ID()))
	gone := 0
	for _, p := range n.host.Network().Peers() {
		if !n.rep.Allows(p) {
			n.shake.Disconnect(ctx, p, wire.GoodbyeBanned, handshake.NotAllowed)
			gone++
		}
	}
	if len(items) == 0 {
		n.log.Warn("the allow-list is empty: everybody may connect", "setting", "p2p.allow_peers")
		return
	}
	n.log.Info("allow-list changed", "peers", len(items), "closed", gone)
}
