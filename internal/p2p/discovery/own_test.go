package discovery

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"

	"github.com/parley-p2p/parley/config"
)

// again starts a node anew after a while, at its address, under its key and on
// its files.
func (l *lab) again(n *node, after time.Duration, key crypto.PrivKey, ip string, cfg Config) *node {
	l.Helper()
	n.stop()
	_ = n.host.Close()
	delete(l.hosts, n.host.ID())
	time.Sleep(after)
	return l.node(options{key: key, ip: ip, cfg: cfg})
}

// What was put and provided by hand is told again after a restart, though those
// that kept it are others by then; and an older file does not win over what the
// network has.
func TestOwnOutlivesARestart(t *testing.T) {
	bubble(t, func(t *testing.T, l *lab) {
		nodes := l.swarm(6, options{cfg: onlyDHT})
		cfg := onlyDHT
		cfg.File = filepath.Join(t.TempDir(), "dht.json")
		key, ip := newKey(t), l.address()
		n := l.node(options{key: key, ip: ip, cfg: cfg})
		n.meet(nodes[0])
		time.Sleep(time.Minute)
		value, have := Key("profile", n.host.ID()), []byte("a provider key")
		if _, err := n.PutValue(t.Context(), value, []byte("one"), nil); err != nil {
			t.Fatal(err)
		}
		if _, err := n.Provide(t.Context(), have, nil); err != nil {
			t.Fatal(err)
		}
		old, err := os.ReadFile(cfg.File)
		if err != nil {
			t.Fatal(err)
		}
		n = l.again(n, time.Second, key, ip, cfg)
		n.meet(nodes[1])
		for _, o := range nodes { // what they kept is gone
			o.kad.store.mu.Lock()
			clear(o.kad.store.values)
			clear(o.kad.store.providers)
			o.kad.store.mu.Unlock()
		}
		time.Sleep(3 * time.Minute)
		if got, err := nodes[3].GetValue(t.Context(), value, 0, nil); err != nil || string(got.Value.Data) != "one" {
			t.Errorf("after the restart: %q, %v", got.Value.Data, err)
		}
		if got, err := nodes[4].FindProviders(t.Context(), have, 0, nil); err != nil || len(got.Peers) != 1 || got.Peers[0].ID != n.host.ID() {
			t.Errorf("providers after the restart: %v, %v", got.Peers, err)
		}
		if _, err := n.PutValue(t.Context(), value, []byte("two"), nil); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(cfg.File, old, 0o600); err != nil { // a backup is restored
			t.Fatal(err)
		}
		n = l.again(n, time.Second, key, ip, cfg)
		n.meet(nodes[1])
		time.Sleep(3 * time.Minute)
		if got, err := nodes[3].GetValue(t.Context(), value, 0, nil); err != nil || string(got.Value.Data) != "two" {
			t.Errorf("after a restart on an old file: %q, %v", got.Value.Data, err)
		}
		if got := n.Status().Published; got < 2 {
			t.Errorf("%d published", got)
		}
	})
}

// A file that is damaged, or of another network, is set aside; of one that
// somebody changed the values are dropped that this node did not sign.
func TestBadOwnFile(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(b []byte) []byte
		aside  bool
		kept   int
	}{
		"as it was":       {func(b []byte) []byte { return b }, false, 2},
		"cut":             {func(b []byte) []byte { return b[:len(b)/2] }, true, 0},
		"too large":       {func(b []byte) []byte { return append(b, bytes.Repeat([]byte(" "), maxKept)...) }, true, 0},
		"another network": {func(b []byte) []byte { return bytes.Replace(b, []byte(testNet), []byte("other"), 1) }, true, 0},
		"another value": {func(b []byte) []byte {
			var f kept
			if err := json.Unmarshal(b, &f); err != nil {
				panic(err)
			}
			f.Values[0].Envelope[len(f.Values[0].Envelope)-1] ^= 1
			b, _ = json.Marshal(f)
			return b
		}, false, 1},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *lab) {
				cfg := Config{File: filepath.Join(t.TempDir(), "dht.json"), Discovery: config.Discovery{DHT: config.DHTServer}}
				key, ip := newKey(t), l.address()
				n := l.node(options{key: key, ip: ip, cfg: cfg})
				_, _ = n.PutValue(t.Context(), Key("profile", n.host.ID()), []byte("one"), nil) // nobody is there to take it
				_, _ = n.Provide(t.Context(), []byte("a provider key"), nil)
				n.stop()
				b, err := os.ReadFile(cfg.File)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(cfg.File, tt.change(b), 0o600); err != nil {
					t.Fatal(err)
				}
				n = l.again(n, valueLife+time.Hour, key, ip, cfg) // the age of a signature does not count here
				if got := n.Status().Published; got != tt.kept {
					t.Errorf("%d are published again, want %d", got, tt.kept)
				}
				files, _ := os.ReadDir(filepath.Dir(cfg.File))
				aside := len(files) == 1 && strings.HasPrefix(files[0].Name(), "dht.json.corrupt-")
				if aside != tt.aside {
					t.Errorf("files %v", files)
				}
			})
		})
	}
}

func FuzzKept(f *testing.F) {
	f.Add([]byte(`{"net":"x","values":[{"key":"/parley/a/b","envelope":"AA==","told":"2026-01-02T03:04:05Z"}],"keys":[{"key":"AA==","told":"2026-01-02T03:04:05Z"}]}`))
	f.Add([]byte(`{"values":null,"keys":[{}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := decodeKept(b)
		if err == nil && (len(v.Values) > maxOwn || len(v.Keys) > maxProvided) {
			t.Fatalf("%d values, %d keys", len(v.Values), len(v.Keys))
		}
	})
}
