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
	"github.com/parley-p2p/parley/internal/p2p/host"
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
	cfg, err := n.env.Reload(nil)
	if err != nil {
		return Reloaded{}, &ConfigError{err}
	}
	return n.takeOver(ctx, cfg, force, nil)
}

func (n *Node) takeOver(ctx context.Context, cfg *config.Loaded, force bool, commit func() error) (Reloaded, error) { // reloading held
	for _, w := range cfg.Warnings {
		n.log.Warn("configuration", "warning", w)
	}
	r, err := n.reload(ctx, cfg.Config, force, commit)
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
	list := slices.Clone(n.env.Values)
	if list == nil {
		list = (&config.Loaded{Config: n.live}).Values()
		for i := range list {
			list[i].Origin = "program"
		}
	}
	if n.env.LogLevel == nil {
		return list
	}
	i := slices.IndexFunc(list, func(v config.Value) bool { return v.Key == "log.level" })
	if level := n.env.LogLevel(); i >= 0 && list[i].Value != level {
		list[i].Value, list[i].Origin = level, "set while the node runs, until it starts again"
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

// Reload takes over what of cfg can change while the node runs: the keys that
// config.Keys calls live, as far as Env lets them, and what the files of
// bans.import and of keys and secrets hold by now. Connections that were made
// under a key that is no more are closed, those with peers that may not connect
// any more, and those that this node held with static peers that are none any
// more. A key is kept that somebody's last connection needs, unless force is
// set: that is a *[KeyInUseError]. After an error nothing has changed.
func (n *Node) Reload(ctx context.Context, cfg config.Config, force bool) (Reloaded, error) {
	n.reloading.Lock()
	defer n.reloading.Unlock()
	return n.reload(ctx, cfg, force, nil)
}

// LiveConfig is the configuration that the node started with, with what was
// taken over since. It waits for a reload to end.
func (n *Node) LiveConfig() config.Config {
	n.reloading.Lock()
	defer n.reloading.Unlock()
	return n.live
}

// takeover is what a reload is about to do. Nothing of it can fail any more.
type takeover struct {
	keys       []host.SharedKey  // nil = they stay
	secrets    [][]byte          // of tokens
	acts       map[string]func() // by key
	lists      bool              // of bans.import are read
	advertises bool              // other addresses: one of the keys acts for all
	peers      bool              // who is kept, and who may connect, changes
	former     []peer.ID         // static peers that are none any more
}

// reload judges cfg first. commit, where there is one, is called between that
// and the first change; without one the files of bans.import are read again.
func (n *Node) reload(ctx context.Context, cfg config.Config, force bool, commit func() error) (Reloaded, error) { // reloading held
	ctx = context.WithoutCancel(ctx) // once begun it is done whole; each goodbye has a time of its own
	r := Reloaded{Changed: []string{}, NeedsRestart: []string{}}
	if err := config.Check(&cfg, config.Changed(n.live, cfg)...); err != nil { // one that a program gives was not checked before
		return r, &ConfigError{err}
	}
	t, err := n.prepare(ctx, cfg, force, commit == nil)
	if err != nil {
		return r, err
	}
	if commit != nil {
		if err := commit(); err != nil {
			return r, err
		}
	}
	n.takeValues(cfg, t, &r)
	if t.lists {
		n.takeLists(ctx, cfg, &r)
	}
	if t.peers {
		n.takePeers(ctx, t, &r)
	}
	n.takeSecrets(cfg, t.secrets, &r)
	n.takeKeys(cfg, t.keys, &r)
	n.log.Info("configuration read again", "changed", r.Changed, "needs_restart", r.NeedsRestart)
	n.bus.Publish(event.ConfigReloaded{Changed: r.Changed})
	return r, nil
}

// takeValues takes over each key that has another value.
func (n *Node) takeValues(cfg config.Config, t *takeover, r *Reloaded) {
	tls := n.live.API.TLSCert != "" && cfg.API.TLSCert != "" // to begin or end needs other listeners
	for _, key := range config.Changed(n.live, cfg) {
		switch {
		case strings.HasPrefix(key, "p2p.shared_key") && t.keys != nil, strings.HasPrefix(key, "api.jwt_secret"): // what is in it counts, later
			continue
		case strings.HasPrefix(key, "api.tls_") && tls, slices.Contains(apiKeys, key):
		case t.acts[key] != nil:
			t.acts[key]()
		default:
			r.NeedsRestart = append(r.NeedsRestart, key)
			continue
		}
		config.Take(&n.live, cfg, key)
		r.Changed = append(r.Changed, key)
	}
}

// apiKeys are read by the API whenever they are needed.
var apiKeys = []string{"api.allowed_hosts", "api.cors", "api.public_read", "api.rate", "ops.pprof"}

// prepare finds out whether cfg can be taken over. With again the files of
// bans.import are to be read although they are the same.
func (n *Node) prepare(ctx context.Context, cfg config.Config, force, again bool) (*takeover, error) { // reloading held
	t := &takeover{acts: map[string]func(){}, lists: again}
	if cfg.P2P.Private() { // though it may act from the next start on, which must not fail for it
		keys, err := n.sharedKeys(cfg)
		if err != nil {
			return nil, &ConfigError{err}
		}
		if n.private == nil {
			keys = nil
		} else if err := n.keyInUse(keys); err != nil && !force {
			return nil, err
		}
		t.keys = keys
	}
	if cfg.API.TLSCert != "" {
		if _, err := tls.LoadX509KeyPair(cfg.Path(cfg.API.TLSCert), cfg.Path(cfg.API.TLSKey)); err != nil {
			return nil, &ConfigError{fmt.Errorf("api.tls_cert and api.tls_key: %w [PLY-101 %s]", err, config.RuleTLSPair)}
		}
	}
	if n.secretsRead {
		var err error
		if t.secrets, err = ReadTokenSecrets(cfg); err != nil {
			return nil, &ConfigError{err}
		}
	}
	if err := n.prepareActs(cfg, t); err != nil {
		return nil, &ConfigError{err}
	}
	if t.lists {
		if err := checkImport(cfg); err != nil {
			return nil, &ConfigError{err}
		}
	}
	return t, nil
}

// prepareActs asks whoever takes over a key that has another value.
func (n *Node) prepareActs(cfg config.Config, t *takeover) (err error) {
	ours := n.takers()
	for _, key := range config.Changed(n.live, cfg) {
		if take := ours[key]; take != nil {
			if t.acts[key], err = take(cfg, t); err != nil {
				return err
			}
		}
		if take := n.env.Live[key]; take != nil {
			if t.acts[key], err = take(cfg); err != nil {
				return fmt.Errorf("%s: %w", key, err)
			}
		}
	}
	return nil
}

// takeLists bans whom the files of bans.import name by now.
func (n *Node) takeLists(ctx context.Context, cfg config.Config, r *Reloaded) {
	added, err := n.importBans(ctx, cfg)
	if err != nil { // it was looked at before
		n.log.Error("bans are not imported to the end", "err", err)
	}
	if added > 0 && !slices.Contains(r.Changed, importKey) {
		r.Changed = append(r.Changed, importKey)
	}
}

// takePeers parts with whom nothing keeps any more.
func (n *Node) takePeers(ctx context.Context, t *takeover, r *Reloaded) {
	gone := n.part(ctx, t.former)
	switch listed := len(n.live.P2P.AllowPeers); {
	case !slices.Contains(r.Changed, allowKey):
	case listed == 0:
		n.log.Warn("the allow-list is empty: everybody may connect", "setting", allowKey)
	default:
		n.log.Info("allow-list changed", "peers", listed, "closed", gone)
	}
}

// takeSecrets replaces the secrets of tokens: those that were signed with one
// that is gone do not hold any more.
func (n *Node) takeSecrets(cfg config.Config, secrets [][]byte, r *Reloaded) {
	n.live.API.JWTSecret, n.live.API.JWTSecretFile = cfg.API.JWTSecret, cfg.API.JWTSecretFile
	if !n.secretsRead || sameSecrets(secrets, n.secrets) {
		return
	}
	n.secrets = secrets
	n.warnNoSecret()
	r.Changed = append(r.Changed, "api.jwt_secret_file")
}

func (n *Node) takeKeys(cfg config.Config, keys []host.SharedKey, r *Reloaded) {
	if keys == nil {
		return
	}
	n.live.P2P.SharedKeyFile, n.live.P2P.SharedKey = cfg.P2P.SharedKeyFile, cfg.P2P.SharedKey
	before := n.private.Keys()
	if slices.Equal(keys, before) {
		return
	}
	closed := n.private.SetKeys(keys)
	r.Changed = append(r.Changed, "p2p.shared_key_file")
	n.log.Info("shared keys changed", "dials_with", keys[0], "accepts", keys, "before", before, "closed", closed)
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
