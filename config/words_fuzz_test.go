package config

import "testing"

// FuzzWords: every word of a configuration is one thing or a fault.
func FuzzWords(f *testing.F) {
	for _, s := range []string{"/ip4/0.0.0.0/tcp/9906", ":9906", "192.0.2.1:1", "[2001:db8::1]:1", "1GiB", "512", "5/s", "10/m", "info,p2p.gossip=debug", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		_, _ = ParseListen(text)
		if size, err := ParseSize(text); err == nil && size < 0 {
			t.Errorf("size %d", size)
		}
		if _, err := ParseRate(text); err == nil && text == "" {
			t.Error("nothing is a rate")
		}
		_, _, _ = ParseLogLevel(text)
	})
}
