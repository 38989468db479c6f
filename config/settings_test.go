package config

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Every live key can be taken over, set by text, and kept.
func TestLiveKeys(t *testing.T) {
	texts := map[string]string{
		"log.level": "warn,p2p=debug", "ops.pprof": "true", "api.public_read": "false", "api.jwt_secret_file": "other.hex", "api.allowed_hosts": "a.example,b.example",
		"api.rate": "7/s", "api.cors": "https://a.example", "api.tls_cert": "cert.pem", "api.tls_key": "key.pem", "p2p.allow_peers": "12D3KooWGRUCmU4VgMvHPmSnHdrNUbtMKGLTCSMzoWQ7k4kBRAcR",
		"p2p.shared_key_file": "swarm.key", "p2p.static_peers": "node1:8080,/ip4/192.0.2.1/tcp/9906", "p2p.bootstrap_peers": "node2:8080",
		"p2p.trusted_peers": "12D3KooWGRUCmU4VgMvHPmSnHdrNUbtMKGLTCSMzoWQ7k4kBRAcR", "p2p.advertise": "node.example.com,192.0.2.7:9910", "p2p.host_ip": "192.0.2.7", "p2p.host_dns": "node.example.com",
		"bans.threshold": "150", "bans.duration": "2h", "bans.import": "bad.txt", "telemetry.sample_ratio": "0.25", "sink": `[{ kind = "nats", url = "nats://h:4222" }]`,
	}
	dir := t.TempDir()
	var all Settings
	live := 0
	for _, k := range Keys() {
		if !k.Live {
			continue
		}
		live++
		value, err := Parse(k.Name, texts[k.Name])
		if err != nil {
			t.Fatalf("%s: %v", k.Name, err)
		}
		b, err := json.Marshal(map[string]any{k.Name: value}) // as a client sends it
		if err != nil {
			t.Fatal(err)
		}
		var patch map[string]any
		if err := json.Unmarshal(b, &patch); err != nil {
			t.Fatal(err)
		}
		next, keys, err := all.Merge(patch)
		if err != nil || !slices.Equal(keys, []string{k.Name}) {
			t.Fatalf("%s: %v %v", k.Name, keys, err)
		}
		all = next
	}
	if live != len(texts) {
		t.Errorf("%d keys are live, %d are tried", live, len(texts))
	}
	text, err := all.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(SettingsPath(dir), text, 0o600); err != nil {
		t.Fatal(err)
	}
	args := LoadArgs{Dir: t.TempDir(), Environ: []string{"HOME=" + dir}, Flags: map[string]string{"data_dir": dir, "api.rate": "9/s", "p2p.listen": "/ip4/127.0.0.1/tcp/9906"}}
	l, err := Load(args)
	if err != nil {
		t.Fatal(err)
	}
	to := Default()
	for key, want := range texts {
		Take(&to, l.Config, key)
		origin := "file " + filepath.Join(dir, SettingsName) + ":"
		if key == "api.rate" {
			want, origin = "9/s", "flag --set api.rate"
		}
		k, _ := find(key)
		if got := format(k.at(&to)); got != want && key != "sink" || key == "sink" && len(to.Sinks) != 1 || !strings.HasPrefix(l.Origins[key], origin) {
			t.Errorf("%s: %s from %s, want %s from %s", key, got, l.Origins[key], want, origin)
		}
	}
	again, err := ReadSettings(dir)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := again.Encode(); err != nil || string(b) != string(text) {
		t.Errorf("read again: %v\n%s\nwas\n%s", err, b, text)
	}
	if l, err = Load(LoadArgs{Dir: args.Dir, Environ: args.Environ, Flags: args.Flags, Settings: []byte{}}); err != nil || l.Log.Level != "info" {
		t.Errorf("without the settings: %v", err)
	}
}

