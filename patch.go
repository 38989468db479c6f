package parley

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/parley-p2p/parley/config"
)

// OverriddenError says that a key cannot be set while the node runs, since a
// stronger source has a value of its own.
type OverriddenError struct{ Key, By string }

func (e *OverriddenError) Error() string {
	return fmt.Sprintf("%s is set by %s, which is stronger than what is set while the node runs: change it there", e.Key, e.By)
}

// ErrFileKey means that a key whose value names files of the node's machine was
// to be set by somebody who may not.
var ErrFileKey = errors.New("names files of the node's machine, and is set by its local socket alone, or in its configuration file")

// PatchConfig sets live keys of the configuration by a merge patch (RFC 7396),
// and takes the configuration over as [Node.ReloadConfig] does, but that the
// files of bans.import are read only where it names others. What was set is kept
// in [config.SettingsName] of the data directory, as a file stronger than the
// others, until null takes it back. files says whether keys may be set whose
// values name files. After an error nothing has changed: a *[ConfigError] says
// what is wrong with the patch, or with the configuration as it would be.
func (n *Node) PatchConfig(ctx context.Context, patch map[string]any, files, force bool) (Reloaded, error) {
	if n.env.Reload == nil {
		return Reloaded{}, ErrNoReload
	}
	n.reloading.Lock()
	defer n.reloading.Unlock()
	before, err := config.ReadSettings(n.cfg.DataDir)
	if err != nil {
		return Reloaded{}, &ConfigError{err}
	}
	next, keys, err := before.Merge(patch)
	if err != nil {
		return Reloaded{}, &ConfigError{err}
	}
	for _, k := range config.Keys() {
		if k.File && !files && slices.Contains(keys, k.Name) {
			return Reloaded{}, fmt.Errorf("%s %w", k.Name, ErrFileKey)
		}
	}
	text, err := next.Encode()
	if err != nil {
		return Reloaded{}, &ConfigError{err}
	}
	cfg, err := n.env.Reload(text)
	if err != nil {
		return Reloaded{}, &ConfigError{err}
	}
	for _, key := range keys {
		if by := cfg.Origins[key]; next.Has(key) && (strings.HasPrefix(by, "env ") || strings.HasPrefix(by, "flag ")) {
			return Reloaded{}, &OverriddenError{key, by}
		}
	}
	return n.takeOver(ctx, cfg, force, func() error { return writeFile(config.SettingsPath(n.cfg.DataDir), text) })
}
