package api

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/parley-p2p/parley"
	"github.com/parley-p2p/parley/config"
	"github.com/parley-p2p/parley/event"
)

const somebody = "12D3KooWGRUCmU4VgMvHPmSnHdrNUbtMKGLTCSMzoWQ7k4kBRAcR"

// reloader is a house whose configuration is what next says.
func reloader(t *testing.T, c config.Config) (*house, *atomic.Pointer[config.Loaded]) {
	t.Helper()
	next := &atomic.Pointer[config.Loaded]{}
	next.Store(&config.Loaded{Config: c})
	return startWith(t, c, func([]byte) (*config.Loaded, error) {
		if l := next.Load(); l != nil {
			return l, nil
		}
		return nil, &config.FaultsError{Faults: slices.Repeat([]config.Fault{
			{Where: "parley.toml:2:1", Key: "p2p.prot", Rule: config.RuleUnknownKey, Text: "unknown key"},
		}, maxFaults+5)}
	}), next
}

// What can change acts at once, what cannot is named, and one event tells of it.
func TestReload(t *testing.T) {
	c := labConfig(t)
	h, next := reloader(t, c)
	sub := h.node.Events().Subscribe()
	defer sub.Close()
	told := func() (list [][]string) {
		got, _ := sub.Take(1000)
		for _, e := range got {
			if r, ok := e.Data.(event.ConfigReloaded); ok {
				list = append(list, r.Changed)
			}
		}
		return list
	}
	want := func(status int, body string, events int) {
		t.Helper()
		got := h.do("POST", "/api/v1/config/reload", "unix", "")
		if text := strings.TrimSpace(string(got.body)); got.status != status || !strings.Contains(text, body) {
			t.Errorf("%d %s\nwant %d %s", got.status, text, status, body)
		}
		if n := len(told()); n != events {
			t.Errorf("%d events, want %d", n, events)
		}
	}
	want(200, `{"changed":[],"needs_restart":[]}`, 1)
	c.P2P.AllowPeers, c.P2P.MaxPeers, c.Node.Name = []string{somebody}, 50, "other"
	next.Store(&config.Loaded{Config: c})
	want(200, `{"changed":["p2p.allow_peers"],"needs_restart":["node.name","p2p.max_peers"]}`, 1)
	want(200, `{"changed":[],"needs_restart":["node.name","p2p.max_peers"]}`, 1)
	next.Store(nil)
	want(422, `"detail":"the configuration is wrong, and nothing has changed; these are the first 20 of its faults, there are 5 more"`, 0)
	want(422, `{"message":"parley.toml:2:1: p2p.prot: unknown key [PLY-101 unknown_key]"}`, 0)
}

func TestReloadWithoutASource(t *testing.T) {
	h := startWith(t, labConfig(t), nil)
	if got := h.do("POST", "/api/v1/config/reload", "unix", ""); got.status != 409 || !strings.Contains(string(got.body), "within a program") {
		t.Errorf("%d %s", got.status, got.body)
	}
}

// A shared key under which somebody is connected goes by force alone.
func TestReloadKeepsAKeyInUse(t *testing.T) {
	keys := []parley.SharedKey{parley.NewSharedKey(), parley.NewSharedKey()}
	private := func(name string) config.Config {
		c := labConfig(t)
		c.Node.Name, c.P2P.SharedKeyFile = name, filepath.Join(t.TempDir(), name+".key")
		return c
	}
	write := func(c config.Config, keys ...parley.SharedKey) {
		t.Helper()
		if err := os.WriteFile(c.P2P.SharedKeyFile, parley.FormatSharedKeys(keys), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a, b := private("a"), private("b")
	write(a, keys[0])
	write(b, keys[0])
	h, _ := reloader(t, a)
	b.P2P.StaticPeers = []string{strings.TrimPrefix(h.base, "http://")}
	guest, _ := reloader(t, b)
	connected := func() int { return h.node.PeerCount().Connected }
	h.waitFor("the guest", func() bool { return connected() == 1 })

	write(a, keys[1], keys[0])
	if got := h.do("POST", "/api/v1/config/reload", "unix", ""); got.status != 200 || connected() != 1 {
		t.Errorf("a key more: %d %s, %d connected", got.status, got.body, connected())
	}
	write(a, keys[1])
	got := h.do("POST", "/api/v1/config/reload", "unix", "")
	m := got.json(t)
	detail, _ := m["detail"].(string)
	if got.status != 409 || m["code"] != "PLY-007" || m["reason"] != "force" {
		t.Errorf("%d %s", got.status, got.body)
	}
	for _, text := range []string{keys[0].String(), "1 peer is connected under it alone", guest.node.Info().PeerID.String(), "all of before the first key was changed", "--force"} {
		if !strings.Contains(detail, text) {
			t.Errorf("%q does not say %q", detail, text)
		}
	}
	if connected() != 1 {
		t.Error("a refused reload cut the peer off")
	}
	// It dials with the old key still, and that is told.
	guest.stop()
	h.waitFor("it is gone", func() bool { return connected() == 0 })
	guest, _ = reloader(t, b)
	h.waitFor("it is back", func() bool { return connected() == 1 })
	_, err := h.node.ReloadConfig(t.Context(), false)
	var used *parley.KeyInUseError
	if !errors.As(err, &used) || used.Dial != 1 || used.Key != keys[0] || !strings.Contains(err.Error(), "1 of which dialled with it since") {
		t.Errorf("%v", err)
	}
	if got := h.do("POST", "/api/v1/config/reload?force=true", "unix", ""); got.status != 200 || !strings.Contains(string(got.body), `"changed":["p2p.shared_key_file"]`) {
		t.Errorf("by force: %d %s", got.status, got.body)
	}
	h.waitFor("it is cut off", func() bool { return connected() == 0 })
	// With the new key it is let in again, and the old one is in nobody's way.
	h.waitFor("the guest knows it", func() bool { return guest.node.PeerCount().Connected == 0 })
	write(b, keys[1])
	if got := guest.do("POST", "/api/v1/config/reload", "unix", ""); got.status != 200 {
		t.Errorf("nobody is connected under the old key: %d %s", got.status, got.body)
	}
	h.waitFor("it is in again", func() bool { return connected() == 1 })
}