func TestMergeIsAMergePatch(t *testing.T) {
	s := Settings{map[string]any{"log.level": "debug", "api.cors": []any{"https://a.example"}, "api.public_read": false}}
	for patch, want := range map[string]string{
		`{}`: "api.cors api.public_read log.level", `{"log":null}`: "api.cors api.public_read", `{"api":{"cors":null},"ops":{"pprof":true}}`: "api.public_read log.level ops.pprof",
		`{"log.level":null,"api":{}}`: "api.cors api.public_read", `{"api":null}`: "log.level",
	} {
		next, _, err := s.Merge(fromJSON(t, patch))
		var keys []string
		for key := range next.values {
			keys = append(keys, key)
		}
		slices.Sort(keys)
		if got := strings.Join(keys, " "); err != nil || got != want {
			t.Errorf("%s: %s %v, want %s", patch, got, err, want)
		}
	}
	if len(s.values) != 3 {
		t.Error("a merge changed what it began with")
	}
	for patch, want := range map[string]string{
		`{"log":{"level":"debug"},"node":{"name":"x"}}`: "patch: node.name: acts from the next start on: set it in parley.toml, and not here [PLY-101 range]",
		`{"log":1}`:                     "patch: log: is a section, not a value: give its keys as an object [PLY-101 type]",
		`{"lgo":{"level":1}}`:           "patch: lgo: unknown key",
		`{"api":{"cors":[null]}}`:       "patch: api.cors: has null in a list",
		`{"api":{"jwt_secret":"x"}}`:    "patch: api.jwt_secret: is a secret, which is given by file alone",
		`{"data_dir":"/","log":"info"}`: "patch: data_dir: acts from the next start on: set it in parley.toml, and not here [PLY-101 range]\npatch: log:",
	} {
		if _, _, err := s.Merge(fromJSON(t, patch)); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v\nwant %s", patch, err, want)
		}
	}
}

func fromJSON(t *testing.T, text string) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestSectionTakenBack: who may not take a key back by its name may not do so by
// that of its section, so Merge names it.
func TestSectionTakenBack(t *testing.T) {
	s, _, err := Settings{}.Merge(map[string]any{"p2p": map[string]any{"shared_key_file": "swarm.key"}, "log": map[string]any{"level": "debug"}})
	if err != nil || !s.Has("p2p.shared_key_file") {
		t.Fatal(err)
	}
	next, keys, err := s.Merge(map[string]any{"p2p": nil, "api": nil})
	if err != nil || next.Has("p2p.shared_key_file") || !next.Has("log.level") || !slices.Equal(keys, []string{"p2p.shared_key_file"}) {
		t.Errorf("%v %v %v", next, keys, err)
	}
}

// A configuration that a program made is judged as one that was read.
func TestCheck(t *testing.T) {
	c := Default()
	c.P2P.StaticPeers = []string{"/ip4/192.0.2.1/udp/1/quic", "node1:8080", "node1:8080"}
	if err := Check(&c, "p2p.static_peers", "bans.threshold"); err != nil || !slices.Equal(c.P2P.StaticPeers, []string{"/ip4/192.0.2.1/udp/1/quic-v1", "node1:8080"}) {
		t.Errorf("%q, %v", c.P2P.StaticPeers, err)
	}
	c.API.CORS, c.API.PublicRead = []string{"*"}, false
	for _, changed := range []string{"api.cors", "api.public_read"} {
		if err := Check(&c, changed); err == nil || !strings.Contains(err.Error(), "api.cors: * lets every page read") {
			t.Errorf("every page may read what tokens keep, since %s changed: %v", changed, err)
		}
	}
	if err := Check(&c, "bans.threshold"); err != nil {
		t.Errorf("a change of something else: %v", err)
	}
	c.P2P.TrustedPeers, c.Bans.Threshold, c.Log.Level = []string{"nobody"}, 3, "loud"
	err := Check(&c, "p2p.trusted_peers", "bans.threshold", "log.level")
	for _, want := range []string{`p2p.trusted_peers: "nobody" is no peer id`, "bans.threshold: 3 is not from 10 to 10000 [PLY-101 range]", `log.level: "loud"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// What is set at run time grows up to the size that the next start reads.
func TestSettingsAreBounded(t *testing.T) {
	hosts := func(n int) map[string]any {
		list := make([]any, n)
		for i := range list {
			list[i] = "https://" + strings.Repeat("a", 60) + ".example"
		}
		return map[string]any{"api.cors": list}
	}
	for n, fits := range map[int]bool{10_000: true, 20_000: false} {
		s, _, err := Settings{}.Merge(hosts(n))
		if err != nil {
			t.Fatal(err)
		}
		text, err := s.Encode()
		if fits != (err == nil) || !fits && !strings.Contains(err.Error(), "at most 1048576 are kept in settings.toml") || len(text) > maxSettings {
			t.Errorf("%d origins: %d bytes, %v", n, len(text), err)
		}
	}
	dir := t.TempDir()
	for size, fits := range map[int]bool{maxSettings: true, maxSettings + 1: false} {
		if err := os.WriteFile(SettingsPath(dir), []byte(strings.Repeat("#", size)), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(LoadArgs{Dir: t.TempDir(), Environ: []string{"HOME=" + dir}, Flags: map[string]string{"data_dir": dir}}); fits != (err == nil) {
			t.Errorf("a file of %d bytes: %v", size, err)
		}
	}
}
