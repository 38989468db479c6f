package config

import (
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	id1 = "12D3KooWKV9jsaofhbKZtKvVvU24ZZ4qqEH5zmXK8GyFyLVkoHE4"
	id2 = "12D3KooWPMNMcp2JNXa1QmYs6pa6gTbYJqcs5ZdPqHQbwuRGG2D3"
)

func TestSharedKeyIsTCPAlone(t *testing.T) {
	quic := "/ip4/192.0.2.1/udp/9906/quic-v1"
	for key, item := range map[string]string{
		"p2p.listen": quic, "p2p.advertise": quic, "p2p.static_peers": quic + "/p2p/" + id1, "p2p.bootstrap_peers": "/ip4/192.0.2.1/udp/1/quic-v1/webtransport/p2p/" + id1,
	} {
		load(t, LoadArgs{Flags: map[string]string{key: item}})
		for _, args := range []LoadArgs{
			{Flags: map[string]string{key: item, "p2p.shared_key_file": "swarm.key"}},
			{Flags: map[string]string{key: item}, Environ: []string{"p2p_shared_key=" + strings.Repeat("ab", 32)}},
		} {
			_, err := loadIn(t, args)
			if err == nil || !strings.Contains(err.Error(), key+": ") || !strings.Contains(err.Error(), "psk_quic") || !strings.Contains(err.Error(), "shared_key") || strings.Contains(err.Error(), "abab") {
				t.Errorf("%s: %v", key, err)
			}
		}
	}
	l := load(t, LoadArgs{Flags: map[string]string{"p2p.listen": "127.0.0.1:1,::1,/ip4/127.0.0.1/tcp/2", "p2p.shared_key_file": "swarm.key"}})
	if want := []string{"/ip4/127.0.0.1/tcp/1", "::1", "/ip4/127.0.0.1/tcp/2"}; !slices.Equal(l.P2P.Listen, want) || !l.P2P.Private() {
		t.Errorf("listen %q, want %q", l.P2P.Listen, want)
	}
	l = load(t, LoadArgs{Flags: map[string]string{"p2p.listen": "127.0.0.1:1"}})
	if want := []string{"/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/udp/1/quic-v1"}; !slices.Equal(l.P2P.Listen, want) || l.P2P.Private() {
		t.Errorf("listen %q, want %q", l.P2P.Listen, want)
	}
}

func TestSharedKeyByValue(t *testing.T) {
	text := strings.Repeat("ab", 32)
	l := load(t, LoadArgs{Environ: []string{"p2p_shared_key=" + text}})
	if string(l.P2P.SharedKey) != text || !l.P2P.Private() {
		t.Errorf("key %q", string(l.P2P.SharedKey))
	}
	l = load(t, LoadArgs{Environ: []string{"p2p_shared_key=" + text}, Flags: map[string]string{"p2p.shared_key_file": "swarm.key"}})
	if l.P2P.SharedKey != "" || l.P2P.SharedKeyFile != "swarm.key" {
		t.Errorf("the flag does not win: %+v", l.P2P)
	}
	for key, value := range map[string]string{"p2p.shared_key": text, "p2p.shared_key_file": text} {
		_, err := loadIn(t, LoadArgs{Flags: map[string]string{key: value}})
		if err == nil || !strings.Contains(err.Error(), "secret_value") || strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", key, err)
		}
	}
	for _, bad := range []string{text[1:], text + "00", strings.Repeat("xy", 32)} {
		_, err := loadIn(t, LoadArgs{Environ: []string{"p2p_shared_key=" + bad}})
		if err == nil || !strings.HasPrefix(err.Error(), "env p2p_shared_key: p2p.shared_key: is no key of 64 hex digits") || strings.Contains(err.Error(), bad) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestSharedKeyAndWebSocket(t *testing.T) {
	for listen, fault := range map[string]bool{
		"/ip4/127.0.0.1/tcp/1,/ip4/127.0.0.1/tcp/1/ws":       true,
		"127.0.0.1,/ip4/127.0.0.1/tcp/9906/ws":               true,
		"127.0.0.1:9907,/ip4/127.0.0.1/tcp/9907/ws":          true,
		"127.0.0.1,/ip4/127.0.0.1/tcp/9907/ws":               false,
		"/ip4/127.0.0.1/tcp/9906,/ip4/127.0.0.1/tcp/9907/ws": false,
	} {
		_, err := loadIn(t, LoadArgs{Flags: map[string]string{"p2p.websocket": "true", "p2p.listen": listen, "p2p.shared_key_file": "swarm.key"}})
		if (err != nil) != fault || fault && !strings.Contains(err.Error(), "give /ws a port of its own") {
			t.Errorf("%s: %v", listen, err)
		}
	}
	l := load(t, LoadArgs{Flags: map[string]string{"p2p.websocket": "true", "p2p.shared_key_file": "swarm.key"}})
	if len(l.Warnings) != 1 || !strings.Contains(l.Warnings[0], "needs a port of its own") {
		t.Errorf("warnings %q", l.Warnings)
	}
}

func TestAllowPeers(t *testing.T) {
	l := load(t, LoadArgs{Environ: []string{"PARLEY_P2P__ALLOW_PEERS=" + id1 + ", " + id2 + " until 2026-12-24T18:00:00+01:00"}})
	if want := []string{id1, id2 + " until 2026-12-24T18:00:00+01:00"}; !slices.Equal(l.P2P.AllowPeers, want) {
		t.Errorf("%q, want %q", l.P2P.AllowPeers, want)
	}
	id, until, err := ParseAllowed(l.P2P.AllowPeers[1])
	if err != nil || id.String() != id2 || !until.Equal(time.Date(2026, 12, 24, 17, 0, 0, 0, time.UTC)) {
		t.Errorf("%s until %s, %v", id, until, err)
	}
	for item, want := range map[string]string{
		"nobody": "begins with no peer id", id1 + " until tomorrow": "ends in no time like", id1 + "," + id1 + " until 2026-12-24T18:00:00Z": "is there twice", id1 + " for ever": "begins with no peer id",
	} {
		if _, err := loadIn(t, LoadArgs{Flags: map[string]string{"p2p.allow_peers": item}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", item, err, want)
		}
	}
}

func TestChanged(t *testing.T) {
	a, b := Default(), Default()
	if got := Changed(a, b); len(got) != 0 {
		t.Errorf("changed: %q", got)
	}
	b.P2P.SharedKey, b.P2P.MaxPeers, b.P2P.AllowPeers = "x", 7, []string{id1}
	a.P2P.SharedKey = "y"
	if got, want := Changed(a, b), []string{"p2p.allow_peers", "p2p.max_peers", "p2p.shared_key"}; !slices.Equal(got, want) {
		t.Errorf("changed: %q, want %q", got, want)
	}
}
